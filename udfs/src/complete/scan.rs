//! Cheaper Parquet scans of a slice, where the result surely stays the same.
//!
//! A filter that a scan takes over becomes its row filter: each part of it decodes its columns again. A slice's own bounds need
//! no row filter, since the reader of the slice checks each row's event time; they stay in the predicate that prunes.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ExprSchema, Result, ScalarValue};
use datafusion::datasource::memory::DataSourceExec;
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::{conjunction, split_conjunction};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::node::CompleteSessions;
use super::search::TickRange;

/// The bounds of a slice as scans see them.
#[derive(Debug, Clone)]
pub(super) struct SliceBounds {
    from: ScalarValue,
    to: ScalarValue,
    time_type: DataType,
    /// The event time's column.
    column: String,
}

impl SliceBounds {
    /// The bounds of `slice`; `time_type` is the event time's type.
    pub(super) fn try_new(
        slice: TickRange,
        event_time: &Expr,
        time_type: &DataType,
    ) -> Result<Self> {
        let tick = |tick| ScalarValue::Int64(Some(tick)).cast_to(time_type);
        Ok(Self {
            from: tick(slice.from)?,
            to: tick(slice.to)?,
            time_type: time_type.clone(),
            column: match event_time {
                Expr::Column(column) => column.name.clone(),
                other => other.to_string(),
            },
        })
    }

    /// Whether a part of a predicate is one of the bounds.
    fn are(&self, part: &Arc<dyn PhysicalExpr>) -> bool {
        let Some(binary) = part.downcast_ref::<BinaryExpr>() else {
            return false;
        };
        let bound = match binary.op() {
            Operator::GtEq => &self.from,
            Operator::Lt => &self.to,
            _ => return false,
        };
        let column = binary.left().downcast_ref::<Column>();
        let literal = binary.right().downcast_ref::<Literal>();
        column.is_some_and(|column| column.name() == self.column)
            && literal.is_some_and(|literal| self.is_same(literal.value(), bound))
    }

    /// The bound of `others` that corresponds to this one; `None` if it is not an exact literal of the file.
    fn moved(&self, part: &Arc<dyn PhysicalExpr>, others: &Self) -> Option<Arc<dyn PhysicalExpr>> {
        let binary = part.downcast_ref::<BinaryExpr>()?;
        let bound = match binary.op() {
            Operator::GtEq => &others.from,
            _ => &others.to,
        };
        let literal = binary.right().downcast_ref::<Literal>()?;
        let moved = bound.cast_to(&literal.value().data_type()).ok()?;
        let moved: Arc<dyn PhysicalExpr> = others
            .is_same(&moved, bound)
            .then(|| Arc::new(Literal::new(moved)))?;
        let left = Arc::clone(binary.left());
        Some(Arc::new(BinaryExpr::new(left, *binary.op(), moved)))
    }

    /// Whether a file's literal, perhaps of another timestamp type, is exactly `bound`.
    fn is_same(&self, literal: &ScalarValue, bound: &ScalarValue) -> bool {
        let there = literal.cast_to(&self.time_type);
        let back = bound.cast_to(&literal.data_type());
        there.is_ok_and(|there| there == *bound) && back.is_ok_and(|back| back == *literal)
    }

    /// Whether the scan filters rows, and by the bounds alone.
    fn are_all_of(&self, source: &ParquetSource) -> bool {
        filters_rows(source)
            && source.filter().is_some_and(|predicate| {
                split_conjunction(&predicate)
                    .into_iter()
                    .all(|part| self.are(part))
            })
    }
}

/// Whether the node's input is a table with unchanged columns: then only the slice filters its scan.
pub(super) fn is_plain(node: &CompleteSessions) -> bool {
    let mut exprs = node.keys().iter().chain([node.event_time()]);
    if !exprs.all(|expr| matches!(expr, Expr::Column(_))) {
        return false;
    }
    let mut plan = node.input();
    loop {
        plan = match plan {
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::Projection(projection) => {
                let is_column = |expr: &Expr| matches!(expr, Expr::Column(_));
                if !projection.expr.iter().all(is_column) {
                    return false;
                }
                &projection.input
            }
            LogicalPlan::TableScan(scan) => return scan.filters.is_empty() && scan.fetch.is_none(),
            _ => return false,
        }
    }
}

