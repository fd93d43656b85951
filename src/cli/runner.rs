//! Running scripts: files for `run`, arguments, files and standard input for `sql`.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::StreamExt;

use crate::cli::args::{Format, RunArguments, SqlArguments};
use crate::cli::config::Settings;
use crate::cli::metrics::MetricsServer;
use crate::cli::output::{ResultWriter, is_broken_pipe};
use crate::cli::progress::{JobProgress, Progress};
use crate::cli::shell;
use crate::error::{Error, ErrorKind, Result};
use crate::planner::{Parameters, ParsedStatement, Script, Statement, parse_statement};
use crate::runtime::{JobStatuses, Jobs, Metrics, RunOptions, Stop};
use crate::session::{Execution, Outcome, Session};
use crate::state::{DataDir, JobStore};

/// `anabranch run`.
pub(crate) async fn run_files(settings: &Settings, arguments: &RunArguments) -> Result<u8> {
    let scripts = read_scripts(&arguments.files)?;
    // An address that cannot be had is told before anything runs.
    let served = MetricsServer::asked_for(arguments.metrics.as_ref(), settings).await?;
    let session = Session::try_new(&settings.session)?;
    let mut parameters = parameters(&arguments.params);
    let mut runner = Runner::new(&session, settings);
    runner.refuse_unused = true;
    let metrics = served.as_ref().map(|served| served.metrics().clone());
    match runner.run_scripts(&scripts, &mut parameters).await {
        0 => Ok(runner.run_jobs(arguments.until_caught_up, metrics).await),
        code => Ok(code),
    }
}

/// `anabranch sql`.
pub(crate) async fn run_sql(settings: &Settings, arguments: &SqlArguments) -> Result<u8> {
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
    let session = Session::try_new(&settings.session)?;
    let mut parameters = parameters(&arguments.params);
    let mut runner = Runner::new(&session, settings);
    // At a prompt a parameter may be used later.
    runner.refuse_unused = !prompt;
    let code = runner.run_scripts(&scripts, &mut parameters).await;
    if code == 0 && prompt {
        return shell::run(settings, &session, parameters).await;
    }
    Ok(code)
}

pub(crate) fn read_scripts(files: &[PathBuf]) -> Result<Vec<Script>> {
    files.iter().map(|file| read_script(file)).collect()
}

fn read_script(file: &Path) -> Result<Script> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file)
        .map_err(|error| Error::invalid(format!("{name} cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        Error::invalid(format!(
            "{name} is not UTF-8 at byte {}",
            error.utf8_error().valid_up_to()
        ))
    })?;
    Ok(Script::new(name, text))
}

pub(crate) fn parameters(given: &[(String, String)]) -> Parameters {
    let mut parameters = Parameters::default();
    for (name, value) in given {
        parameters.set(name, value);
    }
    parameters
}

