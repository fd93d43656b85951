//! Query of a job: it is checked once and planned for every batch, over the ranges chosen for the batch.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_udfs::IncrementalAggregate;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as SqlStatement;

use crate::core::jobs::MemoryShortage;
use crate::core::runs::Grouping;
use crate::error::{Error, Result, Subject};
use crate::planner::ast::Emit;
use crate::session::catalog::view_barrier;
use crate::session::catalog::{TableEntry, split_time_travel};
use crate::session::context::memory::JobPool;
use crate::session::limits::plan_limits;
use crate::session::names::distinct_columns;
use crate::session::names::labels::Labels;
use crate::session::rewrite::arguments::Purpose;
use crate::session::rewrite::asked_version::VersionUnit;
use crate::session::rewrite::standard::ordered_texts;
use crate::session::system::SYSTEM;
use crate::session::{Session, rewrite};
use crate::streaming::analyzed::Analyzed;
use crate::streaming::batch::{BatchPlan, FrontBatch, PlannedSides, streams_of};
use crate::streaming::batch_tables::BatchInputs;
use crate::streaming::drain::DrainedPlan;
use crate::streaming::planning::{plan_rows, planning_in_order};
use crate::streaming::reprocess::{
    ChunkPlan, PinnedStatics, RunFacts, StaticPins, TimeColumns, check_key, fix_time, grouping_of,
    static_pins, time_columns,
};
use crate::streaming::scope::check_scope;
use crate::streaming::sink_table::{JobSinkTable, reads_own_sink, sink_name};
use crate::streaming::stateful::StreamQuery;
use crate::streaming::stream_inputs::{
    BatchSource, StreamSources, StreamTable, name_of, table_of, with_removed,
};
use crate::tables::archive::JobArchive;
use crate::tables::delta::TimeTravel;

/// A job's INSERT, or the query of a subscription, in a session of its own: its tables are those that existed when the job was
/// planned.
#[derive(Debug)]
pub struct JobQuery {
    session: Session,
    /// This job's share of the memory pool of jobs; none for a subscription, which uses the pool of statements.
    pool: Option<Arc<JobPool>>,
    statement: SqlStatement,
    /// The streams it reads, by table name.
    sources: StreamSources,
    /// Its statement as it was planned last: once, and again when a table that it reads or writes has other columns.
    analyzed: Mutex<Arc<Analyzed>>,
    /// What the batch reads that is running, for the part of its plan above the aggregate.
    running: Mutex<Option<Arc<BatchInputs>>>,
    sink: JobSinkTable,
    /// The sink's name; none of a subscription.
    sink_name: Option<String>,
    /// Names of all tables and views that it uses.
    tables: Vec<String>,
    emit: Emit,
    /// Its aggregate, if it has one over more than a batch.
    stream: Option<StreamQuery>,
    /// What it rests on, if it is the query of a run.
    run: Option<RunQuery>,
    /// A view that the query reads, over tables that the query's user may not name.
    hiding_view: Option<String>,
    /// The columns of its rows.
    schema: SchemaRef,
}

/// What the query of a run has beside that of its job.
#[derive(Debug)]
struct RunQuery {
    facts: RunFacts,
    statics: PinnedStatics,
}

impl JobQuery {
    /// Plans a job's INSERT once, to find its sources and its sink and to check that it can run in batches (SCOPE-1).
    ///
    /// # Errors
    ///
    /// The errors of a query, and an operation that a job does not support, by name.
    pub async fn try_new(session: &Session, insert: SqlStatement, emit: Emit) -> Result<Self> {
        let (session, pool) = session.fork_of_job()?;
        session.catalog.begin(Purpose::Batches);
        let sink_name = sink_name(&insert)?;
        let sink = session.sink_of(&insert).await?;
        Self::planned_into(session, pool, insert, emit, (sink, sink_name)).await
    }

