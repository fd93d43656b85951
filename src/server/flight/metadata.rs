//! Metadata for clients: catalogs, schemas, tables, keys, and the SQL features of the server.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    Command, CommandGetTables, SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel,
    SqlSupportedCaseSensitivity, SqlSupportedTransaction,
};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::server::flight::wire::{WireTypes, wire_schema};
use crate::server::flight::xdbc;
use crate::session::{CATALOG, Session};

/// The columns of the answer to a question about metadata; `None` if the command is none.
pub(crate) fn schema(command: &Command) -> Option<SchemaRef> {
    Some(match command.clone() {
        Command::CommandGetCatalogs(question) => question.into_builder().schema(),
        Command::CommandGetDbSchemas(question) => question.into_builder().schema(),
        Command::CommandGetTables(question) => question.into_builder().schema(),
        Command::CommandGetTableTypes(question) => question.into_builder().schema(),
        Command::CommandGetSqlInfo(question) => question.into_builder(sql_info().ok()?).schema(),
        Command::CommandGetXdbcTypeInfo(question) => {
            question.into_builder(xdbc::types().ok()?).schema()
        }
        Command::CommandGetPrimaryKeys(_) => keys(&PRIMARY_KEYS),
        Command::CommandGetExportedKeys(_)
        | Command::CommandGetImportedKeys(_)
        | Command::CommandGetCrossReference(_) => keys(&FOREIGN_KEYS),
        _ => return None,
    })
}

/// The answer to a question about metadata; the types of columns are those in which their rows would be sent.
///
/// # Errors
///
/// The command asks for no metadata, or a table that it names cannot be opened.
pub(crate) async fn answer(
    command: Command,
    session: &Session,
    types: WireTypes,
) -> Result<RecordBatch> {
    let schema = schema(&command).ok_or_else(|| unknown(&command))?;
    let wrong = |error: arrow_flight::error::FlightError| Error::internal(error.to_string());
    match command {
        Command::CommandGetCatalogs(question) => {
            let mut builder = question.into_builder();
            builder.append(CATALOG);
            builder.build().map_err(wrong)
        }
        Command::CommandGetDbSchemas(question) => {
            let mut builder = question.into_builder();
            for schema in schemas(session) {
                builder.append(CATALOG, schema);
            }
            builder.build().map_err(wrong)
        }
        Command::CommandGetTables(question) => tables(question, session, types).await,
        Command::CommandGetTableTypes(question) => {
            let mut builder = question.into_builder();
            for kind in ["SYSTEM TABLE", "TABLE", "VIEW"] {
                builder.append(kind);
            }
            builder.build().map_err(wrong)
        }
        Command::CommandGetSqlInfo(question) => {
            question.into_builder(sql_info()?).build().map_err(wrong)
        }
        Command::CommandGetXdbcTypeInfo(question) => {
            let types = question.into_builder(xdbc::types()?);
            types.build().map_err(wrong)
        }
        // Keys are declared for sinks, and nothing enforces them.
        _ => Ok(RecordBatch::new_empty(schema)),
    }
}

/// A command that is none of those the server knows.
pub(crate) fn unknown(command: &Command) -> Error {
    let name = command.type_url().rsplit('.').next().unwrap_or_default();
    match name {
        "" => garbled(),
        name => Error::unsupported(format!("{name} is not supported")),
    }
}

/// A message that is no command.
pub(crate) fn garbled() -> Error {
    Error::invalid("the message is not one of Flight SQL")
}

fn schemas(session: &Session) -> Vec<&'static str> {
    let mut schemas = vec!["public"];
    schemas.extend(session.relations().into_iter().map(|(schema, ..)| schema));
    schemas.sort_unstable();
    schemas.dedup();
    schemas
}

