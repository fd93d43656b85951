//! Conditional expressions that keep guarding when the optimizer simplifies them.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchema, JoinType, Result, TableReference};
use datafusion::logical_expr::expr::{Case, ScalarFunction};
use datafusion::logical_expr::utils::{conjunction, split_binary, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Join, LogicalPlan, Operator, lit};

use super::can_fail::{can_fail, can_fail_in_range, failing_parts, may_fail};
use super::first_not_null::first_not_null;
use crate::checked::type_of;
use crate::operands::{any_expr, has_part, inputs, map_named_expressions, subquery_of};
use crate::top_down::changes_top_down;

/// Conditions that guard each other are nested: more that can fail are evaluated for the same rows.
pub(super) const MOST_NESTED: usize = 16;

/// Parts of a condition that are put in order: each makes the expression deeper.
const MOST_PARTS: usize = 100;

/// Copies of guards in the conditions of one filter or join.
const MOST_COPIES: usize = 64;

/// Lets CASE, `coalesce`, `nvl` and `nvl2` keep guarding, and AND and OR guard in conditions that can fail. Runs before expressions are
/// simplified.
#[derive(Debug)]
pub(crate) struct GuardedConditions;

changes_top_down!(GuardedConditions, "guarded_conditions", guarded_conditions);

fn guarded_conditions(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    // A table has accepted its conditions as they are.
    if matches!(plan, LogicalPlan::TableScan(_)) || !any_expr(&plan, may_change) {
        return Ok(Transformed::no(plan));
    }
    let columns = inputs(&plan)?;
    let plan = map_named_expressions(plan, |expr| guarded_parts(expr, &columns))?;
    plan.transform_data(|plan| {
        Ok(match plan {
            LogicalPlan::Filter(mut filter) => {
                let joined = match filter.input.as_ref() {
                    LogicalPlan::Join(join) => Some(join),
                    _ => None,
                };
                let changed = across_tables(&filter.predicate, joined, &columns);
                let is_changed = changed.is_some();
                filter.predicate = changed.unwrap_or(filter.predicate);
                Transformed::new_transformed(LogicalPlan::Filter(filter), is_changed)
            }
            LogicalPlan::Join(mut join) if passes_matches(&join) => {
                let filter = join.filter.as_ref();
                let changed =
                    filter.and_then(|filter| across_tables(filter, Some(&join), &columns));
                let is_changed = changed.is_some();
                join.filter = changed.or(join.filter);
                Transformed::new_transformed(LogicalPlan::Join(join), is_changed)
            }
            other => Transformed::no(other),
        })
    })
}

/// The expression with guards that simplification keeps; types must be those that functions and operators require.
///
/// # Errors
///
/// None: walks over expressions give results.
pub fn guarded(expr: Expr, columns: &DFSchema) -> Result<Expr> {
    match may_change(&expr) {
        true => Ok(guarded_parts(expr, columns)?.data),
        false => Ok(expr),
    }
}

/// Whether an expression may have something to guard; the types of columns are not looked at.
fn may_change(expr: &Expr) -> bool {
    let is_conditional = |part: &Expr| match part {
        Expr::Case(case) => case.expr.is_none(),
        Expr::ScalarFunction(call) => chosen_by(call).is_some(),
        Expr::BinaryExpr(binary) => matches!(binary.op, Operator::And | Operator::Or),
        _ => false,
    };
    has_part(expr, is_conditional) && (may_fail(expr) || expr.is_volatile())
}

/// Functions of which the engine makes a CASE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The first argument that is not NULL.
    FirstValue,
    /// The second argument if the first one is not NULL, else the third.
    BySecond,
}

fn chosen_by(call: &ScalarFunction) -> Option<Choice> {
    match call.name() {
        "coalesce" | "nvl" => Some(Choice::FirstValue),
        "nvl2" => Some(Choice::BySecond),
        _ => None,
    }
}

