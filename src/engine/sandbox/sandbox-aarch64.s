# The program of a sandbox container, for 64-bit ARM Linux: see README.md beside this file.
#
# The whole file is an ELF executable: header, program headers, code. Nothing in it is relocated and nothing is
# writable but the stack, so `as` and `objcopy -O binary` make the same bytes everywhere.

    .set BASE, 0x400000

header:
    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0       // 64 bits, little endian, version 1
    .quad 0
    .short 2, 183                               // ET_EXEC, EM_AARCH64
    .long 1
    .quad BASE + (start - header)               // entry
    .quad segments - header
    .quad 0
    .long 0
    .short 64, 56, 2, 0, 0, 0                   // sizes and counts
segments:
    .long 1, 5                                  // PT_LOAD: read, execute
    .quad 0, BASE, BASE
    .quad end - header, end - header
    .quad 0x10000
    .long 0x6474e551, 6                         // PT_GNU_STACK: read, write
    .quad 0, 0, 0, 0, 0, 0x10

start:
    ldr x19, [sp]                               // argc
    ldr x20, [sp, 16]                           // argv[1]: who we are
    sub sp, sp, 128
    adr x9, leave                               // struct sigaction: end at once, for the first process of a container
    stp x9, xzr, [sp]                           //   ignores what it does not handle
    stp xzr, xzr, [sp, 16]
    mov x0, 15                                  // SIGTERM
    bl on_signal
    mov x0, 2                                   // SIGINT
    bl on_signal
    cmp x19, 2
    b.ge serve
rest:
    mov x0, 0
    mov x1, 0
    mov x2, 0
    mov x3, 0
    mov x8, 73                                  // ppoll of nothing, for ever
    svc 0
    b rest

on_signal:
    mov x1, sp
    mov x2, 0
    mov x3, 8
    mov x8, 134                                 // rt_sigaction
    svc 0
    ret

leave:
    mov x0, 0
exit:
    mov x8, 94                                  // exit_group
    svc 0

serve:                                          // a listener at 127.0.0.80:80
    mov x0, 2                                   // AF_INET
    mov x1, 1
    movk x1, 8, lsl 16                          // SOCK_STREAM | SOCK_CLOEXEC
    mov x2, 0
    mov x8, 198                                 // socket
    svc 0
    mov x21, x0
    mov x1, 1                                   // SOL_SOCKET
    mov x2, 2                                   // SO_REUSEADDR
    mov w9, 1
    str w9, [sp]
    mov x3, sp
    mov x4, 4
    mov x8, 208                                 // setsockopt
    svc 0
    mov x0, x21
    adr x1, inside
    mov x2, 16
    mov x8, 200                                 // bind
    svc 0
    mov x9, x0
    mov x0, 3
    tbnz x9, 63, exit
    mov x0, x21
    mov x1, 1024
    mov x8, 201                                 // listen
    svc 0
    mov x9, x0
    mov x0, 4
    tbnz x9, 63, exit
    mov x22, 0                                  // length of who we are
length:
    ldrb w9, [x20, x22]
    cbz w9, offer
    add x22, x22, 1
    b length

offer:                                          // hand the listener to the daemon
    mov x0, 1                                   // AF_UNIX
    mov x1, 1
    movk x1, 8, lsl 16
    mov x2, 0
    mov x8, 198                                 // socket
    svc 0
    mov x23, x0
    adr x1, gate
    mov x2, gate_end - gate
    mov x8, 203                                 // connect
    svc 0
    tbnz x0, 63, again
    stp xzr, xzr, [sp]                          // struct msghdr at 0, iovec at 64, cmsghdr at 80
    add x9, sp, 64
    mov x10, 1
    stp x9, x10, [sp, 16]
    add x9, sp, 80
    mov x10, 24
    stp x9, x10, [sp, 32]
    str xzr, [sp, 48]
    stp x20, x22, [sp, 64]
    mov x9, 20
    str x9, [sp, 80]
    mov w9, 1                                   // SOL_SOCKET, SCM_RIGHTS
    stp w9, w9, [sp, 88]
    str x21, [sp, 96]
    mov x0, x23
    mov x1, sp
    mov x2, 0x4000                              // MSG_NOSIGNAL
    mov x8, 211                                 // sendmsg
    svc 0
    tbnz x0, 63, again
    mov x0, x23                                 // it stays open for as long as the daemon serves
    mov x1, sp
    mov x2, 1
    mov x8, 63                                  // read
    svc 0
again:
    mov x0, x23
    mov x8, 57                                  // close
    svc 0
    mov x9, 0xf080                              // 50000000: a twentieth of a second
    movk x9, 0x2fa, lsl 16
    stp xzr, x9, [sp]
    mov x0, sp
    mov x1, 0
    mov x8, 101                                 // nanosleep
    svc 0
    b offer

inside:                                         // struct sockaddr_in
    .short 2
    .byte 0, 80
    .byte 127, 0, 0, 80
    .quad 0
gate:                                           // struct sockaddr_un
    .short 1
    .asciz "/run/kserve-local/gate"
gate_end:
    .balign 4
end:
