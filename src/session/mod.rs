//! Session: the only place that builds a DataFusion context, and that runs statements in it.

pub(crate) mod catalog;
pub(crate) mod context;
pub(crate) mod limits;
pub(crate) mod names;
pub(crate) mod physical;
pub(crate) mod rewrite;
pub(crate) mod statements;
pub(crate) mod system;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_udfs::CompletionNotices;
use datafusion::arrow::array::{AsArray as _, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef, UInt64Type};
use datafusion::common::TableReference;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{CreateExternalTable, DdlStatement, LogicalPlan};
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::Statement as AnsiStatement;
use futures::StreamExt as _;

use crate::core::stack::on_stack;
use crate::error::{Error, Result, Subject};
use crate::planner::{
    BOUND_ROWS, CreateView, Effect, ParsedStatement, Statement, Text, Writes, normalize,
    read_bound_rows,
};
use crate::session::catalog::{Catalog, TableEntry};
use crate::tables::delta::{OptimizeSpec, VacuumSpec};

use crate::session::catalog::unopened::Unopened;
use crate::session::context::memory::JobPool;
use crate::session::context::states::{StatementState, States};
use crate::session::names::labels::Labels;
use crate::session::rewrite::arguments::Purpose;
use crate::session::statements::create::{IfMissing, ViewName};
use context::Resources;

pub(crate) use crate::session::limits::unwanted::{Unwanted, until_unwanted};
pub use context::{ForkOptions, IsClosed, JobMemory, MayName, SessionOptions, TablePlace};
pub use system::{batch_rows, job_rows, versions};

/// The number of attempts for a statement that changes rows, if other writers change the same rows.
pub const ATTEMPTS: usize = 5;

/// The result of a statement.
pub enum Outcome {
    /// Rows, as a stream.
    Rows(Execution),
    /// A running INSERT, DELETE, UPDATE or MERGE: its stream has one row with one count.
    Insert(Execution),
    /// The statement is done; with a message for the user.
    Done(String),
}

/// The name of the catalog, the only one.
pub const CATALOG: &str = context::CATALOG;

/// The name of the schema of tables and views.
pub const SCHEMA: &str = context::SCHEMA;

/// A planned statement; its rows come once it is started.
#[derive(Clone)]
pub struct Planned {
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    answer: Option<Answer>,
    /// An argument has no value: the plan has the statement's columns, and does not run.
    is_left_open: bool,
}

/// The rows of a statement, if planning already computed them.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) rows: RecordBatch,
    /// Whether the same text gives these rows to every user at any time.
    pub(crate) is_always: bool,
}

impl Planned {
    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    /// Its rows, if planning already computed them.
    pub(crate) fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// Whether it has the statement's columns alone: to run, the statement is planned again.
    pub(crate) fn is_left_open(&self) -> bool {
        self.is_left_open
    }
}

/// The result of planning a statement.
pub enum Ready {
    /// Rows, once the statement is started.
    Rows(Planned),
    /// A statement that writes rows, as in [`Outcome::Insert`].
    Insert(Planned),
    /// A statement without rows, already run; with a message for the user.
    Done(String),
}

impl Ready {
    /// The plan of a statement that returns rows.
    ///
    /// # Errors
    /// The statement returns no rows.
    pub fn planned(self) -> Result<Planned> {
        match self {
            Ready::Rows(planned) | Ready::Insert(planned) => Ok(planned),
            Ready::Done(_) => Err(Error::internal("the statement has no rows")),
        }
    }
}

/// A running statement.
pub struct Execution {
    /// The rows.
    pub stream: SendableRecordBatchStream,
    /// The plan, whose metrics grow while the stream is read.
    pub plan: Arc<dyn ExecutionPlan>,
}

impl Execution {
    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// Runs it to its end; returns all rows as one batch.
    ///
    /// # Errors
    /// The errors of the statement.
    pub(crate) async fn rows(self) -> Result<RecordBatch> {
        let schema = self.schema();
        let batches = datafusion::physical_plan::common::collect(self.stream).await?;
        let batch = concat_batches(&schema, &batches);
        batch.map_err(|error| Error::internal(error.to_string()))
    }

