//! Keys of rows: the rows of a batch by their key, the last one of each; and whether rows of the table have one of these keys.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{cast, filter_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::functions_aggregate::min_max::{MaxAccumulator, MinAccumulator};
use datafusion::logical_expr::{Accumulator as _, Expr, in_list, lit};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

use futures::StreamExt as _;

use crate::error::{Error, Result, Subject};

/// About the bytes that a map takes for an entry besides its key.
const ENTRY_BYTES: usize = 64;
/// Files are left out by single values up to so many, and by their range beyond.
const LISTED_VALUES: usize = 20;
/// Writers cut the bounds of times to milliseconds, and times here are microseconds.
pub(super) const CUT_OF_TIMES: i64 = 1_000;

/// The columns of a key, in the table's types.
#[derive(Debug)]
struct KeyColumns {
    fields: Vec<Arc<Field>>,
    /// Where they are among the table's columns.
    positions: Vec<usize>,
    converter: RowConverter,
}

impl KeyColumns {
    fn try_new(schema: &SchemaRef, key: &[String]) -> Result<Self> {
        let position = |name: &String| {
            schema.index_of(name).map_err(|_| {
                Error::invalid(format!(
                    "column '{name}' of the PRIMARY KEY is no longer in the table"
                ))
                .about(Subject::column(name))
                .with_help("declare the table again with CREATE OR REPLACE EXTERNAL TABLE")
            })
        };
        let positions = key.iter().map(position).collect::<Result<Vec<_>>>()?;
        let fields: Vec<Arc<Field>> = positions
            .iter()
            .map(|at| Arc::clone(&schema.fields()[*at]))
            .collect();
        let of = |field: &Arc<Field>| SortField::new(field.data_type().clone());
        let converter = RowConverter::new(fields.iter().map(of).collect()).map_err(internal)?;
        Ok(Self {
            fields,
            positions,
            converter,
        })
    }

    /// The columns of rows that have the table's columns in order.
    fn of_rows(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let columns = self.positions.iter().zip(&self.fields);
        let column = |(at, field): (&usize, &Arc<Field>)| {
            let column = rows.columns().get(*at);
            let column = column.ok_or_else(|| Error::internal("rows without the key"))?;
            Ok(cast(column, field.data_type()).map_err(DataFusionError::from)?)
        };
        columns.map(column).collect()
    }
}

/// Rows of a batch, by their key.
pub(super) struct KeyedRows {
    columns: KeyColumns,
    rows: Vec<RecordBatch>,
    /// Where the last row of each key is: in which of `rows`, and where in it. None of a key that is withdrawn.
    last: HashMap<Box<[u8]>, Option<(usize, usize)>>,
    values: Vec<ColumnValues>,
    memory_of_rows: MemoryReservation,
    memory_of_keys: MemoryReservation,
}

