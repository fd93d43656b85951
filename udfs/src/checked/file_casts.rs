//! Casts of file columns to the types of their table: those that round or may fail are functions there as well.
//!
//! A Parquet file may have a `BIGINT` where its table has an `INT`, or milliseconds where it has microseconds. The engine casts
//! such columns in the scan, and in the predicates by which it prunes parts of the file; and in predicates it undoes the casts:
//! `ts < 0.0005 s` over milliseconds would prune a part that holds only 0 s.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_expr::expressions::CastExpr;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};

use super::cast::RoundedCast;

/// Adapts expressions over a table to each of its files, with functions instead of casts that round or may fail.
#[derive(Debug)]
pub struct CastsInFiles {
    inner: Arc<dyn PhysicalExprAdapterFactory>,
}

impl CastsInFiles {
    /// Wraps the adapter factory `inner`, or the engine's own if there is none.
    #[must_use]
    pub fn over(inner: Option<Arc<dyn PhysicalExprAdapterFactory>>) -> Self {
        let inner = inner.unwrap_or_else(|| Arc::new(DefaultPhysicalExprAdapterFactory));
        Self { inner }
    }
}

impl PhysicalExprAdapterFactory for CastsInFiles {
    fn create(
        &self,
        logical_file_schema: SchemaRef,
        physical_file_schema: SchemaRef,
    ) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let of_file = Arc::clone(&physical_file_schema);
        let inner = self
            .inner
            .create(logical_file_schema, physical_file_schema)?;
        Ok(Arc::new(CastsInFile { inner, of_file }))
    }
}

/// The same for one file.
#[derive(Debug)]
struct CastsInFile {
    inner: Arc<dyn PhysicalExprAdapter>,
    of_file: SchemaRef,
}

impl PhysicalExprAdapter for CastsInFile {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let adapted = self.inner.rewrite(expr)?;
        let checked = adapted.transform_up(|expr| {
            let Some(cast) = expr.downcast_ref::<CastExpr>() else {
                return Ok(Transformed::no(expr));
            };
            let from = cast.expr().data_type(&self.of_file)?;
            let Some(rounded) = RoundedCast::over_file(&from, cast.cast_type()) else {
                return Ok(Transformed::no(expr));
            };
            let function = Arc::new(ScalarUDF::from(rounded));
            let call = ScalarFunctionExpr::new(
                function.name(),
                Arc::clone(&function),
                vec![Arc::clone(cast.expr())],
                Arc::clone(cast.target_field()),
                Arc::new(ConfigOptions::default()),
            );
            Ok(Transformed::yes(Arc::new(call) as Arc<dyn PhysicalExpr>))
        })?;
        Ok(checked.data)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Decimal128Array, RecordBatch, TimestampMillisecondArray};
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use datafusion::physical_expr::simplifier::PhysicalExprSimplifier;

    use super::*;

    /// Whether a predicate finds the only row of a file whose column has another type than this type of the table.
    fn finds(value: ArrayRef, of_table: &DataType, op: Operator, literal: ScalarValue) -> bool {
        let table = Schema::new(vec![Field::new("x", of_table.clone(), true)]);
        let batch = RecordBatch::try_from_iter([("x", value)]).unwrap();
        let file = batch.schema();
        let predicate = binary(col("x", &table).unwrap(), op, lit(literal), &table).unwrap();
        let adapter = CastsInFiles::over(None).create(Arc::new(table), Arc::clone(&file));
        let adapted = adapter.unwrap().rewrite(predicate).unwrap();
        let simple = PhysicalExprSimplifier::new(&file)
            .simplify(adapted)
            .unwrap();
        let found = simple.evaluate(&batch).unwrap().into_array(1).unwrap();
        ScalarValue::try_from_array(&found, 0).unwrap() == ScalarValue::Boolean(Some(true))
    }

    #[test]
    fn predicates_use_the_types_of_the_table() {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let zero = || Arc::new(TimestampMillisecondArray::from(vec![0])) as ArrayRef;
        let at = |value| ScalarValue::TimestampMicrosecond(Some(value), None);
        assert!(finds(zero(), &micros, Operator::Lt, at(500)));
        assert!(!finds(zero(), &micros, Operator::Eq, at(500)));
        assert!(finds(zero(), &micros, Operator::Eq, at(0)));
        let cents = DataType::Decimal128(10, 2);
        let value = Decimal128Array::from(vec![10_051]).with_precision_and_scale(10, 4);
        let value = Arc::new(value.unwrap()) as ArrayRef;
        let rounded = ScalarValue::Decimal128(Some(101), 10, 2);
        assert!(finds(value, &cents, Operator::Eq, rounded));
    }
}
