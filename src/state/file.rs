//! Files of state rows, in the Arrow IPC format.

use std::io::{Cursor, Read, Seek};

use anabranch_udfs::{STATE_CLOSES, STATE_CLOSES_AFTER, STATE_KEYS};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Int64Type, SchemaRef};
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::error::{DataFusionError, Result};

use crate::state::table::StateTable;

/// Encodes rows, in the columns of `schema`, as the bytes of a file.
///
/// # Errors
///
/// Types that Arrow IPC does not support.
pub fn encode_states(schema: &SchemaRef, rows: &[RecordBatch]) -> Result<Vec<u8>> {
    let size = rows.iter().map(RecordBatch::get_array_memory_size).sum();
    let mut writer = FileWriter::try_new(Vec::with_capacity(size), schema)?;
    for rows in rows {
        writer.write(rows)?;
    }
    Ok(writer.into_inner()?)
}

/// Decodes the rows of a file into the columns of `schema`: by position, since names may change from release to release.
///
/// # Errors
///
/// A file that is damaged, or has other columns.
pub fn decode_states(bytes: &[u8], schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    decode(Cursor::new(bytes), schema)
}

fn decode(file: impl Read + Seek, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    // A value that does not fit into the columns is an error, not NULL (VALUE-1).
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

/// Counts the rows of a file by reading all of them.
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

/// Adds the rows of a file to `table`, as [`StateTable::restore`] does; `closes_at` returns the time at which each row is
/// final. Returns the number of rows in the file.
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

/// Does the same with a file that is not in memory.
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

/// The state that results from files in the order they were written, each with the watermark by which its batch closed windows.
/// It uses only the metadata in the files, not the job. None if there are no files. The columns are those of the last file: a
/// later release may have widened them.
///
/// # Errors
///
/// A file that is damaged, or was not written as state.
pub fn replay(files: &[(impl AsRef<[u8]>, Option<i64>)]) -> Result<Option<RecordBatch>> {
    let Some((last, _)) = files.last() else {
        return Ok(None);
    };
    let schema = FileReader::try_new(Cursor::new(last.as_ref()), None)?.schema();
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{
        ArrayRef, Decimal128Array, Float64Array, Int64Array, ListArray,
    };
    use datafusion::arrow::datatypes::{Decimal128Type, Field, Float64Type, Schema};

    use super::*;

    /// Earlier releases computed averages of integers as DOUBLE.
    #[test]
    fn sums_and_distinct_values_of_doubles_are_read_as_those_of_integers() {
        let schema = |sum: DataType, value: DataType| {
            let values = DataType::List(Arc::new(Field::new_list_field(value, true)));
            let fields = vec![
                Field::new("sum", sum, true),
                Field::new("values", values, true),
            ];
            Arc::new(Schema::new(fields))
        };
        let once = schema(DataType::Float64, DataType::Float64);
        let now = schema(DataType::Decimal128(38, 0), DataType::Int64);
        let file = |values: Vec<Option<f64>>| {
            let sums = Float64Array::from(vec![Some(3e18), None]);
            let values = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(values), None]);
            let columns: Vec<ArrayRef> = vec![Arc::new(sums), Arc::new(values)];
            let rows = RecordBatch::try_new(Arc::clone(&once), columns).unwrap();
            encode_states(&once, &[rows]).unwrap()
        };
        let rows = decode_states(&file(vec![Some(7.0), Some(-1.0)]), &now).unwrap();
        let sums: Vec<_> = rows[0]
            .column(0)
            .as_primitive::<Decimal128Type>()
            .iter()
            .collect();
        assert_eq!(sums, [Some(3_000_000_000_000_000_000), None]);
        let values = rows[0].column(1).as_list::<i32>().value(0);
        assert_eq!(values.as_primitive::<Int64Type>().values(), &[7_i64, -1]);
        // A value that does not fit is refused, not left out.
        let refused = decode_states(&file(vec![Some(9_223_372_036_854_775_808.0)]), &now);
        assert!(refused.is_err());
    }

    #[test]
    fn state_files_are_shown_with_the_newest_columns() {
        let file = |key: i64, sum: ArrayRef| {
            let fields = vec![
                Field::new("key", DataType::Int64, true),
                Field::new("closes", DataType::Int64, true),
                Field::new("sum", sum.data_type().clone(), true),
            ];
            let metadata = [
                (STATE_KEYS, "1"),
                (STATE_CLOSES, "1"),
                (STATE_CLOSES_AFTER, "0"),
            ];
            let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let schema = Arc::new(Schema::new_with_metadata(fields, metadata.into()));
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(vec![key])),
                Arc::new(Int64Array::from(vec![100])),
                sum,
            ];
            let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
            (encode_states(&schema, &[rows]).unwrap(), None)
        };
        let exact = Decimal128Array::from(vec![9_007_199_254_740_993]);
        let exact = exact.with_data_type(DataType::Decimal128(38, 0));
        let files = [
            file(1, Arc::new(Float64Array::from(vec![2.0]))),
            file(2, Arc::new(exact)),
        ];
        let shown = replay(&files).unwrap().unwrap();
        let sums = shown.column(2).as_primitive::<Decimal128Type>();
        let mut sums = sums.values().to_vec();
        sums.sort_unstable();
        assert_eq!(sums, [2, 9_007_199_254_740_993]);
    }
}
