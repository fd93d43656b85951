//! Resuming at the end of a table: `next_offsets` returns the next offsets, `offsets_from` reads from there.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::utils::disjunction;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use super::function::comparable;
use super::ranges::start_offsets;

/// `offsets_from(partition, offset, from)`: whether a record is at or after the offset that the
/// JSON `from` gives for its partition. A partition that is not in it is read from its beginning.
///
/// The JSON is that of `offsets_in`, and must be constant. Plans as plain predicates.
#[must_use]
pub fn offsets_from() -> ScalarUDF {
    ScalarUDF::from(OffsetsFrom {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

/// `next_offsets(partition, offset)`: for each partition the offset after its highest, as JSON
/// such as `{"0":23,"1":5}`; `{}` over no rows. Rows with a NULL in either are left out.
#[must_use]
pub fn next_offsets() -> AggregateUDF {
    AggregateUDF::from(NextOffsets {
        signature: Signature::coercible(
            vec![
                datafusion::logical_expr::Coercion::new_exact(int64_class()),
                datafusion::logical_expr::Coercion::new_exact(int64_class()),
            ],
            Volatility::Immutable,
        ),
    })
}

fn int64_class() -> datafusion::logical_expr::TypeSignatureClass {
    datafusion::logical_expr::TypeSignatureClass::Integer
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OffsetsFrom {
    signature: Signature,
}

const USAGE: &str = "offsets_from takes a partition, an offset, and a constant JSON text";

impl ScalarUDFImpl for OffsetsFrom {
    fn name(&self) -> &str {
        "offsets_from"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [partition, offset, _] if partition.is_integer() && offset.is_integer() => {
                Ok(vec![partition.clone(), offset.clone(), DataType::Utf8])
            }
            _ => plan_err!("{USAGE}"),
        }
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let [partition, offset, Expr::Literal(from, _)] = args.as_slice() else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let Some(Some(text)) = from.try_as_str() else {
            return plan_err!("{USAGE}, not NULL");
        };
        let starts = start_offsets(text)?;
        let mut known = Vec::with_capacity(starts.len());
        let mut predicates = Vec::with_capacity(starts.len() + 1);
        for (id, start) in starts {
            let (column, value) = comparable(partition, id, info)?;
            known.push(value.clone());
            let is_partition = column.eq(value);
            predicates.push(match start {
                Some(start) => {
                    let (column, value) = comparable(offset, start, info)?;
                    is_partition.and(column.gt_eq(value))
                }
                None => is_partition,
            });
        }
        if known.is_empty() {
            return Ok(ExprSimplifyResult::Simplified(lit(true)));
        }
        let (column, _) = comparable(partition, 0, info)?;
        predicates.push(column.in_list(known, true));
        Ok(ExprSimplifyResult::Simplified(
            disjunction(predicates).unwrap_or_else(|| lit(true)),
        ))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("{USAGE}")
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NextOffsets {
    signature: Signature,
}

impl AggregateUDFImpl for NextOffsets {
    fn name(&self) -> &str {
        "next_offsets"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(NextOffsetsAccumulator::default()))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![
            Field::new(format!("{}[next]", args.name), DataType::Utf8, false).into(),
        ])
    }

    fn default_value(&self, _: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Utf8(Some("{}".to_owned())))
    }
}

#[derive(Debug, Default)]
struct NextOffsetsAccumulator {
    next: BTreeMap<i64, i64>,
}

impl NextOffsetsAccumulator {
    fn raise(&mut self, partition: i64, next: i64) {
        let known = self.next.entry(partition).or_insert(next);
        *known = next.max(*known);
    }
}

impl Accumulator for NextOffsetsAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let partitions = cast(&values[0], &DataType::Int64)?;
        let offsets = cast(&values[1], &DataType::Int64)?;
        let (partitions, offsets) = (
            partitions.as_primitive::<Int64Type>(),
            offsets.as_primitive::<Int64Type>(),
        );
        // Records of a partition come in runs: the map is accessed once for each.
        let mut run: Option<(i64, i64)> = None;
        for row in 0..partitions.len() {
            if partitions.is_null(row) || offsets.is_null(row) {
                continue;
            }
            let (partition, offset) = (partitions.value(row), offsets.value(row));
            match &mut run {
                Some((known, highest)) if *known == partition => *highest = offset.max(*highest),
                _ => {
                    if let Some((known, highest)) = run.replace((partition, offset)) {
                        self.raise(known, highest.saturating_add(1));
                    }
                }
            }
        }
        if let Some((partition, highest)) = run {
            self.raise(partition, highest.saturating_add(1));
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let pairs: Vec<String> = self
            .next
            .iter()
            .map(|(partition, next)| format!("\"{partition}\":{next}"))
            .collect();
        Ok(ScalarValue::Utf8(Some(format!("{{{}}}", pairs.join(",")))))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.next.len() * 2 * size_of::<i64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for text in states[0].as_string::<i32>().iter().flatten() {
            for (partition, next) in start_offsets(text)? {
                if let Some(next) = next {
                    self.raise(partition, next);
                }
            }
        }
        Ok(())
    }
}
