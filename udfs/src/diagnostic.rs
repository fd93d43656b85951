//! Errors that carry their place in the SQL text and what to do about them.
//!
//! A [`Diagnostic`] travels inside [`DataFusionError`], so a caller that does not depend on this crate still gets span and
//! help.

use arrow::array::{Array, ArrayRef};
use datafusion::common::{Diagnostic, Result, Span};
use datafusion::error::DataFusionError;

/// An error of the statement: `message` at `span`, with `help` on what to do.
pub(crate) fn plan_error(
    message: impl Into<String>,
    span: Option<Span>,
    help: impl Into<String>,
) -> DataFusionError {
    let message = message.into();
    let mut diagnostic = Diagnostic::new_error(message.clone(), span);
    diagnostic.add_help(help, None);
    DataFusionError::Plan(message).with_diagnostic(diagnostic)
}

/// An error for unsupported SQL: `message` at `span`, with `help` on what to do instead.
pub(crate) fn not_supported(
    message: impl Into<String>,
    span: Option<Span>,
    help: impl Into<String>,
) -> DataFusionError {
    let message = message.into();
    let mut diagnostic = Diagnostic::new_error(message.clone(), span);
    diagnostic.add_help(help, None);
    DataFusionError::NotImplemented(message).with_diagnostic(diagnostic)
}

/// An error of the data: `message`, with `help` on what to do.
pub(crate) fn data_error(message: impl Into<String>, help: impl Into<String>) -> DataFusionError {
    let message = message.into();
    let mut diagnostic = Diagnostic::new_error(message.clone(), None);
    diagnostic.add_help(help, None);
    DataFusionError::Execution(message).with_diagnostic(diagnostic)
}

/// NULL-1: fails if an event time of `array` is NULL. `column` names it for the message.
pub(crate) fn refuse_null_event_times(array: &ArrayRef, column: &str) -> Result<()> {
    if array.null_count() == 0 {
        return Ok(());
    }
    Err(null_event_time(column))
}

/// NULL-1: the error for a NULL event time in `column`.
pub(crate) fn null_event_time(column: &str) -> DataFusionError {
    data_error(
        format!("the event time {column} is NULL in at least one row, so the row has no window"),
        format!(
            "if such rows are to be left out, window a subquery with WHERE {column} IS NOT NULL"
        ),
    )
}

/// The error for an event time so far out that its window has no timestamp.
pub(crate) fn out_of_range(column: &str) -> DataFusionError {
    data_error(
        format!("an event time of {column} is so far out that its window cannot be represented"),
        format!("filter such rows out with WHERE {column} BETWEEN … AND …"),
    )
}

/// The known name closest to `name`, if one is close enough to be a likely correction.
pub(crate) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
