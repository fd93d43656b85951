//! Refusal of correlated subqueries that DataFusion would answer wrongly.
//!
//! DataFusion makes joins of them, and for that moves the conditions on the outer row out of the subquery. That changes the
//! result where the subquery counts, numbers or limits rows, or returns a row for no input. This module refuses such subqueries
//! by name.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{JoinType, NullEquality, Result, not_impl_err};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion::logical_expr::{
    Distinct, Expr, FetchType, Limit, LogicalPlan, SkipType, Subquery, not,
};

use crate::checked::cast_value;
use crate::diagnostic::not_supported;
use crate::operands::with_rows;
use crate::push_down_filters::returns_row_for_empty_input;

/// Aggregates that are NULL for empty input.
const NULL_OF_NOTHING: [&str; 8] = [
    "avg",
    "first_value",
    "last_value",
    "max",
    "median",
    "min",
    "stddev",
    "sum",
];

/// The use of a subquery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubqueryUse {
    /// As IN in a filter, where unknown counts as false.
    In,
    /// As NOT IN, or where unknown differs from false.
    NotIn,
    /// As EXISTS.
    Exists,
    /// In a comparison with ANY or ALL.
    Compared,
    /// As a scalar subquery.
    Value,
    /// As LATERAL.
    Lateral,
}

impl SubqueryUse {
    fn name(self) -> &'static str {
        match self {
            SubqueryUse::In => "IN (SELECT …)",
            SubqueryUse::NotIn => "NOT IN (SELECT …)",
            SubqueryUse::Exists => "EXISTS (SELECT …)",
            SubqueryUse::Compared => "ANY or ALL of (SELECT …)",
            SubqueryUse::Value => "(SELECT …)",
            SubqueryUse::Lateral => "LATERAL (SELECT …)",
        }
    }
}

/// The part of the subquery above a condition on the outer row, out of which the condition cannot be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockingPart {
    Aggregate,
    Limit,
    Window,
    DistinctOn,
    OuterJoin,
    Union,
    Intersection,
    Recursion,
}

impl BlockingPart {
    fn name(self) -> &'static str {
        match self {
            BlockingPart::Aggregate => "an aggregate without GROUP BY",
            BlockingPart::Limit => "LIMIT or OFFSET",
            BlockingPart::Window => "a window function",
            BlockingPart::DistinctOn => "DISTINCT ON",
            BlockingPart::OuterJoin => "an outer join",
            BlockingPart::Union => "UNION",
            BlockingPart::Intersection => "INTERSECT or EXCEPT",
            BlockingPart::Recursion => "WITH RECURSIVE",
        }
    }

    fn help(self) -> &'static str {
        match self {
            BlockingPart::Aggregate => {
                "compare with the value, as in x = (SELECT max(b) …) or (SELECT count(*) …) > 0, or LEFT JOIN the aggregate with GROUP BY"
            }
            BlockingPart::Limit => {
                "leave it out, or join with a query that numbers its rows by row_number()"
            }
            BlockingPart::Union => {
                "query each part of the UNION by itself, and put OR between them"
            }
            BlockingPart::Intersection => {
                "compare in WHERE: by IS NOT DISTINCT FROM for INTERSECT, and by NOT EXISTS for EXCEPT"
            }
            BlockingPart::Window
            | BlockingPart::DistinctOn
            | BlockingPart::OuterJoin
            | BlockingPart::Recursion => "join with a query that has it for all rows",
        }
    }
}

