//! Errors as the page reads them: a status by kind, with the same message and position that clients of Flight receive.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use datafusion::sql::sqlparser::tokenizer::Location;
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind};
use crate::server::flight::status::sqlstate;

/// An answer that says no.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    error: Box<Error>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: Error) -> Self {
        Self {
            status,
            error: Box::new(error),
        }
    }

    #[cfg(test)]
    pub(super) fn status(self) -> StatusCode {
        self.status
    }

    /// The caller may not ask this, or not from there.
    pub(super) fn forbidden(message: impl Into<String>, help: &str) -> Self {
        Error::new(ErrorKind::Permission, message)
            .with_help(help)
            .into()
    }

    /// Its JSON.
    pub(super) fn body(&self) -> Value {
        let error = &self.error;
        let place = |at: Location| json!({"line": at.line, "column": at.column});
        json!({"error": {
            "message": one_line(error.message()),
            "help": error.help().map(one_line),
            "sqlstate": sqlstate(error.kind()),
            "from": error.span().map(|span| place(span.start)),
            // The position of the first character behind it.
            "to": error.span().map(|span| place(span.end)),
            "rows_written": error.rows_written(),
        }})
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::new(code(error.kind()), error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        with_json(self.status, &self.body())
    }
}

/// A body that is not kept by anyone.
pub(super) fn with_json(status: StatusCode, body: &Value) -> Response {
    json_text(status, body.to_string())
}

/// The same of JSON that was written already.
pub(super) fn json_text(status: StatusCode, body: String) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

fn code(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid | ErrorKind::Data => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Exists | ErrorKind::Cancelled => StatusCode::CONFLICT,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Permission => StatusCode::FORBIDDEN,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Timeout => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::Exhausted => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
