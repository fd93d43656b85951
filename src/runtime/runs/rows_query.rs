//! `FOR (SELECT …)`: the check of its query, whose errors have their place in the whole statement. The run reads its text again.

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{Query, Statement as AnsiStatement};

use crate::error::{Error, Result};
use crate::planner::ast::RowsQuery;
use crate::planner::types::type_name;
use crate::planner::{RawStatement, Script, Statement, WordSpans, parse_statement};
use crate::session::Session;

const FORM: &str =
    r#"write FOR (SELECT topic, partition, "offset" FROM system.late_rows WHERE job = '…')"#;

/// Checks the columns of the query, which is not run; gives its text. `places` are those of the whole statement.
///
/// # Errors
///
/// The query's; it does not give `topic`, `partition` and `offset`.
pub(super) async fn checked_rows(
    session: &Session,
    rows: RowsQuery,
    places: &WordSpans,
) -> Result<String> {
    let RowsQuery { query, span } = rows;
    let text = query.to_string();
    if !is_text_of(&text, &query) {
        return Err(Error::unsupported(
            "the query of FOR has a text or a name with quotes that cannot be kept as it is written",
        )
        .at(span)
        .with_help("write it without \\' and without several quotes in a row"));
    }
    let query = SqlStatement::Statement(Box::new(AnsiStatement::Query(query)));
    let columns = session.columns_of_query(query, places).await?;
    check_columns(&columns).map_err(|error| error.at(span))?;
    Ok(text)
}

/// Whether a text is read as this query: it runs from its text, and a text in quotes is not always printed as it was read.
fn is_text_of(text: &str, query: &Query) -> bool {
    let read = || {
        let [raw] = Script::new("FOR", text).split().ok()?.try_into().ok()?;
        let raw: RawStatement = raw;
        parse_statement(&raw).ok()
    };
    let Some(Statement::Sql(read)) = read().map(|read| read.statement) else {
        return false;
    };
    let SqlStatement::Statement(ansi) = *read else {
        return false;
    };
    matches!(*ansi, AnsiStatement::Query(read) if *read == *query)
}

fn check_columns(schema: &Schema) -> Result<()> {
    let is_text = |of: &DataType| {
        matches!(
            of,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        )
    };
    let columns = [
        ("topic", true, "a text: the name of a topic or table"),
        ("partition", false, "a whole number"),
        ("offset", false, "a whole number"),
    ];
    for (name, has_text, what) in columns {
        let Some((_, field)) = schema.column_with_name(name) else {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let names: Vec<&str> = names.collect();
            return Err(Error::invalid(format!(
                "the query of FOR has no column {name}: it has {}",
                names.join(", ")
            ))
            .with_help(FORM));
        };
        let of = field.data_type();
        let is_fit = match has_text {
            true => is_text(of),
            false => of.is_integer(),
        };
        if !is_fit {
            return Err(Error::invalid(format!(
                "column {name} of the query of FOR is {}, and has to be {what}",
                type_name(field.data_type())
            ))
            .with_help(FORM));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{RunStatement, Script, Statement, parse_statement};
    use crate::session::SessionOptions;

    async fn checked(query: &str) -> Result<String> {
        let sql = format!("REPROCESS JOB j FOR ({query})");
        let raw = Script::new("t", sql).split()?.remove(0);
        let parsed = parse_statement(&raw)?;
        let Statement::Run(run) = parsed.statement else {
            panic!("{query}")
        };
        let RunStatement::Reprocess(asked) = run else {
            panic!("{query}")
        };
        let session = Session::try_new(&SessionOptions::default())?;
        checked_rows(&session, asked.rows.unwrap(), &parsed.places).await
    }

    #[tokio::test]
    async fn the_text_is_the_same_however_it_is_laid_out() {
        let one = "SELECT 't' AS topic, 0 AS partition, 7 AS \"offset\"";
        let two = "\n  select 't' AS topic,0 AS partition , 7 AS \"offset\" -- rows\n";
        let text = checked(one).await.unwrap();
        assert_eq!(checked(two).await.unwrap(), text);
        assert_eq!(checked(&text).await.unwrap(), text);
        let other = "SELECT \"offset\", partition, topic FROM (SELECT 't' AS topic, 0::INT AS partition, 7 AS \"offset\")";
        assert!(checked(other).await.is_ok());
    }

    #[tokio::test]
    async fn a_text_that_would_be_read_as_another_query_is_refused() {
        for topic in [r"'\'' OR true --'", "'it''''s'"] {
            let query = format!("SELECT {topic} AS topic, 0 AS partition, 1 AS \"offset\"");
            let error = checked(&query).await.unwrap_err();
            let says = "cannot be kept as it is written";
            assert!(error.message().contains(says), "{error}");
        }
        let query = "SELECT 'it''s' AS topic, 0 AS partition, 1 AS \"offset\"";
        assert!(checked(query).await.is_ok());
    }

    /// A part of the message, the text at the place, and a part of the help.
    #[tokio::test]
    async fn mistakes_have_a_place_and_help() {
        for (query, message, place, help) in [
            (
                "SELECT 't' AS topic, 0 AS partition",
                "the query of FOR has no column offset: it has topic, partition",
                "(SELECT",
                "system.late_rows",
            ),
            (
                "SELECT 0 AS partition, 1 AS \"offset\"",
                "the query of FOR has no column topic",
                "(SELECT",
                "system.late_rows",
            ),
            (
                "SELECT 7 AS topic, 0 AS partition, 1 AS \"offset\"",
                "column topic of the query of FOR is BIGINT, and has to be a text",
                "(SELECT",
                "system.late_rows",
            ),
            (
                "SELECT 't' AS topic, '0' AS partition, 1 AS \"offset\"",
                "column partition of the query of FOR is VARCHAR",
                "(SELECT",
                "system.late_rows",
            ),
            (
                "SELECT 't' AS topic, 0 AS partition, 1.5 AS \"offset\"",
                "column offset of the query of FOR is",
                "(SELECT",
                "system.late_rows",
            ),
            ("SELECT topic FROM nowhere", "nowhere", "nowhere", ""),
            ("SELECT a, 0, 1 FROM (SELECT 't' AS b)", "a", "a,", ""),
        ] {
            let error = checked(query).await.unwrap_err();
            assert!(error.message().contains(message), "{query}: {error}");
            let sql = format!("REPROCESS JOB j FOR ({query})");
            let start = error.span().map_or(0, |span| span.start.column) as usize;
            let found = &sql[start - 1..];
            assert!(found.starts_with(place), "{query}: {found}");
            let found = error.help().unwrap_or_default();
            assert!(found.contains(help), "{query}: {found}");
        }
    }
}
