//! The columns of an archive that one scan reads, and records made of them.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray as _, Int32Array, RecordBatch, RecordBatchOptions, StringArray,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    DataType, Field, Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType,
};

use crate::error::{Error, Result, Subject};
use crate::tables::archive::mapped_column::MappedColumn;
use crate::tables::archive::mapping::{ArchiveContent, ArchiveMapping};
use crate::tables::kafka::{HeaderColumns, KafkaTable, MetadataKey, RecordColumns};

/// What a scan needs besides the columns that are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// All of the record: it may become a dead letter, a late row, or a mark.
    pub(super) whole_records: bool,
    /// The event time, also if it is not asked for.
    pub(super) event_time: bool,
}

/// The columns that a scan reads from the archive: each once, in the order of `indices`.
#[derive(Debug, Clone)]
pub(super) struct InputColumns {
    /// Indices among the archive's columns.
    indices: Vec<usize>,
    partition: usize,
    offset: usize,
    metadata: Vec<(MetadataKey, usize)>,
    /// The record's value as it came.
    value: Option<usize>,
    /// For each value column of the table, where it comes decoded.
    values: Vec<Option<usize>>,
    /// The columns of the event time's claim.
    claim: Vec<usize>,
}

impl InputColumns {
    /// The columns for these columns of the table; `claim` are those that are to be compared.
    pub(super) fn new(
        mapping: &ArchiveMapping,
        table: &KafkaTable,
        projection: &[usize],
        claim: &[MappedColumn],
        needs: Needs,
    ) -> Self {
        let mut input = Self {
            indices: Vec::new(),
            partition: 0,
            offset: 0,
            metadata: Vec::new(),
            value: None,
            values: vec![None; table.value_columns.len()],
            claim: Vec::new(),
        };
        input.partition = input.place(mapping.partition());
        input.offset = input.place(mapping.offset());
        let mut wanted: Vec<usize> = projection.to_vec();
        let event_time = table.event_time().filter(|_| needs.event_time);
        wanted.extend(event_time.and_then(|time| table.schema().index_of(&time.column).ok()));
        let mut keys = Vec::new();
        let mut reads_value = needs.whole_records;
        for index in wanted {
            let Some(column) = table.columns.get(index) else {
                continue;
            };
            match column.metadata {
                Some(MetadataKey::Value) => reads_value = true,
                Some(MetadataKey::TimestampType) => {
                    keys.extend([MetadataKey::Timestamp, MetadataKey::TimestampType]);
                }
                Some(key) => keys.push(key),
                None => {
                    let value = table.value_columns.iter().position(|known| *known == index);
                    match (mapping.content(), value) {
                        (ArchiveContent::Decoded(columns), Some(value)) => {
                            input.values[value] = Some(input.place(&columns[value]));
                        }
                        _ => reads_value = true,
                    }
                }
            }
        }
        if needs.whole_records {
            keys.extend([MetadataKey::Topic, MetadataKey::Timestamp, MetadataKey::Key]);
        }
        for key in keys {
            if let Some(column) = mapping.metadata(key)
                && !input.metadata.iter().any(|(known, _)| *known == key)
            {
                let place = input.place(column);
                input.metadata.push((key, place));
            }
        }
        if let (ArchiveContent::Raw(value), true) = (mapping.content(), reads_value) {
            input.value = Some(input.place(value));
        }
        input.claim = claim.iter().map(|column| input.place(column)).collect();
        input
    }

    fn place(&mut self, column: &MappedColumn) -> usize {
        let mut indices = self.indices.iter();
        let known = indices.position(|index| *index == column.index);
        known.unwrap_or_else(|| {
            self.indices.push(column.index);
            self.indices.len() - 1
        })
    }

    /// Indices among the archive's columns, in the order in which the rows have them.
    pub(super) fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// Where the rows have partition and offset.
    pub(super) fn coordinates(&self) -> (usize, usize) {
        (self.partition, self.offset)
    }

    /// The columns of the claim.
    pub(super) fn claim(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        let columns = self.claim.iter();
        columns
            .map(|place| Arc::clone(rows.column(*place)))
            .collect()
    }

