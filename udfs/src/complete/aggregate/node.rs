//! Logical node of an aggregate by completed session.

use std::cmp::Ordering;
use std::fmt;

use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::complete::CompleteSessions;
use crate::session::SessionColumn;
use crate::window::necessary_columns;

/// One row per session that [`CompleteSessions`] completes: its group columns, then its aggregates.
///
/// Schema: that of the aggregate it replaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CompleteSessionsAggregate {
    pub(super) completion: CompleteSessions,
    pub(super) groups: Vec<SessionColumn>,
    pub(super) aggregates: Vec<Expr>,
    pub(super) schema: DFSchemaRef,
}

impl CompleteSessionsAggregate {
    /// Which sessions are completed, over which input.
    pub fn completion(&self) -> &CompleteSessions {
        &self.completion
    }

    /// The group columns of the output, in order.
    pub fn groups(&self) -> &[SessionColumn] {
        &self.groups
    }

    /// The aggregates, expressions over the input.
    pub fn aggregates(&self) -> &[Expr] {
        &self.aggregates
    }

    /// The same with another completion.
    pub(crate) fn with_completion(&self, completion: CompleteSessions) -> Self {
        Self {
            completion,
            ..self.clone()
        }
    }
}

impl PartialOrd for CompleteSessionsAggregate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for CompleteSessionsAggregate {
    fn name(&self) -> &str {
        "CompleteSessionsAggregate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.completion.inputs()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let aggregates = self.aggregates.iter().cloned();
        let others = self.completion.expressions().into_iter();
        others.chain(aggregates).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.completion.fmt_for_explain(f)?;
        let aggregates: Vec<_> = self.aggregates.iter().map(ToString::to_string).collect();
        write!(f, ", aggr=[{}]", aggregates.join(", "))
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        let others = self.completion.keys().len() + 1;
        if exprs.len() != others + self.aggregates.len() {
            return plan_err!(
                "CompleteSessionsAggregate takes its keys, an event time and its aggregates"
            );
        }
        let aggregates = exprs.split_off(others);
        let completion = self.completion.with_exprs_and_inputs(exprs, inputs)?;
        Ok(Self {
            aggregates,
            ..self.with_completion(completion)
        })
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        if self.inputs().is_empty() {
            return Some(vec![]);
        }
        // It computes its columns from its input: it reads those that its expressions use.
        necessary_columns(self.completion.input(), &self.expressions(), &[])
    }
}