/// Runs scripts in a session and prints what they give.
pub(crate) struct Runner<'a> {
    pub(crate) session: &'a Session,
    pub(crate) format: Format,
    /// Says how long each statement took.
    pub(crate) timing: bool,
    /// A parameter that no statement uses is an error.
    pub(crate) refuse_unused: bool,
    data_dir: &'a str,
    /// Jobs may deliver at least once.
    pub(crate) allows_repeats: bool,
    /// Opened by the first statement about jobs: others need no folder.
    jobs: OnceLock<Jobs>,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(session: &'a Session, settings: &'a Settings) -> Self {
        Self {
            session,
            format: settings.format,
            timing: false,
            refuse_unused: false,
            data_dir: &settings.data_dir,
            allows_repeats: false,
            jobs: OnceLock::new(),
        }
    }

    pub(crate) fn with_format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    fn jobs(&self) -> Result<&Jobs> {
        if self.jobs.get().is_none() {
            let store = JobStore::new(DataDir::open(self.data_dir)?);
            let jobs = Jobs::new(store);
            let _ = self.jobs.set(match self.allows_repeats {
                true => jobs.allowing_repeats(),
                false => jobs,
            });
        }
        self.jobs
            .get()
            .ok_or_else(|| Error::internal("the jobs were not opened"))
    }

    /// Runs the jobs that the scripts have made until they are interrupted, or have caught up; gives the exit code.
    pub(crate) async fn run_jobs(&self, until_caught_up: bool, metrics: Option<Metrics>) -> u8 {
        let Some(jobs) = self.jobs.get() else {
            return 0;
        };
        if !jobs.has_ready().await {
            return 0;
        }
        let options = RunOptions {
            until_caught_up,
            stop: Stop::default(),
            statuses: JobStatuses::default(),
            metrics,
        };
        let shown = JobProgress::watch(&options.statuses);
        let interrupt = Interrupt::new();
        let runs = jobs.run(&options);
        tokio::pin!(runs);
        let (mut code, ended) = tokio::select! {
            ended = &mut runs => (0, ended),
            code = interrupt.wait() => {
                // The batches in hand are taken back; the jobs go on from there next time.
                options.stop.stop();
                (code, runs.await)
            }
        };
        drop(shown);
        for (name, outcome) in ended {
            match outcome {
                Ok(report) => {
                    let unit = if report.batches == 1 {
                        "batch"
                    } else {
                        "batches"
                    };
                    eprint(&format!(
                        "job {name}: {} {unit}, {} records read, {} rows written\n",
                        report.batches, report.rows_in, report.rows_out
                    ));
                }
                Err(error) => {
                    eprint(&format!("error: job {name}: {}\n", error.message()));
                    if let Some(help) = error.help() {
                        eprint(&format!("  = help: {help}\n"));
                    }
                    code = error.kind().exit_code();
                }
            }
        }
        code
    }

    /// Runs all scripts up to the first error, which is printed; gives the exit code.
    pub(crate) async fn run_scripts(&self, scripts: &[Script], parameters: &mut Parameters) -> u8 {
        let interrupt = Interrupt::new();
        // All is parsed and bound before anything runs: a typo at the end changes nothing.
        let mut statements = Vec::new();
        for script in scripts {
            match prepare(script, parameters) {
                Ok(found) => statements.extend(found.into_iter().map(|parsed| (script, parsed))),
                Err(error) => return report(&error, script),
            }
        }
        if self.refuse_unused
            && let Some(name) = parameters.unused().first()
        {
            let error = Error::invalid(format!(
                "parameter {name} is given and no statement uses ${name}"
            ));
            eprint(&format!("error: {}\n", error.message()));
            return 2;
        }
        for (script, parsed) in statements {
            let done = tokio::select! {
                done = self.run_statement(parsed) => done,
                code = interrupt.wait() => return code,
            };
            if let Err(error) = done {
                if is_broken_pipe(&error) {
                    return 0;
                }
                return report(&error, script);
            }
        }
        0
    }

    /// Runs one statement and prints its rows or what it did.
    pub(crate) async fn run_statement(&self, parsed: ParsedStatement) -> Result<()> {
        let done = self.run_and_print(parsed).await;
        for warning in self.session.take_warnings() {
            eprint(&format!("warning: {warning}\n"));
        }
        done
    }

    async fn run_and_print(&self, parsed: ParsedStatement) -> Result<()> {
        let start = Instant::now();
        let places = parsed.places.clone();
        let outcome = match parsed.statement {
            Statement::Job(job) => self
                .jobs()?
                .execute(self.session, *job, &parsed.text)
                .await
                .map_err(|error| places.locate(error))?,
            _ => self.session.execute(parsed).await?,
        };
        match outcome {
            Outcome::Done(message) => self.say(&message, start.elapsed()),
            Outcome::Insert(execution) => {
                let rows = insert(execution)
                    .await
                    .map_err(|error| places.locate(error))?;
                self.say(&format!("INSERT {rows}"), start.elapsed())
            }
            Outcome::Rows(execution) => {
                let rows = self
                    .print(execution)
                    .await
                    .map_err(|error| places.locate(error))?;
                if self.format == Format::Table {
                    let unit = if rows == 1 { "row" } else { "rows" };
                    self.say(&format!("({rows} {unit})"), start.elapsed())?;
                }
                Ok(())
            }
        }
    }

    async fn print(&self, mut execution: Execution) -> Result<usize> {
        let out = std::io::BufWriter::new(std::io::stdout());
        let mut writer = ResultWriter::new(self.format, execution.schema(), out);
        // Rows that scroll by on the terminal are progress enough.
        let quiet = std::io::stdout().is_terminal();
        let mut progress = Some(Progress::watch(&execution.plan));
        while let Some(batch) = execution.stream.next().await {
            if quiet {
                progress = None;
            }
            writer.write(&batch?)?;
        }
        drop(progress);
        writer.finish()
    }

    /// Statements without rows report on standard error, so that pipes carry rows only.
    fn say(&self, message: &str, took: Duration) -> Result<()> {
        let timing = if self.timing {
            format!(" in {:.3} s", took.as_secs_f64())
        } else {
            String::new()
        };
        eprint(&format!("{message}{timing}\n"));
        Ok(())
    }
}

/// Runs an INSERT to its end; gives the number of rows written.
pub(crate) async fn insert(execution: Execution) -> Result<u64> {
    let _progress = Progress::watch(&execution.plan);
    execution.written().await
}

/// Parses and binds a script.
pub(crate) fn prepare(
    script: &Script,
    parameters: &mut Parameters,
) -> Result<Vec<ParsedStatement>> {
    let mut statements = Vec::new();
    for raw in script.split()? {
        let mut parsed = parse_statement(&raw)?;
        parameters.bind(&mut parsed)?;
        statements.push(parsed);
    }
    Ok(statements)
}

/// Prints an error with its place; gives its exit code.
pub(crate) fn report(error: &Error, script: &Script) -> u8 {
    eprint(&error.render(&script.name, &script.text));
    error.kind().exit_code()
}

pub(crate) fn eprint(text: &str) {
    // Nobody is left to be told when standard error is closed.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Ctrl-C and SIGTERM.
pub(crate) struct Interrupt;

impl Interrupt {
    pub(crate) fn new() -> Self {
        Self
    }

    /// Waits for a signal; gives the exit code for it.
    pub(crate) async fn wait(&self) -> u8 {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => ErrorKind::Cancelled.exit_code(),
            _ = terminate.recv() => 143,
        }
    }
}
