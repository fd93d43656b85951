//! Files of CSV, `STORED AS CSV`: decimals are read as in the messages of a topic, rounded and with all their digits.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::config::CsvOptions;
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    CsvSource, FileOpenFuture, FileOpener, FileScanConfig, FileSource,
};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::object_store::ObjectStore;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::projection::ProjectionExprs;
use futures::StreamExt as _;

use super::text_numbers::{with_numbers, with_texts};
use crate::formats::is_exact;

/// Rows of a batch, if the plan sets no number.
const ROWS: usize = 8192;

/// The engine's source of CSV, which reads decimals as texts and makes numbers of them.
#[derive(Clone)]
pub(crate) struct ExactCsvSource {
    inner: Arc<dyn FileSource>,
    /// How records are written.
    options: CsvOptions,
    /// The columns of the file, with texts in the places of decimals.
    read: SchemaRef,
    batch_size: usize,
}

impl ExactCsvSource {
    /// The same source, if it has decimals.
    pub(crate) fn over(source: &CsvSource) -> Option<Self> {
        let schema = FileSource::table_schema(source).file_schema();
        let is_text = |of: &DataType| is_exact(of) && of.is_decimal();
        let texts = with_texts(schema.fields(), is_text)?;
        let options = CsvOptions {
            has_header: Some(source.has_header()),
            delimiter: source.delimiter(),
            quote: source.quote(),
            terminator: source.terminator(),
            escape: source.escape(),
            comment: source.comment(),
            newlines_in_values: Some(source.newlines_in_values()),
            truncated_rows: Some(source.truncate_rows()),
            ..CsvOptions::default()
        };
        Some(Self {
            inner: Arc::new(source.clone()),
            options,
            read: Arc::new(Schema::new_with_metadata(texts, schema.metadata().clone())),
            batch_size: ROWS,
        })
    }

    fn with_inner(&self, inner: Arc<dyn FileSource>) -> Self {
        Self {
            inner,
            ..self.clone()
        }
    }
}

impl FileSource for ExactCsvSource {
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
        let columns = ProjectionExprs::from_indices(&projection.file_indices, &self.read);
        let texts = CsvSource::new(Arc::clone(&self.read))
            .with_csv_options(self.options.clone())
            .with_batch_size(self.batch_size);
        let Some(texts) = texts.try_pushdown_projection(&columns)? else {
            return internal_err!("a scan of CSV takes any columns");
        };
        let opener = Arc::new(ExactOpener {
            inner: texts.create_file_opener(object_store, base_config, partition)?,
            schema: Arc::new(schema),
        });
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

    fn supports_repartitioning(&self) -> bool {
        self.inner.supports_repartitioning()
    }

    fn fmt_extra(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(t, f)
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

/// Opens files; their decimals are read as texts and converted to numbers.
struct ExactOpener {
    inner: Arc<dyn FileOpener>,
    /// With the numbers.
    schema: SchemaRef,
}

impl FileOpener for ExactOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let opened = self.inner.open(file)?;
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(async move {
            let batches = opened.await?;
            Ok(batches
                .map(move |batch| with_numbers(&batch?, &schema))
                .boxed())
        }))
    }
}
