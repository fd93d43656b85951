//! `FOR (SELECT …)`: the coordinates of rows that a query gives.

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef};
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{Query, Statement as AnsiStatement};
use futures::StreamExt as _;

use crate::core::runs::asked_range::MOST_SELECTED_RANGES;
use crate::core::runs::{OffsetSet, SelectedRows};
use crate::error::{Error, Result, Subject};
use crate::planner::ast::RowsQuery;
use crate::planner::effect::effect;
use crate::planner::{ParsedStatement, Statement, WordSpans};
use crate::session::{Session, StatementOutcome};

/// The columns that the query gives.
const COLUMNS: &str = r#"write FOR (SELECT topic, "partition", "offset" FROM system.late_rows WHERE …): a topic or table, a partition and an offset"#;

/// Runs the query; gives the offsets by the names in its first column. `places` are those of the whole statement.
///
/// # Errors
///
/// The query's, with its place; other columns; NULL; more rows than a run may have.
pub(super) async fn selected_rows(
    session: &Session,
    rows: RowsQuery,
    places: &WordSpans,
) -> Result<SelectedRows> {
    let RowsQuery { query, span } = rows;
    let text = query.to_string();
    let mut stream = match session.execute(parsed(query, &text, places)?).await? {
        StatementOutcome::Rows(execution) => execution.stream,
        StatementOutcome::Insert(_) | StatementOutcome::Done(_) => {
            return Err(Error::internal("a query without rows"));
        }
    };
    check_columns(&stream.schema()).map_err(|error| error.at(span))?;
    let mut offsets = OffsetSet::default();
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|error| places.locate(error.into()))?;
        let own = coordinates(&batch).map_err(|error| error.at(span))?;
        let before = offsets.ranges();
        let before = before
            .map(|(table, partition, range)| (table.to_owned(), partition, range.from..range.to));
        let own = own.into_iter();
        let own = own.map(|(table, partition, offset)| (table, partition, offset..offset + 1));
        offsets = OffsetSet::of(before.chain(own).collect::<Vec<_>>());
        if offsets.range_count() > MOST_SELECTED_RANGES {
            return Err(Error::invalid(format!(
                "FOR selects rows in more than {MOST_SELECTED_RANGES} ranges of offsets"
            ))
            .with_help("name them by FROM … TO … or OFFSETS, or run twice")
            .at(span));
        }
    }
    Ok(SelectedRows {
        query: text,
        offsets,
    })
}

/// The query as a statement whose errors have their place in the whole one.
fn parsed(query: Box<Query>, text: &str, places: &WordSpans) -> Result<ParsedStatement> {
    let query = AnsiStatement::Query(query);
    let statement = Statement::Sql(Box::new(SqlStatement::Statement(Box::new(query))));
    Ok(ParsedStatement {
        effect: effect(&statement)?,
        statement,
        places: places.clone(),
        text: text.to_owned(),
        rows: None,
    })
}

fn check_columns(schema: &SchemaRef) -> Result<()> {
    let wrong = |message: String| Error::invalid(message).with_help(COLUMNS);
    let [table, partition, offset] = schema.fields().as_ref() else {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        return Err(wrong(format!(
            "the query of FOR gives {} columns ({}) in the place of 3",
            schema.fields().len(),
            names.collect::<Vec<_>>().join(", ")
        )));
    };
    let is_text = |of: &DataType| {
        matches!(
            of,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        )
    };
    if !is_text(table.data_type()) {
        return Err(wrong(format!(
            "the first column of FOR names a topic or table, and {} is {}",
            table.name(),
            table.data_type()
        ))
        .about(Subject::column(table.name())));
    }
    for (column, what) in [(partition, "second"), (offset, "third")] {
        if !column.data_type().is_integer() {
            let role = if what == "second" {
                "a partition"
            } else {
                "an offset"
            };
            return Err(wrong(format!(
                "the {what} column of FOR is {role}, a whole number, and {} is {}",
                column.name(),
                column.data_type()
            ))
            .about(Subject::column(column.name())));
        }
    }
    Ok(())
}

