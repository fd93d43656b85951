//! Files of JSON objects, `STORED AS JSON`: integers and decimals are read as in the messages of a topic, with all their digits.
//!
//! The engine's own way to open such files makes other numbers of some: see [`super::number_texts`]. So they are opened here.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{GetExt, Statistics};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::{JsonFormat, JsonFormatFactory};
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileOpenFuture, FileOpener, FileScanConfig, FileSinkConfig, FileSource,
};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::{GetOptions, ObjectMeta, ObjectStore};
use datafusion::physical_expr::LexRequirement;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_datasource::boundary_stream::AlignedBoundaryStream;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};

use super::exact_source::{ExactFormat, ExactScan, ExactSource};
use super::number_texts::{with_numbers, with_texts};
use crate::error::Error;
use crate::formats::is_exact;

/// Makes the engine's format for JSON, with exact numbers.
#[derive(Debug)]
pub(crate) struct ExactJsonFactory(JsonFormatFactory);

impl ExactJsonFactory {
    /// With the engine's own defaults.
    pub(crate) fn new() -> Self {
        Self(JsonFormatFactory::new())
    }
}

impl GetExt for ExactJsonFactory {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }
}

impl FileFormatFactory for ExactJsonFactory {
    fn create(
        &self,
        state: &dyn Session,
        format_options: &HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        Ok(Arc::new(ExactJson(self.0.create(state, format_options)?)))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(ExactJson(FileFormatFactory::default(&self.0)))
    }
}

/// The engine's format for JSON, with another source.
#[derive(Debug)]
struct ExactJson(Arc<dyn FileFormat>);

#[async_trait]
impl FileFormat for ExactJson {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        self.0.get_ext_with_compression(compression)
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.0.compression_type()
    }

    async fn infer_schema(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        self.0.infer_schema(state, store, objects).await
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        let stats = self.0.infer_stats(state, store, table_schema, object);
        stats.await
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        conf: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.create_physical_plan(state, conf).await
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        conf: FileSinkConfig,
        order_requirements: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self
            .0
            .create_writer_physical_plan(input, state, conf, order_requirements);
        plan.await
    }

    fn file_source(&self, table_schema: TableSchema) -> Arc<dyn FileSource> {
        let json = self.0.downcast_ref::<JsonFormat>();
        let format = ExactJsonFiles {
            newline_delimited: json.is_none_or(JsonFormat::is_newline_delimited),
        };
        Arc::new(ExactSource::new(self.0.file_source(table_schema), format))
    }
}

/// Files of JSON objects.
#[derive(Clone)]
struct ExactJsonFiles {
    newline_delimited: bool,
}

impl ExactFormat for ExactJsonFiles {
    fn opener(&self, scan: ExactScan<'_>) -> Result<Arc<dyn FileOpener>> {
        let schema = scan.schema;
        let read = match with_texts(schema.fields(), is_exact) {
            Some(texts) => Arc::new(Schema::new_with_metadata(texts, schema.metadata().clone())),
            None => Arc::clone(&schema),
        };
        Ok(Arc::new(ExactOpener {
            schema,
            read,
            batch_size: scan.batch_size,
            compression: scan.config.file_compression_type,
            store: scan.store,
            newline_delimited: self.newline_delimited,
        }))
    }

    /// An array has no lines at which it could be cut.
    fn may_be_cut(&self, _: &dyn FileSource) -> bool {
        self.newline_delimited
    }
}

/// Opens files; their numbers are read as texts and converted.
struct ExactOpener {
    /// With the numbers.
    schema: SchemaRef,
    /// With texts in their places.
    read: SchemaRef,
    batch_size: usize,
    compression: FileCompressionType,
    store: Arc<dyn ObjectStore>,
    newline_delimited: bool,
}

impl FileOpener for ExactOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let (store, compression) = (Arc::clone(&self.store), self.compression);
        let (schema, newline_delimited) = (Arc::clone(&self.schema), self.newline_delimited);
        // Strings take numbers and booleans too, as those of messages do.
        let decoder = ReaderBuilder::new(Arc::clone(&self.read))
            .with_batch_size(self.batch_size)
            .with_coerce_primitive(true)
            .build_decoder()?;
        Ok(Box::pin(async move {
            let chunks = compression.convert_stream(chunks_of(store, &file).await?)?;
            let chunks = match newline_delimited {
                true => chunks,
                false => lines_of_array(chunks),
            };
            Ok(decoded(decoder, chunks)
                .map(move |batch| with_numbers(&batch?, &schema))
                .boxed())
        }))
    }
}

type Chunks = BoxStream<'static, Result<Bytes>>;

/// The bytes of a file, or of the lines that begin in a part of it.
async fn chunks_of(store: Arc<dyn ObjectStore>, file: &PartitionedFile) -> Result<Chunks> {
    let location = &file.object_meta.location;
    let Some(part) = &file.range else {
        let whole = store.get_opts(location, GetOptions::default()).await?;
        return Ok(whole.into_stream().map_err(DataFusionError::from).boxed());
    };
    let place =
        |at: i64| u64::try_from(at).map_err(|error| DataFusionError::External(error.into()));
    let (start, end) = (place(part.start)?, place(part.end)?);
    let size = file.object_meta.size;
    let lines = AlignedBoundaryStream::new(store, location.clone(), start, end, size, b'\n');
    Ok(lines.await?.map_err(DataFusionError::from).boxed())
}

