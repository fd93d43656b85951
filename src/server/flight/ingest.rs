//! Bulk ingest: writes the rows of a client into a table, which is created if the client asks for that.

use std::sync::Arc;

use arrow_flight::sql::{
    CommandStatementIngest, TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;

use crate::error::{Error, ErrorKind, Result};
use crate::planner::script::{identifier, quoted};
use crate::planner::types::type_name;
use crate::server::engine::{Engine, RequestContext};
use crate::server::parse::definition;
use crate::session::{CATALOG, SCHEMA};

/// The name of the client's rows in the statement that writes them.
const ROWS: &str = "rows of the client";

/// Writes the rows into the table that the command names; gives how many there were.
///
/// # Errors
///
/// An option that the server does not support; a table that exists and should not, or the other way round; an error of
/// the INSERT.
pub(crate) async fn ingest(
    engine: &Arc<Engine>,
    asked: &RequestContext,
    command: &CommandStatementIngest,
    rows: SendableRecordBatchStream,
) -> Result<i64> {
    check(command)?;
    let table = &command.table;
    let schema = rows.schema();
    let session = engine.fork(asked)?;
    let is_there = session.table_names().contains(table);
    engine.forks.return_fork(session);
    let made = match how(command.table_definition_options.as_ref(), is_there) {
        IngestMode::Append => None,
        IngestMode::Create => Some("CREATE"),
        IngestMode::Replace => Some("CREATE OR REPLACE"),
        IngestMode::Exists => {
            return Err(
                Error::new(ErrorKind::Exists, format!("table {table} exists already"))
                    .with_help("append to it, or replace it"),
            );
        }
        IngestMode::Missing => {
            return Err(
                Error::not_found(format!("no table or view is named {table}"))
                    .with_help("let it be created, or declare it first"),
            );
        }
    };
    if let Some(create) = made {
        let columns = columns(&schema)?;
        let place = engine.store.place_of_table(table);
        let text = format!(
            "{create} EXTERNAL TABLE {} ({columns}) STORED AS DELTA LOCATION {}",
            identifier(table),
            quoted(&place)
        );
        engine.define_in_session(asked, definition(&text)?).await?;
    }
    let names = schema.fields().iter().map(|field| identifier(field.name()));
    let names = names.collect::<Vec<_>>().join(", ");
    let insert = format!(
        "INSERT INTO {} ({names}) SELECT {names} FROM {}",
        identifier(table),
        identifier(ROWS)
    );
    let written = engine.insert_stream(asked, &insert, ROWS, rows).await;
    if written.is_err() && made == Some("CREATE") {
        // It was made for these rows.
        let dropped = definition(&format!("DROP TABLE {}", identifier(table)))?;
        engine.define_in_session(asked, dropped).await?;
    }
    written
}

enum IngestMode {
    Append,
    Create,
    Replace,
    Exists,
    Missing,
}

fn how(options: Option<&TableDefinitionOptions>, is_there: bool) -> IngestMode {
    let given = options.map(|options| (options.if_not_exist(), options.if_exists()));
    match given {
        Some((_, TableExistsOption::Append)) if is_there => IngestMode::Append,
        Some((_, TableExistsOption::Replace)) if is_there => IngestMode::Replace,
        _ if is_there => IngestMode::Exists,
        Some((TableNotExistOption::Fail, _)) => IngestMode::Missing,
        _ => IngestMode::Create,
    }
}

fn check(command: &CommandStatementIngest) -> Result<()> {
    if command.transaction_id.is_some() {
        return Err(
            Error::unsupported("there are no transactions over several statements")
                .with_help("each ingest is a transaction of its own"),
        );
    }
    if command.temporary {
        return Err(Error::unsupported("there are no temporary tables"));
    }
    let other = |given: &Option<String>, ours: &str| {
        let given = given.as_deref().filter(|given| !given.is_empty());
        given.is_some_and(|given| given != ours)
    };
    if other(&command.catalog, CATALOG) || other(&command.schema, SCHEMA) {
        return Err(Error::not_found(
            "tables of clients are in anabranch.public",
        ));
    }
    if command.table.is_empty() {
        return Err(Error::invalid("the table has no name"));
    }
    Ok(())
}

/// The columns of a table that holds such rows.
fn columns(schema: &SchemaRef) -> Result<String> {
    let column = |field: &Arc<Field>| {
        let of = stored(field.data_type()).ok_or_else(|| {
            Error::unsupported(format!(
                "column {} is of type {}, which tables do not hold",
                field.name(),
                field.data_type()
            ))
        })?;
        Ok(format!("{} {}", identifier(field.name()), type_name(&of)))
    };
    let columns: Result<Vec<String>> = schema.fields().iter().map(column).collect();
    Ok(columns?.join(", "))
}

/// The type of a table that holds all values of another; `None`: there is none.
fn stored(of: &DataType) -> Option<DataType> {
    Some(match of {
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(..) => crate::planner::types::timestamp_type(),
        DataType::Dictionary(_, values) => stored(values)?,
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            let item = Field::new_list_field(stored(item.data_type())?, true);
            DataType::List(Arc::new(item))
        }
        DataType::Struct(fields) => {
            let field = |field: &Arc<Field>| {
                let of = stored(field.data_type())?;
                Some(Field::new(field.name(), of, true))
            };
            DataType::Struct(fields.iter().map(field).collect::<Option<_>>()?)
        }
        DataType::Null
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::Decimal256(..)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..)
        | DataType::Map(..) => return None,
        other => other.clone(),
    })
}
