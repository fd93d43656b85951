//! Optimizer rule that adds the ranges where a filter or a scan has the predicates.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, Filter, LogicalPlan, TableProviderFilterPushDown, TableScan,
    UserDefinedLogicalNodeCore as _,
};

use super::{floor, windows};
use crate::top_down::changes_top_down;
use crate::window::EventWindow;

/// Adds plain ranges on timestamps beside predicates that imply them, so that file statistics prune. A range on `window_start`
/// excludes rows without event time, as the same range on the event time would.
#[derive(Debug, Default)]
pub struct EventTimeRanges;

changes_top_down!(EventTimeRanges, "event_time_ranges", with_ranges);

fn with_ranges(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Filter(filter) => rewrite_filter(filter),
        LogicalPlan::TableScan(scan) => rewrite_scan(scan),
        other => Ok(Transformed::no(other)),
    }
}

fn rewrite_filter(mut filter: Filter) -> Result<Transformed<LogicalPlan>> {
    let mut changed = false;
    let predicates = split_conjunction(&filter.predicate);
    if let Some(input) = narrowed_window(&predicates, &filter.input)? {
        filter.input = Arc::new(input);
        changed = true;
    }
    let predicates = split_conjunction(&filter.predicate);
    let added = implied_by(&predicates, filter.input.schema())?;
    if !added.is_empty() {
        let all = predicates.into_iter().cloned().chain(added);
        if let Some(predicate) = conjunction(all) {
            filter.predicate = predicate;
            changed = true;
        }
    }
    let plan = LogicalPlan::Filter(filter);
    Ok(if changed {
        Transformed::yes(plan)
    } else {
        Transformed::no(plan)
    })
}

/// Filters that a scan applies completely have no filter operator above.
fn rewrite_scan(mut scan: TableScan) -> Result<Transformed<LogicalPlan>> {
    if scan.filters.is_empty() {
        return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
    }
    let schema = scan.source.schema();
    let schema = datafusion::common::DFSchema::try_from_qualified_schema(
        scan.table_name.clone(),
        schema.as_ref(),
    )?;
    let added = implied_by(&scan.filters.iter().collect::<Vec<_>>(), &schema)?;
    let supported = scan
        .source
        .supports_filters_pushdown(&added.iter().collect::<Vec<_>>())?;
    let before = scan.filters.len();
    scan.filters.extend(
        added
            .into_iter()
            .zip(supported)
            .filter(|(_, support)| *support != TableProviderFilterPushDown::Unsupported)
            .map(|(range, _)| range),
    );
    let changed = scan.filters.len() > before;
    let plan = LogicalPlan::TableScan(scan);
    Ok(if changed {
        Transformed::yes(plan)
    } else {
        Transformed::no(plan)
    })
}

/// The ranges that `predicates` imply and do not contain.
fn implied_by(predicates: &[&Expr], schema: &datafusion::common::DFSchema) -> Result<Vec<Expr>> {
    let mut added: Vec<Expr> = vec![];
    for predicate in predicates {
        for range in floor::implied(predicate, schema)? {
            if !predicates.contains(&&range) && !added.contains(&range) {
                added.push(range);
            }
        }
    }
    Ok(added)
}

/// If `input` assigns windows, restricts it to the rows that can match `predicates`; `None` if that changes nothing.
fn narrowed_window(predicates: &[&Expr], input: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Extension(Extension { node }) = input else {
        return Ok(None);
    };
    let Some(window) = node.as_any().downcast_ref::<EventWindow>() else {
        return Ok(None);
    };
    let schema = window.input().schema();
    let data_type = window.event_time().get_type(schema.as_ref())?;
    let bounds = windows::implied(predicates.iter().copied(), window.windows(), &data_type);
    let ranges = bounds.predicates(window.event_time(), &data_type)?;
    // The node stores its ranges, so that the next pass changes nothing.
    if ranges.is_empty() || window.narrowed_to() == ranges {
        return Ok(None);
    }
    let Some(predicate) = conjunction(ranges.clone()) else {
        return Ok(None);
    };
    let filtered = LogicalPlan::Filter(Filter::try_new(
        predicate,
        Arc::new(window.input().clone()),
    )?);
    let narrowed = window
        .with_exprs_and_inputs(vec![window.event_time().clone()], vec![filtered])?
        .with_narrowed_to(ranges);
    Ok(Some(LogicalPlan::Extension(Extension {
        node: Arc::new(narrowed),
    })))
}
