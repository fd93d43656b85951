//! A session: the only place that builds a DataFusion context, and that runs statements in it.

mod apart;
mod bounded_literals;
mod bounded_plan;
mod bytes;
mod casts;
mod catalog;
mod constants;
mod context;
mod copies;
mod create;
mod dead_letters;
mod delimiters;
mod describe;
mod dialects;
mod expansion;
mod few_rows;
mod file_names;
mod frames;
mod grouping;
mod ingest;
mod inner_names;
mod inserted;
mod jobs;
mod labels;
mod likes;
mod literals;
mod measures;
mod memory;
mod names;
mod nan;
mod one_nan;
mod parameters;
mod parts;
mod plan_limits;
mod recursion;
mod rewrite;
mod room;
mod rows;
mod scope;
#[cfg(test)]
mod scope_tests;
mod series;
mod sizes;
mod spread;
mod standard;
mod stars;
mod state_names;
mod states;
mod streaming;
mod summarize;
mod system;
mod system_scan;
mod top_groups;
mod type_fields;
mod unopened;
mod unwanted;
mod value_rows;
mod view_barrier;
#[cfg(test)]
mod view_barrier_tests;
mod weights;
mod yielding;

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
use futures::StreamExt as _;

use crate::core::stack::on_stack;
use crate::error::{Error, Result};
use crate::planner::{
    BOUND_ROWS, CreateView, ParsedStatement, Statement, Text, normalize, read_bound_rows,
};
use crate::session::catalog::{Catalog, TableEntry};
use crate::tables::delta::{OptimizeSpec, VacuumSpec};

use context::Resources;
use create::{IfMissing, ViewName};
use labels::Labels;
use memory::JobPool;
use states::{StatementState, States};
use unopened::Unopened;

pub use context::{ForkOptions, IsClosed, JobMemory, MayName, SessionOptions, TablePlace};
pub(crate) use jobs::reads_what_it_writes;
pub use jobs::{
    BatchPlan, BatchSides, BatchSource, FrontBatch, JobQuery, JobSinkTable, LastRecords,
};
pub use streaming::{FrontPlan, StreamQuery, StreamTable};
pub use system::{batch_rows, job_rows, versions};
pub(crate) use unwanted::{Unwanted, until_unwanted};

/// What a statement gives.
pub enum Outcome {
    /// Rows, as they come.
    Rows(Execution),
    /// An INSERT at work: its stream has one row with one count.
    Insert(Execution),
    /// Done, with a word for the user.
    Done(String),
}

/// The name of the one catalog there is.
pub const CATALOG: &str = context::CATALOG;

/// The name of the schema of tables and views.
pub const SCHEMA: &str = context::SCHEMA;

/// A statement that was planned: its rows come when it is begun.
#[derive(Clone)]
pub struct Planned {
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    answer: Option<Answer>,
}

/// The rows of a statement, where planning it has given them.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) rows: RecordBatch,
    /// Its text gives these rows to everybody at any time.
    pub(crate) is_always: bool,
}

impl Planned {
    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    /// Its rows, if planning it has given them.
    pub(crate) fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }
}

/// What planning a statement gives.
pub enum Ready {
    /// Rows, once it is begun.
    Rows(Planned),
    /// An INSERT, as [`Outcome::Insert`].
    Insert(Planned),
    /// It has no rows, and was run; with a word for the user.
    Done(String),
}

impl Ready {
    /// The plan of a statement that gives rows.
    ///
    /// # Errors
    /// It gives none.
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

    /// Runs it to its end; gives all rows as one batch.
    ///
    /// # Errors
    /// The statement's.
    pub(crate) async fn rows(self) -> Result<RecordBatch> {
        let schema = self.schema();
        let batches = datafusion::physical_plan::common::collect(self.stream).await?;
        let batch = concat_batches(&schema, &batches);
        batch.map_err(|error| Error::internal(error.to_string()))
    }

