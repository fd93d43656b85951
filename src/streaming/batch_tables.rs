//! Tables and values that one batch of a job reads: they take the place of those that its statement was planned with.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{LogicalPlan, TableScan};

use crate::error::Result;
use crate::session::rewrite::arguments::Values;
use crate::streaming::stream_inputs::{BatchTables, over, table_of};

/// What a batch reads.
#[derive(Debug, Clone, Default)]
pub(super) struct BatchInputs {
    /// Its tables.
    pub(super) tables: BatchTables,
    /// The values of queries in arguments.
    pub(super) values: Values,
}

impl BatchInputs {
    /// The plan over these tables, with these values.
    ///
    /// # Errors
    ///
    /// A table has changed so that the plan no longer fits.
    pub(super) fn put_into(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        self.values.put_into(over(plan, &self.tables)?)
    }

    /// Whether each of these tables has the columns that `plan` was made with.
    pub(super) fn have_columns_of(&self, plan: &LogicalPlan) -> Result<bool> {
        let mut is_same = true;
        plan.apply_with_subqueries(|part| {
            if let LogicalPlan::TableScan(scan) = part
                && let Some(provider) = self.provider(scan)
                && provider.schema().fields() != scan.source.schema().fields()
            {
                is_same = false;
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(is_same)
    }

    fn provider(&self, scan: &TableScan) -> Option<&Arc<dyn TableProvider>> {
        let stream = table_of(scan).and_then(|name| self.tables.streams.get(name));
        stream.or_else(|| self.tables.statics.get(&scan.table_name))
    }

    /// The same without the streams, which the part of a plan above its aggregate does not read.
    pub(super) fn without_streams(&self) -> Self {
        let statics = self.tables.statics.clone();
        Self {
            tables: BatchTables {
                statics,
                ..BatchTables::default()
            },
            values: self.values.clone(),
        }
    }
}
