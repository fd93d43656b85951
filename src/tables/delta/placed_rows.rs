//! The rows of one version of a table, each with its place: the number of its file and its number among the rows of that file.
//!
//! A statement that changes rows names them by their places. Files are numbered as the version lists them; the rows of a file are
//! numbered as a scan gives them, without those that a deletion vector hides. So files are left out by their statistics alone,
//! and a file that is read is read whole.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use anabranch_udfs::has_no_children;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput as _,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use deltalake::DeltaTable;
use deltalake::logstore::object_store::path::Path;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

use super::provider::register_store;
use super::prune::partition_filters;
use super::rules::TableRules;
use super::scan::TableScan;
use super::stream_files::{FILE_COLUMN, file_of};
use super::stream_provider::union;
use crate::error::Error;
use crate::tables::boxed_methods::boxed_scan;

/// The column with the number of a row's file.
pub const ROW_FILE: &str = "file of row";
/// The column with the number of a row among those of its file.
pub const ROW_NUMBER: &str = "number of row";

/// How predicates on times were made, by which files are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeFilters {
    /// As a statement has them.
    Exact,
    /// Wider by a millisecond on each side: writers cut the bounds of times to milliseconds.
    Widened,
}

/// The files of one version of a table, by number.
#[derive(Debug)]
pub(super) struct NumberedFiles {
    root: String,
    paths: Vec<String>,
    by_path: HashMap<String, i64>,
}

impl NumberedFiles {
    /// The numbers of files with these paths, as the log has them.
    pub(super) fn new(table: &DeltaTable, paths: Vec<String>) -> Self {
        let mut root = table.log_store().root_url().to_string();
        if !root.ends_with('/') {
            root.push('/');
        }
        let by_path = paths.iter().cloned().zip(0..).collect();
        Self {
            root,
            paths,
            by_path,
        }
    }

    /// The path of a file, as the log has it.
    pub(super) fn path(&self, number: i64) -> Option<&str> {
        let number = usize::try_from(number).ok()?;
        self.paths.get(number).map(String::as_str)
    }

    /// The number of a file, by the URL that a scan gives for it.
    pub(super) fn number(&self, url: &str) -> Option<i64> {
        let found = match url.strip_prefix(&self.root) {
            // As in the log: paths are encoded as parts of a URL.
            Some(path) => self
                .by_path
                .get(Path::from_url_path(path).ok()?.as_ref())
                .or_else(|| self.by_path.get(path)),
            None => self.by_path.get(url),
        };
        found.copied()
    }

    fn all(&self) -> Vec<i64> {
        (0..).take(self.paths.len()).collect()
    }
}

/// The rows of a version of a table, with their places in two more columns.
#[derive(Debug)]
pub(super) struct PlacedRows {
    pub(super) table: DeltaTable,
    pub(super) rules: Arc<TableRules>,
    pub(super) files: Arc<NumberedFiles>,
    scan: TableScan,
    schema: SchemaRef,
}

impl PlacedRows {
    pub(super) fn new(
        table: DeltaTable,
        rules: Arc<TableRules>,
        scan: TableScan,
        files: NumberedFiles,
    ) -> Self {
        let places = [ROW_FILE, ROW_NUMBER].map(|name| Field::new(name, DataType::Int64, false));
        let columns = scan.schema();
        let columns = columns.fields().iter().map(|field| field.as_ref().clone());
        let schema = Arc::new(Schema::new(columns.chain(places).collect::<Vec<_>>()));
        Self {
            table,
            rules,
            files: Arc::new(files),
            scan,
            schema,
        }
    }

