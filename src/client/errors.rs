//! Conversion of failed calls to the error type of this program.

use std::time::Duration;

use arrow_flight::error::FlightError;
use tonic::{Code, Status};

use crate::client::address::Address;
use crate::error::{Error, ErrorKind};
use crate::planner::BoundText;

/// The error when no connection can be made: no program listens at the address, or one with another protocol.
pub(super) fn not_reached(address: &Address, error: &tonic::transport::Error) -> Error {
    no_server(address, &chain(error))
}

fn no_server(address: &Address, why: &str) -> Error {
    Error::unavailable(format!("no server can be reached at {address}: {why}"))
        .with_help(help_for(address, why))
}

/// The error when a program listens at the address and does not answer.
pub(super) fn silent(address: &Address, waited: Duration) -> Error {
    Error::unavailable(format!(
        "no server answers at {address} within {} seconds",
        waited.as_secs()
    ))
    .with_help("check the address, and that the network allows the connection")
}

/// The error of a call that is about no statement. The first calls of a connection show which kind of server answers.
pub(super) fn failure(error: FlightError, address: &Address) -> Error {
    match error {
        FlightError::Tonic(status) if is_from_server(&status) => server_error(&status, None),
        FlightError::Tonic(status) if is_broken(&status) => no_server(address, &cause(&status)),
        FlightError::Tonic(status) => transport_error(&status, address),
        other => unreadable(&other),
    }
}

/// The error of a call for a statement, with the place in the text that the user typed.
pub(super) fn of_statement(error: FlightError, address: &Address, statement: &BoundText) -> Error {
    match error {
        FlightError::Tonic(status) if is_from_server(&status) => {
            server_error(&status, Some(statement))
        }
        FlightError::Tonic(status) => transport_error(&status, address).at(statement.first()),
        other => unreadable(&other).at(statement.first()),
    }
}

fn unreadable(error: &FlightError) -> Error {
    Error::internal(format!("the server's answer cannot be read: {error}"))
}

/// Whether the error is the server's own, and not that of a proxy or of the connection.
fn is_from_server(status: &Status) -> bool {
    status.metadata().contains_key("x-sqlstate")
}

/// The error that the server sent, from its line: message, place, rows that were written, help.
fn server_error(status: &Status, statement: Option<&BoundText>) -> Error {
    let trailer = |name: &str| status.metadata().get(name)?.to_str().ok();
    let position = trailer("x-position").and_then(|place| {
        let (line, column) = place.split_once(':')?;
        Some((line.parse::<u64>().ok()?, column.parse::<u64>().ok()?))
    });
    let text = status.message();
    let parts = position
        .and_then(|(line, column)| text.rsplit_once(&format!(" (line {line}, column {column})")));
    let (message, rest) = parts.unwrap_or((text, ""));
    let message = match trailer("x-query-id") {
        Some(query) => format!("{message} (query {query})"),
        None => message.to_owned(),
    };
    let mut error = Error::new(kind(status.code()), message);
    let mut rest = rest.strip_prefix("; ").unwrap_or(rest);
    if let Some((rows, behind)) = rest.split_once(" rows were written before")
        && let Ok(rows) = rows.parse()
    {
        error = error.with_rows_written(rows);
        rest = behind.strip_prefix("; ").unwrap_or(behind);
    }
    if !rest.is_empty() {
        error = error.with_help(rest);
    }
    match (position, statement) {
        (Some((line, column)), Some(statement)) => error.at(statement.place(line, column)),
        (None, Some(statement)) => error.at(statement.first()),
        (_, None) => error,
    }
}

/// The error that the connection, a proxy or the server's gate has given.
fn transport_error(status: &Status, address: &Address) -> Error {
    match status.code() {
        Code::Unauthenticated => Error::new(
            ErrorKind::Permission,
            format!("the server at {address} rejected the login: {}", status.message()),
        )
        .with_help("give --user NAME and the password as ANABRANCH_PASSWORD, or a token as ANABRANCH_TOKEN"),
        Code::Unimplemented => Error::unavailable(format!(
            "the server at {address} is not an Anabranch server: {}",
            status.message()
        ))
        .with_help("the address is that of `anabranch serve`"),
        _ if is_broken(status) => {
            let why = cause(status);
            Error::unavailable(format!("the connection to {address} is broken: {why}"))
                .with_help("check that it runs; a statement that was running may have been completed")
        }
        code => Error::new(kind(code), status.message()),
    }
}

fn is_broken(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted
    )
}

fn cause(status: &Status) -> String {
    let source = std::error::Error::source(status);
    source.map_or_else(|| status.message().to_owned(), chain)
}

