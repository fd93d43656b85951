//! Scope of jobs (SCOPE-1): row-wise operators, joins with static tables, and at most one aggregate.

use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{
    Expr, FetchType, Join, Limit, LogicalPlan, SkipType, Union, Volatility,
};

use crate::error::{Error, Result, Subject};
use crate::planner::ast::Emit;
use crate::streaming::split::aggregate_of;
use crate::streaming::stream_inputs::{StreamSources, reads_stream};

/// Refuses operators that do not run in a job, by name; queries of static tables may use all of them. Returns true if the job
/// keeps state: it aggregates over more than one batch.
///
/// # Errors
///
/// The operator that does not run in a job.
pub(crate) fn check_scope(
    input: &LogicalPlan,
    emit: Emit,
    sources: &StreamSources,
) -> Result<bool> {
    let is_stateful = emit != Emit::PerBatch && aggregate_of(input, sources).is_some();
    let mut scope = ScopeCheck {
        sources,
        is_stateful,
        aggregates: 0,
    };
    scope.check(input)?;
    check_functions(input)?;
    Ok(is_stateful)
}

struct ScopeCheck<'a> {
    sources: &'a StreamSources,
    is_stateful: bool,
    aggregates: usize,
}

impl ScopeCheck<'_> {
    fn check(&mut self, plan: &LogicalPlan) -> Result<()> {
        if !reads_stream(plan, self.sources) {
            return Ok(());
        }
        match plan {
            LogicalPlan::Join(join) => self.check_join(join)?,
            LogicalPlan::Union(union) => self.check_union(union)?,
            _ => {}
        }
        if let Some(operator) = self.outside(plan) {
            return Err(Error::unsupported(format!(
                "{operator} does not run in a job yet"
            ))
            .with_help(
                "a job is projections, filters, UNION ALL, joins with static tables, and at most one aggregate by window or key",
            ));
        }
        for expr in plan.expressions() {
            self.check_subqueries(plan, &expr)?;
        }
        for input in plan.inputs() {
            self.check(input)?;
        }
        Ok(())
    }

    /// The operator, if it does not run over a stream.
    fn outside(&mut self, plan: &LogicalPlan) -> Option<&'static str> {
        match plan {
            LogicalPlan::Aggregate(_) => {
                self.aggregates += 1;
                (self.aggregates > 1).then_some("a second aggregate")
            }
            LogicalPlan::Distinct(_) => Some("DISTINCT"),
            // ORDER BY of a query in WITH, which is kept by an OFFSET of zero.
            LogicalPlan::Limit(limit) if keeps_all(limit) && is_ordered(&limit.input) => {
                Some("ORDER BY")
            }
            LogicalPlan::Limit(_) => Some("LIMIT"),
            LogicalPlan::Sort(_) => Some("ORDER BY"),
            LogicalPlan::Window(_) => Some("OVER"),
            LogicalPlan::RecursiveQuery(_) => Some("WITH RECURSIVE"),
            LogicalPlan::Extension(node) => match node.node.name() {
                "CompleteSessions" => Some("COMPLETE_SESSIONS"),
                "SessionWindow" if !self.is_stateful => {
                    Some("SESSION without an aggregate over it")
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Checks that the stream is the preserved side of a join: rows that only the static table has would come again with every
    /// batch.
    fn check_join(&self, join: &Join) -> Result<()> {
        let is_stream = |plan: &LogicalPlan| reads_stream(plan, self.sources);
        let is_left = is_stream(&join.left);
        if is_left && is_stream(&join.right) {
            return Err(
                Error::unsupported("a join of two streams does not run in a job yet").with_help(
                    "a job joins one stream with static tables: Delta tables, views over them, VALUES",
                ),
            );
        }
        let (kind, refused) = match join.join_type {
            JoinType::Full => ("FULL JOIN", true),
            JoinType::Left => ("LEFT JOIN", !is_left),
            JoinType::Right => ("RIGHT JOIN", is_left),
            JoinType::LeftSemi | JoinType::LeftMark => ("LEFT SEMI JOIN", !is_left),
            JoinType::RightSemi | JoinType::RightMark => ("RIGHT SEMI JOIN", is_left),
            JoinType::LeftAnti => ("LEFT ANTI JOIN", !is_left),
            JoinType::RightAnti => ("RIGHT ANTI JOIN", is_left),
            JoinType::Inner => ("JOIN", false),
        };
        if !refused {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "a {kind} that keeps rows of a static table does not run in a job"
        ))
        .with_help(
            "they would come again with every batch: keep the rows of the stream, as in FROM stream LEFT JOIN table",
        ))
    }

    fn check_union(&self, union: &Union) -> Result<()> {
        let mut inputs = union.inputs.iter();
        if inputs.all(|input| reads_stream(input, self.sources)) {
            return Ok(());
        }
        Err(
            Error::unsupported("UNION ALL with rows of a static table does not run in a job")
                .with_help("they would come again with every batch: write them with an INSERT INTO without CREATE JOB"),
        )
    }

    /// Checks that subqueries read only static tables and are not part of an aggregate over more than one batch.
    fn check_subqueries(&self, plan: &LogicalPlan, expr: &Expr) -> Result<()> {
        let mut refused = None;
        expr.apply(|part| {
            let subquery = match part {
                Expr::InSubquery(query) => &query.subquery,
                Expr::Exists(query) => &query.subquery,
                Expr::SetComparison(query) => &query.subquery,
                Expr::ScalarSubquery(query) => query,
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            if reads_stream(&subquery.subquery, self.sources) {
                refused = Some(
                    Error::unsupported("a subquery over a stream does not run in a job yet")
                        .with_help(
                            "in a job IN, EXISTS and other subqueries are about static tables",
                        ),
                );
                return Ok(TreeNodeRecursion::Stop);
            }
            if self.is_stateful && matches!(plan, LogicalPlan::Aggregate(_)) {
                refused = Some(
                    Error::unsupported(
                        "a subquery inside a job's GROUP BY or aggregate does not run yet",
                    )
                    .with_help("join the table, or compute the column in a subquery in FROM"),
                );
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        refused.map_or(Ok(()), Err)
    }
}

fn keeps_all(limit: &Limit) -> bool {
    let skips_none = matches!(limit.get_skip_type(), Ok(SkipType::Literal(0)));
    skips_none && matches!(limit.get_fetch_type(), Ok(FetchType::Literal(None)))
}

fn is_ordered(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(list) => is_ordered(&list.input),
        _ => false,
    }
}

/// Refuses functions that return another value at each call.
fn check_functions(input: &LogicalPlan) -> Result<()> {
    let mut found = None;
    input.apply_with_subqueries(|plan| {
        for expr in plan.expressions() {
            if let Some(function) = volatile(&expr)? {
                found = Some(function);
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match found {
        Some(function) => Err(Error::unsupported(format!("a job cannot use {function}()"))
            .about(Subject::function(function))
            .with_help("a batch that is run again after a crash must give the same rows")),
        None => Ok(()),
    }
}

/// The name of a function in the expression that returns another value at each call.
fn volatile(expr: &Expr) -> Result<Option<String>> {
    let mut found = None;
    expr.apply(|part| {
        if let Expr::ScalarFunction(call) = part
            && call.func.signature().volatility == Volatility::Volatile
        {
            found = Some(call.func.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}
