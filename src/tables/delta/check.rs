//! Row checks of a write: generated columns, `NOT NULL`, the table's constraints.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::kernels::cmp::distinct;
use datafusion::arrow::compute::{and, is_not_null};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::error::DataFusionError;

use super::generated::{GeneratedColumn, TableExpr};
use crate::error::{Error, Result, Subject};

/// The rules of one version of a table's metadata.
#[derive(Debug)]
pub(super) struct RowRules {
    /// The table's columns, as a scan gives them.
    pub(super) schema: SchemaRef,
    pub(super) generated: Vec<GeneratedColumn>,
    /// Name, text and expression of each `CHECK` and invariant.
    pub(super) constraints: Vec<(String, String, TableExpr)>,
}

impl RowRules {
    /// Fills the generated columns of `batch`, which has the table's columns in order, and checks it.
    ///
    /// A null in a generated column stands for "left out" and is replaced.
    ///
    /// # Errors
    ///
    /// The first column or constraint that a row breaks, with a value that does.
    pub(super) fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        for column in &self.generated {
            let to = self.schema.field(column.index).data_type();
            let computed = column.evaluate(batch, to)?;
            check_given(column, &columns[column.index], &computed)?;
            columns[column.index] = computed;
        }
        for (field, column) in self.schema.fields().iter().zip(&columns) {
            if !field.is_nullable() && column.null_count() > 0 {
                return Err(Error::data(format!(
                    "column '{}' is NOT NULL, but {} of {} rows have no value",
                    field.name(),
                    column.null_count(),
                    column.len()
                ))
                .about(Subject::column(field.name())));
            }
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(DataFusionError::from)?;
        for (name, text, expression) in &self.constraints {
            let held = expression.evaluate(&batch)?;
            let held = held.as_boolean_opt().ok_or_else(|| {
                Error::unsupported(format!(
                    "the constraint '{name}' ({text}) is not a condition"
                ))
                .about(Subject::text(name))
            })?;
            if let Some(row) = (0..held.len()).find(|row| held.is_null(*row) || !held.value(*row)) {
                return Err(Error::data(format!(
                    "a row breaks the constraint '{name}' ({text}): {}",
                    show_row(&batch, row)
                ))
                .about(Subject::text(name)));
            }
        }
        Ok(batch)
    }
}

/// A generated column may be given, but not with another value.
fn check_given(column: &GeneratedColumn, given: &ArrayRef, computed: &ArrayRef) -> Result<()> {
    if given.null_count() == given.len() {
        return Ok(());
    }
    let differs: BooleanArray = distinct(given, computed)
        .and_then(|differs| and(&differs, &is_not_null(given)?))
        .map_err(DataFusionError::from)?;
    if differs.true_count() == 0 {
        return Ok(());
    }
    let row = (0..differs.len())
        .find(|row| differs.value(*row))
        .unwrap_or(0);
    Err(Error::data(format!(
        "column '{}' is generated as {}: a row gives {}, its expression {}",
        column.name,
        column.text,
        show(given, row),
        show(computed, row)
    ))
    .about(Subject::column(&column.name))
    .with_help("leave the column out of the INSERT"))
}

fn show(array: &ArrayRef, row: usize) -> String {
    if array.is_null(row) {
        return "NULL".to_owned();
    }
    array_value_to_string(array, row).unwrap_or_else(|_| "?".to_owned())
}

fn show_row(batch: &RecordBatch, row: usize) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .take(SHOWN)
        .map(|(field, column)| format!("{} = {}", field.name(), show(column, row)))
        .collect();
    shown.join(", ")
}
