//! Environment of a runner: the tables of its job, and the clock.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::core::jobs::{BatchVersion, Partitions, Startup};
use crate::error::Result;
use crate::runtime::clock::{Clock, MachineClock};
use crate::runtime::sink::OpenSink;
use crate::runtime::sinks;
use crate::runtime::sinks::subscriber::Subscriber;
use crate::runtime::source::JobSources;
use crate::runtime::sources;
use crate::store::JobId;
use crate::streaming::JobQuery;

/// How often a batch that gives way to another job looks whether it may go on.
pub(super) const GIVES_WAY: Duration = Duration::from_secs(1);

/// The outside world of a runner. A runner acts on the world and observes it only through this environment or through its
/// store.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tables: Arc<dyn JobTables>,
}

impl Environment {
    /// The real tables and clocks.
    pub(super) fn real() -> Self {
        Self {
            clock: Arc::new(MachineClock),
            tables: Arc::new(RealTables),
        }
    }

    /// The real ones, with a subscriber that reads the rows of each batch.
    pub(super) fn of_subscriber(subscriber: Subscriber) -> Self {
        Self {
            tables: Arc::new(SubscribedTables(subscriber)),
            ..Self::real()
        }
    }
}

/// Opens the tables of a job for its runner.
#[async_trait]
pub(super) trait JobTables: Debug + Send + Sync {
    /// The sources of a query. `startup` says where a job begins that has not read them, instead of the options of the tables.
    ///
    /// # Errors
    ///
    /// Settings that the client of a table refuses.
    fn sources(&self, query: &JobQuery, startup: Option<&Startup>) -> Result<JobSources>;

    /// The sink of a query, for the job with this id and name.
    ///
    /// # Errors
    ///
    /// The query has no sink.
    fn sink(&self, query: &JobQuery, id: JobId, name: &str) -> Result<Box<dyn OpenSink>>;

    /// Whether they are those of a reprocessing run, and not of a job.
    fn are_of_run(&self) -> bool {
        false
    }

    /// Why the next batch waits although it is due, if it does: the chunks of a run give way to its job.
    async fn wait_reason(&self) -> Option<String> {
        None
    }

    /// The partitions that count for a job's event time: `there` are the existing ones, `last` is the last version. A simulation
    /// plants a fault here.
    fn partitions(&self, there: Partitions, _last: Option<&BatchVersion>) -> Partitions {
        there
    }

    /// The version that stores how long partitions had been silent before this process looked at them: the last one. A simulation
    /// plants a fault here.
    fn silent_by<'v>(&self, last: Option<&'v BatchVersion>) -> Option<&'v BatchVersion> {
        last
    }
}

/// The tables as they are defined.
#[derive(Debug, Clone, Copy)]
struct RealTables;

impl JobTables for RealTables {
    fn sources(&self, query: &JobQuery, startup: Option<&Startup>) -> Result<JobSources> {
        let tables = query.sources().iter();
        tables
            .map(|(name, table)| {
                let start = startup.and_then(|startup| startup.of(name));
                Ok((name.clone(), sources::open(query, name, table, start)?))
            })
            .collect()
    }

    fn sink(&self, query: &JobQuery, id: JobId, name: &str) -> Result<Box<dyn OpenSink>> {
        sinks::open(query.sink(), id, name, query.sources())
    }
}

/// The tables of a subscription, whose rows go to its client.
#[derive(Debug)]
struct SubscribedTables(Subscriber);

impl JobTables for SubscribedTables {
    fn sources(&self, query: &JobQuery, startup: Option<&Startup>) -> Result<JobSources> {
        RealTables.sources(query, startup)
    }

    fn sink(&self, _: &JobQuery, _: JobId, _: &str) -> Result<Box<dyn OpenSink>> {
        Ok(Box::new(self.0.clone()))
    }
}
