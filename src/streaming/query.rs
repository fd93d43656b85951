//! Query of a job: it is checked once and planned for every batch, over the ranges chosen for the batch.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_udfs::IncrementalAggregate;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{Statement as AnsiStatement, TableObject};

use crate::core::jobs::{Reached, RecordMark, Shortage};
use crate::error::{Error, Result, Subject};
use crate::planner::ast::Emit;
use crate::session::catalog::view_barrier;
use crate::session::catalog::{TableEntry, split_time_travel};
use crate::session::context::memory::JobPool;
use crate::session::limits::plan_limits;
use crate::session::names::apart;
use crate::session::names::labels::Labels;
use crate::session::rewrite::standard::ordered_texts;
use crate::session::system::SYSTEM;
use crate::session::{Session, rewrite};
use crate::state::late_rows;
use crate::streaming::drain::{expected_of, whole};
use crate::streaming::scope::check_scope;
use crate::streaming::side_output::SplitSideOutputExec;
use crate::streaming::sides::{BatchSource, check_planned, with_removed};
use crate::streaming::{
    BatchTables, FrontPlan, Sources, StreamQuery, StreamTable, static_tables, table_of,
};
use crate::tables::bad_records::BadRecord;
use crate::tables::delta::{DeltaTableHandle, TimeTravel};
use crate::tables::kafka::KafkaTable;
use crate::tables::read_metrics::read;
use crate::tables::side_output::{Expected, Report, check_reports, dead_letters, reports};

/// The sink of a job.
#[derive(Debug, Clone)]
pub enum JobSinkTable {
    /// A topic.
    Kafka(Arc<KafkaTable>),
    /// A Delta table.
    Delta(DeltaTableHandle),
    /// The client of a subscription.
    Subscriber,
}

impl JobSinkTable {
    /// The columns of the upsert key, by which a row can be withdrawn; none of a Delta table.
    pub fn primary_key(&self) -> &[usize] {
        match self {
            JobSinkTable::Kafka(table) => table.primary_key(),
            JobSinkTable::Delta(_) | JobSinkTable::Subscriber => &[],
        }
    }
}

/// A job's INSERT, or the query of a subscription, in a session of its own: its tables are those that existed when the job was
/// planned.
#[derive(Debug)]
pub struct JobQuery {
    session: Session,
    /// This job's share of the memory pool of jobs; none for a subscription, which uses the pool of statements.
    pool: Option<Arc<JobPool>>,
    statement: SqlStatement,
    /// The streams it reads, by table name.
    sources: Sources,
    /// Its other tables: every batch reads them whole, as they are at that time.
    static_tables: Vec<TableReference>,
    sink: JobSinkTable,
    /// The sink's name; none of a subscription.
    sink_name: Option<String>,
    /// Names of all tables and views that it uses.
    tables: Vec<String>,
    emit: Emit,
    /// Its aggregate, if it has one over more than a batch.
    stream: Option<StreamQuery>,
    /// A view that the query reads, over tables that the query's user may not name.
    hiding_view: Option<String>,
    /// The columns of its rows.
    schema: SchemaRef,
}

/// The last record that was read, by table and partition.
pub type LastRecords = BTreeMap<String, BTreeMap<i32, RecordMark>>;

/// The lower half of a batch with windows, ready to run.
#[derive(Debug)]
pub struct FrontBatch {
    /// From records to partial states.
    pub front: FrontPlan,
    /// The task context that it runs in.
    pub context: Arc<TaskContext>,
    sides: PlannedSides,
}

impl FrontBatch {
    /// Ends the plan, which has run: reads records that it did not need, because they count all the same, and gives what came
    /// besides its rows.
    ///
    /// # Errors
    ///
    /// What reading says, and a scan that did not come to its end.
    pub async fn finish(&self) -> Result<BatchSides> {
        self.sides.finish(&self.context).await
    }

    /// Records read so far, and the bytes of their keys and values.
    pub fn read(&self) -> (u64, u64) {
        read(&self.front.plan)
    }
}

/// What a batch gave besides its rows.
#[derive(Debug, Default)]
pub struct BatchSides {
    /// Late rows, in the columns of `system.late_rows`; none if there are none.
    pub late: Option<RecordBatch>,
    /// Records that could not be used, with the table of each.
    pub dead_letters: Vec<(String, BadRecord)>,
    /// The last record that was read of each partition.
    pub last_records: LastRecords,
    reports: Vec<Report>,
}

