//! A topic and its archive as the source of a job (ARCH-1): the archive gives what the topic no longer has.
//!
//! Offsets are one axis. A job that needs an offset which the topic has lost pins a version of the archive, reads from it as far as it
//! covers the offsets without a gap, and then from the topic. A job that the topic suffices for does not open the archive, except to find
//! out where it begins if it is told an offset or a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::core::archive::{border, needs_archive, with_archive};
use crate::core::jobs::{Identity, LostOffsets, PartitionEnds, RecordMark};
use crate::error::{Error, Result};
use crate::runtime::batch::lost_offsets;
use crate::runtime::source::{JobSource, PlanReader, Read, SourcePlan, SourcePoll};
use crate::runtime::sources::kafka::{TopicSource, batch_of};
use crate::runtime::sources::pinned_topic::{PinnedTopic, pin_newest};
use crate::streaming::BatchSource;
use crate::tables::archive::{CoveredArchive, JobArchive};
use crate::tables::kafka::{ComparedParts, EarlierParts, KafkaJobSource};

/// A topic that a job reads, and its archive.
#[derive(Debug)]
pub(super) struct ArchivedSource {
    topic: TopicSource,
    archive: JobArchive,
    /// Whether compaction removes records of the topic, which the archive has.
    is_compacted: OnceCell<bool>,
    pinned: Mutex<Option<PinnedVersion>>,
}

/// The version of the archive that is read.
#[derive(Debug, Clone)]
struct PinnedVersion {
    archive: Arc<CoveredArchive>,
    /// The ends of the topic when it was pinned.
    ends: Vec<PartitionEnds>,
}

impl ArchivedSource {
    /// A topic and its archive.
    pub(super) fn new(topic: TopicSource, archive: JobArchive) -> Self {
        Self {
            topic,
            archive,
            is_compacted: OnceCell::new(),
            pinned: Mutex::default(),
        }
    }

    fn pinned(&self) -> Option<PinnedVersion> {
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.clone()
    }

    fn keep(&self, pinned: Option<PinnedVersion>) {
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = pinned;
    }

    /// Pins the newest version of the archive if it is the past of the topic, which has had these ends; and its ends after that.
    async fn pin_newest(
        &self,
        table: &str,
        before: &[PartitionEnds],
    ) -> Result<(Vec<PartitionEnds>, Arc<CoveredArchive>)> {
        let topic = self.topic.source();
        let topic = (topic, topic.identity().await?);
        let PinnedTopic { ends, archive, .. } =
            pin_newest(topic, &self.archive, table, before).await?;
        let archive = Arc::new(archive);
        tracing::info!(
            table,
            archive = archive.name(),
            version = archive.version(),
            "the job reads its source's archive"
        );
        self.keep(Some(PinnedVersion {
            archive: Arc::clone(&archive),
            ends: ends.clone(),
        }));
        Ok((ends, archive))
    }

    /// The plan of the topic for a job that begins at an offset or a time which the archive may have.
    async fn begin(&self, look: SourcePoll<'_>) -> Result<SourcePlan> {
        let ends = self.topic.source().ends().await?;
        let (_, archive) = self.pin_newest(look.table, &ends).await?;
        let plan = self.topic.plan_behind(look, Some(&archive)).await?;
        if needed(look, &plan).next().is_none() {
            self.keep(None);
        }
        Ok(plan)
    }

    /// The version of the archive that a batch needs, if it needs one; and the plan of the topic, with its ends after that was pinned. Says
    /// as well whether it was pinned for this batch.
    async fn pin(
        &self,
        look: SourcePoll<'_>,
        plan: SourcePlan,
    ) -> Result<(SourcePlan, Option<Arc<CoveredArchive>>, bool)> {
        let is_needed = needed(look, &plan).next().is_some();
        let is_compacted = self
            .is_compacted
            .get_or_init(|| self.topic.source().is_compacted());
        let is_compacted = *is_compacted.await;
        match self.pinned() {
            None if !is_needed && !is_compacted => return Ok((plan, None, false)),
            // While the topic stays as it was, a newer version brings nothing for a job that waits for records.
            Some(known) if suffices(&known.archive, look, &plan) || known.ends == plan.ends => {
                if !is_needed && !is_compacted && has_passed(&known.archive, look, &plan) {
                    self.keep(None);
                }
                return Ok((plan, Some(known.archive), false));
            }
            _ => {}
        }
        let (ends, archive) = self.pin_newest(look.table, &plan.ends).await?;
        Ok((SourcePlan { ends, ..plan }, Some(archive), true))
    }
}

/// The offset that a job reads next in a partition with these ends; none if it begins with the first record.
fn position(look: SourcePoll<'_>, plan: &SourcePlan, ends: &PartitionEnds) -> Option<i64> {
    match look.last.filter(|_| !look.is_first()) {
        Some(last) => last.next_offset(look.table, ends.partition),
        None => plan.begins_at.as_ref()?.get(&ends.partition).copied(),
    }
}

/// The partitions of which the topic no longer has the next offset, each with that offset.
fn needed<'a>(
    look: SourcePoll<'a>,
    plan: &'a SourcePlan,
) -> impl Iterator<Item = (i32, Option<i64>)> + 'a {
    plan.ends.iter().filter_map(move |ends| {
        let next = position(look, plan, ends);
        needs_archive(ends, next).then_some((ends.partition, next))
    })
}

