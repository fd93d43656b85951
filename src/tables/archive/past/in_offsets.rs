//! A condition on partition and offset of rows: that they are in a set of offsets, of any number of ranges.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type, Schema};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::filter::FilterExec;

use crate::core::archive::{OffsetRange, OffsetRanges};
use crate::error::Error;

/// The ranges of each partition, in order.
type Ranges = BTreeMap<i32, Vec<OffsetRange>>;

/// Whether the offset of a row is in the set. Rows without coordinates pass: what reads them says so.
#[derive(Debug, Clone, Eq)]
struct InOffsets {
    partition: Arc<dyn PhysicalExpr>,
    offset: Arc<dyn PhysicalExpr>,
    ranges: Arc<Ranges>,
}

/// The rows of a plan whose partition and offset, which are in these columns, are in the set.
pub(super) fn rows_in<'o>(
    rows: Arc<dyn ExecutionPlan>,
    (partition, offset): (usize, usize),
    offsets: impl IntoIterator<Item = (i32, &'o OffsetRanges)>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = rows.schema();
    let column = |index: usize| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(schema.field(index).name(), index))
    };
    let offsets = offsets.into_iter();
    let predicate = InOffsets {
        partition: column(partition),
        offset: column(offset),
        ranges: Arc::new(
            offsets
                .map(|(partition, ranges)| (partition, ranges.ranges().collect()))
                .collect(),
        ),
    };
    Ok(Arc::new(FilterExec::try_new(Arc::new(predicate), rows)?))
}

impl PartialEq for InOffsets {
    fn eq(&self, other: &Self) -> bool {
        self.partition.eq(&other.partition)
            && self.offset.eq(&other.offset)
            && self.ranges == other.ranges
    }
}

impl Hash for InOffsets {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.partition.hash(state);
        self.offset.hash(state);
        self.ranges.len().hash(state);
    }
}

impl fmt::Display for InOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = self.ranges.values().map(Vec::len).sum();
        let (partition, offset) = (&self.partition, &self.offset);
        write!(f, "({partition}, {offset}) in {count} ranges")
    }
}

impl PhysicalExpr for InOffsets {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let of = |expr: &Arc<dyn PhysicalExpr>, to: &DataType| -> Result<ArrayRef> {
            let values = expr.evaluate(batch)?.into_array(batch.num_rows())?;
            Ok(cast(&values, to)?)
        };
        let partitions = of(&self.partition, &DataType::Int32)?;
        let offsets = of(&self.offset, &DataType::Int64)?;
        let (partitions, offsets) = (
            partitions.as_primitive::<Int32Type>(),
            offsets.as_primitive::<Int64Type>(),
        );
        let mut known: Option<(i32, &[OffsetRange])> = None;
        let passes = (0..batch.num_rows()).map(|row| {
            if partitions.is_null(row) || offsets.is_null(row) {
                return true;
            }
            let partition = partitions.value(row);
            // Neighbouring rows are of one partition.
            let ranges = match known {
                Some((of, ranges)) if of == partition => ranges,
                _ => {
                    let ranges = self.ranges.get(&partition);
                    let ranges = ranges.map_or(&[][..], Vec::as_slice);
                    known = Some((partition, ranges));
                    ranges
                }
            };
            let offset = offsets.value(row);
            let next = ranges.partition_point(|range| range.to <= offset);
            ranges.get(next).is_some_and(|range| range.from <= offset)
        });
        let passes: Vec<bool> = passes.collect();
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(passes))))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.partition, &self.offset]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let [partition, offset] = <[_; 2]>::try_from(children)
            .map_err(|_| Error::internal("coordinates are a partition and an offset"))?;
        Ok(Arc::new(Self {
            partition,
            offset,
            ranges: Arc::clone(&self.ranges),
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int32Array, Int64Array};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_of_the_set_pass(
            ranges in prop::collection::vec((0_i32..3, 0_i64..40, 0_i64..9), 0..8),
            rows in prop::collection::vec((0_i32..4, prop::option::of(-2_i64..50)), 0..40),
        ) {
            let mut offsets: BTreeMap<i32, OffsetRanges> = BTreeMap::new();
            for (partition, from, length) in &ranges {
                offsets.entry(*partition).or_default().insert(OffsetRange::new(*from, from + length));
            }
            let predicate = InOffsets {
                partition: Arc::new(Column::new("p", 0)),
                offset: Arc::new(Column::new("o", 1)),
                ranges: Arc::new(
                    offsets.iter().map(|(partition, of)| (*partition, of.ranges().collect())).collect(),
                ),
            };
            let columns: [ArrayRef; 2] = [
                Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0))),
                Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            ];
            let [partitions, of] = columns;
            let batch = RecordBatch::try_from_iter_with_nullable([("p", partitions, true), ("o", of, true)]).unwrap();
            let passes = predicate.evaluate(&batch).unwrap().into_array(rows.len()).unwrap();
            for (row, (partition, offset)) in rows.iter().enumerate() {
                let is_in = |offset: i64| ranges.iter().any(|(of, from, length)| {
                    of == partition && (*from..from + length).contains(&offset)
                });
                prop_assert_eq!(passes.as_boolean().value(row), offset.is_none_or(is_in));
            }
        }
    }
}
