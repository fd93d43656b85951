//! Table provider of a job's batch: the files of the table that the batch reads, for DataFusion.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput as _,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use deltalake::DeltaTable;
use deltalake::delta_datafusion::FileSelection;
use deltalake::kernel::Add;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

use super::handle::DeltaTableHandle;
use super::provider::register_store;
use super::scan::TableScan;
use super::stream::{FileRange, StreamFile};
use super::stream_files::{FILE_COLUMN, FilesOfBatch};
use super::stream_time::{DeltaTimedExec, TimeOfBatch};
use crate::error::{Error, Subject};
use crate::tables::bad_records::BadRecords;
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
}

impl DeltaStreamProvider {
    /// Over the files of a batch.
    ///
    /// # Errors
    ///
    /// A table that cannot be read.
    pub fn try_new(range: FileRange) -> crate::error::Result<Self> {
        let scan =
            TableScan::of(&range.newest).map_err(|error| Error::internal(error.to_string()))?;
        let schema = scan.schema();
        Ok(Self {
            range,
            columns: Arc::clone(&schema),
            schema,
            time: None,
        })
    }

    /// The same, with place and watermark of every row in the hidden column
    /// [`ROW_COLUMN`](crate::tables::time::ROW_COLUMN). Rows without a time go to `bad_records`.
    #[must_use]
    pub fn with_time(
        mut self,
        time: Arc<BatchTime>,
        table: &DeltaTableHandle,
        bad_records: Arc<BadRecords>,
    ) -> Self {
        let hidden = Arc::new(row_field());
        let fields = self.columns.fields().iter().cloned().chain([hidden]);
        self.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let event_time = table.event_time().filter(|_| time.is_kept()).cloned();
        self.time = Some(TimeOfBatch {
            time,
            event_time,
            location: table.location().to_owned(),
            bad_records,
        });
        self
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
        let adds = files.iter().map(|file| Add {
            path: file.file.path.clone(),
            ..Add::default()
        });
        let scan = scan.with_file_selection(FileSelection::from_adds(adds));
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
            self.range.bytes,
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
                if let Some(time) = &self.time
                    && self.range.end > self.range.start
                {
                    time.pass_nothing(&self.range);
                }
                return Ok(Arc::new(EmptyExec::new(schema)) as Arc<dyn ExecutionPlan>);
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

    // Written out instead of `async fn`: among the bounds that async_trait adds, rustc proves for each function again that
    // plans are Send, which takes it many seconds each time. A function with one lifetime has no such bounds.
    fn scan<'life0, 'life1, 'life2, 'life3, 'async_trait>(
        &'life0 self,
        session: &'life1 dyn Session,
        projection: Option<&'life2 Vec<usize>>,
        _: &'life3 [Expr],
        _: Option<usize>,
    ) -> BoxFuture<'async_trait, Result<Arc<dyn ExecutionPlan>>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        Self: 'async_trait,
    {
        self.scan_boxed(session, projection)
    }
}

/// Rows and bytes that `plan` has read so far, if it is the scan of a table that is read as a stream; bytes are those of
/// the files.
pub fn stream_read(plan: &Arc<dyn ExecutionPlan>) -> Option<(u64, u64)> {
    let (metrics, bytes) = if let Some(scan) = plan.downcast_ref::<DeltaStreamExec>() {
        (scan.metrics(), scan.bytes)
    } else if let Some(scan) = plan.downcast_ref::<DeltaTimedExec>() {
        return Some((scan.rows_read(), scan.bytes()));
    } else {
        return None;
    };
    let rows = metrics.and_then(|metrics| metrics.output_rows());
    Some((rows.map_or(0, |rows| rows as u64), bytes))
}

/// Gives the rows of a batch's files and counts them.
#[derive(Debug)]
struct DeltaStreamExec {
    input: Arc<dyn ExecutionPlan>,
    bytes: u64,
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
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("DeltaStreamExec takes one child");
        };
        Ok(Arc::new(Self {
            input,
            bytes: self.bytes,
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let rows = self.input.execute(partition, context)?;
        let counted = rows.map(move |batch| batch.record_output(&baseline));
        let schema = self.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
