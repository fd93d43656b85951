//! Conditions of WHERE and ON, one after the other.

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, LogicalPlan, Operator, TableProviderFilterPushDown, TableScan, lit,
};

use super::can_fail::{can_fail, may_fail};
use super::conditions::{MOST_NESTED, guard, is_outside, passes_matches};
use crate::operands::{any_expr, has_part, inputs, map_named_expressions};

/// Lets the conditions of a filter, join or scan that can fail see only rows for which its other ones are true, and gives a CASE that
/// `GuardedConditions` has hidden from the optimizer its form back.
///
/// To be called right before physical planning, on each operator: the optimizer moves conditions, and looks into those of plain form.
///
/// # Errors
///
/// None in practice: walks over expressions give results.
pub fn with_guards(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let is_hidden = !matches!(plan, LogicalPlan::TableScan(_))
        && any_expr(&plan, |expr| has_part(expr, is_hidden_case));
    let plan = match is_hidden {
        true => map_named_expressions(plan, |expr| expr.transform_up(|part| Ok(shown(part))))?,
        false => Transformed::no(plan),
    };
    plan.transform_data(in_turn)
}

fn is_hidden_case(part: &Expr) -> bool {
    match part {
        Expr::Case(case) => match case.expr.as_deref() {
            Some(Expr::Literal(ScalarValue::Boolean(value), _)) => *value == Some(true),
            _ => false,
        },
        _ => false,
    }
}

fn shown(part: Expr) -> Transformed<Expr> {
    let is_hidden = is_hidden_case(&part);
    match part {
        Expr::Case(mut case) if is_hidden => {
            case.expr = None;
            Transformed::yes(Expr::Case(case))
        }
        other => Transformed::no(other),
    }
}

fn in_turn(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let condition = match &plan {
        LogicalPlan::Filter(filter) => Some(&filter.predicate),
        LogicalPlan::Join(join) if passes_matches(join) => join.filter.as_ref(),
        _ => None,
    };
    let of_table = match &plan {
        LogicalPlan::TableScan(scan) if may_order(scan)? => conjunction(scan.filters.clone()),
        _ => None,
    };
    let ordered = match condition.or(of_table.as_ref()) {
        Some(condition) if may_fail(condition) => conditions_in_turn(condition, &inputs(&plan)?),
        _ => None,
    };
    let Some(ordered) = ordered else {
        return Ok(Transformed::no(plan));
    };
    Ok(Transformed::yes(match plan {
        LogicalPlan::Filter(mut filter) => {
            filter.predicate = ordered;
            LogicalPlan::Filter(filter)
        }
        LogicalPlan::Join(mut join) => {
            join.filter = Some(ordered);
            LogicalPlan::Join(join)
        }
        LogicalPlan::TableScan(mut scan) => {
            scan.filters = split_conjunction_owned(ordered);
            LogicalPlan::TableScan(scan)
        }
        other => other,
    }))
}

/// Whether a scan has conditions that can fail, and all of these are evaluated again above it. A table that applies a condition alone
/// gets the one that it agreed to.
fn may_order(scan: &TableScan) -> Result<bool> {
    let failing: Vec<&Expr> = scan.filters.iter().filter(|part| may_fail(part)).collect();
    if failing.is_empty() || scan.filters.len() < 2 {
        return Ok(false);
    }
    let by_table = scan.source.supports_filters_pushdown(&failing)?;
    Ok(!by_table.contains(&TableProviderFilterPushDown::Exact))
}

