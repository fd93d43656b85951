//! Pruning by time: from a range of time to the partitions that can hold it.
//!
//! A table that is partitioned by `year, month, day, hour`, each generated from `event_time`, is
//! queried by `event_time`. The predicates derived here hold for every row that satisfies the
//! query's own, so adding them only saves reading. File statistics would prune most of the same
//! files; the partition values do it for files that have none, and before statistics are read.

use datafusion::arrow::array::{
    ArrayRef, Date32Array, RecordBatch, TimestampMicrosecondArray, new_null_array,
};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator, ident, lit};

use super::check::RowRules;
use super::generated::GeneratedColumn;
use super::time_shape::{TimeLevel, TimePart, TimeShape};
use crate::error::Result;

const DAY: i64 = 86_400_000_000;

/// Another writer may have computed the columns in its own zone: local time is at most this far
/// from UTC.
const WIDEST_ZONE: i64 = 14 * 3_600_000_000;

/// Beyond this many separate ranges only their hull is used.
const MAX_RANGES: usize = 16;

/// Predicates on partition columns that every row satisfying `filters` also satisfies.
///
/// `in_utc` says that the writer of the table computed its columns in UTC; otherwise ranges are widened by the farthest
/// time zone.
///
/// # Errors
///
/// A generated column that cannot be evaluated at the ends of a range.
pub(super) fn partition_filters(
    filters: &[Expr],
    rules: &RowRules,
    partition_columns: &[String],
    in_utc: bool,
) -> Result<Vec<Expr>> {
    let parts: Vec<(&GeneratedColumn, &TimeShape)> = rules
        .generated
        .iter()
        .filter(|column| partition_columns.contains(&column.name))
        .filter_map(|column| Some((column, column.shape.as_ref()?)))
        .collect();
    let mut sources: Vec<&str> = parts
        .iter()
        .map(|(_, shape)| shape.source.as_str())
        .collect();
    sources.sort_unstable();
    sources.dedup();
    let mut derived = Vec::new();
    for source in sources {
        let ranges = ranges_of_all(filters, source);
        if ranges.is_empty() || ranges.contains(&TimeRange::ALL) {
            continue;
        }
        let of_source: Vec<_> = parts
            .iter()
            .filter(|(_, shape)| shape.source == source)
            .copied()
            .collect();
        let per_range = ranges
            .iter()
            .map(|range| {
                let range = if in_utc {
                    *range
                } else {
                    range.widened(WIDEST_ZONE)
                };
                within(range, source, &of_source, rules)
            })
            .collect::<Result<Option<Vec<_>>>>()?;
        if let Some(predicate) = per_range.and_then(disjunction) {
            derived.push(predicate);
        }
    }
    Ok(derived)
}

/// A range of time in microseconds, both ends included; `None` is unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TimeRange {
    low: Option<i64>,
    high: Option<i64>,
}

impl TimeRange {
    const ALL: TimeRange = TimeRange {
        low: None,
        high: None,
    };

    fn widened(self, by: i64) -> Self {
        TimeRange {
            low: self.low.map(|low| low.saturating_sub(by)),
            high: self.high.map(|high| high.saturating_add(by)),
        }
    }

    fn has_four_digit_years(self) -> bool {
        use chrono::{DateTime, Datelike};
        [self.low, self.high].into_iter().all(|end| {
            end.and_then(DateTime::from_timestamp_micros)
                .is_some_and(|time| (0..=9999).contains(&time.year()))
        })
    }

    fn and(self, other: Self) -> Option<Self> {
        let low = self.low.max(other.low);
        let high = match (self.high, other.high) {
            (Some(left), Some(right)) => Some(left.min(right)),
            (one, None) | (None, one) => one,
        };
        match (low, high) {
            (Some(low), Some(high)) if low > high => None,
            _ => Some(TimeRange { low, high }),
        }
    }
}

fn intersect(left: &[TimeRange], right: &[TimeRange]) -> Vec<TimeRange> {
    left.iter()
        .flat_map(|left| right.iter().filter_map(|right| left.and(*right)))
        .collect()
}

fn hull(ranges: &[TimeRange]) -> TimeRange {
    let low = ranges.iter().map(|range| range.low).min().flatten();
    let high = if ranges.iter().any(|range| range.high.is_none()) {
        None
    } else {
        ranges.iter().filter_map(|range| range.high).max()
    };
    TimeRange { low, high }
}

/// Ranges of time in microseconds, both ends included, outside which no value of the column `source` satisfies all `filters`; an end
/// that is none is open. No range at all: no value does. `None`: the filters say nothing of it.
pub(crate) fn time_ranges(
    filters: &[Expr],
    source: &str,
) -> Option<Vec<(Option<i64>, Option<i64>)>> {
    let ranges = ranges_of_all(filters, source);
    if ranges.contains(&TimeRange::ALL) {
        return None;
    }
    Some(ranges.iter().map(|range| (range.low, range.high)).collect())
}

