//! Whether the PRIMARY KEY of a job's sink tells windows apart, by the lineage of its columns: else a run would put rows of old windows
//! over those of newer ones.

use anabranch_udfs::WindowKind;
use datafusion::logical_expr::LogicalPlan;

use super::times::{Relation, TimeLineage};
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
    let (wanted, column) = match grouping {
        Grouping::Rows => return Ok(()),
        // Of the windows of one cycle, all have one start.
        Grouping::Aligned(windows) if windows.kind() == WindowKind::Cumulate => {
            (vec![ColumnOrigin::WindowEnd], "window_end")
        }
        Grouping::Aligned(_) | Grouping::Sessions { .. } => {
            let either = vec![ColumnOrigin::WindowStart, ColumnOrigin::WindowEnd];
            (either, "window_start")
        }
    };
    if key.is_empty() {
        return Ok(());
    }
    let lineage = TimeLineage {
        sources,
        wanted,
        relation: Relation::Injective,
    };
    for index in key {
        if lineage.has(plan, *index)? {
            return Ok(());
        }
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
