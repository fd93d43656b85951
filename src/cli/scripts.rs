//! Running scripts: files for `run`, arguments, files and standard input for `sql`.

use std::io::{IsTerminal, Read};

use crate::cli::args::{Global, RunArguments, SqlArguments};
use crate::cli::bound_statements::{parameters, read_scripts};
use crate::cli::config::Settings;
use crate::cli::connect::connect;
use crate::cli::local::LocalSession;
use crate::cli::metrics::MetricsServer;
use crate::cli::runner::{Runner, StatementTarget};
use crate::cli::shell;
use crate::error::{Error, Result};
use crate::planner::Script;
use crate::session::Session;

/// `anabranch run`.
pub(crate) async fn run_files(
    settings: &Settings,
    global: &Global,
    arguments: &RunArguments,
) -> Result<u8> {
    let scripts = read_scripts(&arguments.files)?;
    let mut parameters = parameters(&arguments.params);
    if let Some(client) = connect(settings, global, &arguments.server).await? {
        refuse_local_job_flags(arguments)?;
        let mut runner = Runner::new(StatementTarget::Remote(&client), settings);
        runner.refuse_unused = true;
        return Ok(runner.run_scripts(&scripts, &mut parameters).await);
    }
    // An address that cannot be bound is reported before anything runs.
    let served = MetricsServer::start_if_configured(arguments.metrics.as_ref(), settings).await?;
    let session = Session::try_new(&settings.session)?;
    let mut runner = Runner::new(
        StatementTarget::Local(Box::new(LocalSession::new(&session, settings))),
        settings,
    );
    runner.refuse_unused = true;
    let metrics = served.as_ref().map(|served| served.metrics().clone());
    match runner.run_scripts(&scripts, &mut parameters).await {
        0 => Ok(runner.run_jobs(arguments.until_caught_up, metrics).await),
        code => Ok(code),
    }
}

/// `anabranch sql`.
pub(crate) async fn run_sql(
    settings: &Settings,
    global: &Global,
    arguments: &SqlArguments,
) -> Result<u8> {
    let mut scripts = read_scripts(&arguments.files)?;
    for (index, command) in arguments.commands.iter().enumerate() {
        let name = if arguments.commands.len() == 1 {
            "<command>".to_owned()
        } else {
            format!("<command {}>", index + 1)
        };
        scripts.push(Script::new(name, command.clone()));
    }
    let prompt = arguments.interactive || (scripts.is_empty() && std::io::stdin().is_terminal());
    if scripts.is_empty() && !prompt {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Error::invalid(format!("standard input cannot be read: {error}")))?;
        scripts.push(Script::new("<stdin>", text));
    }
    let client = connect(settings, global, &arguments.server).await?;
    let session;
    let place = match &client {
        Some(client) => StatementTarget::Remote(client),
        None => {
            session = Session::try_new(&settings.session)?;
            StatementTarget::Local(Box::new(LocalSession::new(&session, settings)))
        }
    };
    let mut parameters = parameters(&arguments.params);
    let mut runner = Runner::new(place, settings);
    // At a prompt a parameter may be used later.
    runner.refuse_unused = !prompt;
    let code = runner.run_scripts(&scripts, &mut parameters).await;
    if code == 0 && prompt {
        return shell::run(runner, parameters).await;
    }
    Ok(code)
}

/// Refuses flags about jobs of this process when a server runs the statements.
fn refuse_local_job_flags(arguments: &RunArguments) -> Result<()> {
    let refused = |flag: &str, help: &str| {
        let why = format!("{flag} applies to jobs of this process, and the server runs these");
        Err(Error::invalid(why).with_help(help))
    };
    if arguments.until_caught_up {
        return refused(
            "--until-caught-up",
            "SELECT * FROM system.partitions shows their progress",
        );
    }
    if arguments.metrics.is_some() {
        return refused("--metrics", "give --metrics to `anabranch serve`");
    }
    Ok(())
}
