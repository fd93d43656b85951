//! `LogScanExec`, an operator above scans that the log of a Delta table answers: they read no column of its files and know how many
//! rows each has.
//!
//! The library's scan of this kind says that a LIMIT may be pushed down to it, and then gives all rows. Above this operator the
//! LIMIT stays.

use std::fmt;
use std::sync::Arc;

use anabranch_udfs::{only_child, passes_rows_on};
use datafusion::common::{Statistics, internal_err};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{
    ChildStats, DisplayAs, DisplayFormatType, ExecutionPlan, StatisticsArgs,
};

const NAME: &str = "LogScanExec";

/// The name of the library's operator, whose type is private.
const OF_LIBRARY: &str = "DeltaScanMetaExec";

/// Gives the rows of its input, and takes no LIMIT.
#[derive(Debug)]
pub(super) struct LogScanExec {
    input: Arc<dyn ExecutionPlan>,
}

impl LogScanExec {
    /// The scan, below this operator if the log answers it.
    pub(super) fn over(scan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        match scan.name() {
            OF_LIBRARY => Arc::new(Self { input: scan }),
            _ => scan,
        }
    }
}

impl DisplayAs for LogScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

impl ExecutionPlan for LogScanExec {
    passes_rows_on!("LogScanExec");

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child(NAME, children)?;
        Ok(Arc::new(Self { input }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    /// Those of the input: count(*) is answered by them.
    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        match inputs {
            [input] => Ok(Arc::clone(input)),
            _ => internal_err!("{NAME} has one child"),
        }
    }
}
