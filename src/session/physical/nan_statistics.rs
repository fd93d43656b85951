//! File statistics and NaN: bounds of floating point columns are ignored, since they leave NaN out.
//!
//! Here NaN is a number like others, above all numbers. Writers of Parquet leave NaN out of the least and the greatest value of
//! a column, and sort it in their own ways. An optimization by these two values loses rows that are NaN, or takes them for
//! others: `d > 4` where the greatest is 3, `d = 1.0` where both are 1, `max(d)`, the last row of `ORDER BY d LIMIT 5`, keys of
//! a join. No statistics say whether a file holds NaN, so the bounds of columns with floating point are of no use, for files of
//! any writer.
//!
//! [`IgnoreFloatBounds`] runs before all rules that read statistics, [`UnprunedFloats`] after all rules that give a scan a predicate. The
//! sort order that a file declares for a floating point column is ignored as well: NaN with a sign comes first in some files.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, DynamicFilterPhysicalExpr, lit};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};

use crate::session::physical::normalize_nan::with_normalized_columns;
use crate::tables::parquet::holds_floats;

/// The scan of files in `plan`, if `plan` is one, with its configuration.
fn file_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let source = plan.downcast_ref::<DataSourceExec>()?;
    source.data_source().downcast_ref::<FileScanConfig>()
}

/// Removes from file scans the bounds of columns with floating point, and sort orders by such columns.
#[derive(Debug)]
pub(crate) struct IgnoreFloatBounds;

impl PhysicalOptimizerRule for IgnoreFloatBounds {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let forgotten = plan.transform_up(|plan| {
            let Some(scan) = file_scan(&plan) else {
                return Ok(Transformed::no(plan));
            };
            let schema = scan.file_source.table_schema().table_schema();
            let with_floats: Vec<bool> = schema
                .fields()
                .iter()
                .map(|field| holds_floats(field.data_type()))
                .collect();
            let statistics = unbounded(&scan.statistics(), &with_floats);
            let mut changes = statistics.is_some();
            let groups = scan.file_groups.iter().map(|group| {
                let (group, changed) = without_bounds(group, &with_floats);
                changes |= changed;
                group
            });
            let groups: Vec<FileGroup> = groups.collect();
            let orderings = orderings_without_floats(&scan.output_ordering, schema)?;
            changes |= orderings.is_some();
            if !changes {
                return Ok(Transformed::no(plan));
            }
            let mut builder = FileScanConfigBuilder::from(scan.clone()).with_file_groups(groups);
            if let Some(statistics) = statistics {
                builder = builder.with_statistics(statistics);
            }
            if let Some(orderings) = orderings {
                builder = builder.with_output_ordering(orderings);
            }
            let plan = DataSourceExec::from_data_source(builder.build());
            Ok(Transformed::yes(plan as Arc<dyn ExecutionPlan>))
        })?;
        Ok(forgotten.data)
    }

    fn name(&self) -> &'static str {
        "forget_bounds_of_floats"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The orders of a scan up to the first key with floating point; `None` if they contain no such key.
fn orderings_without_floats(
    orderings: &[LexOrdering],
    schema: &Schema,
) -> DataFusionResult<Option<Vec<LexOrdering>>> {
    let mut is_cut = false;
    let mut cut = Vec::with_capacity(orderings.len());
    for ordering in orderings {
        let mut keys = Vec::new();
        for key in ordering.iter() {
            if reads_floats(&key.expr, schema)? {
                is_cut = true;
                break;
            }
            keys.push(key.clone());
        }
        cut.extend(LexOrdering::new(keys));
    }
    Ok(is_cut.then_some(cut))
}

fn without_bounds(group: &FileGroup, with_floats: &[bool]) -> (FileGroup, bool) {
    let mut changes = false;
    let mut files = group.files().to_vec();
    for file in &mut files {
        let forgotten = file.statistics.as_ref();
        if let Some(statistics) = forgotten.and_then(|known| unbounded(known, with_floats)) {
            file.statistics = Some(Arc::new(statistics));
            changes = true;
        }
    }
    let mut without = FileGroup::new(files);
    if let Some(known) = group.file_statistics(None) {
        let forgotten = unbounded(known, with_floats);
        changes |= forgotten.is_some();
        let statistics = forgotten.unwrap_or_else(|| known.clone());
        without = without.with_statistics(Arc::new(statistics));
    }
    (without, changes)
}

/// The statistics without the bounds of columns with floating point; `None` if they have none.
fn unbounded(statistics: &Statistics, with_floats: &[bool]) -> Option<Statistics> {
    let is_bound = |column: &ColumnStatistics| {
        !matches!(column.min_value, Precision::Absent)
            || !matches!(column.max_value, Precision::Absent)
    };
    let columns = statistics.column_statistics.iter().zip(with_floats);
    if !columns
        .clone()
        .any(|(column, floats)| *floats && is_bound(column))
    {
        return None;
    }
    let mut statistics = statistics.clone();
    for (column, floats) in statistics.column_statistics.iter_mut().zip(with_floats) {
        if *floats {
            column.min_value = Precision::Absent;
            column.max_value = Precision::Absent;
        }
    }
    Some(statistics)
}

