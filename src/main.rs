//! The `anabranch` program.

use std::process::ExitCode;

use anabranch::core::heap::Counted;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: Counted<MiMalloc> = Counted::new(MiMalloc);

fn main() -> ExitCode {
    anabranch::cli::run(std::env::args_os())
}
