//! Reads records row by row into growing columns: the loop that JSON and CSV share.

use arrow::datatypes::SchemaRef;

use super::codec::{BadRow, Decoded, batch_of, check_total_bytes};
use super::column::{ColumnBuilders, ReadContext};
use super::column_spelling::renamed;
use crate::error::{Error, Result};

/// Decodes messages one by one into column builders. `read` gets a message and its row and either pushes one value to each
/// column or returns why the message is bad; a tombstone is a row of NULLs.
pub(super) fn decode_rows(
    schema: &SchemaRef,
    columns: &mut ColumnBuilders,
    context: &mut ReadContext,
    payloads: &[Option<&[u8]>],
    mut read: impl FnMut(&mut ColumnBuilders, &mut ReadContext, &[u8], usize) -> Result<(), String>,
) -> Result<Decoded> {
    check_total_bytes(payloads)?;
    let mut bad = Vec::new();
    if !columns.children.is_empty() {
        for (row, payload) in payloads.iter().enumerate() {
            let Some(payload) = payload else {
                columns.push_null();
                continue;
            };
            let outcome = read(columns, context, payload, row);
            if outcome.is_ok() {
                columns.end_row(row, context);
            }
            // A reason from a single value counts only if the message as a whole could be read.
            let failure = context.take_failure();
            let (reason, column) = match (outcome, failure) {
                (Ok(()), None) => continue,
                (Ok(()), Some(failure)) => (failure.reason, Some(failure.column)),
                (Err(reason), _) => (reason, None),
            };
            columns.truncate(row);
            columns.push_null();
            bad.push(BadRow {
                row,
                reason,
                column,
            });
        }
    }
    let misfit = |error| Error::internal(format!("decoded values do not fit: {error}"));
    let arrays = columns.finish().map_err(misfit)?;
    let arrays = arrays
        .iter()
        .zip(schema.fields())
        .map(|(array, field)| renamed(array, field.data_type()))
        .collect::<Result<_, _>>()
        .map_err(misfit)?;
    Ok(Decoded {
        columns: batch_of(schema, arrays, payloads.len())?,
        bad,
    })
}