/// Stops Parquet scans from comparing predicates with the bounds of columns with floating point; rows are still compared, with
/// normalized NaN. Scans and filters get no conditions of joins over such columns.
#[derive(Debug)]
pub(crate) struct UnprunedFloats;

impl PhysicalOptimizerRule for UnprunedFloats {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let kept = plan.transform_up(|plan| {
            if let Some(filter) = plan.downcast_ref::<FilterExec>() {
                return without_dynamic_filters(filter)
                    .map(|changed| changed.map_or(Transformed::no(plan), Transformed::yes));
            }
            let Some(scan) = file_scan(&plan) else {
                return Ok(Transformed::no(plan));
            };
            let Some(source) = scan.file_source.downcast_ref::<ParquetSource>() else {
                return Ok(Transformed::no(plan));
            };
            let Some(predicate) = scan.file_source.filter() else {
                return Ok(Transformed::no(plan));
            };
            let schema = scan.file_source.table_schema().table_schema();
            let by_rows = row_by_row(predicate, schema)?;
            if !by_rows.transformed {
                return Ok(Transformed::no(plan));
            }
            let source = Arc::new(source.with_predicate(by_rows.data));
            let builder = FileScanConfigBuilder::from(scan.clone()).with_source(source);
            let plan = DataSourceExec::from_data_source(builder.build());
            Ok(Transformed::yes(plan as Arc<dyn ExecutionPlan>))
        })?;
        Ok(kept.data)
    }

    fn name(&self) -> &'static str {
        "keep_nan"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The predicate with [`UnprunablePredicate`] around each part that reads floating point.
fn row_by_row(
    predicate: Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> DataFusionResult<Transformed<Arc<dyn PhysicalExpr>>> {
    predicate.transform_down(|part| {
        let connects = part
            .downcast_ref::<BinaryExpr>()
            .is_some_and(|binary| matches!(binary.op(), Operator::And | Operator::Or));
        if connects {
            return Ok(Transformed::no(part));
        }
        if part.is::<UnprunablePredicate>() || !reads_floats(&part, schema)? {
            return Ok(Transformed::new(part, false, TreeNodeRecursion::Jump));
        }
        if part.is::<DynamicFilterPhysicalExpr>() {
            return Ok(without_dynamic_filter());
        }
        let part = with_normalized_columns(&part, schema)?;
        let part: Arc<dyn PhysicalExpr> = Arc::new(UnprunablePredicate { part });
        Ok(Transformed::new(part, true, TreeNodeRecursion::Jump))
    })
}

/// The filter without the conditions over floating point that joins add while they run; `None` if it has none.
fn without_dynamic_filters(
    filter: &FilterExec,
) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
    let schema = filter.input().schema();
    let predicate = Arc::clone(filter.predicate()).transform_down(|part| {
        if part.is::<DynamicFilterPhysicalExpr>() && reads_floats(&part, &schema)? {
            return Ok(without_dynamic_filter());
        }
        Ok(Transformed::no(part))
    })?;
    if !predicate.transformed {
        return Ok(None);
    }
    let filter = FilterExecBuilder::from(filter).with_predicate(predicate.data);
    Ok(Some(Arc::new(filter.build()?)))
}

/// In the place of a condition that a join adds while it runs. The join lists the bits of its keys in it, where -0.0 differs from 0.0,
/// and it only saves reading rows that the join leaves out.
fn without_dynamic_filter() -> Transformed<Arc<dyn PhysicalExpr>> {
    Transformed::new(lit(true), true, TreeNodeRecursion::Jump)
}

fn reads_floats(part: &Arc<dyn PhysicalExpr>, schema: &Schema) -> DataFusionResult<bool> {
    part.exists(|part| {
        let Some(column) = part.downcast_ref::<Column>() else {
            return Ok(false);
        };
        // A column that the file does not have cannot be compared with its bounds either.
        let field = schema.fields().get(column.index());
        Ok(field.is_none_or(|field| holds_floats(field.data_type())))
    })
}

/// Wraps a condition without changing its value, so that no pruning looks into it.
#[derive(Debug, Eq)]
struct UnprunablePredicate {
    part: Arc<dyn PhysicalExpr>,
}

// By hand, as in the engine: https://github.com/rust-lang/rust/issues/78808
impl PartialEq for UnprunablePredicate {
    fn eq(&self, other: &Self) -> bool {
        self.part.eq(&other.part)
    }
}

impl Hash for UnprunablePredicate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.part.hash(state);
    }
}

impl fmt::Display for UnprunablePredicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.part.fmt(f)
    }
}

impl PhysicalExpr for UnprunablePredicate {
    fn data_type(&self, schema: &Schema) -> DataFusionResult<DataType> {
        self.part.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> DataFusionResult<bool> {
        self.part.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> DataFusionResult<FieldRef> {
        self.part.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DataFusionResult<ColumnarValue> {
        self.part.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.part]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        let part = children.into_iter().next();
        Ok(Arc::new(Self {
            part: part.unwrap_or_else(|| Arc::clone(&self.part)),
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.part.fmt_sql(f)
    }
}
