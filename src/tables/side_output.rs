//! What the scans of a job's batch give besides rows: dead letters, and reports of what they have reached.
//!
//! Both go to the side output of the task that runs the scan ([`SideOutput`]), and from there as rows to the runner, which reads
//! them here and checks that each scan of the plan has reported what it was to read (LOSS-1).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use anabranch_udfs::{DISPOSITION, Disposition, SideOutput, side_rows};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray as _, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch,
    StringArray, UInt8Array, UInt64Array,
};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::compute::kernels::cmp::eq;
use datafusion::arrow::datatypes::{ArrowPrimitiveType, Int32Type, Int64Type, UInt64Type};
use datafusion::execution::TaskContext;

use crate::core::archive::PartitionOffsets;
use crate::core::jobs::{PartitionTimes, RecordMark, UnfinishedVersion};
use crate::error::{Error, Result, Subject};
use crate::tables::bad_records::{BadRecord, BadRecords, SetAside, check_share};

/// Where a scan gives records that it sets aside.
///
/// A plain query keeps them in memory that its plan shares with the session: such a plan never leaves its process, and all that
/// comes of them is a warning, or rows of the dead letter table, when the query has ended (`session::dead_letters`).
#[derive(Debug, Clone)]
pub(crate) enum ScanOutlet {
    /// To a plain query.
    Query(Arc<BadRecords>),
    /// To the side output of the task.
    Batch(BatchScan),
}

/// A scan of a job's batch.
#[derive(Debug, Clone)]
pub(crate) struct BatchScan {
    /// The name of the table, as the job has it.
    pub(crate) table: Arc<str>,
    /// Which of the scans of the table in the batch's plan.
    pub(crate) scan: i32,
    /// Records that are to be left out.
    pub(crate) aside: Arc<SetAside>,
    /// The records that the batch has asked for, where the scan reads others between them. None: all that it reads.
    pub(crate) only: Option<Arc<PartitionOffsets>>,
}

/// The same while the scan runs.
#[derive(Debug, Clone)]
pub(crate) enum OpenOutlet {
    Query(Arc<BadRecords>),
    Batch(BatchOutlet),
}

/// Takes dead letters and reports of a scan that runs in a task.
#[derive(Debug, Clone)]
pub(crate) struct BatchOutlet {
    scan: BatchScan,
    output: Arc<SideOutput>,
}

impl ScanOutlet {
    /// For a scan that begins in this context.
    ///
    /// # Errors
    ///
    /// A scan of a batch in a task without side output.
    pub(crate) fn open(&self, context: &TaskContext) -> Result<OpenOutlet> {
        Ok(match self {
            Self::Query(records) => OpenOutlet::Query(Arc::clone(records)),
            Self::Batch(scan) => OpenOutlet::Batch(BatchOutlet::open(scan.clone(), context)?),
        })
    }
}

impl OpenOutlet {
    /// Why the record at this place is to be set aside, if it is.
    pub(crate) fn aside(&self, partition: i32, offset: i64) -> Option<&str> {
        match self {
            Self::Query(_) => None,
            // There are seldom any.
            Self::Batch(batch) if batch.scan.aside.is_empty() => None,
            Self::Batch(batch) => batch
                .scan
                .aside
                .get(&(partition, offset))
                .map(String::as_str),
        }
    }

    /// Gives records that were to be set aside: they are no sign of a wrong format.
    pub(crate) fn give_set_aside(&self, records: &[BadRecord]) -> Result<()> {
        match self {
            Self::Batch(batch) => batch.give(records),
            Self::Query(_) => Ok(()),
        }
    }

    /// Gives records that were found to be bad, of so many that were looked at.
    ///
    /// # Errors
    ///
    /// Most of the records are bad.
    pub(crate) fn give_bad(&self, records: Vec<BadRecord>, seen: usize) -> Result<()> {
        match self {
            Self::Query(kept) => kept.add(records, seen),
            Self::Batch(batch) => batch.give_bad(&records, seen),
        }
    }

