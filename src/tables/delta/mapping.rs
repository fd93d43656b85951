//! Column mapping: tables whose files have other column names than the table.
//!
//! The library does the reading. For writing, a batch is relabelled, at no cost: names and types change,
//! buffers do not.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use deltalake::kernel::{DataType as DeltaType, EagerSnapshot, MetadataValue, StructField};

use crate::error::{Error, Result};
use crate::formats::renamed;

/// The names in the files of a table with column mapping.
#[derive(Debug, Clone)]
pub(super) struct MappedNames {
    /// The table's columns under the names of its files.
    schema: SchemaRef,
    /// The partition columns under those names.
    pub(super) partition_by: Vec<String>,
}

impl MappedNames {
    /// The names of `snapshot`; `schema` are its columns as a scan gives them. `None` without mapping.
    pub(super) fn of(snapshot: &EagerSnapshot, schema: &SchemaRef) -> Result<Option<Self>> {
        let configuration = snapshot.metadata().configuration();
        let mode = configuration
            .get("delta.columnMapping.mode")
            .map(String::as_str);
        if matches!(mode, None | Some("none")) {
            return Ok(None);
        }
        let mode = snapshot.table_configuration().column_mapping_mode();
        let name = |field: &StructField| field.physical_name(mode).to_owned();
        let logical = snapshot.schema();
        let stored = |column: &str| {
            logical
                .field(column)
                .ok_or_else(|| Error::internal(format!("column '{column}' is not in the schema")))
        };
        let fields = schema
            .fields()
            .iter()
            .map(|field| Ok(mapped_field(field, stored(field.name())?, &name)))
            .collect::<Result<Fields>>()?;
        let partition_by = snapshot
            .metadata()
            .partition_columns()
            .iter()
            .map(|column| Ok(name(stored(column)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Some(Self {
            schema: Arc::new(Schema::new(fields)),
            partition_by,
        }))
    }

    /// The schema of the files: without the partition columns.
    pub(super) fn file_schema(&self) -> SchemaRef {
        let fields: Vec<FieldRef> = self
            .schema
            .fields()
            .iter()
            .filter(|field| !self.partition_by.contains(field.name()))
            .cloned()
            .collect();
        Arc::new(Schema::new(fields))
    }
}

/// The same columns under the names of `schema`.
pub(super) fn relabel(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| renamed(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(DataFusionError::from)?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns).map_err(DataFusionError::from)?)
}

fn mapped_field(
    field: &Field,
    stored: &StructField,
    name: &impl Fn(&StructField) -> String,
) -> FieldRef {
    let id = match stored.metadata().get("delta.columnMapping.id") {
        Some(MetadataValue::Number(id)) => Some(id.to_string()),
        _ => None,
    };
    let metadata: HashMap<String, String> = id
        .map(|id| ("PARQUET:field_id".to_owned(), id))
        .into_iter()
        .collect();
    let data_type = mapped_type(field.data_type(), stored.data_type(), name);
    Arc::new(Field::new(name(stored), data_type, field.is_nullable()).with_metadata(metadata))
}

fn mapped_type(
    arrow: &DataType,
    stored: &DeltaType,
    name: &impl Fn(&StructField) -> String,
) -> DataType {
    match (arrow, stored) {
        (DataType::Struct(fields), DeltaType::Struct(of)) => DataType::Struct(
            fields
                .iter()
                .zip(of.fields())
                .map(|(field, stored)| mapped_field(field, stored, name))
                .collect(),
        ),
        (DataType::List(element), DeltaType::Array(of)) => {
            let data_type = mapped_type(element.data_type(), of.element_type(), name);
            DataType::List(Arc::new(element.as_ref().clone().with_data_type(data_type)))
        }
        (DataType::Map(entries, sorted), DeltaType::Map(of)) => {
            let DataType::Struct(fields) = entries.data_type() else {
                return arrow.clone();
            };
            let types = [of.key_type(), of.value_type()];
            let fields: Fields = fields
                .iter()
                .zip(types)
                .map(|(field, stored)| {
                    let data_type = mapped_type(field.data_type(), stored, name);
                    Arc::new(field.as_ref().clone().with_data_type(data_type))
                })
                .collect();
            let entries = entries
                .as_ref()
                .clone()
                .with_data_type(DataType::Struct(fields));
            DataType::Map(Arc::new(entries), *sorted)
        }
        _ => arrow.clone(),
    }
}
