//! Stored form of late rows.

use std::sync::Arc;

use anabranch_udfs::{DISPOSITION, Disposition};
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt8Array};
use datafusion::arrow::compute::kernels::cmp::eq;
use datafusion::arrow::compute::{cast, concat_batches, filter};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;

use crate::error::{Error, Result};

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

/// The late rows in what a batch gave as side output, in the columns of `system.late_rows`; none if there are none.
///
/// # Errors
///
/// Side output in other columns.
pub(crate) fn late_rows(side: &[RecordBatch]) -> Result<Option<RecordBatch>> {
    let batches = side.iter().map(late_batch).collect::<Result<Vec<_>>>()?;
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(None);
    }
    let all = concat_batches(&late_schema(), &batches);
    Ok(Some(
        all.map_err(|error| Error::internal(error.to_string()))?,
    ))
}

fn late_batch(side: &RecordBatch) -> Result<RecordBatch> {
    let internal = |error: ArrowError| Error::internal(error.to_string());
    let part = |name: &str| -> Result<&ArrayRef> {
        let column = side.column_by_name(name);
        column.ok_or_else(|| Error::internal(format!("side output without {name}")))
    };
    let late = UInt8Array::new_scalar(Disposition::Late.code());
    let late = eq(part(DISPOSITION)?, &late).map_err(internal)?;
    let schema = late_schema();
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            let column = filter(part(field.name())?, &late).map_err(internal)?;
            cast(&column, field.data_type()).map_err(internal)
        })
        .collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(schema, columns).map_err(internal)
}
