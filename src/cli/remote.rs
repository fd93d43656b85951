//! Statements that run in a server.

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::datatypes::{DataType, Int64Type, Schema};
use futures::TryStreamExt as _;

use crate::cli::bound_statements::prepare;
use crate::client::{Client, StatementRows};
use crate::error::{Error, Result};
use crate::planner::{ChangeKind, Effect, Parameters, Script, StatementClass};

/// The kind of a server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    /// Rows that were asked for.
    Rows,
    /// How many rows were changed, and how, in the column `count`.
    Count(ChangeKind),
    /// A message, in the column `status`.
    Word,
}

/// The kind of the answer to a statement.
pub(crate) fn answer_kind(effect: &Effect, schema: &Schema) -> AnswerKind {
    let [column] = schema.fields().as_ref() else {
        return AnswerKind::Rows;
    };
    let (name, data_type) = (column.name().as_str(), column.data_type());
    match effect.class {
        StatementClass::Query | StatementClass::Report => AnswerKind::Rows,
        StatementClass::Update => match (effect.change(), name, data_type) {
            (Some(change), "count", DataType::Int64) => AnswerKind::Count(change),
            _ => AnswerKind::Rows,
        },
        StatementClass::Definition | StatementClass::Setting | StatementClass::Cancel => {
            match (name, data_type) {
                ("status", DataType::Utf8) => AnswerKind::Word,
                _ => AnswerKind::Rows,
            }
        }
    }
}

/// The number of rows that were written.
pub(crate) async fn count(answer: StatementRows) -> Result<i64> {
    let batches: Vec<_> = answer.rows.try_collect().await?;
    let counts = batches.iter().filter_map(|batch| {
        let counts = batch.column(0).as_primitive_opt::<Int64Type>()?;
        Some(counts.values().iter().sum::<i64>())
    });
    Ok(counts.sum())
}

/// The texts of a column.
pub(crate) async fn texts(answer: StatementRows, column: &str) -> Result<Vec<String>> {
    let batches: Vec<_> = answer.rows.try_collect().await?;
    let columns = batches.iter().filter_map(|batch| {
        let texts = batch.column_by_name(column)?.as_string_opt::<i32>()?;
        Some(texts.iter().flatten().map(str::to_owned))
    });
    Ok(columns.flatten().collect())
}

/// The texts of one column of a statement's result.
pub(crate) async fn ask(client: &Client, sql: String, column: &str) -> Result<Vec<String>> {
    let script = Script::new("<shell>", sql);
    let mut texts_found = Vec::new();
    for ready in prepare(&script, &mut Parameters::default())? {
        texts_found.extend(texts(client.run(&ready.bound).await?, column).await?);
    }
    Ok(texts_found)
}

/// How a table was created.
pub(crate) async fn definition(client: &Client, table: &str) -> Result<String> {
    let found = ask(client, format!("SHOW CREATE TABLE {table}"), "definition").await?;
    let found = found.into_iter().next();
    found.ok_or_else(|| Error::not_found(format!("{table} has no definition to show")))
}

/// The names of the server's functions.
pub(crate) async fn functions(client: &Client) -> Result<Vec<String>> {
    const FUNCTIONS: &str =
        "SELECT DISTINCT routine_name FROM information_schema.routines ORDER BY routine_name";
    ask(client, FUNCTIONS.to_owned(), "routine_name").await
}
