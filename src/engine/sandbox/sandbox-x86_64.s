# The program of a sandbox container, for x86-64 Linux: see README.md beside this file.
#
# The whole file is an ELF executable: header, program headers, code. Nothing in it is relocated and nothing is
# writable but the stack, so `as` and `objcopy -O binary` make the same bytes everywhere.

    .intel_syntax noprefix
    .set BASE, 0x400000

header:
    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0       # 64 bits, little endian, version 1
    .quad 0
    .short 2, 62                                # ET_EXEC, EM_X86_64
    .long 1
    .quad BASE + (start - header)               # entry
    .quad segments - header
    .quad 0
    .long 0
    .short 64, 56, 2, 0, 0, 0                   # sizes and counts
segments:
    .long 1, 5                                  # PT_LOAD: read, execute
    .quad 0, BASE, BASE
    .quad end - header, end - header
    .quad 0x1000
    .long 0x6474e551, 6                         # PT_GNU_STACK: read, write
    .quad 0, 0, 0, 0, 0, 0x10

start:
    mov r12, [rsp]                              # argc
    mov r13, [rsp + 16]                         # argv[1]: who we are
    sub rsp, 128
    lea rax, [rip + leave]                      # struct sigaction: end at once, for the first process of a container
    mov [rsp], rax                              #   ignores what it does not handle
    mov qword ptr [rsp + 8], 0x04000000         # SA_RESTORER, which this system insists on
    mov [rsp + 16], rax
    mov qword ptr [rsp + 24], 0
    mov edi, 15                                 # SIGTERM
    call on_signal
    mov edi, 2                                  # SIGINT
    call on_signal
    cmp r12, 2
    jge serve
rest:
    mov eax, 34                                 # pause
    syscall
    jmp rest

on_signal:
    lea rsi, [rsp + 8]                          # below the return address
    xor edx, edx
    mov r10d, 8
    mov eax, 13                                 # rt_sigaction
    syscall
    ret

leave:
    xor edi, edi
exit:
    mov eax, 231                                # exit_group
    syscall

serve:                                          # a listener at 127.0.0.80:80
    mov edi, 2                                  # AF_INET
    mov esi, 0x80001                            # SOCK_STREAM | SOCK_CLOEXEC
    xor edx, edx
    mov eax, 41                                 # socket
    syscall
    mov r14d, eax
    mov edi, r14d
    mov esi, 1                                  # SOL_SOCKET
    mov edx, 2                                  # SO_REUSEADDR
    mov dword ptr [rsp], 1
    mov r10, rsp
    mov r8d, 4
    mov eax, 54                                 # setsockopt
    syscall
    mov edi, r14d
    lea rsi, [rip + inside]
    mov edx, 16
    mov eax, 49                                 # bind
    syscall
    mov edi, 3
    test eax, eax
    js exit
    mov edi, r14d
    mov esi, 1024
    mov eax, 50                                 # listen
    syscall
    mov edi, 4
    test eax, eax
    js exit
    xor r15d, r15d                              # length of who we are
length:
    cmp byte ptr [r13 + r15], 0
    je offer
    inc r15
    jmp length

offer:                                          # hand the listener to the daemon
    mov edi, 1                                  # AF_UNIX
    mov esi, 0x80001
    xor edx, edx
    mov eax, 41                                 # socket
    syscall
    mov ebx, eax
    mov edi, ebx
    lea rsi, [rip + gate]
    mov edx, offset gate_end - gate
    mov eax, 42                                 # connect
    syscall
    test eax, eax
    js again
    xor eax, eax                                # struct msghdr at 0, iovec at 64, cmsghdr at 80
    mov [rsp], rax
    mov [rsp + 8], rax
    lea rcx, [rsp + 64]
    mov [rsp + 16], rcx
    mov qword ptr [rsp + 24], 1
    lea rcx, [rsp + 80]
    mov [rsp + 32], rcx
    mov qword ptr [rsp + 40], 24
    mov [rsp + 48], rax
    mov [rsp + 64], r13
    mov [rsp + 72], r15
    mov qword ptr [rsp + 80], 20
    mov dword ptr [rsp + 88], 1                 # SOL_SOCKET
    mov dword ptr [rsp + 92], 1                 # SCM_RIGHTS
    mov [rsp + 96], r14
    mov edi, ebx
    mov rsi, rsp
    mov edx, 0x4000                             # MSG_NOSIGNAL
    mov eax, 46                                 # sendmsg
    syscall
    test eax, eax
    js again
    mov edi, ebx                                # it stays open for as long as the daemon serves
    mov rsi, rsp
    mov edx, 1
    xor eax, eax                                # read
    syscall
again:
    mov edi, ebx
    mov eax, 3                                  # close
    syscall
    mov qword ptr [rsp], 0
    mov qword ptr [rsp + 8], 50000000           # a twentieth of a second
    mov rdi, rsp
    xor esi, esi
    mov eax, 35                                 # nanosleep
    syscall
    jmp offer

inside:                                         # struct sockaddr_in
    .short 2
    .byte 0, 80
    .byte 127, 0, 0, 80
    .quad 0
gate:                                           # struct sockaddr_un
    .short 1
    .asciz "/run/kserve-local/gate"
gate_end:
end:
