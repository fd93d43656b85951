//! `x NOT IN (SELECT b …)` by SQL's rule for NULLs: it is true only if no `b` equals `x` and no comparison is unknown.
//!
//! DataFusion's joins for it are right where a column is compared with an uncorrelated subquery. All other forms are rewritten
//! here to `NOT EXISTS (SELECT … WHERE (b = x) IS NOT FALSE)`, which means the same and is never unknown.
//!
//! A select list takes no EXISTS. There the rewrite counts rows: those with `b = x`, all rows if `x` is NULL, and those where
//! `b` is NULL.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{
    Column, DFSchema, ExprSchema, Result, ScalarValue, not_impl_err, plan_err,
};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Case, Exists, InSubquery, SetComparison};
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, ExprSchemable, Filter, Join, LogicalPlan, LogicalPlanBuilder,
    Operator, Projection, Subquery, lit, not,
};
use datafusion::optimizer::AnalyzerRule;

use crate::correlated::{SubqueryUse, check, check_values, check_within, without_unions};
use crate::operands::{
    any_expr, any_node, has_part, map_named_expressions, subquery_of, with_rows,
};
use crate::unjoinable::lateral;

/// The name of the subquery's column that a value is compared with.
const MEMBER: &str = "__member";

/// Rewrites `NOT IN` and related expressions in filters and select lists, after the rule that makes the types of both sides
/// equal.
#[derive(Debug)]
pub struct NullAwareMembership;

impl AnalyzerRule for NullAwareMembership {
    fn name(&self) -> &str {
        "null_aware_membership"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let has_any = |plan: &LogicalPlan| {
            matches!(plan, LogicalPlan::Subquery(_)) || any_expr(plan, has_subquery)
        };
        if !any_node(&plan, has_any)? {
            return Ok(plan);
        }
        let mut is_counted = false;
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            let plan = match any_expr(&plan, depends_on_row) {
                true => {
                    let each = map_named_expressions(plan, |expr| {
                        without_unions(expr)?.transform_data(with_own_columns)
                    });
                    each?.data
                }
                false => plan,
            };
            plan.apply_expressions(|expr| {
                check_within(expr)?;
                Ok(TreeNodeRecursion::Continue)
            })?;
            if let LogicalPlan::Join(join) = &plan
                && let Some(subquery) = lateral(&join.right)
            {
                check_values(subquery, SubqueryUse::Lateral)?;
            }
            let plan = match any_expr(&plan, has_comparison) {
                true if !matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::Join(_)) => {
                    return not_impl_err!(
                        "ANY and ALL of a subquery are allowed in WHERE and HAVING only: compare with (SELECT min(x) …) or \
                         (SELECT max(x) …)"
                    );
                }
                true => {
                    plan.map_expressions(|expr| expr.transform_up(named_apart_comparison))?
                        .data
                }
                false => plan,
            };
            let rewritten = match plan {
                LogicalPlan::Filter(filter) => in_filter(filter)?,
                LogicalPlan::Join(join) => in_join(join)?,
                LogicalPlan::Projection(list) if list.expr.iter().any(has_membership) => {
                    is_counted = true;
                    in_projection(list)?
                }
                other => Transformed::no(other),
            };
            // The nullability has changed, also for the operators above.
            match is_counted {
                true => rewritten.map_data(LogicalPlan::recompute_schema),
                false => Ok(rewritten),
            }
        })?;
        Ok(rewritten.data)
    }
}

fn in_filter(mut filter: Filter) -> Result<Transformed<LogicalPlan>> {
    if !has_membership(&filter.predicate) {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    }
    let schema = Arc::clone(filter.input.schema());
    filter.predicate = is(filter.predicate, true, FilterPosition::Conjunct, &schema)?;
    Ok(Transformed::yes(LogicalPlan::Filter(filter)))
}

/// Rewrites a select list.
fn in_projection(list: Projection) -> Result<Transformed<LogicalPlan>> {
    let schema = Arc::clone(list.input.schema());
    let plan = LogicalPlan::Projection(list);
    map_named_expressions(plan, |expr| counted(expr, &schema))
}

