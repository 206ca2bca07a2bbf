# Makes sure the build tools are there. Source this file after docker.sh, whose apt_install it uses.
# shellcheck shell=bash

# Returns 0 when Rust and a C compiler are there; otherwise says what to install and returns 1.
ensure_toolchain() {
    if ! command -v cargo >/dev/null 2>&1 && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    if ! command -v cargo >/dev/null 2>&1; then
        echo "cargo is not on this machine; install Rust with rustup (https://rustup.rs) and run this again" >&2
        return 1
    fi
    if ! command -v cc >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ]; then
        # The TLS library is C.
        apt_install build-essential >&2 || true
    fi
    if ! command -v cc >/dev/null 2>&1; then
        echo "there is no C compiler (cc) on this machine; install one (Debian: build-essential) and run this again" >&2
        return 1
    fi
}
