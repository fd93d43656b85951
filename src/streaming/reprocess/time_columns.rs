//! The columns of a job's sink that say which result a row is, by their lineage: the start and the end of its window or session, or its
//! event time.

use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::core::runs::Grouping;
use crate::error::Result;
use crate::streaming::lineage::ColumnOrigin;
use crate::streaming::reprocess::key::WantedColumns;
use crate::streaming::stream_inputs::StreamSources;

/// Columns of a sink, by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeColumns {
    /// The start of the window or session, or the event time of a job that groups no rows; none if no column is just that.
    pub start: Option<usize>,
    /// The end of the window or session.
    pub end: Option<usize>,
}

/// Those of the rows of an analyzed plan, which are in the columns of the sink.
///
/// # Errors
///
/// None that a caller could cause.
pub(in crate::streaming) fn time_columns(
    plan: &LogicalPlan,
    grouping: Grouping,
    sources: &StreamSources,
) -> Result<TimeColumns> {
    let (start, end) = match grouping {
        Grouping::Rows => (event_times(sources), Vec::new()),
        Grouping::Aligned(_) | Grouping::Sessions { .. } => (
            vec![ColumnOrigin::WindowStart],
            vec![ColumnOrigin::WindowEnd],
        ),
    };
    let columns = plan.schema().columns();
    let first_of = |needed: &[ColumnOrigin]| -> Result<Option<usize>> {
        let wanted = WantedColumns {
            needed,
            exactly: true,
            sources,
        };
        for (index, column) in columns.iter().enumerate() {
            if wanted.are_told_by(plan, &Expr::Column(column.clone()))? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    };
    Ok(TimeColumns {
        start: first_of(&start)?,
        end: first_of(&end)?,
    })
}

/// The event times of the streams.
fn event_times(sources: &StreamSources) -> Vec<ColumnOrigin> {
    let times = sources.iter().filter_map(|(table, source)| {
        Some(ColumnOrigin::Table {
            table: table.clone(),
            column: source.event_time()?.column.clone(),
        })
    });
    times.collect()
}
