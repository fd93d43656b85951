//! Conditions such as `WHERE f(a) = a`, by which the engine would lose the order of rows.
//!
//! From `f(a) = a` DataFusion concludes that `a` and `f(a)` are interchangeable in orderings. It also replaces `a` within
//! `f(a)` itself, and so takes rows that it has just sorted for unsorted. So this module rewrites such a condition to
//! `(f(a) = a) IS TRUE`, which passes the same rows and is not an equality to the engine.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::utils::{conjunction, split_conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Filter, LogicalPlan, Operator, TableProviderFilterPushDown, TableScan,
};

use crate::top_down::changes_top_down;

/// Hides equalities between a column and an expression over columns. It runs after the rules that make joins of equalities, and
/// that push conditions to tables.
#[derive(Debug)]
pub(crate) struct HiddenEqualities;

changes_top_down!(HiddenEqualities, "hidden_equalities", hidden_equalities);

fn hidden_equalities(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Filter(filter) => filtered(filter),
        LogicalPlan::TableScan(scan) => scanned(scan),
        other => Ok(Transformed::no(other)),
    }
}

fn filtered(filter: Filter) -> Result<Transformed<LogicalPlan>> {
    let is_hidden = |part: &Expr| is_computed_equality(part) && !may_join(part, &filter.input);
    if !split_conjunction(&filter.predicate)
        .into_iter()
        .any(is_hidden)
    {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    }
    let parts = split_conjunction_owned(filter.predicate.clone()).into_iter();
    let parts = parts.map(|part| match is_hidden(&part) {
        true => hidden(part),
        false => part,
    });
    let Some(predicate) = conjunction(parts) else {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    };
    let filter = Filter::try_new(predicate, filter.input)?;
    Ok(Transformed::yes(LogicalPlan::Filter(filter)))
}

/// A table that applies a filter itself gets the filter that it agreed to. All other filters are applied again above it.
fn scanned(mut scan: TableScan) -> Result<Transformed<LogicalPlan>> {
    let mut is_changed = false;
    for filter in &mut scan.filters {
        if !is_computed_equality(filter) {
            continue;
        }
        let by_table = scan.source.supports_filters_pushdown(&[&*filter])?;
        if by_table != [TableProviderFilterPushDown::Exact] {
            *filter = hidden(std::mem::take(filter));
            is_changed = true;
        }
    }
    let scan = LogicalPlan::TableScan(scan);
    Ok(Transformed::new_transformed(scan, is_changed))
}

fn hidden(equality: Expr) -> Expr {
    Expr::IsTrue(Box::new(equality))
}

/// Whether the condition compares a column with an expression over columns.
fn is_computed_equality(condition: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = condition
    else {
        return false;
    };
    (is_column(left) && is_computed(right)) || (is_computed(left) && is_column(right))
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(_))
}

fn is_computed(expr: &Expr) -> bool {
    !is_column(expr) && expr.any_column_refs()
}

/// Whether the condition is above a join, over both of its sides: a later pass may still join by it.
fn may_join(condition: &Expr, input: &Arc<LogicalPlan>) -> bool {
    let LogicalPlan::Join(join) = input.as_ref() else {
        return false;
    };
    let columns = condition.column_refs();
    let is_of = |side: &LogicalPlan| {
        let mut columns = columns.iter();
        columns.any(|column| side.schema().is_column_from_schema(column))
    };
    is_of(&join.left) && is_of(&join.right)
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn equalities_with_computed_columns_are_recognized() {
        let computed = || col("a") + lit(1);
        assert!(is_computed_equality(&computed().eq(col("a"))));
        assert!(is_computed_equality(&col("b").eq(computed())));
        for other in [
            col("a").eq(col("b")),
            col("a").eq(lit(1) + lit(1)),
            computed().eq(lit(1)),
            computed().eq(computed()),
            computed().lt(col("a")),
            hidden(computed().eq(col("a"))),
        ] {
            assert!(!is_computed_equality(&other), "{other}");
        }
    }
}
