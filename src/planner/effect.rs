//! Effect of a statement, decided in one place: its class, its changes, and the role it needs. Code that runs, refuses, caches
//! or displays a statement asks its [`Effect`] and does not look at the statement itself.
//!
//! The matches are exhaustive: they name every statement of our own and of the parser, without a wildcard arm. So a new
//! statement does not compile until its effect is decided. An unsupported statement is refused by its name, on the command line
//! and in a server alike.

use std::ops::ControlFlow;

use anabranch_udfs::Walk;
use datafusion::sql::parser::{CopyToSource, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{
    DescribeAlias, FromTable, ObjectName, ObjectNamePart, ObjectType, Query,
    Statement as AnsiStatement, TableFactor, TableObject, Visitor,
};

use crate::error::{Error, Result};
use crate::planner::ast::{JobStatement, Reprocess, RunStatement, Statement};
use crate::planner::statement_class::{
    ChangeKind, Effect, ObjectKind, Role, StatementClass, Writes,
};
use crate::planner::tables::normalize;

impl Effect {
    /// The table or view that the statement creates.
    pub(crate) fn created_name(&self) -> Option<&str> {
        match &self.writes {
            Writes::Creates { name, .. } => name.as_deref(),
            _ => None,
        }
    }

    /// A query over tables.
    fn query() -> Self {
        Self {
            reads: true,
            ..Self::shown()
        }
    }

    /// A query about the catalog, the session or the server.
    fn shown() -> Self {
        Self {
            class: StatementClass::Query,
            role: Role::Read,
            writes: Writes::Nothing,
            reads: false,
            jobs: false,
            endless: false,
        }
    }

    fn setting() -> Self {
        Self {
            class: StatementClass::Setting,
            ..Self::shown()
        }
    }

    fn definition(writes: Writes) -> Self {
        Self {
            class: StatementClass::Definition,
            role: Role::Write,
            writes,
            ..Self::shown()
        }
    }

    fn creates(name: &ObjectName, object: ObjectKind, only_if_new: bool) -> Self {
        Self::definition(Writes::Creates {
            name: last(name),
            object,
            only_if_new,
        })
    }

    /// A change of a table's files that returns rows about them.
    fn layout(table: &ObjectName, role: Role) -> Self {
        Self {
            class: StatementClass::Report,
            role,
            writes: Writes::Layout { table: last(table) },
            ..Self::shown()
        }
    }

    fn rows(table: Option<String>, change: ChangeKind) -> Self {
        Self {
            class: StatementClass::Update,
            role: Role::Write,
            writes: Writes::Rows { table, change },
            ..Self::query()
        }
    }

    /// A statement that displays a part of another: it needs the same role.
    fn about(inner: Self) -> Self {
        Self {
            role: inner.role,
            ..Self::query()
        }
    }

    /// EXPLAIN of a statement. With ANALYZE the statement runs, with all its changes: it runs once, however often its rows
    /// are fetched. Without, it is planned, which for changes of rows takes no more than reading.
    fn explained(inner: Self, runs: bool) -> Self {
        let class = match inner.class {
            StatementClass::Query => StatementClass::Query,
            StatementClass::Report
            | StatementClass::Update
            | StatementClass::Definition
            | StatementClass::Setting
            | StatementClass::Cancel => StatementClass::Report,
        };
        match (runs, &inner.writes) {
            (true, _) => Self { class, ..inner },
            (false, Writes::Rows { .. }) => Self::query(),
            // The plan of a COPY tells of places outside of the tables; definitions keep their role.
            (
                false,
                Writes::Nothing
                | Writes::Layout { .. }
                | Writes::Files
                | Writes::Run
                | Writes::Creates { .. }
                | Writes::Drops { .. },
            ) => Self::about(inner),
        }
    }
}

/// Decides the effect of a statement.
///
/// # Errors
/// [`crate::error::ErrorKind::Unsupported`] with the statement's name.
pub fn effect(statement: &Statement) -> Result<Effect> {
    Ok(match statement {
        Statement::CreateTable(table) => {
            Effect::creates(&table.name, ObjectKind::Table, table.if_not_exists)
        }
        Statement::CreateView(view) => {
            Effect::creates(&view.name, ObjectKind::View, view.if_not_exists)
        }
        Statement::ShowTables
        | Statement::Describe(_)
        | Statement::ShowCreateTable(_)
        | Statement::History(_)
        | Statement::ShowQueries => Effect::shown(),
        Statement::DescribeQuery(sql) | Statement::Summarize(sql) => Effect::about(of_sql(sql)?),
        Statement::Optimize { table, .. } => Effect::layout(table, Role::Write),
        Statement::Vacuum { table, .. } => Effect::layout(table, Role::Admin),
        Statement::KillQuery(_) => Effect {
            class: StatementClass::Cancel,
            ..Effect::shown()
        },
        Statement::Job(job) => of_job(job),
        Statement::Run(run) => of_run(run)?,
        Statement::Sql(sql) => of_sql(sql)?,
    })
}

fn of_job(job: &JobStatement) -> Effect {
    let shown = || Effect {
        jobs: true,
        ..Effect::shown()
    };
    let changed = || Effect {
        jobs: true,
        ..Effect::definition(Writes::Nothing)
    };
    match job {
        JobStatement::Create { explain: true, .. }
        | JobStatement::ShowJobs
        | JobStatement::ShowBatches(_)
        | JobStatement::Describe { .. } => shown(),
        JobStatement::Create { explain: false, .. }
        | JobStatement::Pause(_)
        | JobStatement::Resume { .. }
        | JobStatement::Drop { .. }
        | JobStatement::Rewind { .. } => changed(),
        // It leaves nothing behind: a query like any other.
        JobStatement::Subscribe { .. } => Effect {
            endless: true,
            ..Effect::query()
        },
    }
}

fn of_run(run: &RunStatement) -> Result<Effect> {
    let shown = Effect {
        jobs: true,
        ..Effect::shown()
    };
    let runs = Effect {
        class: StatementClass::Report,
        role: Role::Write,
        writes: Writes::Run,
        ..shown.clone()
    };
    match run {
        RunStatement::Explain(asked) => with_rows(asked, shown),
        RunStatement::Plan(asked) | RunStatement::Reprocess(asked) => with_rows(asked, runs),
        RunStatement::Apply(_) => Ok(runs),
        RunStatement::Abort(_) => Ok(Effect {
            jobs: true,
            ..Effect::definition(Writes::Nothing)
        }),
        RunStatement::Show(_) | RunStatement::Describe(_) => Ok(shown),
    }
}

/// The effect together with that of the query of FOR.
fn with_rows(asked: &Reprocess, effect: Effect) -> Result<Effect> {
    if let Some(rows) = &asked.rows {
        only_reads(&rows.query).map_err(|error| error.at(rows.span))?;
    }
    Ok(Effect {
        reads: asked.rows.is_some(),
        ..effect
    })
}

fn of_sql(sql: &SqlStatement) -> Result<Effect> {
    Ok(match sql {
        SqlStatement::Statement(ansi) => of_ansi(ansi)?,
        SqlStatement::Explain(explain) => {
            Effect::explained(of_sql(&explain.statement)?, explain.options.analyze)
        }
        SqlStatement::CreateExternalTable(table) => {
            Effect::creates(&table.name, ObjectKind::Table, table.if_not_exists)
        }
        SqlStatement::Reset(_) => Effect::setting(),
        SqlStatement::CopyTo(copy) => {
            if let CopyToSource::Query(query) = &copy.source {
                only_reads(query)?;
            }
            Effect {
                class: StatementClass::Update,
                role: Role::Admin,
                writes: Writes::Files,
                ..Effect::query()
            }
        }
    })
}

fn of_ansi(ansi: &AnsiStatement) -> Result<Effect> {
    Ok(match ansi {
        AnsiStatement::Query(query) => {
            only_reads(query)?;
            Effect::query()
        }
        AnsiStatement::Insert(insert) => {
            if let Some(query) = &insert.source {
                only_reads(query)?;
            }
            let table = match &insert.table {
                TableObject::TableName(name) => last(name),
                TableObject::TableFunction(_) | TableObject::TableQuery(_) => None,
            };
            Effect::rows(table, ChangeKind::Insert)
        }
        AnsiStatement::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            let table = from.first().and_then(|from| table_of(&from.relation));
            Effect::rows(table, ChangeKind::Delete)
        }
        AnsiStatement::Update(update) => {
            Effect::rows(table_of(&update.table.relation), ChangeKind::Update)
        }
        AnsiStatement::Merge(merge) => Effect::rows(table_of(&merge.table), ChangeKind::Merge),
        AnsiStatement::CreateTable(table) => {
            if let Some(query) = &table.query {
                only_reads(query)?;
            }
            Effect {
                reads: table.query.is_some(),
                ..Effect::creates(&table.name, ObjectKind::TableInMemory, table.if_not_exists)
            }
        }
        AnsiStatement::CreateView(view) if view.materialized => {
            return refused("CREATE MATERIALIZED VIEW");
        }
        AnsiStatement::CreateView(view) => {
            only_reads(&view.query)?;
            Effect::creates(&view.name, ObjectKind::View, view.if_not_exists)
        }
        AnsiStatement::Drop {
            object_type, names, ..
        } => of_drop(*object_type, names)?,
        AnsiStatement::Explain {
            statement, analyze, ..
        } => Effect::explained(of_ansi(statement)?, *analyze),
        AnsiStatement::ExplainTable {
            describe_alias: DescribeAlias::Explain,
            ..
        } => return refused("EXPLAIN of a table"),
        AnsiStatement::ExplainTable {
            describe_alias: DescribeAlias::Describe | DescribeAlias::Desc,
            ..
        }
        | AnsiStatement::ShowTables { .. }
        | AnsiStatement::ShowColumns { .. }
        | AnsiStatement::ShowFunctions { .. }
        | AnsiStatement::ShowVariable { .. } => Effect::shown(),
        AnsiStatement::Set(_) => Effect::setting(),

        AnsiStatement::Truncate(_) => return refused("TRUNCATE"),
        AnsiStatement::AlterCollation(_) => return refused("ALTER COLLATION"),
        AnsiStatement::AlterConnector { .. } => return refused("ALTER CONNECTOR"),
        AnsiStatement::AlterFunction(_) => return refused("ALTER FUNCTION"),
        AnsiStatement::AlterIndex { .. } => return refused("ALTER INDEX"),
        AnsiStatement::AlterOperator(_) => return refused("ALTER OPERATOR"),
        AnsiStatement::AlterOperatorClass(_) => return refused("ALTER OPERATOR CLASS"),
        AnsiStatement::AlterOperatorFamily(_) => return refused("ALTER OPERATOR FAMILY"),
        AnsiStatement::AlterPolicy(_) => return refused("ALTER POLICY"),
        AnsiStatement::AlterRole { .. } => return refused("ALTER ROLE"),
        AnsiStatement::AlterSchema(_) => return refused("ALTER SCHEMA"),
        AnsiStatement::AlterSession { .. } => return refused("ALTER SESSION"),
        AnsiStatement::AlterTable(_) => return refused("ALTER TABLE"),
        AnsiStatement::AlterType(_) => return refused("ALTER TYPE"),
        AnsiStatement::AlterUser(_) => return refused("ALTER USER"),
        AnsiStatement::AlterView { .. } => return refused("ALTER VIEW"),
        AnsiStatement::Analyze(_) => return refused("ANALYZE"),
        AnsiStatement::Assert { .. } => return refused("ASSERT"),
        AnsiStatement::AttachDatabase { .. } | AnsiStatement::AttachDuckDBDatabase { .. } => {
            return refused("ATTACH");
        }
        AnsiStatement::Cache { .. } => return refused("CACHE TABLE"),
        AnsiStatement::Call(_) => return refused("CALL"),
        AnsiStatement::Case(_) => return refused("CASE as a statement"),
        AnsiStatement::Close { .. } => return refused("CLOSE"),
        AnsiStatement::Comment { .. } => return refused("COMMENT ON"),
        AnsiStatement::Commit { .. } => return refused("COMMIT"),
        AnsiStatement::Copy { .. } => return refused("COPY with these options"),
        AnsiStatement::CopyIntoSnowflake { .. } => return refused("COPY INTO"),
        AnsiStatement::CreateCollation(_) => return refused("CREATE COLLATION"),
        AnsiStatement::CreateConnector(_) => return refused("CREATE CONNECTOR"),
        AnsiStatement::CreateDatabase { .. } => return refused("CREATE DATABASE"),
        AnsiStatement::CreateDomain(_) => return refused("CREATE DOMAIN"),
        AnsiStatement::CreateExtension(_) => return refused("CREATE EXTENSION"),
        AnsiStatement::CreateFunction(_) => return refused("CREATE FUNCTION"),
        AnsiStatement::CreateIndex(_) => return refused("CREATE INDEX"),
        AnsiStatement::CreateMacro { .. } => return refused("CREATE MACRO"),
        AnsiStatement::CreateOperator(_) => return refused("CREATE OPERATOR"),
        AnsiStatement::CreateOperatorClass(_) => return refused("CREATE OPERATOR CLASS"),
        AnsiStatement::CreateOperatorFamily(_) => return refused("CREATE OPERATOR FAMILY"),
        AnsiStatement::CreatePolicy(_) => return refused("CREATE POLICY"),
        AnsiStatement::CreateProcedure { .. } => return refused("CREATE PROCEDURE"),
        AnsiStatement::CreateRole(_) => return refused("CREATE ROLE"),
        AnsiStatement::CreateSchema { .. } => return refused("CREATE SCHEMA"),
        AnsiStatement::CreateSecret { .. } => return refused("CREATE SECRET"),
        AnsiStatement::CreateSequence { .. } => return refused("CREATE SEQUENCE"),
        AnsiStatement::CreateServer(_) => return refused("CREATE SERVER"),
        AnsiStatement::CreateStage { .. } => return refused("CREATE STAGE"),
        AnsiStatement::CreateTrigger(_) => return refused("CREATE TRIGGER"),
        AnsiStatement::CreateType { .. } => return refused("CREATE TYPE"),
        AnsiStatement::CreateUser(_) => return refused("CREATE USER"),
        AnsiStatement::CreateVirtualTable { .. } => return refused("CREATE VIRTUAL TABLE"),
        AnsiStatement::Deallocate { .. } => return refused("DEALLOCATE"),
        AnsiStatement::Declare { .. } => return refused("DECLARE"),
        AnsiStatement::Deny(_) => return refused("DENY"),
        AnsiStatement::DetachDuckDBDatabase { .. } => return refused("DETACH"),
        AnsiStatement::Directory { .. } => return refused("INSERT OVERWRITE DIRECTORY"),
        AnsiStatement::Discard { .. } => return refused("DISCARD"),
        AnsiStatement::DropConnector { .. } => return refused("DROP CONNECTOR"),
        AnsiStatement::DropDomain(_) => return refused("DROP DOMAIN"),
        AnsiStatement::DropExtension(_) => return refused("DROP EXTENSION"),
        AnsiStatement::DropFunction(_) => return refused("DROP FUNCTION"),
        AnsiStatement::DropOperator(_) => return refused("DROP OPERATOR"),
        AnsiStatement::DropOperatorClass(_) => return refused("DROP OPERATOR CLASS"),
        AnsiStatement::DropOperatorFamily(_) => return refused("DROP OPERATOR FAMILY"),
        AnsiStatement::DropPolicy(_) => return refused("DROP POLICY"),
        AnsiStatement::DropProcedure { .. } => return refused("DROP PROCEDURE"),
        AnsiStatement::DropSecret { .. } => return refused("DROP SECRET"),
        AnsiStatement::DropTrigger(_) => return refused("DROP TRIGGER"),
        AnsiStatement::Execute { .. } => return refused("EXECUTE"),
        AnsiStatement::ExportData(_) => return refused("EXPORT DATA"),
        AnsiStatement::Fetch { .. } => return refused("FETCH"),
        AnsiStatement::Flush { .. } => return refused("FLUSH"),
        AnsiStatement::Grant(_) => return refused("GRANT"),
        AnsiStatement::If(_) => return refused("IF as a statement"),
        AnsiStatement::Install { .. } => return refused("INSTALL"),
        AnsiStatement::Kill { .. } => return refused("KILL of anything but a QUERY"),
        AnsiStatement::LISTEN { .. } => return refused("LISTEN"),
        AnsiStatement::List(_) => return refused("LIST"),
        AnsiStatement::Load { .. } => return refused("LOAD"),
        AnsiStatement::LoadData { .. } => return refused("LOAD DATA"),
        AnsiStatement::Lock(_) | AnsiStatement::LockTables { .. } => {
            return refused("LOCK TABLES");
        }
        AnsiStatement::Msck(_) => return refused("MSCK"),
        AnsiStatement::NOTIFY { .. } => return refused("NOTIFY"),
        AnsiStatement::Open(_) => return refused("OPEN"),
        AnsiStatement::OptimizeTable { .. } => return refused("OPTIMIZE with these options"),
        AnsiStatement::Pragma { .. } => return refused("PRAGMA"),
        AnsiStatement::Prepare { .. } => return refused("PREPARE"),
        AnsiStatement::Print(_) => return refused("PRINT"),
        AnsiStatement::RaisError { .. } => return refused("RAISERROR"),
        AnsiStatement::Raise(_) => return refused("RAISE"),
        AnsiStatement::ReleaseSavepoint { .. } => return refused("RELEASE SAVEPOINT"),
        AnsiStatement::Remove(_) => return refused("REMOVE"),
        AnsiStatement::RenameTable(_) => return refused("RENAME TABLE"),
        AnsiStatement::Reset(_) => return refused("RESET of this kind"),
        AnsiStatement::Return(_) => return refused("RETURN"),
        AnsiStatement::Revoke(_) => return refused("REVOKE"),
        AnsiStatement::Rollback { .. } => return refused("ROLLBACK"),
        AnsiStatement::Savepoint { .. } => return refused("SAVEPOINT"),
        AnsiStatement::ShowCatalogs { .. } => return refused("SHOW CATALOGS"),
        AnsiStatement::ShowCharset(_) => return refused("SHOW CHARSET"),
        AnsiStatement::ShowCollation { .. } => return refused("SHOW COLLATION"),
        AnsiStatement::ShowCreate { .. } => return refused("SHOW CREATE of this kind"),
        AnsiStatement::ShowDatabases { .. } => return refused("SHOW DATABASES"),
        AnsiStatement::ShowObjects(_) => return refused("SHOW OBJECTS"),
        AnsiStatement::ShowProcessList { .. } => return refused("SHOW PROCESSLIST"),
        AnsiStatement::ShowSchemas { .. } => return refused("SHOW SCHEMAS"),
        AnsiStatement::ShowStatus { .. } => return refused("SHOW STATUS"),
        AnsiStatement::ShowVariables { .. } => return refused("SHOW VARIABLES"),
        AnsiStatement::ShowViews { .. } => return refused("SHOW VIEWS"),
        AnsiStatement::StartTransaction { .. } => return refused("BEGIN"),
        AnsiStatement::Throw(_) => return refused("THROW"),
        AnsiStatement::UNCache { .. } => return refused("UNCACHE TABLE"),
        AnsiStatement::UNLISTEN { .. } => return refused("UNLISTEN"),
        AnsiStatement::Unload { .. } => return refused("UNLOAD"),
        AnsiStatement::UnlockTables => return refused("UNLOCK TABLES"),
        AnsiStatement::Use(_) => return refused("USE"),
        AnsiStatement::Vacuum(_) => return refused("VACUUM with these options"),
        AnsiStatement::WaitFor(_) => return refused("WAITFOR"),
        AnsiStatement::While(_) => return refused("WHILE"),
    })
}