/// Refuses subqueries of EXISTS, IN, ANY and ALL in an expression that the engine would answer wrongly.
///
/// # Errors
///
/// The expression has such a subquery.
pub(crate) fn check_within(expr: &Expr) -> Result<()> {
    expr.apply(|part| {
        match part {
            Expr::Exists(Exists { subquery, .. }) => {
                check(&subquery.subquery, SubqueryUse::Exists)?
            }
            Expr::SetComparison(SetComparison { subquery, .. }) => {
                check(&subquery.subquery, SubqueryUse::Compared)?;
            }
            Expr::ScalarSubquery(subquery) => check_values(subquery, SubqueryUse::Value)?,
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// Refuses a subquery that the engine would answer wrongly.
///
/// # Errors
///
/// The engine would answer it wrongly.
pub(crate) fn check(subquery: &LogicalPlan, asked: SubqueryUse) -> Result<()> {
    let mut walk = ConditionWalk {
        all: outer_references(subquery),
        found: Vec::new(),
    };
    if walk.all == 0 {
        return Ok(());
    }
    let plan = match asked {
        SubqueryUse::Exists => without_limit(subquery),
        _ => subquery,
    };
    walk.visit(plan, 0);
    let Some(place) = walk.found.first() else {
        return Ok(());
    };
    // NULL matches no value, and neither does empty input.
    if asked == SubqueryUse::In
        && walk.found == [BlockingPart::Aggregate]
        && is_null_for_empty_input(subquery, 0)
    {
        return Ok(());
    }
    not_impl_err!(
        "{} with a condition on the outer row below {} is not supported: {}",
        asked.name(),
        place.name(),
        place.help()
    )
}

/// Refuses a scalar or LATERAL subquery that the engine would answer wrongly. For aggregates and LIMIT the engine itself checks
/// which it can join.
///
/// # Errors
///
/// The engine would answer it wrongly.
pub(crate) fn check_values(subquery: &Subquery, asked: SubqueryUse) -> Result<()> {
    let mut walk = ConditionWalk {
        all: outer_references(&subquery.subquery),
        found: Vec::new(),
    };
    if walk.all == 0 {
        return Ok(());
    }
    walk.visit(&subquery.subquery, 0);
    let mut found = walk.found.into_iter();
    let Some(place) =
        found.find(|place| !matches!(place, BlockingPart::Aggregate | BlockingPart::Limit))
    else {
        return Ok(());
    };
    Err(not_supported(
        format!(
            "{} with a condition on the outer row below {} is not supported",
            asked.name(),
            place.name()
        ),
        subquery.spans.first(),
        place.help(),
    ))
}

/// Splits correlated `EXISTS (a UNION b)` and `x IN (a UNION b)` into one expression for each of the two queries.
///
/// # Errors
///
/// None in practice.
pub(crate) fn without_unions(expr: Expr) -> Result<Transformed<Expr>> {
    expr.transform_down(|part| {
        let inputs = match &part {
            Expr::Exists(Exists { subquery, .. })
            | Expr::InSubquery(InSubquery { subquery, .. })
                if !subquery.outer_ref_columns.is_empty() =>
            {
                united(&subquery.subquery)
            }
            _ => None,
        };
        let Some(inputs) = inputs else {
            return Ok(Transformed::no(part));
        };
        let each = inputs.iter().map(|input| asked_of(&part, input));
        let is_negated = match &part {
            Expr::Exists(of) => of.negated,
            Expr::InSubquery(of) => of.negated,
            _ => false,
        };
        let Some(any) = each.reduce(Expr::or) else {
            return Ok(Transformed::no(part));
        };
        Ok(Transformed::yes(match is_negated {
            true => not(any),
            false => any,
        }))
    })
}

/// The same expression over another query, and not negated.
fn asked_of(expr: &Expr, query: &Arc<LogicalPlan>) -> Expr {
    let subquery = |of: &Subquery| with_rows(of, Arc::clone(query));
    match expr {
        Expr::Exists(of) => Expr::Exists(Exists {
            subquery: subquery(&of.subquery),
            negated: false,
        }),
        Expr::InSubquery(of) => Expr::InSubquery(InSubquery {
            expr: of.expr.clone(),
            subquery: subquery(&of.subquery),
            negated: false,
        }),
        other => other.clone(),
    }
}

/// The queries of a UNION.
fn united(plan: &LogicalPlan) -> Option<&[Arc<LogicalPlan>]> {
    match plan {
        LogicalPlan::Distinct(Distinct::All(input)) => united(input),
        LogicalPlan::Union(union) => Some(&union.inputs),
        _ => None,
    }
}

struct ConditionWalk {
    /// The number of references to the outer row so far.
    all: usize,
    found: Vec<BlockingPart>,
}

impl ConditionWalk {
    /// Visits a node, with this many references to the outer row above it.
    fn visit(&mut self, plan: &LogicalPlan, above: usize) {
        let above = above + own_references(plan);
        let below = outer_references(plan) - own_references(plan);
        let place = match plan {
            LogicalPlan::Aggregate(aggregate) => {
                returns_row_for_empty_input(aggregate).then_some(BlockingPart::Aggregate)
            }
            LogicalPlan::Window(_) => Some(BlockingPart::Window),
            LogicalPlan::Distinct(Distinct::On(_)) => Some(BlockingPart::DistinctOn),
            LogicalPlan::RecursiveQuery(_) => Some(BlockingPart::Recursion),
            LogicalPlan::Join(join) => {
                let (left, right) = (outer_references(&join.left), outer_references(&join.right));
                let is_lost = match join.join_type {
                    JoinType::Inner => false,
                    JoinType::Left
                    | JoinType::LeftSemi
                    | JoinType::LeftAnti
                    | JoinType::LeftMark => right > 0,
                    JoinType::Right
                    | JoinType::RightSemi
                    | JoinType::RightAnti
                    | JoinType::RightMark => left > 0,
                    JoinType::Full => left + right > 0,
                };
                let place = match join.null_equality {
                    NullEquality::NullEqualsNull => BlockingPart::Intersection,
                    NullEquality::NullEqualsNothing => BlockingPart::OuterJoin,
                };
                is_lost.then_some(place)
            }
            LogicalPlan::Union(_) => Some(BlockingPart::Union),
            // The engine also drops the LIMIT where the condition stands beside it.
            LogicalPlan::Limit(_) if self.all > above => Some(BlockingPart::Limit),
            _ => None,
        };
        self.found
            .extend(place.filter(|place| below > 0 || *place == BlockingPart::Limit));
        for input in plan.inputs() {
            self.visit(input, above);
        }
    }
}

/// The plan below a LIMIT that keeps at least one row.
fn without_limit(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Limit(limit) if leaves_one(limit) => without_limit(&limit.input),
        LogicalPlan::Subquery(subquery) => without_limit(&subquery.subquery),
        LogicalPlan::SubqueryAlias(alias) => without_limit(&alias.input),
        LogicalPlan::Projection(projection) if own_references(plan) == 0 => {
            without_limit(&projection.input)
        }
        _ => plan,
    }
}

fn leaves_one(limit: &Limit) -> bool {
    let skips_none = matches!(limit.get_skip_type(), Ok(SkipType::Literal(0)));
    let fetches_one = match limit.get_fetch_type() {
        Ok(FetchType::Literal(fetch)) => fetch.is_none_or(|fetch| fetch > 0),
        _ => false,
    };
    skips_none && fetches_one
}

/// Whether a column of a subquery is NULL if its aggregate has no rows.
fn is_null_for_empty_input(plan: &LogicalPlan, column: usize) -> bool {
    match plan {
        LogicalPlan::Subquery(subquery) => is_null_for_empty_input(&subquery.subquery, column),
        LogicalPlan::SubqueryAlias(alias) => is_null_for_empty_input(&alias.input, column),
        LogicalPlan::Filter(filter) => is_null_for_empty_input(&filter.input, column),
        LogicalPlan::Projection(projection) => {
            let mut expr = projection.expr.get(column);
            while let Some(inner) = match expr {
                Some(Expr::Alias(alias)) => Some(alias.expr.as_ref()),
                Some(other) => cast_value(other),
                None => None,
            } {
                expr = Some(inner);
            }
            match expr {
                Some(Expr::Column(of)) => {
                    let place = projection.input.schema().maybe_index_of_column(of);
                    place.is_some_and(|place| is_null_for_empty_input(&projection.input, place))
                }
                _ => false,
            }
        }
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => {
            let mut expr = aggregate.aggr_expr.get(column);
            while let Some(Expr::Alias(alias)) = expr {
                expr = Some(alias.expr.as_ref());
            }
            match expr {
                Some(Expr::AggregateFunction(function)) => {
                    NULL_OF_NOTHING.contains(&function.func.name())
                }
                _ => false,
            }
        }
        _ => false,
    }
}

/// The number of references to the outer row in a plan, without those in nested subqueries.
fn outer_references(plan: &LogicalPlan) -> usize {
    let below = plan.inputs().into_iter().map(outer_references);
    own_references(plan) + below.sum::<usize>()
}

fn own_references(plan: &LogicalPlan) -> usize {
    let mut count = 0;
    let counted = plan.apply_expressions(|expr| {
        expr.apply(|part| {
            count += usize::from(matches!(part, Expr::OuterReferenceColumn(..)));
            Ok(TreeNodeRecursion::Continue)
        })
    });
    match counted {
        Ok(_) => count,
        Err(_) => 1,
    }
}