fn guarded_parts(expr: Expr, columns: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|part| {
        Ok(match part {
            Expr::Case(case) if case.expr.is_none() => guarded_case(case, columns),
            Expr::ScalarFunction(call) => guarded_choice(call, columns),
            Expr::AggregateFunction(mut call) => {
                let is_changed = order_filter(&mut call.params.filter, columns);
                Transformed::new_transformed(Expr::AggregateFunction(call), is_changed)
            }
            Expr::WindowFunction(mut call) => {
                let is_changed = order_filter(&mut call.params.filter, columns);
                Transformed::new_transformed(Expr::WindowFunction(call), is_changed)
            }
            other => Transformed::no(other),
        })
    })
}

/// Puts the parts of a FILTER in order; returns whether it has changed.
fn order_filter(filter: &mut Option<Box<Expr>>, columns: &DFSchema) -> bool {
    let ordered = filter
        .as_deref()
        .and_then(|filter| in_order(filter, columns));
    let is_changed = ordered.is_some();
    if let Some(ordered) = ordered {
        *filter = Some(Box::new(ordered));
    }
    is_changed
}

fn guarded_case(mut case: Case, columns: &DFSchema) -> Transformed<Expr> {
    let mut is_changed = false;
    for (when, _) in &mut case.when_then_expr {
        if let Some(ordered) = in_order(when, columns) {
            **when = ordered;
            is_changed = true;
        }
    }
    if is_simplified(&case, columns)
        && has_guarded_part(&case, columns)
        && !whens_and_results(&case).any(|part| has_part(part, is_membership))
    {
        case.expr = Form::Hidden.base();
        is_changed = true;
    }
    Transformed::new_transformed(Expr::Case(case), is_changed)
}

/// Whether the engine may make AND and OR of a CASE: its results are BOOLEAN, or constants that may be compared.
fn is_simplified(case: &Case, columns: &DFSchema) -> bool {
    let thens = case.when_then_expr.iter().map(|(_, then)| then);
    let mut results = thens.chain(&case.else_expr);
    let are_constants = results
        .clone()
        .all(|result| matches!(result.as_ref(), Expr::Literal(..)));
    are_constants || results.any(|result| is_boolean(result, columns))
}

fn whens_and_results(case: &Case) -> impl Iterator<Item = &Expr> {
    let branches = case.when_then_expr.iter();
    let branches = branches.flat_map(|(when, then)| [when.as_ref(), then.as_ref()]);
    branches.chain(case.else_expr.as_deref())
}

/// Whether it is a question for the rows of a subquery, or compares a value with one of the outer row. Conditions with AND and OR become
/// joins that the engine knows better, and a subquery that aggregates has no other way to be joined.
fn is_membership(part: &Expr) -> bool {
    match part {
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => true,
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) => left.contains_outer() || right.contains_outer(),
        _ => false,
    }
}

/// Whether a part that is evaluated for some rows can fail.
fn has_guarded_part(case: &Case, columns: &DFSchema) -> bool {
    let whens = case.when_then_expr.iter().skip(1).map(|(when, _)| when);
    let thens = case.when_then_expr.iter().map(|(_, then)| then);
    let mut parts = whens.chain(thens).chain(&case.else_expr);
    parts.any(|part| can_fail(part, columns))
}

fn is_boolean(expr: &Expr, columns: &DFSchema) -> bool {
    type_of(expr, columns).is_ok_and(|of| of == DataType::Boolean)
}

/// The CASE of `coalesce`, `nvl` or `nvl2`, where the engine's own would not guard, or would evaluate a value twice.
fn guarded_choice(mut call: ScalarFunction, columns: &DFSchema) -> Transformed<Expr> {
    let Some(choice) = chosen_by(&call) else {
        return Transformed::no(Expr::ScalarFunction(call));
    };
    let is_guard = call.args.iter().skip(1).any(|arg| can_fail(arg, columns))
        && call.args.iter().skip(1).any(|arg| is_boolean(arg, columns))
        && !call.args.iter().any(|arg| has_part(arg, is_membership));
    let before_last = call.args.iter().rev().skip(1);
    let is_copied = choice == Choice::FirstValue && before_last.clone().any(Expr::is_volatile);
    if !is_guard && !is_copied {
        return Transformed::no(Expr::ScalarFunction(call));
    }
    let form = match is_guard {
        true => Form::Hidden,
        false => Form::Plain,
    };
    match choice {
        Choice::FirstValue => match call.args.pop() {
            Some(last) => Transformed::yes(first_value(call.args, last, form)),
            None => Transformed::no(Expr::ScalarFunction(call)),
        },
        Choice::BySecond => match <[Expr; 3]>::try_from(call.args) {
            Ok([of, value, other]) => {
                let branches = vec![(Box::new(of.is_not_null()), Box::new(value))];
                Transformed::yes(case(form, branches, other))
            }
            Err(args) => Transformed::no(Expr::ScalarFunction(ScalarFunction {
                func: call.func,
                args,
            })),
        },
    }
}