fn of_drop(object: ObjectType, names: &[ObjectName]) -> Result<Effect> {
    match object {
        ObjectType::Table | ObjectType::View => Ok(Effect::definition(Writes::Drops {
            names: names.iter().filter_map(last).collect(),
            are_views: object == ObjectType::View,
        })),
        ObjectType::Collation
        | ObjectType::MaterializedView
        | ObjectType::Index
        | ObjectType::Schema
        | ObjectType::Database
        | ObjectType::Role
        | ObjectType::Sequence
        | ObjectType::Stage
        | ObjectType::Type
        | ObjectType::User
        | ObjectType::Stream => refused(&format!("DROP {object}")),
    }
}

/// The error of a statement that is not supported, with the alternative.
fn refused(name: &str) -> Result<Effect> {
    let error = Error::unsupported(format!("{name} is not supported"));
    let first = name.split(' ').next().unwrap_or_default();
    Err(match first {
        "BEGIN" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" => {
            error.with_help("each statement is a transaction of its own")
        }
        "PREPARE" | "EXECUTE" | "DEALLOCATE" => error.with_help(
            "clients of a server prepare statements through their driver; in a text $name is a parameter",
        ),
        "CREATE" | "DROP" | "ALTER" => error.with_help(
            "only tables, views and jobs can be created and dropped; all are in the schema public",
        ),
        "TRUNCATE" => error.with_help("DELETE FROM t removes all rows of a Delta table"),
        "SHOW" => error.with_help(
            "SHOW TABLES, SHOW JOBS, SHOW QUERIES; SELECT from information_schema for the rest",
        ),
        _ => error,
    })
}

