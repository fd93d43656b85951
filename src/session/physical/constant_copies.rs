//! Limit for copies of constants: in `WHERE length(c) > 1 AND length(c) > 2` over a query that computes `c` as a constant, the
//! optimizer moves the conditions below that query, and replaces each column by the constant (SAFE-1). A constant may be as
//! large as the limit of one function call.

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::session::limits::{array_bytes, memory_checks};

/// Any number of copies of smaller constants is acceptable.
const SMALL: usize = 4 << 10;

/// Refuses a condition that is pushed below a query if the copies of constants in it exceed the memory of the statement.
///
/// # Errors
///
/// The copies exceed it.
pub(crate) fn check(plan: &LogicalPlan) -> Result<()> {
    let LogicalPlan::Filter(filter) = plan else {
        return Ok(());
    };
    let LogicalPlan::Projection(projection) = filter.input.as_ref() else {
        return Ok(());
    };
    let sizes = projection.expr.iter().map(array_bytes::of_literals);
    let sizes = sizes.collect::<Result<Vec<usize>>>()?;
    if sizes.iter().all(|size| *size <= SMALL) {
        return Ok(());
    }
    let mut copies = 0_usize;
    filter.predicate.apply(|part| {
        if let Expr::Column(column) = part {
            let place = projection.schema.index_of_column(column);
            let size = place.ok().and_then(|place| sizes.get(place));
            copies = copies.saturating_add(size.copied().unwrap_or(0));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    memory_checks::go_on(copies)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::core::heap;
    use crate::error::ErrorKind;
    use crate::planner::{Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    #[tokio::test]
    async fn a_large_constant_is_not_copied_into_many_conditions() {
        let rows = |conditions: usize| {
            let conditions: Vec<String> = (0..conditions)
                .map(|n| format!("length(c) > value + {n}"))
                .collect();
            let sql = format!(
                "SELECT value FROM (SELECT value, repeat('x', 4000000) AS c FROM generate_series(1, 3)) WHERE {}",
                conditions.join(" AND ")
            );
            async move {
                let session = Session::try_new(&SessionOptions::default())?;
                let raw = Script::new("test", &sql).split()?.remove(0);
                let work = session.collect(parse_statement(&raw)?);
                let owner = Arc::new(heap::MemoryOwner::default());
                let rows = heap::within(owner, 256 << 20, work).await?;
                Ok::<usize, crate::error::Error>(rows.iter().map(|rows| rows.num_rows()).sum())
            }
        };
        assert_eq!(rows(2).await.unwrap(), 3);
        let error = rows(200).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    }
}