    /// Reports what was reached; a plain query does not ask.
    pub(crate) fn report(&self, progress: &ScanProgress) -> Result<()> {
        match self {
            Self::Batch(batch) => batch.report(progress),
            Self::Query(_) => Ok(()),
        }
    }
}

impl BatchScan {
    /// Those of the records that the batch has asked for.
    fn asked<'r>(&self, records: &'r [BadRecord]) -> Cow<'r, [BadRecord]> {
        let Some(only) = &self.only else {
            return Cow::Borrowed(records);
        };
        let is_asked = |record: &&BadRecord| {
            let offsets = only.get(&record.partition);
            offsets.is_some_and(|offsets| offsets.has(record.offset))
        };
        Cow::Owned(records.iter().filter(is_asked).cloned().collect())
    }
}

impl BatchOutlet {
    /// For a scan that begins in this context.
    ///
    /// # Errors
    ///
    /// The task has no side output.
    pub(crate) fn open(scan: BatchScan, context: &TaskContext) -> Result<Self> {
        let output = SideOutput::of(context)?;
        Ok(Self { scan, output })
    }

    /// As [`OpenOutlet::give_bad`].
    pub(crate) fn give_bad(&self, records: &[BadRecord], seen: usize) -> Result<()> {
        let records = self.scan.asked(records);
        let (bad, seen) = self.output.tally(&self.scan.table, records.len(), seen);
        check_share(bad, seen, &records)?;
        self.give(&records)
    }

    fn give(&self, records: &[BadRecord]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let scan = Int32Array::from(vec![self.scan.scan; records.len()]);
        let columns: [(&str, ArrayRef); 9] = [
            ("table", repeated(&self.scan.table, records.len())),
            ("scan", Arc::new(scan)),
            ("topic", texts(records.iter().map(|record| &record.topic))),
            (
                "partition",
                Arc::new(Int32Array::from_iter_values(
                    records.iter().map(|record| record.partition),
                )),
            ),
            (
                "offset",
                Arc::new(Int64Array::from_iter_values(
                    records.iter().map(|record| record.offset),
                )),
            ),
            (
                "timestamp",
                Arc::new(
                    records
                        .iter()
                        .map(|record| record.timestamp)
                        .collect::<Int64Array>(),
                ),
            ),
            (
                "key",
                Arc::new(
                    records
                        .iter()
                        .map(|record| record.key.as_deref())
                        .collect::<BinaryArray>(),
                ),
            ),
            (
                "value",
                Arc::new(
                    records
                        .iter()
                        .map(|record| record.value.as_deref())
                        .collect::<BinaryArray>(),
                ),
            ),
            ("reason", texts(records.iter().map(|record| &record.reason))),
        ];
        let rows = side_rows(Disposition::Dead, records.len(), &columns)?;
        Ok(self.output.give(rows)?)
    }

    /// Reports what was reached.
    pub(crate) fn report(&self, progress: &ScanProgress) -> Result<()> {
        let reached = progress.reached;
        let unfinished = reached.and_then(|reached| reached.unfinished);
        let watermark = reached.and_then(|reached| reached.watermark);
        let last = progress.last;
        let number = |value: Option<i64>| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
        let count = |value: Option<u64>| -> ArrayRef { Arc::new(UInt64Array::from(vec![value])) };
        let index = |value: i32| -> ArrayRef { Arc::new(Int32Array::from(vec![value])) };
        let columns: [(&str, ArrayRef); 13] = [
            ("table", repeated(&self.scan.table, 1)),
            ("scan", index(self.scan.scan)),
            ("partition", index(progress.partition)),
            ("stream", index(progress.stream)),
            ("start", number(Some(progress.start))),
            ("offset", number(Some(progress.next))),
            (
                "keeps_time",
                Arc::new(BooleanArray::from(vec![reached.is_some()])),
            ),
            ("watermark", number(watermark)),
            ("unfinished_version", count(unfinished.map(|of| of.version))),
            (
                "unfinished_watermark",
                number(unfinished.map(|of| of.watermark)),
            ),
            ("last_offset", number(last.map(|last| last.offset))),
            ("timestamp", number(last.and_then(|last| last.timestamp))),
            ("last_checksum", count(last.map(|last| last.checksum))),
        ];
        Ok(self
            .output
            .give(side_rows(Disposition::Report, 1, &columns)?)?)
    }
}

