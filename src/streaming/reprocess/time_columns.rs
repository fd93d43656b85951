//! The columns of a job's rows that are the times to which its results belong, by lineage: by them a run finds the rows of a table that
//! a chunk replaces.

use datafusion::logical_expr::LogicalPlan;

use super::times::{Relation, TimeLineage, event_times};
use crate::core::runs::Grouping;
use crate::error::Result;
use crate::streaming::lineage::ColumnOrigin;
use crate::streaming::stream_inputs::StreamSources;

/// The columns of a sink that are times of a job's results, as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeColumns {
    /// The start of the window or session; of a job without groups, the event time of the row.
    pub start: Option<String>,
    /// The end of the window or session.
    pub end: Option<String>,
}

/// The columns of the rows of this analyzed plan.
///
/// # Errors
///
/// None that a caller could cause.
pub(in crate::streaming) fn time_columns(
    plan: &LogicalPlan,
    grouping: Grouping,
    sources: &StreamSources,
) -> Result<TimeColumns> {
    let (starts, ends) = match grouping {
        Grouping::Rows => (event_times(sources), Vec::new()),
        Grouping::Aligned(_) | Grouping::Sessions { .. } => (
            vec![ColumnOrigin::WindowStart],
            vec![ColumnOrigin::WindowEnd],
        ),
    };
    let first = |wanted: Vec<ColumnOrigin>| -> Result<Option<String>> {
        let lineage = TimeLineage {
            sources,
            wanted,
            relation: Relation::Equal,
        };
        for (index, field) in plan.schema().fields().iter().enumerate() {
            if lineage.has(plan, index)? {
                return Ok(Some(field.name().clone()));
            }
        }
        Ok(None)
    };
    Ok(TimeColumns {
        start: first(starts)?,
        end: first(ends)?,
    })
}
