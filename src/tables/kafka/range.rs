//! Offset ranges of a query: predicates on partition, offset and timestamp as intervals.

use std::fmt;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, expr::InList};

/// Offsets `start..end` of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub start: i64,
    /// The offset after the last.
    pub end: i64,
}

impl OffsetRange {
    /// How many offsets lie in it.
    pub fn len(&self) -> u64 {
        u64::try_from(self.end.saturating_sub(self.start)).unwrap_or(0)
    }

    /// True when there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// As EXPLAIN shows it.
impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:[{}, {})", self.partition, self.start, self.end)
    }
}

/// The names a table gave to the columns that narrow a scan.
#[derive(Debug, Clone, Default)]
pub(crate) struct NarrowingColumns {
    pub(crate) partition: Option<String>,
    pub(crate) offset: Option<String>,
    pub(crate) timestamp: Option<String>,
}

impl NarrowingColumns {
    fn is_partition(&self, name: &str) -> bool {
        self.partition.as_deref() == Some(name)
    }
}

/// Bounds of the rows of one partition that can satisfy the predicates: closed intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowBounds {
    pub(crate) offset: (i64, i64),
    /// Microseconds since the epoch.
    pub(crate) timestamp: (i64, i64),
}

impl RowBounds {
    const ALL: RowBounds = RowBounds {
        offset: (i64::MIN, i64::MAX),
        timestamp: (i64::MIN, i64::MAX),
    };

    fn is_empty(self) -> bool {
        self.offset.0 > self.offset.1 || self.timestamp.0 > self.timestamp.1
    }

    fn intersect(self, other: RowBounds) -> Option<RowBounds> {
        let both = |a: (i64, i64), b: (i64, i64)| (a.0.max(b.0), a.1.min(b.1));
        let bounds = RowBounds {
            offset: both(self.offset, other.offset),
            timestamp: both(self.timestamp, other.timestamp),
        };
        (!bounds.is_empty()).then_some(bounds)
    }

    fn hull(self, other: RowBounds) -> RowBounds {
        let both = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
        RowBounds {
            offset: both(self.offset, other.offset),
            timestamp: both(self.timestamp, other.timestamp),
        }
    }
}

/// The bounds that all `filters` together set on `partition`; `None`: none of its rows can match.
pub(crate) fn bounds(
    filters: &[Expr],
    columns: &NarrowingColumns,
    partition: i32,
) -> Option<RowBounds> {
    filters.iter().try_fold(RowBounds::ALL, |so_far, filter| {
        so_far.intersect(of_predicate(filter, columns, i64::from(partition))?)
    })
}

/// A sound approximation: rows outside the result never satisfy the predicate.
fn of_predicate(expr: &Expr, columns: &NarrowingColumns, partition: i64) -> Option<RowBounds> {
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And,
            right,
        }) => of_predicate(left, columns, partition)?
            .intersect(of_predicate(right, columns, partition)?),
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => {
            let (left, right) = (
                of_predicate(left, columns, partition),
                of_predicate(right, columns, partition),
            );
            match (left, right) {
                (Some(left), Some(right)) => Some(left.hull(right)),
                (one, other) => one.or(other),
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if let (Some(column), Some(value)) = (column_name(left), integer(right)) {
                of_comparison(column, *op, value, columns, partition)
            } else if let (Some(value), Some(column), Some(op)) =
                (integer(left), column_name(right), op.swap())
            {
                of_comparison(column, op, value, columns, partition)
            } else {
                Some(RowBounds::ALL)
            }
        }
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) => {
            let Some(column) = column_name(expr) else {
                return Some(RowBounds::ALL);
            };
            let mut hull: Option<RowBounds> = None;
            for item in list {
                let Some(value) = integer(item) else {
                    return Some(RowBounds::ALL);
                };
                let one = of_comparison(column, Operator::Eq, value, columns, partition);
                hull = match (hull, one) {
                    (Some(hull), Some(one)) => Some(hull.hull(one)),
                    (hull, one) => hull.or(one),
                };
            }
            hull
        }
        Expr::InList(InList {
            expr,
            list,
            negated: true,
        }) => {
            let excluded = column_name(expr).is_some_and(|name| columns.is_partition(name))
                && list.iter().any(|item| integer(item) == Some(partition));
            (!excluded).then_some(RowBounds::ALL)
        }
        Expr::Between(between) if !between.negated => {
            let (Some(column), Some(low), Some(high)) = (
                column_name(&between.expr),
                integer(&between.low),
                integer(&between.high),
            ) else {
                return Some(RowBounds::ALL);
            };
            of_comparison(column, Operator::GtEq, low, columns, partition)?.intersect(
                of_comparison(column, Operator::LtEq, high, columns, partition)?,
            )
        }
        Expr::Literal(ScalarValue::Boolean(Some(false) | None), _) => None,
        _ => Some(RowBounds::ALL),
    }
}