/// The help text for a connection that cannot be made.
fn help_for(address: &Address, why: &str) -> &'static str {
    if why.contains("UnknownIssuer") {
        return "give the CA of its certificate: --tls-ca FILE";
    }
    if why.contains("NotValidForName") || why.contains("not valid for name") {
        return "its certificate is for another host name: use that name in the address";
    }
    if why.contains("InvalidContentType") {
        return "a server without TLS is at grpc://HOST:PORT";
    }
    let is_there = !why.contains("connect error") && !why.contains("dns error");
    match (is_there, address.has_tls()) {
        (true, true) => "does it require a client certificate? --tls-cert FILE --tls-key FILE",
        (true, false) => "does it use TLS? Then its address is grpc+tls://HOST:PORT",
        (false, _) => "is one running there? `anabranch serve --listen HOST:PORT` starts one",
    }
}

/// The kind of error for a gRPC code: the inverse of the server's conversion.
fn kind(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => ErrorKind::Invalid,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::Exists,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Permission,
        // Never the Ctrl-C of the user, which ends the statement in the client: the server has ended the statement by
        // itself.
        Code::ResourceExhausted | Code::DeadlineExceeded | Code::Cancelled => ErrorKind::Exhausted,
        Code::Ok | Code::Unknown | Code::Aborted | Code::Internal | Code::DataLoss => {
            ErrorKind::Internal
        }
    }
}

/// The causes of an error, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::*;
    use crate::planner::{Parameters, Script, parse_statement};

    fn statement(sql: &str, x: &str) -> BoundText {
        let raw = Script::new("t", sql).split().unwrap().remove(0);
        let mut parameters = Parameters::default();
        parameters.set("x", x);
        let mut parsed = parse_statement(&raw).unwrap();
        parameters.bind_text(&raw, &mut parsed).unwrap()
    }

    fn status_error(code: Code, text: &str, trailers: &[(&'static str, &str)]) -> FlightError {
        let mut metadata = MetadataMap::new();
        for (name, value) in trailers {
            metadata.insert(*name, MetadataValue::try_from(*value).unwrap());
        }
        FlightError::Tonic(Box::new(Status::with_metadata(code, text, metadata)))
    }

    #[test]
    fn server_errors_are_shown_like_local_errors() {
        let address = Address::parse("grpc://h:7").unwrap();
        let sql = "SELECT $x,\n  nothing";
        let statement = statement(sql, "a\nb");
        let text = "no column named nothing (line 3, column 3); 7 rows were written before; did you mean x?; or y?";
        let trailers = [
            ("x-sqlstate", "42000"),
            ("x-position", "3:3"),
            ("x-query-id", "12"),
        ];
        let error = of_statement(
            status_error(Code::InvalidArgument, text, &trailers),
            &address,
            &statement,
        );
        assert_eq!(error.kind().exit_code(), 1);
        assert_eq!(
            error.render("f.sql", sql),
            "error: no column named nothing (query 12)\n --> f.sql:2:3\n  |\n2 |   nothing\n  |   ^^^^^^^\n  \
             = rows written before the failure: 7\n  = help: did you mean x?; or y?\n"
        );
        let error = of_statement(
            status_error(Code::Unavailable, "no broker; check it", &trailers[..1]),
            &address,
            &statement,
        );
        assert_eq!(error.message(), "no broker; check it");
        assert_eq!((error.help(), error.kind().exit_code()), (None, 2));
        assert_eq!(error.span(), Some(statement.first()));
    }

    #[test]
    fn transport_errors_are_connection_errors() {
        let address = Address::parse("grpc://h:7").unwrap();
        for (code, text, words) in [
            (
                Code::Unavailable,
                "broken pipe",
                "no server can be reached at grpc://h:7: broken pipe",
            ),
            (
                Code::Unauthenticated,
                "who?",
                "the server at grpc://h:7 rejected the login: who?",
            ),
            (
                Code::Unimplemented,
                "",
                "the server at grpc://h:7 is not an Anabranch server: ",
            ),
        ] {
            let error = failure(status_error(code, text, &[]), &address);
            assert_eq!(error.message(), words);
            assert_eq!(error.kind().exit_code(), 2);
            assert!(error.help().is_some());
        }
        let broken = status_error(Code::Unavailable, "broken pipe", &[]);
        let error = of_statement(broken, &address, &statement("SELECT 1", ""));
        assert_eq!(
            error.message(),
            "the connection to grpc://h:7 is broken: broken pipe"
        );
        let error = failure(
            status_error(Code::ResourceExhausted, "too large", &[]),
            &address,
        );
        assert_eq!(
            (error.message(), error.kind()),
            ("too large", ErrorKind::Exhausted)
        );
    }
}
