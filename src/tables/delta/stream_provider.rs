//! Table provider of a job's batch: the files of the table that the batch reads, for DataFusion.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use anabranch_udfs::only_child;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use deltalake::DeltaTable;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::handle::DeltaTableHandle;
use super::provider::register_store;
use super::scan::TableScan;
use super::stream::{FileRange, StreamFile};
use super::stream_files::{FILE_COLUMN, FilesOfBatch};
use super::stream_time::{DeltaTimedExec, StreamReports, TimeOfBatch, partitions};
use crate::error::{Error, Subject};
use crate::tables::boxed_methods::boxed_scan;
use crate::tables::read_metrics::{BYTES_READ, RECORDS_READ};
use crate::tables::side_output::{BatchOutlet, BatchScan, ExpectedReport};
use crate::tables::time::{BatchTime, row_field};

/// A scan of so many bytes or more is worth another stream.
const BYTES_OF_STREAM: u64 = 8 << 20;

/// The rows of a batch's files: no predicate narrows them.
#[derive(Debug)]
pub struct DeltaStreamProvider {
    range: FileRange,
    /// The columns of the table.
    columns: SchemaRef,
    /// With the hidden column, if it has one.
    schema: SchemaRef,
    time: Option<TimeOfBatch>,
    /// What the job calls the table.
    name: Arc<str>,
    /// How many scans were planned.
    scans: AtomicI32,
}

impl DeltaStreamProvider {
    /// Over the files of a batch; the job calls the table `name`, and dead letters and reports go by that.
    ///
    /// # Errors
    ///
    /// A table that cannot be read.
    pub fn try_new(range: FileRange, name: &str) -> crate::error::Result<Self> {
        let scan =
            TableScan::of(&range.newest).map_err(|error| Error::internal(error.to_string()))?;
        let schema = scan.schema();
        Ok(Self {
            range,
            columns: Arc::clone(&schema),
            schema,
            time: None,
            name: name.into(),
            scans: AtomicI32::new(0),
        })
    }

    /// The same, with what is to know of every row's time in the hidden column [`ROW_COLUMN`](crate::tables::time::ROW_COLUMN).
    /// Rows without a time are dead letters.
    #[must_use]
    pub fn with_time(mut self, time: Arc<BatchTime>, table: &DeltaTableHandle) -> Self {
        let hidden = Arc::new(row_field());
        let fields = self.columns.fields().iter().cloned().chain([hidden]);
        self.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let event_time = table.event_time().filter(|_| time.is_kept()).cloned();
        self.time = Some(TimeOfBatch {
            time,
            event_time,
            location: table.location().to_owned(),
        });
        self
    }

    /// What one more scan reports.
    fn reports(&self) -> StreamReports {
        StreamReports {
            scan: BatchScan {
                table: Arc::clone(&self.name),
                scan: self.scans.fetch_add(1, Ordering::Relaxed),
                aside: Arc::default(),
                only: None,
            },
            start: self.range.start,
            end: self.range.end,
        }
    }

    /// The columns of these fields, of files as one state of the table has them.
    async fn scan_files(
        &self,
        scan: TableScan,
        table: &DeltaTable,
        files: &[StreamFile],
        session: &dyn Session,
        fields: &[FieldRef],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scan = scan.of_paths(files.iter().map(|file| file.file.path.clone()));
        let of_group = scan.schema();
        let columns = fields.iter().map(|field| {
            let found = of_group.column_with_name(field.name());
            let found = found.filter(|(_, found)| found.data_type() == field.data_type());
            let Some((index, _)) = found else {
                return Err(Error::data(format!(
                    "column {} is not in the files of version {} of a table that is read as a stream, or has another type there",
                    field.name(),
                    table.version().unwrap_or_default()
                ))
                .about(Subject::column(field.name()))
                .with_help("the table's columns were changed since: select those that all versions have")
                .into());
            };
            Ok(index)
        });
        let columns = columns.collect::<Result<Vec<usize>>>()?;
        scan.scan(session, Some(&columns), &[], None).await
    }

    /// The rows of all files.
    async fn scan_rows(
        &self,
        session: &dyn Session,
        schema: &SchemaRef,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut scans = Vec::with_capacity(self.range.groups.len());
        for group in &self.range.groups {
            register_store(&group.table, session)?;
            let scan = TableScan::of(&group.table)?;
            let rows = self.scan_files(scan, &group.table, &group.files, session, schema.fields());
            scans.push(rows.await?);
        }
        union(scans, schema)
    }

    /// The rows of all files with these columns and the file that each is in. A file is read as one stream, in the order of
    /// its rows.
    async fn scan_places(
        &self,
        session: &dyn Session,
        fields: &[FieldRef],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let streams = session.config().target_partitions() as u64;
        let streams = streams.min(1 + self.range.bytes / BYTES_OF_STREAM);
        let streams = usize::try_from(streams.max(1)).unwrap_or(usize::MAX);
        let mut scans = Vec::with_capacity(self.range.groups.len());
        for group in &self.range.groups {
            register_store(&group.table, session)?;
            for files in group.files.chunks(group.files.len().div_ceil(streams)) {
                let scan = TableScan::with_files(&group.table, FILE_COLUMN)?;
                let of_file = scan.schema().field_with_name(FILE_COLUMN)?.clone();
                let fields: Vec<FieldRef> = fields
                    .iter()
                    .cloned()
                    .chain([Arc::new(of_file) as FieldRef])
                    .collect();
                let rows = self.scan_files(scan, &group.table, files, session, &fields);
                scans.push(rows.await?);
            }
        }
        union(scans, &self.schema)
    }

