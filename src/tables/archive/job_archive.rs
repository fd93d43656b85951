//! The archive of a topic that a job reads: which offsets it covers, whether it is the past of this topic, and its records.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::session_state::SessionState;
use datafusion::physical_plan::execute_stream;
use futures::StreamExt as _;

use crate::core::archive::claims::other_topic;
use crate::core::archive::{
    ArchiveOffsets, OffsetRange, OffsetRanges, PartitionOffsets, check_past, claims_of_topic,
};
use crate::core::jobs::{Identity, PartitionEnds, RecordMark};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::tables::archive::columns::{InputColumns, Needs};
use crate::tables::archive::coverage::covered_by;
use crate::tables::archive::pinned_archive::PinnedArchive;
use crate::tables::delta::{DeltaTableHandle, TimeTravel, offset_claims};
use crate::tables::kafka::{
    ComparedParts, EarlierRecords, KafkaTable, MetadataKey, OffsetRange as Offsets,
};

/// So many offsets before the end of an archive are looked at for its last record: control records and compaction leave gaps.
const LAST: i64 = 64;

/// The archive of a Kafka table, for a job.
#[derive(Clone)]
pub struct JobArchive {
    table: Arc<KafkaTable>,
    handle: DeltaTableHandle,
    /// Runs the reads of the archive beside batches.
    session: Arc<SessionState>,
}

impl fmt::Debug for JobArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobArchive")
            .field("location", &self.handle.location())
            .finish_non_exhaustive()
    }
}

/// One version of an archive, and the offsets that it covers.
#[derive(Debug)]
pub struct CoveredArchive {
    archive: Arc<PinnedArchive>,
    reader: JobArchive,
    covered: BTreeMap<i32, OffsetRanges>,
    /// Of these, the offsets that jobs have skipped as lost: nothing has their records any more.
    lost: PartitionOffsets,
    /// Another topic of the same name, whose records jobs have archived here.
    other: Option<Identity>,
}

impl JobArchive {
    /// The archive of `table`, which is the Delta table behind `handle`.
    pub fn new(table: Arc<KafkaTable>, handle: DeltaTableHandle, session: SessionState) -> Self {
        let session = Arc::new(session);
        Self {
            table,
            handle,
            session,
        }
    }

    /// The name of the archive.
    pub fn name(&self) -> &str {
        let options = self.table.archive();
        options.map_or("", |options| options.table())
    }

    /// The offsets that its newest version has rows of.
    ///
    /// # Errors
    ///
    /// The table is gone, or cannot be the archive; its log or its files cannot be read.
    pub(crate) async fn offsets(&self) -> Result<ArchiveOffsets> {
        let pinned = self.open().await?;
        Ok(pinned.offsets(&*self.session).await?.clone())
    }

    /// Whether it is the Delta table behind `handle`.
    pub(crate) fn is_in(&self, handle: &DeltaTableHandle) -> bool {
        self.handle.is_same(handle)
    }

    /// The identity of the Delta table now (IDENT-1).
    ///
    /// # Errors
    ///
    /// The table is gone, or its store does not answer.
    pub(crate) async fn identity(&self) -> Result<Identity> {
        self.handle.identity().await
    }

