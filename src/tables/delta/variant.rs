//! VARIANT as JSON text, from the two binary parts of such a value that a scan of Parquet gives.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, StringBuilder, StructArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use deltalake::kernel::{DataType as DeltaType, StructType};
use parquet_variant::Variant;
use parquet_variant_json::VariantToJson as _;

use crate::error::{Error, Subject};

/// Where values of VARIANT are in a table's columns.
#[derive(Debug)]
pub(super) struct VariantTexts {
    /// The columns as they are shown.
    shown: SchemaRef,
    /// For each column, whether its type differs from the one that the scan gives.
    differs: Vec<bool>,
}

impl VariantTexts {
    /// The columns of a table whose scan gives `scanned`; `None` if there is no VARIANT in it.
    pub(super) fn of(stored: &StructType, scanned: &SchemaRef) -> Option<Self> {
        let shown: Vec<FieldRef> = scanned
            .fields()
            .iter()
            .map(|field| match stored.field(field.name()) {
                Some(of) => shown_field(field, of.data_type()),
                None => Arc::clone(field),
            })
            .collect();
        let differs: Vec<bool> = shown
            .iter()
            .zip(scanned.fields())
            .map(|(shown, scanned)| shown.data_type() != scanned.data_type())
            .collect();
        differs.contains(&true).then(|| Self {
            shown: Arc::new(Schema::new(shown)),
            differs,
        })
    }

    /// The columns as they are shown.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.shown
    }

    /// Whether the column of this name holds VARIANT.
    pub(super) fn has(&self, name: &str) -> bool {
        let found = self.shown.index_of(name).ok();
        found.is_some_and(|index| self.differs[index])
    }

    /// The rows of `plan` as they are shown.
    pub(super) fn over(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = plan.schema();
        let columns = schema.fields().iter().enumerate().map(|(index, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
            let shown = self.shown.field_with_name(field.name());
            let shown = shown.ok().filter(|_| self.has(field.name()));
            let column: Arc<dyn PhysicalExpr> = match shown {
                Some(shown) => Arc::new(VariantAsText {
                    column,
                    shown: Arc::new(shown.clone()),
                }),
                None => column,
            };
            (column, field.name().clone())
        });
        let columns: Vec<_> = columns.collect();
        Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
    }
}

fn shown_field(field: &FieldRef, of: &DeltaType) -> FieldRef {
    let shown = shown_type(field.data_type(), of);
    if shown == *field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(Field::new(field.name(), shown, field.is_nullable()))
}

fn shown_type(scanned: &DataType, of: &DeltaType) -> DataType {
    match (scanned, of) {
        (_, DeltaType::Variant(_)) => DataType::Utf8,
        (DataType::Struct(fields), DeltaType::Struct(of)) => {
            let fields = fields.iter().map(|field| match of.field(field.name()) {
                Some(of) => shown_field(field, of.data_type()),
                None => Arc::clone(field),
            });
            DataType::Struct(fields.collect())
        }
        (DataType::List(element), DeltaType::Array(of)) => {
            DataType::List(shown_field(element, of.element_type()))
        }
        (DataType::Map(entries, sorted), DeltaType::Map(of)) => {
            let DataType::Struct(fields) = entries.data_type() else {
                return scanned.clone();
            };
            let types = [of.key_type(), of.value_type()];
            let fields = fields.iter().zip(types);
            let fields: Fields = fields.map(|(field, of)| shown_field(field, of)).collect();
            let entries = Field::new(
                entries.name(),
                DataType::Struct(fields),
                entries.is_nullable(),
            );
            DataType::Map(Arc::new(entries), *sorted)
        }
        _ => scanned.clone(),
    }
}

/// A column with its values of VARIANT as text.
#[derive(Debug, Eq)]
struct VariantAsText {
    column: Arc<dyn PhysicalExpr>,
    shown: FieldRef,
}

// By hand, as in the engine: https://github.com/rust-lang/rust/issues/78808
impl PartialEq for VariantAsText {
    fn eq(&self, other: &Self) -> bool {
        self.column.eq(&other.column) && self.shown == other.shown
    }
}

impl Hash for VariantAsText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.column.hash(state);
        self.shown.hash(state);
    }
}

impl fmt::Display for VariantAsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "variant_text({})", self.column)
    }
}