    /// Runs an INSERT to its end; gives the number of rows written.
    ///
    /// # Errors
    /// The statement's.
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

/// Tables, views and settings, and the engine that runs statements over them, one user's at a time.
pub struct Session {
    context: SessionContext,
    catalog: Arc<Catalog>,
    notices: Arc<CompletionNotices>,
    options: SessionOptions,
    /// What it may do, if it is a fork.
    fork: ForkOptions,
    /// What it has in common with its forks.
    common: Arc<SessionState>,
    /// Their memory and disk.
    resources: Resources,
    states: States,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Session {
    /// A session without tables.
    ///
    /// # Errors
    /// Options the engine refuses.
    pub fn try_new(options: &SessionOptions) -> Result<Self> {
        let resources = Resources::try_new(options)?;
        let common = context::common(options, Arc::clone(&resources.statements))?;
        let whole = ForkOptions::default();
        Self::with_catalog(options, &whole, Catalog::default(), common, resources)
    }

    /// A session with the same tables, whose statements run beside those of this one.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn fork(&self, fork: &ForkOptions) -> Result<Self> {
        let common = Arc::clone(&self.common);
        self.forked(fork, common)
    }

    /// A fork that may do what this one may, with the memory of jobs in the place of that of statements.
    ///
    /// # Errors
    /// None that a caller could cause.
    fn fork_of_job(&self) -> Result<(Self, Arc<JobPool>)> {
        let fork = ForkOptions {
            memory_limit: None,
            ..self.fork.clone()
        };
        let (common, pool) = self.resources.of_job(&self.common);
        Ok((self.forked(&fork, common)?, pool))
    }

    fn forked(&self, fork: &ForkOptions, common: Arc<SessionState>) -> Result<Self> {
        let may_name = fork.may_name.as_ref();
        let may_name = may_name.map(|may_name| move |name: &str| may_name(context::SCHEMA, name));
        let catalog = self.catalog.fork(may_name, fork.is_closed.as_ref());
        let resources = self.resources.clone();
        Self::with_catalog(&self.options, fork, catalog, common, resources)
    }

    /// Whether a statement meets in this fork what it would meet in a new one of `whole`. One that may not name every table
    /// serves its first statement only: whose it was is not known.
    pub(crate) fn can_serve(&self, whole: &Session) -> bool {
        self.catalog.version() == whole.catalog.version()
            && !self.states.has_changed()
            && self.fork.may_name.is_none()
    }

    /// Whether nothing of its statements is at work any more: it could say something, or hold memory, at the next one's cost.
    pub(crate) fn is_at_rest(&self) -> bool {
        let pool = &self.context.runtime_env().memory_pool;
        self.states.are_at_rest() && (self.fork.memory_limit.is_none() || pool.reserved() == 0)
    }

    /// Whether these are the options of this fork, which may name every table.
    pub(crate) fn is_fork_with(&self, options: &ForkOptions) -> bool {
        options.may_name.is_none()
            && self.fork.time_zone == options.time_zone
            && self.fork.memory_limit == options.memory_limit
            && self.fork.only_reads == options.only_reads
    }

    /// Forgets what the last statement has seen and said: its snapshots of tables are of no use to another.
    pub(crate) fn end_statement(&self) {
        self.catalog.begin_statement();
        self.take_warnings();
    }

    /// A fork that may do what this one may.
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

    /// Says something besides the rows of a statement.
    pub(crate) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push(warning);
    }

    /// What the statements since the last call want said besides their rows.
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

    /// The column names of all tables that can be told without asking a broker or a store.
    pub fn column_names(&self) -> Vec<String> {
        self.catalog.column_names()
    }

