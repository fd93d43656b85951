//! Whether a row is one of those whose results a run is restricted to, by its partition and offset.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{AsArray as _, BooleanArray};
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use crate::core::archive::OffsetRanges;

/// Whether the row at this partition, an INT, and offset, a BIGINT, is among the offsets of a table; of a table without any, none is.
pub(super) fn is_selected(
    offsets: Option<&BTreeMap<i32, OffsetRanges>>,
    partition: Expr,
    offset: Expr,
) -> Expr {
    let Some(offsets) = offsets else {
        return lit(false);
    };
    let ranges = offsets.iter().map(|(partition, ranges)| {
        let ranges = ranges.ranges().map(|range| (range.from, range.to));
        (*partition, ranges.collect())
    });
    let function = ScalarUDF::new_from_impl(SelectedRows {
        ranges: Arc::new(ranges.collect()),
        signature: Signature::exact(
            vec![DataType::Int32, DataType::Int64],
            Volatility::Immutable,
        ),
    });
    Expr::ScalarFunction(ScalarFunction::new_udf(
        Arc::new(function),
        vec![partition, offset],
    ))
}

/// By partition, ranges of offsets, ascending.
#[derive(Debug)]
struct SelectedRows {
    ranges: Arc<BTreeMap<i32, Vec<(i64, i64)>>>,
    signature: Signature,
}

// There may be many ranges, and optimizer rules compare expressions again and again.
impl PartialEq for SelectedRows {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ranges, &other.ranges)
    }
}

impl Eq for SelectedRows {}

impl Hash for SelectedRows {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.ranges).hash(state);
    }
}

impl SelectedRows {
    fn contains(&self, partition: i32, offset: i64) -> bool {
        let Some(ranges) = self.ranges.get(&partition) else {
            return false;
        };
        let at = ranges.partition_point(|(_, to)| *to <= offset);
        ranges.get(at).is_some_and(|(from, _)| *from <= offset)
    }
}

impl ScalarUDFImpl for SelectedRows {
    fn name(&self) -> &str {
        "is_selected_row"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let places = ColumnarValue::values_to_arrays(&args.args)?;
        let [partitions, offsets] = places.as_slice() else {
            return Err(exec_datafusion_err!(
                "is_selected_row takes a partition and an offset"
            ));
        };
        let partitions = partitions.as_primitive::<Int32Type>().iter();
        let offsets = offsets.as_primitive::<Int64Type>().iter();
        let is_in = |(partition, offset): (Option<i32>, Option<i64>)| {
            Some(self.contains(partition?, offset?))
        };
        let selected: BooleanArray = partitions.zip(offsets).map(is_in).collect();
        Ok(ColumnarValue::Array(Arc::new(selected)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_ranges_of_their_partition() {
        let rows = SelectedRows {
            ranges: Arc::new([(1, vec![(3, 5), (9, 10)])].into()),
            signature: Signature::any(2, Volatility::Immutable),
        };
        let found: Vec<i64> = (0..12).filter(|offset| rows.contains(1, *offset)).collect();
        assert_eq!(found, [3, 4, 9]);
        assert!(!rows.contains(0, 3));
    }
}