/// Rewrites the condition of a join. The result must have no further subqueries: the engine would not find their columns.
fn in_join(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let Some(written) = join.filter.take_if(|filter| has_membership(filter)) else {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    };
    let schema = join.left.schema().join(join.right.schema())?;
    let before = rows_asked_for(&written);
    let filter = is(written, true, FilterPosition::Conjunct, &schema)?;
    if rows_asked_for(&filter) != before {
        return not_impl_err!(
            "NOT IN (SELECT …) in ON must be alone or combined by AND, and its subquery must not be correlated: \
             write it in WHERE, or in a query in FROM"
        );
    }
    join.filter = Some(filter);
    Ok(Transformed::yes(LogicalPlan::Join(join)))
}

/// The number of EXISTS in an expression.
fn rows_asked_for(expr: &Expr) -> usize {
    let mut count = 0;
    // The closure returns no error.
    let _ = expr.apply(|part| {
        count += usize::from(matches!(part, Expr::Exists(_)));
        Ok(TreeNodeRecursion::Continue)
    });
    count
}

/// The position of an expression in a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilterPosition {
    /// The filter itself, or a part of it that must be true.
    Conjunct,
    /// Below an OR.
    Inner,
}

/// Whether it contains a correlated EXISTS or IN.
fn depends_on_row(expr: &Expr) -> bool {
    has_part(expr, |node| {
        let subquery = match node {
            Expr::ScalarSubquery(_) => None,
            other => subquery_of(other),
        };
        subquery.is_some_and(|of| !of.outer_ref_columns.is_empty())
    })
}

fn has_subquery(expr: &Expr) -> bool {
    has_part(expr, |node| subquery_of(node).is_some())
}

/// Renames the computed columns of correlated subqueries. The engine adds the columns that the subquery compares with the outer
/// row, and `CAST(b.x AS BIGINT)` has the name of `b.x`.
fn with_own_columns(expr: Expr) -> Result<Transformed<Expr>> {
    expr.transform_down(|mut part| {
        let subquery = match &mut part {
            Expr::Exists(of) => &mut of.subquery,
            Expr::InSubquery(of) => &mut of.subquery,
            Expr::SetComparison(of) => &mut of.subquery,
            _ => return Ok(Transformed::no(part)),
        };
        if subquery.outer_ref_columns.is_empty() {
            return Ok(Transformed::no(part));
        }
        Ok(match named_apart(&subquery.subquery)? {
            Some(plan) => {
                subquery.subquery = Arc::new(plan);
                Transformed::yes(part)
            }
            None => Transformed::no(part),
        })
    })
}

/// A query whose computed columns have names that no column below has; `None` if that is already so.
fn named_apart(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let named = named_apart(input)?.map(Arc::new);
            Ok(named.map(|input| LogicalPlan::Distinct(Distinct::All(input))))
        }
        LogicalPlan::Projection(list) => {
            let below = list.input.schema().columns();
            let is_taken = |name: &str| {
                let mut below = below.iter();
                below.any(|column| column.name == name || column.flat_name() == name)
            };
            let mut is_changed = false;
            let columns = list.expr.iter().zip(list.schema.fields()).enumerate();
            let columns = columns.map(|(place, (expr, field))| {
                if matches!(expr, Expr::Column(_)) || !is_taken(field.name()) {
                    return expr.clone();
                }
                is_changed = true;
                expr.clone().unalias().alias(format!("__column_{place}"))
            });
            let columns: Vec<Expr> = columns.collect();
            Ok(match is_changed {
                true => {
                    let list = Projection::try_new(columns, Arc::clone(&list.input))?;
                    Some(LogicalPlan::Projection(list))
                }
                false => None,
            })
        }
        _ => Ok(None),
    }
}

fn has_membership(expr: &Expr) -> bool {
    has_part(expr, |node| matches!(node, Expr::InSubquery(_)))
}

