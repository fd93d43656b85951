//! Lineage of times: which columns of a job's rows are, or tell, the start or end of a window or a row's event time.

use std::sync::Arc;

use anabranch_udfs::plain;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable as _, LogicalPlan, Operator};

use crate::error::Result;
use crate::streaming::lineage::{ColumnOrigin, origins, side_of, unaliased};
use crate::streaming::stream_inputs::{StreamSources, reads_stream};

/// Functions whose result tells each of their arguments.
const WITH_ALL_ARGUMENTS: [&str; 6] = [
    "concat",
    "concat_ws",
    "struct",
    "named_struct",
    "make_array",
    "to_json",
];

/// How a value relates to a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// It is the time.
    Equal,
    /// Of times that are at least so many microseconds apart it is different.
    Injective {
        /// The distance.
        apart: i64,
    },
}

/// The event times of the rows of streams.
pub(super) fn event_times(sources: &StreamSources) -> Vec<ColumnOrigin> {
    let times = sources.iter().filter_map(|(table, source)| {
        let column = source.event_time()?.column.clone();
        let table = table.clone();
        Some(ColumnOrigin::Table { table, column })
    });
    times.collect()
}

/// The finest part of a time that `to_char` writes for certain, in microseconds.
const SECOND: i64 = 1_000_000;

/// Looks for times below the columns of a plan.
pub(super) struct TimeLineage<'a> {
    pub(super) sources: &'a StreamSources,
    /// The times: one of them is enough.
    pub(super) wanted: Vec<ColumnOrigin>,
    pub(super) relation: Relation,
}

