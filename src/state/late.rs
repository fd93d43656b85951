//! Stored form of late rows.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, new_null_array};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::error::{Error, Result};
use crate::tables::time::{HIDDEN_END, HIDDEN_START};
use crate::tables::time::{ROW_COLUMN, ROW_WATERMARK};

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// `topic`, `partition`, `offset`, `value`, `watermark`, and the window that the row missed, which is NULL for a session.
pub(crate) fn late_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("topic", DataType::Utf8, true),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("value", DataType::Binary, true),
        Field::new("watermark", time(), true),
        Field::new("window_start", time(), true),
        Field::new("window_end", time(), true),
    ]))
}

/// The late rows of a batch, in the columns of `system.late_rows`; none if there are none.
///
/// # Errors
///
/// Rows without their hidden columns.
pub fn late_rows(set_aside: &[RecordBatch]) -> Result<Option<RecordBatch>> {
    let batches = set_aside
        .iter()
        .map(late_batch)
        .collect::<Result<Vec<_>>>()?;
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(None);
    }
    let all = concat_batches(&late_schema(), &batches);
    Ok(Some(
        all.map_err(|error| Error::internal(error.to_string()))?,
    ))
}

fn late_batch(rows: &RecordBatch) -> Result<RecordBatch> {
    let row = rows
        .column_by_name(ROW_COLUMN)
        .and_then(|column| column.as_struct_opt())
        .ok_or_else(|| Error::internal("late rows without their place"))?;
    let part = |name: &str| -> Result<ArrayRef> {
        let column = row.column_by_name(name).cloned();
        column.ok_or_else(|| Error::internal(format!("late rows without {name}")))
    };
    let window = |name: &str| match rows.column_by_name(name) {
        Some(column) => Arc::clone(column),
        None => new_null_array(&time(), rows.num_rows()),
    };
    let columns = [
        part("topic")?,
        part("partition")?,
        part("offset")?,
        part("value")?,
        part(ROW_WATERMARK)?,
        window(HIDDEN_START),
        window(HIDDEN_END),
    ];
    let schema = late_schema();
    let columns = columns
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::internal(error.to_string()))?;
    RecordBatch::try_new(schema, columns).map_err(|error| Error::internal(error.to_string()))
}
