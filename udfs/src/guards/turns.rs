//! Conditions of WHERE and ON, one after the other.

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::utils::{
    conjunction, disjunction, split_binary, split_conjunction, split_conjunction_owned,
};
use datafusion::logical_expr::{
    BinaryExpr, Expr, LogicalPlan, Operator, TableProviderFilterPushDown, TableScan, lit,
};

use super::can_fail::{can_fail, may_fail};
use super::conditions::{Form, MOST_NESTED, is_outside, nested, passes_matches};
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
    let Expr::Case(case) = part else {
        return false;
    };
    matches!(
        case.expr.as_deref(),
        Some(Expr::Literal(ScalarValue::Boolean(Some(true)), _))
    )
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
/// ones that guard them, or in an order of its own. `None` if all stay. A table that applies a condition alone keeps it. Of the others
/// it is asked for what they imply, by which it leaves files and offsets out.
fn asked_of_table(scan: &TableScan, columns: &DFSchema) -> Result<Option<Vec<Expr>>> {
    let filters = scan.filters.iter();
    let (failing, mut asked): (Vec<&Expr>, Vec<&Expr>) =
        filters.partition(|part| can_fail(part, columns));
    let by_table = scan.source.supports_filters_pushdown(&failing)?;
    let (alone, again): (Vec<_>, Vec<_>) = failing
        .into_iter()
        .zip(by_table)
        .partition(|(_, support)| *support == TableProviderFilterPushDown::Exact);
    if again.is_empty() {
        return Ok(None);
    }
    asked.extend(alone.into_iter().map(|(part, _)| part));
    let again = again.into_iter();
    let again = again.filter(|(_, support)| *support == TableProviderFilterPushDown::Inexact);
    let implied: Vec<Expr> = again
        .filter_map(|(part, _)| implied_by(part, columns))
        .collect();
    let by_table = scan
        .source
        .supports_filters_pushdown(&implied.iter().collect::<Vec<_>>())?;
    let implied = implied.into_iter().zip(by_table);
    let implied =
        implied.filter(|(_, support)| *support != TableProviderFilterPushDown::Unsupported);
    let asked = asked.into_iter().cloned();
    Ok(Some(asked.chain(implied.map(|(part, _)| part)).collect()))
}

/// A condition that cannot fail, and is true where this one is: `a` for `a AND b`, of which `b` can fail. `None` if there is none.
fn implied_by(condition: &Expr, columns: &DFSchema) -> Option<Expr> {
    if !can_fail(condition, columns) {
        return Some(condition.clone());
    }
    match condition {
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::And, ..
        }) => implied_by_all(split_binary(condition, Operator::And), columns),
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::Or, ..
        }) => {
            let parts = split_binary(condition, Operator::Or).into_iter();
            let parts = parts.map(|part| implied_by(part, columns));
            disjunction(parts.collect::<Option<Vec<Expr>>>()?)
        }
        Expr::Case(case) if case.expr.is_none() || is_hidden_case(condition) => {
            implied_by_case(case, columns)
        }
        _ => None,
    }
}

fn implied_by_all(parts: Vec<&Expr>, columns: &DFSchema) -> Option<Expr> {
    let parts = parts.into_iter();
    conjunction(parts.filter_map(|part| implied_by(part, columns)))
}

