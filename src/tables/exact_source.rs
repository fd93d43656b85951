//! Sources of files whose numbers are read with all their digits: all but the way to open a file is that of the engine's source.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::object_store::ObjectStore;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::projection::ProjectionExprs;

/// Rows of a batch, if the plan sets no number.
const ROWS: usize = 8192;

/// Opens the files of a format.
pub(crate) trait ExactFormat: Clone + Send + Sync + 'static {
    /// Opens files for a scan.
    ///
    /// # Errors
    ///
    /// The errors of the engine's source.
    fn opener(&self, scan: ExactScan<'_>) -> Result<Arc<dyn FileOpener>>;

    /// Whether several streams may read parts of a file, as the engine's source says.
    fn may_be_cut(&self, inner: &dyn FileSource) -> bool {
        inner.supports_repartitioning()
    }
}

/// What a scan reads.
pub(crate) struct ExactScan<'a> {
    /// The columns, with their numbers.
    pub(super) schema: SchemaRef,
    /// Their places in the file.
    pub(super) columns: &'a [usize],
    /// Rows of a batch.
    pub(super) batch_size: usize,
    /// Where the files are.
    pub(super) store: Arc<dyn ObjectStore>,
    /// The scan, as the engine plans it.
    pub(super) config: &'a FileScanConfig,
    /// Which partition of it.
    pub(super) partition: usize,
}

/// The engine's source of a format, which opens files otherwise.
#[derive(Clone)]
pub(crate) struct ExactSource<F> {
    inner: Arc<dyn FileSource>,
    format: F,
    batch_size: usize,
}

impl<F: ExactFormat> ExactSource<F> {
    /// In the place of `inner`.
    pub(super) fn new(inner: Arc<dyn FileSource>, format: F) -> Self {
        Self {
            inner,
            format,
            batch_size: ROWS,
        }
    }

    fn with_inner(&self, inner: Arc<dyn FileSource>) -> Self {
        Self {
            inner,
            ..self.clone()
        }
    }
}

impl<F: ExactFormat> FileSource for ExactSource<F> {
    fn create_file_opener(
        &self,
        object_store: Arc<dyn ObjectStore>,
        base_config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let table = self.inner.table_schema();
        let projection = match self.inner.projection() {
            Some(projection) => SplitProjection::new(table.file_schema(), projection),
            None => SplitProjection::unprojected(table),
        };
        let schema = table.file_schema().project(&projection.file_indices)?;
        let opener = self.format.opener(ExactScan {
            schema: Arc::new(schema),
            columns: &projection.file_indices,
            batch_size: self.batch_size,
            store: object_store,
            config: base_config,
            partition,
        })?;
        ProjectionOpener::try_new(projection, opener, table.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        let source = self.with_inner(self.inner.with_batch_size(batch_size));
        Arc::new(Self {
            batch_size,
            ..source
        })
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(t, f)
    }

    fn supports_repartitioning(&self) -> bool {
        self.format.may_be_cut(self.inner.as_ref())
    }

    fn try_pushdown_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn FileSource>>> {
        let pushed = self.inner.try_pushdown_projection(projection)?;
        Ok(pushed.map(|inner| Arc::new(self.with_inner(inner)) as Arc<dyn FileSource>))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}
