//! Running scripts: files for `run`, arguments, files and standard input for `sql`.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio_util::task::AbortOnDropHandle;

use crate::cli::args::{Format, Global, RunArguments, SqlArguments};
use crate::cli::config::Settings;
use crate::cli::connect::connect;
use crate::cli::local::{Here, insert};
use crate::cli::metrics::MetricsServer;
use crate::cli::remote;
use crate::cli::remote::{Tells, tells};
use crate::cli::shell;
use crate::cli::terminal::output::{ResultWriter, is_broken_pipe};
use crate::cli::terminal::progress::Progress;
use crate::client::{Answer, Client};
use crate::error::{Error, ErrorKind, Result};
use crate::planner::{
    BoundText, Change, Effect, Parameters, ParsedStatement, Script, parse_statement,
};
use crate::runtime::Metrics;
use crate::session::{ATTEMPTS, Outcome, Session};

/// `anabranch run`.
pub(crate) async fn run_files(
    settings: &Settings,
    global: &Global,
    arguments: &RunArguments,
) -> Result<u8> {
    let scripts = read_scripts(&arguments.files)?;
    let mut parameters = parameters(&arguments.params);
    if let Some(client) = connect(settings, global, &arguments.server).await? {
        refuse_jobs_here(arguments)?;
        let mut runner = Runner::new(Place::There(&client), settings);
        runner.refuse_unused = true;
        return Ok(runner.run_scripts(&scripts, &mut parameters).await);
    }
    // An address that cannot be bound is reported before anything runs.
    let served = MetricsServer::asked_for(arguments.metrics.as_ref(), settings).await?;
    let session = Session::try_new(&settings.session)?;
    let mut runner = Runner::new(
        Place::Here(Box::new(Here::new(&session, settings))),
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
        Some(client) => Place::There(client),
        None => {
            session = Session::try_new(&settings.session)?;
            Place::Here(Box::new(Here::new(&session, settings)))
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
fn refuse_jobs_here(arguments: &RunArguments) -> Result<()> {
    let refused = |flag: &str, help: &str| {
        let why = format!("{flag} is about jobs that run here, and the server runs them");
        Err(Error::invalid(why).with_help(help))
    };
    if arguments.until_caught_up {
        return refused(
            "--until-caught-up",
            "SELECT * FROM system.partitions tells how far they are",
        );
    }
    if arguments.metrics.is_some() {
        return refused("--metrics", "give --metrics to `anabranch serve`");
    }
    Ok(())
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

/// Where statements run.
pub(crate) enum Place<'a> {
    /// In this process.
    Here(Box<Here<'a>>),
    /// In a server.
    There(&'a Client),
}

/// Runs scripts and prints their results.
pub(crate) struct Runner<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) format: Format,
    /// Says how long each statement took.
    pub(crate) timing: bool,
    /// A parameter that no statement uses is an error.
    pub(crate) refuse_unused: bool,
}

/// A statement that may run.
pub(crate) struct Ready {
    pub(crate) parsed: ParsedStatement,
    /// The text that is sent to a server.
    pub(crate) bound: BoundText,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(place: Place<'a>, settings: &Settings) -> Self {
        Self {
            place,
            format: settings.format,
            timing: false,
            refuse_unused: false,
        }
    }

    pub(crate) fn with_format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Runs the jobs that the scripts have made here; a server runs its own. Gives the exit code.
    pub(crate) async fn run_jobs(&self, until_caught_up: bool, metrics: Option<Metrics>) -> u8 {
        match &self.place {
            Place::Here(here) => here.run_jobs(until_caught_up, metrics).await,
            Place::There(_) => 0,
        }
    }

    /// Runs all scripts up to the first error, which is printed; gives the exit code.
    pub(crate) async fn run_scripts(&self, scripts: &[Script], parameters: &mut Parameters) -> u8 {
        let interrupt = Interrupt::new();
        let _insists = Interrupt::insists();
        // All is parsed and bound before anything runs: a typo at the end changes nothing.
        let mut statements = Vec::new();
        for script in scripts {
            match prepare(script, parameters) {
                Ok(found) => statements.extend(found.into_iter().map(|ready| (script, ready))),
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
        for (script, ready) in statements {
            let done = tokio::select! {
                done = self.run_statement(ready) => done,
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

    /// Runs one statement and prints its rows or its message.
    pub(crate) async fn run_statement(&self, ready: Ready) -> Result<()> {
        let here = match &self.place {
            Place::Here(here) => here,
            Place::There(client) => return self.run_there(client, ready).await,
        };
        let done = self.run_here(here, ready.parsed).await;
        warn(here.session().take_warnings());
        done
    }

    /// Runs a statement, and again over the newest rows as long as it changes rows that another writer has changed meanwhile.
    async fn run_here(&self, here: &Here<'_>, parsed: ParsedStatement) -> Result<()> {
        let start = Instant::now();
        if parsed.effect.changes_rows() {
            for _ in 1..ATTEMPTS {
                match self.run_once_here(here, parsed.clone(), start).await {
                    Err(error) if error.is_conflict() => {}
                    done => return done,
                }
            }
        }
        self.run_once_here(here, parsed, start).await
    }

    async fn run_once_here(
        &self,
        here: &Here<'_>,
        parsed: ParsedStatement,
        start: Instant,
    ) -> Result<()> {
        let places = parsed.places.clone();
        let effect = parsed.effect.clone();
        match here.execute(parsed).await? {
            Outcome::Done(message) => self.say(&message, start),
            Outcome::Insert(execution) => {
                let rows = insert(execution)
                    .await
                    .map_err(|error| places.locate(error))?;
                let verb = effect.change().unwrap_or(Change::Insert).verb();
                self.say(&format!("{verb} {rows}"), start)
            }
            Outcome::Rows(execution) => {
                warn(here.session().take_warnings());
                let progress = match effect.endless {
                    true => Progress::none(),
                    false => Progress::watch(&execution.plan),
                };
                let schema = execution.schema();
                let rows = execution.stream.map_err(Error::from);
                let printed = self.print(schema, rows, progress, start, effect.endless);
                let printed = printed.await;
                printed.map_err(|error| places.locate(error))
            }
        }
    }

    async fn run_there(&self, client: &Client, ready: Ready) -> Result<()> {
        let start = Instant::now();
        let received = Arc::new(AtomicU64::new(0));
        let progress = match ready.parsed.effect.endless {
            true => Progress::none(),
            false => Progress::receiving(&received),
        };
        let answer = client.run(&ready.bound).await?;
        let warnings = answer.warnings.clone();
        warn(warnings.take());
        let done = self.print_there(&ready.parsed.effect, answer, progress, &received, start);
        let done = done.await;
        warn(warnings.take());
        done
    }

    async fn print_there(
        &self,
        effect: &Effect,
        answer: Answer,
        progress: Progress,
        received: &AtomicU64,
        start: Instant,
    ) -> Result<()> {
        match tells(effect, &answer.schema) {
            Tells::Word => {
                let said = remote::texts(answer, "status").await?;
                drop(progress);
                said.iter().try_for_each(|word| self.say(word, start))
            }
            Tells::Count(change) => {
                let rows = remote::count(answer).await?;
                drop(progress);
                self.say(&format!("{} {rows}", change.verb()), start)
            }
            Tells::Rows => {
                let rows = answer.rows.inspect_ok(|batch| {
                    received.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                });
                self.print(answer.schema, rows, progress, start, effect.endless)
                    .await
            }
        }
    }

    async fn print(
        &self,
        schema: SchemaRef,
        mut rows: impl Stream<Item = Result<RecordBatch>> + Unpin,
        progress: Progress,
        start: Instant,
        is_endless: bool,
    ) -> Result<()> {
        let out = std::io::BufWriter::new(std::io::stdout());
        let mut writer = ResultWriter::new(self.format, schema, out);
        // Rows that scroll by on the terminal are progress enough.
        let quiet = std::io::stdout().is_terminal();
        let mut progress = Some(progress);
        while let Some(batch) = rows.next().await {
            if quiet {
                progress = None;
            }
            writer.write(&batch?)?;
            if is_endless {
                writer.flush()?;
            }
        }
        drop(progress);
        let rows = writer.finish()?;
        if self.format == Format::Table {
            let unit = if rows == 1 { "row" } else { "rows" };
            self.say(&format!("({rows} {unit})"), start)?;
        }
        Ok(())
    }

    /// Statements without rows report on standard error, so that pipes carry rows only.
    fn say(&self, message: &str, start: Instant) -> Result<()> {
        let timing = if self.timing {
            format!(" in {:.3} s", start.elapsed().as_secs_f64())
        } else {
            String::new()
        };
        eprint(&format!("{message}{timing}\n"));
        Ok(())
    }
}

/// Parses and binds a script.
pub(crate) fn prepare(script: &Script, parameters: &mut Parameters) -> Result<Vec<Ready>> {
    let mut statements = Vec::new();
    for raw in script.split()? {
        let mut parsed = parse_statement(&raw)?;
        let bound = parameters.bind_text(&raw, &mut parsed)?;
        statements.push(Ready { parsed, bound });
    }
    Ok(statements)
}

/// Prints an error with its place; gives its exit code.
pub(crate) fn report(error: &Error, script: &Script) -> u8 {
    eprint(&error.render(&script.name, &script.text));
    error.kind().exit_code()
}

fn warn(warnings: Vec<String>) {
    for warning in warnings {
        eprint(&format!("warning: {warning}\n"));
    }
}

pub(crate) fn eprint(text: &str) {
    // An error is ignored: when standard error is closed, a message about it has no reader.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The longest wait for a statement to end after a signal.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ctrl-C and SIGTERM.
pub(crate) struct Interrupt;

impl Interrupt {
    pub(crate) fn new() -> Self {
        Self
    }

    /// Waits for a signal until this is dropped. If the process has not ended some seconds after the signal, this ends
    /// it: a thread that plans a statement does not check for signals.
    fn insists() -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(Self::end_later()))
    }

    async fn end_later() {
        let code = Self::new().wait().await;
        tokio::time::sleep(PATIENCE).await;
        std::process::exit(code.into())
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
