//! State rows as Arrow IPC.

use std::io::{Cursor, Read, Seek};

use anabranch_udfs::{STATE_CLOSES, STATE_CLOSES_AFTER, STATE_KEYS};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Int64Type, SchemaRef};
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::error::{DataFusionError, Result};

use crate::exec::keyed::table::StateTable;

/// The bytes of a file of rows in the columns of `schema`.
///
/// # Errors
///
/// Types that IPC does not know.
pub fn encode_states(schema: &SchemaRef, rows: &[RecordBatch]) -> Result<Vec<u8>> {
    let size = rows.iter().map(RecordBatch::get_array_memory_size).sum();
    let mut writer = FileWriter::try_new(Vec::with_capacity(size), schema)?;
    for rows in rows {
        writer.write(rows)?;
    }
    Ok(writer.into_inner()?)
}

/// The rows of a file, in the columns of `schema`: by place, since names may change from release to release.
///
/// # Errors
///
/// A file that is damaged, or has other columns.
pub fn decode_states(bytes: &[u8], schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    decode(Cursor::new(bytes), schema)
}

fn decode(file: impl Read + Seek, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    // What has no place in the columns is an error, not NULL (VALUE-1).
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let mut batches = Vec::new();
    for batch in FileReader::try_new(file, None)? {
        let batch = batch?;
        let columns = batch
            .columns()
            .iter()
            .zip(schema.fields())
            .map(|(column, field)| cast_with_options(column, field.data_type(), &strict))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        batches.push(RecordBatch::try_new(SchemaRef::clone(schema), columns)?);
    }
    Ok(batches)
}

/// How many rows a file has, all of which can be read.
///
/// # Errors
///
/// A file that is damaged.
pub fn count_rows(bytes: &[u8]) -> Result<u64> {
    let mut rows = 0;
    for batch in FileReader::try_new(Cursor::new(bytes), None)? {
        rows += batch?.num_rows() as u64;
    }
    Ok(rows)
}

/// Makes the rows of a file a part of `table`, as [`StateTable::restore`] does; `closes_at` says when rows are done. Gives
/// how many rows the file has.
///
/// # Errors
///
/// A file that is damaged, or has other columns.
pub fn read_states(
    table: &mut StateTable,
    bytes: &[u8],
    closed_by: Option<i64>,
    closes_at: impl Fn(&RecordBatch) -> Result<Vec<i64>>,
) -> Result<usize> {
    read_state_file(table, Cursor::new(bytes), closed_by, closes_at)
}

/// The same from a file that is not in memory.
///
/// # Errors
///
/// As [`read_states`].
pub fn read_state_file(
    table: &mut StateTable,
    file: impl Read + Seek,
    closed_by: Option<i64>,
    closes_at: impl Fn(&RecordBatch) -> Result<Vec<i64>>,
) -> Result<usize> {
    let mut count = 0;
    let mut batches = Vec::new();
    for rows in decode(file, table.schema())? {
        count += rows.num_rows();
        let closes_at = closes_at(&rows)?;
        batches.push((rows, closes_at));
    }
    // A key may have rows in several batches of a file.
    table.restore(batches, closed_by)?;
    Ok(count)
}

/// The state that files make up, in the order they were written, each with what its batch closed windows by: by what the
/// files say of themselves, without the job. None if there are no files.
///
/// # Errors
///
/// A file that is damaged, or was not written as state.
pub fn replay(files: &[(impl AsRef<[u8]>, Option<i64>)]) -> Result<Option<RecordBatch>> {
    let Some((first, _)) = files.first() else {
        return Ok(None);
    };
    let schema = FileReader::try_new(Cursor::new(first.as_ref()), None)?.schema();
    let number = |name: &str| -> Result<i64> {
        let found = schema
            .metadata()
            .get(name)
            .and_then(|text| text.parse().ok());
        found.ok_or_else(|| DataFusionError::Execution(format!("a state file without {name}")))
    };
    let place = |name: &str| -> Result<usize> {
        let found = usize::try_from(number(name)?).ok();
        found
            .filter(|place| *place < schema.fields().len())
            .ok_or_else(|| DataFusionError::Execution(format!("a state file with a wrong {name}")))
    };
    let (closes, after) = (place(STATE_CLOSES)?, number(STATE_CLOSES_AFTER)?);
    let mut table = StateTable::try_new(SchemaRef::clone(&schema), place(STATE_KEYS)?)?;
    let closes_at = |rows: &RecordBatch| {
        let times = cast(rows.column(closes), &DataType::Int64)?;
        let times = times.as_primitive::<Int64Type>().values().iter();
        Ok(times.map(|time| time.saturating_add(after)).collect())
    };
    for (bytes, closed_by) in files {
        read_states(&mut table, bytes.as_ref(), *closed_by, closes_at)?;
    }
    table.rows().map(Some)
}