/// How a CASE is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `CASE WHEN …`.
    Plain,
    /// `CASE true WHEN …`, which the optimizer does not rewrite.
    Hidden,
}

impl Form {
    fn base(self) -> Option<Box<Expr>> {
        (self == Self::Hidden).then(|| Box::new(lit(true)))
    }
}

/// What follows WHEN and THEN.
type Branch = (Box<Expr>, Box<Expr>);

/// The first of the values that is not NULL, or else the last one. From the first one on that changes by itself, all are evaluated.
fn first_value(mut values: Vec<Expr>, last: Expr, form: Form) -> Expr {
    let changing = values.iter().position(Expr::is_volatile);
    let mut rest = values.split_off(changing.unwrap_or(values.len()));
    let branches = values.into_iter().map(|value| {
        let is_value = Box::new(value.clone().is_not_null());
        (is_value, Box::new(value))
    });
    rest.push(last);
    case(form, branches.collect(), first_not_null(rest))
}

/// A CASE with these branches; without branches, what follows ELSE.
fn case(form: Form, branches: Vec<Branch>, other: Expr) -> Expr {
    match branches.is_empty() {
        true => other,
        false => Expr::Case(Case {
            expr: form.base(),
            when_then_expr: branches,
            else_expr: Some(Box::new(other)),
        }),
    }
}

/// A condition of which only the rows count for which it is true, NULL or not: each part of AND and OR that can fail is evaluated
/// for rows for which the parts before it have not decided. `None` if it stays as it is.
fn in_order(condition: &Expr, columns: &DFSchema) -> Option<Expr> {
    let op = match condition {
        Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => binary.op,
        _ => return None,
    };
    // Subqueries become joins where they stand.
    if has_part(condition, is_outside) || !can_fail(condition, columns) {
        return None;
    }
    let parts = split_binary(condition, op);
    if parts.len() > MOST_PARTS {
        return None;
    }
    let fails: Vec<bool> = parts.iter().map(|part| can_fail(part, columns)).collect();
    if fails.iter().filter(|fails| **fails).count() > MOST_NESTED {
        return None;
    }
    let mut is_changed = false;
    let parts = parts.into_iter().map(|part| {
        let ordered = in_order(part, columns);
        is_changed |= ordered.is_some();
        ordered.unwrap_or_else(|| part.clone())
    });
    let mut parts: Vec<(Expr, bool)> = parts.zip(fails).collect();
    // From the end, so that what follows a part is known.
    let (mut rest, mut can_rest_fail) = parts.pop()?;
    while let Some((part, can_part_fail)) = parts.pop() {
        if !can_rest_fail {
            rest = both(part, op, rest);
            can_rest_fail = can_part_fail;
            continue;
        }
        let mut before = part;
        // Parts in a row that cannot fail guard together.
        while !can_part_fail && let Some((part, _)) = parts.pop_if(|(_, fails)| !*fails) {
            before = both(part, op, before);
        }
        is_changed = true;
        rest = guard(before, op, rest, Form::Hidden);
    }
    is_changed.then_some(rest)
}

