//! The last look at a plan before it is made one of operators: what it says of sizes is known now, and nothing rewrites it any more
//! (SAFE-1).

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::Session;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::{Error, ErrorKind};

/// Centroids of one approximate percentile: each group has so many.
const CENTROIDS: i64 = 1_000;

/// Another planner, which is given plans that say nothing of sizes beyond reason.
#[derive(Debug)]
pub(super) struct BoundedPlanner {
    inner: Arc<dyn QueryPlanner + Send + Sync>,
}

impl BoundedPlanner {
    /// Before `inner`.
    pub(super) fn new(inner: Arc<dyn QueryPlanner + Send + Sync>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl QueryPlanner for BoundedPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        check(plan)?;
        self.inner.create_physical_plan(plan, session).await
    }
}

/// Refuses aggregates that would take room for more than they can be given.
fn check(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|part| {
                let (name, args) = match part {
                    Expr::AggregateFunction(call) => (call.func.name(), &call.params.args),
                    Expr::WindowFunction(call) => (call.fun.name(), &call.params.args),
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                let place = match name {
                    "approx_percentile_cont" => 2,
                    "approx_percentile_cont_with_weight" => 3,
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                match args.get(place).is_none_or(are_few) {
                    true => Ok(TreeNodeRecursion::Continue),
                    false => Err(DataFusionError::from(
                        Error::new(
                            ErrorKind::Exhausted,
                            format!("{name} keeps up to {CENTROIDS} centroids"),
                        )
                        .with_help("write a number up to that, or none for 100"),
                    )),
                }
            })
        })
    })?;
    Ok(())
}

/// Whether this is a number of centroids that has room. A wrong one is refused by the aggregate.
fn are_few(count: &Expr) -> bool {
    let Expr::Literal(count, _) = count else {
        return false;
    };
    match count.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(count)) => count.is_none_or(|count| count <= CENTROIDS),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::error::{ErrorKind, Result};
    use crate::planner::{Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    async fn run(sql: &str) -> Result<usize> {
        let session = Session::try_new(&SessionOptions::default())?;
        let raw = Script::new("test", sql).split()?.remove(0);
        let rows = session.collect(parse_statement(&raw)?).await?;
        Ok(rows.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn aggregates_keep_as_many_centroids_as_have_room() {
        let calls = |count: &str| {
            [
                format!("approx_percentile_cont(value, 0.5, {count})"),
                format!("approx_percentile_cont(0.5, {count}) WITHIN GROUP (ORDER BY value)"),
                format!("approx_percentile_cont_with_weight(value, 1, 0.5, {count})"),
                format!("approx_percentile_cont(value, 0.5, {count}) OVER ()"),
            ]
        };
        for count in ["200000000000000", "100000 * 100000", "2000"] {
            for call in calls(count) {
                let sql = format!("SELECT {call} FROM generate_series(1, 10)");
                for sql in [
                    format!("SELECT * FROM ({sql})"),
                    format!("SELECT 1 WHERE 5 IN ({sql})"),
                    sql,
                ] {
                    let error = run(&sql).await.expect_err(&sql);
                    assert_eq!(error.kind(), ErrorKind::Exhausted, "{sql}: {error}");
                }
            }
        }
        for call in calls("500") {
            let sql = format!("SELECT {call} FROM generate_series(1, 10)");
            assert!(run(&sql).await.expect(&sql) > 0, "{sql}");
        }
    }
}
