//! Statements that the page runs: the only file here that knows the engine.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::planner::{Parameters, ParsedStatement, StatementClass};
use crate::runtime::JobStatus;
use crate::server::auth::access::Caller;
use crate::server::console::rows::{ResultLimits, ResultTable, RowLines, TableBuilder};
use crate::server::engine::{CompletedStatement, Engine, RequestContext};
use crate::server::parse::{one_statement, parse};
use crate::server::queries::prepared::PreparedStatement;
use crate::server::queries::statement::ClientStatement;

/// The result of a statement.
#[derive(Debug, Serialize)]
pub(super) struct StatementResult {
    #[serde(flatten)]
    table: ResultTable,
    /// Rows written, for a statement that writes rows.
    rows_written: Option<i64>,
    /// Whether tables, views or jobs may be others now.
    has_changed: bool,
    /// Warnings besides the rows.
    warnings: Vec<String>,
}

/// The answer to a statement.
pub(super) enum StatementAnswer {
    /// All of it, or its beginning.
    Whole(StatementResult),
    /// Lines with its rows, as they come until the statement is stopped.
    Live(BoxStream<'static, Result<Bytes>>),
}

/// How many of a statement's rows the page takes, and in which way.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowDelivery {
    pub(super) limits: ResultLimits,
    /// Rows without an end are taken as they come.
    pub(super) is_live: bool,
}

/// Runs statements, and stops those that are no longer wanted.
pub(super) struct ConsoleStatements {
    engine: Arc<Engine>,
    /// Statements that can be stopped, by the name that their sender has given.
    running: Mutex<HashMap<String, Arc<ClientStatement>>>,
}

