//! Coverage of a topic by its archive: the offsets that jobs have claimed in the archive's log, those of its rows, and those that the
//! topic has.
//!
//! Claims come first. This module reads a file only if claims and statistics leave open which offsets it has: if it has as many rows as
//! offsets between its lowest and its highest, of one partition, it has all of them.
//!
//! A query over an archived topic asks only where the archive is behind retention: [`unexplained`].

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray as _, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{CastOptions, and, cast_with_options, filter, is_not_null};
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use futures::TryStreamExt as _;

use crate::core::archive::{
    CoverageFacts, CoverageRange, OffsetRange, OffsetRanges, PartitionClaims, PartitionHalves,
    claims_of_topic, coverage, unexplained_holes,
};
use crate::error::{Error, Result, Subject};
use crate::tables::archive::covered_files::{
    CoveredFiles, FileOffsets, PlacedRows, ReadFiles, add_offsets, archive_key,
};
use crate::tables::archive::mapping::ArchiveMapping;
use crate::tables::archive::pinned_archive::PinnedArchive;
use crate::tables::archive::topic_rows::TopicFiles;
use crate::tables::delta::{
    DeltaTableHandle, FileBounds, TextShare, TimeTravel, file_bounds, file_rows, offset_claims,
};
use crate::tables::kafka::{KafkaJobSource, KafkaTable};

/// The memory of a range of offsets, in bytes: an entry of a map.
const RANGE: usize = 48;

/// The coverage of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionCoverage {
    pub(super) partition: i32,
    /// The offsets that the topic has; none if it does not have the partition.
    pub(super) topic: Option<OffsetRange>,
    /// In order.
    pub(super) ranges: Vec<CoverageRange>,
}

/// The coverage of all partitions of a topic by its archive `handle`, ascending. Both are as they are now: this looks at the archive
/// first and then at the topic, so that no record of the archive lies behind the topic's end.
///
/// # Errors
///
/// The table names no archive, or one that cannot be its past; topic or archive cannot be read; too little memory.
pub(super) async fn coverage_of(
    table: &Arc<KafkaTable>,
    handle: &DeltaTableHandle,
    state: &SessionState,
) -> Result<Vec<PartitionCoverage>> {
    let pinned = PinnedArchive::open(Arc::clone(table), handle, TimeTravel::Latest).await?;
    let claims = offset_claims(pinned.delta().as_ref()).await?;
    let source = KafkaJobSource::try_new(Arc::clone(table))?;
    let topic = source.identity().await?;
    let claimed = claims_of_topic(claims.values(), &topic);
    let mut covered = covered_by(&pinned, &claimed, state).await?;
    let ends = source.ends().await?;
    let bounds = |partition: i32| {
        let found = ends.iter().find(|ends| ends.partition == partition);
        found.map(|ends| OffsetRange::new(ends.low, ends.high))
    };
    let mut partitions: Vec<i32> = ends.iter().map(|ends| ends.partition).collect();
    partitions.extend(claimed.keys().chain(covered.keys()));
    partitions.sort_unstable();
    partitions.dedup();
    let of_partition = |partition: i32| {
        let facts = CoverageFacts {
            covered: covered.remove(&partition).unwrap_or_default(),
            lost: claimed
                .get(&partition)
                .map_or_else(Vec::new, |claimed| claimed.lost.clone()),
            topic: bounds(partition),
        };
        PartitionCoverage {
            partition,
            topic: facts.topic,
            ranges: coverage(&facts),
        }
    };
    Ok(partitions.into_iter().map(of_partition).collect())
}

/// The offsets that an archive covers, by partition: those that jobs claim, and those of its rows.
///
/// # Errors
///
/// Files that cannot be read; too little memory.
pub(super) async fn covered_by(
    archive: &PinnedArchive,
    claimed: &BTreeMap<i32, PartitionClaims>,
    state: &SessionState,
) -> Result<BTreeMap<i32, OffsetRanges>> {
    let mut covered: BTreeMap<i32, OffsetRanges> = claimed
        .iter()
        .map(|(partition, claimed)| (*partition, claimed.covered.clone()))
        .collect();
    let reservation =
        MemoryConsumer::new("archive_coverage").register(&state.runtime_env().memory_pool);
    let archived = ArchivedRows {
        rows: archive.delta().as_ref(),
        mapping: archive.mapping(),
        state,
        reservation,
    };
    archived.add_to(&mut covered).await?;
    Ok(covered)
}

