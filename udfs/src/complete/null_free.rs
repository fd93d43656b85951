//! Columns that are known to have no NULL, so that the check for NULLs can be omitted.

use std::fmt;

use datafusion::catalog::TableProvider;
use datafusion::common::Column;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, LogicalPlan};

type IsKnown = dyn Fn(&dyn TableProvider, &str) -> bool + Send + Sync;

/// Checks whether a table's column is known to have no NULL: by statistics, without reading it. Put an `Arc` of it into the
/// session with `SessionConfig::with_extension`; without it `COMPLETE_SESSIONS` plans a query that searches for NULLs.
pub struct NullFreeColumns {
    is_known: Box<IsKnown>,
}

impl NullFreeColumns {
    /// `is_known` gets a table and the name of its column; it returns false if that cannot be decided.
    pub fn new(
        is_known: impl Fn(&dyn TableProvider, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            is_known: Box::new(is_known),
        }
    }

    /// Whether `expr` over `plan` is a column that is known to have no NULL.
    pub(super) fn has(&self, plan: &LogicalPlan, expr: &Expr) -> bool {
        match expr {
            Expr::Column(column) => self.has_column(plan, column),
            Expr::Alias(alias) => self.has(plan, &alias.expr),
            _ => false,
        }
    }

    fn has_column(&self, plan: &LogicalPlan, column: &Column) -> bool {
        let Some(index) = plan.schema().maybe_index_of_column(column) else {
            return false;
        };
        match plan {
            LogicalPlan::TableScan(scan) => source_as_provider(&scan.source)
                .is_ok_and(|table| (self.is_known)(table.as_ref(), &column.name)),
            LogicalPlan::SubqueryAlias(alias) => {
                let columns = alias.input.schema().columns();
                columns
                    .get(index)
                    .is_some_and(|column| self.has_column(&alias.input, column))
            }
            LogicalPlan::Projection(projection) => projection
                .expr
                .get(index)
                .is_some_and(|expr| self.has(&projection.input, expr)),
            LogicalPlan::Filter(filter) => self.has_column(&filter.input, column),
            _ => false,
        }
    }
}

impl fmt::Debug for NullFreeColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NullFreeColumns").finish_non_exhaustive()
    }
}