/// The times of `source` outside which not all of `filters` are true; none at all where they contradict each other.
fn ranges_of_all(filters: &[Expr], source: &str) -> Vec<TimeRange> {
    let ranges = filters.iter().fold(vec![TimeRange::ALL], |ranges, filter| {
        intersect(&ranges, &ranges_of(filter, source))
    });
    match ranges.len() > MAX_RANGES {
        true => vec![hull(&ranges)],
        false => ranges,
    }
}

/// The times of `source` outside which `filter` is not true.
fn ranges_of(filter: &Expr, source: &str) -> Vec<TimeRange> {
    match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And,
            right,
        }) => intersect(&ranges_of(left, source), &ranges_of(right, source)),
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => {
            let mut ranges = ranges_of(left, source);
            ranges.extend(ranges_of(right, source));
            if ranges.contains(&TimeRange::ALL) {
                vec![TimeRange::ALL]
            } else {
                ranges
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let range = if is_source(left, source) {
                literal_time(right).and_then(|time| compared(*op, time))
            } else if is_source(right, source) {
                let swapped = op.swap();
                literal_time(left)
                    .zip(swapped)
                    .and_then(|(time, op)| compared(op, time))
            } else {
                None
            };
            vec![range.unwrap_or(TimeRange::ALL)]
        }
        Expr::Between(Between {
            expr,
            negated: false,
            low,
            high,
        }) if is_source(expr, source) => {
            let range = |bound: &Expr, op| literal_time(bound).and_then(|time| compared(op, time));
            let low = range(low, Operator::GtEq).unwrap_or(TimeRange::ALL);
            let high = range(high, Operator::LtEq).unwrap_or(TimeRange::ALL);
            low.and(high).into_iter().collect()
        }
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) if is_source(expr, source) => list
            .iter()
            .map(|item| literal_time(item).and_then(|time| compared(Operator::Eq, time)))
            .collect::<Option<Vec<_>>>()
            .unwrap_or_else(|| vec![TimeRange::ALL]),
        _ => vec![TimeRange::ALL],
    }
}

fn is_source(expr: &Expr, source: &str) -> bool {
    match expr {
        Expr::Column(column) => column.name == source,
        // To another unit of time that is not coarser: the same instant.
        Expr::Cast(cast) => match cast.field.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, zone) => {
                let is_utc = |zone: &str| zone.eq_ignore_ascii_case("utc");
                zone.as_deref().is_none_or(is_utc) && is_source(&cast.expr, source)
            }
            _ => false,
        },
        _ => false,
    }
}

/// The literal's time: the microsecond at or before it, and whether that is exact.
fn literal_time(expr: &Expr) -> Option<(i64, bool)> {
    let Expr::Literal(value, _) = expr else {
        return None;
    };
    match value {
        ScalarValue::TimestampSecond(Some(v), _) => Some((v.checked_mul(1_000_000)?, true)),
        ScalarValue::TimestampMillisecond(Some(v), _) => Some((v.checked_mul(1_000)?, true)),
        ScalarValue::TimestampMicrosecond(Some(v), _) => Some((*v, true)),
        ScalarValue::TimestampNanosecond(Some(v), _) => {
            Some((v.div_euclid(1_000), v.rem_euclid(1_000) == 0))
        }
        ScalarValue::Date32(Some(v)) => Some((i64::from(*v).checked_mul(DAY)?, true)),
        _ => None,
    }
}

fn compared(op: Operator, (time, exact): (i64, bool)) -> Option<TimeRange> {
    let just_before = if exact { time.saturating_sub(1) } else { time };
    Some(match op {
        Operator::Eq => TimeRange {
            low: Some(time),
            high: Some(time),
        },
        Operator::Gt | Operator::GtEq => TimeRange {
            low: Some(time),
            high: None,
        },
        Operator::LtEq => TimeRange {
            low: None,
            high: Some(time),
        },
        Operator::Lt => TimeRange {
            low: None,
            high: Some(just_before),
        },
        _ => return None,
    })
}

