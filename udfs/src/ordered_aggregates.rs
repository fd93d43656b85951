//! `array_agg(DISTINCT x ORDER BY x)` and `string_agg` in the requested order.
//!
//! If the input is sorted in the opposite direction for another aggregate, DataFusion reverses the order of such an aggregate,
//! to read the rows backwards. With DISTINCT the aggregate sorts its values itself, and returns them in reverse.
//!
//! `string_agg` sorts its values itself as well. It declares that its input must be sorted, so that two of them with different
//! orders would be refused; here it declares sorted input as beneficial only.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::functions_aggregate::string_agg::string_agg_udaf;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF,
};
use datafusion::physical_expr::PhysicalSortExpr;

use crate::inner_aggregate::of_inner_aggregate;

/// The aggregate functions.
pub(crate) fn ordered() -> [AggregateUDF; 2] {
    [array_agg_udaf(), string_agg_udaf()]
        .map(|inner| AggregateUDF::from(OrderedAggregate { inner }))
}

/// DataFusion's function, with another order of distinct values.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OrderedAggregate {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for OrderedAggregate {
    of_inner_aggregate!();

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !(args.is_distinct && args.is_reversed) {
            return self.inner.accumulator(args);
        }
        let asked: Vec<PhysicalSortExpr> = args
            .order_bys
            .iter()
            .map(PhysicalSortExpr::reverse)
            .collect();
        self.inner.accumulator(AccumulatorArgs {
            order_bys: &asked,
            is_reversed: false,
            ..args
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        match self.inner.order_sensitivity() {
            AggregateOrderSensitivity::HardRequirement => {
                AggregateOrderSensitivity::SoftRequirement
            }
            other => other,
        }
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        if self.inner.order_sensitivity().hard_requires() {
            return Ok(Some(self));
        }
        let inner = AggregateUDF::clone(&self.inner);
        let inner = inner.with_beneficial_ordering(beneficial_ordering)?;
        Ok(inner.map(|inner| {
            let inner = Arc::new(inner);
            Arc::new(Self { inner }) as Arc<dyn AggregateUDFImpl>
        }))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_udf() {
            ReversedUDAF::Reversed(inner) => {
                ReversedUDAF::Reversed(Arc::new(AggregateUDF::from(Self { inner })))
            }
            other => other,
        }
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }
}