impl BatchSides {
    /// By table and partition, what was reached in time.
    pub fn reached(&self) -> BTreeMap<String, BTreeMap<i32, Reached>> {
        let mut reached: BTreeMap<String, BTreeMap<i32, Reached>> = BTreeMap::new();
        for report in &self.reports {
            if let Some(of_partition) = report.reached {
                let of_table = reached.entry(report.table.clone()).or_default();
                of_table.insert(report.partition, of_partition);
            }
        }
        reached
    }
}

/// What is known before a batch runs of what it gives besides its rows.
#[derive(Debug)]
struct PlannedSides {
    /// The plan.
    split: Arc<SplitSideOutputExec>,
    /// What its scans are to report.
    expected: Vec<Expected>,
    last_records: LastRecords,
}

impl PlannedSides {
    /// Of a plan that gives the rows of a batch of these sources.
    fn of(plan: Arc<dyn ExecutionPlan>, sources: BTreeMap<String, BatchSource>) -> Result<Self> {
        let plan = whole(plan)?;
        let expected = expected_of(&plan);
        check_planned(&expected, &sources)?;
        let sources = sources.into_iter();
        Ok(Self {
            split: Arc::new(SplitSideOutputExec::over(plan)),
            expected,
            last_records: sources
                .map(|(name, source)| (name, source.last_records))
                .collect(),
        })
    }

    async fn finish(&self, context: &Arc<TaskContext>) -> Result<BatchSides> {
        let side = self.split.finish(context).await?;
        let reports = reports(&side)?;
        // LOSS-1: a batch whose scan has not given all that was planned is not to be written.
        check_reports(&self.expected, &reports)?;
        let mut last_records = self.last_records.clone();
        for report in &reports {
            if let Some(last) = report.last {
                let of_table = last_records.entry(report.table.clone()).or_default();
                of_table.insert(report.partition, last);
            }
        }
        Ok(BatchSides {
            late: late_rows(&side)?,
            dead_letters: dead_letters(&side)?,
            last_records,
            reports,
        })
    }
}

/// One batch, ready to run.
#[derive(Debug)]
pub struct BatchPlan {
    /// Computes the rows in the order of the sink's columns.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The task context that it runs in.
    pub context: Arc<TaskContext>,
    /// None of a plan that reads no stream.
    sides: Option<PlannedSides>,
}

impl BatchPlan {
    /// Ends the plan, which has run: reads records that it did not need, because they count all the same, and gives what came
    /// besides its rows.
    ///
    /// # Errors
    ///
    /// What reading says, and a scan that did not come to its end.
    pub async fn finish(&self) -> Result<BatchSides> {
        match &self.sides {
            Some(sides) => sides.finish(&self.context).await,
            None => Ok(BatchSides::default()),
        }
    }

    /// The same batch with rows that its plan has computed already.
    ///
    /// # Errors
    ///
    /// Rows in other columns.
    pub fn with_rows(self, rows: RecordBatch) -> Result<Self> {
        let schema = self.plan.schema();
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None)?;
        Ok(Self { plan, ..self })
    }

    /// Records read so far, and the bytes of their keys and values.
    pub fn read(&self) -> (u64, u64) {
        read(&self.plan)
    }
}

impl JobQuery {
    /// Plans a job's INSERT once, to find its sources and its sink and to check that it can run in batches (SCOPE-1).
    ///
    /// # Errors
    ///
    /// The errors of a query, and an operation that a job does not support, by name.
    pub async fn try_new(session: &Session, insert: SqlStatement, emit: Emit) -> Result<Self> {
        let (session, pool) = session.fork_of_job()?;
        session.catalog.begin_statement();
        let sink_name = sink_name(&insert)?;
        let sink = session.sink_of(&insert).await?;
        let mut query = Self::planned(session, insert, emit, sink).await?;
        query.pool = Some(pool);
        if !query.tables.contains(&sink_name) {
            query.tables.push(sink_name.clone());
        }
        query.sink_name = Some(sink_name);
        query.check_sink()?;
        Ok(query)
    }

    /// Plans the query of a subscription, whose rows go to its client.
    ///
    /// # Errors
    ///
    /// The errors of a query, and an operation that does not run over a stream, by name.
    pub async fn subscription(session: &Session, query: SqlStatement, emit: Emit) -> Result<Self> {
        let session = session.fork_alike()?;
        session.catalog.begin_statement();
        Self::planned(session, query, emit, JobSinkTable::Subscriber).await
    }