    /// All tables and views with what they are called in metadata: schema, name, `TABLE`, `VIEW` or `SYSTEM TABLE`.
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
        let catalog = self.context.catalog(context::CATALOG);
        let found = catalog.and_then(|catalog| catalog.schema(schema));
        let table = match found {
            Some(found) => found.table(name).await?,
            None => None,
        };
        let table = table.ok_or_else(|| self.catalog.no_such_table(name))?;
        Ok(table.schema())
    }

    /// Where the tables of these names are.
    pub(crate) fn places_of(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<TablePlace> {
        self.catalog.places(is_wanted)
    }

    /// Says whether who declared a table may name some tables only.
    pub(crate) fn set_restricted(&self, name: &str, is_restricted: bool) {
        self.catalog.set_restricted(name, is_restricted);
    }

    /// Whether a restricted user declared the table: one who may name some tables only.
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

    /// Makes a view that was planned in a fork of this session; gives a word for the user.
    ///
    /// # Errors
    /// The name is taken.
    pub(crate) fn define_view(&self, view: CreateView, text: &str) -> Result<String> {
        Ok(match create::check_name(&self.catalog, &view)? {
            ViewName::Free(name) => create::keep_view(&self.catalog, &name, view, text),
            ViewName::Taken(said) => said,
        })
    }

    /// Runs a definition that was made before, for so long at most. If it fails, it is kept all the same: its name is taken, and
    /// statements that use it try again. A Delta table that is not where it was is not made anew, and neither is a table in memory. What
    /// the session has of that name gives way.
    ///
    /// # Errors
    /// Why it is not open, or cannot be kept.
    pub(crate) async fn restore(&self, parsed: ParsedStatement, limit: Duration) -> Result<()> {
        if let Statement::CreateView(view) = &parsed.statement {
            // Statements that use it look at the tables of its query: here they may be away.
            let name = rewrite::plain_name(&view.name)?;
            create::keep_view(&self.catalog, &name, view.as_ref().clone(), &parsed.text);
            return Ok(());
        }
        if let Statement::CreateTable(table) = &parsed.statement {
            let name = rewrite::plain_name(&table.name)?;
            let opened = create::open_table(table, &name, IfMissing::Refuse);
            match unopened::within(limit, opened).await {
                Ok(entry) => self.catalog.put(&name, entry, parsed.text),
                Err(error) => {
                    self.keep(&name, Some(parsed.clone()), &parsed.text, &error);
                    return Err(error);
                }
            }
            return Ok(());
        }
        if let Statement::Sql(sql) = &parsed.statement
            && let Some(name) = rewrite::made_in_memory(sql)
        {
            // An earlier release took such definitions. To run one again would be to ask its query anew.
            let error = Error::unsupported(
                "CREATE TABLE made it in memory, and its rows ended with the server that made it",
            )
            .with_help("DROP it, and declare a table that lasts, STORED AS DELTA");
            self.keep(&name, None, &parsed.text, &error);
            return Err(error);
        }
        let kept = parsed.clone();
        if let Statement::Sql(sql) = &kept.statement
            && let Some(name) = rewrite::created(sql)
        {
            // DataFusion's own statements refuse a name that is taken: here it may be by another definition.
            self.catalog.remove(&name);
        }
        let done = unopened::within(limit, self.execute(parsed)).await;
        if let (Err(error), Statement::Sql(sql)) = (&done, &kept.statement)
            && let Some(name) = rewrite::created(sql)
        {
            self.keep(&name, Some(kept.clone()), &kept.text, error);
        }
        done.map(drop)
    }

    /// Keeps a name for a definition that this program cannot read.
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

    /// Tries again to open a table, for so long at most.
    ///
    /// # Errors
    /// Why it cannot be opened now.
    pub(crate) async fn open_again(&self, name: &str, limit: Duration) -> Result<()> {
        match self.catalog.entry(name) {
            Some(TableEntry::Unopened(unopened)) => {
                unopened::within(limit, unopened.open()).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Whether a table is opened by running its statement again, in the session of definitions.
    pub(crate) fn is_run_again(&self, name: &str) -> bool {
        match self.catalog.entry(name) {
            Some(TableEntry::Unopened(unopened)) => unopened.to_run_again().is_some(),
            _ => false,
        }
    }

    /// Runs the statement of such a table again, for so long at most.
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
        let done = unopened::within(limit, self.execute(statement.clone())).await;
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

    /// The types that a statement's unbound parameters should have, by name without `$`, as far as they can be told.
    pub async fn parameter_types(&self, parsed: &ParsedStatement) -> HashMap<String, DataType> {
        let Statement::Sql(sql) = &parsed.statement else {
            return HashMap::new();
        };
        // What a parameter is cast to is what it is to be bound as.
        let mut types = standard::cast_types(sql);
        self.catalog.begin_statement();
        let found = async {
            let plan = match self.logical_plan(sql.as_ref().clone()).await {
                Ok((_, plan)) => plan,
                // What is added to a time the engine takes for a time, and that has no type.
                Err(error) => match standard::with_spans(sql) {
                    Some(spans) => self.logical_plan(spans).await?.1,
                    None => return Err(error),
                },
            };
            Ok::<_, Error>(parameters::types(&plan))
        };
        types.extend(on_stack(found).await.unwrap_or_default());
        types
    }

    /// Runs a statement whose parameters are bound.
    ///
    /// # Errors
    /// With the place in the statement's text where it is known, else of its first word.
    pub async fn execute(&self, parsed: ParsedStatement) -> Result<Outcome> {
        let places = parsed.places.clone();
        let begun = async { self.begin_ready(self.ready(parsed).await?) };
        on_stack(begun).await.map_err(|error| places.locate(error))
    }

    /// Plans a statement that gives rows, and does not run it.
    ///
    /// # Errors
    /// As [`Session::execute`]; a statement without rows.
    pub async fn plan(&self, parsed: ParsedStatement) -> Result<Planned> {
        let places = parsed.places.clone();
        let planned = async { self.ready(parsed).await?.planned() };
        on_stack(planned)
            .await
            .map_err(|error| places.locate(error))
    }

    /// Begins a statement if it gives rows.
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

    /// Begins what was planned.
    ///
    /// # Errors
    /// A source that cannot be opened.
    pub fn begin(&self, planned: Planned) -> Result<Execution> {
        let Planned { plan, task, .. } = planned;
        let stream = execute_stream(Arc::clone(&plan), task)?;
        let stream = match self.fork.only_reads {
            true => dead_letters::count(stream, &self.catalog, &self.warnings),
            false => dead_letters::keep(stream, &self.catalog, &self.context),
        };
        Ok(Execution { stream, plan })
    }

    /// Runs a query or INSERT to its end and collects what it gives: for tests and small results.
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

    /// Plans what gives rows, runs the rest. What is rare has its place in memory only when it comes: a query need not carry it.
    async fn ready(&self, parsed: ParsedStatement) -> Result<Ready> {
        self.catalog.begin_statement();
        match parsed.statement {
            Statement::CreateTable(table) => {
                let made = create::create_table(&self.catalog, &table, &parsed.text);
                Box::pin(made).await.map(Ready::Done)
            }
            Statement::CreateView(view) => {
                let made = create::create_view(&self.context, &self.catalog, *view, &parsed.text);
                Box::pin(made).await.map(Ready::Done)
            }
            Statement::ShowTables => self.report(describe::tables(&self.catalog)?),
            Statement::Describe(name) => {
                let name = self.table_name(&name)?;
                let columns = describe::columns(&self.catalog, &name);
                self.report(Box::pin(columns).await?)
            }
            Statement::DescribeQuery(query) => {
                let labels = Labels::of(&query);
                let (_, plan) = Box::pin(self.logical_plan(*query)).await?;
                let schema = labels.schema(Arc::clone(plan.schema().inner()));
                self.report(describe::fields(&schema)?)
            }
            Statement::Summarize(query) => {
                let labels = Labels::of(&query);
                let (state, plan) = Box::pin(self.logical_plan(*query)).await?;
                let schema = labels.schema(Arc::clone(plan.schema().inner()));
                let names: Vec<String> =
                    schema.fields().iter().map(|of| of.name().clone()).collect();
                let summary = summarize::summary(&state, plan, &names)?;
                Ok(Ready::Rows(
                    Box::pin(self.physical_plan(&state, &summary)).await?,
                ))
            }
            Statement::ShowCreateTable(name) => {
                let name = self.table_name(&name)?;
                let definition = self.catalog.definition(&name)?;
                self.report(describe::definition(&name, &definition)?)
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
                let Some(rows) = parsed.rows else {
                    return self.run_sql(*sql, &parsed.text).await;
                };
                read_bound_rows(&mut sql)?;
                self.context
                    .register_batch(TableReference::bare(BOUND_ROWS), rows)?;
                let ready = Box::pin(self.run_sql(*sql, &parsed.text)).await;
                self.context
                    .deregister_table(TableReference::bare(BOUND_ROWS))?;
                ready
            }
        }
    }

    async fn run_sql(&self, sql: SqlStatement, text: &str) -> Result<Ready> {
        for name in rewrite::dropped(&sql) {
            self.catalog.pin_for_drop(&name);
        }
        let labels = Labels::of(&sql);
        let typed = file_names::typed(&sql);
        let (state, plan) = self.logical_plan(sql).await?;
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
            _ => match constants::row(&state, &plan)? {
                Some(mut answer) => {
                    answer.rows = labels.rows(&answer.rows)?;
                    Ok(Ready::Rows(self.planned_answer(answer)?))
                }
                None => {
                    let mut planned = self.physical_plan(&state, &plan).await?;
                    planned.plan = labels.plan(labels::readable(planned.plan))?;
                    Ok(Ready::Rows(planned))
                }
            },
        }
    }

    /// Makes a table over files whose fields are called as the columns were typed.
    async fn create_renamed(
        &self,
        state: &SessionState,
        table: CreateExternalTable,
        typed: &[Field],
    ) -> Result<()> {
        let name = table.name.clone();
        let is_there = self.context.table_exist(name.clone())?;
        let (table, names) = file_names::with_names_of_files(state, table, typed).await?;
        let keeps = is_there && table.if_not_exists;
        let plan = LogicalPlan::Ddl(DdlStatement::CreateExternalTable(Box::new(table)));
        self.context.execute_logical_plan(plan).await?;
        if !keeps {
            let files = self.context.table_provider(name.clone()).await?;
            self.context.deregister_table(name.clone())?;
            let renamed = file_names::Renamed::new(files, &names);
            self.context.register_table(name, Arc::new(renamed))?;
        }
        Ok(())
    }

    /// The plan, and the state in which it was made.
    async fn logical_plan(
        &self,
        mut sql: SqlStatement,
    ) -> Result<(StatementState<'_>, LogicalPlan)> {
        let made = Labels::of_made(&sql);
        Box::pin(rewrite::prepare(&self.context, &self.catalog, &mut sql)).await?;
        let state = self.states.state();
        match apart::plan_apart(&state, &sql).await {
            Ok(plan) => {
                plan_limits::check(&plan)?;
                recursion::check(&plan, &sql)?;
                let plan = match made {
                    Some(names) => inner_names::made(plan, &names)?,
                    None => plan,
                };
                Ok((state, inserted::with_nullable_values(plan)?))
            }
            Err(error) => Err(self.catalog.missing_table(error, sql)),
        }
    }

    /// A batch as the rows of a statement.
    pub(crate) fn report(&self, batch: RecordBatch) -> Result<Ready> {
        Ok(Ready::Rows(self.planned_batch(batch)?))
    }

    /// A batch as the rows of a statement that is begun later.
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
        })
    }

    /// Rows without an end as those of a statement that is begun later.
    pub(crate) fn planned_stream(&self, rows: Arc<dyn PartitionStream>) -> Result<Planned> {
        let schema = Arc::clone(rows.schema());
        let plan = StreamingTableExec::try_new(schema, vec![rows], None, [], true, None)?;
        Ok(Planned {
            plan: Arc::new(plan),
            task: self.states.task(),
            answer: None,
        })
    }

    async fn physical_plan(&self, state: &SessionState, plan: &LogicalPlan) -> Result<Planned> {
        Ok(Planned {
            plan: state.create_physical_plan(plan).await?,
            task: self.states.task(),
            answer: None,
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
        .at(hours.span)
    })
}

/// What a statement of DataFusion's own DDL does, if it is about tables and views: there is one catalog with one schema, and
/// nothing else in it.
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

/// The leading upper-case words of a statement: what the user is told was done.
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