/// The rows of objects that follow each other.
fn decoded(decoder: Decoder, chunks: Chunks) -> BoxStream<'static, Result<RecordBatch>> {
    let start = (decoder, chunks, Bytes::new(), false);
    let batches = stream::try_unfold(start, |(mut decoder, mut chunks, mut rest, mut is_end)| {
        async move {
            loop {
                if rest.is_empty() && !is_end {
                    match chunks.next().await {
                        Some(chunk) => rest = chunk?,
                        None => is_end = true,
                    }
                }
                let taken = decoder.decode(&rest)?;
                rest = rest.slice(taken..);
                // It leaves bytes where a batch is full.
                if !is_end && rest.is_empty() {
                    continue;
                }
                match decoder.flush()? {
                    Some(batch) => {
                        let state = (decoder, chunks, rest, is_end);
                        return Ok::<_, DataFusionError>(Some((batch, state)));
                    }
                    None if is_end && rest.is_empty() => return Ok(None),
                    None => {}
                }
            }
        }
    });
    batches.boxed()
}

/// The values of the one array of a file, each on a line of its own.
fn lines_of_array(chunks: Chunks) -> Chunks {
    let start = (chunks, ArrayLines::default());
    let lines = stream::try_unfold(start, |(mut chunks, mut array)| async move {
        match chunks.next().await {
            Some(chunk) => {
                let lines = Bytes::from(array.lines(&chunk?)?);
                Ok::<_, DataFusionError>(Some((lines, (chunks, array))))
            }
            None => array.end().map(|()| None),
        }
    });
    lines.boxed()
}

/// How far an array was read.
#[derive(Debug, Default)]
struct ArrayLines {
    place: ArrayPosition,
    /// Brackets that are open within a value.
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    /// Whether there is a value behind the last comma.
    has_value: bool,
    has_comma: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ArrayPosition {
    #[default]
    Before,
    Within,
    Behind,
}

impl ArrayLines {
    fn lines(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut lines = Vec::with_capacity(bytes.len());
        for byte in bytes {
            lines.extend(self.read(*byte)?);
        }
        Ok(lines)
    }

    /// The byte to write for one byte of the array, if any.
    fn read(&mut self, byte: u8) -> Result<Option<u8>> {
        if self.in_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            return Ok(Some(byte));
        }
        let is_outside = self.depth == 0;
        match (self.place, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') => {}
            (ArrayPosition::Before, b'[') => {
                self.place = ArrayPosition::Within;
                return Ok(None);
            }
            (ArrayPosition::Within, b',') if is_outside && self.has_value => {
                (self.has_value, self.has_comma) = (false, true);
                return Ok(Some(b'\n'));
            }
            (ArrayPosition::Within, b']') if is_outside && (self.has_value || !self.has_comma) => {
                self.place = ArrayPosition::Behind;
                return Ok(None);
            }
            (ArrayPosition::Within, b',' | b']' | b'}') if is_outside => return Err(no_array()),
            (ArrayPosition::Within, _) => {
                self.has_value = true;
                match byte {
                    b'"' => self.in_text = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth -= 1,
                    _ => {}
                }
            }
            _ => return Err(no_array()),
        }
        Ok(Some(byte))
    }

    fn end(&self) -> Result<()> {
        match self.place {
            ArrayPosition::Behind => Ok(()),
            _ => Err(no_array()),
        }
    }
}

fn no_array() -> DataFusionError {
    Error::data("the file is not one array of JSON objects, `[{…}, {…}]`")
        .with_help(
            "of a file with an object on each line, leave 'format.newline_delimited' as it is",
        )
        .into()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray as _;
    use datafusion::arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn an_array_becomes_lines_for_any_chunking() {
        let text = " [ {\"a\":[1,2],\"t\":\"],\\\"{\"} ,\n{\"a\":[]}, {} ]\n";
        let expected = "{\"a\":[1,2],\"t\":\"],\\\"{\"}\n{\"a\":[]}\n{}";
        let squeezed = |lines: &[u8]| {
            let lines = String::from_utf8(lines.to_vec()).unwrap();
            let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.collect::<Vec<_>>().join("\n")
        };
        for size in 1..text.len() {
            let mut array = ArrayLines::default();
            let mut lines = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                lines.extend(array.lines(chunk).unwrap());
            }
            array.end().unwrap();
            assert_eq!(squeezed(&lines), expected, "{size}");
        }
        ArrayLines::default().lines(b"[]").unwrap();
    }

    #[test]
    fn files_without_an_array_are_refused() {
        for text in ["{}", "[{}", "[{},]", "[,{}]", "[{}}]", "[{}] {}", ""] {
            let mut array = ArrayLines::default();
            let read = array.lines(text.as_bytes()).and_then(|_| array.end());
            assert!(read.is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn objects_are_read_for_any_chunking() {
        let schema = Schema::new(vec![Field::new("n", DataType::Utf8, true)]);
        let schema = Arc::new(schema);
        let text = "{\"n\":1}\n{\"n\":\"2.50\"}\n{\"n\":null}\n\n{\"n\":1e400}{\"n\":true}";
        for size in 1..text.len() {
            let chunks: Vec<Result<Bytes>> = text
                .as_bytes()
                .chunks(size)
                .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
                .collect();
            let decoder = ReaderBuilder::new(Arc::clone(&schema))
                .with_batch_size(2)
                .with_coerce_primitive(true)
                .build_decoder()
                .unwrap();
            let batches = decoded(decoder, stream::iter(chunks).boxed());
            let batches: Vec<RecordBatch> = batches.try_collect().await.unwrap();
            let texts = batches.iter().flat_map(|batch| {
                let column = batch.column(0).as_string::<i32>();
                column
                    .iter()
                    .map(|text| text.map(str::to_owned))
                    .collect::<Vec<_>>()
            });
            let expected = [Some("1"), Some("2.50"), None, Some("1e400"), Some("true")];
            let expected = expected.map(|text| text.map(str::to_owned));
            assert_eq!(texts.collect::<Vec<_>>(), expected, "{size}");
        }
    }
}
