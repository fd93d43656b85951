//! The `anabranch` program.

use std::process::ExitCode;

use anabranch::core::heap::CountingAllocator;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: CountingAllocator<MiMalloc> = CountingAllocator::new(MiMalloc);

fn main() -> ExitCode {
    anabranch::cli::run(std::env::args_os())
}
