//! Aggregates of DOUBLE whose result may be NaN: `stddev(x)` of infinity. Their NaN gets the bits of the only one that there is.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::functions_aggregate::{correlation, covariance, median, regr, stddev, variance};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator};

use super::nan::{NormalizedNan, NormalizedNanGroups};
use crate::inner_aggregate::of_inner_aggregate;

/// The functions.
pub(crate) fn nan_aggregates() -> [AggregateUDF; 16] {
    [
        correlation::corr_udaf(),
        covariance::covar_pop_udaf(),
        covariance::covar_samp_udaf(),
        median::median_udaf(),
        regr::regr_avgx_udaf(),
        regr::regr_avgy_udaf(),
        regr::regr_intercept_udaf(),
        regr::regr_r2_udaf(),
        regr::regr_slope_udaf(),
        regr::regr_sxx_udaf(),
        regr::regr_sxy_udaf(),
        regr::regr_syy_udaf(),
        stddev::stddev_pop_udaf(),
        stddev::stddev_udaf(),
        variance::var_pop_udaf(),
        variance::var_samp_udaf(),
    ]
    .map(|inner| AggregateUDF::from(NanAggregate { inner }))
}

/// The library's function with normalized NaN in its result.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NanAggregate {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for NanAggregate {
    of_inner_aggregate!();

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let inner = self.inner.accumulator(args)?;
        Ok(Box::new(NormalizedNan::new(inner)))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let inner = self.inner.create_sliding_accumulator(args)?;
        Ok(Box::new(NormalizedNan::new(inner)))
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let inner = self.inner.create_groups_accumulator(args)?;
        Ok(Box::new(NormalizedNanGroups::new(inner)))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }
}