fn both(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// The conditions as one, each for rows for which the ones before it are true. `None` if there are none.
pub(super) fn nested(
    conditions: impl DoubleEndedIterator<Item = Expr>,
    form: Form,
) -> Option<Expr> {
    let from_end = conditions.rev();
    from_end.reduce(|rest, part| guard(part, Operator::And, rest, form))
}

/// The second condition for rows for which the first one has not decided, as a CASE.
pub(super) fn guard(first: Expr, op: Operator, second: Expr, form: Form) -> Expr {
    let first = Box::new(first);
    match op {
        Operator::Or => case(form, vec![(first, Box::new(lit(true)))], second),
        _ => case(form, vec![(first, Box::new(second))], lit(false)),
    }
}

/// Whether a part of an expression is of another query.
pub(super) fn is_outside(part: &Expr) -> bool {
    matches!(part, Expr::OuterReferenceColumn(..)) || subquery_of(part).is_some()
}

/// Whether a join only asks whether its condition is true.
pub(super) fn passes_matches(join: &Join) -> bool {
    !join.null_aware && !matches!(join.join_type, JoinType::LeftMark | JoinType::RightMark)
}

/// The condition of a filter or join, with guards over other tables than those of what they guard: the optimizer would move the two to
/// different places. `None` if there are none. `joined` is the join itself, or the one below the filter.
///
/// Guards over the same tables come to the same places, or earlier ones. There [`super::with_guards`] puts them in order. But a
/// condition on the keys of one table alone would be asked of the other table as well, whose rows the guards say nothing of.
fn across_tables(condition: &Expr, joined: Option<&Join>, columns: &DFSchema) -> Option<Expr> {
    if !may_fail(condition) {
        return None;
    }
    if let Some(together) = together(condition, columns) {
        return Some(together);
    }
    let keys = key_columns(condition, joined);
    let is_of_keys = |part: &Expr| part.column_refs().is_subset(&keys);
    let mut copies = 0;
    let mut guards: Vec<(&Expr, HashSet<Option<&TableReference>>)> = vec![];
    let parts = split_conjunction(condition);
    let mut replaced: Vec<Option<Expr>> = Vec::with_capacity(parts.len());
    for part in parts.iter().copied() {
        if may_join(part) {
            replaced.push(None);
            continue;
        }
        let tables = tables_of(part);
        if !can_fail(part, columns) {
            if !part.is_volatile() {
                guards.push((part, tables));
            }
            replaced.push(None);
            continue;
        }
        // A part over several tables may have a key that all of its alternatives share.
        let ordered = match is_alternative(part) && tables.len() < 2 {
            true => in_order(part, columns),
            false => None,
        };
        // Sums and products that become too large are rare: it is worth more to leave rows out before the join.
        let is_guarded = can_fail_in_range(part, columns);
        let is_copied = is_of_keys(part);
        let others = guards.iter().filter(|(guard, of)| {
            is_guarded && ((is_copied && !is_of_keys(guard)) || !of.is_subset(&tables))
        });
        let others = others.take(MOST_COPIES.saturating_sub(copies));
        let others: Vec<Expr> = others.map(|(guard, _)| (*guard).clone()).collect();
        copies += others.len();
        replaced.push(match conjunction(others) {
            Some(others) => {
                let then = ordered.unwrap_or_else(|| part.clone());
                Some(guard(others, Operator::And, then, Form::Hidden))
            }
            None => ordered,
        });
    }
    if replaced.iter().all(Option::is_none) {
        return None;
    }
    let parts = parts.into_iter().zip(replaced);
    conjunction(parts.map(|(part, other)| other.unwrap_or_else(|| part.clone())))
}

/// A condition whose parts have the same computation that can fail: the optimizer would compute it once, below the filter, and so for all
/// rows. The parts that can fail become one CASE behind their guards. `None` if there are none, or they are of several tables.
fn together(condition: &Expr, columns: &DFSchema) -> Option<Expr> {
    let parts = split_conjunction(condition);
    let (failing, safe): (Vec<&Expr>, Vec<&Expr>) = parts
        .into_iter()
        .partition(|part| can_fail(part, columns) && !may_join(part));
    let mut seen = HashSet::new();
    let mut computed = failing.iter().flat_map(|part| failing_parts(part, columns));
    if computed.all(|part| seen.insert(part)) {
        return None;
    }
    let (last, before) = failing.split_last()?;
    // It is one already.
    if before.is_empty() && matches!(last, Expr::Case(case) if case.expr.is_some()) {
        return None;
    }
    let tables = tables_of(last);
    let guards = safe.iter().copied().filter(|part| {
        !may_join(part) && !part.is_volatile() && tables_of(part).is_subset(&tables)
    });
    let guards = conjunction(guards.cloned())?;
    if before.len() >= MOST_NESTED || before.iter().any(|part| tables_of(part) != tables) {
        return None;
    }
    let failing = failing.iter().copied().cloned();
    let guarded = nested(std::iter::once(guards).chain(failing), Form::Hidden);
    conjunction(safe.into_iter().cloned().chain(guarded))
}

fn is_alternative(part: &Expr) -> bool {
    matches!(part, Expr::BinaryExpr(binary) if binary.op == Operator::Or)
}

fn tables_of(expr: &Expr) -> HashSet<Option<&TableReference>> {
    let columns = expr.column_refs().into_iter();
    columns.map(|column| column.relation.as_ref()).collect()
}

/// The columns in conditions that join tables.
fn key_columns<'a>(condition: &'a Expr, joined: Option<&'a Join>) -> HashSet<&'a Column> {
    let of_join = joined.and_then(|join| join.filter.as_ref());
    let conditions = [Some(condition), of_join].into_iter().flatten();
    let keys = conditions.flat_map(split_conjunction);
    let keys = keys.filter(|condition| is_join_key(condition));
    let pairs = joined.into_iter().flat_map(|join| &join.on);
    let pairs = pairs.flat_map(|(left, right)| [left, right]);
    keys.chain(pairs).flat_map(Expr::column_refs).collect()
}

/// Whether a condition may become a join, or a key of one, where it stands.
fn may_join(condition: &Expr) -> bool {
    has_part(condition, is_outside) || is_join_key(condition) || may_be_join_key(condition)
}

/// Whether a condition compares a value of one table with that of another: it joins them.
fn is_join_key(condition: &Expr) -> bool {
    let Some([left, right]) = compared(condition) else {
        return false;
    };
    !left.is_empty() && !right.is_empty() && left.is_disjoint(&right)
}

/// Whether it compares values of queries without names, which may be two.
fn may_be_join_key(condition: &Expr) -> bool {
    let of_queries = |tables: &HashSet<Option<&TableReference>>| tables.contains(&None);
    compared(condition).is_some_and(|[left, right]| of_queries(&left) && of_queries(&right))
}

/// The tables of both sides of an equality.
fn compared(condition: &Expr) -> Option<[HashSet<Option<&TableReference>>; 2]> {
    match condition {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq | Operator::IsNotDistinctFrom,
            right,
        }) => Some([tables_of(left), tables_of(right)]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};
    use datafusion::functions::{core, math};
    use datafusion::logical_expr::simplify::SimplifyContext;
    use datafusion::logical_expr::{LogicalPlanBuilder, cast, col, out_ref_col, table_scan, when};
    use datafusion::optimizer::simplify_expressions::ExprSimplifier;
    use datafusion::optimizer::{OptimizerContext, OptimizerRule as _};

    use super::*;
    use crate::checked::checked;

    fn schema() -> Schema {
        let columns = [
            ("a", DataType::Int64),
            ("b", DataType::Int64),
            ("f", DataType::Float64),
            ("s", DataType::Utf8),
        ];
        Schema::new(
            columns
                .map(|(name, of)| Field::new(name, of, true))
                .to_vec(),
        )
    }

    fn columns() -> DFSchema {
        DFSchema::try_from(schema()).unwrap()
    }

    fn is_set() -> Expr {
        col("b").not_eq(lit(0_i64))
    }

    fn is_positive() -> Expr {
        col("a").gt(lit(1_i64))
    }

    fn is_large() -> Expr {
        (lit(10_i64) / col("b")).gt(lit(1_i64))
    }

    /// The guarded expression, which simplification and another run leave as it is.
    fn text(expr: Expr) -> String {
        let columns = columns();
        let guarded_once = guarded(expr, &columns).unwrap();
        let again = guarded(guarded_once.clone(), &columns).unwrap();
        assert_eq!(again, guarded_once);
        let context = SimplifyContext::builder().with_schema(Arc::new(columns));
        let simplified = ExprSimplifier::new(context.build()).simplify(again.clone());
        assert_eq!(simplified.unwrap(), again);
        again.to_string()
    }

    #[test]
    fn a_case_of_boolean_keeps_guarding() {
        let expr = when(is_set(), is_large()).otherwise(lit(false)).unwrap();
        assert_eq!(
            text(expr),
            "CASE Boolean(true) WHEN b != Int64(0) THEN Int64(10) / b > Int64(1) ELSE Boolean(false) END"
        );
        let expr = when(is_positive(), lit("x"))
            .when(is_large(), lit("y"))
            .end()
            .unwrap();
        assert_eq!(
            text(expr),
            "CASE Boolean(true) WHEN a > Int64(1) THEN Utf8(\"x\") WHEN Int64(10) / b > Int64(1) THEN Utf8(\"y\") END"
        );
    }

    #[test]
    fn functions_of_which_the_engine_makes_a_case_keep_guarding() {
        let expr = core::coalesce().call(vec![is_positive(), is_large()]);
        assert_eq!(
            text(expr.clone()),
            "CASE Boolean(true) WHEN a > Int64(1) IS NOT NULL THEN a > Int64(1) ELSE Int64(10) / b > Int64(1) END"
        );
        let nvl = core::nvl().call(vec![is_positive(), is_large()]);
        assert_eq!(text(nvl), text(expr));
        let expr = core::nvl2().call(vec![is_positive(), is_large(), lit(false)]);
        assert_eq!(
            text(expr),
            "CASE Boolean(true) WHEN a > Int64(1) IS NOT NULL THEN Int64(10) / b > Int64(1) ELSE Boolean(false) END"
        );
    }

    #[test]
    fn what_cannot_fail_stays() {
        let columns = columns();
        for expr in [
            when(is_set(), is_positive()).otherwise(lit(false)).unwrap(),
            // The first condition is evaluated for all rows.
            when(is_large(), is_positive())
                .otherwise(lit(false))
                .unwrap(),
            // The engine keeps a CASE of numbers.
            when(is_set(), lit(10_i64) / col("b"))
                .otherwise(col("a"))
                .unwrap(),
            core::coalesce().call(vec![is_positive(), is_set()]),
            core::coalesce().call(vec![col("a"), lit(10_i64) / col("b")]),
            is_set().and(is_large()),
        ] {
            assert_eq!(guarded(expr.clone(), &columns).unwrap(), expr);
        }
    }

    #[test]
    fn what_joins_a_subquery_stays() {
        let number = cast(out_ref_col(DataType::Utf8, "o.s"), DataType::Int64);
        let is_same = col("a").eq(number);
        for expr in [
            when(is_set(), is_same.clone())
                .otherwise(lit(false))
                .unwrap(),
            core::nvl2().call(vec![col("b"), is_same, lit(false)]),
        ] {
            assert!(can_fail(&expr, &columns()), "{expr}");
            assert_eq!(guarded(expr.clone(), &columns()).unwrap(), expr);
        }
    }

    #[test]
    fn a_value_that_changes_is_evaluated_once() {
        let random = || math::random().call(vec![]);
        let expr = core::coalesce().call(vec![col("f"), random(), lit(1.0)]);
        let guarded = guarded(expr, &columns()).unwrap().to_string();
        assert_eq!(
            guarded,
            "CASE WHEN f IS NOT NULL THEN f ELSE first_not_null(random(), Float64(1)) END"
        );
    }

    #[test]
    fn parts_of_a_condition_guard_those_after_them() {
        let condition = is_positive().and(is_set()).and(is_large());
        let expr = when(condition, col("a")).otherwise(col("b")).unwrap();
        assert_eq!(
            text(expr),
            "CASE WHEN CASE Boolean(true) WHEN a > Int64(1) AND b != Int64(0) THEN Int64(10) / b > Int64(1) \
             ELSE Boolean(false) END THEN a ELSE b END"
        );
        let condition = col("b").eq(lit(0_i64)).or(is_large());
        let expr = when(condition, col("a")).otherwise(col("b")).unwrap();
        assert_eq!(
            text(expr),
            "CASE WHEN CASE Boolean(true) WHEN b = Int64(0) THEN Boolean(true) ELSE Int64(10) / b > Int64(1) END \
             THEN a ELSE b END"
        );
    }

    fn over_two_tables(condition: Expr) -> Transformed<String> {
        let table = |name: &str| {
            let scan = table_scan(Some(name), &schema(), None).unwrap();
            scan.build().unwrap()
        };
        let plan = LogicalPlanBuilder::from(table("t"));
        let plan = plan.cross_join(table("u")).unwrap();
        let plan = plan.filter(condition).unwrap().build().unwrap();
        let changed = GuardedConditions.rewrite(plan, &OptimizerContext::new());
        changed
            .unwrap()
            .update_data(|plan| plan.display_indent().to_string())
    }

    #[test]
    fn conditions_over_other_tables_guard() {
        let number = || cast(col("u.s"), DataType::Int64);
        let plan = over_two_tables(col("t.a").eq(lit(1_i64)).and(number().gt(lit(3_i64))));
        assert!(plan.transformed);
        let expected = "Filter: t.a = Int64(1) AND CASE Boolean(true) WHEN t.a = Int64(1) THEN CAST(u.s AS Int64) > Int64(3) ELSE Boolean(false) END";
        assert!(plan.data.starts_with(expected), "{}", plan.data);
        let quotient = (lit(10_i64) / col("t.a")).gt(lit(1_i64));
        let keys = col("t.a").eq(col("u.a")).and(col("t.b").gt(lit(0_i64)));
        let plan = over_two_tables(keys.and(quotient));
        let expected = "AND CASE Boolean(true) WHEN t.b > Int64(0) THEN Int64(10) / t.a > Int64(1) ELSE Boolean(false) END";
        assert!(plan.data.contains(expected), "{}", plan.data);
        let product = (col("u.a") * col("u.b")).gt(lit(3_i64));
        let of_u = DFSchema::try_from_qualified_schema("u", &schema()).unwrap();
        let product = checked(product, &of_u).unwrap();
        for condition in [
            col("u.a").eq(lit(1_i64)).and(number().gt(lit(3_i64))),
            col("t.a").eq(col("u.a")).and(number().gt(lit(3_i64))),
            col("t.a").eq(lit(1_i64)).and(number().eq(col("t.b"))),
            number().gt(lit(3_i64)).and(col("t.a").eq(lit(1_i64))),
            col("t.a").eq(lit(1_i64)).and(product),
        ] {
            let plan = over_two_tables(condition);
            assert!(!plan.transformed, "{}", plan.data);
        }
    }

    #[test]
    fn a_computation_of_several_conditions_stays_behind_their_guards() {
        let number = || cast(col("u.s"), DataType::Int64);
        let both = number().not_eq(lit(7_i64)).and(number().lt(lit(9_i64)));
        let plan = over_two_tables(col("u.a").eq(lit(1_i64)).and(both.clone()));
        let expected = "Filter: u.a = Int64(1) AND CASE Boolean(true) WHEN u.a = Int64(1) THEN \
             CASE Boolean(true) WHEN CAST(u.s AS Int64) != Int64(7) THEN CAST(u.s AS Int64) < Int64(9) ELSE Boolean(false) END \
             ELSE Boolean(false) END";
        assert!(plan.data.starts_with(expected), "{}", plan.data);
        // No other condition guards them, or none has the same computation.
        let other = (lit(10_i64) / col("u.b")).gt(lit(1_i64));
        for condition in [
            both,
            col("u.a")
                .eq(lit(1_i64))
                .and(number().lt(lit(9_i64)))
                .and(other),
        ] {
            let plan = over_two_tables(condition);
            assert!(!plan.transformed, "{}", plan.data);
        }
    }

    #[test]
    fn keys_of_queries_without_names_stay() {
        let query = |table: &str, column: &str, name: &str| {
            let scan = table_scan(Some(table), &schema(), None).unwrap();
            let of = vec![col(column).alias(name)];
            scan.project(of).unwrap().build().unwrap()
        };
        let plan = table_scan(Some("w"), &schema(), None).unwrap();
        let plan = plan.cross_join(query("t", "t.a", "x")).unwrap();
        let plan = plan.cross_join(query("u", "u.s", "y")).unwrap();
        let is_same = col("x").eq(cast(col("y"), DataType::Int64));
        let condition = col("w.a").eq(lit(1_i64)).and(is_same);
        let plan = plan.filter(condition).unwrap().build().unwrap();
        let changed = GuardedConditions.rewrite(plan, &OptimizerContext::new());
        assert!(!changed.unwrap().transformed);
    }
}