impl TimeLineage<'_> {
    /// Whether one of these columns of a plan stands in this relation to one of the times.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn has_one_of(&self, plan: &LogicalPlan, columns: &[usize]) -> Result<bool> {
        for index in columns {
            if self.has(plan, *index)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether column `index` of a plan stands in this relation to one of the times.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn has(&self, plan: &LogicalPlan, index: usize) -> Result<bool> {
        match plan.schema().columns().get(index) {
            Some(column) => self.column(plan, column),
            None => Ok(false),
        }
    }

    fn expr(&self, plan: &LogicalPlan, expr: &Expr) -> Result<bool> {
        let expr = plain(expr.clone())?;
        match (unaliased(&expr), self.relation) {
            (Expr::Column(column), _) => self.column(plan, column),
            (Expr::Cast(cast), _) => self.cast(plan, &cast.expr, cast.field.data_type()),
            (Expr::TryCast(cast), _) => self.cast(plan, &cast.expr, cast.field.data_type()),
            (_, Relation::Equal) => Ok(false),
            (Expr::BinaryExpr(BinaryExpr { left, op, right }), Relation::Injective { .. }) => {
                let type_of = |expr: &Expr| expr.get_type(plan.schema().as_ref());
                match op {
                    Operator::StringConcat => Ok(self.expr(plan, left)? || self.expr(plan, right)?),
                    Operator::Plus | Operator::Minus if is_shift(right, &type_of(left)?) => {
                        self.expr(plan, left)
                    }
                    Operator::Plus if is_shift(left, &type_of(right)?) => self.expr(plan, right),
                    _ => Ok(false),
                }
            }
            (Expr::ScalarFunction(call), Relation::Injective { apart })
                if call.name() == "to_char" =>
            {
                let [time, format] = call.args.as_slice() else {
                    return Ok(false);
                };
                let of = time.get_type(plan.schema().as_ref())?;
                Ok(apart >= SECOND && tells_seconds(&of, format) && self.expr(plan, time)?)
            }
            (Expr::ScalarFunction(call), Relation::Injective { .. })
                if WITH_ALL_ARGUMENTS.contains(&call.name()) =>
            {
                for argument in &call.args {
                    if self.expr(plan, argument)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn cast(&self, plan: &LogicalPlan, of: &Expr, to: &DataType) -> Result<bool> {
        let from = of.get_type(plan.schema().as_ref())?;
        let keeps = match self.relation {
            Relation::Equal => is_same_time(&from, to),
            Relation::Injective { .. } => keeps_times(&from, to),
        };
        Ok(keeps && self.expr(plan, of)?)
    }

    fn column(&self, plan: &LogicalPlan, column: &Column) -> Result<bool> {
        let Some(index) = plan.schema().maybe_index_of_column(column) else {
            return Ok(false);
        };
        if !reads_stream(plan, self.sources) {
            return Ok(false);
        }
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.has(&alias.input, index),
            LogicalPlan::Filter(filter) => self.has(&filter.input, index),
            LogicalPlan::Projection(list) => match list.expr.get(index) {
                Some(expr) => self.expr(&list.input, expr),
                None => Ok(false),
            },
            LogicalPlan::Join(join) => {
                let (input, index) = side_of(join, index);
                self.has(input, index)
            }
            LogicalPlan::Union(union) => {
                for input in &union.inputs {
                    if !self.has(input, index)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.get(index) {
                Some(expr) => self.expr(&aggregate.input, expr),
                None => Ok(false),
            },
            LogicalPlan::Extension(_) | LogicalPlan::TableScan(_) => {
                let origins = origins(plan, &Expr::Column(column.clone()), self.sources);
                Ok(origins.iter().all(|origin| self.wanted.contains(origin)))
            }
            _ => Ok(false),
        }
    }
}

/// Whether adding this keeps different values of a type different: months have several lengths, and so have the days of a zone with
/// summer time.
fn is_shift(added: &Expr, of: &DataType) -> bool {
    let Expr::Literal(added, _) = added else {
        return false;
    };
    let has_even_days = match of {
        DataType::Timestamp(_, zone) => is_utc(zone),
        _ => true,
    };
    match added {
        ScalarValue::IntervalYearMonth(_) => false,
        ScalarValue::IntervalDayTime(Some(by)) => by.days == 0 || has_even_days,
        ScalarValue::IntervalMonthDayNano(Some(by)) => {
            by.months == 0 && (by.days == 0 || has_even_days)
        }
        other => !other.is_null(),
    }
}

/// Whether `to_char` of times of this type writes different seconds differently. In a zone with summer time an hour comes twice, unless its
/// offset is written as well.
fn tells_seconds(of: &DataType, format: &Expr) -> bool {
    let Expr::Literal(format, _) = format else {
        return false;
    };
    let Some(Some(format)) = format.try_as_str() else {
        return false;
    };
    // Two of them write the sign itself.
    let format = format.replace("%%", "");
    let has = |part: &str| format.contains(part);
    let has_all = |parts: &[&str]| parts.iter().all(|part| has(part));
    let has_date = has("%F") || has_all(&["%Y", "%m", "%d"]) || has_all(&["%Y", "%j"]);
    let has_time = has("%T") || has_all(&["%H", "%M", "%S"]);
    let has_offset = has("%z") || has("%:z");
    match of {
        DataType::Timestamp(_, zone) => {
            has("%s") || (has_date && has_time && (is_utc(zone) || has_offset))
        }
        _ => false,
    }
}

fn is_utc(zone: &Option<Arc<str>>) -> bool {
    zone.as_deref().is_none_or(|zone| zone == "UTC")
}

/// Whether different times stay different in a cast.
fn keeps_times(from: &DataType, to: &DataType) -> bool {
    let digits = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    match (from, to) {
        (DataType::Timestamp(from, _), DataType::Timestamp(to, _)) => digits(from) <= digits(to),
        (_, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => true,
        (from, to) => from == to,
    }
}

/// Whether a cast between these types leaves a time as it is.
fn is_same_time(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Timestamp(from, of), DataType::Timestamp(to, into)) => {
            from == to && is_utc(of) && is_utc(into)
        }
        (from, to) => from == to,
    }
}
