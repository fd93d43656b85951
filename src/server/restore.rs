//! Restores the definitions of a server when it starts. An object that cannot be opened then stays defined, and is
//! tried again for as long as the server runs: a store or a broker that is away for a moment takes no definition with
//! it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt as _;

use crate::core::jobs::JobHistory;
use crate::error::{Error, Result};
use crate::planner::{JobStatement, Parameters, Statement, normalize};
use crate::runtime::StopSignal;
use crate::runtime::definitions::{define, is_known, unbound, unreadable};
use crate::server::definitions::{Definition, in_force};
use crate::server::engine::Engine;
use crate::server::parse::parse;
use crate::session::{ForkOptions, Session};
use crate::store::{CatalogEntry, CatalogList, FoundJob, JobId, JobStore};

/// How long a table may take to open when the server starts or tries again: a slow table must not delay the others.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all of them may take together when the server starts. Objects that are not open by then are opened while it
/// runs.
const PATIENCE_AT_START: Duration = Duration::from_secs(20);
/// Tables that are opened, or jobs that are started, at the same time.
const AT_ONCE: usize = 8;
/// The first pause before a closed object is tried again; doubled each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// The list of definitions is made shorter when so many more entries were added than hold.
const MANY_ENTRIES: u64 = 64;

impl Engine {
    /// Restores all definitions, and starts the jobs that exist.
    ///
    /// # Errors
    ///
    /// The data directory does not answer, or its list of definitions is damaged. An object that cannot be opened is no
    /// error: it stays defined.
    pub(crate) async fn restore(&self, jobs: &JobStore) -> Result<()> {
        let deadline = Instant::now() + PATIENCE_AT_START;
        let list = self.store.all().await?;
        self.restore_catalog(list, deadline).await;
        let session = self.forks.defined();
        let jobs = jobs.all().await?;
        futures::stream::iter(jobs)
            .for_each_concurrent(AT_ONCE, |job| {
                let session = Arc::clone(&session);
                async move { self.restore_found(&session, job, deadline).await }
            })
            .await;
        self.running.start_new().await;
        self.report_waiting_jobs().await;
        Ok(())
    }

    async fn restore_found(&self, session: &Session, job: FoundJob, deadline: Instant) {
        match job.found {
            Ok((id, history)) => {
                let limit = until(deadline);
                self.restore_job(session, id, &history, limit).await;
            }
            Err(error) => {
                tracing::error!(job = job.name, "not run: {}", error.message());
                self.waiting.put(&job.name, error.with_its_help());
            }
        }
    }

    async fn restore_catalog(&self, list: CatalogList, deadline: Instant) {
        let CatalogList {
            entries,
            next,
            since_snapshot,
        } = list;
        let definitions = in_force(entries);
        let holds: Vec<CatalogEntry> = definitions.iter().map(|one| one.entry.clone()).collect();
        let whole = self.forks.exclusive().await;
        let is_table = |one: &Definition| {
            let statement = one.parsed.as_ref().map(|parsed| &parsed.statement);
            matches!(statement, Ok(Statement::CreateTable(_)))
        };
        let (tables, others): (Vec<_>, Vec<_>) = definitions.into_iter().partition(is_table);
        futures::stream::iter(tables)
            .for_each_concurrent(AT_ONCE, |one| restore_one(whole.session, one, deadline))
            .await;
        for one in others {
            restore_one(whole.session, one, deadline).await;
        }
        drop(whole);
        if since_snapshot >= MANY_ENTRIES + holds.len() as u64 {
            self.shorten(next, holds).await;
        }
    }

    /// Makes the list of definitions shorter, after an entry of this number was added.
    pub(crate) async fn maybe_shorten(&self, number: u64) {
        if number % MANY_ENTRIES != MANY_ENTRIES - 1 {
            return;
        }
        match self.store.all().await {
            Ok(list) => {
                let holds = in_force(list.entries).into_iter();
                let holds: Vec<CatalogEntry> = holds.map(|one| one.entry).collect();
                if list.since_snapshot >= MANY_ENTRIES + holds.len() as u64 {
                    self.shorten(list.next, holds).await;
                }
            }
            Err(error) => tracing::warn!(%error, "the list of definitions was not shortened"),
        }
    }

    async fn shorten(&self, next: u64, holds: Vec<CatalogEntry>) {
        if let Err(error) = self.store.compact(next, holds).await {
            tracing::warn!(%error, "the list of definitions was not shortened");
        }
    }

    async fn restore_job(
        &self,
        session: &Session,
        id: JobId,
        history: &JobHistory,
        limit: Duration,
    ) {
        let name = &history.name;
        let seconds = limit.as_secs();
        let ready = tokio::time::timeout(limit, self.ready_job(session, id, history)).await;
        let ready = ready.unwrap_or_else(|_| {
            Err(Error::unavailable(format!(
                "the job's sources or sink have not answered within {seconds} seconds"
            )))
        });
        match ready {
            Ok(()) => self.waiting.remove(name),
            Err(error) => {
                if self.waiting.put(name, error.with_its_help()) {
                    let reason = error.message();
                    tracing::warn!(job = name, "not run yet: {reason}; it is retried");
                }
            }
        }
    }

