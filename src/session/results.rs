//! Results of a statement: planned, running, or done with a message.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray as _, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt as _;

use crate::error::{Error, Result};

/// The result of a statement.
pub enum StatementOutcome {
    /// Rows, as a stream.
    Rows(StatementExecution),
    /// A running INSERT, DELETE, UPDATE or MERGE: its stream has one row with one count.
    Insert(StatementExecution),
    /// The statement is done; with a message for the user.
    Done(String),
}

/// A planned statement; its rows come once it is started.
#[derive(Clone)]
pub struct Planned {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    pub(super) task: Arc<TaskContext>,
    pub(super) answer: Option<PlannedRows>,
    /// An argument has no value: the plan has the statement's columns, and does not run.
    pub(super) is_left_open: bool,
}

/// The rows of a statement, if planning already computed them.
#[derive(Clone)]
pub(crate) struct PlannedRows {
    pub(crate) rows: RecordBatch,
    /// Whether the same text gives these rows to every user at any time.
    pub(crate) is_always: bool,
}

impl Planned {
    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    /// Its rows, if planning already computed them.
    pub(crate) fn answer(&self) -> Option<&PlannedRows> {
        self.answer.as_ref()
    }

    /// Whether it has the statement's columns alone: to run, the statement is planned again.
    pub(crate) fn is_left_open(&self) -> bool {
        self.is_left_open
    }
}

/// The result of planning a statement.
pub enum PlannedStatement {
    /// Rows, once the statement is started.
    Rows(Planned),
    /// A statement that writes rows, as in [`StatementOutcome::Insert`].
    Insert(Planned),
    /// A statement without rows, already run; with a message for the user.
    Done(String),
}

impl PlannedStatement {
    /// The plan of a statement that returns rows.
    ///
    /// # Errors
    /// The statement returns no rows.
    pub fn planned(self) -> Result<Planned> {
        match self {
            PlannedStatement::Rows(planned) | PlannedStatement::Insert(planned) => Ok(planned),
            PlannedStatement::Done(_) => Err(Error::internal("the statement has no rows")),
        }
    }
}

/// A running statement.
pub struct StatementExecution {
    /// The rows.
    pub stream: SendableRecordBatchStream,
    /// The plan, whose metrics grow while the stream is read.
    pub plan: Arc<dyn ExecutionPlan>,
}

impl StatementExecution {
    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// Runs it to its end; returns all rows as one batch.
    ///
    /// # Errors
    /// The errors of the statement.
    pub(crate) async fn rows(self) -> Result<RecordBatch> {
        let schema = self.schema();
        let batches = datafusion::physical_plan::common::collect(self.stream).await?;
        let batch = concat_batches(&schema, &batches);
        batch.map_err(|error| Error::internal(error.to_string()))
    }

    /// Runs an INSERT to its end; returns the number of rows written.
    ///
    /// # Errors
    /// The errors of the statement.
    pub async fn written(mut self) -> Result<u64> {
        let mut rows = 0;
        while let Some(batch) = self.stream.next().await {
            let batch = batch?;
            if let Some(counts) = batch.column(0).as_primitive_opt::<UInt64Type>() {
                rows += counts.values().iter().sum::<u64>();
            }
        }
        Ok(rows)
    }
}