    async fn planned(
        session: Session,
        statement: SqlStatement,
        emit: Emit,
        sink: JobSinkTable,
    ) -> Result<Self> {
        let mut query = Self {
            session,
            pool: None,
            statement,
            sources: BTreeMap::new(),
            static_tables: Vec::new(),
            sink,
            sink_name: None,
            tables: Vec::new(),
            emit,
            stream: None,
            hiding_view: None,
            schema: Arc::new(Schema::empty()),
        };
        let (input, view) = query.plan_input().await?;
        query.sources = query.sources_of(&input)?;
        let is_stateful = check_scope(&input, emit, &query.sources)?;
        query.static_tables = static_tables(&input, &query.sources);
        query.tables = query.session.catalog.names_in_use();
        if query.sources.is_empty() {
            return Err(query.reads_no_stream());
        }
        let fields = input.schema().fields().iter();
        let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        query.schema = Labels::of(&query.statement).schema(schema);
        query.hiding_view = view;
        if is_stateful {
            let state = query.session.states.state();
            let analyzer = state.analyzer();
            let analyzed = analyzer.execute_and_check(input, state.config_options(), |_, _| {})?;
            query.stream = Some(StreamQuery::try_new(analyzed, &query.sources, emit)?);
        }
        Ok(query)
    }

    fn reads_no_stream(&self) -> Error {
        const GROWS: &str =
            "a Delta table that is declared with 'scan.mode' 'stream' is read as it grows";
        let (what, ends) = match self.sink {
            JobSinkTable::Subscriber => ("query", "is the query without SUBSCRIBE"),
            _ => ("job", "is an INSERT INTO without CREATE JOB"),
        };
        Error::invalid(format!(
            "the {what} reads no Kafka table, and no Delta table as a stream"
        ))
        .with_help(format!(
            "it would go on for ever: what ends {ends}; {GROWS}"
        ))
    }

    /// Refuses a job that reads its own sink as a stream.
    fn check_sink(&self) -> Result<()> {
        for (name, source) in &self.sources {
            let same = match (source, &self.sink) {
                (StreamTable::Kafka(source), JobSinkTable::Kafka(sink)) => {
                    (source.topic() == sink.topic() && source.shares_cluster(sink))
                        .then(|| format!("topic '{}'", sink.topic()))
                }
                (StreamTable::Delta(source), JobSinkTable::Delta(sink)) => source
                    .is_same(sink)
                    .then(|| format!("Delta table '{}'", sink.location())),
                _ => None,
            };
            if let Some(same) = same {
                return Err(reads_what_it_writes(format!("the {same}"), name));
            }
        }
        Ok(())
    }

    /// The streams it reads, by table name.
    pub fn sources(&self) -> &BTreeMap<String, StreamTable> {
        &self.sources
    }

    /// Its other tables, which every batch reads whole: the name of each, and a description.
    pub fn static_tables(&self) -> Vec<(String, String)> {
        let shown = |table: &TableReference| {
            if table.schema() == Some(SYSTEM) {
                return (table.to_string(), "as it is when a batch runs".to_owned());
            }
            let (name, travel) = split_time_travel(table.table());
            let kind = match self.session.catalog.entry(name) {
                Some(entry) => entry.kind_name(),
                None => "table",
            };
            let when = match travel {
                TimeTravel::Latest => "as it is when a batch runs".to_owned(),
                TimeTravel::Version(version) => format!("at version {version}"),
                TimeTravel::Timestamp(_) => "at a time that does not change".to_owned(),
            };
            (name.to_owned(), format!("{kind}, {when}"))
        };
        self.static_tables.iter().map(shown).collect()
    }

    /// An error of a batch as the query's user may see it: without values and names, if a view hides its tables from the user.
    pub(crate) fn shown(&self, error: Error) -> Error {
        match &self.hiding_view {
            Some(view) => view_barrier::hidden(view, &error),
            None => error,
        }
    }

    /// Takes the last failed request for memory, if there was one since the last call.
    pub(crate) fn take_shortage(&self) -> Option<Shortage> {
        self.pool.as_ref()?.take_shortage()
    }