fn repeated(text: &str, rows: usize) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
        text, rows,
    )))
}

fn texts<'a>(values: impl Iterator<Item = &'a String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// What a scan has reached in a partition, or in one of several streams that read a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScanProgress {
    /// The partition.
    pub(crate) partition: i32,
    /// Which of the streams; 0 where there is one.
    pub(crate) stream: i32,
    /// The first offset that was to be read.
    pub(crate) start: i64,
    /// All records below this offset were given.
    pub(crate) next: i64,
    /// What the partition has reached in time; none where no time is kept.
    pub(crate) reached: Option<PartitionTimes>,
    /// The last record that was read.
    pub(crate) last: Option<RecordMark>,
}

/// A report, as the runner reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// The table, as the job names it.
    pub table: String,
    /// The partition.
    pub partition: i32,
    /// What the partition has reached in time; none where no time is kept.
    pub reached: Option<PartitionTimes>,
    /// The last record that was read; none if there was none.
    pub last: Option<RecordMark>,
    scan: i32,
    stream: i32,
    start: i64,
    next: i64,
}

/// What a scan of a plan is to report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedReport {
    pub(crate) table: Arc<str>,
    pub(crate) scan: i32,
    pub(crate) partition: i32,
    pub(crate) stream: i32,
    /// The first offset that is to be read.
    pub(crate) start: i64,
    /// The offset behind the last one.
    pub(crate) end: i64,
}

/// Checks that all that was to be read was read (LOSS-1).
///
/// # Errors
///
/// A scan that did not come to its end, with how far it came.
pub fn check_reports(expected: &[ExpectedReport], reports: &[ScanReport]) -> Result<()> {
    // By table, scan, partition, stream and start: how far it was read.
    let mut reached: HashMap<(&str, i32, i32, i32, i64), i64> = HashMap::new();
    for ScanReport {
        table,
        scan,
        partition,
        stream,
        start,
        next,
        ..
    } in reports
    {
        let place = (table.as_str(), *scan, *partition, *stream, *start);
        let furthest = reached.entry(place).or_insert(*next);
        *furthest = (*furthest).max(*next);
    }
    let short = expected.iter().find_map(|planned| {
        let (scan, partition, stream) = (planned.scan, planned.partition, planned.stream);
        let place = (&*planned.table, scan, partition, stream, planned.start);
        match reached.get(&place) {
            Some(next) => (*next < planned.end).then_some((planned, *next)),
            None => Some((planned, planned.start)),
        }
    });
    let Some((expected, next)) = short else {
        return Ok(());
    };
    Err(Error::unavailable(format!(
        "table {}: partition {} was to be read from offset {} to {}, and was read up to {next} only",
        expected.table, expected.partition, expected.start, expected.end
    ))
    .about(Subject::table(&*expected.table))
    .with_help("nothing was written: run it again"))
}

/// The rows of side output with this disposition.
fn of(side: &RecordBatch, disposition: Disposition) -> Result<RecordBatch> {
    let internal = |error: datafusion::arrow::error::ArrowError| Error::internal(error.to_string());
    let code = UInt8Array::new_scalar(disposition.code());
    let wanted = eq(column(side, DISPOSITION)?, &code).map_err(internal)?;
    filter_record_batch(side, &wanted).map_err(internal)
}

