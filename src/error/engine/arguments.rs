//! Errors for function arguments of the wrong types, with the function's name. The engine's own message prints the internal
//! form of the function's signature.

use crate::error::base::Error;
use crate::error::subject::Subject;

/// Start of the engine's message if it finds no types to cast the arguments to.
const NO_TYPES: &str = "Failed to coerce arguments to satisfy a call to '";
/// The engine's message if none of several signatures fits.
const NO_SIGNATURE: &str = "' failed to match any signature";
/// The phrases before and after the call with the types of its arguments.
const CALL: (&str, &str) = (
    "No function matches the given name and argument types '",
    ")'. You might",
);

/// Whether the message says that a function does not take its arguments, and describes its signature.
pub(super) fn are_refused(message: &str) -> bool {
    message.contains(NO_TYPES) || message.contains(NO_SIGNATURE)
}

/// The error for arguments that a function does not take; `None` for any other message.
pub(super) fn refused(message: &str) -> Option<Error> {
    if !are_refused(message) {
        return None;
    }
    let (function, types) = call(message)?;
    let error = match types {
        Some(types) => Error::invalid(format!(
            "{function} does not accept arguments of these types: {types}"
        )),
        None => Error::invalid(format!("{function} does not accept these arguments")),
    };
    let error = error.about(Subject::function(function));
    Some(error.with_help(match function.starts_with("array_") {
        true => "the values and the elements of the list must have one type: CAST them to it",
        false => "CAST them to types that it accepts",
    }))
}

/// The error for a function in FROM with arguments other than constants of the types it takes; `None` for any other message.
pub(super) fn of_rows(message: &str) -> Option<Error> {
    if message.contains(", got Column(") || message.contains("Arguments must be literals") {
        let error =
            Error::unsupported("a function in FROM takes constants, not columns of a table");
        return Some(error.with_help("write unnest(generate_series(1, t.n)) in the select list"));
    }
    let (_, given) = message.split_once(", got ")?;
    given.starts_with("Literal(").then(|| {
        Error::invalid("a series is of whole numbers, or of times with an INTERVAL")
            .with_help("generate_series(1, 10), generate_series(1, 10, 2), generate_series(t, u, INTERVAL '1 day')")
    })
}

/// The name of the function, and the types of its arguments if the message tells them.
fn call(message: &str) -> Option<(&str, Option<&str>)> {
    if let Some((_, rest)) = message.split_once(CALL.0) {
        let (call, _) = rest.split_once(CALL.1)?;
        let (function, types) = call.split_once('(')?;
        return Some((function, Some(types)));
    }
    if let Some((_, rest)) = message.split_once(NO_TYPES) {
        let (function, rest) = rest.split_once("' function: coercion from ")?;
        let types = rest.split_once(" to the signature ");
        return Some((function, types.map(|(types, _)| types)));
    }
    let (before, _) = message.split_once(NO_SIGNATURE)?;
    let (_, function) = before.rsplit_once('\'')?;
    Some((function, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::engine::real_errors::real;

    #[tokio::test]
    async fn argument_type_errors_of_the_engine_name_the_function() {
        let error = real("SELECT array_append([1], 'x')").await;
        let said = "array_append does not accept arguments of these types";
        assert!(error.message().starts_with(said), "{error}");
        assert_eq!(error.subjects(), [Subject::function("array_append")]);
        let error = real("SELECT avg(s) FROM t").await;
        let said = "avg does not accept arguments of these types";
        assert!(error.message().starts_with(said), "{error}");
    }

    #[tokio::test]
    async fn series_argument_errors_of_the_engine_are_recognized() {
        let error = real("SELECT * FROM generate_series(1, 'x')").await;
        assert!(
            error.message().starts_with("a series is of whole numbers"),
            "{error}"
        );
        let error = real("SELECT * FROM generate_series(CAST(random() AS BIGINT), 5)").await;
        assert_eq!(
            error.message(),
            "a function in FROM takes constants, not columns of a table"
        );
    }

    #[test]
    fn argument_errors_do_not_show_engine_signatures() {
        let planned = "Execution error: Function 'array_append' user-defined coercion failed with: Error during planning: \
            Failed to coerce arguments to satisfy a call to 'array_append' function: coercion from List(Int64), Utf8 to the \
            signature ArraySignature(Array) failed. No function matches the given name and argument types \
            'array_append(List(Int64), Utf8)'. You might need to add explicit type casts.";
        let analyzed = "Failed to coerce arguments to satisfy a call to 'array_append' function: coercion from List(Int64), \
            Utf8 to the signature ArraySignature(Array) failed";
        for message in [planned, analyzed] {
            let error = refused(message).unwrap();
            let said = "array_append does not accept arguments of these types: List(Int64), Utf8";
            assert_eq!(error.message(), said);
            assert!(error.help().is_some());
        }
        let none = "Function 'sum' failed to match any signature, errors: Error during planning: …";
        assert_eq!(
            refused(none).unwrap().message(),
            "sum does not accept these arguments"
        );
        assert!(refused("Function 'lower' requires String, but received Int64").is_none());
    }

    #[test]
    fn series_errors_do_not_show_engine_types() {
        for inside in [
            "Argument #2 must be an INTEGER or NULL, got Column(Column { relation: None })",
            "First argument must be a timestamp or NULL, got Literal(TimestampMicrosecond(1, None), None)",
            "Arguments must be literals",
        ] {
            let error = of_rows(inside).unwrap();
            assert!(!error.message().contains("got") && error.help().is_some());
        }
        assert!(of_rows("LIMIT must be >= 0, '-1' was provided").is_none());
    }
}
