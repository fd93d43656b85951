//! Sink of a job: the table that its INSERT names.

use std::sync::Arc;

use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{Statement as AnsiStatement, TableObject};

use crate::error::{Error, Result, Subject};
use crate::session::catalog::TableEntry;
use crate::session::{Session, rewrite};
use crate::tables::delta::DeltaTableHandle;
use crate::tables::kafka::KafkaTable;

/// The sink of a job.
#[derive(Debug, Clone)]
pub enum JobSinkTable {
    /// A topic.
    Kafka(Arc<KafkaTable>),
    /// A Delta table.
    Delta(DeltaTableHandle),
    /// The client of a subscription.
    Subscriber,
}

impl JobSinkTable {
    /// The columns of the upsert key, by which a row can be withdrawn; none of a table that is appended to.
    pub fn primary_key(&self) -> &[usize] {
        match self {
            JobSinkTable::Kafka(table) => table.primary_key(),
            JobSinkTable::Delta(handle) => handle.primary_key(),
            JobSinkTable::Subscriber => &[],
        }
    }

    /// Whether it is a Delta table into which rows are merged by their key.
    pub(super) fn merges(&self) -> bool {
        matches!(self, JobSinkTable::Delta(handle) if !handle.primary_key().is_empty())
    }
}

impl Session {
    /// The table that a job writes to.
    ///
    /// # Errors
    ///
    /// No table has that name, it cannot be opened, or a job cannot write to it.
    pub(crate) async fn sink_of(&self, insert: &SqlStatement) -> Result<JobSinkTable> {
        let name = sink_name(insert)?;
        match self.catalog.open(&name).await? {
            TableEntry::Kafka(table) => Ok(JobSinkTable::Kafka(table)),
            TableEntry::Delta { handle, .. } => {
                let checked = handle.check_upserts().await;
                checked.map_err(|error| error.about(Subject::table(name)))?;
                Ok(JobSinkTable::Delta(handle))
            }
            other => Err(Error::unsupported(format!(
                "{name} is a {}, and a job writes Kafka or Delta tables",
                other.kind_name()
            ))
            .about(Subject::table(name))),
        }
    }
}

/// The name of that table.
///
/// # Errors
///
/// The statement is no INSERT into a table.
pub(super) fn sink_name(insert: &SqlStatement) -> Result<String> {
    if let SqlStatement::Statement(ansi) = insert
        && let AnsiStatement::Insert(insert) = ansi.as_ref()
        && let TableObject::TableName(name) = &insert.table
    {
        if insert.overwrite {
            return Err(Error::unsupported("a job cannot overwrite a table")
                .with_help("a job is an INSERT INTO … SELECT …"));
        }
        return rewrite::plain_name(name);
    }
    Err(Error::invalid("a job is an INSERT INTO … SELECT …"))
}

/// Error for a job or subscription that would read its own rows.
pub(crate) fn reads_own_sink(same: impl std::fmt::Display, table: &str) -> Error {
    Error::invalid(format!(
        "the job reads and writes {same}: {table} would never be read to its end"
    ))
}
