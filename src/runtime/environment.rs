//! Environment of a runner: the sources and sinks of its job, and the clock.

#![expect(
    clippy::disallowed_methods,
    reason = "the real clock of the runner; the simulation has another"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::jobs::SteadyTime;
#[cfg(test)]
use crate::core::jobs::{BatchVersion, Partitions};
use crate::error::Result;
use crate::runtime::boot_clock::steady_time;
#[cfg(test)]
use crate::runtime::simulation::{Process, SimulatedSink, SimulatedSource};
use crate::runtime::sink::{JobSink, Subscriber};
use crate::runtime::source::JobSource;
use crate::store::JobId;
use crate::streaming::{JobQuery, StreamTable};
use crate::tables::delta::DeltaJobSource;

/// The outside world of a runner. A runner acts on the world and observes it only through this environment or through its
/// store.
#[derive(Debug, Clone, Default)]
pub(super) enum Environment {
    /// The real brokers, tables and clock.
    #[default]
    Real,
    /// The real ones, with a subscriber that reads the rows of each batch.
    Subscriber(Subscriber),
    /// A world simulated from a seed, as one of its processes sees it.
    #[cfg(test)]
    Simulated(Process),
}

impl Environment {
    /// The sources of a query, by table name. If `starts_at_end` is set, it decides where they begin, instead of the options of
    /// the tables.
    pub(super) fn sources(
        &self,
        query: &JobQuery,
        starts_at_end: Option<bool>,
    ) -> Result<BTreeMap<String, JobSource>> {
        let of_table = |(name, table): (&String, &StreamTable)| {
            let source = match (self, table) {
                #[cfg(test)]
                (Self::Simulated(process), StreamTable::Kafka(table)) => {
                    let source = SimulatedSource::new(process.clone(), Arc::clone(table));
                    JobSource::Simulated(source)
                }
                (_, StreamTable::Kafka(table)) => {
                    JobSource::of_kafka(Arc::clone(table), starts_at_end)?
                }
                (_, StreamTable::Delta(handle)) => {
                    let mut stream = handle.stream().unwrap_or_default();
                    stream.starts_at_end = starts_at_end.unwrap_or(stream.starts_at_end);
                    JobSource::of_delta(DeltaJobSource::new(handle.clone(), stream))
                }
            };
            Ok((name.clone(), source))
        };
        query.sources().iter().map(of_table).collect()
    }

    /// Takes over the sink of a query; `sequence` is the number of the takeover's log entry.
    pub(super) async fn take_over(
        &self,
        query: &JobQuery,
        id: JobId,
        sequence: u64,
    ) -> Result<(JobSink, Option<i64>)> {
        match self {
            Self::Real => JobSink::take_over(query.sink(), id, sequence).await,
            Self::Subscriber(subscriber) => Ok((JobSink::Subscriber(subscriber.clone()), None)),
            #[cfg(test)]
            Self::Simulated(process) => {
                let (sink, number) = SimulatedSink::take_over(process.clone()).await?;
                Ok((JobSink::Simulated(sink), number))
            }
        }
    }

    /// The wall clock: milliseconds since 1970 UTC.
    pub(super) fn now(&self) -> i64 {
        match self {
            Self::Real | Self::Subscriber(_) => chrono::Utc::now().timestamp_millis(),
            #[cfg(test)]
            Self::Simulated(process) => process.now(),
        }
    }

    /// The monotonic clock of the machine.
    pub(super) fn steady(&self) -> SteadyTime {
        match self {
            Self::Real | Self::Subscriber(_) => steady_time(),
            #[cfg(test)]
            Self::Simulated(process) => process.steady(),
        }
    }

    /// The clock by which durations are measured.
    pub(super) fn instant(&self) -> Instant {
        match self {
            Self::Real | Self::Subscriber(_) => Instant::now(),
            #[cfg(test)]
            Self::Simulated(process) => process.instant(),
        }
    }

    /// How long ago that was.
    pub(super) fn since(&self, began: Instant) -> Duration {
        self.instant() - began
    }

    /// Waits for a duration.
    pub(super) async fn sleep(&self, duration: Duration) {
        match self {
            Self::Real | Self::Subscriber(_) => tokio::time::sleep(duration).await,
            #[cfg(test)]
            Self::Simulated(process) => process.sleep(duration).await,
        }
    }

    /// A pseudo-random part of up to half of the pause, so that jobs that wait for the same fault do not all retry at the same
    /// time.
    pub(super) fn jitter(&self, pause: Duration) -> Duration {
        pause.mul_f64(f64::from(self.now() as u8) / 512.0)
    }
}

/// Faults that a simulation plants in a runner to test that it detects them.
#[cfg(test)]
impl Environment {
    /// The partitions that count for a job's event time: `there` are the existing ones, `last` is the last version.
    pub(super) fn partitions(&self, there: Partitions, last: Option<&BatchVersion>) -> Partitions {
        match self {
            Self::Real | Self::Subscriber(_) => there,
            Self::Simulated(process) => process.partitions(there, last),
        }
    }

    /// The version that stores how long partitions had been silent before this process looked at them: the last one.
    pub(super) fn silent_by<'v>(&self, last: Option<&'v BatchVersion>) -> Option<&'v BatchVersion> {
        match self {
            Self::Real | Self::Subscriber(_) => last,
            Self::Simulated(process) => process.silent_by(last),
        }
    }
}
