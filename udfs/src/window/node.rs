//! Logical node of TUMBLE, HOP and CUMULATE.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, UserDefinedLogicalNodeCore};

use super::{AlignedWindows, WINDOW_END, WINDOW_START, windowed_schema};

/// Each row of the input once for each window that contains its event time, or for those of them that
/// [end within a range](Self::with_ends_in).
///
/// Schema: the input's columns, then `window_start` and `window_end` of the event time's type, not
/// null. NULL-1: executing fails on a NULL event time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventWindow {
    input: LogicalPlan,
    event_time: Expr,
    windows: AlignedWindows,
    /// The ends of the windows that are assigned; none if all are.
    ends: Option<(i64, i64)>,
    /// Ranges on the event time that were added below because predicates above imply them.
    narrowed_to: Vec<Expr>,
    schema: DFSchemaRef,
}

impl EventWindow {
    /// Windows over `input` by the timestamp `event_time`; `windows` counts in its unit.
    ///
    /// # Errors
    ///
    /// If `event_time` is not a timestamp of the input.
    pub fn try_new(input: LogicalPlan, event_time: Expr, windows: AlignedWindows) -> Result<Self> {
        let data_type = event_time.get_type(input.schema().as_ref())?;
        if !matches!(data_type, DataType::Timestamp(_, _)) {
            return plan_err!("event time {event_time} is {data_type}, not a timestamp");
        }
        let schema = windowed_schema(input.schema(), &data_type)?;
        Ok(Self {
            input,
            event_time,
            windows,
            ends: None,
            narrowed_to: vec![],
            schema,
        })
    }

    /// The plan whose rows get windows.
    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }

    /// The event time, an expression over the input.
    pub fn event_time(&self) -> &Expr {
        &self.event_time
    }

    /// The same rows in other windows by the same event time.
    #[must_use]
    pub fn with_windows(mut self, windows: AlignedWindows) -> Self {
        self.windows = windows;
        self
    }

    /// The same rows in those windows alone that end at a tick in `from..to`. A row that is in no such window is left out.
    #[must_use]
    pub fn with_ends_in(mut self, from: i64, to: i64) -> Self {
        self.ends = Some((from, to));
        self
    }

    /// The ends of the windows that are assigned, the last of them excluded; none if all are.
    pub(crate) fn ends(&self) -> Option<(i64, i64)> {
        self.ends
    }

    pub(crate) fn narrowed_to(&self) -> &[Expr] {
        &self.narrowed_to
    }

    pub(crate) fn with_narrowed_to(mut self, ranges: Vec<Expr>) -> Self {
        self.narrowed_to = ranges;
        self
    }

    /// The windows, in ticks of the event time's unit.
    pub fn windows(&self) -> &AlignedWindows {
        &self.windows
    }
}

impl PartialOrd for EventWindow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for EventWindow {
    fn name(&self) -> &str {
        "EventWindow"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![self.event_time.clone()]
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::from([WINDOW_START.to_owned(), WINDOW_END.to_owned()])
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows = &self.windows;
        write!(
            f,
            "{}: event_time={}, size={}, step={}, offset={}",
            windows.kind(),
            self.event_time,
            windows.size(),
            windows.step(),
            windows.offset()
        )?;
        match self.ends {
            Some((from, to)) => write!(f, ", ends={from}..{to}"),
            None => Ok(()),
        }
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        let (Some(event_time), Some(input)) = (exprs.pop(), inputs.pop()) else {
            return plan_err!("EventWindow takes one expression and one input");
        };
        let rebuilt = Self::try_new(input, event_time, self.windows)?;
        Ok(Self {
            ends: self.ends,
            ..rebuilt.with_narrowed_to(self.narrowed_to.clone())
        })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        necessary_columns(
            &self.input,
            std::slice::from_ref(&self.event_time),
            output_columns,
        )
    }

    fn supports_limit_pushdown(&self) -> bool {
        // Every row comes out at least once, so the first n rows suffice for n rows.
        self.ends.is_none()
    }
}

/// The input columns that a windowing node over `input` reads for the requested `output_columns`: those among them and all that
/// `used` refers to, ascending.
pub(crate) fn necessary_columns(
    input: &LogicalPlan,
    used: &[Expr],
    output_columns: &[usize],
) -> Option<Vec<Vec<usize>>> {
    let schema = input.schema();
    let width = schema.fields().len();
    let mut columns: Vec<usize> = output_columns
        .iter()
        .copied()
        .filter(|column| *column < width)
        .collect();
    for expr in used {
        for column in expr.column_refs() {
            columns.push(schema.maybe_index_of_column(column)?);
        }
    }
    columns.sort_unstable();
    columns.dedup();
    Some(vec![columns])
}