    /// Plans the INSERT of a job for a run, which has no state: each of its batches is a chunk, aggregated whole.
    ///
    /// # Errors
    ///
    /// As [`Self::try_new`]; why the job cannot be reprocessed; a static table is not as the run was planned with it.
    pub async fn reprocessing(
        session: &Session,
        insert: SqlStatement,
        emit: Emit,
        facts: RunFacts,
    ) -> Result<Self> {
        let (session, pool) = session.fork_of_job()?;
        fix_time(&session.context, facts.now)?;
        let statics = PinnedStatics::open(&session, &facts.statics).await?;
        session.catalog.begin(Purpose::Batches);
        statics.pin_in(&session);
        let sink_name = sink_name(&insert)?;
        let sink = session.sink_of(&insert).await?;
        let mut query = Self::planned_into(session, pool, insert, emit, (sink, sink_name)).await?;
        let grouping = query.grouping()?;
        if grouping != facts.grouping {
            return Err(Error::internal(format!(
                "the run groups by {:?}, and its job by {grouping:?}",
                facts.grouping
            )));
        }
        query.stream = None;
        query.run = Some(RunQuery { facts, statics });
        Ok(query)
    }

    /// Plans the INSERT of a job in a session of its own.
    async fn planned_into(
        session: Session,
        pool: Arc<JobPool>,
        insert: SqlStatement,
        emit: Emit,
        (sink, sink_name): (JobSinkTable, String),
    ) -> Result<Self> {
        let named = Some(sink_name.clone());
        let mut query = Self::planned(session, insert, emit, sink, named).await?;
        query.pool = Some(pool);
        if !query.tables.contains(&sink_name) {
            query.tables.push(sink_name);
        }
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
        session.catalog.begin(Purpose::Batches);
        Self::planned(session, query, emit, JobSinkTable::Subscriber, None).await
    }

