//! The `kserve-local` binary: everything is in the library.

// Many small things of the same few sizes are made and dropped for every request, and what idle connections give back must
// go back to the system; see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    kserve_local::cli::main()
}
