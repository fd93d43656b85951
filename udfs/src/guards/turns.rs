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

/// Lets the conditions of a filter or join that can fail see only rows for which its other ones are true, and gives a CASE that
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
    if let LogicalPlan::TableScan(scan) = &plan {
        let asked = match scan.filters.iter().any(may_fail) {
            true => asked_of_table(scan, &inputs(&plan)?)?,
            false => None,
        };
        return Ok(match (plan, asked) {
            (LogicalPlan::TableScan(mut scan), Some(asked)) => {
                scan.filters = asked;
                Transformed::yes(LogicalPlan::TableScan(scan))
            }
            (plan, _) => Transformed::no(plan),
        });
    }
    let conditions: Vec<&Expr> = match &plan {
        LogicalPlan::Filter(filter) => split_conjunction(&filter.predicate),
        LogicalPlan::Join(join) if passes_matches(join) => {
            let filter = join.filter.as_ref();
            filter.map(split_conjunction).unwrap_or_default()
        }
        _ => vec![],
    };
    if conditions.len() < 2 || !conditions.iter().any(|part| may_fail(part)) {
        return Ok(Transformed::no(plan));
    }
    let columns = inputs(&plan)?;
    if !guards_any(&conditions, &columns) {
        return Ok(Transformed::no(plan));
    }
    Ok(Transformed::yes(match plan {
        LogicalPlan::Filter(mut filter) => {
            let conditions = split_conjunction_owned(filter.predicate);
            filter.predicate = conjunction(ordered(conditions, &columns)).unwrap_or(lit(true));
            LogicalPlan::Filter(filter)
        }
        LogicalPlan::Join(mut join) => {
            let conditions = join.filter.map(split_conjunction_owned);
            join.filter = conjunction(ordered(conditions.unwrap_or_default(), &columns));
            LogicalPlan::Join(join)
        }
        other => other,
    }))
}

/// The conditions of a scan, without those that can fail and are evaluated again above it: the table would evaluate these beside the
/// ones that guard them, or in an order of its own. `None` if all stay. A table that applies a condition alone keeps it.
fn asked_of_table(scan: &TableScan, columns: &DFSchema) -> Result<Option<Vec<Expr>>> {
    let filters = scan.filters.iter();
    let (failing, mut asked): (Vec<&Expr>, Vec<&Expr>) =
        filters.partition(|part| can_fail(part, columns));
    let by_table = scan.source.supports_filters_pushdown(&failing)?;
    let alone = failing.into_iter().zip(by_table);
    let alone = alone.filter(|(_, support)| *support == TableProviderFilterPushDown::Exact);
    asked.extend(alone.map(|(part, _)| part));
    let is_changed = asked.len() < scan.filters.len();
    Ok(is_changed.then(|| asked.into_iter().cloned().collect()))
}

/// Whether one of the conditions guards another, and they are not in order.
fn guards_any(conditions: &[&Expr], columns: &DFSchema) -> bool {
    let parts = conditions.iter().copied();
    let (failing, safe): (Vec<&Expr>, Vec<&Expr>) = parts.partition(|part| can_fail(part, columns));
    let mut guards = safe.into_iter().filter(|part| may_guard(part)).peekable();
    match failing.as_slice() {
        [] => false,
        [only] => guards.peek().is_some() && !is_guarded_by(only, guards),
        _ => true,
    }
}

/// Whether a condition may be evaluated twice.
fn may_guard(condition: &Expr) -> bool {
    !condition.is_volatile() && !has_part(condition, is_outside)
}

/// The conditions that cannot fail, and for rows for which these are true the others, one after the other.
///
/// The first ones stay conditions of their own: by them files are left out, and the engine knows columns that have one value.
fn ordered(conditions: Vec<Expr>, columns: &DFSchema) -> Vec<Expr> {
    let parts = conditions.into_iter();
    let (mut failing, mut safe): (Vec<Expr>, Vec<Expr>) =
        parts.partition(|part| can_fail(part, columns));
    let guards = conjunction(safe.iter().filter(|part| may_guard(part)).cloned());
    let rest = failing.split_off(failing.len().min(MOST_NESTED));
    let Some(last) = conjunction(rest).or_else(|| failing.pop()) else {
        return safe;
    };
    let then = |rest: Expr, part: Expr| guard(part, Operator::And, rest, None);
    let failing = failing.into_iter().rev().fold(last, then);
    safe.push(match guards {
        Some(guards) => then(failing, guards),
        None => failing,
    });
    safe
}

/// Whether the condition is a CASE with these guards already: plans are planned more than once.
fn is_guarded_by<'a>(condition: &Expr, guards: impl Iterator<Item = &'a Expr>) -> bool {
    let Expr::Case(case) = condition else {
        return false;
    };
    match case.when_then_expr.as_slice() {
        [(when, _)] => {
            case.expr.is_none()
                && case.else_expr.as_deref() == Some(&lit(false))
                && split_conjunction(when).into_iter().eq(guards)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::logical_expr::logical_plan::builder::table_scan_with_filters;
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
    fn a_table_is_not_asked_for_what_can_fail() {
        let columns = [
            Field::new("a", DataType::Int64, true),
            Field::new("t", DataType::Utf8, true),
        ];
        let safe = || col("a").gt(lit(2_i64));
        let filters = vec![number().eq(lit(1_i64)), safe()];
        let columns = Schema::new(columns.to_vec());
        let plan = table_scan_with_filters(Some("x"), &columns, None, filters).unwrap();
        let changed = with_guards(plan.build().unwrap()).unwrap();
        assert!(changed.transformed);
        let LogicalPlan::TableScan(scan) = changed.data else {
            panic!("a scan")
        };
        assert_eq!(scan.filters, [safe()]);
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
