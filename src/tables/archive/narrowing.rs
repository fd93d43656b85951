//! What a scan with filters reads of an archive: offsets, and predicates on its columns by which files are left out.

use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, lit};

use crate::tables::archive::claim;
use crate::tables::archive::filters::{in_ranges, in_timestamps, on_values};
use crate::tables::archive::mapping::EventTimeClaim;
use crate::tables::archive::pinned_archive::PinnedArchive;
use crate::tables::delta::{has_no_nulls, time_ranges};
use crate::tables::kafka::{MetadataKey, OffsetRange, row_bounds};

/// The part of the archive that a scan reads.
pub(super) struct Narrowed {
    pub(super) ranges: Vec<OffsetRange>,
    /// Predicates on the archive's columns.
    pub(super) filters: Vec<Expr>,
    /// Whether files may be left out by a claim about the event time.
    pub(super) by_claim: bool,
}

/// What a scan with these filters on the table reads of `wanted`. `is_part` says that the archive has more than that.
pub(super) fn narrowed(
    archive: &PinnedArchive,
    wanted: impl IntoIterator<Item = OffsetRange>,
    is_part: bool,
    filters: &[Expr],
) -> DataFusionResult<Narrowed> {
    let (table, mapping) = (archive.table(), archive.mapping());
    let columns = table.narrowing();
    let mut ranges = Vec::new();
    let mut is_narrow = is_part;
    let mut timestamps: Option<(i64, i64)> = None;
    for whole in wanted {
        let Some(bounds) = row_bounds(filters, &columns, whole.partition) else {
            is_narrow = true;
            continue;
        };
        let range = OffsetRange {
            partition: whole.partition,
            start: whole.start.max(bounds.offset.0),
            end: whole.end.min(bounds.offset.1.saturating_add(1)),
        };
        is_narrow |= range.start > whole.start || range.end < whole.end;
        if range.is_empty() {
            continue;
        }
        ranges.push(range);
        let (low, high) = bounds.timestamp;
        timestamps = Some(match timestamps {
            None => (low, high),
            Some((lowest, highest)) => (lowest.min(low), highest.max(high)),
        });
    }
    let mut pushed = Vec::new();
    if is_narrow {
        pushed.push(in_ranges(mapping, &ranges)?);
    }
    if let Some(column) = mapping.metadata(MetadataKey::Timestamp)
        && let Some(timestamps) = timestamps
    {
        pushed.extend(in_timestamps(column, timestamps));
    }
    pushed.extend(on_values(mapping, table, filters)?);
    let by_time = table.event_time().and_then(|event_time| {
        let ranges = time_ranges(filters, &event_time.column)?;
        let delta = archive.delta().as_ref();
        claim::predicate(mapping.claim(), &ranges, |column| {
            !has_no_nulls(delta, column)
        })
    });
    let is_null = table.event_time().and_then(|event_time| {
        let asks = |filter: &Expr| match filter {
            Expr::IsNull(of) => {
                matches!(of.as_ref(), Expr::Column(column) if column.name == event_time.column)
            }
            _ => false,
        };
        claim::is_null(mapping.claim()).filter(|_| filters.iter().any(asks))
    });
    let is_checked = !matches!(mapping.claim(), EventTimeClaim::Own(_));
    let by_claim = (by_time.is_some() || is_null.is_some()) && is_checked;
    if by_time == Some(lit(false)) {
        // No time fulfils the filters.
        ranges.clear();
    }
    pushed.extend(by_time.into_iter().chain(is_null));
    Ok(Narrowed {
        ranges,
        filters: pushed,
        by_claim,
    })
}