    /// These of its columns, with the places.
    pub(super) fn schema_of(&self, columns: &[&str]) -> Result<SchemaRef> {
        let columns = columns.iter().chain(&[ROW_FILE, ROW_NUMBER]);
        let columns = columns.map(|name| self.schema.index_of(name));
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Arc::new(self.schema.project(&columns)?))
    }

    /// All rows of these files, with the columns of `schema`.
    pub(super) async fn plan(
        &self,
        session: &dyn Session,
        schema: SchemaRef,
        numbers: &[i64],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if numbers.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        register_store(&self.table, session)?;
        let streams = session.config().target_partitions().max(1);
        let mut scans = Vec::with_capacity(streams);
        for some in numbers.chunks(numbers.len().div_ceil(streams)) {
            let paths = some.iter().filter_map(|number| self.files.path(*number));
            let scan =
                TableScan::with_files(&self.table, FILE_COLUMN)?.of_paths(paths.map(str::to_owned));
            let of_files = scan.schema();
            let wanted = schema.fields().iter().map(|field| field.name().as_str());
            let columns = wanted
                .filter(|name| !is_place(name))
                .chain([FILE_COLUMN])
                .map(|name| Ok(of_files.index_of(name)?));
            let columns = columns.collect::<Result<Vec<usize>>>()?;
            scans.push(scan.scan(session, Some(&columns), &[], None).await?);
        }
        let schema_of_scans = scans[0].schema();
        let rows = union(scans, &schema_of_scans)?;
        Ok(Arc::new(PlacedRowsExec::new(
            schema,
            Arc::clone(&self.files),
            rows,
        )))
    }

    /// The files that may have rows that fulfil all of `filters`.
    pub(super) fn candidates(
        &self,
        session: &dyn Session,
        filters: &[Expr],
        times: TimeFilters,
    ) -> Result<Vec<i64>> {
        let snapshot = self.table.snapshot()?.snapshot();
        let log = snapshot.try_log_data()?;
        // Statistics of mapped columns have the names of files; without the list there is nothing to ask.
        if self.rules.mapped.is_some() || log.num_files() != self.files.paths.len() {
            return Ok(self.files.all());
        }
        let rules = &self.rules;
        let derived = partition_filters(filters, &rules.rows, &rules.partition_by, rules.in_utc)?;
        let columns = self.scan.schema();
        let by_name = DFSchema::try_from(Arc::clone(&columns))?;
        let mut left_out = HashSet::new();
        for filter in filters.iter().chain(&derived) {
            if !self.scan.may_prune_by(filter) || !self.has_exact_bounds(filter, times) {
                continue;
            }
            let unqualified = without_table(filter)?;
            let Ok(condition) = session.create_physical_expr(unqualified, &by_name) else {
                continue;
            };
            let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&columns));
            let Ok(predicate) = builder.try_build(condition) else {
                continue;
            };
            let Ok(kept) = predicate.prune(&log) else {
                continue;
            };
            for (file, is_kept) in log.iter().zip(kept) {
                if !is_kept {
                    left_out.insert(file.path().into_owned());
                }
            }
        }
        let kept = self.files.by_path.iter();
        let kept = kept.filter(|(path, _)| !left_out.contains(*path));
        let mut kept: Vec<i64> = kept.map(|(_, number)| *number).collect();
        kept.sort_unstable();
        Ok(kept)
    }

    /// Whether the log tells the bounds of all columns of a predicate exactly, or as longer texts. Writers cut times to
    /// milliseconds.
    fn has_exact_bounds(&self, filter: &Expr, times: TimeFilters) -> bool {
        let schema = self.scan.schema();
        filter.column_refs().iter().all(|column| {
            let name = column.name();
            let is_partition = self.rules.partition_by.iter().any(|of| of == name);
            let field = schema.field_with_name(name);
            let is_exact = field.is_ok_and(|field| {
                let of = field.data_type();
                of.is_integer()
                    || of.is_string()
                    || matches!(of, DataType::Boolean | DataType::Date32)
                    || (times == TimeFilters::Widened && matches!(of, DataType::Timestamp(..)))
            });
            is_partition || is_exact
        })
    }

    fn scan_boxed<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
    ) -> BoxFuture<'a, Result<Arc<dyn ExecutionPlan>>> {
        async move {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => Arc::clone(&self.schema),
            };
            let files = self.candidates(session, filters, TimeFilters::Exact)?;
            self.plan(session, schema, &files).await
        }
        .boxed()
    }
}

fn is_place(name: &str) -> bool {
    name == ROW_FILE || name == ROW_NUMBER
}

/// The expression with its columns by their names alone.
fn without_table(expr: &Expr) -> Result<Expr> {
    let renamed = expr.clone().transform(|node| {
        Ok(match node {
            Expr::Column(column) => {
                Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(renamed.data)
}

impl TableProvider for PlacedRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    boxed_scan!(|table, session, projection, filters, _| {
        table.scan_boxed(session, projection, filters)
    });

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let of_place = |filter: &Expr| {
            let columns = filter.column_refs();
            columns.iter().any(|column| is_place(column.name()))
        };
        let one = |filter: &&Expr| match of_place(filter) {
            true => TableProviderFilterPushDown::Unsupported,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(one).collect())
    }
}

/// Gives the rows of files with their places. A leaf of the plan: no operator may be pushed below it.
struct PlacedRowsExec {
    schema: SchemaRef,
    files: Arc<NumberedFiles>,
    rows: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PlacedRowsExec {
    fn new(schema: SchemaRef, files: Arc<NumberedFiles>, rows: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = rows.properties().partitioning.partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            schema,
            files,
            rows,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl fmt::Debug for PlacedRowsExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlacedRowsExec").finish_non_exhaustive()
    }
}

impl DisplayAs for PlacedRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlacedRowsExec")
    }
}

impl ExecutionPlan for PlacedRowsExec {
    has_no_children!("PlacedRowsExec");

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let mut places = RowPlaces {
            schema: Arc::clone(&self.schema),
            files: Arc::clone(&self.files),
            passed: HashMap::new(),
        };
        let rows = self.rows.execute(partition, context)?;
        let placed = rows.map(move |rows| {
            let placed = places.of(&rows?).map_err(DataFusionError::from);
            placed.record_output(&baseline)
        });
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, placed)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The places of the rows of a stream of files.
struct RowPlaces {
    schema: SchemaRef,
    files: Arc<NumberedFiles>,
    /// Rows so far, by the number of their file.
    passed: HashMap<i64, i64>,
}

impl RowPlaces {
    /// Rows of one file as the scan gives them, with their places.
    fn of(&mut self, rows: &RecordBatch) -> crate::error::Result<RecordBatch> {
        let count = rows.num_rows();
        if count == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let url = file_of(rows)?;
        let file = self.files.number(url).ok_or_else(|| {
            Error::internal(format!("rows of a file that the version has not: {url}"))
        })?;
        let passed = self.passed.entry(file).or_default();
        let first = *passed;
        *passed += i64::try_from(count).unwrap_or(i64::MAX);
        let columns = self.schema.fields().iter().map(|field| {
            Ok(match field.name().as_str() {
                ROW_FILE => Arc::new(Int64Array::from(vec![file; count])) as ArrayRef,
                ROW_NUMBER => Arc::new(Int64Array::from_iter_values((first..).take(count))),
                name => {
                    let column = rows.column_by_name(name).cloned();
                    column.ok_or_else(|| Error::internal(format!("rows without {name}")))?
                }
            })
        });
        let columns = columns.collect::<crate::error::Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| Error::internal(error.to_string()))
    }
}