fn column<'a>(side: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    let column = side.column_by_name(name);
    column.ok_or_else(|| Error::internal(format!("side output without {name}")))
}

/// A value, unless it is NULL.
fn number<T: ArrowPrimitiveType>(
    side: &RecordBatch,
    name: &str,
    row: usize,
) -> Result<Option<T::Native>> {
    let column = column(side, name)?.as_primitive_opt::<T>();
    let column = column.ok_or_else(|| other_type(name))?;
    Ok(column.is_valid(row).then(|| column.value(row)))
}

fn text(side: &RecordBatch, name: &str, row: usize) -> Result<String> {
    let column = column(side, name)?.as_string_opt::<i32>();
    let column = column.ok_or_else(|| other_type(name))?;
    Ok(column.value(row).to_owned())
}

fn bytes(side: &RecordBatch, name: &str, row: usize) -> Result<Option<Vec<u8>>> {
    let column = column(side, name)?.as_binary_opt::<i32>();
    let column = column.ok_or_else(|| other_type(name))?;
    Ok(column.is_valid(row).then(|| column.value(row).to_vec()))
}

fn other_type(name: &str) -> Error {
    Error::internal(format!("side output with another type of {name}"))
}

fn known<T>(value: Option<T>, name: &str) -> Result<T> {
    value.ok_or_else(|| Error::internal(format!("side output with an unknown {name}")))
}

/// The dead letters in side output, with the table of each, by table.
///
/// Where a plan has several scans of a table, as UNION ALL has, each sets the same record aside: it is there once.
///
/// # Errors
///
/// Side output in other columns.
pub fn dead_letters(side: &[RecordBatch]) -> Result<Vec<(String, BadRecord)>> {
    let mut letters: Vec<(String, i32, BadRecord)> = Vec::new();
    for side in side {
        let dead = of(side, Disposition::Dead)?;
        for row in 0..dead.num_rows() {
            let record = BadRecord {
                topic: text(&dead, "topic", row)?,
                partition: known(number::<Int32Type>(&dead, "partition", row)?, "partition")?,
                offset: known(number::<Int64Type>(&dead, "offset", row)?, "offset")?,
                timestamp: number::<Int64Type>(&dead, "timestamp", row)?,
                key: bytes(&dead, "key", row)?,
                value: bytes(&dead, "value", row)?,
                reason: text(&dead, "reason", row)?,
            };
            let scan = known(number::<Int32Type>(&dead, "scan", row)?, "scan")?;
            letters.push((text(&dead, "table", row)?, scan, record));
        }
    }
    letters.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    // By place, the first scan that sets something aside there. Several rows of a Delta table have one place.
    let mut first: HashMap<(&str, i32, i64), i32> = HashMap::new();
    for (table, scan, record) in &letters {
        let of_place = first.entry((table, record.partition, record.offset));
        let of_place = of_place.or_insert(*scan);
        *of_place = (*of_place).min(*scan);
    }
    let is_first = letters.iter().map(|(table, scan, record)| {
        first.get(&(table.as_str(), record.partition, record.offset)) == Some(scan)
    });
    let is_first: Vec<bool> = is_first.collect();
    let letters = letters.into_iter().zip(is_first);
    let letters = letters.filter(|(_, is_first)| *is_first);
    Ok(letters
        .map(|((table, _, record), _)| (table, record))
        .collect())
}

/// The reports in side output.
///
/// # Errors
///
/// Side output in other columns.
pub fn reports(side: &[RecordBatch]) -> Result<Vec<ScanReport>> {
    let mut reports = Vec::new();
    for side in side {
        let given = of(side, Disposition::Report)?;
        for row in 0..given.num_rows() {
            reports.push(report(&given, row)?);
        }
    }
    Ok(reports)
}

