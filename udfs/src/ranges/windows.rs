//! Ranges of the event time that follow from a predicate on `window_start` or `window_end`.

use arrow::datatypes::DataType;
use datafusion::logical_expr::{Expr, Operator};

use super::{Comparison, DerivedBounds, tick_of};
use crate::window::{AlignedWindows, WINDOW_END, WINDOW_START, WindowKind};

/// The bounds on the event time, of `data_type`, that follow from `predicates` above `windows`.
pub(super) fn implied<'a>(
    predicates: impl IntoIterator<Item = &'a Expr>,
    windows: &AlignedWindows,
    data_type: &DataType,
) -> DerivedBounds {
    predicates
        .into_iter()
        .flat_map(Comparison::all_of)
        .filter_map(|comparison| bounds(&comparison, windows, data_type))
        .fold(DerivedBounds::default(), DerivedBounds::and)
}

fn bounds(
    comparison: &Comparison<'_>,
    windows: &AlignedWindows,
    data_type: &DataType,
) -> Option<DerivedBounds> {
    let Expr::Column(column) = comparison.expr else {
        return None;
    };
    let is_start = match column.name.as_str() {
        WINDOW_START => true,
        WINDOW_END => false,
        _ => return None,
    };
    let tick = tick_of(comparison.value, data_type)?;
    // The window column lies in least..=greatest, both included.
    let (least, greatest) = match comparison.op {
        Operator::Eq => (Some(tick), Some(tick)),
        Operator::GtEq => (Some(tick), None),
        Operator::Gt => (Some(tick.checked_add(1)?), None),
        Operator::LtEq => (None, Some(tick)),
        Operator::Lt => (None, Some(tick.checked_sub(1)?)),
        _ => return None,
    };
    // Only multiples of the grid occur: CUMULATE starts at every size, all others at every step.
    let grid = if is_start && windows.kind() == WindowKind::Cumulate {
        windows.size()
    } else {
        windows.step()
    };
    let below = |tick: i64| windows.boundary_at_or_before(tick, grid);
    let least = least.and_then(|least| match below(least) {
        Some(boundary) if boundary < least => boundary.checked_add(grid),
        boundary => boundary,
    });
    let greatest = greatest.and_then(below);
    // A row at t is in windows with start in (t - size, t] and end in (t, t + size].
    Some(if is_start {
        DerivedBounds {
            from: least,
            to: greatest.and_then(|tick| tick.checked_add(windows.size())),
        }
    } else {
        DerivedBounds {
            from: least.and_then(|tick| tick.checked_sub(windows.size())),
            to: greatest,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::TimeUnit;
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::{binary_expr, col, lit};
    use proptest::prelude::*;

    const OPERATORS: [Operator; 5] = [
        Operator::Eq,
        Operator::Lt,
        Operator::LtEq,
        Operator::Gt,
        Operator::GtEq,
    ];

    fn compare(op: Operator, left: i64, right: i64) -> bool {
        match op {
            Operator::Eq => left == right,
            Operator::Lt => left < right,
            Operator::LtEq => left <= right,
            Operator::Gt => left > right,
            _ => left >= right,
        }
    }

    proptest! {
        #[test]
        fn no_row_of_a_matching_window_is_pruned(
            step in 1_i64..10, count in 1_i64..5, offset in -20_i64..20, value in -60_i64..60,
            kind in prop::sample::select(vec![WindowKind::Tumble, WindowKind::Hop, WindowKind::Cumulate]),
            op in prop::sample::select(OPERATORS.to_vec()), is_start: bool,
        ) {
            let size = step * count;
            let step = if kind == WindowKind::Tumble { size } else { step };
            let windows = AlignedWindows::try_new(kind, size, step, offset).unwrap();
            let data_type = DataType::Timestamp(TimeUnit::Microsecond, None);
            let column = if is_start { WINDOW_START } else { WINDOW_END };
            let value_expr = lit(ScalarValue::TimestampMicrosecond(Some(value), None));
            let predicate = binary_expr(col(column), op, value_expr);
            let bounds = implied([&predicate], &windows, &data_type);
            for tick in -200_i64..200 {
                let (mut starts, mut ends) = (vec![], vec![]);
                windows.assign(tick, &mut starts, &mut ends).unwrap();
                let columns = if is_start { starts } else { ends };
                let wanted = columns.iter().any(|column| compare(op, *column, value));
                let read = bounds.from.is_none_or(|from| tick >= from)
                    && bounds.to.is_none_or(|to| tick < to);
                prop_assert!(read || !wanted, "tick {tick} of {columns:?} by {bounds:?}");
                // The event time is at most one window size away: this bounds the rows read in vain.
                if op == Operator::Eq && read {
                    prop_assert!((tick - value).abs() <= size);
                }
            }
        }
    }
}