    /// How long `VACUUM` keeps files that newer versions do not need.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub(crate) async fn file_retention(&self) -> Result<Duration> {
        self.handle.file_retention().await
    }

    /// Its newest version, and whether rows of an earlier one were changed or deleted since.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub(crate) async fn since(&self, version: u64) -> Result<(u64, bool)> {
        let newest = self.handle.version().await?;
        let has_changed = self.handle.has_changed_rows_since(version).await?;
        Ok((newest, has_changed))
    }

    async fn open(&self) -> Result<PinnedArchive> {
        PinnedArchive::open(Arc::clone(&self.table), &self.handle, TimeTravel::Latest).await
    }

    /// Its newest version. What jobs have recorded counts if it is about this topic; for the rest, offsets of rows are looked up.
    ///
    /// # Errors
    ///
    /// The table is gone, or cannot be the archive; its log or its files cannot be read.
    pub async fn pin(&self, topic: &Identity) -> Result<CoveredArchive> {
        self.covered(self.open().await?, topic).await
    }

    /// The same of an earlier version, on which a run rests.
    ///
    /// # Errors
    ///
    /// As [`Self::pin`]; there is no such version any more.
    pub(crate) async fn pin_at(&self, version: u64, topic: &Identity) -> Result<CoveredArchive> {
        let at = TimeTravel::Version(version);
        let opened = PinnedArchive::open(Arc::clone(&self.table), &self.handle, at).await;
        let opened = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => error
                .context(format!(
                    "version {version} of archive {}, on which the run rests, is gone",
                    self.name()
                ))
                .with_help("begin another run, which reads the newest version"),
            _ => error,
        })?;
        self.covered(opened, topic).await
    }

    async fn covered(&self, archive: PinnedArchive, topic: &Identity) -> Result<CoveredArchive> {
        let jobs = offset_claims(archive.delta().as_ref()).await?;
        let claimed = claims_of_topic(jobs.values(), topic);
        let mut covered = covered_by(&archive, &claimed, &self.session).await?;
        let nothing = OffsetRanges::default();
        let mut lost = PartitionOffsets::new();
        for (partition, claimed) in &claimed {
            let known = covered.get(partition).unwrap_or(&nothing);
            for skipped in claimed.lost.iter().map(|lost| lost.range) {
                let missing = known.missing_in(skipped);
                if !missing.is_empty() {
                    lost.entry(*partition).or_default().extend(missing.ranges());
                }
            }
        }
        if archive.accepts_gaps() {
            for covered in covered.values_mut() {
                if let (Some(first), Some(end)) = (covered.first(), covered.end()) {
                    covered.insert(OffsetRange::new(first, end));
                }
            }
        }
        for (partition, claimed) in claimed {
            // Nothing can fill them any more.
            let lost = claimed.lost.iter().map(|lost| lost.range);
            covered.entry(partition).or_default().extend(lost);
        }
        Ok(CoveredArchive {
            archive: Arc::new(archive),
            reader: self.clone(),
            covered,
            lost,
            other: other_topic(jobs.values(), topic).cloned(),
        })
    }
}

impl CoveredArchive {
    /// The name of the archive.
    pub fn name(&self) -> &str {
        self.archive.mapping().archive()
    }

    /// The version of the Delta table.
    pub fn version(&self) -> u64 {
        self.archive.version()
    }

    /// The version itself.
    pub(super) fn pinned(&self) -> &Arc<PinnedArchive> {
        &self.archive
    }

    /// Runs reads beside batches.
    pub(super) fn session(&self) -> &Arc<SessionState> {
        &self.reader.session
    }

    /// Gives its records to batches.
    pub(crate) fn records(&self) -> Arc<dyn EarlierRecords> {
        Arc::clone(&self.archive) as Arc<dyn EarlierRecords>
    }

    /// The offsets that it covers of a partition: each record that the topic has had there is in the archive, or was deleted from
    /// it, or a job had to skip it as lost.
    pub fn covered(&self, partition: i32) -> Option<&OffsetRanges> {
        self.covered.get(&partition)
    }

    /// The same for all partitions.
    pub(crate) fn partitions(&self) -> &BTreeMap<i32, OffsetRanges> {
        &self.covered
    }

    /// The offsets that it covers and nothing has: jobs have skipped them as lost.
    pub(crate) fn lost(&self) -> &PartitionOffsets {
        &self.lost
    }

    /// Whether its records have their timestamps.
    pub(crate) fn has_timestamps(&self) -> bool {
        let mapping = self.archive.mapping();
        mapping.metadata(MetadataKey::Timestamp).is_some()
    }

    /// For each partition the first record with this timestamp or a later one, in milliseconds since 1970 UTC, of those that the topic,
    /// which has these ends, no longer has. Only for an archive with timestamps.
    ///
    /// # Errors
    ///
    /// The archive cannot be read.
    pub(crate) async fn first_since(
        &self,
        millis: i64,
        ends: &[PartitionEnds],
    ) -> Result<BTreeMap<i32, i64>> {
        let ranges = ends.iter().filter_map(|ends| {
            let range = Offsets {
                partition: ends.partition,
                start: self.covered(ends.partition)?.first()?,
                end: ends.low,
            };
            (!range.is_empty()).then_some(range)
        });
        let ranges: Vec<Offsets> = ranges.collect();
        if ranges.is_empty() {
            return Ok(BTreeMap::new());
        }
        let session = &*self.reader.session;
        let first = self.archive.first_since(session, millis, &ranges);
        first.await
    }