fn report(given: &RecordBatch, row: usize) -> Result<ScanReport> {
    let index = |name: &str| known(number::<Int32Type>(given, name, row)?, name);
    let number = |name: &str| number::<Int64Type>(given, name, row);
    let count = |name: &str| self::number::<UInt64Type>(given, name, row);
    let unfinished = match (
        count("unfinished_version")?,
        number("unfinished_watermark")?,
    ) {
        (Some(version), Some(watermark)) => Some(UnfinishedVersion { version, watermark }),
        _ => None,
    };
    let reached = PartitionTimes {
        watermark: number("watermark")?,
        unfinished,
    };
    let keeps_time = column(given, "keeps_time")?.as_boolean_opt();
    let keeps_time = keeps_time.ok_or_else(|| other_type("keeps_time"))?;
    let last = match (number("last_offset")?, count("last_checksum")?) {
        (Some(offset), Some(checksum)) => Some(RecordMark {
            offset,
            timestamp: number("timestamp")?,
            checksum,
        }),
        _ => None,
    };
    Ok(ScanReport {
        table: text(given, "table", row)?,
        partition: index("partition")?,
        reached: keeps_time.value(row).then_some(reached),
        last,
        scan: index("scan")?,
        stream: index("stream")?,
        start: known(number("start")?, "start")?,
        next: known(number("offset")?, "offset")?,
    })
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionConfig;

    use super::*;

    fn outlet(table: &str, scan: i32) -> (BatchOutlet, Arc<SideOutput>) {
        let output = Arc::new(SideOutput::default());
        (outlet_in(&output, table, scan), output)
    }

    fn outlet_in(output: &Arc<SideOutput>, table: &str, scan: i32) -> BatchOutlet {
        let config = SessionConfig::new().with_extension(Arc::clone(output));
        let context = TaskContext::default().with_session_config(config);
        let scan = BatchScan {
            table: table.into(),
            scan,
            aside: Arc::default(),
            only: None,
        };
        BatchOutlet::open(scan, &context).unwrap()
    }

    fn progress(partition: i32, start: i64, next: i64) -> ScanProgress {
        ScanProgress {
            partition,
            stream: 0,
            start,
            next,
            reached: None,
            last: None,
        }
    }

    fn expected(table: &str, scan: i32, partition: i32, start: i64, end: i64) -> ExpectedReport {
        ExpectedReport {
            table: table.into(),
            scan,
            partition,
            stream: 0,
            start,
            end,
        }
    }

    fn record(offset: i64, value: Option<&[u8]>) -> BadRecord {
        BadRecord {
            topic: "topic".to_owned(),
            partition: 2,
            offset,
            timestamp: value.map(|_| 1_000),
            key: None,
            value: value.map(<[u8]>::to_vec),
            reason: format!("reason {offset}"),
        }
    }

    #[test]
    fn dead_letters_and_reports_come_back_as_they_were_given() {
        let (outlet, output) = outlet("t", 3);
        let records = [record(5, Some(b"v")), record(6, None)];
        outlet.give_bad(&records, 50).unwrap();
        let given = ScanProgress {
            partition: 2,
            stream: 1,
            start: 5,
            next: 55,
            reached: Some(PartitionTimes {
                watermark: Some(-7),
                unfinished: Some(UnfinishedVersion {
                    version: 9,
                    watermark: 8,
                }),
            }),
            last: Some(RecordMark {
                offset: 54,
                timestamp: None,
                checksum: u64::MAX,
            }),
        };
        outlet.report(&given).unwrap();
        outlet.report(&progress(1, 0, 0)).unwrap();
        let side = output.take();
        let letters = dead_letters(&side).unwrap();
        let of_table = |record: &BadRecord| ("t".to_owned(), record.clone());
        assert_eq!(letters, records.iter().map(of_table).collect::<Vec<_>>());
        let reports = reports(&side).unwrap();
        assert_eq!(reports.len(), 2);
        let report = &reports[0];
        assert_eq!(
            (report.table.as_str(), report.scan, report.partition),
            ("t", 3, 2)
        );
        assert_eq!((report.stream, report.start, report.next), (1, 5, 55));
        assert_eq!((report.reached, report.last), (given.reached, given.last));
        assert_eq!((reports[1].reached, reports[1].last), (None, None));
    }

    #[test]
    fn loss_1_a_record_that_several_scans_set_aside_is_one_dead_letter() {
        let output = Arc::new(SideOutput::default());
        let give = |table: &str, scan: i32, records: &[BadRecord]| {
            let outlet = outlet_in(&output, table, scan);
            outlet.give_bad(records, 50).unwrap();
        };
        // Scans run at the same time, and may read other columns.
        give("t", 1, &[record(5, None), record(7, None)]);
        give("t", 0, &[record(6, None), record(5, Some(b"first"))]);
        // The same place of another table.
        give("a", 1, &[record(5, None)]);
        // Two rows of one file of a Delta table, which two scans read.
        for scan in 0..2 {
            give(
                "delta",
                scan,
                &[record(9, Some(b"x")), record(9, Some(b"y"))],
            );
        }
        let letters = dead_letters(&output.take()).unwrap();
        let letters: Vec<(&str, i64, Option<&[u8]>)> = letters
            .iter()
            .map(|(table, record)| (table.as_str(), record.offset, record.value.as_deref()))
            .collect();
        assert_eq!(
            letters,
            [
                ("a", 5, None),
                ("delta", 9, Some(&b"x"[..])),
                ("delta", 9, Some(&b"y"[..])),
                ("t", 7, None),
                ("t", 6, None),
                ("t", 5, Some(&b"first"[..])),
            ]
        );
    }

    #[test]
    fn tracked_time_without_rows_differs_from_untracked_time() {
        let (outlet, output) = outlet("t", 0);
        let reached = Some(PartitionTimes::default());
        let with_time = ScanProgress {
            reached,
            ..progress(0, 0, 1)
        };
        outlet.report(&with_time).unwrap();
        assert_eq!(reports(&output.take()).unwrap()[0].reached, reached);
    }

    #[test]
    fn most_records_of_a_table_must_be_good() {
        let (outlet, _) = outlet("t", 0);
        let bad: Vec<BadRecord> = (0..60).map(|offset| record(offset, None)).collect();
        outlet.give_bad(&bad[..40], 80).unwrap();
        // Of few records nothing is said; now there are enough.
        let error = outlet.give_bad(&bad[..20], 30).unwrap_err();
        assert!(
            error.message().contains("60 of 110 records"),
            "{}",
            error.message()
        );
    }

    #[test]
    fn loss_1_a_report_that_is_missing_or_short_is_an_error() {
        let (outlet, output) = outlet("t", 0);
        outlet.report(&progress(0, 10, 20)).unwrap();
        // Offsets behind the end of a range may be known as well.
        outlet.report(&progress(1, 0, 60)).unwrap();
        outlet.report(&progress(2, 7, 7)).unwrap();
        let reports = reports(&output.take()).unwrap();
        let all = [
            expected("t", 0, 0, 10, 20),
            expected("t", 0, 1, 0, 50),
            expected("t", 0, 2, 7, 7),
        ];
        check_reports(&all, &reports).unwrap();
        for (missing, read_to) in [
            (expected("t", 0, 0, 10, 21), 20),
            (expected("t", 0, 0, 20, 30), 20),
            (expected("t", 0, 3, 4, 5), 4),
            (expected("u", 0, 0, 10, 20), 10),
            // The same range in another scan of the plan.
            (expected("t", 1, 0, 10, 20), 10),
        ] {
            let mut wanted = all.to_vec();
            wanted.push(missing);
            let error = check_reports(&wanted, &reports).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Unavailable);
            let shown = format!("was read up to {read_to} only");
            assert!(error.message().contains(&shown), "{}", error.message());
        }
    }
}
