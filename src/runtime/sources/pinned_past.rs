//! The past of a source as a run has pinned it: opened again for each attempt, and the same each time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::archive::{OffsetRange, OffsetRanges, PastParts, divide_past};
use crate::core::jobs::{Identity, IdentityMatch, PartitionEnds};
use crate::core::runs::{Pin, PinnedAt, SourcePin};
use crate::error::{Error, Result, Subject};
use crate::streaming::{JobQuery, StreamTable};
use crate::tables::archive::{CoveredArchive, JobArchive, PinnedPast};
use crate::tables::kafka::KafkaJobSource;

/// The past of each source, as the statement that runs has pinned it.
pub(in crate::runtime) type Pasts = BTreeMap<String, PinnedPast>;

/// So many ranges of lost offsets are named.
const NAMED: usize = 5;

/// A source of a run.
#[derive(Debug)]
pub(super) struct RunSource {
    /// The table's name in the job.
    pub(super) table: String,
    pub(super) topic: KafkaJobSource,
    pub(super) archive: JobArchive,
}

impl RunSource {
    /// A source of a query. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// The query does not read it, or it has no archive that is its past.
    pub(super) fn of(query: &JobQuery, table: &str) -> Result<Self> {
        let source = query.sources().get(table);
        let source = source.ok_or_else(|| {
            Error::invalid(format!("'{table}' is not a source of the job"))
                .about(Subject::table(table))
        })?;
        let StreamTable::Kafka(topic) = source else {
            return Err(Error::unsupported(format!(
                "'{table}' is a Delta table that is read as a stream, and a run reads topics that have an archive"
            ))
            .about(Subject::table(table))
            .with_help("read it by its own name in a one-time INSERT, which reads it whole"));
        };
        let Some(archive) = query.archive(table)? else {
            return Err(Error::invalid(format!(
                "'{table}' has no archive, and a run reads the past from there"
            ))
            .about(Subject::table(table))
            .with_help("archive the topic by a job, and declare the table with 'archive' and the name of the Delta table"));
        };
        if query.writes(&archive) {
            return Err(Error::unsupported(format!(
                "the job writes {}, which is the archive of its own source '{table}'",
                archive.name()
            ))
            .about(Subject::table(table))
            .with_help("REWIND JOB reads the topic again, as far as it goes back"));
        }
        Ok(Self {
            table: table.to_owned(),
            topic: KafkaJobSource::try_new(Arc::clone(topic))?,
            archive,
        })
    }

    /// The past that a run has pinned. `keeps_time` says that the job leaves out rows without a time of this world.
    ///
    /// # Errors
    ///
    /// The pinned version is gone, or the Delta table is another one.
    pub(super) async fn past(&self, pin: &SourcePin, keeps_time: bool) -> Result<PinnedPast> {
        self.check_archive(pin).await?;
        let PinnedAt::Version(version) = &pin.archive.at else {
            return Err(Error::internal("an archive is pinned by its version"));
        };
        let archive = self.archive.pin_at(*version, &self.topic_of(pin)).await?;
        past_over(&archive, pin, keeps_time)
    }

    /// The topic that was pinned; of one that was not, its name is known.
    fn topic_of(&self, pin: &SourcePin) -> Identity {
        match &pin.tail {
            Some(tail) => tail.identity.clone(),
            None => Identity::Topic {
                topic: self.topic.table().topic().to_owned(),
                cluster: None,
                id: None,
            },
        }
    }

    /// Checks that the archive is the pinned Delta table.
    ///
    /// # Errors
    ///
    /// It is another one; it does not answer.
    pub(super) async fn check_archive(&self, pin: &SourcePin) -> Result<()> {
        let now = self.archive.identity().await?;
        check_same(&self.table, &pin.archive, &now)
    }

    /// Checks that the topic still has what the run reads of it.
    ///
    /// # Errors
    ///
    /// It is another topic, or has lost some of it; it does not answer.
    pub(super) async fn check_topic(&self, pin: &SourcePin, past: &PinnedPast) -> Result<()> {
        if past.parts().values().all(|parts| parts.topic.is_empty()) {
            return Ok(());
        }
        let is_same = async {
            match &pin.tail {
                Some(tail) => check_same(&self.table, tail, &self.topic.identity().await?),
                None => Ok(()),
            }
        };
        let (is_same, ends) = tokio::join!(is_same, self.topic.ends());
        is_same?;
        let lost = lost(past.parts(), &ends?);
        match lost.is_empty() {
            true => Ok(()),
            false => Err(self.lost(&lost, pin)),
        }
    }