/// The offsets between the end of an archive and the first one that its topic has left, as partition, first offset and offset after the
/// last, without those that jobs have read for the archive or have skipped as lost.
///
/// # Errors
///
/// The log of the archive cannot be read; the topic is gone.
pub(super) async fn unexplained(
    archive: &PinnedArchive,
    halves: &[PartitionHalves],
) -> Result<Vec<(i32, i64, i64)>> {
    if halves.iter().all(|half| half.lost.is_none()) {
        return Ok(Vec::new());
    }
    let claims = offset_claims(archive.delta().as_ref()).await?;
    let claimed = match claims.is_empty() {
        true => BTreeMap::new(),
        false => {
            let source = KafkaJobSource::try_new(Arc::clone(archive.table()))?;
            claims_of_topic(claims.values(), &source.identity().await?)
        }
    };
    let of_partition = |half: &PartitionHalves| {
        let (lost, archived) = (half.lost?, half.archive?);
        let claimed = claimed.get(&half.partition).cloned().unwrap_or_default();
        let mut facts = CoverageFacts {
            covered: claimed.covered,
            lost: claimed.lost,
            topic: Some(OffsetRange::new(lost.1, half.topic.1)),
        };
        facts
            .covered
            .insert(OffsetRange::new(archived.0, archived.1));
        let holes = unexplained_holes(&facts, OffsetRange::new(lost.0, lost.1));
        let ranges = holes
            .ranges()
            .map(|hole| (half.partition, hole.from, hole.to));
        Some(ranges.collect::<Vec<_>>())
    };
    Ok(halves.iter().filter_map(of_partition).flatten().collect())
}

/// The rows of one version of an archive.
struct ArchivedRows<'a> {
    rows: &'a dyn TableProvider,
    mapping: &'a ArchiveMapping,
    state: &'a SessionState,
    reservation: MemoryReservation,
}

impl ArchivedRows<'_> {
    /// Adds the offsets of all rows that are not among the ranges yet.
    async fn add_to(&self, covered: &mut FileOffsets) -> Result<()> {
        let (partition, offset) = (self.mapping.partition(), self.mapping.offset());
        let files = file_bounds(self.rows, &[&partition.name, &offset.name])?;
        let topic = self.mapping.topic();
        let of_topic = TopicFiles::new(self.rows, topic)?;
        let mut open = Vec::new();
        for file in files {
            let by_log = match of_topic.share(&file) {
                TextShare::All => whole_range(&file),
                TextShare::None => continue,
                TextShare::Unknown => None,
            };
            match by_log {
                Some((partition, range)) => covered.entry(partition).or_default().insert(range),
                None if file.rows == Some(0) => {}
                None => open.push(file),
            }
        }
        open.retain(|file| !is_within(file, covered));
        let archive = archive_key(self.rows, self.mapping)?;
        let kept = self.state.config().get_extension::<CoveredFiles>();
        let mut read = ReadFiles::default();
        let mut paths = Vec::with_capacity(open.len());
        for file in open {
            // Rows of a file with deleted ones may become fewer.
            let kept = kept.as_ref().filter(|_| file.is_whole);
            match kept.and_then(|kept| kept.get(&archive, &file.path)?.offsets) {
                Some(known) => add_offsets(covered, &known),
                None => {
                    if kept.is_some() {
                        read.begin(&file.path);
                    }
                    paths.push(file.path);
                }
            }
        }
        self.reserve(covered, &read)?;
        let columns = [partition, offset].into_iter();
        let columns = columns.chain(topic.map(|topic| &topic.column));
        let columns: Vec<usize> = columns.map(|column| column.index).collect();
        let mut rows = file_rows(self.rows, self.state, paths, &columns).await?;
        while let Some((path, mut rows)) = rows.try_next().await? {
            if let Some(topic) = topic {
                rows = topic.of(&rows, 2)?;
            }
            let (partitions, offsets) =
                coordinates_of(&rows).map_err(|error| self.unreadable(&error))?;
            let placed = PlacedRows::of(
                partitions.as_primitive::<Int32Type>().values(),
                offsets.as_primitive::<Int64Type>().values(),
            );
            add_offsets(covered, &placed.offsets);
            read.add(&path, &placed, partitions.len() == rows.num_rows());
            self.reserve(covered, &read)?;
        }
        if let Some(kept) = kept {
            kept.put(&archive, read);
        }
        Ok(())
    }

    /// Accounts for the memory of the ranges.
    fn reserve(&self, covered: &BTreeMap<i32, OffsetRanges>, read: &ReadFiles) -> Result<()> {
        let ranges: usize = covered.values().map(OffsetRanges::len).sum();
        // They become as many rows of each kind.
        let ranges = ranges.saturating_mul(4).saturating_add(read.size());
        self.reservation.try_resize(ranges.saturating_mul(RANGE))?;
        Ok(())
    }

    fn unreadable(&self, error: &ArrowError) -> Error {
        let (archive, cause) = (self.mapping.archive(), error.to_string());
        Error::data(format!(
            "the partitions and offsets of archive {archive} cannot be read: {cause}"
        ))
        .about(Subject::table(archive))
    }
}