/// SQL allows an INSERT where a query may stand, in WITH and in brackets; here a query only reads.
fn only_reads(query: &Query) -> Result<()> {
    struct NestedStatements;

    impl Visitor for NestedStatements {
        type Break = &'static str;

        fn pre_visit_statement(&mut self, inner: &AnsiStatement) -> ControlFlow<&'static str> {
            ControlFlow::Break(match inner {
                AnsiStatement::Insert(_) => "INSERT",
                AnsiStatement::Update(_) => "UPDATE",
                AnsiStatement::Delete(_) => "DELETE",
                AnsiStatement::Merge(_) => "MERGE",
                _ => "a statement",
            })
        }
    }

    match query.walk(&mut NestedStatements) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(name) => Err(Error::unsupported(format!(
            "{name} inside a query is not supported"
        ))
        .with_help(
            "begin with it, and put WITH into its query: INSERT INTO t WITH a AS (…) SELECT …",
        )),
    }
}

/// The name of a table in FROM.
fn table_of(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table { name, .. } => last(name),
        _ => None,
    }
}

/// The name without catalog and schema.
fn last(name: &ObjectName) -> Option<String> {
    name.0
        .last()
        .and_then(ObjectNamePart::as_ident)
        .map(normalize)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;
    use crate::error::ErrorKind;
    use crate::planner::{Script, parse_statement};

    /// Every statement of the parser, and whether one is supported. A statement that is missing here does not compile.
    macro_rules! statements {
        (supported: $($yes:ident),+; refused: $($no:ident),+;) => {
            fn named(statement: &AnsiStatement) -> (&'static str, bool) {
                match statement {
                    $(AnsiStatement::$yes { .. } => (stringify!($yes), true),)+
                    $(AnsiStatement::$no { .. } => (stringify!($no), false),)+
                }
            }

            const SUPPORTED: &[&str] = &[$(stringify!($yes)),+];
        };
    }

    statements! {
        supported:
            Set, Query, Insert, Update, Delete, Merge, CreateView, CreateTable, Drop, ShowFunctions, ShowVariable,
            ShowColumns, ShowTables, ExplainTable, Explain;
        refused:
            Analyze, Truncate, Msck, Install, Load, Directory, Case, If, While, Raise, Call, Copy,
            CopyIntoSnowflake, Open, Close, CreateVirtualTable, CreateIndex,
            CreateRole, CreateSecret, CreateServer, CreatePolicy, CreateConnector, CreateOperator,
            CreateOperatorFamily, CreateOperatorClass, AlterTable, AlterSchema, AlterIndex,
            AlterView, AlterFunction, AlterType, AlterCollation, AlterOperator, AlterOperatorFamily,
            AlterOperatorClass, AlterRole, AlterPolicy, AlterConnector, AlterSession,
            AttachDatabase, AttachDuckDBDatabase, DetachDuckDBDatabase, DropFunction, DropDomain,
            DropProcedure, DropSecret, DropPolicy, DropConnector, Declare, CreateExtension,
            CreateCollation, DropExtension, DropOperator, DropOperatorFamily, DropOperatorClass,
            Fetch, Flush, Discard, ShowStatus, ShowVariables, ShowCreate, ShowCatalogs,
            ShowDatabases, ShowProcessList, ShowSchemas, ShowCharset, ShowObjects, ShowViews,
            ShowCollation, Use, StartTransaction, Comment, Commit, Rollback, CreateSchema,
            CreateDatabase, CreateFunction, CreateTrigger, DropTrigger, CreateProcedure,
            CreateMacro, CreateStage, Assert, Grant, Deny, Revoke, Deallocate, Execute, Prepare,
            Kill, Savepoint, ReleaseSavepoint, Cache, UNCache, CreateSequence, CreateDomain,
            CreateType, Pragma, Lock, LockTables, UnlockTables, Unload, OptimizeTable, LISTEN,
            UNLISTEN, NOTIFY, LoadData, RenameTable, List, Remove, RaisError, Throw, Print, WaitFor,
            Return, ExportData, CreateUser, AlterUser, Vacuum, Reset;
    }

    /// The same of our own statements.
    fn own(statement: &Statement) -> &'static str {
        match statement {
            Statement::CreateTable(_) => "CreateTable",
            Statement::CreateView(_) => "CreateView",
            Statement::ShowTables => "ShowTables",
            Statement::Describe(_) => "Describe",
            Statement::DescribeQuery(_) => "DescribeQuery",
            Statement::Summarize(_) => "Summarize",
            Statement::ShowCreateTable(_) => "ShowCreateTable",
            Statement::Optimize { .. } => "Optimize",
            Statement::Vacuum { .. } => "Vacuum",
            Statement::History(_) => "History",
            Statement::ShowQueries => "ShowQueries",
            Statement::KillQuery(_) => "KillQuery",
            Statement::Sql(_) => "Sql",
            Statement::Job(job) => match job.as_ref() {
                JobStatement::Create { explain: true, .. } => "ExplainJob",
                JobStatement::Create { .. } => "CreateJob",
                JobStatement::Pause(_) => "Pause",
                JobStatement::Resume { .. } => "Resume",
                JobStatement::Drop { .. } => "Drop",
                JobStatement::Rewind { .. } => "Rewind",
                JobStatement::ShowJobs => "ShowJobs",
                JobStatement::ShowBatches(_) => "ShowBatches",
                JobStatement::Describe { .. } => "DescribeJob",
                JobStatement::Subscribe { .. } => "Subscribe",
            },
            Statement::Run(run) => match run {
                RunStatement::Explain(_) => "ExplainReprocess",
                RunStatement::Plan(_) => "PlanReprocess",
                RunStatement::Reprocess(_) => "Reprocess",
                RunStatement::Apply(_) => "ApplyRun",
                RunStatement::Abort(_) => "AbortRun",
                RunStatement::Show(_) => "ShowRuns",
                RunStatement::Describe(_) => "DescribeRun",
            },
        }
    }

    /// The effect of each statement of our own.
    const OWN: [(&str, &str, StatementClass, Role); 30] = [
        (
            "CreateTable",
            "CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION 't'",
            StatementClass::Definition,
            Role::Write,
        ),
        (
            "CreateView",
            "CREATE VIEW v AS SELECT 1",
            StatementClass::Definition,
            Role::Write,
        ),
        (
            "ShowTables",
            "SHOW TABLES",
            StatementClass::Query,
            Role::Read,
        ),
        ("Describe", "DESCRIBE t", StatementClass::Query, Role::Read),
        (
            "DescribeQuery",
            "DESCRIBE SELECT 1",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "Summarize",
            "SUMMARIZE t",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "ShowCreateTable",
            "SHOW CREATE TABLE t",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "Optimize",
            "OPTIMIZE t",
            StatementClass::Report,
            Role::Write,
        ),
        ("Vacuum", "VACUUM t", StatementClass::Report, Role::Admin),
        (
            "History",
            "DESCRIBE HISTORY t",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "ShowQueries",
            "SHOW QUERIES",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "KillQuery",
            "KILL QUERY 'a'",
            StatementClass::Cancel,
            Role::Read,
        ),
        ("Sql", "SELECT 1", StatementClass::Query, Role::Read),
        (
            "ExplainJob",
            "EXPLAIN CREATE JOB j AS INSERT INTO t SELECT 1",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "CreateJob",
            "CREATE JOB j AS INSERT INTO t SELECT 1",
            StatementClass::Definition,
            Role::Write,
        ),
        (
            "Pause",
            "PAUSE JOB j",
            StatementClass::Definition,
            Role::Write,
        ),
        (
            "Resume",
            "RESUME JOB j",
            StatementClass::Definition,
            Role::Write,
        ),
        (
            "Drop",
            "DROP JOB j",
            StatementClass::Definition,
            Role::Write,
        ),
        (
            "Rewind",
            "REWIND JOB j TO BATCH 1",
            StatementClass::Definition,
            Role::Write,
        ),
        ("ShowJobs", "SHOW JOBS", StatementClass::Query, Role::Read),
        (
            "ShowBatches",
            "SHOW BATCHES FOR JOB j",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "DescribeJob",
            "SHOW CREATE JOB j",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "ExplainReprocess",
            "EXPLAIN REPROCESS JOB j FROM '2025-01-01' TO '2025-01-02'",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "PlanReprocess",
            "PLAN REPROCESS JOB j OFFSETS FROM '{}' TO '{}'",
            StatementClass::Report,
            Role::Write,
        ),
        (
            "Reprocess",
            "REPROCESS JOB j FOR (SELECT 1)",
            StatementClass::Report,
            Role::Write,
        ),
        (
            "ApplyRun",
            "APPLY RUN 'r'",
            StatementClass::Report,
            Role::Write,
        ),
        (
            "AbortRun",
            "ABORT RUN 'r'",
            StatementClass::Definition,
            Role::Write,
        ),
        ("ShowRuns", "SHOW RUNS", StatementClass::Query, Role::Read),
        (
            "DescribeRun",
            "DESCRIBE RUN 'r'",
            StatementClass::Query,
            Role::Read,
        ),
        (
            "Subscribe",
            "SUBSCRIBE SELECT 1",
            StatementClass::Query,
            Role::Read,
        ),
    ];

    fn parsed(sql: &str) -> Result<crate::planner::ParsedStatement> {
        parse_statement(&Script::new("t", sql).split()?.remove(0))
    }

    #[test]
    fn each_statement_of_our_own_has_its_effect() {
        for (name, sql, class, role) in OWN {
            let parsed = parsed(sql).unwrap();
            assert_eq!(own(&parsed.statement), name, "{sql}");
            let effect = &parsed.effect;
            assert_eq!((effect.class, effect.role), (class, role), "{sql}");
            assert_eq!(effect.endless, name == "Subscribe", "{sql}");
            let is_job = matches!(parsed.statement, Statement::Job(_) | Statement::Run(_));
            assert_eq!(effect.jobs, is_job && name != "Subscribe", "{sql}");
            let runs = ["PlanReprocess", "Reprocess", "ApplyRun"].contains(&name);
            assert_eq!(effect.writes == Writes::Run, runs, "{sql}");
            // Its work is done while it is planned: a client that asks for columns runs nothing.
            assert!(!(runs && effect.is_known_by_planning()), "{sql}");
        }
    }

    #[test]
    fn each_statement_of_the_parser_is_decided() {
        let mut seen = BTreeSet::new();
        for sql in [
            "SELECT 1",
            "INSERT INTO t SELECT 1",
            "CREATE TABLE t AS SELECT 1",
            "CREATE VIEW v AS SELECT 1",
            "DROP TABLE t",
            "EXPLAIN SELECT 1",
            "DESCRIBE t",
            "SHOW TABLES",
            "SHOW COLUMNS FROM t",
            "SHOW FUNCTIONS",
            "SHOW x",
            "SET x = 1",
            "DELETE FROM t",
            "UPDATE t SET a = 1",
            "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE",
            "ANALYZE TABLE t",
            "ALTER TABLE t ADD COLUMN b INT",
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "CREATE SCHEMA s",
            "CREATE DATABASE d",
            "CREATE INDEX i ON t (a)",
            "DROP FUNCTION f",
            "GRANT SELECT ON t TO u",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "DEALLOCATE p",
            "SHOW DATABASES",
            "SHOW SCHEMAS",
            "TRUNCATE TABLE t",
            "USE d",
        ] {
            let mut statements = Parser::parse_sql(&GenericDialect {}, sql).unwrap();
            let statement = statements.pop().unwrap();
            let (name, is_supported) = named(&statement);
            seen.insert(name);
            match of_ansi(&statement) {
                Ok(_) => assert!(is_supported, "{sql}"),
                Err(error) => {
                    assert!(!is_supported, "{sql}: {}", error.message());
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    assert!(error.message().ends_with(" is not supported"), "{sql}");
                }
            }
        }
        for name in SUPPORTED {
            assert!(seen.contains(name), "{name} is tried");
        }
    }

    #[test]
    fn refused_statements_are_named() {
        for (sql, name) in [
            ("DROP SCHEMA public CASCADE", "DROP SCHEMA"),
            ("DROP INDEX i", "DROP INDEX"),
            (
                "CREATE MATERIALIZED VIEW v AS SELECT 1",
                "CREATE MATERIALIZED VIEW",
            ),
            ("EXPLAIN TRUNCATE TABLE t", "TRUNCATE"),
            (
                "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
                "INSERT inside a query",
            ),
            (
                "PLAN REPROCESS JOB j FOR (WITH a AS (DELETE FROM t) SELECT * FROM a)",
                "DELETE inside a query",
            ),
        ] {
            let error = parsed(sql).unwrap_err();
            assert_eq!(error.message(), format!("{name} is not supported"), "{sql}");
            assert!(error.span().is_some(), "{sql}");
        }
    }

    #[test]
    fn the_written_table_is_named() {
        let writes = |sql: &str| parsed(sql).unwrap().effect.writes;
        assert_eq!(
            writes("INSERT INTO anabranch.public.\"T\" SELECT 1"),
            Writes::Rows {
                table: Some("T".to_owned()),
                change: ChangeKind::Insert
            }
        );
        assert_eq!(
            writes("DROP VIEW IF EXISTS A, b"),
            Writes::Drops {
                names: vec!["a".to_owned(), "b".to_owned()],
                are_views: true
            }
        );
        assert_eq!(
            writes("CREATE TABLE IF NOT EXISTS t AS SELECT 1"),
            Writes::Creates {
                name: Some("t".to_owned()),
                object: ObjectKind::TableInMemory,
                only_if_new: true
            }
        );
    }

    /// Statements, with and without the changes that EXPLAIN ANALYZE makes as well.
    #[test]
    fn only_an_analyzed_statement_changes_what_it_explains() {
        let effect = |sql: &str| parsed(sql).unwrap().effect;
        for sql in [
            "INSERT INTO t SELECT 1",
            "DELETE FROM t",
            "UPDATE t SET a = 1",
            "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE",
        ] {
            let inner = effect(sql);
            assert_eq!(inner.class, StatementClass::Update, "{sql}");
            for runs in [
                "EXPLAIN ANALYZE",
                "EXPLAIN ANALYZE VERBOSE",
                "EXPLAIN (ANALYZE)",
                "EXPLAIN (ANALYZE TRUE, VERBOSE)",
                "EXPLAIN ANALYZE EXPLAIN ANALYZE",
            ] {
                let explained = effect(&format!("{runs} {sql}"));
                let once = Effect {
                    class: StatementClass::Report,
                    ..inner.clone()
                };
                assert_eq!(explained, once, "{runs} {sql}");
                assert!(explained.is_known_by_planning(), "{runs} {sql}");
            }
            for plans in [
                "EXPLAIN",
                "EXPLAIN VERBOSE",
                "EXPLAIN FORMAT TREE",
                "EXPLAIN (ANALYZE FALSE)",
                "EXPLAIN EXPLAIN ANALYZE",
            ] {
                assert_eq!(effect(&format!("{plans} {sql}")), Effect::query(), "{sql}");
            }
        }
        for (sql, class, role) in [
            ("EXPLAIN SELECT 1", StatementClass::Query, Role::Read),
            (
                "EXPLAIN ANALYZE SELECT 1",
                StatementClass::Query,
                Role::Read,
            ),
            (
                "EXPLAIN COPY t TO 'f.csv'",
                StatementClass::Query,
                Role::Admin,
            ),
            (
                "EXPLAIN ANALYZE COPY t TO 'f.csv'",
                StatementClass::Report,
                Role::Admin,
            ),
            (
                "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
                StatementClass::Report,
                Role::Write,
            ),
        ] {
            let explained = effect(sql);
            assert_eq!((explained.class, explained.role), (class, role), "{sql}");
        }
    }
}
