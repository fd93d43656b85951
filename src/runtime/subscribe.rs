//! SUBSCRIBE, a query that stays open: it is a job that is never resumed. Its log and state are in memory, its sink is the
//! client that reads, and it ends when the client leaves.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::sql::parser::Statement as SqlStatement;

use crate::core::jobs::LogEntry;
use crate::error::{Error, Result};
use crate::planner::TableOption;
use crate::planner::ast::Emit;
use crate::runtime::describe;
use crate::runtime::environment::Environment;
use crate::runtime::job::ReadyJob;
use crate::runtime::job_status::RunOptions;
use crate::runtime::options::{JobOptions, Trigger};
use crate::runtime::owner::now;
use crate::runtime::runner::JobRunner;
use crate::runtime::sinks::subscriber::Subscriber;
use crate::session::{Planned, Session};
use crate::store::JobStore;
use crate::streaming::JobQuery;

/// The name of a subscription where a job name is needed.
const NAME: &str = "subscription";
/// Batches that are computed ahead of the client.
const AHEAD: usize = 1;

/// Plans a query that stays open; it produces rows from its start until the client stops reading.
///
/// # Errors
///
/// The errors of a query; a feature that does not run over a stream, by its name; options that do not fit.
pub(super) async fn subscribe(
    session: &Session,
    given: &[TableOption],
    query: SqlStatement,
    emit: Emit,
) -> Result<Planned> {
    let mut options = JobOptions::parse_subscription(given)?;
    if let Some(limit) = session.memory_limit() {
        options.state_max_memory = options.state_max_memory.min(limit);
    }
    let query = JobQuery::subscription(session, query, emit).await?;
    options.check(query.stream(), given)?;
    let options = options.with_sources(query.sources(), given)?;
    for warning in describe::warnings(&query) {
        session.warn(warning);
    }
    let subscription = Subscription {
        schema: query.schema(),
        query: Arc::new(query),
        options,
        turn: Arc::default(),
    };
    session.planned_stream(Arc::new(subscription))
}

/// A subscription that can be started.
#[derive(Debug)]
struct Subscription {
    query: Arc<JobQuery>,
    options: JobOptions,
    schema: SchemaRef,
    /// The query plans one batch at a time: a second start waits until the first has ended.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl PartitionStream for Subscription {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut stream = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), AHEAD);
        let subscriber = Subscriber {
            schema: Arc::clone(&self.schema),
            rows: stream.tx(),
        };
        let (query, options) = (Arc::clone(&self.query), self.options.clone());
        let turn = Arc::clone(&self.turn);
        stream.spawn(async move {
            let _turn = turn.lock_owned().await;
            Ok(run(query, options, subscriber).await?)
        });
        stream.build()
    }
}

/// Runs batches until one fails for good, or all records are read and the trigger is `once`.
async fn run(query: Arc<JobQuery>, options: JobOptions, subscriber: Subscriber) -> Result<()> {
    let store = JobStore::ephemeral();
    let created = LogEntry::Created {
        name: NAME.to_owned(),
        text: String::new(),
        tables: Vec::new(),
        at: now(),
    };
    let id = store.create(&created, NAME).await?;
    let job = ReadyJob {
        id: id.ok_or_else(|| Error::internal("a subscription of the same name"))?,
        name: NAME.to_owned(),
        text: String::new(),
        tables: Vec::new(),
        options,
        query,
        environment: Environment::of_subscriber(subscriber),
    };
    let told = RunOptions {
        until_caught_up: job.options.trigger == Trigger::Once,
        ..RunOptions::default()
    };
    let ended = JobRunner::try_new(&store, &job, &told)?.run().await;
    ended.map_err(|error| job.query.shown(error))?;
    Ok(())
}
