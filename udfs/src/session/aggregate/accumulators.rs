//! DataFusion's own aggregates, one accumulator each, over dense group numbers.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::FieldRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregate};
use datafusion::physical_plan::PhysicalExpr;

/// An aggregate of the select list and its FILTER.
#[derive(Debug, Clone)]
pub(crate) struct SessionAggregateExpr {
    pub(crate) function: Arc<AggregateFunctionExpr>,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
}

impl SessionAggregateExpr {
    pub(crate) fn new(lowered: LoweredAggregate) -> Self {
        Self {
            function: lowered.aggregate,
            filter: lowered.filter,
        }
    }
}

/// The accumulators of all aggregates.
pub(crate) struct Accumulators {
    aggregates: Vec<SessionAggregateExpr>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

impl Accumulators {
    pub(crate) fn try_new(aggregates: &[SessionAggregateExpr]) -> Result<Self> {
        let accumulators = aggregates
            .iter()
            .map(|aggregate| {
                let function = Arc::clone(&aggregate.function);
                if function.groups_accumulator_supported() {
                    return function.create_groups_accumulator();
                }
                let factory = move || function.create_accumulator();
                let adapter: Box<dyn GroupsAccumulator> =
                    Box::new(GroupsAccumulatorAdapter::new(factory));
                Ok(adapter)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            aggregates: aggregates.to_vec(),
            accumulators,
        })
    }

    /// Adds rows of the input; `groups` has the group of each.
    pub(crate) fn update(
        &mut self,
        batch: &RecordBatch,
        groups: &[usize],
        count: usize,
    ) -> Result<()> {
        let rows = batch.num_rows();
        for (aggregate, accumulator) in self.aggregates.iter().zip(&mut self.accumulators) {
            let function = &aggregate.function;
            let ordering = function
                .order_bys()
                .iter()
                .map(|sort| Arc::clone(&sort.expr));
            let values = function
                .expressions()
                .into_iter()
                .chain(ordering)
                .map(|expr| expr.evaluate(batch)?.into_array(rows))
                .collect::<Result<Vec<_>>>()?;
            let filter = match &aggregate.filter {
                Some(filter) => Some(filter.evaluate(batch)?.into_array(rows)?),
                None => None,
            };
            let filter = filter.as_ref().map(|filter| filter.as_boolean());
            accumulator.update_batch(&values, groups, filter, count)?;
        }
        Ok(())
    }

    /// Merges partial states: `states` are the state columns of all aggregates, in order.
    pub(crate) fn merge(
        &mut self,
        states: &[ArrayRef],
        groups: &[usize],
        count: usize,
    ) -> Result<()> {
        let mut rest = states;
        for (aggregate, accumulator) in self.aggregates.iter().zip(&mut self.accumulators) {
            let width = aggregate.function.state_fields()?.len();
            let (own, others) = rest.split_at(width.min(rest.len()));
            rest = others;
            accumulator.merge_batch(own, groups, count)?;
        }
        Ok(())
    }

    /// The partial states of all groups.
    pub(crate) fn states(&mut self) -> Result<Vec<ArrayRef>> {
        let mut states = Vec::new();
        for accumulator in &mut self.accumulators {
            states.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(states)
    }

    /// The results of the first groups, which are dropped; later groups move down.
    pub(crate) fn evaluate(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.accumulators
            .iter_mut()
            .map(|accumulator| accumulator.evaluate(emit))
            .collect()
    }

    pub(crate) fn size(&self) -> usize {
        self.accumulators
            .iter()
            .map(|accumulator| accumulator.size())
            .sum()
    }
}

/// The state columns of all aggregates, with unique names.
pub(crate) fn state_fields(aggregates: &[SessionAggregateExpr]) -> Result<Vec<FieldRef>> {
    let mut fields = Vec::new();
    for (number, aggregate) in aggregates.iter().enumerate() {
        for (place, field) in aggregate.function.state_fields()?.into_iter().enumerate() {
            let renamed = field
                .as_ref()
                .clone()
                .with_name(format!("state{number}_{place}"));
            fields.push(Arc::new(renamed));
        }
    }
    Ok(fields)
}
