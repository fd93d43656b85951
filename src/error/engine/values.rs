//! Errors for values that do not fit into a type, in terms of SQL, and for texts that are no times.

use super::subjects::of_text;
use crate::error::base::Error;
use crate::error::kind::ErrorKind;
use crate::error::subject::Subject;

/// Start of the engine's message for a text that cannot be read as a time.
const NO_TIME: &str = "Error parsing timestamp from '";

/// The error for such a text; `None` for any other message.
pub(super) fn no_time(message: &str) -> Option<Error> {
    message.starts_with(NO_TIME).then(|| {
        of_text(ErrorKind::Data, message).with_help(
            "write it as 2025-09-04T10:00:00.5, 2025-09-04 10:00:00, 2025-09-04T10:00 or 2025-09-04, with Z or an offset as +02:00 \
             after the time if it is not UTC; to_timestamp reads other forms by a pattern",
        )
    })
}

/// The engine's messages for a number with more digits than its decimal type has.
const TOO_LARGE: [&str; 2] = [
    " is too large to store in a Decimal",
    " is too small to store in a Decimal",
];

/// The error for a number with too many digits; `None` for any other message.
pub(super) fn without_room(message: &str) -> Option<Error> {
    let (value, rest) = TOO_LARGE
        .iter()
        .find_map(|words| message.split_once(words))?;
    let (_, digits) = rest.split_once(" of precision ")?;
    let (digits, _) = digits.split_once('.')?;
    let behind = value.split_once('.').map_or(0, |(_, behind)| behind.len());
    Some(
        Error::data(format!("{value} does not fit into a DECIMAL({digits}, {behind})"))
            .about(Subject::text(value))
            .with_help(
            "a DECIMAL has up to 38 digits: CAST all values that get a common type to a DECIMAL with fewer digits after the point, \
             or to DOUBLE if an approximate value is enough",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::engine::real_errors::real;

    #[tokio::test]
    async fn decimal_overflow_errors_of_the_engine_are_recognized() {
        let error = real("SELECT CAST(CAST(15 AS DECIMAL(4, 2)) AS DECIMAL(3, 2))").await;
        assert_eq!(error.message(), "15.00 does not fit into a DECIMAL(3, 2)");
    }

    #[tokio::test]
    async fn a_text_that_is_no_time_is_quoted_with_help() {
        for text in ["soon", "2025-09-04T10", "2025-09-04T10:60"] {
            let error = real(&format!("SELECT CAST('{text}' AS TIMESTAMP)")).await;
            assert!(error.message().starts_with(NO_TIME), "{error}");
            assert!(error.subjects().contains(&Subject::text(text)), "{error}");
            let help = error.help().unwrap_or_default();
            assert!(help.contains("2025-09-04T10:00 or"), "{help}");
        }
        assert!(no_time("Cannot cast string 'soon' to value of Date32 type").is_none());
    }

    #[test]
    fn a_number_that_does_not_fit_is_shown_with_its_type() {
        let error =
            without_room("15.00 is too large to store in a Decimal128 of precision 3. Max is 9.99");
        let error = error.unwrap();
        assert_eq!(error.message(), "15.00 does not fit into a DECIMAL(3, 2)");
        assert!(error.help().is_some());
        assert!(
            without_room("-15 is too small to store in a Decimal128 of precision 1. Min is -9")
                .is_some()
        );
        assert!(without_room("Divide by zero error").is_none());
    }
}
