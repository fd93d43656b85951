//! Errors for values that do not fit into a type, in terms of SQL.

use crate::error::base::Error;
use crate::error::subject::Subject;

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