impl ConsoleStatements {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            running: Mutex::default(),
        }
    }

    /// Runs a statement that the user has typed. Until it ends it can be stopped by its name. A definition cannot be
    /// stopped: it runs to its end, also when the browser has gone.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(super) async fn run(
        self: &Arc<Self>,
        caller: &Caller,
        name: String,
        text: &str,
        delivery: RowDelivery,
    ) -> Result<StatementAnswer> {
        let limits = delivery.limits;
        self.engine.work.check_length(text)?;
        let typed = text.to_owned();
        let prepare = move || PreparedStatement::try_new(one_statement(&typed)?);
        let prepared = self.engine.work.read(text.len(), prepare).await?;
        let parsed = prepared.statements()?.next().transpose()?;
        let parsed = parsed.ok_or_else(|| Error::internal("a statement without parameters"))?;
        if parsed.effect.endless && !delivery.is_live {
            let error =
                Error::unsupported("the console shows complete results, and this one is endless");
            return Err(parsed
                .places
                .locate(error.with_help("anabranch sql --url shows its rows as they come")));
        }
        let asked = self.engine.asked(caller.clone());
        let statement = self.engine.statement(&asked, &parsed);
        let entry = self.enter(name, &statement)?;
        if parsed.effect.endless {
            let engine = Arc::clone(&self.engine);
            let lines = live(engine, statement, asked, parsed, limits).await?;
            // It can be stopped as long as its rows are read.
            let lines = lines.inspect(move |_| {
                let _ = &entry;
            });
            return Ok(StatementAnswer::Live(lines.boxed()));
        }
        let done = match parsed.effect.class {
            StatementClass::Query => {
                let (engine, of) = (Arc::clone(&self.engine), Arc::clone(&statement));
                let queried = query(engine, of, asked, parsed, limits);
                self.engine.work.run(&statement, queried).await?
            }
            other => {
                let done = Box::pin(self.engine.complete_as(&statement, &asked, parsed)).await?;
                answer(&done, other == StatementClass::Definition, limits)?
            }
        };
        drop(entry);
        Ok(StatementAnswer::Whole(done))
    }

    /// Stops a statement of the caller; whether there was one that can be stopped.
    pub(super) fn stop(&self, caller: &Caller, name: &str) -> bool {
        let statement = self.running().get(name).cloned();
        let own = statement.filter(|statement| statement.user == caller.name);
        own.inspect(|statement| statement.cancel(&caller.name))
            .is_some()
    }

    /// Runs a query of the page's own, with values for its `$name`, which are text.
    ///
    /// # Errors
    ///
    /// The statement's.
    pub(super) async fn ask(
        &self,
        caller: &Caller,
        sql: &str,
        values: &[(&str, &str)],
        limits: ResultLimits,
    ) -> Result<ResultTable> {
        let asked = self.engine.asked(caller.clone());
        let parsed = own(sql, values)?;
        let statement = self.engine.statement(&asked, &parsed);
        let (engine, of) = (Arc::clone(&self.engine), Arc::clone(&statement));
        let queried = query(engine, of, asked, parsed, limits);
        // The page asks all the time: that is neither logged nor listed.
        let answer = self.engine.work.unlisted(&statement, queried).await?;
        Ok(answer.table)
    }

    /// Runs a statement of the page's own that changes something; gives its message.
    ///
    /// # Errors
    ///
    /// The statement's.
    pub(super) async fn change(&self, caller: &Caller, sql: &str) -> Result<String> {
        let asked = self.engine.asked(caller.clone());
        let done = Box::pin(self.engine.complete(&asked, own(sql, &[])?)).await?;
        let said = result_table(&done.batch)?.objects()?.into_iter().next();
        let said = said.and_then(|row| row.into_iter().next());
        Ok(said
            .and_then(|(_, value)| value.as_str().map(str::to_owned))
            .unwrap_or_default())
    }

    /// How the jobs are doing that run here, by name.
    pub(super) fn statuses(&self) -> BTreeMap<String, JobStatus> {
        self.engine.statuses()
    }

    fn enter(
        self: &Arc<Self>,
        name: String,
        statement: &Arc<ClientStatement>,
    ) -> Result<CancelEntry> {
        let mut running = self.running();
        if running.contains_key(&name) {
            return Err(Error::new(
                ErrorKind::Exists,
                "a statement with that name is already running",
            ));
        }
        running.insert(name.clone(), Arc::clone(statement));
        drop(running);
        let of = Arc::clone(self);
        Ok(CancelEntry { of, name })
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<ClientStatement>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement among those that can be stopped, until it is done or its client has gone.
struct CancelEntry {
    of: Arc<ConsoleStatements>,
    name: String,
}

impl Drop for CancelEntry {
    fn drop(&mut self) {
        self.of.running().remove(&self.name);
    }
}

/// The rows of a query, as many as are wanted.
async fn query(
    engine: Arc<Engine>,
    statement: Arc<ClientStatement>,
    asked: RequestContext,
    parsed: ParsedStatement,
    limits: ResultLimits,
) -> Result<StatementResult> {
    let places = parsed.places.clone();
    let (session, planned) = engine.plan(&asked, parsed, &statement).await?;
    let mut execution = session
        .begin(planned)
        .map_err(|error| places.locate(error))?;
    let mut table = TableBuilder::new(&execution.schema(), limits);
    let mut is_all = true;
    while let Some(batch) = execution.stream.next().await {
        let batch = batch.map_err(|error| places.locate(error.into()))?;
        is_all = table.push(&batch)?;
        if !is_all {
            break;
        }
    }
    let answer = StatementResult {
        table: table.finish()?,
        rows_written: None,
        has_changed: false,
        warnings: session.take_warnings(),
    };
    drop(execution);
    if is_all {
        engine.forks.return_fork(session);
    }
    Ok(answer)
}

/// The lines of a statement without an end. Its first one is there: errors of the statement itself are known.
async fn live(
    engine: Arc<Engine>,
    statement: Arc<ClientStatement>,
    asked: RequestContext,
    parsed: ParsedStatement,
    limits: ResultLimits,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    /// It tells both sides that the other one is there.
    const NOTHING_NEW: Bytes = Bytes::from_static(b"\n");
    let (planner, of) = (Arc::clone(&engine), Arc::clone(&statement));
    let made = async move {
        let places = parsed.places.clone();
        let (session, planned) = planner.plan(&asked, parsed, &of).await?;
        let execution = session
            .begin(planned)
            .map_err(|error| places.locate(error))?;
        let lines = RowLines::new(execution.schema(), limits);
        let head = lines.head(&session.take_warnings())?;
        let rows = execution.stream.map(move |batch| {
            let batch = batch.map_err(|error| places.locate(error.into()))?;
            let sent = lines.of_batch(&batch)?;
            of.count(batch.num_rows(), sent.iter().map(Bytes::len).sum());
            Ok::<_, Error>(futures::stream::iter(sent).map(Ok::<_, Error>))
        });
        // The session of the query lives as long as its rows come.
        let last = futures::stream::once(async move { RowLines::last(&session.take_warnings()) });
        let head = futures::stream::once(std::future::ready(Ok(head)));
        Ok(head.chain(rows.try_flatten()).chain(last).boxed())
    };
    let mut lines = engine.work.stream(statement, made, Some(NOTHING_NEW));
    let head = lines.next().await;
    let head = head.ok_or_else(|| Error::internal("a statement without a first line"))??;
    let head = futures::stream::once(std::future::ready(Ok(head)));
    Ok(head.chain(lines).boxed())
}

fn own(sql: &str, values: &[(&str, &str)]) -> Result<ParsedStatement> {
    let mut parameters = Parameters::default();
    for (name, value) in values {
        // In quotes the value stays text, also if it looks like a number.
        parameters.set(*name, format!("'{value}'"));
    }
    parse(sql, &mut parameters)
}

fn answer(
    done: &CompletedStatement,
    has_changed: bool,
    limits: ResultLimits,
) -> Result<StatementResult> {
    let mut table = TableBuilder::new(&done.batch.schema(), limits);
    table.push(&done.batch)?;
    Ok(StatementResult {
        table: table.finish()?,
        rows_written: done.rows,
        has_changed,
        warnings: Vec::new(),
    })
}

fn result_table(batch: &RecordBatch) -> Result<ResultTable> {
    let limits = ResultLimits {
        rows: usize::MAX,
        bytes: usize::MAX,
    };
    let mut table = TableBuilder::new(&batch.schema(), limits);
    table.push(batch)?;
    table.finish()
}
