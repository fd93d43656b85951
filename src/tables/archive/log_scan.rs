//! The archive's part of a range that a batch of a job reads: records in the order of a partition's log, before those of the topic.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::error::{Error, ErrorKind, Result, Subject};
use crate::tables::archive::pinned::PinnedArchive;
use crate::tables::archive::reading::ArchiveRead;
use crate::tables::kafka::{ArchivedReader, EarlierRecords, EarlierRows, EarlierScan, OffsetRange};
use crate::tables::side_output::OpenOutlet;
use crate::tables::time::BatchTime;

/// Rows of one partition of the topic, in the order of their offsets.
struct LogScan {
    range: OffsetRange,
    read: ArchiveRead,
    plan: Arc<dyn ExecutionPlan>,
    /// The version of the archive.
    version: u64,
}

impl fmt::Debug for LogScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogScan")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

impl EarlierRecords for PinnedArchive {
    fn scan<'a>(
        &'a self,
        session: &'a dyn Session,
        range: OffsetRange,
        projection: &'a [usize],
        schema: &'a SchemaRef,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn EarlierScan>>> {
        async move {
            let read = ArchiveRead::try_new(
                Arc::clone(self.table()),
                self.mapping().clone(),
                projection.to_vec(),
                Arc::clone(schema),
                (true, false),
            )?;
            let plan = self.log_rows(session, read.columns.indices(), &[range]);
            let plan = plan.await?;
            let version = self.version();
            let scan = LogScan {
                range,
                read,
                plan,
                version,
            };
            Ok(Arc::new(scan) as Arc<dyn EarlierScan>)
        }
        .boxed()
    }
}

impl EarlierScan for LogScan {
    fn execute(&self, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        execute_stream(Arc::clone(&self.plan), context)
    }

    fn reader(&self, outlet: OpenOutlet, time: Option<&BatchTime>) -> Result<ArchivedReader> {
        let output = self.read.output(outlet);
        ArchivedReader::of_partition(output, self.range.partition, time)
    }

    fn read(&self, rows: &RecordBatch, reader: &mut ArchivedReader) -> Result<EarlierRows> {
        let records = self.read.records(rows)?;
        Ok(EarlierRows {
            rows: self.read.read(reader, rows, &records)?,
            offsets: records.offsets.clone(),
            bytes: records.bytes(),
        })
    }

    fn failed(&self, error: DataFusionError) -> Error {
        let error = Error::from(error);
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        // The next batch is planned over the newest version, which has the same records.
        let archive = self.read.mapping.archive();
        Error::unavailable(format!(
            "a file of version {} of archive {archive} is gone: {}",
            self.version,
            error.message()
        ))
        .about(Subject::table(archive))
        .with_help("VACUUM deleted it while it was read; if the newest version needs it, RESTORE the archive or its files")
    }

    fn duplicate(&self, offset: i64) -> Error {
        self.read.duplicate(self.range.partition, offset)
    }
}
