//! Runs statements here or in a server, and prints their rows or messages.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};

use crate::cli::args::Format;
use crate::cli::bound_statements::{BoundStatement, prepare};
use crate::cli::config::Settings;
use crate::cli::local::{LocalSession, insert};
use crate::cli::remote::{self, AnswerKind, answer_kind};
use crate::cli::terminal::interrupt::Interrupt;
use crate::cli::terminal::messages::{eprint, report, warn};
use crate::cli::terminal::output::{ResultWriter, is_broken_pipe};
use crate::cli::terminal::progress::Progress;
use crate::client::{Client, StatementRows};
use crate::error::{Error, Result};
use crate::planner::{ChangeKind, Effect, Parameters, ParsedStatement, Script};
use crate::runtime::Metrics;
use crate::runtime::host::{Frontend, repeated, run};
use crate::session::StatementOutcome;

/// Where statements run.
pub(crate) enum StatementTarget<'a> {
    /// In this process.
    Local(Box<LocalSession<'a>>),
    /// In a server.
    Remote(&'a Client),
}

/// Runs scripts and prints their results.
pub(crate) struct Runner<'a> {
    pub(crate) place: StatementTarget<'a>,
    pub(crate) format: Format,
    /// Says how long each statement took.
    pub(crate) timing: bool,
    /// A parameter that no statement uses is an error.
    pub(crate) refuse_unused: bool,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(place: StatementTarget<'a>, settings: &Settings) -> Self {
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
            StatementTarget::Local(here) => here.run_jobs(until_caught_up, metrics).await,
            StatementTarget::Remote(_) => 0,
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
            // A reprocessing run here stops by itself: it ends its transaction first.
            let stops = self.stops_by_itself(&ready.parsed.effect);
            let done = tokio::select! {
                done = self.run_statement(ready) => done,
                code = interrupt.wait(), if !stops => return code,
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

    /// Whether a statement ends by itself when the user interrupts it.
    pub(crate) fn stops_by_itself(&self, effect: &Effect) -> bool {
        effect.runs() && matches!(self.place, StatementTarget::Local(_))
    }

    /// Runs one statement and prints its rows or its message.
    pub(crate) async fn run_statement(&self, ready: BoundStatement) -> Result<()> {
        let here = match &self.place {
            StatementTarget::Local(here) => here,
            StatementTarget::Remote(client) => return self.run_remotely(client, ready).await,
        };
        let done = self.run_locally(here, ready.parsed).await;
        warn(here.session().take_warnings());
        done
    }

    async fn run_locally(&self, here: &LocalSession<'_>, parsed: ParsedStatement) -> Result<()> {
        let terminal = Terminal {
            runner: self,
            here,
            start: Instant::now(),
        };
        run(&terminal, parsed)?.await
    }

    async fn run_once_locally(
        &self,
        here: &LocalSession<'_>,
        parsed: ParsedStatement,
        start: Instant,
    ) -> Result<()> {
        let places = parsed.places.clone();
        let effect = parsed.effect.clone();
        match here.execute(parsed).await? {
            StatementOutcome::Done(message) => self.say(&message, start),
            StatementOutcome::Insert(execution) => {
                let rows = insert(execution)
                    .await
                    .map_err(|error| places.locate(error))?;
                let verb = effect.change().unwrap_or(ChangeKind::Insert).verb();
                self.say(&format!("{verb} {rows}"), start)
            }
            StatementOutcome::Rows(execution) => {
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

    async fn run_remotely(&self, client: &Client, ready: BoundStatement) -> Result<()> {
        let start = Instant::now();
        let received = Arc::new(AtomicU64::new(0));
        let progress = match ready.parsed.effect.endless {
            true => Progress::none(),
            false => Progress::receiving(&received),
        };
        let answer = client.run(&ready.bound).await?;
        let warnings = answer.warnings.clone();
        warn(warnings.take());
        let done = self.print_remote(&ready.parsed.effect, answer, progress, &received, start);
        let done = done.await;
        warn(warnings.take());
        done
    }

    async fn print_remote(
        &self,
        effect: &Effect,
        answer: StatementRows,
        progress: Progress,
        received: &AtomicU64,
        start: Instant,
    ) -> Result<()> {
        match answer_kind(effect, &answer.schema) {
            AnswerKind::Word => {
                let said = remote::texts(answer, "status").await?;
                drop(progress);
                said.iter().try_for_each(|word| self.say(word, start))
            }
            AnswerKind::Count(change) => {
                let rows = remote::count(answer).await?;
                drop(progress);
                self.say(&format!("{} {rows}", change.verb()), start)
            }
            AnswerKind::Rows => {
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

/// The user at the terminal, who may run every statement.
struct Terminal<'t> {
    runner: &'t Runner<'t>,
    here: &'t LocalSession<'t>,
    start: Instant,
}

impl Terminal<'_> {
    async fn once(&self, parsed: ParsedStatement) -> Result<()> {
        let Self {
            runner,
            here,
            start,
        } = self;
        runner.run_once_locally(here, parsed, *start).await
    }
}

impl Frontend for Terminal<'_> {
    type Done = ();
    type Run<'r>
        = LocalBoxFuture<'r, Result<()>>
    where
        Self: 'r;

    fn check(&self, _: &ParsedStatement) -> Result<()> {
        Ok(())
    }

    fn rows(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        repeated(parsed, |parsed| self.once(parsed)).boxed_local()
    }

    /// Its rows are printed as they come, until the user interrupts it.
    fn endless(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        self.once(parsed).boxed_local()
    }

    fn definition(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        self.once(parsed).boxed_local()
    }

    fn setting(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        self.once(parsed).boxed_local()
    }

    fn cancel(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        self.once(parsed).boxed_local()
    }
}
