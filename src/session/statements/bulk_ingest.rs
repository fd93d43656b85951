//! Rows sent by a client, as a table that can be read once.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;

use crate::error::{Error, Result};
use crate::session::sessions::Session;

impl Session {
    /// Adds a stream of rows as a table of the session that can be read once.
    ///
    /// # Errors
    /// The name is taken.
    pub fn register_stream(&self, name: &str, rows: SendableRecordBatchStream) -> Result<()> {
        let schema = rows.schema();
        let once = OneShotTable {
            schema: Arc::clone(&schema),
            rows: Mutex::new(Some(rows)),
        };
        let table = StreamingTable::try_new(schema, vec![Arc::new(once)])?;
        self.context.register_table(name, Arc::new(table))?;
        Ok(())
    }
}

/// Returns its rows to the first scan.
struct OneShotTable {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl std::fmt::Debug for OneShotTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

impl PartitionStream for OneShotTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.take().unwrap_or_else(|| {
            let again: DataFusionError = Error::internal("the rows were read already").into();
            let again = futures::stream::iter([Err(again)]);
            Box::pin(RecordBatchStreamAdapter::new(
                Arc::clone(&self.schema),
                again,
            ))
        })
    }
}
