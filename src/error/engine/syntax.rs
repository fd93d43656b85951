//! Syntax errors of the engine's parser, which writes the place into its message.

use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Location;

use crate::error::base::Error;

/// The phrase before the place in a message.
const PLACE: &str = " at Line: ";

/// The reason for a syntax error.
#[derive(Debug)]
pub(crate) enum SyntaxReason {
    /// Expressions or queries are nested too deep.
    TooDeep,
    /// The parser reports the place separately from its message.
    Placed(Error),
    /// A message about an unexpected token; it begins with a capital unless it has the form `expected …, found …`.
    Said {
        /// The message without the place.
        message: String,
        /// The place in the text, if the message has it: lines and columns count from 1.
        place: Option<Location>,
    },
}

impl SyntaxReason {
    /// Interprets an error of the parser.
    pub(crate) fn of(error: DataFusionError) -> Self {
        if let DataFusionError::SQL(parser, _) = error.find_root()
            && matches!(**parser, ParserError::RecursionLimitExceeded)
        {
            return Self::TooDeep;
        }
        let error = Error::from(error);
        if error.span().is_some() {
            return Self::Placed(error);
        }
        let (message, place) = split_place(error.message().trim());
        let message = match message.strip_prefix("Expected: ") {
            Some(expected) => format!("expected {expected}"),
            None => message.replace("expected: ", "expected "),
        };
        let message = message.replace(", found: ", ", found ");
        Self::Said {
            message: message.replace("found EOF", "found the end of the statement"),
            place,
        }
    }
}

/// Splits `… at Line: 1, Column: 27` off a message.
fn split_place(message: &str) -> (&str, Option<Location>) {
    let Some(start) = message.rfind(PLACE) else {
        return (message, None);
    };
    let numbers: Vec<u64> = message[start..]
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect();
    match numbers[..] {
        [line, column] => (message[..start].trim(), Some(Location::new(line, column))),
        _ => (message, None),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    fn refused(sql: &str) -> SyntaxReason {
        SyntaxReason::of(DFParser::parse_sql(sql).unwrap_err())
    }

    #[test]
    fn syntax_errors_have_the_expected_token_and_position() {
        for (sql, expected, at) in [
            (
                "SELECT CAST(1\n  FORM INT)",
                "expected AS, found FORM",
                Some((2, 3)),
            ),
            (
                "SELECT (1",
                "expected ), found the end of the statement",
                None,
            ),
            (
                "SELECT 1 +",
                "expected an expression, found the end of the statement",
                None,
            ),
        ] {
            let SyntaxReason::Said { message, place } = refused(sql) else {
                panic!("{sql} is refused in another way");
            };
            assert_eq!(message, expected);
            let place = place.map(|place| (place.line, place.column));
            assert_eq!(place, at, "{sql}");
        }
    }

    #[test]
    fn the_recursion_limit_of_the_parser_is_recognized() {
        let deep = format!("SELECT {}1{}", "(".repeat(1_000), ")".repeat(1_000));
        assert!(matches!(refused(&deep), SyntaxReason::TooDeep));
    }
}
