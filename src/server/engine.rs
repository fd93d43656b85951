//! Statement execution for all clients over one catalog: definitions run one after the other and are kept, queries run
//! side by side.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::execution::SendableRecordBatchStream;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::core::redact::HIDDEN;
use crate::error::{Error, Result, Subject};
use crate::planner::{
    JobStatement, ObjectKind, Parameters, ParsedStatement, Script, Statement, StatementClass,
    TextValue, Writes, normalize, parse_statement,
};
use crate::runtime::host::{Frontend, Host, repeated, run};
use crate::runtime::{JobStatus, Jobs};
use crate::server::auth::access::{Caller, Role};
use crate::server::auth::locations;
use crate::server::auth::locations::AllowedLocations;
use crate::server::definitions::defined_name;
use crate::server::flight::sessions::{Sessions, Settings, setting};
use crate::server::parse::definition;
use crate::server::queries;
use crate::server::queries::scheduler::QueryScheduler;
use crate::server::queries::session_pool::SessionPool;
use crate::server::queries::statement::{ClientStatement as Running, TimeLimit};
use crate::server::running_jobs::RunningJobs;
use crate::server::waiting_jobs::WaitingJobs;
use crate::session::rewrite::arguments::Purpose;
use crate::session::{
    ClosedTables, ForkOptions, Planned, PlannedRows, SCHEMA, Session, StatementOutcome, TableFilter,
};
use crate::store::{CatalogEntry, CatalogStore};

/// The caller, with the settings of their session and of the headers of the call.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext {
    pub(crate) caller: Caller,
    pub(crate) settings: Settings,
}

/// The result of planning a query.
pub(crate) enum QueryPlan {
    /// Its rows come when it is started.
    Open(Box<(Session, Planned)>),
    /// Its rows are known already.
    Answered(PlannedRows),
}

/// The result of a statement that was run to its end.
#[derive(Debug)]
pub(crate) struct CompletedStatement {
    /// The rows for a client that asks for rows.
    pub(crate) batch: RecordBatch,
    /// Rows written, for a statement that writes rows.
    pub(crate) rows: Option<i64>,
}

impl CompletedStatement {
    /// A word for the user.
    fn said(said: String) -> Result<Self> {
        let said: ArrayRef = Arc::new(StringArray::from(vec![said]));
        Ok(Self {
            batch: batch("status", said)?,
            rows: None,
        })
    }

    /// Adds up the results of two statements that ran one after the other.
    pub(crate) fn after(self, before: &Self) -> Result<Self> {
        match (self.rows, before.rows) {
            (Some(rows), Some(more)) => Self::written(rows + more),
            _ => Ok(self),
        }
    }

    /// The result of a statement that has written so many rows.
    fn written(rows: i64) -> Result<Self> {
        let count: ArrayRef = Arc::new(Int64Array::from(vec![rows]));
        Ok(Self {
            batch: batch("count", count)?,
            rows: Some(rows),
        })
    }
}

/// The tables, views and jobs of a server.
pub(crate) struct Engine {
    pub(crate) forks: SessionPool,
    pub(crate) store: CatalogStore,
    /// Runs statements in a fork, and over the jobs.
    pub(crate) host: Host,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) running: RunningJobs,
    pub(crate) work: Arc<QueryScheduler>,
    pub(crate) sessions: Sessions,
    /// Where others than administrators may have tables.
    pub(crate) places: AllowedLocations,
    /// Jobs that could not be started so far.
    pub(crate) waiting: WaitingJobs,
}

impl Engine {
    /// The caller with their settings, for one call.
    pub(crate) fn asked(&self, caller: Caller) -> RequestContext {
        let settings = self.sessions.of(&caller, Instant::now());
        RequestContext { caller, settings }
    }