/// The conditions that cannot fail, and for rows for which these are true the others, one after the other; `None` if nothing guards.
///
/// The first ones stay conditions of their own: by them files are left out, and the engine knows columns that have one value.
fn conditions_in_turn(condition: &Expr, columns: &DFSchema) -> Option<Expr> {
    let parts = split_conjunction(condition).into_iter();
    let (failing, safe): (Vec<&Expr>, Vec<&Expr>) = parts.partition(|part| can_fail(part, columns));
    // What is evaluated twice has one value.
    let guards = safe
        .iter()
        .filter(|part| !part.is_volatile() && !has_part(part, is_outside));
    let guards = conjunction(guards.map(|part| (*part).clone()));
    if let ([only], Some(guards)) = (failing.as_slice(), &guards)
        && is_guarded_by(only, guards)
    {
        return None;
    }
    let is_alone = failing.len() == 1 && guards.is_none();
    if is_alone {
        return None;
    }
    let mut failing: Vec<Expr> = failing.into_iter().cloned().collect();
    let rest = failing.split_off(failing.len().min(MOST_NESTED));
    let last = conjunction(rest).or_else(|| failing.pop())?;
    let then = |rest: Expr, part: Expr| guard(part, Operator::And, rest, None);
    let failing = failing.into_iter().rev().fold(last, then);
    let failing = match guards {
        Some(guards) => then(failing, guards),
        None => failing,
    };
    conjunction(safe.into_iter().cloned().chain([failing]))
}

/// Whether the condition is such a CASE: plans are planned more than once.
fn is_guarded_by(condition: &Expr, guards: &Expr) -> bool {
    match condition {
        Expr::Case(case) => match case.when_then_expr.as_slice() {
            [(when, _)] => {
                case.expr.is_none()
                    && when.as_ref() == guards
                    && case.else_expr.as_deref() == Some(&lit(false))
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::logical_expr::{LogicalPlanBuilder, cast, col, table_scan};

    use super::*;

    fn filtered(condition: Expr) -> Transformed<String> {
        let columns = ["a", "b"].map(|name| Field::new(name, DataType::Int64, true));
        let text = Field::new("t", DataType::Utf8, true);
        let columns = Schema::new([columns.to_vec(), vec![text]].concat());
        let plan = table_scan(Some("x"), &columns, None).unwrap();
        let plan = LogicalPlanBuilder::from(plan.build().unwrap());
        let plan = plan.filter(condition).unwrap().build().unwrap();
        let changed = with_guards(plan).unwrap();
        let again = with_guards(changed.data.clone()).unwrap();
        assert_eq!(again.data, changed.data);
        changed.update_data(|plan| plan.display_indent().to_string())
    }

    fn number() -> Expr {
        cast(col("t"), DataType::Int64)
    }

    #[test]
    fn conditions_that_can_fail_come_after_the_others() {
        let is_one = || number().eq(lit(1));
        let plan = filtered(is_one().and(col("a").gt(lit(2))));
        let expected = "x.a > Int32(2) AND CASE WHEN x.a > Int32(2) THEN CAST(x.t AS Int64) = Int32(1) ELSE Boolean(false) END";
        assert!(plan.transformed);
        assert!(plan.data.contains(expected), "{}", plan.data);

        let quotient = || (lit(10) / col("a")).gt(lit(1));
        let plan = filtered(is_one().and(quotient()));
        let expected = "Filter: CASE WHEN CAST(x.t AS Int64) = Int32(1) THEN Int32(10) / x.a > Int32(1) ELSE Boolean(false) END";
        assert!(plan.data.contains(expected), "{}", plan.data);
    }

    #[test]
    fn other_conditions_stay() {
        for condition in [
            col("a").gt(lit(2)).and(col("b").eq(col("a"))),
            number().eq(lit(1)),
            col("a").gt(lit(2)).or(number().eq(lit(1))),
        ] {
            let plan = filtered(condition);
            assert!(!plan.transformed, "{}", plan.data);
        }
    }

    #[test]
    fn a_hidden_case_gets_its_form_back() {
        let condition = || {
            guard(
                col("a").gt(lit(2)),
                Operator::And,
                number().eq(lit(1)),
                None,
            )
        };
        let Expr::Case(mut hidden) = condition() else {
            panic!("a CASE")
        };
        hidden.expr = Some(Box::new(lit(true)));
        assert_eq!(
            filtered(Expr::Case(hidden)).data,
            filtered(condition()).data
        );
    }
}
