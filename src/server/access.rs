//! Who may do what: three roles, and the tables that a user may name. Decisions only; who somebody is, `login` knows.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use datafusion::sql::parser::{CopyToSource, CreateExternalTable, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{ObjectName, Query, SetExpr, Statement as AnsiStatement};
use glob::Pattern;

use crate::error::{Error, ErrorKind, Result};
use crate::planner::{
    CreateTable, JobStatement, ParsedStatement, Statement, TableKind, TableOption, normalize,
};
use crate::session::MayName;

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
    /// What is kept between two calls belongs to it; of a token or a cookie.
    pub(super) session: Option<Arc<str>>,
}

impl Caller {
    /// Whoever asks where nobody has to log in.
    pub(super) fn anyone() -> Self {
        Self {
            name: "anyone".into(),
            role: Role::Admin,
            tables: None,
            session: None,
        }
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
    /// it makes or drops. `roots` are the places where callers who are no administrators may have tables.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`], with what is missing.
    pub(super) fn check(&self, parsed: &ParsedStatement, roots: &[String]) -> Result<()> {
        self.check_role(parsed)?;
        if self.role == Role::Admin {
            return Ok(());
        }
        self.check_tables(parsed)?;
        match &parsed.statement {
            Statement::CreateTable(table) => check_place(table, roots),
            Statement::Sql(sql) => match sql.as_ref() {
                SqlStatement::CreateExternalTable(table) => check_files(table, roots),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
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

fn refused(why: String) -> Error {
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
        AnsiStatement::Insert(_)
        | AnsiStatement::Drop { .. }
        | AnsiStatement::CreateTable(_)
        | AnsiStatement::CreateView(_) => Role::Write,
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

/// A table's place must be below a root, and its options must not reach elsewhere: not to other stores or registries,
/// and not to files of the server.
fn check_place(table: &CreateTable, roots: &[String]) -> Result<()> {
    let place = match table.kind {
        TableKind::Delta => is_within(&table.location.value, roots),
        TableKind::Kafka => brokers(table).and_then(|brokers| {
            brokers
                .iter()
                .try_for_each(|broker| is_within(&format!("kafka://{broker}"), roots))
        }),
    };
    place.map_err(|error| error.at(table.location.span))?;
    for option in &table.options {
        if !is_harmless(option) {
            return Err(
                refused(format!("option '{}' is for administrators", option.key))
                    .at(option.key_span),
            );
        }
    }
    Ok(())
}

/// A table over files, as [`check_place`].
fn check_files(table: &CreateExternalTable, roots: &[String]) -> Result<()> {
    let mut options = table.options.iter();
    if let Some((key, _)) = options.find(|(key, _)| !key.starts_with("format.")) {
        return Err(refused(format!("option '{key}' is for administrators")));
    }
    let mut locations = table.locations.iter();
    locations.try_for_each(|location| is_within(location, roots))
}

fn brokers(table: &CreateTable) -> Result<Vec<&str>> {
    let is_brokers = |option: &&TableOption| {
        let key = option.key.to_lowercase();
        key == "kafka.bootstrap.servers" || key == "bootstrap.servers"
    };
    let brokers = table.options.iter().find(is_brokers);
    let brokers = brokers.ok_or_else(|| {
        refused(
            "the table does not say its brokers, and the server's own are for administrators"
                .to_owned(),
        )
    })?;
    Ok(brokers.value.value.split(',').map(str::trim).collect())
}

/// Whether an option stays within the table: no environment of the server, no other address, no file.
fn is_harmless(option: &TableOption) -> bool {
    const OF_KAFKA: [&str; 7] = [
        "kafka.bootstrap.servers",
        "kafka.isolation.level",
        "kafka.security.protocol",
        "kafka.sasl.mechanism",
        "kafka.sasl.mechanisms",
        "kafka.sasl.password",
        "kafka.sasl.username",
    ];
    let key = option.key.to_lowercase();
    let is_known = match key.as_str() {
        _ if key.starts_with("kafka.") => OF_KAFKA.contains(&key.as_str()),
        _ if key.starts_with("aws.") => false,
        _ => !key.ends_with("url"),
    };
    is_known && !option.value.value.contains("${")
}

/// Whether a place is one of the roots or below it, however it is written.
fn is_within(place: &str, roots: &[String]) -> Result<()> {
    let outside = || {
        let error = Error::new(
            ErrorKind::Permission,
            format!("'{place}' is at no place where tables may be"),
        );
        match roots.is_empty() {
            true => error.with_help("the server declares none: only administrators make tables"),
            false => error.with_help(format!("tables may be below {}", roots.join(", "))),
        }
    };
    if place.contains("${") {
        return Err(refused(
            "the server's environment is for administrators".to_owned(),
        ));
    }
    let place = Place::of(place).ok_or_else(outside)?;
    match roots
        .iter()
        .filter_map(|root| Place::of(root))
        .any(|root| place.is_below(&root))
    {
        true => Ok(()),
        false => Err(outside()),
    }
}

/// A place without `.` and `..`, and where it is a folder of this machine, without links.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Folder(PathBuf),
    /// Scheme, host with port, segments of the path.
    Url(String, String, Vec<String>),
}

impl Place {
    fn of(text: &str) -> Option<Self> {
        match url::Url::parse(text) {
            Ok(url) if url.scheme() == "file" => {
                Some(Self::Folder(real(&url.to_file_path().ok()?)?))
            }
            Ok(url) => {
                let port = url
                    .port()
                    .map_or_else(String::new, |port| format!(":{port}"));
                let host = format!("{}{port}", url.host_str().unwrap_or_default());
                let segments = url.path().split('/').filter(|segment| !segment.is_empty());
                let segments: Vec<String> = segments.map(str::to_owned).collect();
                let climbs = segments.iter().any(|segment| {
                    let segment = segment
                        .to_lowercase()
                        .replace("%2e", ".")
                        .replace("%2f", "/");
                    segment == ".." || segment.contains('/')
                });
                (!climbs).then(|| Self::Url(url.scheme().to_owned(), host, segments))
            }
            Err(_) => Some(Self::Folder(real(Path::new(text))?)),
        }
    }

    fn is_below(&self, root: &Self) -> bool {
        match (self, root) {
            (Self::Folder(place), Self::Folder(root)) => place.starts_with(root),
            (Self::Url(scheme, host, path), Self::Url(of, at, root)) => {
                scheme == of && host == at && path.starts_with(root)
            }
            _ => false,
        }
    }
}

/// The path from the root of the file system, its links followed as far as it exists. It must not climb where it does not.
fn real(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut known = path.as_path();
    let mut rest = Vec::new();
    loop {
        if let Ok(mut real) = known.canonicalize() {
            real.extend(rest.into_iter().rev());
            return Some(real);
        }
        match known.components().next_back()? {
            Component::Normal(name) => rest.push(name),
            _ => return None,
        }
        known = known.parent()?;
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
            session: None,
        }
    }

    #[test]
    fn each_statement_has_the_least_role_that_runs_it() {
        let roles: [(&str, Role); 27] = [
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
                let may = caller(role, None).check(&parsed, &[]);
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
            assert_eq!(ann.check(&parsed(sql), &[]).is_ok(), may, "{sql}");
        }
        assert!(Grants::try_new(&["***".to_owned()]).is_err());
    }

    #[test]
    fn tables_of_others_than_administrators_are_below_the_roots() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("lake");
        std::fs::create_dir(&at).unwrap();
        let outside = folder.path().join("private");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, at.join("link")).unwrap();
        let lake = at.display().to_string();
        let roots = [
            lake.clone(),
            "s3://bucket/lake".to_owned(),
            "kafka://broker:9092".to_owned(),
        ];
        let delta = |place: &str| {
            format!("CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION '{place}'")
        };
        let kafka = |options: &str| {
            format!(
                "CREATE EXTERNAL TABLE t (a INT) STORED AS KAFKA LOCATION 't' OPTIONS ('format' 'json'{options})"
            )
        };
        for (sql, may) in [
            (delta(&format!("{lake}/a")), true),
            (delta(&format!("{lake}/a/../b")), false),
            (delta(&format!("{lake}/../private")), false),
            (delta(&format!("{lake}/link/a")), false),
            (delta(&format!("file://{lake}/a")), true),
            (delta(&format!("file://{lake}/%2e%2e/private")), false),
            (delta(&format!("{lake}er")), false),
            (delta("/etc"), false),
            (delta("relative"), false),
            (delta("s3://bucket/lake/a"), true),
            (delta("s3://bucket/lake"), true),
            (delta("s3://bucket/lakes"), false),
            (delta("s3://bucket/lake/../other"), false),
            (delta("s3://bucket/lake/%2E%2e/other"), false),
            (delta("s3://other/lake/a"), false),
            (delta(&format!("{lake}/${{HOME}}")), false),
            (kafka(", 'kafka.bootstrap.servers' 'broker:9092'"), true),
            (kafka(", 'kafka.bootstrap.servers' 'broker:9093'"), false),
            (
                kafka(", 'kafka.bootstrap.servers' 'broker:9092,evil:9092'"),
                false,
            ),
            (kafka(", 'kafka.bootstrap.servers' '${KAFKA}'"), false),
            (kafka(""), false),
            (
                kafka(
                    ", 'kafka.bootstrap.servers' 'broker:9092', 'kafka.plugin.library.paths' '/x.so'",
                ),
                false,
            ),
            (
                kafka(", 'kafka.bootstrap.servers' 'broker:9092', 'avro.registry.url' 'http://x'"),
                false,
            ),
            (
                kafka(
                    ", 'kafka.bootstrap.servers' 'broker:9092', 'kafka.sasl.password' '${SECRET}'",
                ),
                false,
            ),
            (
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
                false,
            ),
        ] {
            let statement = parsed(&sql);
            let checked = caller(Role::Write, None).check(&statement, &roots);
            assert_eq!(checked.is_ok(), may, "{sql}: {checked:?}");
            assert!(
                caller(Role::Write, None).check(&statement, &[]).is_err(),
                "{sql}"
            );
            assert!(
                caller(Role::Admin, None).check(&statement, &[]).is_ok(),
                "{sql}"
            );
        }
    }
}