fn of_comparison(
    column: &str,
    op: Operator,
    value: i64,
    columns: &NarrowingColumns,
    partition: i64,
) -> Option<RowBounds> {
    if op == Operator::NotEq && columns.is_partition(column) {
        return (value != partition).then_some(RowBounds::ALL);
    }
    let interval = match op {
        Operator::Eq => (value, value),
        Operator::Lt => (i64::MIN, value.checked_sub(1)?),
        Operator::LtEq => (i64::MIN, value),
        Operator::Gt => (value.checked_add(1)?, i64::MAX),
        Operator::GtEq => (value, i64::MAX),
        _ => return Some(RowBounds::ALL),
    };
    let is = |name: &Option<String>| name.as_deref() == Some(column);
    if is(&columns.partition) {
        (interval.0 <= partition && partition <= interval.1).then_some(RowBounds::ALL)
    } else if is(&columns.offset) {
        Some(RowBounds {
            offset: interval,
            ..RowBounds::ALL
        })
    } else if is(&columns.timestamp) {
        Some(RowBounds {
            timestamp: interval,
            ..RowBounds::ALL
        })
    } else {
        Some(RowBounds::ALL)
    }
}

/// The column of a comparison, also below a cast that keeps the order of whole numbers.
fn column_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        Expr::Cast(cast) if cast.field.data_type().is_integer() => column_name(&cast.expr),
        _ => None,
    }
}

/// A whole number, or a timestamp in microseconds.
fn integer(expr: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = expr else {
        return None;
    };
    match value {
        ScalarValue::Int8(Some(value)) => Some(i64::from(*value)),
        ScalarValue::Int16(Some(value)) => Some(i64::from(*value)),
        ScalarValue::Int32(Some(value)) => Some(i64::from(*value)),
        ScalarValue::Int64(Some(value)) => Some(*value),
        ScalarValue::UInt8(Some(value)) => Some(i64::from(*value)),
        ScalarValue::UInt16(Some(value)) => Some(i64::from(*value)),
        ScalarValue::UInt32(Some(value)) => Some(i64::from(*value)),
        ScalarValue::UInt64(Some(value)) => i64::try_from(*value).ok(),
        ScalarValue::TimestampMicrosecond(Some(value), _) => Some(*value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};
    use proptest::prelude::*;

    use super::*;

    fn columns() -> NarrowingColumns {
        NarrowingColumns {
            partition: Some("p".into()),
            offset: Some("o".into()),
            timestamp: Some("t".into()),
        }
    }

    #[test]
    fn per_partition_ranges_narrow_each_partition() {
        let filter = col("p")
            .eq(lit(0))
            .and(col("o").gt_eq(lit(5_i64)).and(col("o").lt(lit(9_i64))))
            .or(col("p").eq(lit(1)).and(col("o").lt(lit(3_i64))));
        let of = |partition| bounds(std::slice::from_ref(&filter), &columns(), partition);
        assert_eq!(of(0).unwrap().offset, (5, 8));
        assert_eq!(of(1).unwrap().offset, (i64::MIN, 2));
        assert_eq!(of(2), None);
    }

    fn predicate() -> impl Strategy<Value = Expr> {
        let leaf = (
            prop::sample::select(vec!["p", "o", "t", "x"]),
            0..6_i64,
            0..7_usize,
        )
            .prop_map(|(name, value, op)| {
                let (column, value) = (col(name), lit(value));
                match op {
                    0 => column.eq(value),
                    1 => column.lt(value),
                    2 => column.lt_eq(value),
                    3 => value.lt(column),
                    4 => column.not_eq(value),
                    5 => column.in_list(vec![value, lit(4_i64)], true),
                    _ => column.in_list(vec![value, lit(4_i64)], false),
                }
            });
        leaf.prop_recursive(4, 16, 2, |inner| {
            (inner.clone(), inner, any::<bool>())
                .prop_map(|(a, b, and)| if and { a.and(b) } else { a.or(b) })
        })
    }

    fn holds(expr: &Expr, row: (i64, i64, i64, i64)) -> bool {
        let value = |expr: &Expr| match expr {
            Expr::Column(column) => match column.name.as_str() {
                "p" => row.0,
                "o" => row.1,
                "t" => row.2,
                _ => row.3,
            },
            other => integer(other).unwrap(),
        };
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::And => holds(left, row) && holds(right, row),
                Operator::Or => holds(left, row) || holds(right, row),
                Operator::Eq => value(left) == value(right),
                Operator::NotEq => value(left) != value(right),
                Operator::Lt => value(left) < value(right),
                Operator::LtEq => value(left) <= value(right),
                other => unreachable!("{other}"),
            },
            Expr::InList(list) => {
                let found = list
                    .list
                    .iter()
                    .any(|item| value(item) == value(&list.expr));
                found != list.negated
            }
            other => unreachable!("{other}"),
        }
    }

    proptest! {
        #[test]
        fn no_matching_row_is_left_out(
            filters in prop::collection::vec(predicate(), 1..3),
            row in (0..6_i64, 0..6_i64, 0..6_i64, 0..6_i64),
        ) {
            if filters.iter().all(|filter| holds(filter, row)) {
                let found = bounds(&filters, &columns(), i32::try_from(row.0).unwrap());
                let found = found.expect("the partition has a matching row");
                prop_assert!(found.offset.0 <= row.1 && row.1 <= found.offset.1);
                prop_assert!(found.timestamp.0 <= row.2 && row.2 <= found.timestamp.1);
            }
        }
    }
}
