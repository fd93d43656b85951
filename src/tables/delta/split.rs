//! Splitting batches by partition, without sorting, and without a check of each row where rows of one partition stand
//! together.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{partition, take_arrays, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::error::DataFusionError;

use crate::error::{Error, Result};

/// Gives each partition a number, the *slot*, and each batch's rows to their slots.
pub(super) struct PartitionSplitter {
    /// The indices of the partition columns in a batch.
    keys: Vec<usize>,
    /// Where the other columns stand.
    values: Vec<usize>,
    /// The schema of the rows in a [`PartitionRows`].
    file_schema: SchemaRef,
    converter: RowConverter,
    slots: HashMap<Box<[u8]>, usize>,
}

/// Rows of one batch that belong to one partition.
pub(super) struct PartitionRows {
    pub(super) slot: usize,
    /// The partition's values, one row per array; given with the slot's first part only.
    pub(super) new: Option<Vec<ArrayRef>>,
    /// The rows, in their order, without the partition columns.
    pub(super) rows: RecordBatch,
}

impl PartitionSplitter {
    /// Splits batches of `schema` by the columns `partition_by`.
    pub(super) fn try_new(schema: &SchemaRef, partition_by: &[String]) -> Result<Self> {
        let keys = partition_by
            .iter()
            .map(|name| schema.index_of(name).map_err(|_| missing(name)))
            .collect::<Result<Vec<_>>>()?;
        let values: Vec<usize> = (0..schema.fields().len())
            .filter(|index| !keys.contains(index))
            .collect();
        let file_schema = Arc::new(schema.project(&values).map_err(DataFusionError::from)?);
        let fields = keys
            .iter()
            .map(|index| SortField::new(schema.field(*index).data_type().clone()))
            .collect();
        let converter = RowConverter::new(fields).map_err(DataFusionError::from)?;
        Ok(Self {
            keys,
            values,
            file_schema,
            converter,
            slots: HashMap::new(),
        })
    }

    /// The schema of the rows in a [`PartitionRows`].
    pub(super) fn file_schema(&self) -> &SchemaRef {
        &self.file_schema
    }

    /// Splits one batch; parts come in the order in which their partitions first appear.
    pub(super) fn split(&mut self, batch: &RecordBatch) -> Result<Vec<PartitionRows>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let rows = batch
            .project(&self.values)
            .and_then(|rows| rows.with_schema(Arc::clone(&self.file_schema)))
            .map_err(DataFusionError::from)?;
        if self.keys.is_empty() {
            let new = self.slots.is_empty().then(Vec::new);
            self.slots.insert(Box::default(), 0);
            return Ok(vec![PartitionRows { slot: 0, new, rows }]);
        }
        let keys: Vec<ArrayRef> = self
            .keys
            .iter()
            .map(|index| Arc::clone(batch.column(*index)))
            .collect();
        // One compare of each key column with itself, shifted by a row, finds the runs; only the
        // head of a run is looked up.
        let runs = partition(&keys).map_err(DataFusionError::from)?.ranges();
        let heads = UInt32Array::from_iter_values(runs.iter().map(|run| run.start as u32));
        let heads = take_arrays(&keys, &heads, None).map_err(DataFusionError::from)?;
        let encoded = self
            .converter
            .convert_columns(&heads)
            .map_err(DataFusionError::from)?;

        let mut found: Vec<(usize, Option<usize>, Vec<std::ops::Range<usize>>)> = Vec::new();
        let mut at_slot: HashMap<usize, usize> = HashMap::new();
        for (head, run) in runs.into_iter().enumerate() {
            let key = encoded.row(head);
            let known = self.slots.get(key.data()).copied();
            let slot = known.unwrap_or(self.slots.len());
            if known.is_none() {
                self.slots.insert(key.data().into(), slot);
            }
            let at = *at_slot.entry(slot).or_insert_with(|| {
                found.push((slot, known.is_none().then_some(head), Vec::new()));
                found.len() - 1
            });
            found[at].2.push(run);
        }
        found
            .into_iter()
            .map(|(slot, head, runs)| {
                let new = head.map(|head| heads.iter().map(|key| key.slice(head, 1)).collect());
                Ok(PartitionRows {
                    slot,
                    new,
                    rows: pick(&rows, &runs)?,
                })
            })
            .collect()
    }
}

/// The rows of the runs: a view of the batch if they are one run, else a copy.
fn pick(rows: &RecordBatch, runs: &[std::ops::Range<usize>]) -> Result<RecordBatch> {
    if let [run] = runs {
        return Ok(rows.slice(run.start, run.len()));
    }
    let indices =
        UInt32Array::from_iter_values(runs.iter().flat_map(|run| run.start as u32..run.end as u32));
    Ok(take_record_batch(rows, &indices).map_err(DataFusionError::from)?)
}

fn missing(name: &str) -> Error {
    Error::internal(format!(
        "partition column '{name}' is not in the table's schema"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use datafusion::arrow::array::{Array, AsArray, Int32Array, Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    fn batch(hours: Vec<Option<i32>>, names: Vec<&str>) -> RecordBatch {
        let rows = hours.len() as i64;
        let schema = Schema::new(vec![
            Field::new("hour", DataType::Int32, true),
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, false),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int32Array::from(hours)),
                Arc::new(Int64Array::from_iter_values(0..rows)),
                Arc::new(StringArray::from(names)),
            ],
        )
        .unwrap()
    }

    fn ids(part: &PartitionRows) -> Vec<i64> {
        part.rows
            .column(0)
            .as_primitive::<Int64Type>()
            .values()
            .to_vec()
    }

    #[test]
    fn rows_go_to_their_slots_in_order_over_batches() {
        let first = batch(
            vec![Some(1), Some(1), None, Some(2), None],
            vec!["a", "a", "a", "a", "b"],
        );
        let by = ["hour".to_owned(), "name".to_owned()];
        let mut splitter = PartitionSplitter::try_new(&first.schema(), &by).unwrap();
        let parts = splitter.split(&first).unwrap();
        let seen: Vec<_> = parts
            .iter()
            .map(|p| (p.slot, p.new.is_some(), ids(p)))
            .collect();
        assert_eq!(
            seen,
            [
                (0, true, vec![0, 1]),
                (1, true, vec![2]),
                (2, true, vec![3]),
                (3, true, vec![4])
            ]
        );
        let keys = parts[1].new.as_ref().unwrap();
        assert!(keys[0].is_null(0));

        let second = batch(vec![Some(2), Some(1), Some(2), Some(3)], vec!["a"; 4]);
        let parts = splitter.split(&second).unwrap();
        let seen: Vec<_> = parts
            .iter()
            .map(|p| (p.slot, p.new.is_some(), ids(p)))
            .collect();
        assert_eq!(
            seen,
            [
                (2, false, vec![0, 2]),
                (0, false, vec![1]),
                (4, true, vec![3])
            ]
        );
        assert_eq!(splitter.file_schema().fields().len(), 1);
    }

    #[test]
    fn without_partitions_a_batch_stays_whole() {
        let batch = batch(vec![None, Some(1)], vec!["a", "b"]);
        let mut splitter = PartitionSplitter::try_new(&batch.schema(), &[]).unwrap();
        for first in [true, false] {
            let parts = splitter.split(&batch).unwrap();
            assert_eq!(parts.len(), 1);
            assert_eq!((parts[0].slot, parts[0].new.is_some()), (0, first));
            assert_eq!(parts[0].rows, batch);
        }
    }
}