/// The coordinates of rows whose columns are checked.
fn coordinates(rows: &RecordBatch) -> Result<Vec<(String, i32, i64)>> {
    let [table, partition, offset] = rows.columns() else {
        return Err(Error::internal("other columns than before"));
    };
    let names = strict(table, &DataType::Utf8)?;
    let partitions = strict(partition, &DataType::Int32)?;
    let offsets = strict(offset, &DataType::Int64)?;
    if [&names, &partitions, &offsets]
        .iter()
        .any(|column| column.null_count() > 0)
    {
        return Err(
            Error::invalid("FOR gives NULL as topic, partition or offset of a row")
                .with_help("leave such rows out: WHERE … IS NOT NULL"),
        );
    }
    let names = names.as_string::<i32>();
    let partitions = partitions.as_primitive::<Int32Type>();
    let offsets = offsets.as_primitive::<Int64Type>();
    (0..rows.num_rows())
        .map(|row| {
            let (partition, offset) = (partitions.value(row), offsets.value(row));
            // The offset after it is one too.
            if partition < 0 || !(0..i64::MAX).contains(&offset) {
                return Err(Error::invalid(format!(
                    "FOR gives partition {partition} and offset {offset}, which no record has"
                ))
                .with_help(COLUMNS));
            }
            Ok((names.value(row).to_owned(), partition, offset))
        })
        .collect()
}

/// A value that does not fit is an error, not NULL.
fn strict(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, to, &strict).map_err(|error| {
        Error::invalid(format!(
            "FOR gives a coordinate that no record has: {error}"
        ))
        .with_help(COLUMNS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{RunStatement, Script, parse_statement};
    use crate::session::SessionOptions;

    async fn selected(query: &str) -> Result<SelectedRows> {
        let sql = format!("REPROCESS JOB j FOR ({query})");
        let raw = Script::new("t", sql).split()?.remove(0);
        let parsed = parse_statement(&raw)?;
        let Statement::Run(run) = parsed.statement else {
            panic!("{query}")
        };
        let RunStatement::Reprocess(asked) = *run else {
            panic!("{query}")
        };
        let session = Session::try_new(&SessionOptions::default())?;
        selected_rows(&session, asked.rows.unwrap(), &parsed.places).await
    }

    #[tokio::test]
    async fn rows_that_touch_are_one_range() {
        let query = "SELECT column1, column2, column3 FROM (VALUES ('t', 0, 3), ('t', 0, 4), ('u', 1, 4), ('t', 0, 9), ('t', 0, 3))";
        let rows = selected(query).await.unwrap();
        assert_eq!(
            rows.offsets.to_string(),
            "t 0: 3 to 5, t 0: 9 to 10, u 1: 4 to 5"
        );
        let again = selected(&rows.query).await.unwrap();
        assert_eq!(again, rows);
        // The text is the same however the query is laid out.
        let (one, two) = (
            selected("SELECT 't', 0, 7"),
            selected("\n  select 't',0 , 7 -- rows\n"),
        );
        assert_eq!(one.await.unwrap(), two.await.unwrap());
        let none = selected("SELECT 't', 0, 1 WHERE false").await.unwrap();
        assert!(none.offsets.is_empty());
    }

    /// A part of the message, the text at the place, and a part of the help.
    #[tokio::test]
    async fn mistakes_have_a_place_and_help() {
        for (query, message, place, help) in [
            (
                "SELECT 't', 0",
                "gives 2 columns",
                "(SELECT 't', 0)",
                "system.late_rows",
            ),
            (
                "SELECT 't', 0, 1, 2",
                "gives 4 columns",
                "(SELECT",
                "system.late_rows",
            ),
            (
                "SELECT 7, 0, 1",
                "the first column of FOR names a topic or table",
                "(SELECT",
                "system.late_rows",
            ),
            (
                "SELECT 't', '0', 1",
                "the second column of FOR is a partition",
                "(SELECT",
                "system.late_rows",
            ),
            (
                "SELECT 't', 0, 1.5",
                "the third column of FOR is an offset",
                "(SELECT",
                "system.late_rows",
            ),
            (
                "SELECT 't', CAST(NULL AS INT), 1",
                "FOR gives NULL",
                "(SELECT",
                "IS NOT NULL",
            ),
            (
                "SELECT 't', 0, -1",
                "offset -1, which no record has",
                "(SELECT",
                "an offset",
            ),
            (
                "SELECT 't', 5000000000, 1",
                "a coordinate that no record has",
                "(SELECT",
                "an offset",
            ),
            ("SELECT topic FROM nowhere", "nowhere", "nowhere", ""),
            ("SELECT a, 0, 1 FROM (SELECT 't' AS b)", "a", "a,", ""),
        ] {
            let error = selected(query).await.unwrap_err();
            assert!(error.message().contains(message), "{query}: {error}");
            let sql = format!("REPROCESS JOB j FOR ({query})");
            let start = error.span().map_or(0, |span| span.start.column) as usize;
            let found = &sql[start - 1..];
            assert!(found.starts_with(place), "{query}: {found}");
            let found = error.help().unwrap_or_default();
            assert!(found.contains(help), "{query}: {found}");
        }
        let many = "SELECT 't', 0, value * 2 FROM generate_series(0, 100001)";
        let error = selected(many).await.unwrap_err();
        assert!(
            error.message().contains("more than 100000 ranges"),
            "{error}"
        );
    }
}
