//! Who may do what: three roles, and the tables that a user may name. Decisions only; who somebody is, `login` knows.

use std::sync::Arc;

use datafusion::sql::parser::{CopyToSource, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{
    ObjectName, ObjectType, Query, SetExpr, Statement as AnsiStatement,
};
use glob::Pattern;

use crate::error::{Error, ErrorKind, Result};
use crate::planner::{JobStatement, ParsedStatement, Statement, TableOption, normalize};
use crate::server::places::Places;
use crate::session::MayName;

/// Everybody, where nobody has to log in.
const ANYONE: &str = "anyone";

/// How many of so many things one user may have at the same time, so that other users always find some. A server without users takes
/// all clients for one user, who may have all.
pub(super) fn share(user: &str, of: usize) -> usize {
    match user == ANYONE {
        true => of,
        false => share_of_one(of),
    }
}

/// How many of so many things one user, or one address, may have at the same time.
pub(super) fn share_of_one(of: usize) -> usize {
    of - of / 4
}

/// What somebody may do; each role may what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// Queries.
    Read,
    /// Also INSERT, and tables, views and jobs, at declared places.
    Write,
    /// Everything.
    Admin,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Tables by name: `visits`, `visits_*`, `system.jobs`. A pattern without a schema is of `public`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grants(Arc<[(Pattern, Pattern)]>);

impl Grants {
    /// # Errors
    ///
    /// What is no pattern.
    pub(super) fn try_new(patterns: &[String]) -> Result<Self> {
        let parse = |pattern: &String| {
            let (schema, table) = pattern.split_once('.').unwrap_or(("public", pattern));
            let parsed = Pattern::new(schema).and_then(|schema| Ok((schema, Pattern::new(table)?)));
            parsed.map_err(|error| {
                Error::invalid(format!("'{pattern}' is no pattern of tables: {error}"))
                    .with_help("write a name, or one with *, such as visits_* or system.jobs")
            })
        };
        let parsed: Result<Vec<_>> = patterns.iter().map(parse).collect();
        Ok(Self(parsed?.into()))
    }

    fn include(&self, schema: &str, table: &str) -> bool {
        let fits = |(schemas, tables): &(Pattern, Pattern)| {
            schemas.matches(schema) && tables.matches(table)
        };
        self.0.iter().any(fits)
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    /// The tables that may be named; `None`: all.
    pub(super) tables: Option<Grants>,
    /// Where tables of the caller may be, if not at all places of the server.
    pub(super) places: Option<Arc<[String]>>,
    /// What is kept between two calls belongs to it; of a token or a cookie.
    pub(super) session: Option<Arc<str>>,
}

impl Caller {
    /// Whoever asks where nobody has to log in.
    pub(super) fn anyone() -> Self {
        Self {
            name: ANYONE.into(),
            role: Role::Admin,
            tables: None,
            places: None,
            session: None,
        }
    }

    /// The name of a user who has logged in; `None` where nobody has to.
    pub(super) fn user(&self) -> Option<&Arc<str>> {
        (*self.name != *ANYONE).then_some(&self.name)
    }

    /// Whether both may do the same.
    pub(super) fn may_as(&self, other: &Self) -> bool {
        (&self.name, self.role, &self.tables) == (&other.name, other.role, &other.tables)
    }

    /// Which tables statements may name; `None`: all.
    pub(super) fn may_name(&self) -> Option<MayName> {
        let tables = self.tables.clone()?;
        Some(Arc::new(move |schema, table| tables.include(schema, table)))
    }

    /// Whether this is an administrator, or the one who is asked about.
    pub(super) fn may_see(&self, user: &str) -> bool {
        self.role == Role::Admin || *self.name == *user
    }

    /// Refuses what the caller may not do, as far as the statement's text tells; of the tables that it names, those that
    /// it makes or drops. `places` are those where callers who are no administrators may have tables.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`], with what is missing.
    pub(super) fn check(&self, parsed: &ParsedStatement, places: &Places) -> Result<()> {
        self.check_role(parsed)?;
        if self.role == Role::Admin {
            return Ok(());
        }
        self.check_tables(parsed)?;
        places.check(&parsed.statement, self.places.as_deref())
    }

    /// As [`Self::check`], of a table whose place the server has chosen.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`], with what is missing.
    pub(super) fn check_own(&self, parsed: &ParsedStatement) -> Result<()> {
        self.check_role(parsed)?;
        match self.role {
            Role::Admin => Ok(()),
            Role::Read | Role::Write => self.check_tables(parsed),
        }
    }

    fn check_role(&self, parsed: &ParsedStatement) -> Result<()> {
        let needed = role_of(&parsed.statement);
        if self.role >= needed {
            return Ok(());
        }
        Err(refused(format!(
            "{} has the role {}, and this statement needs {}",
            self.name,
            self.role.name(),
            needed.name()
        )))
    }

    fn check_tables(&self, parsed: &ParsedStatement) -> Result<()> {
        if let Some(tables) = &self.tables {
            // What is subscribed to is a query like any other.
            if matches!(&parsed.statement, Statement::Job(_)) && !parsed.statement.is_endless() {
                return Err(refused(format!(
                    "{} may name some tables only, and jobs are about all",
                    self.name
                )));
            }
            for name in changed(&parsed.statement) {
                let table = name.0.last().and_then(|part| part.as_ident());
                let table = table.map(normalize).unwrap_or_default();
                if !tables.include("public", &table) {
                    return Err(refused(format!("{} may not name {table}", self.name)));
                }
            }
            if let Statement::CreateTable(table) = &parsed.statement {
                let is_table = |option: &&TableOption| {
                    option.key.to_lowercase() == "dead_letter.table"
                        && !tables.include("public", &option.value.value)
                };
                // It is answered as one that is not there: rows would be written to it.
                if let Some(option) = table.options.iter().find(is_table) {
                    let name = &option.value.value;
                    let error = Error::not_found(format!("no table or view is named {name}"));
                    return Err(error.at(option.value.span));
                }
            }
            if makes_from_query(&parsed.statement) {
                return Err(refused(format!(
                    "{} may name some tables only, and CREATE TABLE AS reads any",
                    self.name
                )));
            }
        }
        Ok(())
    }
}

/// What an administrator may do and the caller may not.
pub(super) fn refused(why: String) -> Error {
    Error::new(ErrorKind::Permission, why).with_help("ask an administrator of the server")
}

/// The least role that may run a statement. What is not known to be harmless is for administrators.
fn role_of(statement: &Statement) -> Role {
    match statement {
        Statement::ShowTables
        | Statement::Describe(_)
        | Statement::ShowCreateTable(_)
        | Statement::History(_)
        | Statement::ShowQueries
        | Statement::KillQuery(_) => Role::Read,
        Statement::CreateTable(_) | Statement::CreateView(_) | Statement::Optimize { .. } => {
            Role::Write
        }
        Statement::Vacuum { .. } => Role::Admin,
        Statement::Job(job) => match job.as_ref() {
            JobStatement::Create { explain: true, .. }
            | JobStatement::ShowJobs
            | JobStatement::ShowBatches(_)
            | JobStatement::Describe(_)
            | JobStatement::Subscribe { .. } => Role::Read,
            _ => Role::Write,
        },
        Statement::Sql(sql) | Statement::DescribeQuery(sql) | Statement::Summarize(sql) => {
            role_of_sql(sql)
        }
    }
}

fn role_of_sql(sql: &SqlStatement) -> Role {
    match sql {
        SqlStatement::Statement(ansi) => role_of_ansi(ansi),
        SqlStatement::Explain(explain) => role_of_sql(&explain.statement),
        SqlStatement::CreateExternalTable(_) => Role::Write,
        SqlStatement::Reset(_) => Role::Read,
        SqlStatement::CopyTo(_) => Role::Admin,
    }
}

fn role_of_ansi(ansi: &AnsiStatement) -> Role {
    match ansi {
        AnsiStatement::Query(query) => role_of_query(query),
        AnsiStatement::ShowTables { .. }
        | AnsiStatement::ShowColumns { .. }
        | AnsiStatement::ShowFunctions { .. }
        | AnsiStatement::ShowVariable { .. }
        | AnsiStatement::ExplainTable { .. }
        | AnsiStatement::Set(_) => Role::Read,
        AnsiStatement::Explain { statement, .. } => role_of_ansi(statement),
        AnsiStatement::Drop {
            object_type: ObjectType::Table | ObjectType::View,
            ..
        } => Role::Write,
        AnsiStatement::Insert(_) | AnsiStatement::CreateTable(_) | AnsiStatement::CreateView(_) => {
            Role::Write
        }
        _ => Role::Admin,
    }
}

/// SQL lets an INSERT stand where a query does.
fn role_of_query(query: &Query) -> Role {
    fn role_of_body(body: &SetExpr) -> Role {
        match body {
            SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Table(_) => Role::Read,
            SetExpr::Query(query) => role_of_query(query),
            SetExpr::SetOperation { left, right, .. } => {
                role_of_body(left).max(role_of_body(right))
            }
            SetExpr::Insert(_) => Role::Write,
            _ => Role::Admin,
        }
    }

    let with = query.with.iter().flat_map(|with| &with.cte_tables);
    let of_with = with.map(|cte| role_of_query(&cte.query)).max();
    role_of_body(&query.body).max(of_with.unwrap_or(Role::Read))
}

/// The tables and views that a statement makes or drops.
fn changed(statement: &Statement) -> Vec<&ObjectName> {
    match statement {
        Statement::CreateTable(table) => vec![&table.name],
        Statement::CreateView(view) => vec![&view.name],
        Statement::Sql(sql) => match sql.as_ref() {
            SqlStatement::CreateExternalTable(table) => vec![&table.name],
            SqlStatement::Statement(ansi) => match ansi.as_ref() {
                AnsiStatement::Drop { names, .. } => names.iter().collect(),
                AnsiStatement::CreateTable(table) => vec![&table.name],
                _ => Vec::new(),
            },
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn makes_from_query(statement: &Statement) -> bool {
    match statement {
        Statement::Sql(sql) => match sql.as_ref() {
            SqlStatement::Statement(ansi) => {
                matches!(ansi.as_ref(), AnsiStatement::CreateTable(table) if table.query.is_some())
            }
            SqlStatement::CopyTo(copy) => matches!(copy.source, CopyToSource::Query(_)),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{Script, parse_statement};

    fn parsed(sql: &str) -> ParsedStatement {
        parse_statement(&Script::new("t", sql).split().unwrap().remove(0)).unwrap()
    }

    fn caller(role: Role, tables: Option<&[&str]>) -> Caller {
        let tables = tables.map(|tables| {
            let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
            Grants::try_new(&tables).unwrap()
        });
        Caller {
            name: "ann".into(),
            role,
            tables,
            places: None,
            session: None,
        }
    }

    #[test]
    fn each_statement_has_the_least_role_that_runs_it() {
        let roles: [(&str, Role); 33] = [
            ("SELECT 1", Role::Read),
            (
                "WITH a AS (SELECT 1) SELECT * FROM a UNION SELECT 2",
                Role::Read,
            ),
            ("EXPLAIN ANALYZE SELECT 1", Role::Read),
            ("EXPLAIN ANALYZE INSERT INTO t SELECT 1", Role::Write),
            (
                "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
                Role::Write,
            ),
            ("SHOW TABLES", Role::Read),
            ("SHOW datafusion.execution.time_zone", Role::Read),
            ("SET TIME ZONE 'UTC'", Role::Read),
            ("DESCRIBE t", Role::Read),
            ("SHOW JOBS", Role::Read),
            ("SHOW QUERIES", Role::Read),
            ("KILL QUERY 'a'", Role::Read),
            ("EXPLAIN CREATE JOB j AS INSERT INTO t SELECT 1", Role::Read),
            ("CREATE JOB j AS INSERT INTO t SELECT 1", Role::Write),
            ("PAUSE JOB j", Role::Write),
            ("REWIND JOB j TO BATCH 1", Role::Write),
            ("INSERT INTO t VALUES (1)", Role::Write),
            ("CREATE VIEW v AS SELECT 1", Role::Write),
            ("DROP TABLE t", Role::Write),
            ("DROP VIEW v", Role::Write),
            ("DROP SCHEMA public CASCADE", Role::Admin),
            ("DROP DATABASE anabranch", Role::Admin),
            ("DROP MATERIALIZED VIEW v", Role::Admin),
            ("DROP FUNCTION abs", Role::Admin),
            ("DROP INDEX i", Role::Admin),
            ("OPTIMIZE t", Role::Write),
            ("VACUUM t", Role::Admin),
            ("COPY t TO '/tmp/x.csv'", Role::Admin),
            ("DELETE FROM t", Role::Admin),
            ("TRUNCATE TABLE t", Role::Admin),
            ("CREATE SCHEMA s", Role::Admin),
            ("CREATE DATABASE d", Role::Admin),
            ("CREATE FUNCTION f() RETURNS INT RETURN 1", Role::Admin),
        ];
        for (sql, needed) in roles {
            let parsed = parsed(sql);
            for role in [Role::Read, Role::Write, Role::Admin] {
                let may = caller(role, None).check(&parsed, &Places::default());
                assert_eq!(may.is_ok(), role >= needed, "{sql} by {}", role.name());
            }
        }
    }

    #[test]
    fn grants_are_of_tables_by_pattern() {
        let ann = caller(Role::Write, Some(&["visits*", "system.jobs"]));
        let may_name = ann.may_name().unwrap();
        for (schema, table, may) in [
            ("public", "visits", true),
            ("public", "visits_raw", true),
            ("public", "jobs", false),
            ("system", "jobs", true),
            ("system", "visits", false),
            ("system", "late_rows", false),
        ] {
            assert_eq!(may_name(schema, table), may, "{schema}.{table}");
        }
        for (sql, may) in [
            ("CREATE VIEW visits_of_today AS SELECT 1", true),
            ("CREATE VIEW mine AS SELECT 1", false),
            ("DROP TABLE visits, secrets", false),
            ("DROP VIEW visits", true),
            ("CREATE TABLE visits_copy AS SELECT * FROM secrets", false),
            ("PAUSE JOB j", false),
            ("SHOW JOBS", false),
        ] {
            assert_eq!(
                ann.check(&parsed(sql), &Places::default()).is_ok(),
                may,
                "{sql}"
            );
        }
        let letters = |key: &str, table: &str| {
            parsed(&format!(
                "CREATE EXTERNAL TABLE visits_x (a INT) STORED AS KAFKA LOCATION 't' OPTIONS ('format' 'json', 'on_error' 'dead_letter', '{key}' '{table}')"
            ))
        };
        for key in ["dead_letter.table", "Dead_Letter.Table"] {
            let error = ann
                .check_own(&letters(key, "secrets"))
                .expect_err("a table that ann may not name");
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(ann.check_own(&letters(key, "visits_dead")).is_ok());
        }
        // Those of an administrator narrow what statements read, and not what is made and dropped.
        let boss = caller(Role::Admin, Some(&["visits*"]));
        assert!(!boss.may_name().unwrap()("public", "secrets"));
        for sql in [
            "DROP TABLE secrets",
            "CREATE VIEW mine AS SELECT 1",
            "SHOW JOBS",
        ] {
            assert!(
                boss.check(&parsed(sql), &Places::default()).is_ok(),
                "{sql}"
            );
        }
        assert!(Grants::try_new(&["***".to_owned()]).is_err());
    }
}