    async fn planned(
        session: Session,
        statement: SqlStatement,
        emit: Emit,
        sink: JobSinkTable,
        sink_name: Option<String>,
    ) -> Result<Self> {
        let (input, hiding_view) = plan_input(&session, &statement, &sink).await?;
        let sources = sources_of(&session, &input)?;
        let is_stateful = check_scope(&input, emit, &sources)?;
        let mut tables = session.catalog.names_in_use();
        for archive in archives_of(&sources) {
            if !tables.iter().any(|known| known == archive) {
                tables.push(archive.to_owned());
            }
        }
        if sources.is_empty() {
            return Err(reads_no_stream(&sink));
        }
        let fields = input.schema().fields().iter();
        let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let schema = Labels::of(&statement).schema(schema);
        let columns = columns_of(&session, &sink, sink_name.as_deref()).await?;
        let analyzed = analyze(&session, input, columns, &sources)?;
        let stream = match is_stateful {
            true => {
                let input = analyzed.input.clone();
                Some(StreamQuery::try_new(input, &sources, emit)?)
            }
            false => None,
        };
        Ok(Self {
            session,
            pool: None,
            statement,
            sources,
            analyzed: Mutex::new(Arc::new(analyzed)),
            running: Mutex::default(),
            sink,
            sink_name,
            tables,
            emit,
            stream,
            run: None,
            hiding_view,
            schema,
        })
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
                return Err(reads_own_sink(format!("the {same}"), name));
            }
        }
        Ok(())
    }

    /// The streams it reads, by table name.
    pub fn sources(&self) -> &BTreeMap<String, StreamTable> {
        &self.sources
    }

    /// The archive of a source, if it is a topic that has one.
    ///
    /// # Errors
    ///
    /// The archive is not a Delta table, or there is none of its name; the user may not open it.
    pub(crate) fn archive(&self, source: &str) -> Result<Option<JobArchive>> {
        let Some(StreamTable::Kafka(table)) = self.sources.get(source) else {
            return Ok(None);
        };
        let Some(options) = table.archive() else {
            return Ok(None);
        };
        self.session.catalog.check_open(options.table())?;
        let handle = match self.session.catalog.entry_of_plan(options.table()) {
            Some(TableEntry::Delta { handle, .. }) => handle,
            _ => return Err(no_archive(source, options.table())),
        };
        let state = SessionState::clone(&self.session.states.state());
        Ok(Some(JobArchive::new(Arc::clone(table), handle, state)))
    }

    /// Whether its rows go to this archive: such a job reads the topic alone.
    pub(crate) fn writes(&self, archive: &JobArchive) -> bool {
        matches!(&self.sink, JobSinkTable::Delta(sink) if archive.is_in(sink))
    }

    /// Its other tables, which every batch reads whole: the name of each, and a description. Tables that a view hides from the
    /// query's user are not among them.
    pub fn static_tables(&self) -> Vec<(String, String)> {
        const EACH_BATCH: &str = "as it is when a batch runs";
        let analyzed = self.analyzed();
        let shown = |table: &TableReference| {
            if table.schema() == Some(SYSTEM) {
                return Some((table.to_string(), EACH_BATCH.to_owned()));
            }
            let asked = analyzed.version(table.table());
            let (name, when) = match (asked, split_time_travel(table.table())) {
                (Some(asked), _) => {
                    let unit = match asked.unit {
                        VersionUnit::Number => "version",
                        VersionUnit::Time => "time",
                    };
                    let when = format!("at the {unit} that {} gives for a batch", asked.text);
                    (asked.table.as_str(), when)
                }
                (None, (name, TimeTravel::Latest)) => (name, EACH_BATCH.to_owned()),
                (None, (name, TimeTravel::Version(version))) => {
                    (name, format!("at version {version}"))
                }
                (None, (name, TimeTravel::Timestamp(_))) => {
                    (name, "at a time that does not change".to_owned())
                }
            };
            let kind = match self.session.catalog.entry(name) {
                Some(entry) => entry.kind_name(),
                None if self.hiding_view.is_some() => return None,
                None => "table",
            };
            Some((name.to_owned(), format!("{kind}, {when}")))
        };
        analyzed.statics().iter().filter_map(shown).collect()
    }

    /// An error of a batch as the query's user may see it: without values and names, if a view hides its tables from the user.
    pub(crate) fn shown(&self, error: Error) -> Error {
        match &self.hiding_view {
            Some(view) => view_barrier::hidden(view, &error),
            None => error,
        }
    }

    /// Takes the last failed request for memory, if there was one since the last call.
    pub(crate) fn take_shortage(&self) -> Option<MemoryShortage> {
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
        self.begin_batch();
        if let Some(run) = &self.run {
            return self.chunk(run, sources).await;
        }
        let (analyzed, inputs) = self.fitting(&streams_of(&sources)).await?;
        let state = self.session.states.state();
        let state = self.planning(&state);
        let plan = plan_rows(&state, inputs.put_into(analyzed.input.clone())?).await?;
        let plan = with_removed(plan, &sources, &analyzed.input, &state).await?;
        let sides = PlannedSides::of(plan, sources)?;
        Ok(BatchPlan {
            plan: Arc::clone(&sides.split) as _,
            context: self.session.states.task(),
            chunk: None,
            sides: Some(sides),
        })
    }

    /// Plans a chunk of a run.
    async fn chunk(
        &self,
        run: &RunQuery,
        mut sources: BTreeMap<String, BatchSource>,
    ) -> Result<BatchPlan> {
        // What the chunk before said of sessions that were searched too long: they are counted among those that are left out.
        self.session.take_warnings();
        // The sources of a run may have hidden columns besides, which the statement is not planned with.
        let (analyzed, inputs) = self.fitting(&BTreeMap::new()).await?;
        let planner = ChunkPlan {
            facts: &run.facts,
            streams: &self.sources,
            sources: &sources,
            inputs: &inputs,
            key: self.sink.primary_key(),
        };
        let state = self.session.states.state();
        let state = self.planning(&state);
        let chunk = planner.chunk()?;
        let planned = planner.plan(&state, &analyzed.input, chunk).await?;
        let (plan, left) = (DrainedPlan::of(planned.plan)?, planned.left);
        if matches!(run.facts.grouping, Grouping::Sessions { .. }) {
            // The operator that completes sessions plans their scans itself.
            for source in sources.values_mut() {
                source.ranges.clear();
            }
        }
        let sides = PlannedSides::of(plan, sources)?.leaving(left);
        Ok(BatchPlan {
            plan: Arc::clone(&sides.split) as _,
            context: self.session.states.task(),
            chunk,
            sides: Some(sides),
        })
    }

    /// How it puts rows together in time.
    ///
    /// # Errors
    ///
    /// Why it cannot be reprocessed.
    pub fn grouping(&self) -> Result<Grouping> {
        if let Some(run) = &self.run {
            return Ok(run.facts.grouping);
        }
        grouping_of(&self.analyzed().input, self.stream.is_some(), &self.sources)
    }

    /// Refuses a run if the PRIMARY KEY of the sink does not tell windows apart: rows of old windows would be put over those of newer
    /// ones.
    ///
    /// # Errors
    ///
    /// The refusal, with its reason; why the job cannot be reprocessed at all.
    pub fn check_key(&self) -> Result<()> {
        let sink = self.sink_name().unwrap_or("the sink");
        let (plan, key) = (&self.analyzed().input, self.sink.primary_key());
        check_key(plan, self.grouping()?, &self.sources, key, sink)
    }

    /// The columns of its sink that are the times of its results: by them a run finds the rows that a chunk takes the place of.
    ///
    /// # Errors
    ///
    /// Why the job cannot be reprocessed.
    pub fn time_columns(&self) -> Result<TimeColumns> {
        time_columns(&self.analyzed().input, self.grouping()?, &self.sources)
    }

    /// The present states of its static tables, for a run to read.
    ///
    /// # Errors
    ///
    /// A table cannot be opened.
    pub async fn static_pins(&self) -> Result<StaticPins> {
        let analyzed = self.analyzed();
        // A table at a version that a query gives is read at the version that it gives to the run.
        let statics = analyzed.statics().iter();
        let statics = statics.filter(|table| analyzed.version(table.table()).is_none());
        static_pins(&self.session, statics).await
    }

    /// A state of the engine that reads tables with the memory and the limits of this query.
    pub(crate) fn reading_state(&self) -> SessionState {
        SessionState::clone(&self.session.states.state())
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

    /// How long after the highest watermark of a partition a window may end that has a row, in microseconds: the delay of the watermark
    /// and the length of a window, or the gap of sessions. None of a job without windows.
    pub(crate) fn reach(&self) -> Option<i64> {
        let length = self.stream.as_ref()?.window_length()?;
        Some(length.saturating_add(self.delay()))
    }

    /// How far its watermarks are behind the highest event time, in microseconds: the longest of its sources.
    pub(crate) fn delay(&self) -> i64 {
        let times = self.sources.values().filter_map(StreamTable::event_time);
        times.map(|time| time.delay).max().unwrap_or(0).max(0)
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
        self.begin_batch();
        let streams = streams_of(&sources);
        let inputs = self.analyzed().inputs(&self.session, streams).await?;
        // A batch reads one state of each static table, below the aggregate and above it.
        *lock(&self.running) = Some(Arc::new(inputs.without_streams()));
        let state = self.session.states.state();
        let state = self.planning(&state);
        let query = self.windowed()?;
        let mut front = query.front(&state, &inputs).await?;
        let plan = with_removed(front.plan, &sources, query.rows(), &state).await?;
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
        let running = lock(&self.running).clone();
        let inputs = match running {
            Some(inputs) => inputs,
            None => {
                let analyzed = self.analyzed();
                Arc::new(analyzed.inputs(&self.session, BTreeMap::new()).await?)
            }
        };
        let state = self.session.states.state();
        let state = self.planning(&state);
        // Emitted rows keep their order, too.
        let state = match self.sink.merges() {
            true => Cow::Owned(planning_in_order(&state)),
            false => state,
        };
        Ok(BatchPlan {
            plan: self.windowed()?.back(&state, emitted, &inputs).await?,
            context: self.session.states.task(),
            chunk: None,
            sides: None,
        })
    }

    /// The statement as it was planned last.
    fn analyzed(&self) -> Arc<Analyzed> {
        Arc::clone(&lock(&self.analyzed))
    }

    /// The planned statement of a job without state, and what a batch over these streams reads. If a table has other columns than
    /// it was planned with, it is planned again.
    async fn fitting(
        &self,
        streams: &BTreeMap<String, Arc<dyn TableProvider>>,
    ) -> Result<(Arc<Analyzed>, BatchInputs)> {
        let analyzed = self.analyzed();
        let sink = columns_of(&self.session, &self.sink, self.sink_name()).await?;
        let inputs = analyzed.inputs(&self.session, streams.clone()).await?;
        if analyzed.fits(&inputs, sink.as_ref())? {
            return Ok((analyzed, inputs));
        }
        tracing::info!(
            sink = self.sink_name(),
            "a table has other columns: the statement of the job is planned again"
        );
        self.begin_planning();
        for (name, provider) in streams {
            self.session.catalog.pin(name, Arc::clone(provider));
        }
        let (input, _) = plan_input(&self.session, &self.statement, &self.sink).await?;
        let sink = columns_of(&self.session, &self.sink, self.sink_name()).await?;
        let analyzed = Arc::new(analyze(&self.session, input, sink, &self.sources)?);
        *lock(&self.analyzed) = Arc::clone(&analyzed);
        let inputs = analyzed.inputs(&self.session, streams.clone()).await?;
        Ok((analyzed, inputs))
    }

    /// Drops the tables of the batch before. Those of a run stay at their versions.
    fn begin_planning(&self) {
        self.session.catalog.begin(Purpose::Batches);
        if let Some(run) = &self.run {
            run.statics.pin_in(&self.session);
        }
    }

    /// Clears what the batch before has read: the versions of static tables, and the lists of their files.
    fn begin_batch(&self) {
        self.begin_planning();
        *lock(&self.running) = None;
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
        let state = match &self.hiding_view {
            Some(_) => Cow::Owned(view_barrier::planning_above(state)),
            None => Cow::Borrowed(state),
        };
        // Of several rows of a batch with the same key, the last one is merged. Groups of a chunk have keys of their own.
        let gives_groups = match &self.run {
            Some(run) => run.facts.grouping != Grouping::Rows,
            None => self.stream.is_some(),
        };
        match !gives_groups && self.sink.merges() {
            true => Cow::Owned(planning_in_order(&state)),
            false => state,
        }
    }

    fn windowed(&self) -> Result<&StreamQuery> {
        self.stream
            .as_ref()
            .ok_or_else(|| Error::internal("the job has no windows"))
    }
}