/// Whether a version of the archive has all of these offsets.
fn suffices(archive: &CoveredArchive, look: SourcePoll<'_>, plan: &SourcePlan) -> bool {
    needed(look, plan).all(
        |(partition, next)| match (next, archive.covered(partition)) {
            // Its beginning does not change.
            (None, _) => true,
            (Some(next), Some(covered)) => covered.has(next),
            (Some(_), None) => false,
        },
    )
}

/// Whether the job has read all that the archive covers.
fn has_passed(archive: &CoveredArchive, look: SourcePoll<'_>, plan: &SourcePlan) -> bool {
    plan.ends.iter().all(|ends| {
        let end = archive
            .covered(ends.partition)
            .and_then(|covered| covered.end());
        match (position(look, plan, ends), end) {
            (_, None) => true,
            (Some(next), Some(end)) => next >= end,
            (None, Some(_)) => false,
        }
    })
}

/// LOSS-1: the offsets that a job is to read next and that neither archive nor topic has, unless the user lets the job skip them.
fn check_holes(
    look: SourcePoll<'_>,
    plan: &SourcePlan,
    ends: &[PartitionEnds],
    archive: &str,
) -> Result<()> {
    let lost = ends.iter().filter_map(|ends| {
        let from = position(look, plan, ends).filter(|next| *next < ends.low)?;
        let gap = look.skipping.and_then(|gaps| gaps.get(&ends.partition));
        let is_skipped =
            gap.is_some_and(|gap| gap.start == from && (ends.low..=ends.high).contains(&gap.end));
        (!is_skipped).then_some(LostOffsets {
            partition: ends.partition,
            from,
            to: ends.low,
            is_short: false,
        })
    });
    let lost: Vec<LostOffsets> = lost.collect();
    match lost.is_empty() {
        true => Ok(()),
        false => Err(in_neither(look.table, &lost, archive)),
    }
}

fn in_neither(table: &str, lost: &[LostOffsets], archive: &str) -> Error {
    let said =
        format!("; archive {archive} does not have them either, and no job has recorded why");
    let help = "RESUME JOB … SKIPPING LOST continues behind them and records the gap; if they are control records or were compacted, \
                'archive.gaps' 'accept' of the table says so";
    lost_offsets(table, lost, &said, help)
}

#[async_trait]
impl JobSource for ArchivedSource {
    async fn identity(&self) -> Result<Identity> {
        self.topic.identity().await
    }

    /// Records that the topic has lost are compared with those of the archive.
    async fn other_records(&self, marks: &BTreeMap<i32, RecordMark>) -> Result<Vec<i32>> {
        let mut others = self.topic.other_records(marks).await?;
        let Some(PinnedVersion { archive, ends }) = self.pinned() else {
            return Ok(others);
        };
        if archive.compared() != Some(ComparedParts::ALL) {
            return Ok(others);
        }
        let is_lost = |(partition, mark): &(&i32, &RecordMark)| {
            let of_topic = ends.iter().find(|ends| ends.partition == **partition);
            of_topic.is_some_and(|ends| mark.offset < ends.low)
        };
        let lost = marks.iter().filter(is_lost);
        let lost: BTreeMap<i32, i64> = lost
            .map(|(partition, mark)| (*partition, mark.offset))
            .collect();
        let found = archive.marks_at(&lost, ComparedParts::ALL).await?;
        let differs =
            |(partition, found): &(&i32, &RecordMark)| marks.get(*partition) != Some(*found);
        others.extend(
            found
                .iter()
                .filter(differs)
                .map(|(partition, _)| *partition),
        );
        Ok(others)
    }

    async fn plan(&self, look: SourcePoll<'_>) -> Result<SourcePlan> {
        let plan = match self.topic.begins_at_named_place(look) {
            true => self.begin(look).await?,
            false => self.topic.plan(look).await?,
        };
        let (plan, archive, is_new) = self.pin(look, plan).await?;
        let Some(archive) = archive else {
            return Ok(plan);
        };
        let extended = |ends: &PartitionEnds| match archive.covered(ends.partition) {
            Some(covered) => with_archive(ends, covered, position(look, &plan, ends)),
            None => *ends,
        };
        let ends: Vec<PartitionEnds> = plan.ends.iter().map(extended).collect();
        check_holes(look, &plan, &ends, archive.name())?;
        Ok(SourcePlan {
            ends,
            // The record that was read last may be in the archive alone.
            checks_marks: is_new,
            reader: Arc::new(LogReader {
                topic: self.topic.source().clone(),
                archive,
            }),
            ..plan
        })
    }

    fn topic(&self) -> Option<&str> {
        self.topic.topic()
    }
}

/// Reads a topic, and before it a version of its archive.
#[derive(Debug)]
struct LogReader {
    topic: KafkaJobSource,
    archive: Arc<CoveredArchive>,
}

impl PlanReader for LogReader {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        let borders = read.ranges.iter().filter_map(|range| {
            let covered = self.archive.covered(range.partition)?;
            Some((range.partition, border(covered, range)))
        });
        let earlier = EarlierParts {
            borders: borders.collect(),
            records: self.archive.records(),
        };
        Ok(batch_of(&self.topic, read, Some(earlier)))
    }
}