/// The plan with duplicate parts of a row filter removed, and the slice's bounds last: parts that prune more come first.
pub(super) fn without_duplicate_filters(
    plan: Arc<dyn ExecutionPlan>,
    bounds: &SliceBounds,
) -> Result<Arc<dyn ExecutionPlan>> {
    with_sources(plan, |source| {
        let predicate = source.filter().filter(|_| filters_rows(source))?;
        let parts = split_conjunction(&predicate);
        let mut once: Vec<&Arc<dyn PhysicalExpr>> = vec![];
        for part in &parts {
            if !once.contains(part) {
                once.push(part);
            }
        }
        once.sort_by_key(|part| bounds.are(part));
        (once != parts).then(|| source.with_predicate(conjunction(once.into_iter().cloned())))
    })
}

/// Whether all scans filter rows only by the slice's bounds, in a plan over a plain input.
pub(super) fn is_bounded_only(plan: &Arc<dyn ExecutionPlan>, bounds: &SliceBounds) -> Result<bool> {
    let (mut scans, mut bounded) = (0, 0);
    plan.apply(|node| {
        if node.children().is_empty() {
            scans += 1;
            let is_bounded = parquet_source(node).is_some_and(|source| bounds.are_all_of(source));
            bounded += usize::from(is_bounded);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans > 0 && scans == bounded)
}

/// Turns the plan of a longer slice for which [`is_bounded_only`] holds into the plan of a slice within it; `None` if a scan
/// cannot express the bounds exactly.
pub(super) fn resliced(
    plan: Arc<dyn ExecutionPlan>,
    longer: &SliceBounds,
    bounds: &SliceBounds,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let mut is_exact = true;
    let plan = with_sources(plan, |source| {
        let predicate = source.filter()?;
        let parts = split_conjunction(&predicate).into_iter();
        let parts: Option<Vec<_>> = parts.map(|part| longer.moved(part, bounds)).collect();
        is_exact &= parts.is_some();
        Some(source.with_predicate(conjunction(parts?)))
    })?;
    Ok(is_exact.then_some(plan))
}

/// A plan for which [`is_bounded_only`] holds, without its row filters: it may return rows outside the slice.
pub(super) fn without_row_filter(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    with_sources(plan, |source| {
        Some(source.clone().with_pushdown_filters(false))
    })
}

/// A plan for which [`is_bounded_only`] holds, with `filter` before the bounds; `None` if the files do not store the columns of
/// `filter` unchanged.
pub(super) fn narrowed(
    plan: Arc<dyn ExecutionPlan>,
    filter: &Expr,
    node: &CompleteSessions,
    state: &SessionState,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let input = node.input().schema();
    let mut filters = vec![];
    plan.apply(|plan| {
        if let Some(source) = parquet_source(plan) {
            let stored = source.table_schema().table_schema();
            let is_stored = filter.column_refs().iter().all(|column| {
                let logical = input.field_from_column(column);
                let file = stored.field_with_name(&column.name);
                matches!((logical, file), (Ok(logical), Ok(file)) if logical.data_type() == file.data_type())
            });
            filters.push(if is_stored {
                let plain = filter.clone().transform(|expr| {
                    Ok(match expr {
                        Expr::Column(column) => Transformed::yes(Expr::Column(
                            datafusion::common::Column::new_unqualified(column.name),
                        )),
                        other => Transformed::no(other),
                    })
                });
                let schema = DFSchema::try_from(stored.as_ref().clone())?;
                Some(state.create_physical_expr(plain.data()?, &schema)?)
            } else {
                None
            });
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let Some(filters) = filters.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let mut filters = filters.into_iter();
    with_sources(plan, |source| {
        let parts = filters.next().into_iter().chain(source.filter());
        Some(source.with_predicate(conjunction(parts)))
    })
    .map(Some)
}

fn filters_rows(source: &ParquetSource) -> bool {
    source.table_parquet_options().global.pushdown_filters
}

fn parquet_source(plan: &Arc<dyn ExecutionPlan>) -> Option<&ParquetSource> {
    let scan = plan.downcast_ref::<DataSourceExec>()?;
    let (_, source) = scan.downcast_to_file_source::<ParquetSource>()?;
    Some(source)
}

/// The plan with other Parquet sources where `replace` returns one; it gets them in the order of a walk from the top.
fn with_sources(
    plan: Arc<dyn ExecutionPlan>,
    mut replace: impl FnMut(&ParquetSource) -> Option<ParquetSource>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_down(|node| {
        let Some((config, source)) = node
            .downcast_ref::<DataSourceExec>()
            .and_then(DataSourceExec::downcast_to_file_source::<ParquetSource>)
        else {
            return Ok(Transformed::no(node));
        };
        let Some(source) = replace(source) else {
            return Ok(Transformed::no(node));
        };
        let config = FileScanConfigBuilder::from(config.clone())
            .with_source(Arc::new(source))
            .build();
        let scan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
        Ok(Transformed::yes(scan))
    })
    .data()
}