/// The predicate for one range, or `None` if no partition column says anything about it.
fn within(
    range: TimeRange,
    source: &str,
    parts: &[(&GeneratedColumn, &TimeShape)],
    rules: &RowRules,
) -> Result<Option<Expr>> {
    let Some(ends) = end_rows(range, source, rules) else {
        return Ok(None);
    };
    let mut predicates = Vec::new();
    let bound = |column: &GeneratedColumn| -> Result<[Option<ScalarValue>; 2]> {
        let to = rules.schema.field(column.index).data_type();
        let values = column.evaluate(&ends, to)?;
        // As text, only years of four digits sort as time does.
        let ordered = !is_text(to) || range.has_four_digit_years();
        let at = |row: usize, bounded: bool| -> Result<Option<ScalarValue>> {
            let value = ScalarValue::try_from_array(&values, row)?;
            Ok((bounded && ordered && !value.is_null()).then_some(value))
        };
        Ok([at(0, range.low.is_some())?, at(1, range.high.is_some())?])
    };
    for (column, shape) in parts {
        let span = match shape.part {
            TimePart::Absolute(_) => true,
            // The hour says something only within one day.
            TimePart::Within(level) => same_parent(range, level),
        };
        if span {
            let [low, high] = bound(column)?;
            predicates.extend(low.map(|low| ident(&column.name).gt_eq(lit(low))));
            predicates.extend(high.map(|high| ident(&column.name).lt_eq(lit(high))));
        }
    }
    let chain = chain(parts);
    if chain.len() > 1 {
        let mut ends = [Vec::new(), Vec::new()];
        for column in &chain {
            for (end, value) in ends.iter_mut().zip(bound(column)?) {
                end.extend(value.map(|value| (ident(&column.name), value)));
            }
        }
        let [low, high] = ends;
        if low.len() == chain.len() {
            predicates.extend(lexicographic(&low, Operator::Gt, Operator::GtEq));
        }
        if high.len() == chain.len() {
            predicates.extend(lexicographic(&high, Operator::Lt, Operator::LtEq));
        }
    }
    Ok(conjunction(predicates))
}

/// The columns that together give time level by level: year, month, day, hour; or date, hour.
fn chain<'a>(parts: &[(&'a GeneratedColumn, &TimeShape)]) -> Vec<&'a GeneratedColumn> {
    let base = parts
        .iter()
        .filter_map(|(column, shape)| match shape.part {
            TimePart::Absolute(level) if level > TimeLevel::None => Some((level, *column)),
            _ => None,
        })
        .max_by_key(|(level, _)| *level);
    let Some((mut level, first)) = base else {
        return Vec::new();
    };
    let mut chain = vec![first];
    while let Some(next) = level.finer() {
        let Some((column, _)) = parts
            .iter()
            .find(|(_, shape)| shape.part == TimePart::Within(next))
        else {
            break;
        };
        chain.push(column);
        level = next;
    }
    chain
}

/// `(a, b, c) >= (x, y, z)`, spelled out.
pub(crate) fn lexicographic(
    values: &[(Expr, ScalarValue)],
    strict: Operator,
    last: Operator,
) -> Option<Expr> {
    use datafusion::logical_expr::binary_expr;
    let ((column, value), coarser) = values.split_last()?;
    let innermost = binary_expr(column.clone(), last, lit(value.clone()));
    Some(
        coarser
            .iter()
            .rev()
            .fold(innermost, |finer, (column, value)| {
                binary_expr(column.clone(), strict, lit(value.clone()))
                    .or(column.clone().eq(lit(value.clone())).and(finer))
            }),
    )
}

/// Two rows of the table in which only the time column has values: the ends of the range.
fn end_rows(range: TimeRange, source: &str, rules: &RowRules) -> Option<RecordBatch> {
    let index = rules.schema.index_of(source).ok()?;
    let time: ArrayRef = match rules.schema.field(index).data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, zone) => std::sync::Arc::new(
            TimestampMicrosecondArray::from(vec![range.low, range.high])
                .with_timezone_opt(zone.clone()),
        ),
        DataType::Date32 => {
            let day = |time: Option<i64>| {
                time.map(|time| i32::try_from(time.div_euclid(DAY)).ok())
                    .map_or(Some(None), |day| day.map(Some))
            };
            std::sync::Arc::new(Date32Array::from(vec![day(range.low)?, day(range.high)?]))
        }
        _ => return None,
    };
    let nullable: Vec<_> = rules
        .schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    let columns = rules
        .schema
        .fields()
        .iter()
        .enumerate()
        .map(|(at, field)| {
            if at == index {
                time.clone()
            } else {
                new_null_array(field.data_type(), 2)
            }
        })
        .collect();
    let schema = datafusion::arrow::datatypes::Schema::new(nullable);
    RecordBatch::try_new(std::sync::Arc::new(schema), columns).ok()
}

/// Whether both ends lie in the same next coarser level: the same year for a month.
fn same_parent(range: TimeRange, level: TimeLevel) -> bool {
    use chrono::{DateTime, Datelike, Timelike};
    let Some((low, high)) = range.low.zip(range.high) else {
        return false;
    };
    let parts = |time: i64| {
        DateTime::from_timestamp_micros(time).map(|time| {
            [
                time.year(),
                time.month() as i32,
                time.day() as i32,
                time.hour() as i32,
            ]
        })
    };
    let same = match level {
        TimeLevel::None => 4,
        TimeLevel::Year => 0,
        TimeLevel::Month => 1,
        TimeLevel::Day => 2,
        TimeLevel::Hour => 3,
    };
    match parts(low).zip(parts(high)) {
        Some((low, high)) => low[..same] == high[..same],
        None => false,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}
