//! Files of JSON objects, `STORED AS JSON`: what the engine reads of numbers.
//!
//! Its reader makes 2 of 2.7 where the column is an integer. So integers are read as decimals first, and one with digits behind the
//! point is an error, as it is in the messages of a topic. Digits behind the 18th are not seen.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array as _, ArrayRef, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{GetExt, Statistics};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::{JsonFormat, JsonFormatFactory};
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileOpenFuture, FileOpener, FileScanConfig, FileSinkConfig, FileSource, JsonOpener,
};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::physical_expr::{LexRequirement, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::projection::ProjectionExprs;
use futures::StreamExt as _;

use crate::error::{Error, Subject};
use crate::exec::format::sql_name;

/// What integers are read as: it has room for those of 64 bits.
const READ_AS: DataType = DataType::Decimal128(38, 18);

/// Rows at once, where the plan says nothing of it.
const ROWS: usize = 8192;

/// Makes the engine's format for JSON, with integers that are whole.
#[derive(Debug)]
pub(crate) struct WholeJsonFactory(JsonFormatFactory);

impl WholeJsonFactory {
    /// With the engine's own defaults.
    pub(crate) fn new() -> Self {
        Self(JsonFormatFactory::new())
    }
}

impl GetExt for WholeJsonFactory {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }
}

impl FileFormatFactory for WholeJsonFactory {
    fn create(
        &self,
        state: &dyn Session,
        format_options: &HashMap<String, String>,
    ) -> Result<Arc<dyn FileFormat>> {
        Ok(Arc::new(WholeJson(self.0.create(state, format_options)?)))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(WholeJson(FileFormatFactory::default(&self.0)))
    }
}

/// The engine's format for JSON, with another source.
#[derive(Debug)]
struct WholeJson(Arc<dyn FileFormat>);

#[async_trait]
impl FileFormat for WholeJson {
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
        Arc::new(WholeSource {
            inner: self.0.file_source(table_schema),
            batch_size: ROWS,
            newline_delimited: json.is_none_or(JsonFormat::is_newline_delimited),
        })
    }
}

/// The engine's source of JSON, which opens files otherwise where there are integers.
#[derive(Clone)]
struct WholeSource {
    inner: Arc<dyn FileSource>,
    batch_size: usize,
    newline_delimited: bool,
}

impl WholeSource {
    fn over(&self, inner: Arc<dyn FileSource>) -> Self {
        Self {
            inner,
            ..self.clone()
        }
    }
}