fn reads_no_stream(sink: &JobSinkTable) -> Error {
    const GROWS: &str =
        "a Delta table that is declared with 'scan.mode' 'stream' is read as it grows";
    let (what, ends) = match sink {
        JobSinkTable::Subscriber => ("query", "is the query without SUBSCRIBE"),
        _ => ("job", "is an INSERT INTO without CREATE JOB"),
    };
    Error::invalid(format!(
        "the {what} reads no Kafka table, and no Delta table as a stream"
    ))
    .with_help(format!(
        "it would never end: the statement that ends {ends}; {GROWS}"
    ))
}

/// Plans the rows of the INSERT, cast to the sink's columns, or the rows of a subscription's query. Also returns the view that
/// hides the tables it reads, if there is one; its plan is a part of this one.
async fn plan_input(
    session: &Session,
    statement: &SqlStatement,
    sink: &JobSinkTable,
) -> Result<(LogicalPlan, Option<String>)> {
    let (context, catalog) = (&session.context, &session.catalog);
    let mut statement = statement.clone();
    if let SqlStatement::Statement(ansi) = &mut statement {
        ordered_texts(ansi.as_mut());
    }
    rewrite::prepare(context, catalog, &mut statement).await?;
    let state = session.states.state();
    let planned = distinct_columns::plan_apart(&state, &statement).await;
    let plan = planned.map_err(|error| catalog.missing_table(error, statement))?;
    plan_limits::check(&plan)?;
    let plan = catalog.with_arguments(context, plan).await?;
    let input = match plan {
        LogicalPlan::Dml(dml) => dml.input.as_ref().clone(),
        query if matches!(sink, JobSinkTable::Subscriber) => query,
        _ => return Err(Error::invalid("a job is an INSERT INTO … SELECT …")),
    };
    view_barrier::opened(input)
}

