//! Statements that the page runs: the only file here that knows the engine.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::RecordBatch;
use futures::StreamExt as _;
use futures::future::{AbortHandle, abortable};
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::planner::{Parameters, ParsedStatement};
use crate::runtime::JobStatus;
use crate::server::engine::{Done, Engine, Kind, kind, one_statement, parse};
use crate::server::http::access::Caller;
use crate::server::http::rows::{Limits, Table, TableBuilder};
use crate::server::prepared::Prepared;

/// Statements at work at the same time.
const MOST: usize = 64;

/// What a statement gives.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    #[serde(flatten)]
    table: Table,
    /// Rows that it wrote, where that is what it does.
    rows_written: Option<i64>,
    /// Whether tables, views or jobs may be others now.
    has_changed: bool,
    /// What is to be known besides the rows.
    warnings: Vec<String>,
}

/// Runs statements, and stops those that are no longer wanted.
pub(super) struct Statements {
    engine: Arc<Engine>,
    /// Those that can be stopped, by the name that whoever sent them has given.
    running: Mutex<HashMap<String, AbortHandle>>,
}

impl Statements {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            running: Mutex::default(),
        }
    }

    /// Runs what somebody has typed. Until it is done it can be stopped by its name, unless it is a definition: that is done
    /// whole, also when nobody waits for it any more.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(super) async fn run(
        &self,
        caller: &Caller,
        name: String,
        text: &str,
        limits: Limits,
    ) -> Result<Answer> {
        let prepared = Prepared::try_new(one_statement(text)?)?;
        let parsed = prepared.statements()?.into_iter().next();
        let parsed = parsed.ok_or_else(|| Error::internal("a statement without parameters"))?;
        tracing::debug!(user = caller.user(), sql = parsed.text, "from the console");
        match kind(&parsed) {
            Kind::Query => self.stoppable(name, self.query(parsed, limits)).await,
            Kind::Definition => answer(&self.define(parsed).await?, true, limits),
            Kind::Report | Kind::Update => {
                let done = self.stoppable(name, self.engine.complete(parsed)).await?;
                answer(&done, false, limits)
            }
        }
    }

    /// Stops a statement; whether there was one that can be stopped.
    pub(super) fn stop(&self, name: &str) -> bool {
        let stopped = self.running().remove(name);
        stopped.inspect(AbortHandle::abort).is_some()
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
        limits: Limits,
    ) -> Result<Table> {
        tracing::trace!(user = caller.user(), sql, "from the console's page");
        let parsed = own(sql, values)?;
        Ok(self.query(parsed, limits).await?.table)
    }

    /// The same of the last rows, at most `count`.
    ///
    /// # Errors
    ///
    /// The statement's.
    pub(super) async fn ask_last(&self, _: &Caller, sql: &str, count: usize) -> Result<Table> {
        let done = self.engine.complete(own(sql, &[])?).await?;
        let rows = done.batch.num_rows();
        let last = done
            .batch
            .slice(rows.saturating_sub(count), rows.min(count));
        whole(&last)
    }

    /// Runs a statement of the page's own that changes something; gives what it says.
    ///
    /// # Errors
    ///
    /// The statement's.
    pub(super) async fn change(&self, caller: &Caller, sql: &str) -> Result<String> {
        tracing::debug!(user = caller.user(), sql, "from the console");
        let done = self.define(own(sql, &[])?).await?;
        let said = whole(&done.batch)?.objects()?.into_iter().next();
        let said = said.and_then(|row| row.into_iter().next());
        Ok(said
            .and_then(|(_, value)| value.as_str().map(str::to_owned))
            .unwrap_or_default())
    }

    /// How the jobs are doing that run here, by name.
    pub(super) fn statuses(&self) -> BTreeMap<String, JobStatus> {
        self.engine.statuses()
    }

    async fn query(&self, parsed: ParsedStatement, limits: Limits) -> Result<Answer> {
        let places = parsed.places.clone();
        let (session, mut execution) = self.engine.begin(parsed).await?;
        let mut table = TableBuilder::new(&execution.schema(), limits);
        while let Some(batch) = execution.stream.next().await {
            let batch = batch.map_err(|error| places.locate(error.into()))?;
            if !table.push(&batch)? {
                break;
            }
        }
        Ok(Answer {
            table: table.finish()?,
            rows_written: None,
            has_changed: false,
            warnings: session.take_warnings(),
        })
    }

    async fn define(&self, parsed: ParsedStatement) -> Result<Done> {
        let engine = Arc::clone(&self.engine);
        let done = tokio::spawn(async move { engine.complete(parsed).await });
        done.await
            .map_err(|error| Error::internal(error.to_string()))?
    }

    async fn stoppable<T>(&self, name: String, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (work, handle) = abortable(work);
        let _entry = self.enter(name, handle)?;
        work.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Cancelled,
                "the statement was cancelled",
            ))
        })
    }

    fn enter(&self, name: String, handle: AbortHandle) -> Result<Entry<'_>> {
        let mut running = self.running();
        if running.contains_key(&name) {
            return Err(Error::new(
                ErrorKind::Exists,
                "a statement of that name is at work already",
            ));
        }
        if running.len() >= MOST {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("{MOST} statements are at work already"),
            )
            .with_help("wait for one to end, or cancel one"));
        }
        running.insert(name.clone(), handle);
        Ok(Entry { of: self, name })
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement among those that can be stopped, until it is done or nobody waits for it.
struct Entry<'a> {
    of: &'a Statements,
    name: String,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.of.running().remove(&self.name);
    }
}

/// A name as SQL takes it literally.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn own(sql: &str, values: &[(&str, &str)]) -> Result<ParsedStatement> {
    let mut parameters = Parameters::default();
    for (name, value) in values {
        // In quotes it is text, whatever it looks like.
        parameters.set(*name, format!("'{value}'"));
    }
    parse(sql, &mut parameters)
}

fn answer(done: &Done, has_changed: bool, limits: Limits) -> Result<Answer> {
    let mut table = TableBuilder::new(&done.batch.schema(), limits);
    table.push(&done.batch)?;
    Ok(Answer {
        table: table.finish()?,
        rows_written: done.rows,
        has_changed,
        warnings: Vec::new(),
    })
}

fn whole(batch: &RecordBatch) -> Result<Table> {
    let limits = Limits {
        rows: usize::MAX,
        bytes: usize::MAX,
    };
    let mut table = TableBuilder::new(&batch.schema(), limits);
    table.push(batch)?;
    table.finish()
}