    fn lost(&self, lost: &[(i32, OffsetRange)], pin: &SourcePin) -> Error {
        let (topic, archive) = (self.topic.table().topic(), self.archive.name());
        Error::data(format!(
            "{}: topic '{topic}' no longer has {}, and the archive does not have them in {}",
            self.table,
            offsets_text(lost),
            pin.archive
        ))
        .about(Subject::table(&self.table))
        .about(Subject::table(archive))
        .with_help("if they were archived since, begin another run, which reads the newest version")
    }

    /// The error of offsets that neither half has when a run is begun.
    pub(super) fn in_neither(&self, lost: &[(i32, OffsetRange)]) -> Error {
        let (topic, archive) = (self.topic.table().topic(), self.archive.name());
        Error::data(format!(
            "{}: neither topic '{topic}' nor archive {archive} has {}, and no job has recorded why",
            self.table,
            offsets_text(lost)
        ))
        .about(Subject::table(&self.table))
        .about(Subject::table(archive))
        .with_help(
            "if they are control records or were compacted, 'archive.gaps' 'accept' of the table says so; \
             SELECT * FROM archive_coverage(…) lists all holes",
        )
    }
}

/// The past that is pinned like this, over the pinned version of the archive.
///
/// # Errors
///
/// A pin that is none of a source.
pub(super) fn past_over(
    archive: &CoveredArchive,
    pin: &SourcePin,
    keeps_time: bool,
) -> Result<PinnedPast> {
    let parts = divided(archive, pin)?;
    Ok(PinnedPast::new(archive, parts, keeps_time))
}

/// How the past of each partition is divided.
///
/// # Errors
///
/// A pin that is none of a source.
fn divided(archive: &CoveredArchive, pin: &SourcePin) -> Result<BTreeMap<i32, PastParts>> {
    let covered = archive.partitions();
    let ends: BTreeMap<i32, i64> = match pin.tail.as_ref().map(|tail| &tail.at) {
        Some(PinnedAt::Ends(ends)) => ends.clone(),
        Some(PinnedAt::Version(_)) => {
            return Err(Error::internal("a topic is pinned by its ends"));
        }
        None => {
            let ends = covered.iter();
            let ends = ends.filter_map(|(partition, covered)| Some((*partition, covered.end()?)));
            ends.collect()
        }
    };
    let nothing = OffsetRanges::default();
    let parts = ends.into_iter().map(|(partition, end)| {
        let covered = covered.get(&partition).unwrap_or(&nothing);
        let from = pin.from.get(&partition).copied().or(covered.first());
        let past = OffsetRange::new(from.unwrap_or(end), end);
        (partition, divide_past(covered, past))
    });
    Ok(parts.collect())
}

/// The offsets of the topic's part that a topic with these ends does not have.
pub(super) fn lost(
    parts: &BTreeMap<i32, PastParts>,
    ends: &[PartitionEnds],
) -> Vec<(i32, OffsetRange)> {
    let low = |partition: i32| {
        let found = ends.iter().find(|ends| ends.partition == partition);
        found.map_or(i64::MAX, |ends| ends.low)
    };
    let lost = parts.iter().flat_map(|(partition, parts)| {
        let lost: Vec<OffsetRange> = parts.lost(low(*partition)).ranges().collect();
        let partition = *partition;
        lost.into_iter().map(move |range| (partition, range))
    });
    lost.collect()
}

fn check_same(table: &str, pin: &Pin, now: &Identity) -> Result<()> {
    match pin.identity.compare(now) {
        IdentityMatch::Other => Err(Error::data(format!(
            "{table}: the run rests on another table than there is now: {}",
            pin.identity.difference(now)
        ))
        .about(Subject::table(table))
        .with_help("restore the previous one, or begin another run")),
        IdentityMatch::Same | IdentityMatch::Undecided => Ok(()),
    }
}

/// The ranges of offsets, the first ones by name.
pub(super) fn offsets_text(lost: &[(i32, OffsetRange)]) -> String {
    let named = lost.iter().take(NAMED).map(|(partition, range)| {
        let (from, to) = (range.from, range.to - 1);
        match from == to {
            true => format!("offset {from} of partition {partition}"),
            false => format!("offsets {from} to {to} of partition {partition}"),
        }
    });
    let named: Vec<String> = named.collect();
    let named = named.join(", ");
    match lost.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} ranges more"),
    }
}
