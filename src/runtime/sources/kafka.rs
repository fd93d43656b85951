//! A topic as the source of a job: its partitions are read by ranges of offsets, which the runner chooses.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::core::jobs::startup::{
    check_found_by_time, start_at_end, start_at_time, start_behind_archive, start_offsets,
};
use crate::core::jobs::{Identity, PartitionEnds, RecordMark, SourceStart, StartFault};
use crate::error::{Error, Result};
use crate::runtime::source::{JobSource, PlanReader, Read, SourcePlan, SourcePoll};
use crate::runtime::startup::cannot_begin;
use crate::streaming::BatchSource;
use crate::tables::archive::{CoveredArchive, JobArchive};
use crate::tables::kafka::{
    EarlierParts, KafkaJobSource, KafkaTable, KafkaTableProvider, OffsetRange, Startup,
};

/// A timestamp that is not later than that of any record, in milliseconds since 1970 UTC.
const FIRST_TIME: i64 = 1;

/// A topic that a job reads.
#[derive(Debug)]
pub(super) struct TopicSource {
    source: KafkaJobSource,
    /// The archive that the topic's table names.
    archive: Option<JobArchive>,
    /// Where a job begins that has not read it.
    start: SourceStart,
}

impl TopicSource {
    /// The topic of a table; a job begins where `start` says, or else the table's options.
    ///
    /// # Errors
    ///
    /// Settings that the client refuses.
    pub(super) fn try_new(
        table: Arc<KafkaTable>,
        archive: Option<JobArchive>,
        start: Option<SourceStart>,
    ) -> Result<Self> {
        let declared = match table.startup() {
            Startup::Earliest => SourceStart::First,
            Startup::Latest => SourceStart::End,
        };
        Ok(Self {
            archive,
            start: start.unwrap_or(declared),
            source: KafkaJobSource::try_new(table)?,
        })
    }

    /// The topic itself.
    pub(super) fn source(&self) -> &KafkaJobSource {
        &self.source
    }

    /// Whether a job begins at an offset or a time that the user has named, so that it may lie before the first record of the topic.
    pub(super) fn begins_at_named_place(&self, look: SourcePoll<'_>) -> bool {
        look.is_first()
            && look.began_at.is_none()
            && !self.is_of_earlier_topic(look)
            && matches!(self.start, SourceStart::Offsets(_) | SourceStart::Time(_))
    }

    /// Whether the start is given by offsets of the topic that was replaced.
    fn is_of_earlier_topic(&self, look: SourcePoll<'_>) -> bool {
        look.is_replacement
            && matches!(
                self.start,
                SourceStart::Offsets(_) | SourceStart::ArchiveEnd
            )
    }

    /// What the topic has for the next batch. A job that begins may begin in `past`, a version of its archive.
    pub(super) async fn plan_behind(
        &self,
        look: SourcePoll<'_>,
        past: Option<&CoveredArchive>,
    ) -> Result<SourcePlan> {
        let (ends, begins_at) = match look.is_first() {
            true => self.begin(look, past).await?,
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

    /// The ends of the topic, and where a job begins in it that has not read it; `None`: at its first records.
    async fn begin(
        &self,
        look: SourcePoll<'_>,
        past: Option<&CoveredArchive>,
    ) -> Result<(Vec<PartitionEnds>, Option<BTreeMap<i32, i64>>)> {
        let fails = |fault| self.cannot_begin(look, &fault);
        let ends = self.source.ends().await?;
        let begins_at = match (&self.start, look.began_at) {
            (SourceStart::First, _) => None,
            (_, Some(began_at)) => Some(began_at.clone()),
            (SourceStart::End, None) => Some(start_at_end(&ends)),
            _ if self.is_of_earlier_topic(look) => None,
            (SourceStart::Offsets(named), None) => {
                let nothing = BTreeMap::new();
                let archived = past.map_or(&nothing, CoveredArchive::partitions);
                let begins = start_offsets(named, &ends, archived);
                Some(begins.map_err(fails)?)
            }
            (SourceStart::Time(millis), None) => {
                let begins = self.begin_at_time(look, *millis, &ends, past).await?;
                // The record that was found may be newer than the ends.
                return Ok((self.source.ends().await?, Some(begins)));
            }
            (SourceStart::ArchiveEnd, None) => {
                let archive = self.archive.as_ref();
                let archive =
                    archive.ok_or_else(|| Error::internal("a topic without an archive"))?;
                let archived = archive.offsets().await?;
                // After the archive: the topic had each record before a job archived it, so it ends behind all of them.
                let ends = self.source.ends().await?;
                let begins = start_behind_archive(&archived, &ends).map_err(fails)?;
                return Ok((ends, Some(begins)));
            }
        };
        Ok((ends, begins_at))
    }

    /// Where each partition begins by time: at the first record that is late enough, in the archive or in the topic.
    async fn begin_at_time(
        &self,
        look: SourcePoll<'_>,
        millis: i64,
        ends: &[PartitionEnds],
        past: Option<&CoveredArchive>,
    ) -> Result<BTreeMap<i32, i64>> {
        let partitions: Vec<i32> = ends.iter().map(|ends| ends.partition).collect();
        let found = self.source.offsets_at(partitions.clone(), millis).await?;
        let mut begins = start_at_time(&found, ends);
        let Some(past) = past else {
            return Ok(begins);
        };
        if past.has_timestamps() {
            begins.extend(past.first_since(millis, ends).await?);
            return Ok(begins);
        }
        let first = self.source.offsets_at(partitions, FIRST_TIME).await?;
        match check_found_by_time(&found, &first, ends, past.partitions()) {
            Ok(()) => Ok(begins),
            Err(fault) => Err(self.cannot_begin(look, &fault)),
        }
    }

    fn cannot_begin(&self, look: SourcePoll<'_>, fault: &StartFault) -> Error {
        cannot_begin(look.table, self.source.table().topic(), fault)
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
        self.plan_behind(look, None).await
    }

    fn topic(&self) -> Option<&str> {
        Some(self.source.table().topic())
    }
}

impl PlanReader for KafkaJobSource {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        Ok(batch_of(self, read, None))
    }
}

/// The table as a batch sees it that reads these ranges. What they begin with may come from elsewhere than the topic.
pub(super) fn batch_of(
    source: &KafkaJobSource,
    read: Read<'_>,
    earlier: Option<EarlierParts>,
) -> BatchSource {
    let reported = read.reported();
    let ranges = read.ranges.iter().map(|range| OffsetRange {
        partition: range.partition,
        start: range.start,
        end: range.end,
    });
    let (table, pool) = (Arc::clone(source.table()), Some(Arc::clone(source.pool())));
    let provider = KafkaTableProvider::for_batch(table, ranges.collect(), pool);
    let provider = provider
        .with_name(read.table)
        .without_records(read.aside.unwrap_or_default());
    let provider = match read.time {
        Some(time) => provider.with_time(time),
        None => provider,
    };
    let provider = match earlier {
        Some(earlier) => provider.with_earlier(earlier),
        None => provider,
    };
    BatchSource {
        provider: Arc::new(provider),
        ranges: reported,
        last_records: BTreeMap::new(),
        chunk: None,
    }
}
