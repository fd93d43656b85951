//! Records to batches: metadata columns, decoded value columns, and the handling of bad records.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use rdkafka::Timestamp;

use crate::core::jobs::RecordMark;
use crate::error::{Error, Result, Subject};
use crate::formats::{BadRow, RecordDecoder};
use crate::tables::bad_records::BadRecord;
use crate::tables::kafka::definition::{KafkaTable, MetadataKey, OnError};
use crate::tables::kafka::fetcher::Record;
use crate::tables::kafka::metadata;
use crate::tables::kafka::range::OffsetRange;
use crate::tables::kafka::time::{PartitionTimer, TimeRule, untimed};
use crate::tables::side_output::{OpenOutlet, ScanProgress};

/// A column of the output and where it comes from.
enum OutputColumn {
    Decoded(usize),
    Metadata(MetadataKey, DataType),
    /// Place and watermark of a row for later operators, see [`PartitionTimer`].
    Hidden,
}

/// Turns records into batches of the projected schema.
pub(crate) struct RecordReader {
    schema: SchemaRef,
    slots: Vec<OutputColumn>,
    /// The value columns that are read, as their places among all value columns.
    values: Vec<usize>,
    decoder: Option<Box<dyn RecordDecoder>>,
    on_error: OnError,
    outlet: OpenOutlet,
    partition: i32,
    /// Whether the last record has a mark by which it is recognized in the topic.
    marks: bool,
    /// The last record that was read.
    last: Option<RecordMark>,
    /// Keeps time, and where the event time is.
    timer: Option<(PartitionTimer, OutputColumn)>,
    /// The event time, where it is compared with what an archive says of it.
    checked: Option<OutputColumn>,
    /// Sets rows aside by their event time without keeping time, and where that is.
    rule: Option<(TimeRule, OutputColumn)>,
}

/// How records of an archive are read, which differ from those of a topic.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ArchiveReading {
    /// The value columns come decoded.
    pub(crate) is_decoded: bool,
    /// The event time of each record is compared with what the archive says of it.
    pub(crate) checks_time: bool,
    /// The records lack a part of those of the topic, so that they are not recognized there.
    pub(crate) is_partial: bool,
    /// Rows without a time of this world are set aside, as a job that keeps time does.
    pub(crate) sets_times_aside: bool,
}

/// Compares the event times of records with what an archive says of them, but of those rows, ascending, that are set aside.
pub(crate) type TimeCheck<'a> = &'a dyn Fn(&ArrayRef, &[usize]) -> Result<()>;

impl RecordReader {
    /// `projection` are column indices of the table, the one after the last is the hidden column; `schema` is the
    /// table's, projected. With a timer for the partition, the event time is read even if the projection leaves it out. `archive` says
    /// what is different from the records of the topic.
    pub(crate) fn try_new(
        table: &KafkaTable,
        schema: SchemaRef,
        projection: &[usize],
        on_error: OnError,
        outlet: OpenOutlet,
        (partition, timer): (i32, Option<PartitionTimer>),
        archive: ArchiveReading,
    ) -> Result<Self> {
        let mut decoded = Vec::new();
        let mut slots = Vec::with_capacity(projection.len());
        let mut slot_of = |index: usize| -> Result<OutputColumn> {
            let Some(column) = table.columns.get(index) else {
                return Ok(OutputColumn::Hidden);
            };
            if let Some(key) = column.metadata {
                return Ok(OutputColumn::Metadata(
                    key,
                    column.field.data_type().clone(),
                ));
            }
            let value = table
                .value_columns
                .iter()
                .position(|known| *known == index)
                .ok_or_else(|| Error::internal("a column without a source"))?;
            let place = decoded.iter().position(|known| *known == value);
            Ok(OutputColumn::Decoded(place.unwrap_or_else(|| {
                decoded.push(value);
                decoded.len() - 1
            })))
        };
        for index in projection {
            slots.push(slot_of(*index)?);
        }
        let mut slot_of_time = || match table.event_time() {
            Some(event_time) => {
                let index = table.schema.index_of(&event_time.column);
                let index = index.map_err(|error| Error::internal(error.to_string()))?;
                slot_of(index).map(Some)
            }
            None => Ok(None),
        };
        let timer = match timer {
            Some(timer) => slot_of_time()?.map(|slot| (timer, slot)),
            None => None,
        };
        let checked = match archive.checks_time {
            true => slot_of_time()?,
            false => None,
        };
        let rule = TimeRule::of(table).filter(|_| archive.sets_times_aside);
        let rule = match rule {
            Some(rule) => slot_of_time()?.map(|slot| (rule, slot)),
            None => None,
        };
        // Nothing asked from the value: it is not even parsed.
        let decoder = match decoded.is_empty() || archive.is_decoded {
            true => None,
            false => Some(table.format.decoder(&decoded, on_error == OnError::Null)?),
        };
        Ok(Self {
            schema,
            slots,
            values: decoded,
            decoder,
            on_error,
            outlet,
            partition,
            marks: !archive.is_partial,
            last: None,
            timer,
            checked,
            rule,
        })
    }