    /// The marks of the last record in each of these ranges, by these parts.
    async fn last_marks(
        &self,
        ranges: Vec<Offsets>,
        parts: ComparedParts,
    ) -> Result<BTreeMap<i32, RecordMark>> {
        let mut last: BTreeMap<i32, RecordMark> = BTreeMap::new();
        if ranges.is_empty() {
            return Ok(last);
        }
        let (table, mapping) = (self.archive.table(), self.archive.mapping());
        let needs = Needs {
            whole_records: true,
            event_time: false,
        };
        let columns = InputColumns::new(mapping, table, &[], &[], needs);
        let session = &*self.reader.session;
        let plan = self
            .archive
            .rows_in(session, columns.indices(), &ranges, Vec::new());
        let mut rows = execute_stream(plan.await?, session.task_ctx())?;
        let topic: Arc<str> = table.topic().into();
        while let Some(rows) = rows.next().await {
            let records = columns.records(&rows?, &topic, mapping.archive())?;
            for (partition, mark) in records.marks(parts) {
                let known = last.entry(partition).or_insert(mark);
                if known.offset < mark.offset {
                    *known = mark;
                }
            }
        }
        Ok(last)
    }

    /// By which parts its records can be compared with those of the topic; none if it does not have them as they were.
    pub(crate) fn compared(&self) -> Option<ComparedParts> {
        self.archive.mapping().compared()
    }

    /// The marks of the records at these offsets, by these parts. A partition that has no record there is left out.
    ///
    /// # Errors
    ///
    /// The archive cannot be read.
    pub(crate) async fn marks_at(
        &self,
        offsets: &BTreeMap<i32, i64>,
        parts: ComparedParts,
    ) -> Result<BTreeMap<i32, RecordMark>> {
        let ranges = offsets.iter().map(|(partition, offset)| Offsets {
            partition: *partition,
            start: *offset,
            end: offset.saturating_add(1),
        });
        self.last_marks(ranges.collect(), parts).await
    }

    /// The marks of its last records as far as the topic, which has these ends, still has records there.
    ///
    /// # Errors
    ///
    /// The archive cannot be read.
    pub(crate) async fn last_in_topic(
        &self,
        ends: &[PartitionEnds],
        parts: ComparedParts,
    ) -> Result<BTreeMap<i32, RecordMark>> {
        let ranges = ends.iter().filter_map(|ends| {
            let end = self.covered(ends.partition)?.end()?.min(ends.high);
            let start = ends.low.max(end.saturating_sub(LAST));
            (start < end).then_some(Offsets {
                partition: ends.partition,
                start,
                end,
            })
        });
        self.last_marks(ranges.collect(), parts).await
    }

    /// Checks that it can be the past of a topic with these ends. They must have been asked for after the version was pinned.
    ///
    /// # Errors
    ///
    /// It has partitions or offsets that the topic never had.
    pub(crate) fn check_ends(&self, ends: &[PartitionEnds]) -> Result<()> {
        let covered = self.covered.iter();
        let ends_of_archive =
            covered.filter_map(|(partition, covered)| Some((*partition, covered.end()?)));
        check_past(ends_of_archive, ends).map_err(|why| self.not_the_past(&why.to_string()))
    }

    /// Compares its last records, which have these marks, with those that the topic has there.
    ///
    /// # Errors
    ///
    /// The topic has another record; or none can be compared, and jobs have recorded that they archived another topic of this name.
    pub(crate) fn check_records(
        &self,
        last: &BTreeMap<i32, RecordMark>,
        of_topic: &BTreeMap<i32, RecordMark>,
    ) -> Result<()> {
        let mut is_confirmed = false;
        for (partition, mark) in last {
            match of_topic.get(partition) {
                Some(found) if found == mark => is_confirmed = true,
                Some(_) => {
                    let offset = mark.offset;
                    return Err(self.not_the_past(&format!(
                        "it has another record than the topic at offset {offset} of partition {partition}"
                    )));
                }
                None => {}
            }
        }
        match &self.other {
            Some(other) if !is_confirmed => {
                Err(self.not_the_past(&format!("it was written from {other}")))
            }
            _ => Ok(()),
        }
    }

    fn not_the_past(&self, said: &str) -> Error {
        let (archive, topic) = (self.name(), self.archive.table().topic());
        Error::data(format!(
            "archive {archive} is not the past of topic '{topic}': {said}"
        ))
        .about(Subject::table(archive))
        .with_help(
            "the topic was recreated or truncated, or the archive is another topic's: give this topic an archive of its own, or declare \
             the table without 'archive'; then CREATE OR REPLACE JOB and RESUME JOB",
        )
    }
}