    /// The table that its rows go to.
    pub fn sink(&self) -> &JobSinkTable {
        &self.sink
    }

    /// The name of the table that its rows go to; none of a subscription.
    pub fn sink_name(&self) -> Option<&str> {
        self.sink_name.as_deref()
    }

    /// The statements that created the tables and views it uses, without secrets.
    pub fn definitions(&self) -> Vec<String> {
        self.tables
            .iter()
            .filter_map(|name| self.session.definition(name).ok())
            .collect()
    }

    /// Plans a batch that reads `sources`, by table name. Other tables are read as they are now.
    ///
    /// # Errors
    ///
    /// A table has changed so that the query no longer fits.
    pub async fn batch(&self, sources: BTreeMap<String, BatchSource>) -> Result<BatchPlan> {
        let catalog = &self.session.catalog;
        self.begin_batch();
        for (name, source) in &sources {
            catalog.pin(name, Arc::clone(&source.provider));
        }
        let (input, _) = self.plan_input().await?;
        let state = self.session.states.state();
        let state = self.planning(&state);
        let plan = state.create_physical_plan(&input).await?;
        let analyzed = || -> Result<LogicalPlan> {
            let (analyzer, options) = (state.analyzer(), state.config_options());
            Ok(analyzer.execute_and_check(input, options, |_, _| {})?)
        };
        let plan = with_removed(plan, &sources, analyzed, &state).await?;
        let sides = PlannedSides::of(plan, sources)?;
        Ok(BatchPlan {
            plan: Arc::clone(&sides.split) as _,
            context: self.session.states.task(),
            sides: Some(sides),
        })
    }

    /// The columns of its rows, in the order of the sink's columns; any of them may be NULL.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The emit mode.
    pub fn emit(&self) -> Emit {
        self.emit
    }

    /// Its aggregate, if it has one over more than a batch.
    pub fn stream(&self) -> Option<&StreamQuery> {
        self.stream.as_ref()
    }

    /// The aggregate of a job with windows.
    ///
    /// # Errors
    ///
    /// Errors of DataFusion's planner; the job has no windows.
    pub async fn aggregate(&self) -> Result<IncrementalAggregate> {
        let state = self.session.states.state();
        self.windowed()?.aggregate(&state).await
    }

    /// Plans the lower half of a batch with windows that reads `sources`, by table name.
    ///
    /// # Errors
    ///
    /// Errors of DataFusion's planner; the job has no windows.
    pub async fn front(&self, sources: BTreeMap<String, BatchSource>) -> Result<FrontBatch> {
        // A batch reads one state of each static table, below the aggregate and above it.
        self.begin_batch();
        let streams = sources.iter();
        let streams = streams.map(|(name, source)| (name.clone(), Arc::clone(&source.provider)));
        let tables = BatchTables {
            streams: streams.collect(),
            statics: self.statics_now().await?,
        };
        let state = self.session.states.state();
        let state = self.planning(&state);
        let query = self.windowed()?;
        let mut front = query.front(&state, &tables).await?;
        let analyzed = || -> Result<LogicalPlan> { Ok(query.rows().clone()) };
        let plan = with_removed(front.plan, &sources, analyzed, &state).await?;
        let sides = PlannedSides::of(plan, sources)?;
        front.plan = Arc::clone(&sides.split) as _;
        Ok(FrontBatch {
            front,
            context: self.session.states.task(),
            sides,
        })
    }

    /// Plans the upper half of a batch with windows over the rows it emits.
    ///
    /// # Errors
    ///
    /// Errors of DataFusion's planner; the job has no windows.
    pub async fn back(&self, emitted: &RecordBatch) -> Result<BatchPlan> {
        let state = self.session.states.state();
        let state = self.planning(&state);
        let tables = BatchTables {
            statics: self.statics_now().await?,
            ..BatchTables::default()
        };
        Ok(BatchPlan {
            plan: self.windowed()?.back(&state, emitted, &tables).await?,
            context: self.session.states.task(),
            sides: None,
        })
    }

    /// Clears the caches of the batch before: the versions of static tables, and the lists of their files.
    fn begin_batch(&self) {
        self.session.catalog.begin_statement();
        let runtime = self.session.context.runtime_env();
        // A subscription shares the list of files with all statements.
        if self.pool.is_some()
            && let Some(files) = runtime.cache_manager.get_list_files_cache()
        {
            files.clear();
        }
    }

