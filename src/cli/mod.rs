//! The command line: parses the arguments, resolves them against the configuration, and runs the command.

#![expect(
    clippy::disallowed_methods,
    reason = "a command line lives in real time, with one user before it"
)]

mod args;
mod bound_statements;
pub(crate) mod commands;
mod config;
mod connect;
mod local;
mod metrics;
mod remote;
mod runner;
mod scripts;
mod shell;
pub(crate) mod terminal;
pub mod visits;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::args::{Arguments, Command};
use crate::cli::config::Settings;
use crate::core::stack::{STACK, with_stack};
use crate::error::{Error, Result};
use crate::tables::kafka::wait_for_inserts;

/// Runs the program and gives its exit code: 0, 1 SQL or data error, 2 usage or connection,
/// 130 and 143 interrupted.
pub fn run<I, T>(arguments: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            let _ = writeln!(stderr, "error: {}", error.message());
            if let Some(help) = error.help() {
                let _ = writeln!(stderr, "  = help: {help}");
            }
            ExitCode::from(2)
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<u8> {
    if let Command::Completions { shell } = arguments.command {
        let mut command = Arguments::command();
        clap_complete::generate(shell, &mut command, "anabranch", &mut std::io::stdout());
        return Ok(0);
    }
    match arguments.command {
        Command::Password => return crate::cli::commands::serve::password(),
        Command::Token => return crate::cli::commands::serve::token(),
        _ => {}
    }
    let settings = Settings::resolve(&arguments.global)?;
    crate::cli::terminal::logging::start(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Planning and nested expressions recurse.
        .thread_stack_size(STACK)
        .build()
        .map_err(Error::from)?;
    let global = &arguments.global;
    let done = async {
        match arguments.command {
            Command::Run(run) => crate::cli::scripts::run_files(&settings, global, &run).await,
            Command::Sql(sql) => crate::cli::scripts::run_sql(&settings, global, &sql).await,
            Command::Serve(serve) => crate::cli::commands::serve::serve(&settings, &serve).await,
            Command::Check(check) => crate::cli::commands::check::run(&settings, &check).await,
            Command::Demo(demo) => crate::cli::commands::demo::run(&settings, &demo).await,
            Command::Completions { .. } | Command::Password | Command::Token => Ok(0),
        }
    };
    let code = with_stack(|| runtime.block_on(done));
    // An interrupted transaction is aborted; a broker that does not answer must not delay the exit for long.
    let patience = std::time::Duration::from_secs(3);
    runtime.shutdown_timeout(patience);
    wait_for_inserts(patience);
    code
}