/// The partitions and offsets of rows whose first two columns they are.
fn coordinates_of(rows: &RecordBatch) -> std::result::Result<(ArrayRef, ArrayRef), ArrowError> {
    // A row without coordinates is no record of the topic.
    let has_both = and(&is_not_null(rows.column(0))?, &is_not_null(rows.column(1))?)?;
    let partitions = without_null(rows.column(0), &has_both, &DataType::Int32)?;
    let offsets = without_null(rows.column(1), &has_both, &DataType::Int64)?;
    Ok((partitions, offsets))
}

/// The rows of a column that the filter lets pass, in this type.
fn without_null(
    column: &ArrayRef,
    passes: &BooleanArray,
    to: &DataType,
) -> std::result::Result<ArrayRef, ArrowError> {
    let column = filter(column, passes)?;
    let exact = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(&column, to, &exact)
}

/// Partition and lowest and highest offset of a file, of each as a range.
fn bounds(file: &FileBounds) -> Option<((i64, i64), OffsetRange)> {
    match file.bounds.as_slice() {
        [Some(partitions), Some((low, high))] => {
            Some((*partitions, OffsetRange::new(*low, high.saturating_add(1))))
        }
        _ => None,
    }
}

/// The offsets of a file that has all between its lowest and its highest one, of one partition. No offset is there twice, as an
/// archive requires.
fn whole_range(file: &FileBounds) -> Option<(i32, OffsetRange)> {
    let ((partition, last), range) = bounds(file)?;
    let rows = i128::from(file.rows?);
    let is_whole = partition == last && rows == i128::from(range.to) - i128::from(range.from);
    Some((i32::try_from(partition).ok()?, range)).filter(|_| is_whole)
}

/// Whether all offsets that the file may have are among the ranges.
fn is_within(file: &FileBounds, covered: &BTreeMap<i32, OffsetRanges>) -> bool {
    let Some(((first, last), range)) = bounds(file) else {
        return false;
    };
    // A range of many partitions is not gone through one by one.
    let count = i128::from(last) - i128::from(first) + 1;
    if count > i128::try_from(covered.len()).unwrap_or(0) {
        return false;
    }
    (first..=last).all(|partition| {
        let partition = i32::try_from(partition).ok();
        let ranges = partition.and_then(|partition| covered.get(&partition));
        ranges.is_some_and(|ranges| ranges.contains(range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rows: Option<u64>, partitions: (i64, i64), offsets: (i64, i64)) -> FileBounds {
        FileBounds {
            path: "f".to_owned(),
            is_whole: true,
            rows,
            bounds: vec![Some(partitions), Some(offsets)],
        }
    }

    #[test]
    fn statistics_tell_of_files_without_a_gap() {
        let whole = file(Some(5), (2, 2), (10, 14));
        assert_eq!(whole_range(&whole), Some((2, OffsetRange::new(10, 15))));
        for open in [
            file(Some(4), (2, 2), (10, 14)),
            file(Some(5), (2, 3), (10, 14)),
            file(None, (2, 2), (10, 14)),
            file(Some(5), (1 << 40, 1 << 40), (10, 14)),
            FileBounds {
                bounds: vec![Some((2, 2)), None],
                ..whole.clone()
            },
        ] {
            assert_eq!(whole_range(&open), None, "{open:?}");
        }
    }

    #[test]
    fn files_within_the_ranges_are_not_read() {
        let range = |from, to| [OffsetRange::new(from, to)].into_iter().collect();
        let covered: BTreeMap<i32, OffsetRanges> = [(0, range(0, 20)), (1, range(5, 15))].into();
        assert!(is_within(&file(Some(3), (0, 1), (5, 14)), &covered));
        assert!(is_within(&file(None, (0, 0), (0, 19)), &covered));
        for open in [
            file(Some(3), (0, 1), (4, 14)),
            file(Some(3), (0, 1), (5, 15)),
            file(Some(3), (1, 2), (5, 14)),
            file(Some(3), (0, i64::MAX), (5, 14)),
            FileBounds {
                bounds: vec![None, Some((5, 14))],
                ..file(None, (0, 0), (0, 0))
            },
        ] {
            assert!(!is_within(&open, &covered), "{open:?}");
        }
    }
}
