//! Numbering of the keys that an execution reads; those of the first slice come first.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::aggregates::group_values::GroupValues;

use crate::session::{key_schema, new_keys};
use crate::window::column_name;

/// Numbers the keys of rows.
pub(super) struct KeyNumbers {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    /// `None` without key columns: then there is only one key.
    numbers: Option<Box<dyn GroupValues>>,
    /// The values of the first slice's keys, by number: a column per key column.
    first: Vec<ArrayRef>,
    first_count: usize,
    numbers_of_batch: Vec<usize>,
}

impl KeyNumbers {
    /// Numbers of `exprs` over rows of `input`.
    pub(super) fn try_new(exprs: Vec<Arc<dyn PhysicalExpr>>, input: &Schema) -> Result<Self> {
        let schema = key_schema(&exprs, input)?;
        Ok(Self {
            numbers: new_keys(&schema)?,
            exprs,
            schema,
            first: vec![],
            first_count: 0,
            numbers_of_batch: vec![],
        })
    }

    /// The number of keys seen so far.
    pub(super) fn len(&self) -> usize {
        self.numbers.as_ref().map_or(1, |numbers| numbers.len())
    }

    /// The number of each row's key.
    pub(super) fn number_rows(&mut self, batch: &RecordBatch) -> Result<Vec<u32>> {
        let rows = batch.num_rows();
        let columns = self
            .exprs
            .iter()
            .map(|key| key.evaluate(batch)?.into_array(rows))
            .collect::<Result<Vec<_>>>()?;
        self.number(&columns, rows)
    }

    /// The number of each row of key columns.
    pub(super) fn number(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let Some(numbers) = &mut self.numbers else {
            return Ok(vec![0; rows]);
        };
        numbers.intern(columns, &mut self.numbers_of_batch)?;
        self.numbers_of_batch
            .iter()
            .map(|number| u32::try_from(*number).map_err(|_| exec_datafusion_err!("too many keys")))
            .collect()
    }

    /// Ends the first slice: it keeps the values of its keys, and their numbers stay.
    pub(super) fn end_first(&mut self) -> Result<()> {
        self.first_count = self.len();
        let Some(numbers) = &mut self.numbers else {
            return Ok(());
        };
        if self.first_count > 0 {
            self.first = numbers.emit(EmitTo::All)?;
            let mut again = new_keys(&self.schema)?;
            if let Some(again) = &mut again {
                again.intern(&self.first, &mut self.numbers_of_batch)?;
            }
            self.numbers = again;
        }
        Ok(())
    }

    /// The number of keys in the first slice.
    pub(super) fn first_count(&self) -> usize {
        self.first_count
    }

    /// The key columns of keys of the first slice.
    pub(super) fn values(&self, keys: &UInt32Array) -> Result<Vec<ArrayRef>> {
        let take = |values: &ArrayRef| Ok(take(values, keys, None)?);
        self.first.iter().map(take).collect()
    }

    /// A key of the first slice, for messages: `name=value ` of each column.
    pub(super) fn show(&self, key: u32) -> Result<String> {
        let mut text = String::new();
        for (expr, values) in self.exprs.iter().zip(&self.first) {
            let value = ScalarValue::try_from_array(values, key as usize)?;
            text += &format!("{}={value} ", column_name(&expr.to_string()));
        }
        Ok(text)
    }
}