    async fn ready_job(&self, session: &Session, id: JobId, history: &JobHistory) -> Result<()> {
        // The job runs over the tables and views with which it was created, and the log has their definitions. Tables
        // of this session are used only if their definitions are the same.
        let session = session.fork(&ForkOptions::default())?;
        define(&session, &history.tables, PATIENCE).await?;
        let parsed = parse(&history.text, &mut Parameters::default());
        let parsed = parsed.map_err(|error| unreadable(&error))?;
        let Statement::Job(job) = parsed.statement else {
            return Err(Error::internal("the stored statement is not a job"));
        };
        Box::pin(self.jobs.make_ready(&session, *job, id, history)).await
    }

    /// Whether a statement of a file creates a job that waits, over the same tables, and has one of these texts. Such a job exists, and
    /// starts when the tables that it reads and writes can be opened.
    pub(crate) async fn waits(&self, statement: &Statement, texts: &[&str]) -> Result<bool> {
        let Statement::Job(job) = statement else {
            return Ok(false);
        };
        let JobStatement::Create {
            explain: false,
            name,
            ..
        } = job.as_ref()
        else {
            return Ok(false);
        };
        let name = normalize(name);
        if !self.waiting.names().contains(&name) {
            return Ok(false);
        }
        let found = self.jobs.not_ready(&name).await?;
        let session = self.forks.defined();
        Ok(found.is_some_and(|(_, history)| {
            let is_here = |definition: &String| {
                let parsed = unbound(definition);
                let name = parsed
                    .ok()
                    .and_then(|parsed| parsed.effect.created_name().map(str::to_owned));
                is_known(&session, name.as_deref(), definition)
            };
            texts.contains(&history.text.as_str()) && history.tables.iter().all(is_here)
        }))
    }

    /// Tries to open closed objects again; gives whether any is still closed.
    pub(crate) async fn try_again(&self) -> bool {
        for name in self.running.take_changed() {
            self.waiting
                .put(&name, "another process has changed the job".to_owned());
        }
        let session = self.forks.defined();
        let unopened = session.unopened();
        if unopened.is_empty() && self.waiting.names().is_empty() {
            return false;
        }
        let (again, shared): (Vec<_>, Vec<_>) = unopened
            .into_iter()
            .map(|(table, _)| table)
            .partition(|table| session.is_run_again(table));
        futures::stream::iter(shared)
            .for_each_concurrent(AT_ONCE, |table| {
                let session = Arc::clone(&session);
                async move { opened(&table, session.open_again(&table, PATIENCE).await) }
            })
            .await;
        for table in again {
            let whole = self.forks.exclusive().await;
            opened(&table, whole.session.run_again(&table, PATIENCE).await);
        }
        let session = self.forks.defined();
        futures::stream::iter(self.waiting.names())
            .for_each_concurrent(AT_ONCE, |name| {
                let session = Arc::clone(&session);
                async move { self.begin_again(&session, &name).await }
            })
            .await;
        self.running.start_new().await;
        self.report_waiting_jobs().await;
        true
    }

    async fn begin_again(&self, session: &Session, name: &str) {
        match self.jobs.not_ready(name).await {
            Ok(Some((id, history))) => self.restore_job(session, id, &history, PATIENCE).await,
            // The job was dropped, or a statement has started it.
            Ok(None) => self.waiting.remove(name),
            Err(error) => {
                self.waiting.put(name, error.with_its_help());
            }
        }
    }

    /// Reports jobs that cannot be started as waiting, with the reason: in SHOW JOBS, in the metrics, on the health
    /// page.
    async fn report_waiting_jobs(&self) {
        let waiting = self.waiting.lock().clone();
        let options = self.running.options(StopSignal::default());
        for (name, reason) in &waiting {
            if let Err(error) = self.jobs.report_waiting(name, reason, &options).await {
                tracing::debug!(job = name, %error, "no heartbeat was written");
            }
        }
        if let Some(metrics) = &options.metrics {
            let unopened = self.forks.defined().unopened().into_iter();
            metrics.set_unopened(unopened.map(|(name, _)| name).collect());
        }
    }
}

/// Tries to open closed objects again and again, for as long as the engine exists.
#[expect(
    clippy::disallowed_methods,
    reason = "tables that could not be opened are tried again in real time"
)]
pub(crate) async fn retry_until_opened(engine: Weak<Engine>) {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let Some(engine) = engine.upgrade() else {
            return;
        };
        pause = match engine.try_again().await {
            true => (pause * 2).min(LAST_PAUSE),
            false => LAST_PAUSE,
        };
    }
}

async fn restore_one(session: &Session, definition: Definition, deadline: Instant) {
    let is_restricted = definition.entry.is_restricted;
    let (name, text) = (definition.name, definition.entry.statement);
    let restored = match definition.parsed {
        Ok(parsed) => session.restore(parsed, until(deadline)).await,
        Err(error) => {
            let error = unreadable(&error);
            if let Some(name) = &name {
                session.keep_unreadable(name, &text, &error);
            }
            Err(error)
        }
    };
    if let Some(name) = name.as_deref().filter(|_| is_restricted) {
        session.set_restricted(name, true);
    }
    if let Err(error) = restored {
        tracing::warn!(
            table = name,
            statement = text,
            "not opened yet: {}; the definition is kept, and opening is tried again",
            error.message()
        );
    }
}

/// The time left until a deadline, for a step that may take so long.
fn until(deadline: Instant) -> Duration {
    PATIENCE.min(deadline.saturating_duration_since(Instant::now()))
}

fn opened(table: &str, outcome: Result<()>) {
    match outcome {
        Ok(()) => tracing::info!(table, "opened"),
        Err(error) => tracing::debug!(table, %error, "not opened yet"),
    }
}