    /// A statement that is about to be run, by its number.
    #[expect(
        clippy::disallowed_methods,
        reason = "statements are listed by the time of the server"
    )]
    pub(crate) fn statement(
        &self,
        asked: &RequestContext,
        parsed: &ParsedStatement,
    ) -> Arc<Running> {
        let at = chrono::Utc::now().timestamp_millis();
        let timeouts = [asked.settings.timeout, self.work.limits().timeout];
        let time = match parsed.effect.endless {
            true => TimeLimit::Endless,
            false => timeouts
                .into_iter()
                .flatten()
                .min()
                .map_or(TimeLimit::Any, TimeLimit::AtMost),
        };
        Running::new(&asked.caller, &parsed.text, at, time)
    }

    /// Runs the statements of a file that is given at each start; objects that exist already stay.
    ///
    /// # Errors
    ///
    /// The statement's, or one that does more than define.
    pub(crate) async fn apply(&self, script: &Script, parameters: &mut Parameters) -> Result<()> {
        let asked = self.asked(Caller::anyone());
        for raw in script.split()? {
            let mut parsed = parse_statement(&raw)?;
            let places = parsed.places.clone();
            let written = parsed.text.clone();
            // The catalog keeps the values beside a definition. The log of a job has its statement alone.
            match parsed.effect.created_name() {
                Some(_) => parameters.bind(&mut parsed)?,
                None => drop(parameters.bind_text(&raw, &mut parsed)?),
            }
            let text = parsed.text.clone();
            if parsed.effect.class != StatementClass::Definition {
                return Err(places.locate(
                    Error::invalid("a file of a server defines tables, views and jobs only")
                        .with_help("it is applied at each start; a client runs the rest"),
                ));
            }
            let is_there = match parsed.effect.created_name() {
                Some(name) => {
                    let definition = self.forks.defined().definition(name);
                    definition.is_ok_and(|known| known == text)
                }
                // A job that waits reads or writes a table that cannot be opened: starting it now would fail.
                // Earlier versions kept its text as it is written.
                None => self.waits(&parsed.statement, &[&text, &written]).await?,
            };
            if !is_there {
                let given: BTreeMap<String, String> = parameters
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect();
                self.define(&asked, parsed, given).await?;
            }
        }
        Ok(())
    }

    /// A session for one query of a caller: the tables are those of now that the caller may name.
    pub(crate) fn fork(&self, asked: &RequestContext) -> Result<Session> {
        let may_name = asked.caller.table_filter();
        let is_closed = may_name.as_ref().map(|may_name| self.closed_to(may_name));
        let fork = ForkOptions {
            time_zone: asked.settings.time_zone.clone(),
            memory_limit: self.work.limits().memory,
            may_name,
            is_closed,
            only_reads: asked.caller.role < Role::Write,
        };
        self.forks.fork(&fork)
    }

    /// Tables declared by restricted users that this caller may not open: another table, which the caller may not name, lies at the same
    /// place.
    fn closed_to(&self, may_name: &TableFilter) -> ClosedTables {
        let (defined, may_name) = (self.forks.defined(), Arc::clone(may_name));
        Arc::new(move |name: &str| {
            defined.is_restricted(name)
                && locations::is_closed(
                    name,
                    |is_wanted| defined.places_of(is_wanted),
                    |other| may_name(SCHEMA, other),
                )
        })
    }

    /// Refuses a statement that the caller may not run.
    ///
    /// # Errors
    ///
    /// The right that is missing, with the position in the text.
    pub(crate) fn check(&self, asked: &RequestContext, parsed: &ParsedStatement) -> Result<()> {
        let checked = asked.caller.check(parsed, &self.places);
        checked.map_err(|error| parsed.places.locate(error))
    }

    /// Plans a query for its columns. A query that reads nothing is answered at once: clients send such queries to see whether
    /// the server is there.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(crate) async fn describe_or_answer(
        &self,
        asked: &RequestContext,
        parsed: ParsedStatement,
        running: &Arc<Running>,
    ) -> Result<QueryPlan> {
        /// A larger answer is made when it is fetched, and not held until then.
        const SMALL: usize = 64 << 10;
        let (session, planned) = self.describe(asked, parsed, running).await?;
        if let Some(answer) = planned.answer().cloned() {
            let bytes = answer.rows.get_array_memory_size();
            let limit = self.work.limits().result_bytes.unwrap_or(u64::MAX);
            if bytes <= SMALL && limit >= SMALL as u64 {
                drop(planned);
                self.forks.return_fork(session);
                running.count(answer.rows.num_rows(), bytes);
                return Ok(QueryPlan::Answered(answer));
            }
        }
        Ok(QueryPlan::Open(Box::new((session, planned))))
    }

    /// Plans a query.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(crate) async fn plan(
        &self,
        asked: &RequestContext,
        parsed: ParsedStatement,
        running: &Arc<Running>,
    ) -> Result<(Session, Planned)> {
        self.plan_for(asked, parsed, running, Purpose::Run).await
    }

    /// Plans a query for its columns: none runs for it, and the plan may have to be made again when its rows are fetched.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(crate) async fn describe(
        &self,
        asked: &RequestContext,
        parsed: ParsedStatement,
        running: &Arc<Running>,
    ) -> Result<(Session, Planned)> {
        self.plan_for(asked, parsed, running, Purpose::Describe)
            .await
    }

    async fn plan_for(
        &self,
        asked: &RequestContext,
        parsed: ParsedStatement,
        running: &Arc<Running>,
        purpose: Purpose,
    ) -> Result<(Session, Planned)> {
        self.check(asked, &parsed)?;
        let session = self.fork(asked)?;
        if matches!(parsed.statement, Statement::ShowQueries) {
            let rows = queries::running(&self.work, &asked.caller)?;
            let planned = session.planned_batch(rows)?;
            return Ok((session, planned));
        }
        let is_work =
            parsed.effect.class == StatementClass::Report && !parsed.effect.is_known_by_planning();
        let planning = self.host.plan(&session, parsed, purpose);
        let planned = match is_work {
            // Its work is done here, and takes as long as it takes.
            true => planning.await?,
            false => self.work.planners.plan(running, planning).await?,
        };
        Ok((session, planned))
    }

    /// Runs a statement that is no query to its end.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(crate) async fn complete(
        self: &Arc<Self>,
        asked: &RequestContext,
        parsed: ParsedStatement,
    ) -> Result<CompletedStatement> {
        let running = self.statement(asked, &parsed);
        self.complete_as(&running, asked, parsed).await
    }

    /// The same as a statement that has its number already.
    ///
    /// # Errors
    ///
    /// The statement's, with its place.
    pub(crate) async fn complete_as(
        self: &Arc<Self>,
        running: &Arc<Running>,
        asked: &RequestContext,
        parsed: ParsedStatement,
    ) -> Result<CompletedStatement> {
        let call = Call {
            engine: Arc::clone(self),
            asked: asked.clone(),
            running: Arc::clone(running),
        };
        run(&call, parsed)?.await
    }

    async fn run_once(
        &self,
        asked: &RequestContext,
        parsed: ParsedStatement,
        running: &Arc<Running>,
    ) -> Result<CompletedStatement> {
        let places = parsed.places.clone();
        let is_update = parsed.effect.class == StatementClass::Update;
        let (session, planned) = self.plan(asked, parsed, running).await?;
        let execution = session.begin(planned)?;
        let done = async {
            if is_update {
                let rows = execution.written().await?;
                running.count(usize::try_from(rows).unwrap_or(usize::MAX), 0);
                return CompletedStatement::written(i64::try_from(rows).unwrap_or(i64::MAX));
            }
            let batch = execution.rows().await?;
            Ok(CompletedStatement { batch, rows: None })
        };
        let done = done.await.map_err(|error| places.locate(error))?;
        self.forks.return_fork(session);
        Ok(done)
    }

    /// Creates or drops a table whose location the server has chosen.
    ///
    /// # Errors
    ///
    /// The caller may not do so; the statement's error.
    pub(crate) async fn define_in_session(
        self: &Arc<Self>,
        asked: &RequestContext,
        parsed: ParsedStatement,
    ) -> Result<String> {
        asked.caller.check_own(&parsed)?;
        let running = self.statement(asked, &parsed);
        let defined = Arc::clone(self).define_as(Arc::clone(&running), asked.clone(), parsed);
        self.work.finish(&running, Box::pin(defined)).await
    }

    /// Changes tables, views or jobs as a statement that can be cancelled while it is planned; gives a message for the
    /// user.
    async fn define_as(
        self: Arc<Self>,
        running: Arc<Running>,
        asked: RequestContext,
        parsed: ParsedStatement,
    ) -> Result<String> {
        let defined = self.define(&asked, parsed, BTreeMap::new());
        self.work.planners.plan(&running, defined).await
    }

    /// Runs an INSERT that reads the rows of a client by this name; gives how many were written.
    ///
    /// # Errors
    ///
    /// The caller may not; the statement's, or one of the rows'.
    pub(crate) async fn insert_stream(
        self: &Arc<Self>,
        asked: &RequestContext,
        insert: &str,
        name: &'static str,
        rows: SendableRecordBatchStream,
    ) -> Result<i64> {
        let parsed = definition(insert)?;
        self.check(asked, &parsed)?;
        let running = self.statement(asked, &parsed);
        let (engine, asked, of) = (Arc::clone(self), asked.clone(), Arc::clone(&running));
        let done = async move {
            let session = engine.fork(&asked)?;
            session.register_stream(name, rows)?;
            let planning = engine.host.plan(&session, parsed, Purpose::Run);
            let planned = engine.work.planners.plan(&of, planning).await?;
            let written = session.begin(planned)?.written().await?;
            of.count(usize::try_from(written).unwrap_or(usize::MAX), 0);
            Ok(i64::try_from(written).unwrap_or(i64::MAX))
        };
        self.work.run(&running, Box::pin(done)).await
    }

    /// Ends a statement; gives a word for the user.
    fn cancel(&self, asked: &RequestContext, id: &TextValue) -> Result<String> {
        let found = self.work.find(&id.value);
        // Only administrators learn that statements of other users exist.
        let found = found.filter(|running| asked.caller.may_see(&running.user));
        let found = found.ok_or_else(|| {
            Error::not_found(format!("no running statement has the id '{}'", id.value))
                .about(Subject::text(&id.value))
                .with_help("SHOW QUERIES lists them")
                .at(id.span)
        })?;
        found.cancel(&asked.caller.name);
        Ok(format!("cancelled {}", id.value))
    }

    /// Changes the session of a client; gives a word for the user.
    fn set(&self, asked: &RequestContext, parsed: &ParsedStatement) -> Result<String> {
        let (name, value) =
            setting(parsed).ok_or_else(|| Error::internal("the statement sets nothing"))??;
        // Not those of the call's headers, which are for it alone.
        let now = Instant::now();
        let mut settings = self.sessions.of(&asked.caller, now);
        settings.set(&name, &value)?;
        self.sessions.keep(&asked.caller, settings, now)?;
        Ok(format!("set {name}"))
    }

    /// Changes tables, views or jobs; gives a word for the user.
    #[expect(
        clippy::disallowed_methods,
        reason = "entries of the catalog have the time of the server"
    )]
    pub(crate) async fn define(
        &self,
        asked: &RequestContext,
        parsed: ParsedStatement,
        parameters: BTreeMap<String, String>,
    ) -> Result<String> {
        if let Statement::Job(job) = &parsed.statement {
            let begun_again = job_to_restart(job);
            // Its runner would fight for the job with the statement.
            if let JobStatement::Rewind { name, .. } = job.as_ref() {
                self.running.stop(&normalize(name)).await;
            }
            // A statement about jobs may wait for a broker: queries do not wait for it.
            let session = self.fork(asked)?;
            let done = self.host.begin(&session, parsed).await.map(outcome_text);
            if let Some(name) = begun_again.filter(|_| done.is_ok()) {
                self.running.stop(&name).await;
            }
            self.running.start_new().await;
            return done;
        }
        if matches!(parsed.statement, Statement::Run(_)) {
            let session = self.fork(asked)?;
            return self.host.begin(&session, parsed).await.map(outcome_text);
        }
        if parsed.effect.creates_in_memory() {
            let error = Error::unsupported(
                "CREATE TABLE makes a table in memory, whose rows a server would lose when it ends",
            );
            return Err(parsed.places.locate(error.with_help(
                "declare one that lasts with CREATE EXTERNAL TABLE t (…) STORED AS DELTA LOCATION '…' and fill it with INSERT INTO t SELECT …, or CREATE VIEW t AS SELECT …",
            )));
        }
        if parsed.text.contains(HIDDEN) {
            let error = Error::invalid("a definition with a secret in it cannot be kept");
            return Err(parsed.places.locate(error.with_help(
                "set the secret in the server's environment and write '${NAME}' for it",
            )));
        }
        let makes_view = matches!(
            parsed.effect.writes,
            Writes::Creates {
                object: ObjectKind::View,
                ..
            }
        );
        if makes_view {
            // A caller gets no view over tables that they may not name. The view is planned here, in a fork: other
            // definitions do not wait.
            let fork = self.fork(asked)?;
            self.host.begin(&fork, parsed.clone()).await?;
        }
        let whole = self.forks.exclusive().await;
        if let Some(may_name) = asked.caller.table_filter() {
            let hidden = whole.session.places_of(|name| !may_name(SCHEMA, name));
            let checked = locations::check_hidden(&parsed.statement, &hidden);
            checked.map_err(|error| parsed.places.locate(error))?;
        }
        let text = parsed.text.clone();
        let made = defined_name(&parsed.effect, |name| {
            whole.session.table_names().iter().any(|of| of == name)
        });
        let said = match parsed.statement {
            Statement::CreateView(view) => {
                let defined = whole.session.define_view(*view, &parsed.text);
                defined.map_err(|error| parsed.places.locate(error))?
            }
            _ => outcome_text(self.host.begin(whole.session, parsed).await?),
        };
        let is_restricted = asked.caller.tables.is_some();
        if let Some(name) = made {
            whole.session.set_restricted(&name, is_restricted);
        }
        // A definition that cannot be stored would be gone after a restart: so the statement fails now.
        let at = chrono::Utc::now().timestamp_millis();
        let entry = CatalogEntry::new(text, parameters, at).restricted(is_restricted);
        let number = self.store.append(&entry).await?;
        drop(whole);
        self.maybe_shorten(number).await;
        Ok(said)
    }

    /// How the jobs are doing that run here, by name.
    pub(crate) fn statuses(&self) -> BTreeMap<String, JobStatus> {
        self.running.statuses()
    }

    /// Stops all jobs.
    pub(crate) async fn stop(&self) {
        self.running.stop_all().await;
    }
}

