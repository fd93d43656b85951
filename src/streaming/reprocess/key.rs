//! Whether the PRIMARY KEY of a job's sink tells windows apart, by the lineage of its columns: else a run would put rows of old windows
//! over those of newer ones.

use anabranch_udfs::WindowKind;
use datafusion::logical_expr::LogicalPlan;

use super::times::{Relation, TimeLineage, event_times};
use crate::core::runs::Grouping;
use crate::error::{Error, Result, Subject};
use crate::streaming::lineage::ColumnOrigin;
use crate::streaming::stream_inputs::StreamSources;

/// Refuses a run of a job whose sink has a key that does not tell windows apart.
///
/// # Errors
///
/// The refusal, with its reason.
pub(in crate::streaming) fn check_key(
    plan: &LogicalPlan,
    grouping: Grouping,
    sources: &StreamSources,
    key: &[usize],
    sink: &str,
) -> Result<()> {
    let either = || vec![ColumnOrigin::WindowStart, ColumnOrigin::WindowEnd];
    // `apart`: so far the windows of one key are from each other.
    let (wanted, column, apart) = match grouping {
        Grouping::Rows => return check_rows(plan, sources, key, sink),
        // Of the windows of one cycle, all have one start.
        Grouping::Aligned(windows) if windows.kind() == WindowKind::Cumulate => {
            (vec![ColumnOrigin::WindowEnd], "window_end", windows.step())
        }
        Grouping::Aligned(windows) => (either(), "window_start", windows.step()),
        Grouping::Sessions { gap } => (either(), "window_start", gap),
    };
    if key.is_empty() {
        return Ok(());
    }
    let lineage = TimeLineage {
        sources,
        wanted,
        relation: Relation::Injective { apart },
    };
    if lineage.has_one_of(plan, key)? {
        return Ok(());
    }
    let fields = plan.schema().fields();
    let names = key.iter().filter_map(|index| fields.get(*index));
    let names: Vec<&str> = names.map(|field| field.name().as_str()).collect();
    Err(Error::invalid(format!(
        "PRIMARY KEY ({}) of {sink} does not tell windows apart: a run would put rows of old windows over those of newer ones",
        names.join(", ")
    ))
    .about(Subject::table(sink))
    .with_help(format!(
        "a sink whose key has {column} keeps a row for each window; WITH ('overwrite' 'true') writes the rows of old windows all the same"
    )))
}

/// The same of a job that groups no rows: a key that has the event time keeps old rows apart from newer ones.
fn check_rows(
    plan: &LogicalPlan,
    sources: &StreamSources,
    key: &[usize],
    sink: &str,
) -> Result<()> {
    let lineage = TimeLineage {
        sources,
        wanted: event_times(sources),
        relation: Relation::Injective { apart: 1 },
    };
    if key.is_empty() || lineage.has_one_of(plan, key)? {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the PRIMARY KEY of {sink} does not have the event time: a run would put old rows over newer ones"
    ))
    .about(Subject::table(sink))
    .with_help(
        "WITH ('overwrite' 'true') writes old rows all the same: where each row has a key of its own, none is lost",
    ))
}
