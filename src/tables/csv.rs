//! Files of CSV, `STORED AS CSV`: decimals are read as in the messages of a topic, rounded and with all their digits.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::config::CsvOptions;
use datafusion::common::internal_err;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{CsvSource, FileOpenFuture, FileOpener, FileSource};
use datafusion::error::Result;
use datafusion::physical_plan::projection::ProjectionExprs;
use futures::StreamExt as _;

use super::exact_source::{ExactFormat, ExactScan, ExactSource};
use super::number_texts::{with_numbers, with_texts};
use crate::formats::is_exact;

/// The engine's source of CSV, which reads decimals as texts and makes numbers of them.
pub(crate) type ExactCsvSource = ExactSource<ExactCsv>;

/// Files of CSV with decimals.
#[derive(Clone)]
pub(crate) struct ExactCsv {
    /// How records are written.
    options: CsvOptions,
    /// The columns of the file, with texts in the places of decimals.
    read: SchemaRef,
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
        let read = Arc::new(Schema::new_with_metadata(texts, schema.metadata().clone()));
        let format = ExactCsv { options, read };
        Some(Self::new(Arc::new(source.clone()), format))
    }
}

impl ExactFormat for ExactCsv {
    fn opener(&self, scan: ExactScan<'_>) -> Result<Arc<dyn FileOpener>> {
        let columns = ProjectionExprs::from_indices(scan.columns, &self.read);
        let texts = CsvSource::new(Arc::clone(&self.read))
            .with_csv_options(self.options.clone())
            .with_batch_size(scan.batch_size);
        let Some(texts) = texts.try_pushdown_projection(&columns)? else {
            return internal_err!("a scan of CSV takes any columns");
        };
        Ok(Arc::new(ExactOpener {
            inner: texts.create_file_opener(scan.store, scan.config, scan.partition)?,
            schema: scan.schema,
        }))
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