impl KeyedRows {
    pub(super) fn try_new(
        schema: &SchemaRef,
        key: &[String],
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<Self> {
        let columns = KeyColumns::try_new(schema, key)?;
        let values = columns.fields.iter();
        let values = values.map(|field| ColumnValues::try_new(field.data_type()));
        Ok(Self {
            values: values.collect::<Result<_>>()?,
            columns,
            rows: Vec::new(),
            last: HashMap::new(),
            memory_of_rows: MemoryConsumer::new("DeltaUpserts").register(pool),
            memory_of_keys: MemoryConsumer::new("DeltaUpsertKeys").register(pool),
        })
    }

    /// Adds rows with the table's columns in order; each takes the place of one before with the same key.
    ///
    /// # Errors
    ///
    /// NULL in a column of the key; no memory.
    pub(super) fn add(&mut self, rows: RecordBatch) -> Result<()> {
        let keys = self.columns.of_rows(&rows)?;
        for (field, column) in self.columns.fields.iter().zip(&keys) {
            if column.null_count() > 0 {
                return Err(Error::data(format!(
                    "column '{}' of the PRIMARY KEY is NULL in {} of {} rows",
                    field.name(),
                    column.null_count(),
                    column.len()
                ))
                .about(Subject::column(field.name()))
                .with_help("a row is found again by its key: leave such rows out with WHERE, or give them a value with COALESCE"));
            }
        }
        self.memory_of_rows.try_grow(rows.get_array_memory_size())?;
        let batch = self.rows.len();
        self.take(&keys, |row| Some((batch, row)))?;
        self.rows.push(rows);
        Ok(())
    }

    /// Adds the keys of rows, with the table's columns in order, that no longer hold. A row of the batch with the same key counts all
    /// the same; no row was written with NULL in its key.
    pub(super) fn withdraw(&mut self, rows: &RecordBatch) -> Result<()> {
        let keys = self.columns.of_rows(rows)?;
        let has_key = (0..rows.num_rows()).map(|row| keys.iter().all(|key| key.is_valid(row)));
        let has_key: BooleanArray = has_key.map(Some).collect();
        let filtered = |key: &ArrayRef| datafusion::arrow::compute::filter(key, &has_key);
        let keys = keys
            .iter()
            .map(filtered)
            .collect::<std::result::Result<Vec<_>, _>>();
        self.take(&keys.map_err(internal)?, |_| None)
    }

    fn take(
        &mut self,
        keys: &[ArrayRef],
        place: impl Fn(usize) -> Option<(usize, usize)>,
    ) -> Result<()> {
        for (values, column) in self.values.iter_mut().zip(keys) {
            values.add(column)?;
        }
        let rows = self.columns.converter.convert_columns(keys);
        let rows = rows.map_err(internal)?;
        self.memory_of_keys
            .try_grow(rows.size() + rows.num_rows() * ENTRY_BYTES)?;
        for (row, key) in rows.iter().enumerate() {
            let place = place(row);
            match self.last.entry(key.data().into()) {
                Entry::Occupied(mut known) if place.is_some() => {
                    known.insert(place);
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(new) => {
                    new.insert(place);
                }
            }
        }
        Ok(())
    }

    /// The last row of each key, in the order of the rows; and all keys.
    pub(super) fn finish(self) -> Result<(LastRows, KeySet)> {
        let mut kept: Vec<Vec<bool>> = self
            .rows
            .iter()
            .map(|of| vec![false; of.num_rows()])
            .collect();
        let mut withdrawn = 0;
        for place in self.last.values() {
            let Some((batch, row)) = place else {
                withdrawn += 1;
                continue;
            };
            let is_kept = kept.get_mut(*batch).and_then(|of| of.get_mut(*row));
            *is_kept.ok_or_else(|| Error::internal("a key without its row"))? = true;
        }
        let rows = self.rows.iter().zip(kept).map(|(rows, kept)| {
            filter_record_batch(rows, &BooleanArray::from(kept)).map_err(internal)
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let keys = KeySet {
            columns: self.columns,
            keys: self.last.into_keys().collect(),
            withdrawn,
            values: self.values,
            _memory: self.memory_of_keys,
        };
        let rows = LastRows {
            rows,
            memory: self.memory_of_rows,
        };
        Ok((rows, keys))
    }
}

/// The rows of a batch, one of each key, in memory.
pub(super) struct LastRows {
    rows: Vec<RecordBatch>,
    memory: MemoryReservation,
}

impl LastRows {
    /// The rows as a stream, which gives their memory back when it ends.
    pub(super) fn into_stream(self, schema: SchemaRef) -> SendableRecordBatchStream {
        let Self { rows, memory } = self;
        let rows = futures::stream::iter(rows).map(move |rows| {
            let bytes = rows.get_array_memory_size().min(memory.size());
            memory.shrink(bytes);
            Ok(rows)
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

/// The keys of a batch.
#[derive(Debug)]
pub(super) struct KeySet {
    columns: KeyColumns,
    keys: HashSet<Box<[u8]>>,
    withdrawn: u64,
    values: Vec<ColumnValues>,
    _memory: MemoryReservation,
}

impl KeySet {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys are withdrawn, and get no new row.
    pub(super) fn withdrawn(&self) -> u64 {
        self.withdrawn
    }

    /// The names of the key's columns.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns
            .fields
            .iter()
            .map(|field| field.name().as_str())
    }

    /// The values of each column of the key.
    pub(super) fn values(&self) -> &[ColumnValues] {
        &self.values
    }

    /// Which of these rows of the table, that have the key's columns by name, have one of the keys.
    pub(super) fn contained(&self, rows: &RecordBatch) -> Result<BooleanArray> {
        let column = |field: &Arc<Field>| {
            let column = rows.column_by_name(field.name());
            let column = column.ok_or_else(|| Error::internal("rows without the key"))?;
            Ok(cast(column, field.data_type()).map_err(DataFusionError::from)?)
        };
        let columns = self.columns.fields.iter().map(column);
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let keys = self.columns.converter.convert_columns(&columns);
        let keys = keys.map_err(internal)?;
        Ok(keys
            .iter()
            .map(|key| Some(self.keys.contains(key.data())))
            .collect())
    }
}

/// The values of one column of a key, for predicates by which files are left out.
#[derive(Debug)]
pub(super) struct ColumnValues {
    /// None of a type by whose bounds files are not left out.
    range: Option<(MinAccumulator, MaxAccumulator)>,
    /// None if there are too many.
    listed: Option<HashSet<ScalarValue>>,
}

impl ColumnValues {
    fn try_new(of: &DataType) -> Result<Self> {
        let is_time = matches!(of, DataType::Timestamp(TimeUnit::Microsecond, _));
        let has_bounds = of.is_integer() || of.is_string() || is_time || *of == DataType::Date32;
        let range = match has_bounds {
            true => Some((MinAccumulator::try_new(of)?, MaxAccumulator::try_new(of)?)),
            false => None,
        };
        Ok(Self {
            listed: (has_bounds && !is_time).then(HashSet::new),
            range,
        })
    }

    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        let Some((least, greatest)) = &mut self.range else {
            return Ok(());
        };
        least.update_batch(std::slice::from_ref(values))?;
        greatest.update_batch(std::slice::from_ref(values))?;
        let Some(listed) = &mut self.listed else {
            return Ok(());
        };
        for row in 0..values.len() {
            listed.insert(ScalarValue::try_from_array(values, row)?);
            if listed.len() > LISTED_VALUES {
                self.listed = None;
                break;
            }
        }
        Ok(())
    }

    /// Predicates that every row with one of the values fulfils; those on times are wider than the values.
    pub(super) fn filters(&self, column: &Expr) -> Vec<Expr> {
        let Some((least, greatest)) = &self.range else {
            return Vec::new();
        };
        let mut filters = Vec::new();
        if let Some(listed) = &self.listed {
            let values = listed.iter().cloned().map(lit).collect();
            filters.push(in_list(column.clone(), values, false));
        }
        // Accumulators give their value to an owner alone.
        let least = least.clone().evaluate();
        let greatest = greatest.clone().evaluate();
        if let (Ok(least), Ok(greatest)) = (least, greatest)
            && !least.is_null()
            && !greatest.is_null()
        {
            let least = moved(least, -CUT_OF_TIMES);
            let greatest = moved(greatest, CUT_OF_TIMES);
            filters.push(column.clone().gt_eq(lit(least)));
            filters.push(column.clone().lt_eq(lit(greatest)));
        }
        filters
    }
}

/// A time so many microseconds later; any other value as it is.
fn moved(value: ScalarValue, by: i64) -> ScalarValue {
    match value {
        ScalarValue::TimestampMicrosecond(Some(time), zone) => {
            ScalarValue::TimestampMicrosecond(Some(time.saturating_add(by)), zone)
        }
        other => other,
    }
}

fn internal(error: ArrowError) -> Error {
    Error::internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::arrow::array::{AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
    use datafusion::arrow::datatypes::{Int64Type, Schema};
    use datafusion::common::Column;
    use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};
    use proptest::prelude::*;

    use super::*;

    /// The key is a text and a number; the table has them in another order, and the text as a view.
    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("v", DataType::Int64, true),
            Field::new("n", DataType::Int64, true),
            Field::new("name", DataType::Utf8View, true),
        ]))
    }

    fn key() -> Vec<String> {
        ["name", "n"].map(str::to_owned).to_vec()
    }

    type Row = (i64, Option<i64>, Option<String>);

    fn batch(rows: &[Row]) -> RecordBatch {
        let values = rows.iter().map(|row| Some(row.0));
        let numbers = rows.iter().map(|row| row.1);
        let names = rows.iter().map(|row| row.2.clone());
        RecordBatch::try_from_iter_with_nullable([
            (
                "v",
                Arc::new(Int64Array::from_iter(values)) as ArrayRef,
                true,
            ),
            (
                "n",
                Arc::new(Int64Array::from_iter(numbers)) as ArrayRef,
                true,
            ),
            (
                "name",
                Arc::new(StringArray::from_iter(names)) as ArrayRef,
                true,
            ),
        ])
        .unwrap()
    }

    fn keyed() -> KeyedRows {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        KeyedRows::try_new(&schema(), &key(), &pool).unwrap()
    }

    fn rows() -> impl Strategy<Value = Vec<(i64, String)>> {
        proptest::collection::vec((0_i64..4, "[ab]{0,2}"), 0..12)
    }

    proptest! {
        #[test]
        fn the_last_row_of_each_key_is_kept(
            batches in proptest::collection::vec(rows(), 0..4),
            withdrawn in rows(),
            of_table in rows(),
        ) {
            let mut keyed = keyed();
            let mut expected = BTreeMap::new();
            let mut value = 0;
            for rows in &batches {
                let rows: Vec<Row> = rows
                    .iter()
                    .map(|(n, name)| {
                        value += 1;
                        expected.insert((*n, name.clone()), Some(value));
                        (value, Some(*n), Some(name.clone()))
                    })
                    .collect();
                keyed.add(batch(&rows)).unwrap();
            }
            for (n, name) in &withdrawn {
                expected.entry((*n, name.clone())).or_insert(None);
            }
            let gone: Vec<Row> = withdrawn
                .iter()
                .map(|(n, name)| (0, Some(*n), Some(name.clone())))
                .collect();
            keyed.withdraw(&batch(&gone)).unwrap();
            let (rows, keys) = keyed.finish().unwrap();
            let values = |rows: &RecordBatch| rows.column(0).as_primitive::<Int64Type>().values().to_vec();
            let kept: Vec<i64> = rows.rows.iter().flat_map(values).collect();
            let mut last: Vec<i64> = expected.values().flatten().copied().collect();
            last.sort_unstable();
            // They are in the order in which they came.
            prop_assert_eq!(kept, last);
            let without_row = expected.values().filter(|value| value.is_none()).count();
            prop_assert_eq!(keys.withdrawn(), without_row as u64);
            prop_assert_eq!(keys.is_empty(), expected.is_empty());

            let others: Vec<Row> = of_table
                .iter()
                .map(|(n, name)| (0, Some(*n), Some(name.clone())))
                .collect();
            let found = keys.contained(&batch(&others)).unwrap();
            for (row, key) in of_table.iter().enumerate() {
                prop_assert_eq!(found.value(row), expected.contains_key(key));
            }
        }
    }

    #[test]
    fn a_row_is_not_upserted_without_its_key() {
        let mut keyed = keyed();
        let error = keyed
            .add(batch(&[
                (1, Some(1), Some("a".to_owned())),
                (2, Some(2), None),
            ]))
            .unwrap_err();
        assert!(
            error
                .message()
                .contains("'name' of the PRIMARY KEY is NULL in 1 of 2 rows"),
            "{error}"
        );
        // Nothing was written for it, so that nothing is to be deleted.
        keyed
            .withdraw(&batch(&[(0, None, Some("a".to_owned()))]))
            .unwrap();
        let (_, keys) = keyed.finish().unwrap();
        assert!(keys.is_empty());
        // A row of the table without a key is none of a job's.
        let mut keyed = self::keyed();
        keyed
            .add(batch(&[(1, Some(1), Some("a".to_owned()))]))
            .unwrap();
        let (_, keys) = keyed.finish().unwrap();
        let found = keys
            .contained(&batch(&[(0, None, Some("a".to_owned()))]))
            .unwrap();
        assert_eq!(found.true_count(), 0);
    }

    #[test]
    fn rows_are_counted_against_the_memory() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(4_000));
        let mut keyed = KeyedRows::try_new(&schema(), &key(), &pool).unwrap();
        let row = |n| (0, Some(n), Some("a long name of a row".repeat(10)));
        let rows: Vec<Row> = (0..100).map(row).collect();
        assert!(keyed.add(batch(&rows)).is_err());
        drop(keyed);
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn filters_are_lists_ranges_or_nothing() {
        let column = Expr::Column(Column::new_unqualified("c"));
        let shown = |of: &DataType, values: ArrayRef| {
            let mut known = ColumnValues::try_new(of).unwrap();
            known.add(&values).unwrap();
            let filters = known.filters(&column);
            let filters: Vec<String> = filters.iter().map(Expr::to_string).collect();
            filters.join(" AND ")
        };
        let few: ArrayRef = Arc::new(Int64Array::from(vec![3, 3, 3]));
        assert_eq!(
            shown(&DataType::Int64, few),
            "c IN ([Int64(3)]) AND c >= Int64(3) AND c <= Int64(3)"
        );
        let many: ArrayRef = Arc::new(Int64Array::from_iter_values(5..50));
        assert_eq!(
            shown(&DataType::Int64, many),
            "c >= Int64(5) AND c <= Int64(49)"
        );
        // A millisecond more on each side.
        let of_time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![5_000, 7_000]));
        assert_eq!(
            shown(&of_time, times),
            "c >= TimestampMicrosecond(4000, None) AND c <= TimestampMicrosecond(8000, None)"
        );
        let bytes: ArrayRef = Arc::new(datafusion::arrow::array::BinaryArray::from(vec![
            b"a".as_slice(),
        ]));
        assert_eq!(shown(&DataType::Binary, bytes), "");
    }
}
