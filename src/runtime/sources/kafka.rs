//! A topic as the source of a job: its partitions are read by ranges of offsets, which the runner chooses.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::core::jobs::startup::{
    start_at_end, start_at_time, start_behind_archive, start_offsets,
};
use crate::core::jobs::{Identity, PartitionEnds, RecordMark, SourceStart};
use crate::error::Result;
use crate::runtime::source::{JobSource, PlanReader, Read, SourcePlan, SourcePoll};
use crate::runtime::startup::cannot_begin;
use crate::streaming::{BatchSource, JobQuery};
use crate::tables::kafka::{KafkaJobSource, KafkaTable, KafkaTableProvider, OffsetRange, Startup};

/// A topic that a job reads.
#[derive(Debug)]
pub(super) struct TopicSource {
    source: KafkaJobSource,
    /// Where a job begins that has not read it.
    start: SourceStart,
    /// The query of the job, which knows the archive of the topic.
    query: Arc<JobQuery>,
}

impl TopicSource {
    /// The topic of a table; a job begins where `start` says, or else the table's options.
    ///
    /// # Errors
    ///
    /// Settings that the client refuses.
    pub(super) fn try_new(
        query: &Arc<JobQuery>,
        table: Arc<KafkaTable>,
        start: Option<SourceStart>,
    ) -> Result<Self> {
        let declared = match table.startup() {
            Startup::Earliest => SourceStart::First,
            Startup::Latest => SourceStart::End,
        };
        Ok(Self {
            start: start.unwrap_or(declared),
            query: Arc::clone(query),
            source: KafkaJobSource::try_new(table)?,
        })
    }

    /// The ends of the topic, and where a job begins in it that has not read it; `None`: at its first records.
    async fn begin(
        &self,
        look: SourcePoll<'_>,
    ) -> Result<(Vec<PartitionEnds>, Option<BTreeMap<i32, i64>>)> {
        let ends = self.source.ends().await?;
        let begins_at = match (&self.start, look.began_at) {
            (SourceStart::First, _) => None,
            (_, Some(began_at)) => Some(began_at.clone()),
            (SourceStart::End, None) => Some(start_at_end(&ends)),
            // They are offsets of the topic that was replaced.
            (SourceStart::Offsets(_) | SourceStart::ArchiveEnd, None) if look.is_replacement => {
                None
            }
            (SourceStart::Offsets(named), None) => {
                let topic = self.source.table().topic();
                let begins = start_offsets(named, &ends);
                Some(begins.map_err(|fault| cannot_begin(look.table, topic, &fault))?)
            }
            (SourceStart::Time(millis), None) => {
                let partitions = ends.iter().map(|ends| ends.partition);
                let found = self.source.offsets_at(partitions.collect(), *millis);
                let begins = start_at_time(&found.await?, &ends);
                // The record that was found may be newer than the ends.
                return Ok((self.source.ends().await?, Some(begins)));
            }
            (SourceStart::ArchiveEnd, None) => {
                let table = self.source.table();
                let archived = self.query.archived(table).await?;
                // What is archived was in the topic before.
                let ends = self.source.ends().await?;
                let begins = start_behind_archive(&archived, &ends);
                let begins =
                    begins.map_err(|fault| cannot_begin(look.table, table.topic(), &fault));
                return Ok((ends, Some(begins?)));
            }
        };
        Ok((ends, begins_at))
    }
}

#[async_trait]
impl JobSource for TopicSource {
    async fn identity(&self) -> Result<Identity> {
        self.source.identity().await
    }

    async fn other_records(&self, marks: &BTreeMap<i32, RecordMark>) -> Result<Vec<i32>> {
        let others = self.source.other_records(marks.clone()).await?;
        Ok(others.into_keys().collect())
    }

    async fn plan(&self, look: SourcePoll<'_>) -> Result<SourcePlan> {
        let (ends, begins_at) = match look.is_first() {
            true => self.begin(look).await?,
            false => (self.source.ends().await?, None),
        };
        Ok(SourcePlan {
            ends,
            chosen: None,
            begins_at,
            checks_marks: false,
            reader: Arc::new(self.source.clone()),
        })
    }

    fn topic(&self) -> Option<&str> {
        Some(self.source.table().topic())
    }
}

impl PlanReader for KafkaJobSource {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        let reported = read.reported();
        let ranges = read.ranges.iter().map(|range| OffsetRange {
            partition: range.partition,
            start: range.start,
            end: range.end,
        });
        let (table, pool) = (Arc::clone(self.table()), Some(Arc::clone(self.pool())));
        let provider = KafkaTableProvider::for_batch(table, ranges.collect(), pool);
        let provider = provider
            .with_name(read.table)
            .without_records(read.aside.unwrap_or_default());
        let provider = match read.time {
            Some(time) => provider.with_time(time),
            None => provider,
        };
        Ok(BatchSource {
            provider: Arc::new(provider),
            ranges: reported,
            last_records: BTreeMap::new(),
        })
    }
}