async fn tables(
    mut question: CommandGetTables,
    session: &Session,
    types: WireTypes,
) -> Result<RecordBatch> {
    let wrong = |error: arrow_flight::error::FlightError| Error::internal(error.to_string());
    let with_columns = question.include_schema;
    for kind in &mut question.table_types {
        *kind = table_type(kind);
    }
    let mut builder = question.into_builder();
    for (schema, name, kind) in session.relations() {
        let columns = match with_columns {
            false => Arc::new(Schema::empty()),
            // One table that cannot be opened does not hide the others.
            true => match session.columns_of(schema, &name).await {
                Ok(columns) => wire_schema(&columns, types),
                Err(error) => {
                    tracing::warn!(
                        table = name,
                        "its columns are not known: {}",
                        error.message()
                    );
                    Arc::new(Schema::empty())
                }
            },
        };
        builder
            .append(CATALOG, schema, name, kind, &columns)
            .map_err(wrong)?;
    }
    builder.build().map_err(wrong)
}

/// The type of tables that a client means: some write names of other servers, in other cases.
fn table_type(asked: &str) -> String {
    match asked.to_uppercase().as_str() {
        "BASE TABLE" => "TABLE".to_owned(),
        known => known.to_owned(),
    }
}

type KeyColumns = [(&'static str, DataType, bool)];

const PRIMARY_KEYS: [(&str, DataType, bool); 6] = [
    ("catalog_name", DataType::Utf8, true),
    ("db_schema_name", DataType::Utf8, true),
    ("table_name", DataType::Utf8, false),
    ("column_name", DataType::Utf8, false),
    ("key_name", DataType::Utf8, true),
    ("key_sequence", DataType::Int32, false),
];

const FOREIGN_KEYS: [(&str, DataType, bool); 13] = [
    ("pk_catalog_name", DataType::Utf8, true),
    ("pk_db_schema_name", DataType::Utf8, true),
    ("pk_table_name", DataType::Utf8, false),
    ("pk_column_name", DataType::Utf8, false),
    ("fk_catalog_name", DataType::Utf8, true),
    ("fk_db_schema_name", DataType::Utf8, true),
    ("fk_table_name", DataType::Utf8, false),
    ("fk_column_name", DataType::Utf8, false),
    ("key_sequence", DataType::Int32, false),
    ("fk_key_name", DataType::Utf8, true),
    ("pk_key_name", DataType::Utf8, true),
    ("update_rule", DataType::UInt8, false),
    ("delete_rule", DataType::UInt8, false),
];

fn keys(columns: &KeyColumns) -> SchemaRef {
    let columns = columns.iter();
    let fields = columns.map(|(name, of, nullable)| Field::new(*name, of.clone(), *nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The properties of the server and its SQL.
fn sql_info() -> Result<&'static SqlInfoData> {
    static SAID: OnceLock<SqlInfoData> = OnceLock::new();
    if let Some(said) = SAID.get() {
        return Ok(said);
    }
    let built = build_sql_info();
    let built = built.map_err(|error| Error::internal(error.to_string()))?;
    Ok(SAID.get_or_init(|| built))
}

fn build_sql_info() -> arrow_flight::error::Result<SqlInfoData> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Anabranch");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.5");
    for (code, yes) in [
        (SqlInfo::FlightSqlServerReadOnly, false),
        (SqlInfo::FlightSqlServerSql, true),
        (SqlInfo::FlightSqlServerSubstrait, false),
        (SqlInfo::FlightSqlServerCancel, true),
        (SqlInfo::FlightSqlServerBulkIngestion, true),
        (SqlInfo::FlightSqlServerIngestTransactionsSupported, false),
        (SqlInfo::SqlDdlCatalog, false),
        (SqlInfo::SqlDdlSchema, false),
        (SqlInfo::SqlDdlTable, true),
        (SqlInfo::SqlAllTablesAreSelectable, true),
        (SqlInfo::SqlSupportsColumnAliasing, true),
        (SqlInfo::SqlNullPlusNullIsNull, true),
        (SqlInfo::SqlSupportsTableCorrelationNames, true),
        (SqlInfo::SqlSupportsDifferentTableCorrelationNames, false),
        (SqlInfo::SqlSupportsExpressionsInOrderBy, true),
        (SqlInfo::SqlSupportsOrderByUnrelated, true),
        (SqlInfo::SqlSupportsLikeEscapeClause, true),
        (SqlInfo::SqlSupportsNonNullableColumns, true),
        (SqlInfo::SqlSupportsIntegrityEnhancementFacility, false),
        (SqlInfo::SqlCatalogAtStart, true),
        (SqlInfo::SqlSelectForUpdateSupported, false),
        (SqlInfo::SqlStoredProceduresSupported, false),
        (SqlInfo::SqlCorrelatedSubqueriesSupported, true),
        (SqlInfo::SqlMaxRowSizeIncludesBlobs, true),
        (SqlInfo::SqlTransactionsSupported, false),
        (SqlInfo::SqlDataDefinitionCausesTransactionCommit, false),
        (SqlInfo::SqlDataDefinitionsInTransactionsIgnored, true),
        (SqlInfo::SqlBatchUpdatesSupported, true),
        (SqlInfo::SqlSavepointsSupported, false),
        (SqlInfo::SqlNamedParametersSupported, false),
        (SqlInfo::SqlLocatorsUpdateCopy, false),
        (SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false),
    ] {
        info.append(code, yes);
    }
    info.append(
        SqlInfo::FlightSqlServerTransaction,
        SqlSupportedTransaction::None as i32,
    );
    info.append(SqlInfo::FlightSqlServerStatementTimeout, 0_i32);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
    info.append(
        SqlInfo::SqlIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32,
    );
    info.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32,
    );
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(
        SqlInfo::SqlNullOrdering,
        SqlNullOrdering::SqlNullsSortedHigh as i32,
    );
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlExtraNameCharacters, "");
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    // Bits: GROUP BY columns that are not selected, and expressions beyond them.
    info.append(SqlInfo::SqlSupportedGroupBy, 3_i32);
    info.append(SqlInfo::SqlSupportedGrammar, 7_i32);
    info.append(SqlInfo::SqlAnsi92SupportedLevel, 1_i32);
    info.append(
        SqlInfo::SqlOuterJoinsSupportLevel,
        SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32,
    );
    info.append(SqlInfo::SqlSchemasSupportedActions, 0_i32);
    info.append(SqlInfo::SqlCatalogsSupportedActions, 0_i32);
    info.append(SqlInfo::SqlSupportedPositionedCommands, 0_i32);
    info.append(SqlInfo::SqlSupportedSubqueries, 15_i32);
    info.append(SqlInfo::SqlSupportedUnions, 3_i32);
    info.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, 1_i32);
    info.append(SqlInfo::SqlSupportedResultSetTypes, 2_i32);
    // None; the JDBC driver reads it as a long.
    info.append(SqlInfo::SqlDefaultTransactionIsolation, 0_i64);
    for code in [
        SqlInfo::SqlKeywords,
        SqlInfo::SqlNumericFunctions,
        SqlInfo::SqlStringFunctions,
        SqlInfo::SqlSystemFunctions,
        SqlInfo::SqlDatetimeFunctions,
    ] {
        info.append(code, Vec::<String>::new());
    }
    info.append(
        SqlInfo::SqlSupportsConvert,
        BTreeMap::<i32, Vec<i32>>::new(),
    );
    for code in [
        SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified,
        SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly,
        SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive,
        SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive,
    ] {
        info.append(code, 0_i32);
    }
    // No limits that the server knows of.
    for code in [
        SqlInfo::SqlMaxBinaryLiteralLength,
        SqlInfo::SqlMaxCharLiteralLength,
        SqlInfo::SqlMaxColumnNameLength,
        SqlInfo::SqlMaxColumnsInGroupBy,
        SqlInfo::SqlMaxColumnsInIndex,
        SqlInfo::SqlMaxColumnsInOrderBy,
        SqlInfo::SqlMaxColumnsInSelect,
        SqlInfo::SqlMaxColumnsInTable,
        SqlInfo::SqlMaxConnections,
        SqlInfo::SqlMaxCursorNameLength,
        SqlInfo::SqlMaxIndexLength,
        SqlInfo::SqlDbSchemaNameLength,
        SqlInfo::SqlMaxProcedureNameLength,
        SqlInfo::SqlMaxCatalogNameLength,
        SqlInfo::SqlMaxRowSize,
        SqlInfo::SqlMaxStatementLength,
        SqlInfo::SqlMaxStatements,
        SqlInfo::SqlMaxTableNameLength,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ] {
        info.append(code, 0_i64);
    }
    info.build()
}
