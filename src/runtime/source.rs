//! The source of a job, whichever it is: asked where it ends, and read by ranges.

use std::sync::Arc;

use crate::core::jobs::PlannedRange;
use crate::error::Result;
#[cfg(test)]
use crate::runtime::simulation::SimulatedSource;
use crate::session::{BatchSource, JobSinkTable};
use crate::tables::kafka::{
    BatchTime, ConsumerPool, KafkaJobSource, KafkaTable, KafkaTableProvider, OffsetRange,
    PartitionEnds, Startup,
};

/// A source that a runner reads.
#[derive(Debug)]
pub(super) enum JobSource {
    Kafka {
        source: KafkaJobSource,
        /// Consumers that go on from batch to batch.
        pool: Arc<ConsumerPool>,
    },
    #[cfg(test)]
    Simulated(SimulatedSource),
}

impl JobSource {
    /// The topic of a table. Nothing is connected yet.
    pub(super) fn of_kafka(table: Arc<KafkaTable>) -> Result<Self> {
        Ok(Self::Kafka {
            source: KafkaJobSource::try_new(table)?,
            pool: Arc::default(),
        })
    }

    /// Where every partition starts and ends now, new ones included.
    pub(super) async fn ends(&self) -> Result<Vec<PartitionEnds>> {
        match self {
            Self::Kafka { source, .. } => source.ends().await,
            #[cfg(test)]
            Self::Simulated(source) => source.ends().await,
        }
    }

    /// Whether a job that never read it begins at its end.
    pub(super) fn starts_at_end(&self) -> bool {
        match self {
            Self::Kafka { source, .. } => source.table().startup() == Startup::Latest,
            #[cfg(test)]
            Self::Simulated(_) => false,
        }
    }

    /// The topic, if the brokers of the sink can keep offsets of it.
    pub(super) fn topic_beside(&self, sink: &JobSinkTable) -> Option<&str> {
        match (self, sink) {
            (Self::Kafka { source, .. }, JobSinkTable::Kafka(sink)) => {
                let table = source.table();
                table.shares_cluster(sink).then(|| table.topic())
            }
            (Self::Kafka { .. }, JobSinkTable::Delta(_)) => None,
            #[cfg(test)]
            (Self::Simulated(_), _) => None,
        }
    }

    /// The table as a batch sees it that reads these ranges; with `time`, it says what is to know of every row's time.
    pub(super) fn batch(
        &self,
        ranges: &[PlannedRange],
        time: Option<Arc<BatchTime>>,
    ) -> Result<BatchSource> {
        match self {
            Self::Kafka { source, pool } => {
                let ranges = ranges.iter().map(|range| OffsetRange {
                    partition: range.partition,
                    start: range.start,
                    end: range.end,
                });
                let (table, pool) = (Arc::clone(source.table()), Some(Arc::clone(pool)));
                let provider = KafkaTableProvider::for_batch(table, ranges.collect(), pool);
                let bad_records = Arc::clone(provider.bad_records());
                let provider = match time {
                    Some(time) => provider.with_time(time),
                    None => provider,
                };
                Ok(BatchSource {
                    provider: Arc::new(provider),
                    bad_records,
                })
            }
            #[cfg(test)]
            Self::Simulated(source) => source.batch(ranges, time),
        }
    }
}