    /// The records in rows; `topic` is the topic of those that name none.
    ///
    /// # Errors
    ///
    /// Rows without partition or offset, and values that are none of the kind.
    pub(super) fn records(
        &self,
        rows: &RecordBatch,
        topic: &Arc<str>,
        archive: &str,
    ) -> Result<RecordColumns> {
        let column = |key: MetadataKey| {
            let mut known = self.metadata.iter();
            let found = known.find(|(of, _)| *of == key);
            found.map(|(_, place)| rows.column(*place))
        };
        let coordinate = |place: usize, to: &DataType, key: MetadataKey| {
            let numbers = cast(rows.column(place), to)?;
            match numbers.null_count() {
                0 => Ok(numbers),
                _ => Err(Error::data(format!(
                    "archive {archive} has a row without the {} of its record",
                    key.name()
                ))
                .about(Subject::table(archive))),
            }
        };
        let partitions = coordinate(self.partition, &DataType::Int32, MetadataKey::Partition)?;
        let offsets = coordinate(self.offset, &DataType::Int64, MetadataKey::Offset)?;
        let text = |column: Option<&ArrayRef>| -> Result<Option<StringArray>> {
            let text = column
                .map(|column| cast(column, &DataType::Utf8))
                .transpose()?;
            Ok(text.map(|text| text.as_string::<i32>().clone()))
        };
        let bytes = |column: Option<&ArrayRef>| -> Result<_> {
            let bytes = column
                .map(|column| cast(column, &DataType::Binary))
                .transpose()?;
            Ok(bytes.map(|bytes| bytes.as_binary::<i32>().clone()))
        };
        let times = column(MetadataKey::Timestamp)
            .map(microseconds)
            .transpose()?;
        Ok(RecordColumns {
            topic: Arc::clone(topic),
            topics: text(column(MetadataKey::Topic))?,
            partitions: partitions.as_primitive::<Int32Type>().clone(),
            offsets: offsets.as_primitive::<Int64Type>().clone(),
            timestamps: times.map(|times| times.as_primitive::<TimestampMicrosecondType>().clone()),
            timestamp_types: column(MetadataKey::TimestampType)
                .map(timestamp_types)
                .transpose()?,
            keys: bytes(column(MetadataKey::Key))?,
            values: bytes(self.value.map(|place| rows.column(place)))?,
            headers: column(MetadataKey::Headers).map(headers).transpose()?,
        })
    }

    /// Value columns of rows that come decoded, in the table's types; `wanted` are places among the table's value columns.
    ///
    /// # Errors
    ///
    /// Values that the table's types cannot hold.
    pub(super) fn values(
        &self,
        rows: &RecordBatch,
        table: &KafkaTable,
        wanted: &[usize],
    ) -> Result<RecordBatch> {
        let mut fields = Vec::with_capacity(wanted.len());
        let mut columns = Vec::with_capacity(wanted.len());
        for value in wanted {
            let field = &table.columns[table.value_columns[*value]].field;
            let place = self.values[*value];
            let place = place.ok_or_else(|| Error::internal("a column that was not read"))?;
            columns.push(cast(rows.column(place), field.data_type())?);
            // A tombstone has NULL everywhere.
            fields.push(Field::new(field.name(), field.data_type().clone(), true));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(|error| Error::internal(error.to_string()))
    }
}

/// A column of times in UTC as microseconds. A time without a zone counts as one in UTC.
pub(super) fn microseconds(column: &ArrayRef) -> Result<ArrayRef> {
    let plain = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    cast(
        &plain,
        &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    )
}

/// The names of timestamp types, which Spark has as numbers.
fn timestamp_types(column: &ArrayRef) -> Result<StringArray> {
    if !column.data_type().is_signed_integer() {
        return Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone());
    }
    let numbers = cast(column, &DataType::Int32)?;
    let numbers: &Int32Array = numbers.as_primitive::<Int32Type>();
    let names = numbers.iter().map(|number| match number? {
        0 => Some("CreateTime"),
        1 => Some("LogAppendTime"),
        _ => None,
    });
    Ok(names.collect())
}

fn headers(column: &ArrayRef) -> Result<HeaderColumns> {
    let column = match column.data_type() {
        DataType::LargeList(item) => cast(column, &DataType::List(Arc::clone(item)))?,
        _ => Arc::clone(column),
    };
    let (offsets, nulls, pairs) = if let Some(list) = column.as_list_opt::<i32>() {
        let pairs = list.values().as_struct_opt().cloned();
        (list.offsets().clone(), list.nulls().cloned(), pairs)
    } else if let Some(map) = column.as_map_opt() {
        let pairs = Some(map.entries().clone());
        (map.offsets().clone(), map.nulls().cloned(), pairs)
    } else {
        return Err(Error::internal("headers that are neither list nor map"));
    };
    let pairs = pairs.filter(|pairs| pairs.num_columns() == 2);
    let pairs = pairs.ok_or_else(|| Error::internal("headers that are no pairs"))?;
    Ok(HeaderColumns {
        offsets,
        nulls,
        keys: cast(pairs.column(0), &DataType::Utf8)?
            .as_string::<i32>()
            .clone(),
        values: cast(pairs.column(1), &DataType::Binary)?
            .as_binary::<i32>()
            .clone(),
    })
}

/// The values in another type, exactly.
fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, to, &strict)
        .map_err(|error| Error::data(format!("a value of the archive cannot be read: {error}")))
}
