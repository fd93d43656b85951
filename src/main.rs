//! The `anabranch` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    anabranch::cli::run(std::env::args_os())
}