    /// Runs an INSERT to its end; returns the number of rows written.
    ///
    /// # Errors
    /// The errors of the statement.
    pub async fn written(mut self) -> Result<u64> {
        let mut rows = 0;
        while let Some(batch) = self.stream.next().await {
            let batch = batch?;
            if let Some(counts) = batch.column(0).as_primitive_opt::<UInt64Type>() {
                rows += counts.values().iter().sum::<u64>();
            }
        }
        Ok(rows)
    }
}

/// Tables, views and settings, and the engine that runs statements over them, for one user at a time.
pub struct Session {
    pub(crate) context: SessionContext,
    pub(crate) catalog: Arc<Catalog>,
    notices: Arc<CompletionNotices>,
    options: SessionOptions,
    /// Its restrictions, if it is a fork.
    fork: ForkOptions,
    /// The state that it shares with its forks.
    common: Arc<SessionState>,
    /// The memory and disk of the session and its forks.
    resources: Resources,
    pub(crate) states: States,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Session {
    /// Creates a session without tables.
    ///
    /// # Errors
    /// Options that the engine refuses.
    pub fn try_new(options: &SessionOptions) -> Result<Self> {
        let resources = Resources::try_new(options)?;
        let common = context::common(options, Arc::clone(&resources.statements))?;
        let whole = ForkOptions::default();
        Self::with_catalog(options, &whole, Catalog::default(), common, resources)
    }

    /// A session with the same tables, whose statements run concurrently with those of this one.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn fork(&self, fork: &ForkOptions) -> Result<Self> {
        let common = Arc::clone(&self.common);
        self.forked(fork, common)
    }