impl FileSource for WholeSource {
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
        let Some(fields) = fields_as_read(schema.fields()) else {
            return self
                .inner
                .create_file_opener(object_store, base_config, partition);
        };
        let read = Schema::new_with_metadata(fields, schema.metadata().clone());
        let opener = JsonOpener::new(
            self.batch_size,
            Arc::new(read),
            base_config.file_compression_type,
            object_store,
            self.newline_delimited,
        );
        let opener = Arc::new(WholeOpener {
            inner: opener,
            schema: Arc::new(schema),
        });
        ProjectionOpener::try_new(projection, opener, table.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        let source = self.over(self.inner.with_batch_size(batch_size));
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

    fn try_pushdown_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn FileSource>>> {
        let pushed = self.inner.try_pushdown_projection(projection)?;
        Ok(pushed.map(|inner| Arc::new(self.over(inner)) as Arc<dyn FileSource>))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}

/// Opens files whose integers are read as decimals, and makes integers of them.
struct WholeOpener {
    inner: JsonOpener,
    /// With the integers.
    schema: SchemaRef,
}

impl FileOpener for WholeOpener {
    fn open(&self, partitioned_file: PartitionedFile) -> Result<FileOpenFuture> {
        let opened = self.inner.open(partitioned_file)?;
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(async move {
            let batches = opened.await?;
            Ok(batches
                .map(move |batch| with_integers(&batch?, &schema))
                .boxed())
        }))
    }
}

/// Fields with what integers are read as; nothing if there is no integer.
fn fields_as_read(fields: &Fields) -> Option<Fields> {
    let read: Vec<Option<FieldRef>> = fields.iter().map(field_as_read).collect();
    read.iter().any(Option::is_some).then(|| {
        let fields = fields.iter().zip(read);
        fields
            .map(|(field, read)| read.unwrap_or_else(|| Arc::clone(field)))
            .collect()
    })
}

fn field_as_read(field: &FieldRef) -> Option<FieldRef> {
    let read = match field.data_type() {
        of if of.is_integer() => READ_AS,
        DataType::List(item) => DataType::List(field_as_read(item)?),
        DataType::LargeList(item) => DataType::LargeList(field_as_read(item)?),
        DataType::Map(entries, is_sorted) => DataType::Map(field_as_read(entries)?, *is_sorted),
        DataType::Struct(fields) => DataType::Struct(fields_as_read(fields)?),
        _ => return None,
    };
    Some(Arc::new(Field::clone(field).with_data_type(read)))
}

fn with_integers(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| integers(column, field));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// The column with integers in it.
fn integers(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let read = column.data_type();
    if read == field.data_type() {
        return Ok(Arc::clone(column));
    }
    // What has no place becomes NULL, and what was cut off does not come back.
    let options = CastOptions::default();
    let made = cast_with_options(column, field.data_type(), &options)?;
    let back = cast_with_options(&made, read, &options)?;
    if back.as_ref() == column.as_ref() {
        return Ok(made);
    }
    let mut rows = 0..column.len();
    let row = rows.find(|row| back.slice(*row, 1).as_ref() != column.slice(*row, 1).as_ref());
    let shown = match row {
        Some(row) => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(column, &options)?;
            formatter.value(row).to_string()
        }
        None => "a number".to_owned(),
    };
    // Of a decimal all digits behind the point are shown.
    let shown = match read == &READ_AS {
        true => shown.trim_end_matches('0').trim_end_matches('.'),
        false => shown.as_str(),
    };
    let (name, of) = (field.name(), sql_name(field.data_type()));
    Err(Error::data(format!("{name}: {shown} has no place in {of}"))
        .about(Subject::column(name))
        .with_help(
            "declare the column as DOUBLE or DECIMAL, and CAST in the query if it is to be rounded",
        )
        .into())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Decimal128Array, Int32Array, StructArray};

    use super::*;

    const ONE: i128 = 1_000_000_000_000_000_000;

    fn decimals(values: Vec<Option<i128>>) -> ArrayRef {
        let values = Decimal128Array::from(values);
        Arc::new(values.with_precision_and_scale(38, 18).unwrap())
    }

    #[test]
    fn value_1_only_whole_numbers_with_room_become_integers() {
        let field = Field::new("n", DataType::Int32, true);
        let whole = integers(&decimals(vec![Some(2 * ONE), None, Some(-ONE)]), &field).unwrap();
        let expected = Int32Array::from(vec![Some(2), None, Some(-1)]);
        assert_eq!(
            whole.as_ref(),
            &expected as &dyn datafusion::arrow::array::Array
        );
        for (value, shown) in [
            (27 * ONE / 10, "n: 2.7 has no place in INT"),
            (3_000_000_000 * ONE, "n: 3000000000 has no place in INT"),
        ] {
            let error = integers(&decimals(vec![None, Some(value)]), &field).unwrap_err();
            assert!(error.to_string().contains(shown), "{error}");
        }
    }

    #[test]
    fn value_1_so_do_those_within_others() {
        let fields = Fields::from(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, true),
        ]);
        let field: FieldRef = Arc::new(Field::new("s", DataType::Struct(fields), true));
        let read = field_as_read(&field).unwrap();
        let DataType::Struct(read) = read.data_type() else {
            unreachable!("a struct is read as one");
        };
        let structs = |value: i128| -> ArrayRef {
            let texts = datafusion::arrow::array::new_null_array(&DataType::Utf8, 1);
            let columns = vec![decimals(vec![Some(value)]), texts];
            Arc::new(StructArray::new(read.clone(), columns, None))
        };
        integers(&structs(2 * ONE), &field).unwrap();
        integers(&structs(2 * ONE + 1), &field).unwrap_err();
        let text: FieldRef = Arc::new(Field::new("t", DataType::Utf8, true));
        assert!(field_as_read(&text).is_none());
    }
}
