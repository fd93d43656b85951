//! Logical node of COMPLETE_SESSIONS.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, LogicalPlan, UserDefinedLogicalNodeCore,
};

use super::aggregate::CompleteSessionsAggregate;
use crate::session::all_but_keys;
use crate::window::{necessary_columns, windowed_schema};

/// The range whose sessions are requested; all numbers are ticks of the event time's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompletionRange {
    /// The first tick in the range.
    pub from: i64,
    /// The first tick past the range.
    pub to: i64,
    /// How far before `from` and past `to` the search may read.
    pub max_extension: i64,
}

/// Every row of every session (SESS-1) of the input with at least one row in the range (SESS-2).
///
/// Schema: that of SESSION. The input is planned again for each slice of event time that is read,
/// so it must be a plan that can be read more than once; its tables are the ones resolved when
/// the statement was planned. NULL-1: executing fails on a NULL event time,
/// unless such rows are [passed over](Self::passing_over_nulls).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CompleteSessions {
    input: LogicalPlan,
    keys: Vec<Expr>,
    event_time: Expr,
    gap: i64,
    range: CompletionRange,
    /// Whether rows without an event time are passed over.
    passes_nulls: bool,
    /// Whether the input is hidden from the planner: see [`seal_completions`].
    sealed: bool,
    schema: DFSchemaRef,
}

/// Hides the inputs of all [`CompleteSessions`] and aggregates over them in an optimized plan; a query planner calls it before
/// it plans. The operator plans its input itself, slice by slice; otherwise the planner would first plan the whole input, with
/// all files of a table, in vain.
///
/// # Errors
///
/// None in practice: the plan is only walked.
pub fn seal_completions(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|plan| match plan {
        LogicalPlan::Extension(Extension { node }) => {
            let node_of_any = node.as_any();
            let sealed: Option<Arc<dyn datafusion::logical_expr::UserDefinedLogicalNode>> =
                if let Some(completion) = node_of_any.downcast_ref::<CompleteSessions>() {
                    completion.sealed().map(|sealed| Arc::new(sealed) as _)
                } else if let Some(aggregate) =
                    node_of_any.downcast_ref::<CompleteSessionsAggregate>()
                {
                    let sealed = aggregate.completion().sealed();
                    sealed.map(|sealed| Arc::new(aggregate.with_completion(sealed)) as _)
                } else {
                    None
                };
            Ok(match sealed {
                Some(node) => Transformed::yes(LogicalPlan::Extension(Extension { node })),
                None => Transformed::no(LogicalPlan::Extension(Extension { node })),
            })
        }
        other => Ok(Transformed::no(other)),
    })
    .map(|transformed| transformed.data)
}

impl CompleteSessions {
    /// Completes the sessions of `range` over `input`; `gap` counts in the event time's unit.
    ///
    /// # Errors
    ///
    /// If `event_time` is not a timestamp of the input, the gap is not positive, or the range is
    /// empty.
    pub fn try_new(
        input: LogicalPlan,
        keys: Vec<Expr>,
        event_time: Expr,
        gap: i64,
        range: CompletionRange,
    ) -> Result<Self> {
        let data_type = event_time.get_type(input.schema().as_ref())?;
        if !matches!(data_type, DataType::Timestamp(_, _)) {
            return plan_err!("event time {event_time} is {data_type}, not a timestamp");
        }
        if gap <= 0 || range.from >= range.to || range.max_extension < 0 {
            return plan_err!("COMPLETE_SESSIONS needs a positive gap and a range");
        }
        let schema = windowed_schema(input.schema(), &data_type)?;
        Ok(Self {
            input,
            keys,
            event_time,
            gap,
            range,
            passes_nulls: false,
            sealed: false,
            schema,
        })
    }

    /// The same, where rows without an event time are in no session, and are not looked for: what gives the rows has set them aside.
    #[must_use]
    pub fn passing_over_nulls(self) -> Self {
        Self {
            passes_nulls: true,
            ..self
        }
    }

    /// Whether rows without an event time are passed over.
    pub(super) fn passes_nulls(&self) -> bool {
        self.passes_nulls
    }

    /// The same with its input hidden; `None` if it is hidden already.
    fn sealed(&self) -> Option<Self> {
        (!self.sealed).then(|| Self {
            sealed: true,
            ..self.clone()
        })
    }

    /// The plan whose sessions are completed.
    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }

    /// The session's keys, expressions over the input.
    pub fn keys(&self) -> &[Expr] {
        &self.keys
    }

    /// The event time, an expression over the input.
    pub fn event_time(&self) -> &Expr {
        &self.event_time
    }

    /// The gap, in ticks of the event time's unit.
    pub fn gap(&self) -> i64 {
        self.gap
    }

    /// The range whose sessions are completed.
    pub fn range(&self) -> CompletionRange {
        self.range
    }
}

impl PartialOrd for CompleteSessions {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for CompleteSessions {
    fn name(&self) -> &str {
        "CompleteSessions"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        if self.sealed {
            vec![]
        } else {
            vec![&self.input]
        }
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys
            .iter()
            .chain([&self.event_time])
            .cloned()
            .collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        all_but_keys(&self.schema, &self.keys)
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.keys.iter().map(ToString::to_string).collect();
        write!(
            f,
            "COMPLETE_SESSIONS: keys=[{}], event_time={}, gap={}, from={}, to={}, max_extension={}",
            keys.join(", "),
            self.event_time,
            self.gap,
            self.range.from,
            self.range.to,
            self.range.max_extension
        )
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        if self.sealed {
            return Ok(self.clone());
        }
        let (Some(event_time), Some(input)) = (exprs.pop(), inputs.pop()) else {
            return plan_err!("CompleteSessions takes its keys, an event time and one input");
        };
        let rebuilt = Self::try_new(input, exprs, event_time, self.gap, self.range)?;
        Ok(Self {
            passes_nulls: self.passes_nulls,
            ..rebuilt
        })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        if self.sealed {
            return Some(vec![]);
        }
        necessary_columns(&self.input, &self.expressions(), output_columns)
    }
}
