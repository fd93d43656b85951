//! Errors on the wire: a gRPC code by kind, one line of text, SQLSTATE and position in the trailers.

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::error::{Error, ErrorKind};

/// The error as clients see it.
pub(crate) fn status(error: &Error) -> Status {
    let mut text = error.message().replace('\n', " ");
    if let Some(span) = error.span() {
        text += &format!(" (line {}, column {})", span.start.line, span.start.column);
    }
    if let Some(rows) = error.rows_written() {
        text += &format!("; {rows} rows were written before");
    }
    if let Some(help) = error.help() {
        text += &format!("; {}", help.replace('\n', " "));
    }
    let mut trailers = MetadataMap::new();
    trailers.insert(
        "x-sqlstate",
        MetadataValue::from_static(sqlstate(error.kind())),
    );
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = MetadataValue::try_from(value) {
            trailers.insert(name, value);
        }
    };
    if let Some(span) = error.span() {
        put(
            "x-position",
            &format!("{}:{}", span.start.line, span.start.column),
        );
    }
    if let Some(query) = error.query() {
        put("x-query-id", query);
    }
    Status::with_metadata(code(error.kind()), text, trailers)
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid | ErrorKind::Data => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Exists => Code::AlreadyExists,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Permission => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Timeout => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The class of an error as SQL names it.
pub(crate) fn sqlstate(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "42000",
        ErrorKind::NotFound => "42S02",
        ErrorKind::Exists => "42S01",
        ErrorKind::Unsupported => "0A000",
        ErrorKind::Data => "22000",
        ErrorKind::Unavailable => "08006",
        ErrorKind::Permission => "42501",
        ErrorKind::Unauthenticated => "28000",
        ErrorKind::Exhausted => "53000",
        ErrorKind::Cancelled | ErrorKind::Timeout => "57014",
        ErrorKind::Internal => "XX000",
    }
}