impl PhysicalExpr for VariantAsText {
    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(Arc::clone(&self.shown))
    }

    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.shown.data_type().clone())
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(self.shown.is_nullable())
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let column = self.column.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(shown_array(
            &column,
            self.shown.data_type(),
        )?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let column = children.into_iter().next();
        Ok(Arc::new(Self {
            column: column.unwrap_or_else(|| Arc::clone(&self.column)),
            shown: Arc::clone(&self.shown),
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.column.fmt_sql(f)
    }
}

fn shown_array(array: &ArrayRef, shown: &DataType) -> Result<ArrayRef> {
    if array.data_type() == shown {
        return Ok(Arc::clone(array));
    }
    Ok(match (array.data_type(), shown) {
        (DataType::Struct(_), DataType::Utf8) => texts(array.as_struct())?,
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let from = array.as_struct();
            let columns = from.columns().iter().zip(fields);
            let columns = columns.map(|(column, field)| shown_array(column, field.data_type()));
            Arc::new(StructArray::try_new(
                fields.clone(),
                columns.collect::<Result<Vec<_>>>()?,
                from.nulls().cloned(),
            )?)
        }
        (DataType::List(_), DataType::List(field)) => {
            let from = array.as_list::<i32>();
            let values = shown_array(from.values(), field.data_type())?;
            let (offsets, nulls) = (from.offsets().clone(), from.nulls().cloned());
            Arc::new(ListArray::try_new(
                Arc::clone(field),
                offsets,
                values,
                nulls,
            )?)
        }
        (DataType::Map(..), DataType::Map(field, sorted)) => {
            let from = array.as_map();
            let entries: ArrayRef = Arc::new(from.entries().clone());
            let entries = shown_array(&entries, field.data_type())?
                .as_struct()
                .clone();
            let (offsets, nulls) = (from.offsets().clone(), from.nulls().cloned());
            Arc::new(MapArray::try_new(
                Arc::clone(field),
                offsets,
                entries,
                nulls,
                *sorted,
            )?)
        }
        _ => cast(array, shown)?,
    })
}

fn texts(values: &StructArray) -> Result<ArrayRef> {
    let part = |name: &str| -> Result<ArrayRef> {
        let part = values.column_by_name(name).ok_or_else(|| {
            DataFusionError::from(
                Error::data(format!("values of VARIANT have no '{name}'"))
                    .about(Subject::text(name)),
            )
        })?;
        Ok(cast(part, &DataType::Binary)?)
    };
    let (metadata, value) = (part("metadata")?, part("value")?);
    let (metadata, value) = (metadata.as_binary::<i32>(), value.as_binary::<i32>());
    let mut texts = StringBuilder::with_capacity(values.len(), value.value_data().len());
    for row in 0..values.len() {
        if values.is_null(row) || metadata.is_null(row) || value.is_null(row) {
            texts.append_null();
            continue;
        }
        let read = Variant::try_new(metadata.value(row), value.value(row));
        let text = read
            .and_then(|read| read.to_json_string())
            .map_err(|error| {
                DataFusionError::from(Error::data(format!(
                    "a value of VARIANT cannot be read: {error}"
                )))
            })?;
        texts.append_value(text);
    }
    Ok(Arc::new(texts.finish()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use datafusion::arrow::array::BinaryArray;
    use datafusion::arrow::buffer::NullBuffer;
    use parquet_variant::VariantBuilder;
    use parquet_variant_json::JsonToVariant as _;

    use super::*;

    #[test]
    fn values_are_their_json() {
        let shown = [
            r#"{"a":1,"b":[true,null,"ü"]}"#,
            "12.5",
            r#""text""#,
            "null",
        ];
        let parts: Vec<(Vec<u8>, Vec<u8>)> = shown
            .iter()
            .map(|text| {
                let mut builder = VariantBuilder::new();
                builder.append_json(text).unwrap();
                builder.finish()
            })
            .collect();
        let metadata = BinaryArray::from_iter_values(parts.iter().map(|(metadata, _)| metadata));
        let value = BinaryArray::from_iter_values(parts.iter().map(|(_, value)| value));
        let field = |name: &str| Arc::new(Field::new(name, DataType::Binary, false));
        let fields: Fields = vec![field("metadata"), field("value")].into();
        let columns: Vec<ArrayRef> = vec![Arc::new(metadata), Arc::new(value)];
        let nulls = NullBuffer::from(vec![true, true, true, true]);
        let values = StructArray::new(fields.clone(), columns.clone(), Some(nulls));
        let read = texts(&values).unwrap();
        let read: Vec<_> = read.as_string::<i32>().iter().flatten().collect();
        assert_eq!(read, shown);

        let nulls = NullBuffer::from(vec![false, true, true, true]);
        let values = StructArray::new(fields.clone(), columns, Some(nulls));
        assert!(texts(&values).unwrap().is_null(0));

        let broken: Vec<ArrayRef> = vec![
            Arc::new(BinaryArray::from_iter_values([b"\xff\xff"])),
            Arc::new(BinaryArray::from_iter_values([b"\x02"])),
        ];
        let error = texts(&StructArray::new(fields, broken, None)).unwrap_err();
        assert!(error.to_string().contains("VARIANT"), "{error}");
    }
}
