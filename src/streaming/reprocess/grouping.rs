//! How a job puts rows together in time, for its runs.

use anabranch_udfs::{EventWindow, SessionWindow};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::{Expr, ExprSchemable as _, Extension, LogicalPlan};

use crate::core::runs::Grouping;
use crate::error::{Error, Result};
use crate::streaming::split::aggregate_of;
use crate::streaming::stream_inputs::{StreamSources, stream_inputs};

/// How a job with this analyzed plan puts rows together; `is_stateful` says whether its aggregate is over more than a batch.
///
/// # Errors
///
/// Why it cannot be reprocessed.
pub(in crate::streaming) fn grouping_of(
    plan: &LogicalPlan,
    is_stateful: bool,
    sources: &StreamSources,
) -> Result<Grouping> {
    let Some(aggregate) = aggregate_of(plan, sources) else {
        return Ok(Grouping::Rows);
    };
    if !is_stateful {
        return Err(Error::unsupported(
            "a job with EMIT PER BATCH that aggregates is not reprocessed: its groups are those of a batch, and batches of another cut give other rows",
        )
        .with_help("group by a window, TUMBLE, HOP, CUMULATE or SESSION, and leave EMIT PER BATCH out"));
    }
    let mut found = groupings(&aggregate.input, sources)?;
    found.dedup();
    match found.as_slice() {
        [Some(grouping)] => Ok(*grouping),
        [None] | [] => Err(Error::unsupported(
            "a job that aggregates by key without a window is not reprocessed: each of its rows is made of the whole history",
        )
        .with_help(
            "group by a window; or create a job with the same query and 'scan.startup' 'earliest', which reads the history from its begin",
        )),
        _ => Err(Error::unsupported(
            "a job whose UNION ALL has rows of several windows below one aggregate is not reprocessed: what a range of event time holds \
             differs from window to window",
        )
        .with_help("create a job for each window; each of them can be reprocessed")),
    }
}

/// How the rows of streams below an aggregate are put together: those of each arm of a UNION ALL; none where they have no window.
fn groupings(plan: &LogicalPlan, sources: &StreamSources) -> Result<Vec<Option<Grouping>>> {
    if let LogicalPlan::Extension(Extension { node }) = plan {
        let node = node.as_any();
        if let Some(window) = node.downcast_ref::<EventWindow>() {
            check_unit(window.input(), window.event_time())?;
            return Ok(vec![Some(Grouping::Aligned(*window.windows()))]);
        }
        if let Some(window) = node.downcast_ref::<SessionWindow>() {
            check_unit(window.input(), window.event_time())?;
            return Ok(vec![Some(Grouping::Sessions { gap: window.gap() })]);
        }
    }
    let mut found = Vec::new();
    for input in stream_inputs(plan, sources) {
        found.extend(groupings(input, sources)?);
    }
    Ok(match found.is_empty() {
        true => vec![None],
        false => found,
    })
}

/// Windows count in the unit of their event time, and runs in microseconds, as jobs do.
fn check_unit(input: &LogicalPlan, event_time: &Expr) -> Result<()> {
    match event_time.get_type(input.schema().as_ref())? {
        DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(()),
        other => Err(Error::unsupported(format!(
            "the event time {event_time} is {other}, and a run counts in microseconds"
        ))
        .with_help("declare it as TIMESTAMP")),
    }
}