/// An expression that is true if and only if the result of `expr` is `wanted`; if `expr` is unknown it is false or unknown.
fn is(expr: Expr, wanted: bool, place: FilterPosition, schema: &DFSchema) -> Result<Expr> {
    if !has_membership(&expr) {
        return Ok(if wanted { expr } else { not(expr) });
    }
    match expr {
        Expr::Not(inner) => is(*inner, !wanted, place, schema),
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(op, Operator::And | Operator::Or) =>
        {
            let op = match (op, wanted) {
                (Operator::And, true) | (Operator::Or, false) => Operator::And,
                _ => Operator::Or,
            };
            let place = match op {
                Operator::And => place,
                _ => FilterPosition::Inner,
            };
            let left = is(*left, wanted, place, schema)?;
            let right = is(*right, wanted, place, schema)?;
            Ok(Expr::BinaryExpr(BinaryExpr::new(
                Box::new(left),
                op,
                Box::new(right),
            )))
        }
        Expr::InSubquery(member) if member.negated == wanted => is_no_member(member, place, schema),
        Expr::InSubquery(member) => {
            check(&member.subquery.subquery, SubqueryUse::In)?;
            Ok(Expr::InSubquery(InSubquery {
                expr: member.expr,
                subquery: with_column(member.subquery)?,
                negated: false,
            }))
        }
        other => {
            let known = three_valued(other, schema)?;
            Ok(if wanted { known } else { not(known) })
        }
    }
}

/// True if and only if the value is certainly not among those of the subquery.
fn is_no_member(member: InSubquery, place: FilterPosition, schema: &DFSchema) -> Result<Expr> {
    let InSubquery { expr, subquery, .. } = member;
    check(&subquery.subquery, SubqueryUse::NotIn)?;
    check_value(&expr)?;
    let column = first_column(&subquery)?;
    let has_nulls = expr.nullable(schema).unwrap_or(true)
        || subquery.subquery.schema().nullable(&column).unwrap_or(true);
    let is_simple = subquery.outer_ref_columns.is_empty() && has_columns(&expr)?;
    // DataFusion's join by a single key handles the NULLs of both sides. With more keys it takes the NULLs of any of them.
    if is_simple && (place == FilterPosition::Conjunct || !has_nulls) {
        let subquery = with_column(subquery)?;
        return Ok(Expr::InSubquery(InSubquery::new(expr, subquery, true)));
    }
    let (subquery, column) = members(&subquery)?;
    let compared = compared(&expr, column, schema)?;
    exists(&subquery, Expr::IsNotFalse(Box::new(compared)), true)
}

/// The expression with each `x IN (SELECT b …)` replaced by EXISTS, with the result true, false or unknown as in SQL.
fn three_valued(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let replaced = with_cases(expr, |expr, subquery, column| {
        let compared = compared(expr, column, schema)?;
        let found = exists(subquery, Expr::IsTrue(Box::new(compared.clone())), false)?;
        let unknown = exists(subquery, Expr::IsUnknown(Box::new(compared)), false)?;
        Ok((found, vec![unknown]))
    })?;
    Ok(replaced.data)
}

/// The expression with each `x IN (SELECT b …)` replaced by row counts, which determine true, false and unknown.
fn counted(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    with_cases(expr, |expr, subquery, column| {
        let equal = compared(expr, column.clone(), schema)?;
        let found = has_rows(subquery, Some(equal))?;
        let mut unknown = Vec::new();
        if expr.nullable(schema).unwrap_or(true) {
            unknown.push(expr.clone().is_null().and(has_rows(subquery, None)?));
        }
        if subquery.subquery.schema().nullable(&column).unwrap_or(true) {
            let nulls = Expr::Column(column).is_null();
            unknown.push(has_rows(subquery, Some(nulls))?);
        }
        Ok((found, unknown))
    })
}

/// The expression with each `x IN (SELECT b …)` replaced by a CASE. From the value, the subquery and its column `conditions`
/// builds the condition for a match, and those for unknown.
fn with_cases(
    expr: Expr,
    conditions: impl Fn(&Expr, &Subquery, Column) -> Result<(Expr, Vec<Expr>)>,
) -> Result<Transformed<Expr>> {
    expr.transform_down(|node| {
        let Expr::InSubquery(InSubquery {
            expr,
            subquery,
            negated,
        }) = node
        else {
            return Ok(Transformed::no(node));
        };
        check(&subquery.subquery, SubqueryUse::NotIn)?;
        check_value(&expr)?;
        let (subquery, column) = members(&subquery)?;
        let (found, unknown) = conditions(&expr, &subquery, column)?;
        let mut when_then_expr = vec![(Box::new(found), Box::new(lit(!negated)))];
        for unknown in unknown {
            let null = Expr::Literal(ScalarValue::Boolean(None), None);
            when_then_expr.push((Box::new(unknown), Box::new(null)));
        }
        let case = Case {
            expr: None,
            when_then_expr,
            else_expr: Some(Box::new(lit(negated))),
        };
        Ok(Transformed::new(
            Expr::Case(case),
            true,
            TreeNodeRecursion::Jump,
        ))
    })
}