/// One call of a client that waits for the end of its statement.
#[derive(Clone)]
struct Call {
    engine: Arc<Engine>,
    asked: RequestContext,
    running: Arc<Running>,
}

impl Frontend for Call {
    type Done = CompletedStatement;
    type Run<'r> = BoxFuture<'r, Result<CompletedStatement>>;

    fn check(&self, parsed: &ParsedStatement) -> Result<()> {
        self.engine.check(&self.asked, parsed)
    }

    fn rows(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        let of = self.clone();
        let done = async move {
            let once = |parsed| of.engine.run_once(&of.asked, parsed, &of.running);
            repeated(parsed, once).await
        };
        let work = &self.engine.work;
        work.run(&self.running, Box::pin(done)).boxed()
    }

    fn endless(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        let error = Error::invalid("the statement returns endless rows");
        let error = error.with_help("ask for its rows and read them as they come");
        std::future::ready(Err(parsed.places.locate(error))).boxed()
    }

    fn definition(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        let (engine, asked) = (Arc::clone(&self.engine), self.asked.clone());
        let defined = engine.define_as(Arc::clone(&self.running), asked, parsed);
        let said = self.engine.work.finish(&self.running, Box::pin(defined));
        async move { CompletedStatement::said(said.await?) }.boxed()
    }