/// Analyzes the rows of a job over these streams.
fn analyze(
    session: &Session,
    input: LogicalPlan,
    sink: Option<SchemaRef>,
    sources: &StreamSources,
) -> Result<Analyzed> {
    let state = session.states.state();
    let analyzer = state.analyzer();
    let input = analyzer.execute_and_check(input, state.config_options(), |_, _| {})?;
    let versions = session.catalog.asked_versions();
    let analyzed = Analyzed::try_new(input, sink, versions, sources)?;
    check_arguments(session, &analyzed)?;
    Ok(analyzed)
}

/// Refuses a topic in a query that is an argument (SCOPE-1): its value would be of the whole topic, from the first record on, and each
/// batch would read all of it.
fn check_arguments(session: &Session, analyzed: &Analyzed) -> Result<()> {
    for table in analyzed.tables_of_arguments()? {
        let Some(name) = name_of(&table) else {
            continue;
        };
        if !matches!(
            session.catalog.entry_of_plan(name),
            Some(TableEntry::Kafka(_))
        ) {
            continue;
        }
        // One that only a view may use is not named.
        let shown = match session.catalog.entry(name) {
            Some(_) => format!("Kafka table {name}"),
            None => "a Kafka table".to_owned(),
        };
        return Err(Error::unsupported(format!(
            "{shown} in a subquery that is an argument: each batch would read the whole topic"
        ))
        .about(Subject::table(name))
        .with_help("keep the value in a Delta table: each batch reads it as it is then"));
    }
    Ok(())
}

