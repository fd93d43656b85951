//! Tables that are defined and could not be opened: the catalog keeps the definition, and tries to open the table again when a
//! statement uses it, and whenever the server that stores the definition asks for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result, Subject};
use crate::planner::{ParsedStatement, Statement, TableKind};
use crate::session::options::TableLocation;
use crate::session::statements::declaration::{DeclaredTable, IfMissing, open_table};

/// A table with its definition, and the reason why it is not open. All forks of a session share it: once one of their
/// statements has opened it, it is open for all of them.
#[derive(Debug)]
pub(crate) struct UnopenedTable {
    name: String,
    kind: &'static str,
    /// The statement that creates it; `None` if this program cannot read its definition, or does not run it again.
    statement: Option<ParsedStatement>,
    opened: OnceLock<DeclaredTable>,
    /// One attempt at a time.
    attempt: tokio::sync::Mutex<()>,
    attempts: AtomicU64,
    failure: Mutex<OpenFailure>,
}

#[derive(Debug)]
struct OpenFailure {
    kind: ErrorKind,
    message: String,
}

impl UnopenedTable {
    pub(crate) fn new(name: &str, statement: Option<ParsedStatement>, error: &Error) -> Self {
        let kind = match statement.as_ref().map(|parsed| &parsed.statement) {
            Some(Statement::CreateTable(table)) => match table.kind {
                TableKind::Kafka => "Kafka table",
                TableKind::Delta => "Delta table",
            },
            _ => "table",
        };
        Self {
            name: name.to_owned(),
            kind,
            statement,
            opened: OnceLock::new(),
            attempt: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
            failure: Mutex::new(OpenFailure::of(error)),
        }
    }

    /// The kind of the object in messages and SHOW TABLES.
    pub(crate) fn kind_name(&self) -> &'static str {
        self.kind
    }

    /// The location in its definition: although the table is not open, no other statement may declare that location under
    /// another name.
    pub(crate) fn place(&self) -> Option<TableLocation> {
        match self.statement.as_ref().map(|parsed| &parsed.statement) {
            Some(Statement::CreateTable(table)) => {
                let location = table.location.value.clone();
                Some(match table.kind {
                    TableKind::Kafka => TableLocation::Topic(location),
                    TableKind::Delta => TableLocation::Files(location),
                })
            }
            _ => None,
        }
    }

    /// The table, if it was opened since.
    pub(crate) fn opened(&self) -> Option<&DeclaredTable> {
        self.opened.get()
    }

    /// Why it is not open.
    pub(crate) fn reason(&self) -> String {
        self.failure().message.clone()
    }

    /// The statement that creates the table, if it is of DataFusion's own SQL: only running it again opens the table.
    pub(crate) fn to_run_again(&self) -> Option<&ParsedStatement> {
        let is_sql = |parsed: &&ParsedStatement| matches!(parsed.statement, Statement::Sql(_));
        self.statement.as_ref().filter(is_sql)
    }

    /// Tries to open the table. A caller that comes during another attempt waits and gets its result.
    ///
    /// # Errors
    ///
    /// Why it cannot be opened now.
    pub(crate) async fn open(&self) -> Result<DeclaredTable> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened.clone());
        }
        let seen = self.attempts.load(Ordering::Acquire);
        let _attempt = self.attempt.lock().await;
        if let Some(opened) = self.opened.get() {
            return Ok(opened.clone());
        }
        let table = self.statement.as_ref().map(|parsed| &parsed.statement);
        let Some(Statement::CreateTable(table)) = table else {
            return Err(self.error());
        };
        if self.attempts.load(Ordering::Acquire) != seen {
            return Err(self.error());
        }
        let outcome = open_table(table, &self.name, IfMissing::Refuse).await;
        self.attempts.fetch_add(1, Ordering::Release);
        match outcome {
            Ok(table) => Ok(self.opened.get_or_init(|| table).clone()),
            Err(error) => {
                *self.failure() = OpenFailure::of(&error);
                Err(self.error())
            }
        }
    }

    /// The error for a statement that uses the table.
    pub(crate) fn error(&self) -> Error {
        let failure = self.failure();
        let message = format!("{} cannot be opened: {}", self.name, failure.message);
        Error::new(failure.kind, message)
            .about(Subject::table(&self.name))
            .with_help(
                "its definition is kept, and opening is tried again whenever it is used; \
             CREATE OR REPLACE declares it again, DROP removes it",
            )
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, OpenFailure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenFailure {
    fn of(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.with_its_help(),
        }
    }
}

/// Runs work that may wait for a store or a broker, with a time limit.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let seconds = limit.as_secs();
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Error::unavailable(format!(
            "no answer came within {seconds} seconds"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    /// To create it again would run its query again, which may return other rows.
    #[tokio::test]
    async fn tables_in_memory_are_not_recreated() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let parsed = |sql: &str| {
            let raw = Script::new("t", sql).split().unwrap().remove(0);
            parse_statement(&raw).unwrap()
        };
        let limit = Duration::from_secs(60);
        let made = session.restore(parsed("CREATE TABLE t AS SELECT random() AS r"), limit);
        let refused = made.await.unwrap_err();
        assert!(refused.message().contains("made it in memory"), "{refused}");
        assert!(!session.is_run_again("t"));
        assert!(session.open_again("t", limit).await.is_err());
        let used = session.collect(parsed("SELECT * FROM t")).await;
        let used = used.unwrap_err();
        assert!(used.message().contains("t cannot be opened"), "{used}");
        assert!(used.message().contains("made it in memory"), "{used}");
        session.execute(parsed("DROP TABLE t")).await.unwrap();
        assert_eq!(session.table_names(), [] as [String; 0]);
    }
}
