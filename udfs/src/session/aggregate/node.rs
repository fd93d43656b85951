//! Logical node of an aggregate by session.

use std::cmp::Ordering;
use std::fmt;

use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::window::necessary_columns;

/// The content of an output's group column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionColumn {
    /// A key of the session, by its position among the keys; after them come further expressions by which a job groups.
    Key(usize),
    /// The first row's event time.
    WindowStart,
    /// The last row's event time plus the gap.
    WindowEnd,
}

/// One row per session of the input: its group columns, then its aggregates.
///
/// Schema: that of the aggregate it replaces. NULL-1: executing fails on a NULL event time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionAggregate {
    pub(super) input: LogicalPlan,
    pub(super) keys: Vec<Expr>,
    pub(super) others: Vec<Expr>,
    pub(super) event_time: Expr,
    pub(super) gap: i64,
    pub(super) groups: Vec<SessionColumn>,
    pub(super) aggregates: Vec<Expr>,
    pub(super) schema: DFSchemaRef,
}

impl SessionAggregate {
    /// The rows that are aggregated.
    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }

    /// The session's keys, expressions over the input.
    pub fn keys(&self) -> &[Expr] {
        &self.keys
    }

    /// Further group keys of a session's rows, as expressions over the input; empty for a node that runs.
    pub fn others(&self) -> &[Expr] {
        &self.others
    }

    /// The event time, an expression over the input.
    pub fn event_time(&self) -> &Expr {
        &self.event_time
    }

    /// The gap, in ticks of the event time's unit.
    pub fn gap(&self) -> i64 {
        self.gap
    }

    /// The group columns of the output, in order.
    pub fn groups(&self) -> &[SessionColumn] {
        &self.groups
    }

    /// The aggregates, expressions over the input.
    pub fn aggregates(&self) -> &[Expr] {
        &self.aggregates
    }
}

impl PartialOrd for SessionAggregate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for SessionAggregate {
    fn name(&self) -> &str {
        "SessionAggregate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let aggregates = self.aggregates.iter();
        let rows = self.keys.iter().chain([&self.event_time]);
        let rows = rows.chain(&self.others);
        rows.chain(aggregates).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = |exprs: &[Expr]| {
            let texts: Vec<_> = exprs.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        write!(
            f,
            "SESSION aggregate: keys=[{}], event_time={}, gap={}, aggr=[{}]",
            texts(&self.keys),
            self.event_time,
            self.gap,
            texts(&self.aggregates)
        )
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        let (keys, others) = (self.keys.len(), self.others.len());
        let (Some(input), true) = (
            inputs.pop(),
            exprs.len() == keys + 1 + others + self.aggregates.len(),
        ) else {
            return plan_err!(
                "SessionAggregate takes its keys, an event time, its aggregates and one input"
            );
        };
        let aggregates = exprs.split_off(keys + 1 + others);
        let others = exprs.split_off(keys + 1);
        let Some(event_time) = exprs.pop() else {
            return plan_err!("SessionAggregate takes an event time");
        };
        Ok(Self {
            input,
            keys: exprs,
            others,
            event_time,
            gap: self.gap,
            groups: self.groups.clone(),
            aggregates,
            schema: self.schema.clone(),
        })
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // It computes its columns from its input: it reads those that its expressions use.
        necessary_columns(&self.input, &self.expressions(), &[])
    }
}
