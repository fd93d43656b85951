//! Subjects of the engine's messages: a message quotes parts of the statement, or begins with the name of a function.

use crate::error::base::Error;
use crate::error::kind::ErrorKind;
use crate::error::subject::Subject;

/// An error with the engine's own text and the subjects named in it.
pub(super) fn of_text(kind: ErrorKind, text: impl Into<String>) -> Error {
    let error = Error::new(kind, text);
    named_in(error.message())
        .into_iter()
        .fold(error, Error::about)
}

/// The possible subjects of a text: the function it begins with, then the parts it quotes, then the names it introduces.
fn named_in(text: &str) -> Vec<Subject> {
    /// The most subjects of an error.
    const MOST: usize = 32;
    let first: &str = text
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .next()
        .unwrap_or_default();
    let function = (!first.is_empty()).then(|| Subject::function(first));
    let quoted = text.split('\'').skip(1).step_by(2);
    let quoted = quoted
        .filter(|quoted| !quoted.is_empty())
        .map(Subject::text);
    let words = text.split([' ', ':', ',']);
    let introduced = words.clone().zip(words.skip(1));
    let introduced = introduced.filter_map(|(before, name)| match before {
        "table" | "view" => Some(Subject::table(name)),
        "column" | "time" | "parameter" | "named" => Some(Subject::column(name)),
        _ => None,
    });
    function
        .into_iter()
        .chain(quoted)
        .chain(introduced)
        .take(MOST)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::engine::real_errors::real;

    #[tokio::test]
    async fn a_value_that_the_engine_cannot_cast_is_quoted() {
        for sql in [
            "SELECT CAST('many' AS BIGINT)",
            "SELECT CAST(s AS BIGINT) FROM t",
        ] {
            let error = real(sql).await;
            let value = Subject::text("many");
            assert!(error.subjects().contains(&value), "{sql}: {error}");
        }
    }

    #[tokio::test]
    async fn a_table_that_cannot_be_dropped_is_quoted() {
        let error = real("DROP TABLE visit").await;
        let table = Subject::text("visit");
        assert!(error.subjects().contains(&table), "{error}");
    }

    #[test]
    fn functions_come_first_and_introduced_names_last() {
        let text = "offsets_in: from is not JSON: 'x' of the event time ts";
        let error = of_text(ErrorKind::Data, text);
        assert_eq!(
            error.subjects(),
            [
                Subject::function("offsets_in"),
                Subject::text("x"),
                Subject::column("ts")
            ]
        );
        assert_eq!(error.message(), text);
    }
}