    fn setting(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        let said = self.engine.set(&self.asked, &parsed);
        let done = said.and_then(CompletedStatement::said);
        let done = done.map_err(|error| parsed.places.locate(error));
        std::future::ready(done).boxed()
    }

    fn cancel(&self, parsed: ParsedStatement) -> Self::Run<'_> {
        let Statement::KillQuery(id) = &parsed.statement else {
            let error = Error::internal("the statement ends no other");
            return std::future::ready(Err(error)).boxed();
        };
        let said = self.engine.cancel(&self.asked, id);
        let done = said.and_then(CompletedStatement::said);
        let done = done.map_err(|error| parsed.places.locate(error));
        std::future::ready(done).boxed()
    }
}

/// The word for the user of a statement without rows.
fn outcome_text(outcome: StatementOutcome) -> String {
    match outcome {
        StatementOutcome::Done(said) => said,
        StatementOutcome::Rows(_) | StatementOutcome::Insert(_) => String::new(),
    }
}

/// The job that has to be started again after this statement.
fn job_to_restart(job: &JobStatement) -> Option<String> {
    match job {
        JobStatement::Create {
            explain: false,
            or_replace: true,
            name,
            ..
        }
        | JobStatement::Drop { name, .. } => Some(normalize(name)),
        _ => None,
    }
}

fn batch(name: &str, column: ArrayRef) -> Result<RecordBatch> {
    RecordBatch::try_from_iter([(name, column)]).map_err(|error| Error::internal(error.to_string()))
}
