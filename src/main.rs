//! The `kserve-local` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    kserve_local::cli::main()
}
