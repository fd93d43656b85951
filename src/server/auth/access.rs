//! Authorization: three roles, and the tables that a user may name. Only decisions; `login` finds out which user a
//! caller is.

use std::sync::Arc;

use glob::Pattern;

use crate::error::{Error, Result};
pub(crate) use crate::planner::Role;
use crate::planner::{ParsedStatement, Statement, StatementClass, TableOption, Writes};
use crate::server::auth::errors::refused;
use crate::server::auth::locations::AllowedLocations;
use crate::session::TableFilter;

/// The caller's name on a server without logins.
const ANYONE: &str = "anyone";

/// The most of `of` things that one user may have at the same time, so that other users always find some. A server
/// without users takes all clients for one user, who may have all.
pub(crate) fn share(user: &str, of: usize) -> usize {
    match user == ANYONE {
        true => of,
        false => share_per_user(of),
    }
}

/// How many of so many things one user, or one address, may have at the same time.
pub(crate) fn share_per_user(of: usize) -> usize {
    of - of / 4
}

/// Tables by name: `visits`, `visits_*`, `system.jobs`. A pattern without a schema is of `public`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grants(Arc<[(Pattern, Pattern)]>);

impl Grants {
    /// # Errors
    ///
    /// A pattern that cannot be parsed.
    pub(crate) fn try_new(patterns: &[String]) -> Result<Self> {
        let parse = |pattern: &String| {
            let (schema, table) = pattern.split_once('.').unwrap_or(("public", pattern));
            let parsed = Pattern::new(schema).and_then(|schema| Ok((schema, Pattern::new(table)?)));
            parsed.map_err(|error| {
                Error::invalid(format!("invalid table pattern '{pattern}': {error}"))
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

/// The caller of a request, with its rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) name: Arc<str>,
    pub(crate) role: Role,
    /// The tables that may be named; `None`: all.
    pub(crate) tables: Option<Grants>,
    /// The locations where tables of the caller may be; `None`: at all locations of the server.
    pub(crate) places: Option<Arc<[String]>>,
    /// The client session that owns settings, prepared statements and results between two calls; from a token or a
    /// cookie.
    pub(crate) session: Option<Arc<str>>,
}

impl Caller {
    /// The caller of every request on a server without logins.
    pub(crate) fn anyone() -> Self {
        Self {
            name: ANYONE.into(),
            role: Role::Admin,
            tables: None,
            places: None,
            session: None,
        }
    }

    /// The name of a logged-in user; `None` on a server without logins.
    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        (*self.name != *ANYONE).then_some(&self.name)
    }

    /// Whether both may do the same.
    pub(crate) fn has_same_rights_as(&self, other: &Self) -> bool {
        (&self.name, self.role, &self.tables) == (&other.name, other.role, &other.tables)
    }

    /// Which tables statements may name; `None`: all.
    pub(crate) fn table_filter(&self) -> Option<TableFilter> {
        let tables = self.tables.clone()?;
        Some(Arc::new(move |schema, table| tables.include(schema, table)))
    }

    /// Whether the caller is an administrator, or is `user`.
    pub(crate) fn may_see(&self, user: &str) -> bool {
        self.role == Role::Admin || *self.name == *user
    }

    /// Refuses a statement that the caller may not run, as far as its text tells. Of the tables that it names, only
    /// those that it creates or drops are checked. `places` are the locations where users other than administrators may
    /// have tables.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`](crate::error::ErrorKind::Permission), with the right that is missing.
    pub(crate) fn check(&self, parsed: &ParsedStatement, places: &AllowedLocations) -> Result<()> {
        self.check_role(parsed)?;
        if self.role == Role::Admin {
            return Ok(());
        }
        self.check_tables(parsed)?;
        places.check(&parsed.statement, self.places.as_deref())
    }

    /// As [`Self::check`], for a table whose location the server has chosen.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`](crate::error::ErrorKind::Permission), with the right that is missing.
    pub(crate) fn check_own(&self, parsed: &ParsedStatement) -> Result<()> {
        self.check_role(parsed)?;
        match self.role {
            Role::Admin => Ok(()),
            Role::Read | Role::Write => self.check_tables(parsed),
        }
    }

    fn check_role(&self, parsed: &ParsedStatement) -> Result<()> {
        let needed = parsed.effect.role;
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
            if parsed.effect.jobs {
                return Err(refused(format!(
                    "{} may use certain tables only, and jobs concern all tables",
                    self.name
                )));
            }
            for table in parsed.effect.defined_names() {
                if !tables.include("public", table) {
                    return Err(refused(format!("{} may not name {table}", self.name)));
                }
            }
            if let Statement::CreateTable(table) = &parsed.statement {
                let is_table = |option: &&TableOption| {
                    let key = option.key.to_lowercase();
                    matches!(key.as_str(), "dead_letter.table" | "archive")
                        && !tables.include("public", &option.value.value)
                };
                // The answer is the same as for a missing table: rows would be written to it, or read from it.
                if let Some(option) = table.options.iter().find(is_table) {
                    let name = &option.value.value;
                    let error = Error::not_found(format!("no table or view is named {name}"));
                    return Err(error.at(option.value.span));
                }
            }
            if makes_from_query(parsed) {
                return Err(refused(format!(
                    "{} may use certain tables only, and CREATE TABLE AS can read any",
                    self.name
                )));
            }
        }
        Ok(())
    }
}

/// Whether the statement runs a query and stores its rows where other users can read them.
fn makes_from_query(parsed: &ParsedStatement) -> bool {
    let effect = &parsed.effect;
    match effect.writes {
        Writes::Creates { .. } | Writes::Files => {
            effect.reads && effect.class != StatementClass::Query
        }
        Writes::Nothing
        | Writes::Rows { .. }
        | Writes::Layout { .. }
        | Writes::Drops { .. }
        | Writes::Run => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
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
            ("SHOW RUNS FOR JOB j", Role::Read),
            ("DESCRIBE RUN 'r'", Role::Read),
            ("EXPLAIN REPROCESS JOB j FOR (SELECT 1)", Role::Read),
            ("PLAN REPROCESS JOB j FOR (SELECT 1)", Role::Write),
            (
                "REPROCESS JOB j FROM '2025-01-01' TO '2025-01-02'",
                Role::Write,
            ),
            ("APPLY RUN 'r'", Role::Write),
            ("ABORT RUN 'r'", Role::Write),
            ("INSERT INTO t VALUES (1)", Role::Write),
            ("CREATE VIEW v AS SELECT 1", Role::Write),
            ("DROP TABLE t", Role::Write),
            ("DROP VIEW v", Role::Write),
            ("OPTIMIZE t", Role::Write),
            ("DELETE FROM t", Role::Write),
            ("UPDATE t SET a = 1", Role::Write),
            ("EXPLAIN DELETE FROM t", Role::Read),
            ("EXPLAIN ANALYZE DELETE FROM t", Role::Write),
            ("VACUUM t", Role::Admin),
            ("COPY t TO '/tmp/x.csv'", Role::Admin),
        ];
        for (sql, needed) in roles {
            let parsed = parsed(sql);
            for role in [Role::Read, Role::Write, Role::Admin] {
                let may = caller(role, None).check(&parsed, &AllowedLocations::default());
                assert_eq!(may.is_ok(), role >= needed, "{sql} by {}", role.name());
            }
        }
    }

    #[test]
    fn grants_are_of_tables_by_pattern() {
        let ann = caller(Role::Write, Some(&["visits*", "system.jobs"]));
        let may_name = ann.table_filter().unwrap();
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
            ("SHOW RUNS", false),
            ("REPROCESS JOB j FOR (SELECT 1)", false),
        ] {
            assert_eq!(
                ann.check(&parsed(sql), &AllowedLocations::default())
                    .is_ok(),
                may,
                "{sql}"
            );
        }
        let letters = |key: &str, table: &str| {
            parsed(&format!(
                "CREATE EXTERNAL TABLE visits_x (a INT) STORED AS KAFKA LOCATION 't' OPTIONS ('format' 'json', 'on_error' 'dead_letter', '{key}' '{table}')"
            ))
        };
        for key in ["dead_letter.table", "Dead_Letter.Table", "Archive"] {
            let error = ann
                .check_own(&letters(key, "secrets"))
                .expect_err("a table that ann may not name");
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(ann.check_own(&letters(key, "visits_dead")).is_ok());
        }
        // An administrator's `tables` narrow the tables that statements read, and not the tables that are created and
        // dropped.
        let boss = caller(Role::Admin, Some(&["visits*"]));
        assert!(!boss.table_filter().unwrap()("public", "secrets"));
        for sql in [
            "DROP TABLE secrets",
            "CREATE VIEW mine AS SELECT 1",
            "SHOW JOBS",
        ] {
            assert!(
                boss.check(&parsed(sql), &AllowedLocations::default())
                    .is_ok(),
                "{sql}"
            );
        }
        assert!(Grants::try_new(&["***".to_owned()]).is_err());
    }
}
