//! SHOW TABLES, DESCRIBE and SHOW CREATE TABLE as rows.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Schema;

use crate::error::{Error, Result};
use crate::planner::types::type_name;
use crate::session::catalog::{Catalog, TableEntry};

/// `table_name`, `kind`: one row per table and view.
pub(crate) fn tables(catalog: &Catalog) -> Result<RecordBatch> {
    let names = catalog.names();
    let kinds = names
        .iter()
        .map(|name| catalog.entry(name).map(|entry| entry.kind_name()));
    let kinds: StringArray = kinds.collect();
    batch(vec![
        (
            "table_name",
            Arc::new(StringArray::from_iter_values(&names)),
        ),
        ("kind", Arc::new(kinds)),
    ])
}

/// `column_name`, `data_type`, `nullable`, `source`: one row per column.
pub(crate) async fn columns(catalog: &Catalog, name: &str) -> Result<RecordBatch> {
    let entry = catalog.open(name).await?;
    let provider = catalog
        .provider(name)
        .await?
        .ok_or_else(|| catalog.no_such_table(name))?;
    let schema = provider.schema();
    let fields = schema.fields();
    let mut sources: Vec<Option<String>> = vec![None; fields.len()];
    match &entry {
        TableEntry::Kafka(table) => {
            for (field, source) in fields.iter().zip(&mut sources) {
                *source = table
                    .metadata_key(field.name())
                    .map(|key| format!("METADATA FROM '{}'", key.name()));
            }
        }
        TableEntry::Delta { handle, .. } => {
            let generated = handle.generated_columns().await?;
            let partitions = handle.partition_columns().await?;
            for (field, source) in fields.iter().zip(&mut sources) {
                let mut notes = Vec::new();
                if let Some((_, expr)) = generated.iter().find(|(known, _)| known == field.name()) {
                    notes.push(format!("GENERATED ALWAYS AS ({expr})"));
                }
                if partitions.contains(field.name()) {
                    notes.push("partition".to_owned());
                }
                *source = (!notes.is_empty()).then(|| notes.join(", "));
            }
        }
        TableEntry::View(_) | TableEntry::Provider(_) | TableEntry::Unopened(_) => {}
    }
    let types = fields.iter().map(|field| type_name(field.data_type()));
    batch(vec![
        (
            "column_name",
            Arc::new(StringArray::from_iter_values(
                fields.iter().map(|f| f.name()),
            )),
        ),
        ("data_type", Arc::new(StringArray::from_iter_values(types))),
        (
            "nullable",
            Arc::new(
                fields
                    .iter()
                    .map(|f| Some(f.is_nullable()))
                    .collect::<BooleanArray>(),
            ),
        ),
        ("source", Arc::new(StringArray::from(sources))),
    ])
}

/// `column_name`, `data_type`, `nullable`: one row per column of a query.
pub(crate) fn fields(schema: &Schema) -> Result<RecordBatch> {
    let fields = schema.fields();
    let names = fields.iter().map(|field| field.name());
    let types = fields.iter().map(|field| type_name(field.data_type()));
    let nullable = fields.iter().map(|field| Some(field.is_nullable()));
    batch(vec![
        (
            "column_name",
            Arc::new(StringArray::from_iter_values(names)),
        ),
        ("data_type", Arc::new(StringArray::from_iter_values(types))),
        ("nullable", Arc::new(nullable.collect::<BooleanArray>())),
    ])
}

/// `table_name`, `definition`: one row.
pub(crate) fn definition(name: &str, definition: &str) -> Result<RecordBatch> {
    batch(vec![
        ("table_name", Arc::new(StringArray::from(vec![name]))),
        ("definition", Arc::new(StringArray::from(vec![definition]))),
    ])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter(columns).map_err(|error| Error::internal(error.to_string()))
}
