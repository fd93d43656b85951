//! The claim of an archive about event times: a predicate that leaves files out by it, and the comparison with the event time of every
//! row that is read.

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::TimestampMicrosecondType;
use datafusion::logical_expr::utils::disjunction;
use datafusion::logical_expr::{Expr, ident, lit};

use crate::error::{Error, Result, Subject};
use crate::tables::archive::columns::microseconds;
use crate::tables::archive::filters::in_times;
use crate::tables::archive::mapped_column::MappedColumn;
use crate::tables::archive::mapping::{ArchiveMapping, EventTimeClaim};
use crate::tables::kafka::RecordColumns;
use crate::tables::time::event_times;

/// Ranges of time in microseconds, both ends included; an end that is none is open.
pub(super) type TimeRanges = [(Option<i64>, Option<i64>)];

/// A predicate on the archive's columns that holds for every row with an event time in one of `ranges`, if the claim is true, and for
/// rows that claim nothing; `may_be_null` says whether a column may have NULL. `None`: nothing is claimed, or it would hold for all rows.
pub(super) fn predicate(
    claim: &EventTimeClaim,
    ranges: &TimeRanges,
    may_be_null: impl Fn(&str) -> bool,
) -> Option<Expr> {
    let (column, or_null) = match claim {
        EventTimeClaim::None => return None,
        EventTimeClaim::Parts(parts) => return parts.predicate(ranges),
        // Rows without an event time are in no range of it.
        EventTimeClaim::Own(column) => (column, false),
        EventTimeClaim::Column(column) => (column, may_be_null(&column.name)),
    };
    let within = ranges.iter().map(|range| in_times(column, *range));
    let within: Vec<Expr> = within.collect::<Option<_>>()?;
    let null = or_null.then(|| ident(&column.name).is_null());
    match within.is_empty() && null.is_none() {
        // No time is in any of the ranges.
        true => Some(lit(false)),
        false => disjunction(within.into_iter().chain(null)),
    }
}

/// A predicate that holds for every row without an event time, if the claim is true. `None`: nothing is claimed.
pub(super) fn is_null(claim: &EventTimeClaim) -> Option<Expr> {
    let columns = match claim {
        EventTimeClaim::None => return None,
        EventTimeClaim::Own(column) => vec![column.clone()],
        EventTimeClaim::Column(_) | EventTimeClaim::Parts(_) => compared(claim),
    };
    disjunction(columns.iter().map(|column| ident(&column.name).is_null()))
}

/// The columns that are compared with the event time of rows.
pub(super) fn compared(claim: &EventTimeClaim) -> Vec<MappedColumn> {
    match claim {
        EventTimeClaim::None | EventTimeClaim::Own(_) => Vec::new(),
        EventTimeClaim::Column(column) => vec![column.clone()],
        EventTimeClaim::Parts(parts) => parts.columns().cloned().collect(),
    }
}

/// Compares the event times of records with what the archive says of them in the columns `claimed`; those of the rows `left_out`,
/// ascending, are not.
///
/// # Errors
///
/// The first record with another event time, by name.
pub(super) fn check(
    mapping: &ArchiveMapping,
    event_time: &str,
    records: &RecordColumns,
    claimed: &[ArrayRef],
    (times, left_out): (&ArrayRef, &[usize]),
) -> Result<()> {
    let times = event_times(times)?;
    let (row, said) = match mapping.claim() {
        EventTimeClaim::None | EventTimeClaim::Own(_) => return Ok(()),
        EventTimeClaim::Parts(parts) => match parts.first_other(times, claimed, left_out)? {
            None => return Ok(()),
            Some(row) => (row, parts.shown(claimed, row)),
        },
        EventTimeClaim::Column(column) => {
            let Some(claimed) = claimed.first() else {
                return Err(Error::internal("a claim without its column"));
            };
            let claimed = microseconds(claimed)?;
            let claimed = claimed.as_primitive::<TimestampMicrosecondType>();
            match first_other(times, claimed, left_out) {
                None => return Ok(()),
                Some(row) => (
                    row,
                    format!("{}={}", column.name, shown(claimed.value(row))),
                ),
            }
        }
    };
    let (partition, offset) = (records.partitions.value(row), records.offsets.value(row));
    let archive = mapping.archive();
    Err(Error::data(format!(
        "archive {archive} says {said} of offset {offset} of partition {partition}, and its {event_time} is {}",
        match times.is_valid(row) {
            true => shown(times.value(row)),
            false => "NULL".to_owned(),
        }
    ))
    .about(Subject::table(archive))
    .about(Subject::option("archive.event_time"))
    .with_help(
        "the archive's columns of time do not follow from the table's event time, so files cannot be left out by them: declare the table with 'archive.event_time' 'none', or name their zone with 'archive.timezone'",
    ))
}

/// The first row with another time, or with none; of rows without a claim nothing is said.
fn first_other(
    times: &TimestampMicrosecondArray,
    claimed: &TimestampMicrosecondArray,
    left_out: &[usize],
) -> Option<usize> {
    let differs = |row: usize| {
        claimed.is_valid(row)
            && (times.is_null(row) || times.value(row) != claimed.value(row))
            && left_out.binary_search(&row).is_err()
    };
    (0..times.len()).find(|row| differs(*row))
}

fn shown(micros: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(micros);
    time.map_or_else(
        || format!("{micros} microseconds"),
        |time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
    )
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, TimeUnit};

    use super::*;

    fn column() -> MappedColumn {
        MappedColumn {
            index: 0,
            name: "event_time".to_owned(),
            data_type: DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }

    #[test]
    fn rows_that_claim_nothing_are_read() {
        let claim = EventTimeClaim::Column(column());
        let ranges = [(Some(5), Some(7))];
        let said = |may_be_null: bool| {
            let predicate = predicate(&claim, &ranges, |_| may_be_null).unwrap();
            predicate.to_string()
        };
        assert!(said(true).contains("event_time IS NULL"), "{}", said(true));
        assert!(!said(false).contains("IS NULL"), "{}", said(false));
        let own = EventTimeClaim::Own(column());
        let own = predicate(&own, &ranges, |_| true).unwrap().to_string();
        assert!(!own.contains("IS NULL"), "{own}");
        assert_eq!(predicate(&EventTimeClaim::None, &ranges, |_| true), None);
        let open = EventTimeClaim::Column(column());
        assert_eq!(predicate(&open, &[(None, None)], |_| true), None);
        assert_eq!(predicate(&open, &[], |_| false), Some(lit(false)));
        assert_eq!(is_null(&open), Some(ident("event_time").is_null()));
        assert_eq!(is_null(&EventTimeClaim::None), None);
    }

    #[test]
    fn the_first_other_time_is_found() {
        let times = TimestampMicrosecondArray::from(vec![Some(1), None, Some(3), None, Some(4)]);
        let claimed = TimestampMicrosecondArray::from(vec![Some(1), None, None, Some(9), Some(5)]);
        assert_eq!(first_other(&times, &claimed, &[]), Some(3));
        assert_eq!(first_other(&times, &claimed, &[3]), Some(4));
        assert_eq!(first_other(&times, &claimed, &[3, 4]), None);
        assert_eq!(first_other(&times, &times, &[]), None);
    }
}