/// Whether the subquery has a row, for which `condition` is true if one is given: by the number of rows.
fn has_rows(subquery: &Subquery, condition: Option<Expr>) -> Result<Expr> {
    let mut rows = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
    if let Some(condition) = condition {
        rows = rows.filter(condition)?;
    }
    let number = rows.aggregate(Vec::<Expr>::new(), vec![count(lit(1_i64))])?;
    let number = number.build()?;
    // The name must be unique among the columns.
    let columns = number.schema().columns().into_iter();
    let columns = columns.map(|column| Expr::Column(column).alias("__rows"));
    let plan = LogicalPlanBuilder::from(number).project(columns)?.build()?;
    let number = Expr::ScalarSubquery(with_rows(subquery, plan));
    Ok(number.gt(lit(0_i64)))
}

fn first_column(subquery: &Subquery) -> Result<Column> {
    let schema = subquery.subquery.schema();
    match schema.fields().len() {
        1 => Ok(Column::from(schema.qualified_field(0))),
        columns => {
            plan_err!("a subquery after IN must return one column, and this one returns {columns}")
        }
    }
}

/// The subquery with an operator on top from which the engine can take the column: VALUES is not one. A column without a table
/// gets a name, because below OR the engine would use it twice.
fn with_column(subquery: Subquery) -> Result<Subquery> {
    let is_found = match subquery.subquery.head_output_expr()? {
        Some(Expr::Column(column)) => column.relation.is_some(),
        Some(_) => true,
        None => false,
    };
    if is_found {
        return Ok(subquery);
    }
    Ok(members(&subquery)?.0)
}

/// The subquery with a column name that no column of the outer row has: the engine distinguishes the two by name only, and both
/// may be of one table.
fn members(subquery: &Subquery) -> Result<(Subquery, Column)> {
    let column = Expr::Column(first_column(subquery)?).alias(MEMBER);
    let rows = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone()).project([column])?;
    let subquery = with_rows(subquery, rows.build()?);
    Ok((subquery, Column::new_unqualified(MEMBER)))
}

fn has_comparison(expr: &Expr) -> bool {
    has_part(expr, |node| matches!(node, Expr::SetComparison(_)))
}

/// The same for ANY and ALL, which the engine rewrites to such queries.
fn named_apart_comparison(expr: Expr) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::SetComparison(of) => {
            let (subquery, _) = members(&of.subquery)?;
            Transformed::yes(Expr::SetComparison(SetComparison { subquery, ..of }))
        }
        other => Transformed::no(other),
    })
}

/// Refuses a value that is a subquery, and one that uses columns of a query further out: within a subquery the engine would
/// take them for those of the outer row.
fn check_value(expr: &Expr) -> Result<()> {
    if has_subquery(expr) {
        return not_impl_err!(
            "IN (SELECT …) of a value that is itself a subquery is not supported here: compute it in a query in FROM"
        );
    }
    if expr.contains_outer() {
        return not_impl_err!(
            "IN (SELECT …) of a value with a column of the query around this one is not supported: \
             join with the other table there, and compare with its columns"
        );
    }
    Ok(())
}

fn has_columns(expr: &Expr) -> Result<bool> {
    expr.exists(|node| Ok(matches!(node, Expr::Column(_))))
}

/// `column = expr`, for use in the subquery.
fn compared(expr: &Expr, column: Column, schema: &DFSchema) -> Result<Expr> {
    let outer = expr.clone().transform_up(|node| match node {
        Expr::Column(column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(Expr::Column(column).eq(outer.data))
}

/// Whether the subquery has a row for which `condition` is true.
fn exists(subquery: &Subquery, condition: Expr, negated: bool) -> Result<Expr> {
    let plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone()).filter(condition)?;
    let rows = with_rows(subquery, plan.build()?);
    // For existence one row suffices.
    let rows = match rows.outer_ref_columns.is_empty() {
        true => {
            let one = LogicalPlanBuilder::from(rows.subquery).limit(0, Some(1))?;
            with_rows(subquery, one.build()?)
        }
        false => rows,
    };
    Ok(Expr::Exists(Exists {
        subquery: rows,
        negated,
    }))
}