/// Error for a topic whose archive cannot be read.
fn no_archive(table: &str, archive: &str) -> Error {
    Error::invalid(format!(
        "{archive}, the archive of {table}, is not a Delta table of the job"
    ))
    .about(Subject::table(archive))
    .with_help("declare it beside the table that names it by 'archive'; then CREATE OR REPLACE JOB")
}

/// The names of the archives of these sources.
fn archives_of(sources: &StreamSources) -> impl Iterator<Item = &str> {
    sources.values().filter_map(|source| match source {
        StreamTable::Kafka(table) => Some(table.archive()?.table()),
        StreamTable::Delta(_) => None,
    })
}

/// The columns of the sink as they are now, if they can change.
async fn columns_of(
    session: &Session,
    sink: &JobSinkTable,
    name: Option<&str>,
) -> Result<Option<SchemaRef>> {
    match (sink, name) {
        (JobSinkTable::Delta(_), Some(name)) => {
            let provider = session.catalog.provider(name).await?;
            Ok(provider.map(|provider| provider.schema()))
        }
        _ => Ok(None),
    }
}

/// The streams that a plan reads, by table name.
fn sources_of(session: &Session, input: &LogicalPlan) -> Result<StreamSources> {
    let mut sources = BTreeMap::new();
    input.apply_with_subqueries(|plan| {
        if let LogicalPlan::TableScan(scan) = plan
            && let Some(name) = table_of(scan)
            && let Some(stream) = stream_of(session, name)
        {
            sources.insert(name.to_owned(), stream);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(sources)
}

/// The stream of this name, if it is one.
fn stream_of(session: &Session, name: &str) -> Option<StreamTable> {
    match session.catalog.entry_of_plan(name)? {
        TableEntry::Kafka(table) => Some(StreamTable::Kafka(table)),
        TableEntry::Delta { handle, .. } if handle.stream().is_some() => {
            Some(StreamTable::Delta(handle))
        }
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