    /// The value columns that are read, as their places among all value columns: an archive that keeps them decoded gives these, in
    /// this order.
    pub(crate) fn values(&self) -> &[usize] {
        &self.values
    }

    /// Continues from another reader, which has read the records before in the partition.
    pub(crate) fn follow(&mut self, earlier: Self) {
        self.last = earlier.last;
        if let (Some((timer, _)), Some((reached, _))) = (&mut self.timer, earlier.timer) {
            *timer = reached;
        }
    }

    /// All records of the range were read, and all below `next` were given: reports it.
    ///
    /// # Errors
    ///
    /// Side output that cannot be made.
    pub(crate) fn finish(&self, range: OffsetRange, next: i64) -> Result<()> {
        self.outlet.report(&ScanProgress {
            partition: range.partition,
            stream: 0,
            start: range.start,
            next,
            reached: self.timer.as_ref().map(|(timer, _)| timer.reached()),
            last: self.last,
        })
    }

    /// A batch of these records, without the dead letters.
    pub(crate) fn read(&mut self, messages: &[impl Record]) -> Result<RecordBatch> {
        self.read_archived(messages, None, None)
    }

    /// The same for records of an archive: `values` are their [`values`](Self::values), if it keeps them decoded, and `check` compares
    /// their event times, if it says something of them.
    pub(crate) fn read_archived(
        &mut self,
        messages: &[impl Record],
        values: Option<RecordBatch>,
        check: Option<TimeCheck<'_>>,
    ) -> Result<RecordBatch> {
        let aside: Vec<BadRow> = messages
            .iter()
            .enumerate()
            .filter_map(|(row, message)| {
                let reason = self.outlet.aside(message.partition(), message.offset());
                let reason = reason?.to_owned();
                Some(BadRow {
                    row,
                    reason,
                    column: None,
                })
            })
            .collect();
        let (decoded, mut bad) = match (&mut self.decoder, values) {
            (None, values) => (values, Vec::new()),
            (Some(decoder), _) => {
                let payloads: Vec<Option<&[u8]>> =
                    messages.iter().map(|message| message.payload()).collect();
                let decoded = decoder.decode(&payloads)?;
                (Some(decoded.columns), decoded.bad)
            }
        };
        let is_aside = |row: usize| aside.iter().any(|aside| aside.row == row);
        bad.retain(|row| !is_aside(row.row));
        bad.extend(aside.iter().cloned());
        bad.sort_unstable_by_key(|row| row.row);
        let mut hidden = None;
        if let Some((rule, slot)) = &self.rule {
            let times = column(slot, messages, decoded.as_ref(), None)?;
            rule.check(messages, &times, &mut bad)?;
        }
        let is_timed = self.timer.is_some() || self.rule.is_some();
        if let Some((timer, slot)) = &mut self.timer {
            let times = column(slot, messages, decoded.as_ref(), None)?;
            hidden = Some(timer.pass(messages, &times, &mut bad)?);
        } else if self
            .slots
            .iter()
            .any(|slot| matches!(slot, OutputColumn::Hidden))
        {
            hidden = Some(untimed(self.partition, messages)?);
        }
        let first = bad.iter().find(|row| !is_aside(row.row));
        if let (OnError::Fail, Some(first)) = (self.on_error, first) {
            return Err(cannot_decode(&messages[first.row], first));
        }
        if let (Some(check), Some(slot)) = (check, &self.checked) {
            let are_set_aside = is_timed || self.on_error == OnError::DeadLetter;
            let left_out = bad.iter().map(|row| row.row);
            let left_out: Vec<usize> = left_out
                .filter(|row| are_set_aside || is_aside(*row))
                .collect();
            check(&column(slot, messages, decoded.as_ref(), None)?, &left_out)?;
        }
        if let Some(last) = messages.last().filter(|_| self.marks) {
            let content = (last.key(), last.payload());
            self.last = Some(mark_of(last.offset(), last.timestamp(), content));
        }
        let columns = self
            .slots
            .iter()
            .map(|slot| column(slot, messages, decoded.as_ref(), hidden.as_ref()))
            .collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(messages.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| Error::internal(error.to_string()))?;
        // A row without a time cannot be read as anything else.
        if !is_timed && self.on_error != OnError::DeadLetter {
            bad.clear();
        }
        bad.retain(|row| !is_aside(row.row));
        if bad.is_empty() && aside.is_empty() {
            return Ok(batch);
        }
        self.set_aside(&batch, messages, &bad, &aside)
    }

