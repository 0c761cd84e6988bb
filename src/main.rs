//! The entry: the allocator, the command line, the exit code.

use std::process::ExitCode;

// Claims allocate little, but what they do is freed on other threads, which mimalloc takes without a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(forebay::cli::main())
}
