//! Scans of streams in the plan of a batch: which operators they are, and what each is to report.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;

use crate::tables::delta::stream_expected;
use crate::tables::kafka::KafkaScanExec;
use crate::tables::side_output::ExpectedReport;
#[cfg(test)]
use crate::tables::test_scan::TestScanExec;

/// What this operator reports when it has run as a part of a batch; none of an operator that is no scan of a stream.
pub fn scan_expected(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<ExpectedReport>> {
    if let Some(scan) = plan.downcast_ref::<KafkaScanExec>() {
        return Some(scan.expected());
    }
    #[cfg(test)]
    if let Some(scan) = plan.downcast_ref::<TestScanExec>() {
        return Some(scan.expected().to_vec());
    }
    stream_expected(plan)
}