/// It is true where one of its results is true and what stands before that result, after WHEN.
fn implied_by_case(case: &Case, columns: &DFSchema) -> Option<Expr> {
    let branches = case.when_then_expr.iter();
    let branches = branches.map(|(when, then)| (Some(when.as_ref()), then.as_ref()));
    let other = case.else_expr.iter().map(|other| (None, other.as_ref()));
    let (is_true, is_false) = (lit(true), lit(false));
    let parts = branches.chain(other).filter(|(_, then)| **then != is_false);
    let parts = parts.map(|(when, then)| {
        let then = Some(then).filter(|then| **then != is_true);
        implied_by_all(when.into_iter().chain(then).collect(), columns)
    });
    disjunction(parts.collect::<Option<Vec<Expr>>>()?)
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
/// The first ones stay conditions of their own: by them files are left out, and the engine knows columns that have one value. Those that
/// call functions do not: they would be evaluated twice.
fn ordered(conditions: Vec<Expr>, columns: &DFSchema) -> Vec<Expr> {
    let parts = conditions.into_iter();
    let (mut failing, mut safe): (Vec<Expr>, Vec<Expr>) =
        parts.partition(|part| can_fail(part, columns));
    let guards = conjunction(safe.iter().filter(|part| may_guard(part)).cloned());
    let rest = conjunction(failing.split_off(failing.len().min(MOST_NESTED)));
    let conditions = guards.into_iter().chain(failing).chain(rest);
    safe.retain(|part| !may_guard(part) || !has_part(part, is_call));
    safe.extend(nested(conditions, Form::Plain));
    safe
}

/// Whether it calls a function; a part of a column is as the column.
fn is_call(part: &Expr) -> bool {
    matches!(part, Expr::ScalarFunction(call) if call.name() != "get_field")
}

/// Whether the condition is a CASE with these guards already: plans are planned more than once.
fn is_guarded_by<'a>(condition: &Expr, mut guards: impl Iterator<Item = &'a Expr>) -> bool {
    let Expr::Case(case) = condition else {
        return false;
    };
    let [(when, _)] = case.when_then_expr.as_slice() else {
        return false;
    };
    let parts = split_conjunction(when);
    case.expr.is_none()
        && case.else_expr.as_deref() == Some(&lit(false))
        && guards.all(|guard| parts.contains(&guard))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use datafusion::functions::string::lower;
    use datafusion::logical_expr::{
        LogicalPlanBuilder, TableScanBuilder, TableSource, cast, col, table_scan,
    };

    use super::super::conditions::guard;
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

        // What calls a function is evaluated once.
        let is_x = lower().call(vec![col("t")]).eq(lit("x"));
        let plan = filtered(is_x.and(is_one()).and(col("a").gt(lit(2))));
        let expected = "Filter: x.a > Int32(2) AND CASE WHEN lower(x.t) = Utf8(\"x\") AND x.a > Int32(2) THEN CAST(x.t AS Int64) = Int32(1) ELSE Boolean(false) END";
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

    /// A table that leaves files out by conditions.
    #[derive(Debug)]
    struct Files(SchemaRef);

    impl TableSource for Files {
        fn schema(&self) -> SchemaRef {
            Arc::clone(&self.0)
        }

        fn supports_filters_pushdown(
            &self,
            filters: &[&Expr],
        ) -> Result<Vec<TableProviderFilterPushDown>> {
            Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
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
        let files = Arc::new(Files(Arc::new(Schema::new(columns.to_vec()))));
        let scan = TableScanBuilder::new("x", files).with_filters(filters);
        let scan = scan.build().unwrap();
        let changed = with_guards(LogicalPlan::TableScan(scan)).unwrap();
        assert!(changed.transformed);
        let LogicalPlan::TableScan(scan) = changed.data else {
            panic!("a scan")
        };
        assert_eq!(scan.filters, [safe()]);
    }

    #[test]
    fn a_table_is_asked_for_what_alternatives_imply() {
        let columns = [
            Field::new("a", DataType::Int64, true),
            Field::new("t", DataType::Utf8, true),
        ];
        let columns = DFSchema::try_from(Schema::new(columns.to_vec())).unwrap();
        let a = |value: i64| col("a").eq(lit(value));
        let is_one = || number().eq(lit(1_i64));
        let either = || a(1).or(a(2));
        for form in [Form::Plain, Form::Hidden] {
            let first = || guard(a(1), Operator::And, is_one(), form);
            let second = guard(first(), Operator::Or, a(2), form);
            assert_eq!(implied_by(&first(), &columns), Some(a(1)));
            assert_eq!(implied_by(&second, &columns), Some(either()));
        }
        for (condition, expected) in [
            (a(1).and(is_one()).or(a(2)), Some(either())),
            (is_one().and(a(1)).and(a(2).or(is_one())), Some(a(1))),
            (a(1), Some(a(1))),
            (a(1).or(is_one()), None),
            (is_one(), None),
            (!a(1).and(is_one()), None),
            (guard(is_one(), Operator::Or, a(2), Form::Hidden), None),
        ] {
            assert_eq!(implied_by(&condition, &columns), expected, "{condition}");
        }
    }

    #[test]
    fn a_hidden_case_gets_its_form_back() {
        let condition = || {
            guard(
                col("a").gt(lit(2)),
                Operator::And,
                number().eq(lit(1)),
                Form::Plain,
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
