//! Cheaper Parquet scans of a slice, where the result surely stays the same.
//!
//! A filter that a scan takes over becomes its row filter: each part of it decodes its columns again. A slice's own bounds need
//! no row filter, since the reader of the slice checks each row's event time; they stay in the predicate that prunes.
//!
//! Small files are read whole: the optimizer cuts files into ranges of bytes, and opens a file for each.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ExprSchema, Result, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::DataSourceExec;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::{conjunction, split_conjunction};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::node::CompleteSessions;
use super::search::TickRange;

/// Files that are smaller are read whole: they mostly have one group of rows, which one reader reads in any case.
const LEAST_DIVIDED: u64 = 8 * 1024 * 1024;

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

/// The files that the scans of a plan may open, by the hashes of their paths; `None` if there are none, and rows come from elsewhere.
pub(super) fn files_of(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<HashSet<u64>>> {
    let mut files = HashSet::new();
    let mut has_others = false;
    plan.apply(|node| {
        if let Some(config) = file_scan(node) {
            files.extend(files_in(config).map(|file| {
                let mut hasher = DefaultHasher::new();
                path(file).hash(&mut hasher);
                hasher.finish()
            }));
        } else if node.children().is_empty() && node.downcast_ref::<EmptyExec>().is_none() {
            has_others = true;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok((!files.is_empty() || !has_others).then_some(files))
}

/// The plan with small Parquet files whole where they were cut into ranges of bytes.
pub(super) fn with_whole_files(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_down(|node| {
        let Some((config, groups)) =
            file_scan(&node).and_then(|config| Some((config, whole_files(config)?)))
        else {
            return Ok(Transformed::no(node));
        };
        let config = FileScanConfigBuilder::from(config.clone())
            .with_file_groups(groups)
            .build();
        let scan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
        Ok(Transformed::yes(scan))
    })
    .data()
}

/// The groups of a scan with each small file in the first of those that have a part of it; `None` if they are the same.
fn whole_files(config: &FileScanConfig) -> Option<Vec<FileGroup>> {
    let has_order = config.preserve_order || !config.output_ordering.is_empty();
    let is_parquet = config.file_source.is::<ParquetSource>();
    if !is_parquet || has_order || config.output_partitioning.is_some() {
        return None;
    }
    let mut parts: HashMap<&str, (usize, u64)> = HashMap::new();
    for file in files_in(config) {
        let bytes = file.range.as_ref().map_or(0, |range| {
            u64::try_from(range.end.saturating_sub(range.start)).unwrap_or(0)
        });
        let (count, all) = parts.entry(path(file)).or_default();
        *count += 1;
        *all = all.saturating_add(bytes);
    }
    // Of a part of a file, only that part is wanted.
    let is_divided = |file: &PartitionedFile| {
        let size = file.object_meta.size;
        let part = parts.get(path(file));
        size < LEAST_DIVIDED && part.is_some_and(|(count, bytes)| *count > 1 && *bytes == size)
    };
    if !files_in(config).any(is_divided) {
        return None;
    }
    let mut begun = HashSet::new();
    let mut groups = Vec::with_capacity(config.file_groups.len());
    for group in &config.file_groups {
        let mut files = Vec::with_capacity(group.len());
        for file in group.iter() {
            if !is_divided(file) {
                files.push(file.clone());
            } else if begun.insert(path(file)) {
                let mut whole = file.clone();
                whole.range = None;
                files.push(whole);
            }
        }
        if !files.is_empty() {
            groups.push(FileGroup::new(files));
        }
    }
    Some(groups)
}

fn files_in(config: &FileScanConfig) -> impl Iterator<Item = &PartitionedFile> {
    config.file_groups.iter().flat_map(FileGroup::iter)
}

fn path(file: &PartitionedFile) -> &str {
    file.object_meta.location.as_ref()
}

fn file_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let scan = plan.downcast_ref::<DataSourceExec>()?;
    scan.data_source().downcast_ref::<FileScanConfig>()
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

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::execution::object_store::ObjectStoreUrl;

    use super::*;

    const MEBIBYTE: i64 = 1024 * 1024;

    fn plan(groups: Vec<Vec<PartitionedFile>>) -> Arc<dyn ExecutionPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let source = Arc::new(ParquetSource::new(schema));
        let groups = groups.into_iter().map(FileGroup::new).collect();
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(groups)
            .build();
        DataSourceExec::from_data_source(config)
    }

    /// A part of a file, in mebibytes.
    fn part(name: &str, size: u64, from: i64, to: i64) -> PartitionedFile {
        let file = PartitionedFile::new(name, size * MEBIBYTE.cast_unsigned());
        file.with_range(from * MEBIBYTE, to * MEBIBYTE)
    }

    /// A file, and what is read of it in mebibytes; `None` is all.
    type FilePart = (String, Option<(i64, i64)>);

    /// The files of each group.
    fn groups(plan: &Arc<dyn ExecutionPlan>) -> Vec<Vec<FilePart>> {
        let groups = &file_scan(plan).unwrap().file_groups;
        let of_file = |file: &PartitionedFile| {
            let range = file.range.as_ref();
            let range = range.map(|range| (range.start / MEBIBYTE, range.end / MEBIBYTE));
            (path(file).to_owned(), range)
        };
        let of_group = |group: &FileGroup| group.iter().map(of_file).collect();
        groups.iter().map(of_group).collect()
    }

    #[test]
    fn small_files_are_opened_once() {
        let divided = plan(vec![
            vec![part("a", 3, 0, 3), part("b", 3, 0, 1)],
            vec![part("b", 3, 1, 3), part("c", 3, 0, 2)],
            // Nothing begins here.
            vec![part("c", 3, 2, 3)],
        ]);
        let whole = with_whole_files(Arc::clone(&divided)).unwrap();
        let expected = [
            vec![("a".to_owned(), Some((0, 3))), ("b".to_owned(), None)],
            vec![("c".to_owned(), None)],
        ];
        assert_eq!(groups(&whole), expected);
        assert_eq!(files_of(&whole).unwrap(), files_of(&divided).unwrap());
        assert_eq!(files_of(&whole).unwrap().unwrap().len(), 3);
    }

    #[test]
    fn large_files_and_asked_parts_stay_as_they_are() {
        for kept in [
            // Two readers share a large file.
            vec![vec![part("a", 20, 0, 10)], vec![part("a", 20, 10, 20)]],
            // The rest of this one is not asked for.
            vec![vec![part("a", 3, 0, 1)], vec![part("a", 3, 1, 2)]],
        ] {
            let plan = plan(kept);
            let same = with_whole_files(Arc::clone(&plan)).unwrap();
            assert_eq!(groups(&same), groups(&plan));
        }
        let none: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        assert_eq!(files_of(&none).unwrap(), Some(HashSet::new()));
    }
}
