//! `FOR (SELECT …)`: the check of its query, whose errors have their place in the whole statement. The run reads its text again.

use std::ops::ControlFlow;

use anabranch_udfs::Walk as _;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, Query, Statement as AnsiStatement, Visitor,
};

use crate::error::{Error, Result};
use crate::planner::ast::RowsQuery;
use crate::planner::types::type_name;
use crate::planner::{RawStatement, Script, Statement, WordSpans, normalize, parse_statement};
use crate::session::Session;
use crate::session::system::SYSTEM;
use crate::session::system::rows::REPAIRED_BY;

/// The help of a query of `FOR` that gives other columns.
pub(super) const FOR_FORM: &str =
    r#"write FOR (SELECT topic, partition, "offset" FROM system.late_rows WHERE job = '…')"#;

/// The tables of the schema `system` with rows that jobs have set aside.
const SET_ASIDE: [&str; 2] = ["late_rows", "dead_letters"];

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
    query_of(text).is_some_and(|read| *read == *query)
}

/// The query of a text, if it is one.
fn query_of(text: &str) -> Option<Box<Query>> {
    let [raw] = Script::new("FOR", text).split().ok()?.try_into().ok()?;
    let raw: RawStatement = raw;
    let Statement::Sql(read) = parse_statement(&raw).ok()?.statement else {
        return None;
    };
    let SqlStatement::Statement(ansi) = *read else {
        return None;
    };
    match *ansi {
        AnsiStatement::Query(query) => Some(query),
        _ => None,
    }
}

/// Whether a query of `FOR` selects among the rows that jobs have set aside, and leaves it to the run which of them are repaired: it
/// reads their tables, and does not name `repaired_by`.
pub(super) fn selects_unrepaired(text: &str) -> bool {
    let mut parts = QueryParts::default();
    if let Some(query) = query_of(text) {
        // The visitor never breaks.
        let _ = query.as_ref().walk(&mut parts);
    }
    parts.reads_set_aside && !parts.names_repair
}

/// What a query of `FOR` is about.
#[derive(Default)]
struct QueryParts {
    /// `system.late_rows` or `system.dead_letters`.
    reads_set_aside: bool,
    /// The column `repaired_by`.
    names_repair: bool,
}

impl QueryParts {
    fn see(&mut self, name: &Ident) {
        self.names_repair |= normalize(name) == REPAIRED_BY;
    }
}

impl Visitor for QueryParts {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let names = relation.0.iter().filter_map(ObjectNamePart::as_ident);
        let names: Vec<String> = names.map(normalize).collect();
        if let [.., schema, table] = names.as_slice() {
            self.reads_set_aside |= schema == SYSTEM && SET_ASIDE.contains(&table.as_str());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.see(name),
            Expr::CompoundIdentifier(names) => names.iter().for_each(|name| self.see(name)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
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
            .with_help(FOR_FORM));
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
            .with_help(FOR_FORM));
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

    #[test]
    fn a_query_of_what_was_set_aside_leaves_out_what_is_repaired_unless_it_says_more() {
        const COLUMNS: &str = "SELECT topic, partition, \"offset\" FROM";
        for (rest, expected) in [
            ("system.late_rows WHERE job = 'j'", true),
            ("SYSTEM.Dead_Letters", true),
            ("(SELECT * FROM \"system\".\"late_rows\") AS l", true),
            ("visits v JOIN system.late_rows l USING (\"offset\")", true),
            ("system.late_rows WHERE repaired_by IS NULL", false),
            ("system.late_rows l WHERE l.Repaired_By = 'bad'", false),
            ("visits", false),
            ("late_rows", false),
            ("system.runs WHERE reason = 'system.late_rows'", false),
        ] {
            let query = format!("{COLUMNS} {rest}");
            assert_eq!(selects_unrepaired(&query), expected, "{query}");
        }
        assert!(!selects_unrepaired("DROP TABLE system.late_rows"));
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
