//! Relation planner: from `FROM TUMBLE(…)` and its siblings to logical nodes.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, Result, Span};
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode};
use datafusion::sql::sqlparser::ast::{self, ObjectNamePart, Spanned, TableFactor};

use super::arguments::{Arguments, WindowFunction, event_time_type, resolve_column, split};
use super::constant::{Constant, evaluate, interval_ticks, point_in_time};
use crate::complete::{CompleteSessions, CompletionRange};
use crate::diagnostic::plan_error;
use crate::session::SessionWindow;
use crate::window::{
    AlignedWindows, EventWindow, WINDOW_END, WINDOW_START, WindowKind, is_utc, show_tick,
    ticks_per_second,
};

/// The default limit of COMPLETE_SESSIONS for the search in each direction, in seconds.
const DEFAULT_MAX_EXTENSION_SECONDS: i64 = 24 * 60 * 60;
/// More windows than this for one row indicate a mistyped unit, and would not fit in memory.
const MAX_WINDOWS_PER_ROW: i64 = 100_000;

/// Plans TUMBLE, HOP, CUMULATE, SESSION and COMPLETE_SESSIONS over anything that can stand in
/// FROM. Errors carry span and help as a diagnostic.
#[derive(Debug, Default)]
pub struct WindowRelationPlanner;

impl RelationPlanner for WindowRelationPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let Some((function, span)) = called_function(&relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let TableFactor::Table {
            args: Some(args),
            alias,
            ..
        } = relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let arguments = split(function, span, args.args)?;
        let plan = WindowCall::resolve(function, span, arguments, context)?.plan(context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(
            plan, alias,
        ))))
    }
}

fn called_function(relation: &TableFactor) -> Option<(WindowFunction, Option<Span>)> {
    let TableFactor::Table {
        name,
        args: Some(_),
        ..
    } = relation
    else {
        return None;
    };
    let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else {
        return None;
    };
    let function = WindowFunction::from_name(ident)?;
    Some((function, Span::try_from_sqlparser_span(ident.span)))
}

/// A call with its planned table and its resolved columns.
struct WindowCall {
    function: WindowFunction,
    span: Option<Span>,
    input: LogicalPlan,
    keys: Vec<Expr>,
    event_time: Column,
    event_time_span: Option<Span>,
    data_type: DataType,
    unit: TimeUnit,
    constants: Vec<ast::Expr>,
}