    async fn scan_timed(
        &self,
        time: &TimeOfBatch,
        session: &dyn Session,
        schema: SchemaRef,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let files = FilesOfBatch::try_new(&self.range)?;
        let field = |name: &str| -> Result<FieldRef> {
            Ok(Arc::new(Field::clone(self.columns.field_with_name(name)?)))
        };
        let event_time = time.event_time.as_ref().map(|time| field(&time.column));
        let event_time = event_time.transpose()?;
        let mut fields: Vec<FieldRef> = Vec::with_capacity(schema.fields().len());
        for wanted in schema.fields() {
            if self.columns.column_with_name(wanted.name()).is_some() {
                fields.push(Arc::clone(wanted));
            }
        }
        if let Some(event_time) = &event_time
            && !fields.iter().any(|field| field.name() == event_time.name())
        {
            fields.push(Arc::clone(event_time));
        }
        let times = match &event_time {
            Some(field) => Some(
                self.scan_places(session, std::slice::from_ref(field))
                    .await?,
            ),
            None => None,
        };
        let rows = self.scan_places(session, &fields).await?;
        Ok(Arc::new(DeltaTimedExec::new(
            schema,
            rows,
            times,
            files,
            time.clone(),
            (self.range.bytes, self.reports()),
        )))
    }
}

pub(super) fn union(
    mut scans: Vec<Arc<dyn ExecutionPlan>>,
    schema: &SchemaRef,
) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(match scans.len() {
        0 => Arc::new(EmptyExec::new(Arc::clone(schema))),
        1 => scans.remove(0),
        _ => UnionExec::try_new(scans)?,
    })
}

impl DeltaStreamProvider {
    fn scan_boxed<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
    ) -> BoxFuture<'a, Result<Arc<dyn ExecutionPlan>>> {
        async move {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => Arc::clone(&self.schema),
            };
            if self.range.groups.is_empty() {
                let nothing: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::clone(&schema)));
                let Some(time) = &self.time else {
                    return Ok(nothing);
                };
                if self.range.end <= self.range.start {
                    return Ok(nothing);
                }
                // It has versions to report that have no files.
                let files = FilesOfBatch::try_new(&self.range)?;
                let of_batch = (self.range.bytes, self.reports());
                let (time, times) = (time.clone(), None);
                let scan = DeltaTimedExec::new(schema, nothing, times, files, time, of_batch);
                return Ok(Arc::new(scan) as Arc<dyn ExecutionPlan>);
            }
            let has_hidden = schema.fields().len()
                > schema
                    .fields()
                    .iter()
                    .filter(|field| self.columns.column_with_name(field.name()).is_some())
                    .count();
            if let Some(time) = &self.time
                && (has_hidden || time.event_time.is_some())
            {
                return self.scan_timed(time, session, schema).await;
            }
            Ok(Arc::new(DeltaStreamExec {
                input: self.scan_rows(session, &schema).await?,
                bytes: self.range.bytes,
                reports: self.reports(),
                metrics: ExecutionPlanMetricsSet::new(),
            }))
        }
        .boxed()
    }
}

impl TableProvider for DeltaStreamProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    boxed_scan!(|table, session, projection, _, _| table.scan_boxed(session, projection));
}

/// What `plan` reports when it has run, if it is the scan of a table that is read as a stream: each of its streams, read to its
/// end (LOSS-1).
pub fn stream_expected(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<ExpectedReport>> {
    if let Some(scan) = plan.downcast_ref::<DeltaStreamExec>() {
        return Some(scan.reports.expected(partitions(&scan.input)));
    }
    let scan = plan.downcast_ref::<DeltaTimedExec>()?;
    Some(scan.expected())
}

/// Gives the rows of a batch's files and counts them.
#[derive(Debug)]
struct DeltaStreamExec {
    input: Arc<dyn ExecutionPlan>,
    bytes: u64,
    reports: StreamReports,
    metrics: ExecutionPlanMetricsSet,
}

impl DisplayAs for DeltaStreamExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeltaStreamExec")
    }
}

impl ExecutionPlan for DeltaStreamExec {
    fn name(&self) -> &'static str {
        "DeltaStreamExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("DeltaStreamExec", children)?;
        Ok(Arc::new(Self {
            input,
            bytes: self.bytes,
            reports: self.reports.clone(),
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let reports = self.reports.clone();
        let outlet = BatchOutlet::open(reports.scan.clone(), &context)?;
        let counter = |name| MetricBuilder::new(&self.metrics).counter(name, partition);
        let records = counter(RECORDS_READ);
        if partition == 0 {
            counter(BYTES_READ).add(usize::try_from(self.bytes).unwrap_or(usize::MAX));
        }
        let rows = self.input.execute(partition, context)?;
        let counted = rows.inspect_ok(move |batch| records.add(batch.num_rows()));
        let report = async move {
            reports.report(&outlet, partition, None)?;
            Ok::<_, DataFusionError>(None)
        };
        let end = futures::stream::once(report)
            .try_filter_map(|none: Option<RecordBatch>| async move { Ok(none) });
        let schema = self.schema();
        let given = counted.chain(end);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, given)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