    /// The state in which batches are planned.
    fn planning<'a>(&self, state: &'a SessionState) -> Cow<'a, SessionState> {
        match &self.hiding_view {
            Some(_) => Cow::Owned(view_barrier::planning_above(state)),
            None => Cow::Borrowed(state),
        }
    }

    /// The static tables as the running batch sees them.
    async fn statics_now(&self) -> Result<BTreeMap<TableReference, Arc<dyn TableProvider>>> {
        let mut tables = BTreeMap::new();
        for name in self.windowed()?.static_tables() {
            let provider = self.session.context.table_provider(name.clone()).await;
            tables.insert(name.clone(), provider?);
        }
        Ok(tables)
    }

    fn windowed(&self) -> Result<&StreamQuery> {
        self.stream
            .as_ref()
            .ok_or_else(|| Error::internal("the job has no windows"))
    }

    /// Plans the rows of the INSERT, cast to the sink's columns, or the rows of a subscription's query. Also returns the view
    /// that hides the tables it reads, if there is one; its plan is a part of this one.
    async fn plan_input(&self) -> Result<(LogicalPlan, Option<String>)> {
        let (context, catalog) = (&self.session.context, &self.session.catalog);
        let mut statement = self.statement.clone();
        if let SqlStatement::Statement(ansi) = &mut statement {
            ordered_texts(ansi.as_mut());
        }
        rewrite::prepare(context, catalog, &mut statement).await?;
        let state = self.session.states.state();
        let planned = apart::plan_apart(&state, &statement).await;
        let plan = planned.map_err(|error| catalog.missing_table(error, statement))?;
        plan_limits::check(&plan)?;
        let input = match plan {
            LogicalPlan::Dml(dml) => dml.input.as_ref().clone(),
            query if matches!(self.sink, JobSinkTable::Subscriber) => query,
            _ => return Err(Error::invalid("a job is an INSERT INTO … SELECT …")),
        };
        view_barrier::opened(input)
    }

    /// The stream of this name, if it is one.
    fn stream_of(&self, name: &str) -> Option<StreamTable> {
        match self.session.catalog.entry_of_plan(name)? {
            TableEntry::Kafka(table) => Some(StreamTable::Kafka(table)),
            TableEntry::Delta { handle, .. } if handle.stream().is_some() => {
                Some(StreamTable::Delta(handle))
            }
            _ => None,
        }
    }

    fn sources_of(&self, input: &LogicalPlan) -> Result<Sources> {
        let mut sources = BTreeMap::new();
        input.apply_with_subqueries(|plan| {
            if let LogicalPlan::TableScan(scan) = plan
                && let Some(name) = table_of(scan)
                && let Some(stream) = self.stream_of(name)
            {
                sources.insert(name.to_owned(), stream);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(sources)
    }
}

impl Session {
    /// The table that a job writes to.
    ///
    /// # Errors
    ///
    /// No table has that name, it cannot be opened, or a job cannot write to it.
    pub(crate) async fn sink_of(&self, insert: &SqlStatement) -> Result<JobSinkTable> {
        let name = sink_name(insert)?;
        match self.catalog.open(&name).await? {
            TableEntry::Kafka(table) => Ok(JobSinkTable::Kafka(table)),
            TableEntry::Delta { handle, .. } => Ok(JobSinkTable::Delta(handle)),
            other => Err(Error::unsupported(format!(
                "{name} is a {}, and a job writes Kafka or Delta tables",
                other.kind_name()
            ))
            .about(Subject::table(name))),
        }
    }
}

fn sink_name(insert: &SqlStatement) -> Result<String> {
    if let SqlStatement::Statement(ansi) = insert
        && let AnsiStatement::Insert(insert) = ansi.as_ref()
        && let TableObject::TableName(name) = &insert.table
    {
        if insert.overwrite {
            return Err(Error::unsupported("a job cannot overwrite a table")
                .with_help("a job is an INSERT INTO … SELECT …"));
        }
        return rewrite::plain_name(name);
    }
    Err(Error::invalid("a job is an INSERT INTO … SELECT …"))
}

/// Error for a job or subscription that would read its own rows.
pub(crate) fn reads_what_it_writes(same: impl std::fmt::Display, table: &str) -> Error {
    Error::invalid(format!(
        "the job reads and writes {same}: {table} would never be read to its end"
    ))
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