    /// A fork with the same permissions, with the memory and caches of jobs instead of those of statements.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub(crate) fn fork_of_job(&self) -> Result<(Self, Arc<JobPool>)> {
        let fork = ForkOptions {
            memory_limit: None,
            ..self.fork.clone()
        };
        let (common, pool) = self.resources.of_job(&self.common)?;
        let session = self.forked(&fork, common)?;
        let runtime = session.context.runtime_env();
        let statistics = runtime.cache_manager.get_file_statistic_cache();
        session.catalog.keep_statistics_in(statistics.as_ref());
        Ok((session, pool))
    }

    fn forked(&self, fork: &ForkOptions, common: Arc<SessionState>) -> Result<Self> {
        let may_name = fork.may_name.as_ref();
        let may_name = may_name.map(|may_name| move |name: &str| may_name(context::SCHEMA, name));
        let catalog = self.catalog.fork(may_name, fork.is_closed.as_ref());
        let resources = self.resources.clone();
        Self::with_catalog(&self.options, fork, catalog, common, resources)
    }

    /// Whether this fork behaves for the next statement like a new fork of `whole`. A fork that may not use every table serves
    /// one statement only: it does not record for which user it was made.
    pub(crate) fn can_serve(&self, whole: &Session) -> bool {
        self.catalog.version() == whole.catalog.version()
            && !self.states.has_changed()
            && self.fork.may_name.is_none()
    }

    /// Whether no statement of this fork is still running: it could add warnings, or hold memory, at the expense of the next
    /// one.
    pub(crate) fn is_at_rest(&self) -> bool {
        let pool = &self.context.runtime_env().memory_pool;
        self.states.are_at_rest() && (self.fork.memory_limit.is_none() || pool.reserved() == 0)
    }

    /// Whether these are the options of this fork, and allow all tables.
    pub(crate) fn is_fork_with(&self, options: &ForkOptions) -> bool {
        options.may_name.is_none()
            && self.fork.time_zone == options.time_zone
            && self.fork.memory_limit == options.memory_limit
            && self.fork.only_reads == options.only_reads
    }

    /// Drops the table snapshots and warnings of the last statement: they are of no use to another one.
    pub(crate) fn end_statement(&self) {
        self.catalog.begin_statement();
        self.take_warnings();
    }

    /// A fork with the same permissions as this one.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub(crate) fn fork_alike(&self) -> Result<Self> {
        self.fork(&self.fork)
    }

    /// Bytes that its statements may hold, if it is limited more than the process.
    pub(crate) fn memory_limit(&self) -> Option<usize> {
        self.fork.memory_limit
    }

    /// Bytes that all statements and jobs of the process may hold.
    pub(crate) fn memory_of_all(&self) -> usize {
        self.resources.limit()
    }

    /// Bytes that statements and jobs of the process hold in sorts, aggregates and joins.
    pub(crate) fn memory_reserved(&self) -> usize {
        self.resources.reserved()
    }

    fn with_catalog(
        options: &SessionOptions,
        fork: &ForkOptions,
        catalog: Catalog,
        common: Arc<SessionState>,
        resources: Resources,
    ) -> Result<Self> {
        let notices: Arc<CompletionNotices> = Arc::default();
        let told = Arc::clone(&notices);
        let (context, catalog) = context::build(options, fork, told, catalog, &common)?;
        Ok(Self {
            options: options.clone(),
            fork: fork.clone(),
            common,
            resources,
            states: States::new(context.clone()),
            warnings: Arc::default(),
            context,
            catalog,
            notices,
        })
    }

    /// Adds a warning to the result of the statement.
    pub(crate) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push(warning);
    }

    /// Returns the warnings of the statements since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut said = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let said = std::mem::take(&mut *said);
        let capped = self.notices.drain().into_iter().map(|capped| {
            let (from, to) = &capped.searched;
            format!(
                "{} sessions were still open where COMPLETE_SESSIONS stopped searching ({from} to {to}): \
                 they may be incomplete; a larger max_extension searches further: {}",
                capped.sessions,
                capped.names()
            )
        });
        said.into_iter().chain(capped).collect()
    }

    /// The names of tables and views, sorted.
    pub fn table_names(&self) -> Vec<String> {
        self.catalog.names()
    }

    /// The column names of all tables that are known without a request to a broker or a store.
    pub fn column_names(&self) -> Vec<String> {
        self.catalog.column_names()
    }

    /// All tables and views as metadata lists them: schema, name, and `TABLE`, `VIEW` or `SYSTEM TABLE`.
    pub fn relations(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found: Vec<_> = self
            .catalog
            .names()
            .into_iter()
            .map(|name| {
                let kind = match self.catalog.entry(&name) {
                    Some(TableEntry::View(_)) => "VIEW",
                    _ => "TABLE",
                };
                (context::SCHEMA, name, kind)
            })
            .collect();
        let system = self.context.catalog(context::CATALOG);
        let system = system.and_then(|catalog| catalog.schema(system::SYSTEM));
        let names = system.map_or_else(Vec::new, |schema| schema.table_names());
        found.extend(
            names
                .into_iter()
                .map(|name| (system::SYSTEM, name, "SYSTEM TABLE")),
        );
        found
    }

    /// The columns of a table or view.
    ///
    /// # Errors
    /// There is no such table, or it cannot be opened.
    pub async fn columns_of(&self, schema: &str, name: &str) -> Result<SchemaRef> {
        self.catalog.begin(Purpose::Describe);
        let catalog = self.context.catalog(context::CATALOG);
        let found = catalog.and_then(|catalog| catalog.schema(schema));
        let table = match found {
            Some(found) => found.table(name).await?,
            None => None,
        };
        let table = table.ok_or_else(|| self.catalog.no_such_table(name))?;
        Ok(table.schema())
    }

    /// The locations of the tables with these names.
    pub(crate) fn places_of(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<TablePlace> {
        self.catalog.places(is_wanted)
    }

    /// Records whether the user who declared a table may use certain tables only.
    pub(crate) fn set_restricted(&self, name: &str, is_restricted: bool) {
        self.catalog.set_restricted(name, is_restricted);
    }

    /// Whether a restricted user declared the table: one who may use certain tables only.
    pub(crate) fn is_restricted(&self, name: &str) -> bool {
        self.catalog.is_restricted(name)
    }

    /// How a table or view was declared, without secrets.
    ///
    /// # Errors
    /// No such table.
    pub fn definition(&self, name: &str) -> Result<String> {
        self.catalog.definition(name)
    }

    /// Creates a view that was planned in a fork of this session; returns a message for the user.
    ///
    /// # Errors
    /// The name is taken.
    pub(crate) fn define_view(&self, view: CreateView, text: &str) -> Result<String> {
        Ok(
            match crate::session::statements::create::check_name(&self.catalog, &view)? {
                ViewName::Free(name) => {
                    crate::session::statements::create::keep_view(&self.catalog, &name, view, text)
                }
                ViewName::Taken(said) => said,
            },
        )
    }

    /// Runs a stored definition, with a time limit. If it fails, the catalog keeps the definition: its name is taken, and
    /// statements that use it try again. A Delta table that is missing at its location is not created again, and neither is a
    /// table in memory. The definition replaces an entry of the same name in the session.
    ///
    /// # Errors
    /// Why the table cannot be opened, or the definition cannot be kept.
    pub(crate) async fn restore(&self, parsed: ParsedStatement, limit: Duration) -> Result<()> {
        if let Statement::CreateView(view) = &parsed.statement {
            // Statements that use the view check the tables of its query: here those may be unavailable.
            let name = rewrite::plain_name(&view.name)?;
            crate::session::statements::create::keep_view(
                &self.catalog,
                &name,
                view.as_ref().clone(),
                &parsed.text,
            );
            return Ok(());
        }
        if let Statement::CreateTable(table) = &parsed.statement {
            let name = rewrite::plain_name(&table.name)?;
            let opened =
                crate::session::statements::create::open_table(table, &name, IfMissing::Refuse);
            match crate::session::catalog::unopened::within(limit, opened).await {
                Ok(entry) => self.catalog.put(&name, entry, parsed.text),
                Err(error) => {
                    self.keep(&name, Some(parsed.clone()), &parsed.text, &error);
                    return Err(error);
                }
            }
            return Ok(());
        }
        if parsed.effect.creates_in_memory()
            && let [name] = parsed.effect.defined_names()
        {
            // An earlier release stored such definitions. To run one again would run its query again.
            let error = Error::unsupported(
                "CREATE TABLE made it in memory, and its rows ended with the server that made it",
            )
            .with_help("DROP it, and declare a table that lasts, STORED AS DELTA");
            self.keep(name, None, &parsed.text, &error);
            return Err(error);
        }
        let kept = parsed.clone();
        if let Some(name) = created(&kept.effect) {
            // DataFusion's own statements refuse a name that is taken: here another definition may have it.
            self.catalog.remove(name);
        }
        let done = crate::session::catalog::unopened::within(limit, self.execute(parsed)).await;
        if let (Err(error), Some(name)) = (&done, created(&kept.effect)) {
            self.keep(name, Some(kept.clone()), &kept.text, error);
        }
        done.map(drop)
    }

    /// Reserves a name for a definition that this program cannot read.
    pub(crate) fn keep_unreadable(&self, name: &str, text: &str, error: &Error) {
        self.keep(name, None, text, error);
    }

    fn keep(&self, name: &str, statement: Option<ParsedStatement>, text: &str, error: &Error) {
        let unopened = Unopened::new(name, statement, error);
        let entry = TableEntry::Unopened(Arc::new(unopened));
        self.catalog.put(name, entry, text.to_owned());
    }

    /// The tables that are defined and not open, with the reason of each.
    pub(crate) fn unopened(&self) -> Vec<(String, String)> {
        self.catalog.unopened()
    }

    /// Tries again to open a table, with a time limit.
    ///
    /// # Errors
    /// Why it cannot be opened now.
    pub(crate) async fn open_again(&self, name: &str, limit: Duration) -> Result<()> {
        match self.catalog.entry(name) {
            Some(TableEntry::Unopened(unopened)) => {
                crate::session::catalog::unopened::within(limit, unopened.open())
                    .await
                    .map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Whether running its statement again opens a table, in the session that keeps the definitions.
    pub(crate) fn is_run_again(&self, name: &str) -> bool {
        match self.catalog.entry(name) {
            Some(TableEntry::Unopened(unopened)) => unopened.to_run_again().is_some(),
            _ => false,
        }
    }

    /// Runs the statement of such a table again, with a time limit.
    ///
    /// # Errors
    /// Why it fails now.
    pub(crate) async fn run_again(&self, name: &str, limit: Duration) -> Result<()> {
        let Some(TableEntry::Unopened(unopened)) = self.catalog.entry(name) else {
            return Ok(());
        };
        let Some(statement) = unopened.to_run_again() else {
            return Ok(());
        };
        let is_restricted = self.catalog.is_restricted(name);
        // DataFusion's own statements refuse a name that is taken.
        let kept = self.catalog.remove(name);
        let done =
            crate::session::catalog::unopened::within(limit, self.execute(statement.clone())).await;
        if done.is_err()
            && let Some((entry, definition)) = kept
        {
            self.catalog.put(name, entry, definition);
        }
        if is_restricted {
            self.catalog.set_restricted(name, true);
        }
        done.map(drop)
    }

    /// The names of all functions.
    pub fn function_names(&self) -> Vec<String> {
        let state = self.context.state();
        let mut names: Vec<String> = state.scalar_functions().keys().cloned().collect();
        names.extend(state.aggregate_functions().keys().cloned());
        names.extend(state.window_functions().keys().cloned());
        names.sort();
        names.dedup();
        names
    }

    /// Adds rows as a table of the session, in memory.
    ///
    /// # Errors
    /// The name is taken.
    pub fn register_batch(&self, name: &str, batch: RecordBatch) -> Result<()> {
        self.context.register_batch(name, batch)?;
        Ok(())
    }

    /// The types that a statement's unbound parameters should have, by name without `$`, as far as they can be inferred.
    pub async fn parameter_types(&self, parsed: &ParsedStatement) -> HashMap<String, DataType> {
        let Statement::Sql(sql) = &parsed.statement else {
            return HashMap::new();
        };
        // A parameter within a cast is bound as the type of the cast.
        let mut types = crate::session::rewrite::standard::cast_types(sql);
        self.catalog.begin(Purpose::Describe);
        let found = async {
            let plan = match self.logical_plan(sql.as_ref().clone()).await {
                Ok((_, plan)) => plan,
                // The engine takes an operand added to a time for a time too, which has no type.
                Err(error) => match crate::session::rewrite::standard::with_spans(sql) {
                    Some(spans) => self.logical_plan(spans).await?.1,
                    None => return Err(error),
                },
            };
            Ok::<_, Error>(crate::session::statements::parameters::types(&plan))
        };
        types.extend(on_stack(found).await.unwrap_or_default());
        types
    }

    /// Runs a statement whose parameters are bound.
    ///
    /// # Errors
    /// With the place in the statement's text if it is known, or else that of its first word.
    pub async fn execute(&self, parsed: ParsedStatement) -> Result<Outcome> {
        let places = parsed.places.clone();
        let begun = async { self.begin_ready(self.ready(parsed, Purpose::Run).await?) };
        on_stack(begun).await.map_err(|error| places.locate(error))
    }

    /// Plans a statement that returns rows, and does not run it.
    ///
    /// # Errors
    /// As [`Session::execute`]; a statement without rows.
    pub async fn plan(&self, parsed: ParsedStatement) -> Result<Planned> {
        self.plan_for(parsed, Purpose::Run).await
    }

    /// Plans a statement that returns rows for its columns: no query runs, and what depends on the value of one is left open.
    ///
    /// # Errors
    /// As [`Session::plan`].
    pub(crate) async fn describe(&self, parsed: ParsedStatement) -> Result<Planned> {
        let mut planned = self.plan_for(parsed, Purpose::Describe).await?;
        planned.is_left_open = planned.answer.is_none() && self.catalog.is_left_open();
        Ok(planned)
    }

    async fn plan_for(&self, parsed: ParsedStatement, purpose: Purpose) -> Result<Planned> {
        let places = parsed.places.clone();
        let planned = async { self.ready(parsed, purpose).await?.planned() };
        on_stack(planned)
            .await
            .map_err(|error| places.locate(error))
    }

    /// Starts a statement if it returns rows.
    ///
    /// # Errors
    /// A source that cannot be opened.
    pub fn begin_ready(&self, ready: Ready) -> Result<Outcome> {
        Ok(match ready {
            Ready::Rows(planned) => Outcome::Rows(self.begin(planned)?),
            Ready::Insert(planned) => Outcome::Insert(self.begin(planned)?),
            Ready::Done(said) => Outcome::Done(said),
        })
    }

    /// Starts a planned query.
    ///
    /// # Errors
    /// A source that cannot be opened.
    pub fn begin(&self, planned: Planned) -> Result<Execution> {
        let Planned {
            plan,
            task,
            answer: _,
            is_left_open,
        } = planned;
        if is_left_open {
            return Err(Error::internal("the plan is for the columns alone"));
        }
        let stream = execute_stream(Arc::clone(&plan), task)?;
        let stream = match self.fork.only_reads {
            true => {
                crate::session::catalog::dead_letters::count(stream, &self.catalog, &self.warnings)
            }
            false => {
                crate::session::catalog::dead_letters::keep(stream, &self.catalog, &self.context)
            }
        };
        Ok(Execution { stream, plan })
    }

    /// Runs a query or INSERT to its end and collects its rows: for tests and small results.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn collect(&self, parsed: ParsedStatement) -> Result<Vec<RecordBatch>> {
        let places = parsed.places.clone();
        match self.execute(parsed).await? {
            Outcome::Done(_) => Ok(Vec::new()),
            Outcome::Rows(execution) | Outcome::Insert(execution) => {
                datafusion::physical_plan::common::collect(execution.stream)
                    .await
                    .map_err(|error| places.locate(error.into()))
            }
        }
    }

    /// Plans statements that return rows, and runs the others. The futures of rare statements are boxed: a query's future need
    /// not carry them.
    async fn ready(&self, parsed: ParsedStatement, purpose: Purpose) -> Result<Ready> {
        self.catalog
            .begin(match shows_only_columns(&parsed.statement) {
                true => Purpose::Describe,
                false => purpose,
            });
        let ready = self.planned_or_done(parsed).await;
        self.catalog.end_planning();
        ready
    }

    async fn planned_or_done(&self, parsed: ParsedStatement) -> Result<Ready> {
        match parsed.statement {
            Statement::CreateTable(table) => {
                let made = crate::session::statements::create::create_table(
                    &self.catalog,
                    &table,
                    &parsed.text,
                );
                Box::pin(made).await.map(Ready::Done)
            }
            Statement::CreateView(view) => {
                let made = crate::session::statements::create::create_view(
                    &self.context,
                    &self.catalog,
                    *view,
                    &parsed.text,
                );
                Box::pin(made).await.map(Ready::Done)
            }
            Statement::ShowTables => {
                self.report(crate::session::statements::describe::tables(&self.catalog)?)
            }
            Statement::Describe(name) => {
                let name = self.table_name(&name)?;
                let columns = crate::session::statements::describe::columns(&self.catalog, &name);
                self.report(Box::pin(columns).await?)
            }
            Statement::DescribeQuery(query) => {
                let labels = Labels::of(&query);
                let (_, plan) = Box::pin(self.logical_plan(*query)).await?;
                let schema = labels.schema(Arc::clone(plan.schema().inner()));
                self.report(crate::session::statements::describe::fields(&schema)?)
            }
            Statement::Summarize(query) => {
                let labels = Labels::of(&query);
                let (state, plan) = Box::pin(self.plan_with_arguments(*query)).await?;
                let schema = labels.schema(Arc::clone(plan.schema().inner()));
                let names: Vec<String> =
                    schema.fields().iter().map(|of| of.name().clone()).collect();
                let summary = crate::session::statements::summarize::summary(&state, plan, &names)?;
                Ok(Ready::Rows(
                    Box::pin(self.physical_plan(&state, &summary)).await?,
                ))
            }
            Statement::ShowCreateTable(name) => {
                let name = self.table_name(&name)?;
                let definition = self.catalog.definition(&name)?;
                self.report(crate::session::statements::describe::definition(
                    &name,
                    &definition,
                )?)
            }
            Statement::Optimize { table, zorder_by } => {
                let name = self.table_name(&table)?;
                let spec = OptimizeSpec {
                    zorder_by: zorder_by.iter().map(normalize).collect(),
                };
                let runtime = self.context.runtime_env();
                let table = self.catalog.delta(&name).await?;
                let report = table.optimize(&spec, Some(runtime));
                self.report(Box::pin(report).await?)
            }
            Statement::Vacuum {
                table,
                retain_hours,
                dry_run,
            } => {
                let name = self.table_name(&table)?;
                let spec = VacuumSpec {
                    retain_hours: retain_hours.map(parse_hours).transpose()?,
                    dry_run,
                };
                let table = self.catalog.delta(&name).await?;
                self.report(Box::pin(table.vacuum(&spec)).await?)
            }
            Statement::History(table) => {
                let name = self.table_name(&table)?;
                let table = self.catalog.delta(&name).await?;
                self.report(Box::pin(table.history()).await?)
            }
            Statement::ShowQueries | Statement::KillQuery(_) => {
                Err(Error::unsupported("only a server keeps a list of queries")
                    .with_help("send it to `anabranch serve`"))
            }
            Statement::Job(job) => Err(Error::unsupported(format!(
                "{} is for whoever runs the jobs",
                job.verb()
            ))),
            Statement::Sql(mut sql) => {
                let (effect, text) = (&parsed.effect, &parsed.text);
                let Some(rows) = parsed.rows else {
                    return self.run_sql(*sql, effect, text).await;
                };
                read_bound_rows(&mut sql)?;
                self.context
                    .register_batch(TableReference::bare(BOUND_ROWS), rows)?;
                let ready = Box::pin(self.run_sql(*sql, effect, text)).await;
                self.context
                    .deregister_table(TableReference::bare(BOUND_ROWS))?;
                ready
            }
        }
    }

    async fn run_sql(&self, sql: SqlStatement, effect: &Effect, text: &str) -> Result<Ready> {
        if let Writes::Drops { names, .. } = &effect.writes {
            for name in names {
                self.catalog.pin_for_drop(name);
            }
        }
        let labels = Labels::of(&sql);
        let typed = crate::session::catalog::file_names::typed(&sql);
        let (state, plan) = self.plan_with_arguments(sql).await?;
        match &plan {
            LogicalPlan::Ddl(DdlStatement::CreateExternalTable(table)) if !typed.is_empty() => {
                let verb = format!("table {}", table.name);
                let made = self.create_renamed(&state, table.as_ref().clone(), &typed);
                Box::pin(made).await?;
                self.states.change();
                self.catalog.describe_new(text);
                Ok(Ready::Done(verb))
            }
            LogicalPlan::Ddl(ddl) => {
                let verb = done_message(ddl)?;
                Box::pin(self.context.execute_logical_plan(plan)).await?;
                self.states.change();
                self.catalog.describe_new(text);
                Ok(Ready::Done(verb))
            }
            LogicalPlan::Statement(_) => {
                Box::pin(self.context.execute_logical_plan(plan)).await?;
                self.states.change();
                Ok(Ready::Done(first_words(text)))
            }
            LogicalPlan::Dml(_) => Ok(Ready::Insert(self.physical_plan(&state, &plan).await?)),
            _ => match crate::session::statements::constants::row(&state, &plan)? {
                Some(mut answer) => {
                    answer.rows = labels.rows(&answer.rows)?;
                    Ok(Ready::Rows(self.planned_answer(answer)?))
                }
                None => {
                    let mut planned = self.physical_plan(&state, &plan).await?;
                    planned.plan =
                        labels.plan(crate::session::names::labels::readable(planned.plan))?;
                    Ok(Ready::Rows(planned))
                }
            },
        }
    }

    /// Creates a table over files whose fields have the original spelling of the columns.
    async fn create_renamed(
        &self,
        state: &SessionState,
        table: CreateExternalTable,
        typed: &[Field],
    ) -> Result<()> {
        let name = table.name.clone();
        let is_there = self.context.table_exist(name.clone())?;
        let (table, names) =
            crate::session::catalog::file_names::with_names_of_files(state, table, typed).await?;
        let keeps = is_there && table.if_not_exists;
        let plan = LogicalPlan::Ddl(DdlStatement::CreateExternalTable(Box::new(table)));
        self.context.execute_logical_plan(plan).await?;
        if !keeps {
            let files = self.context.table_provider(name.clone()).await?;
            self.context.deregister_table(name.clone())?;
            let renamed = crate::session::catalog::file_names::Renamed::new(files, &names);
            self.context.register_table(name, Arc::new(renamed))?;
        }
        Ok(())
    }

    /// The plan with the values of the queries in its arguments, if it is to run, and the state in which it was made.
    async fn plan_with_arguments(
        &self,
        sql: SqlStatement,
    ) -> Result<(StatementState<'_>, LogicalPlan)> {
        let (state, plan) = self.logical_plan(sql).await?;
        let plan = self.catalog.with_arguments(&self.context, plan).await?;
        Ok((state, plan))
    }

    /// The plan, and the state in which it was made.
    async fn logical_plan(
        &self,
        mut sql: SqlStatement,
    ) -> Result<(StatementState<'_>, LogicalPlan)> {
        let made = Labels::of_made(&sql);
        Box::pin(rewrite::prepare(&self.context, &self.catalog, &mut sql)).await?;
        let state = self.states.state();
        match crate::session::names::apart::plan_apart(&state, &sql).await {
            Ok(plan) => {
                crate::session::limits::plan_limits::check(&plan)?;
                crate::session::rewrite::recursion::check(&plan, &sql)?;
                let plan = match made {
                    Some(names) => crate::session::names::inner_names::made(plan, &names)?,
                    None => plan,
                };
                Ok((
                    state,
                    crate::session::rewrite::inserted::with_nullable_values(plan)?,
                ))
            }
            Err(error) => Err(self.catalog.missing_table(error, sql)),
        }
    }

    /// A batch as the rows of a statement.
    pub(crate) fn report(&self, batch: RecordBatch) -> Result<Ready> {
        Ok(Ready::Rows(self.planned_batch(batch)?))
    }

    /// A batch as the rows of a statement that is started later.
    pub(crate) fn planned_batch(&self, batch: RecordBatch) -> Result<Planned> {
        self.planned_answer(Answer {
            rows: batch,
            is_always: false,
        })
    }

    fn planned_answer(&self, answer: Answer) -> Result<Planned> {
        let (rows, schema) = (answer.rows.clone(), answer.rows.schema());
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None)?;
        Ok(Planned {
            plan,
            task: self.states.task(),
            answer: Some(answer),
            is_left_open: false,
        })
    }

    /// An endless stream as the rows of a statement that is started later.
    pub(crate) fn planned_stream(&self, rows: Arc<dyn PartitionStream>) -> Result<Planned> {
        let schema = Arc::clone(rows.schema());
        let plan = StreamingTableExec::try_new(schema, vec![rows], None, [], true, None)?;
        Ok(Planned {
            plan: Arc::new(plan),
            task: self.states.task(),
            answer: None,
            is_left_open: false,
        })
    }

    async fn physical_plan(&self, state: &SessionState, plan: &LogicalPlan) -> Result<Planned> {
        Ok(Planned {
            plan: state.create_physical_plan(plan).await?,
            task: self.states.task(),
            answer: None,
            is_left_open: false,
        })
    }

    fn table_name(&self, name: &datafusion::sql::sqlparser::ast::ObjectName) -> Result<String> {
        rewrite::plain_name(name)
    }
}

fn parse_hours(hours: Text) -> Result<u64> {
    hours.value.parse().map_err(|_| {
        Error::invalid(format!(
            "RETAIN takes a whole number of hours, not '{}'",
            hours.value
        ))
        .about(Subject::text(&hours.value))
        .at(hours.span)
    })
}

/// The message for a statement of DataFusion's own DDL, if it is about tables and views: there is one catalog with one schema,
/// and no other kind of object in it.
fn done_message(ddl: &DdlStatement) -> Result<String> {
    Ok(match ddl {
        DdlStatement::CreateExternalTable(table) => format!("table {}", table.name),
        DdlStatement::CreateMemoryTable(table) => format!("table {}", table.name),
        DdlStatement::DropTable(table) => format!("dropped {}", table.name),
        DdlStatement::DropView(view) => format!("dropped {}", view.name),
        other => {
            let verb = other.name().to_lowercase();
            return Err(Error::unsupported(format!("{verb} is not supported"))
                .with_help("tables, views and jobs are made and dropped; they are all in the schema public"));
        }
    })
}

/// Whether a statement shows columns or a plan, or keeps a query: then the query's arguments need no values.
fn shows_only_columns(statement: &Statement) -> bool {
    match statement {
        Statement::CreateView(_) | Statement::Describe(_) | Statement::DescribeQuery(_) => true,
        Statement::Sql(sql) => match sql.as_ref() {
            SqlStatement::Explain(explain) => !explain.options.analyze,
            SqlStatement::Statement(ansi) => matches!(
                ansi.as_ref(),
                AnsiStatement::Explain { analyze: false, .. } | AnsiStatement::CreateView(_)
            ),
            _ => false,
        },
        _ => false,
    }
}

/// The table or view that a statement creates.
fn created(effect: &Effect) -> Option<&str> {
    match &effect.writes {
        Writes::Creates { name, .. } => name.as_deref(),
        _ => None,
    }
}

/// The leading upper-case words of a statement, for the message that it is done.
fn first_words(text: &str) -> String {
    let words: Vec<String> = text
        .split_whitespace()
        .take_while(|word| word.chars().all(|c| c.is_ascii_alphabetic()))
        .take(2)
        .map(str::to_uppercase)
        .collect();
    words.join(" ")
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("tables", &self.table_names())
            .finish_non_exhaustive()
    }
}