impl WindowCall {
    fn resolve(
        function: WindowFunction,
        span: Option<Span>,
        arguments: Arguments,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<Self> {
        let input = context.plan(TableFactor::Derived {
            lateral: false,
            subquery: arguments.query,
            alias: None,
            sample: None,
        })?;
        let schema = input.schema();
        if let Some(taken) = schema
            .fields()
            .iter()
            .map(|field| field.name())
            .find(|name| *name == WINDOW_START || *name == WINDOW_END)
        {
            return Err(plan_error(
                format!(
                    "{}: the input already has a column {taken}",
                    function.name()
                ),
                span,
                format!("rename it in a subquery: SELECT {taken} AS inner_{taken}, …"),
            ));
        }
        let keys = arguments
            .keys
            .iter()
            .map(|key| {
                Ok(Expr::Column(resolve_column(
                    context,
                    key,
                    schema,
                    "a session's key",
                )?))
            })
            .collect::<Result<Vec<_>>>()?;
        let event_time = resolve_column(context, &arguments.event_time, schema, "the event time")?;
        let event_time_span = Span::try_from_sqlparser_span(arguments.event_time.span());
        let (data_type, unit) = event_time_type(schema, &event_time, event_time_span)?;
        Ok(Self {
            function,
            span,
            keys,
            event_time,
            event_time_span,
            data_type,
            unit,
            constants: arguments.constants,
            input,
        })
    }

    fn plan(self, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
        let node: Arc<dyn UserDefinedLogicalNode> = match self.function {
            WindowFunction::Tumble => {
                let size = self.positive(context, 0, "the size")?;
                Arc::new(self.aligned(context, WindowKind::Tumble, size, size, 1)?)
            }
            WindowFunction::Hop => {
                let slide = self.positive(context, 0, "the slide")?;
                let size = self.positive(context, 1, "the size")?;
                Arc::new(self.aligned(context, WindowKind::Hop, size, slide, 2)?)
            }
            WindowFunction::Cumulate => {
                let step = self.positive(context, 0, "the step")?;
                let size = self.positive(context, 1, "the size")?;
                Arc::new(self.aligned(context, WindowKind::Cumulate, size, step, 2)?)
            }
            WindowFunction::Session => {
                let gap = self.positive(context, 0, "the gap")?;
                Arc::new(SessionWindow::try_new(
                    self.input,
                    self.keys,
                    Expr::Column(self.event_time),
                    gap,
                )?)
            }
            WindowFunction::CompleteSessions => {
                let gap = self.positive(context, 0, "the gap")?;
                let range = self.completion_range(context, gap)?;
                Arc::new(CompleteSessions::try_new(
                    self.input,
                    self.keys,
                    Expr::Column(self.event_time),
                    gap,
                    range,
                )?)
            }
        };
        Ok(LogicalPlan::Extension(Extension { node }))
    }

    fn aligned(
        &self,
        context: &mut dyn RelationPlannerContext,
        kind: WindowKind,
        size: i64,
        step: i64,
        offset_at: usize,
    ) -> Result<EventWindow> {
        if let DataType::Timestamp(_, Some(zone)) = &self.data_type
            && !is_utc(zone)
        {
            return Err(plan_error(
                format!(
                    "{kind}: the event time {} is in time zone {zone}, but windows are aligned in UTC",
                    self.event_time.name
                ),
                self.event_time_span,
                "cast it to a timestamp in UTC in a subquery",
            ));
        }
        let offset = match self.constants.get(offset_at) {
            Some(_) => self.interval(context, offset_at, "the offset")?.0,
            None => 0,
        };
        let Some(windows) = AlignedWindows::try_new(kind, size, step, offset) else {
            let step_name = if kind == WindowKind::Hop {
                "slide"
            } else {
                "step"
            };
            return Err(plan_error(
                format!("{kind}: the size is not a multiple of the {step_name}"),
                self.constant_span(1),
                format!(
                    "the {step_name} comes first, then the size, as in {kind}(TABLE t, \
                         DESCRIPTOR(ts), INTERVAL '1 minute', INTERVAL '10 minutes')"
                ),
            ));
        };
        if windows.windows_per_row() > MAX_WINDOWS_PER_ROW {
            return Err(plan_error(
                format!(
                    "{kind}: a row would be in {} windows",
                    windows.windows_per_row()
                ),
                self.constant_span(0),
                format!("at most {MAX_WINDOWS_PER_ROW} are possible: check the units"),
            ));
        }
        EventWindow::try_new(
            self.input.clone(),
            Expr::Column(self.event_time.clone()),
            windows,
        )
    }

    fn completion_range(
        &self,
        context: &mut dyn RelationPlannerContext,
        gap: i64,
    ) -> Result<CompletionRange> {
        let from = self.point(context, 1, "from")?;
        let to = self.point(context, 2, "to")?;
        if from >= to {
            return Err(plan_error(
                format!(
                    "{}: from ({}) must be before to ({})",
                    self.function.name(),
                    show_tick(from, &self.data_type),
                    show_tick(to, &self.data_type)
                ),
                self.constant_span(1),
                "the range holds from and ends before to",
            ));
        }
        let max_extension = match self.constants.get(3) {
            Some(_) => {
                let (ticks, constant) = self.interval(context, 3, "max_extension")?;
                if ticks < 0 {
                    return Err(plan_error(
                        format!("max_extension must not be negative, got {}", constant.text),
                        constant.span,
                        "write it as INTERVAL '24 hours'",
                    ));
                }
                ticks
            }
            None => DEFAULT_MAX_EXTENSION_SECONDS.saturating_mul(ticks_per_second(self.unit)),
        };
        // The rows a gap away decide whether a session continues: the search always reads at least that far.
        Ok(CompletionRange {
            from,
            to,
            max_extension: max_extension.max(gap),
        })
    }

    fn positive(
        &self,
        context: &mut dyn RelationPlannerContext,
        index: usize,
        what: &str,
    ) -> Result<i64> {
        let (ticks, constant) = self.interval(context, index, what)?;
        if ticks <= 0 {
            return Err(plan_error(
                format!(
                    "{}: {what} must be positive, got {}",
                    self.function.name(),
                    constant.text
                ),
                constant.span,
                "write it as INTERVAL '10 minutes'",
            ));
        }
        Ok(ticks)
    }

    fn interval(
        &self,
        context: &mut dyn RelationPlannerContext,
        index: usize,
        what: &str,
    ) -> Result<(i64, Constant)> {
        let what = format!("{}: {what}", self.function.name());
        let constant = self.constant(context, index, &what)?;
        Ok((interval_ticks(&constant, self.unit, &what)?, constant))
    }

    fn point(
        &self,
        context: &mut dyn RelationPlannerContext,
        index: usize,
        what: &str,
    ) -> Result<i64> {
        let what = format!("{}: {what}", self.function.name());
        point_in_time(
            &self.constant(context, index, &what)?,
            &self.data_type,
            &what,
        )
    }

    fn constant(
        &self,
        context: &mut dyn RelationPlannerContext,
        index: usize,
        what: &str,
    ) -> Result<Constant> {
        match self.constants.get(index) {
            Some(expr) => evaluate(context, expr, what),
            None => Err(plan_error(
                format!("{what} is missing"),
                self.span,
                "add the argument",
            )),
        }
    }

    fn constant_span(&self, index: usize) -> Option<Span> {
        let span = self.constants.get(index).map(Spanned::span);
        span.and_then(Span::try_from_sqlparser_span).or(self.span)
    }
}
