//! Logical node of SESSION.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::window::windowed_schema;

/// Each row of the input with start and end of its key's session (SESS-1).
///
/// Schema: the input's columns, then `window_start` (the first row's event time) and `window_end`
/// (the last row's plus the gap), not null. NULL is a key value of its own; without keys the whole
/// input is one stream of sessions. NULL-1: executing fails on a NULL event time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionWindow {
    input: LogicalPlan,
    keys: Vec<Expr>,
    event_time: Expr,
    gap: i64,
    schema: DFSchemaRef,
}

impl SessionWindow {
    /// Sessions of `input` per `keys` by the timestamp `event_time`; `gap` counts in its unit.
    ///
    /// # Errors
    ///
    /// If `event_time` is not a timestamp of the input, or the gap is not positive.
    pub fn try_new(
        input: LogicalPlan,
        keys: Vec<Expr>,
        event_time: Expr,
        gap: i64,
    ) -> Result<Self> {
        let data_type = event_time.get_type(input.schema().as_ref())?;
        if !matches!(data_type, DataType::Timestamp(_, _)) {
            return plan_err!("event time {event_time} is {data_type}, not a timestamp");
        }
        if gap <= 0 {
            return plan_err!("the gap of a session must be positive");
        }
        let schema = windowed_schema(input.schema(), &data_type)?;
        Ok(Self {
            input,
            keys,
            event_time,
            gap,
            schema,
        })
    }

    /// The plan whose rows get sessions.
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
}

impl PartialOrd for SessionWindow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for SessionWindow {
    fn name(&self) -> &str {
        "SessionWindow"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
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
            "SESSION: keys=[{}], event_time={}, gap={}",
            keys.join(", "),
            self.event_time,
            self.gap
        )
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        let (Some(event_time), Some(input)) = (exprs.pop(), inputs.pop()) else {
            return plan_err!("SessionWindow takes its keys, an event time and one input");
        };
        Self::try_new(input, exprs, event_time, self.gap)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        crate::window::necessary_columns(&self.input, &self.expressions(), output_columns)
    }
}

/// The columns that a predicate must not use to be moved below a session: all but the keys. A row that any other predicate
/// filters out may be the one that joins two other rows in a session.
pub(crate) fn all_but_keys(schema: &DFSchemaRef, keys: &[Expr]) -> HashSet<String> {
    let mut is_key = vec![false; schema.fields().len()];
    for key in keys {
        if let Expr::Column(column) = key
            && let Some(index) = schema.maybe_index_of_column(column)
        {
            is_key[index] = true;
        }
    }
    // By name only, as the optimizer asks: a name that is also another column's stays above.
    schema
        .fields()
        .iter()
        .zip(is_key)
        .filter(|(_, is_key)| !is_key)
        .map(|(field, _)| field.name().clone())
        .collect()
}