    /// Keeps bad records as dead letters and the other rows as the batch; so are those that were to be set `aside`.
    fn set_aside(
        &self,
        batch: &RecordBatch,
        messages: &[impl Record],
        bad: &[BadRow],
        aside: &[BadRow],
    ) -> Result<RecordBatch> {
        let mut keep = vec![true; messages.len()];
        for row in bad.iter().chain(aside) {
            keep[row.row] = false;
        }
        let records = |rows: &[BadRow]| -> Vec<BadRecord> {
            rows.iter()
                .map(|row| bad_record(&messages[row.row], &row.reason))
                .collect()
        };
        if !bad.is_empty() {
            self.outlet.give_bad(records(bad), messages.len())?;
        }
        self.outlet.give_set_aside(&records(aside))?;
        datafusion::arrow::compute::filter_record_batch(batch, &keep.into())
            .map_err(|error| Error::internal(error.to_string()))
    }
}

fn column(
    slot: &OutputColumn,
    messages: &[impl Record],
    decoded: Option<&RecordBatch>,
    hidden: Option<&ArrayRef>,
) -> Result<ArrayRef> {
    match (slot, decoded, hidden) {
        (OutputColumn::Metadata(key, data_type), _, _) => {
            metadata::to_array(messages, *key, data_type)
        }
        (OutputColumn::Decoded(index), Some(batch), _) => Ok(Arc::clone(batch.column(*index))),
        (OutputColumn::Decoded(_), None, _) => {
            Err(Error::internal("no decoder for a value column"))
        }
        (OutputColumn::Hidden, _, Some(hidden)) => Ok(Arc::clone(hidden)),
        (OutputColumn::Hidden, _, None) => Err(Error::internal("no source keeps the event time")),
    }
}

fn cannot_decode(message: &impl Record, bad: &BadRow) -> Error {
    let reason = &bad.reason;
    let error = Error::data(format!(
        "record {}/{}@{} cannot be decoded: {reason}",
        message.topic(),
        message.partition(),
        message.offset()
    ));
    let error = match &bad.column {
        Some(column) => error.about(Subject::column(column)),
        None => error,
    };
    error.with_help(
        "option 'on_error' 'null' reads what fits, 'dead_letter' sets such records aside in a table",
    )
    .mark_record()
}

/// The mark of a record, by which it is recognized later.
pub(crate) fn mark_of(
    offset: i64,
    timestamp: Timestamp,
    (key, value): (Option<&[u8]>, Option<&[u8]>),
) -> RecordMark {
    RecordMark {
        offset,
        timestamp: timestamp.to_millis(),
        checksum: RecordMark::checksum_of(key, value),
    }
}

fn bad_record(message: &impl Record, reason: &str) -> BadRecord {
    BadRecord {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        reason: reason.to_owned(),
    }
}
