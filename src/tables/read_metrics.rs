//! How much a plan has read, by metrics of its scans: every engine that runs a plan brings them back.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricValue;

/// The metric of a scan: records that it has read so far, those that it set aside included.
pub const RECORDS_READ: &str = "records_scanned";
/// The metric of a scan that has [`RECORDS_READ`]: bytes of these records, or of the files that they are in.
pub const BYTES_READ: &str = "bytes_scanned";
/// The metric of a scan: how many records it reads at most. It is known when the plan is made.
pub const RECORDS_PLANNED: &str = "records_planned";

/// Records that the scans of a plan have read so far, and their bytes. What such a scan itself runs is not looked at.
pub fn read(plan: &Arc<dyn ExecutionPlan>) -> (u64, u64) {
    if let Some(records) = counted(plan, RECORDS_READ) {
        return (records, counted(plan, BYTES_READ).unwrap_or(0));
    }
    let children = plan.children().into_iter().map(read);
    children.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

/// How many records the scans of a plan read at most; none where a scan does not say.
pub fn planned(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    if let Some(records) = counted(plan, RECORDS_PLANNED) {
        return Some(records);
    }
    let children = plan.children();
    if children.is_empty() {
        return None;
    }
    children.into_iter().map(planned).sum()
}

/// Rows that the leaves of a plan have given so far.
pub fn rows_of_leaves(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let children = plan.children();
    if !children.is_empty() {
        return children.into_iter().map(rows_of_leaves).sum();
    }
    let Some(metrics) = plan.metrics() else {
        return 0;
    };
    let rows = metrics.iter().filter_map(|metric| match metric.value() {
        MetricValue::OutputRows(rows) => Some(rows.value() as u64),
        _ => None,
    });
    rows.sum()
}

fn counted(plan: &Arc<dyn ExecutionPlan>, name: &str) -> Option<u64> {
    let value = plan.metrics()?.sum_by_name(name)?;
    Some(value.as_usize() as u64)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::common::tree_node::TreeNodeRecursion;
    use datafusion::error::Result;
    use datafusion::execution::{SendableRecordBatchStream, TaskContext};
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
    use datafusion::physical_plan::union::UnionExec;
    use datafusion::physical_plan::{DisplayAs, DisplayFormatType, PhysicalExpr, PlanProperties};

    use super::*;

    /// A scan over another one, with the metrics it is given.
    #[derive(Debug)]
    struct MeasuredScan {
        input: Arc<dyn ExecutionPlan>,
        metrics: ExecutionPlanMetricsSet,
    }

    impl MeasuredScan {
        fn with(
            counts: &[(&'static str, usize)],
            input: Arc<dyn ExecutionPlan>,
        ) -> Arc<dyn ExecutionPlan> {
            let metrics = ExecutionPlanMetricsSet::new();
            for (name, count) in counts {
                for partition in 0..2 {
                    MetricBuilder::new(&metrics)
                        .counter(*name, partition)
                        .add(*count);
                }
            }
            Arc::new(Self { input, metrics })
        }
    }

    impl DisplayAs for MeasuredScan {
        fn fmt_as(
            &self,
            _: DisplayFormatType,
            f: &mut std::fmt::Formatter<'_>,
        ) -> std::fmt::Result {
            write!(f, "Scan")
        }
    }

    impl ExecutionPlan for MeasuredScan {
        fn name(&self) -> &'static str {
            "Scan"
        }

        fn properties(&self) -> &Arc<PlanProperties> {
            self.input.properties()
        }

        fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
            vec![&self.input]
        }

        fn apply_expressions(
            &self,
            _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
        ) -> Result<TreeNodeRecursion> {
            Ok(TreeNodeRecursion::Continue)
        }

        fn with_new_children(
            self: Arc<Self>,
            _: Vec<Arc<dyn ExecutionPlan>>,
        ) -> Result<Arc<dyn ExecutionPlan>> {
            Ok(self)
        }

        fn execute(
            &self,
            partition: usize,
            context: Arc<TaskContext>,
        ) -> Result<SendableRecordBatchStream> {
            self.input.execute(partition, context)
        }

        fn metrics(&self) -> Option<MetricsSet> {
            Some(self.metrics.clone_inner())
        }
    }

    fn nothing() -> Arc<dyn ExecutionPlan> {
        Arc::new(EmptyExec::new(Arc::new(Schema::empty())))
    }

    #[test]
    fn scans_are_counted_without_their_inner_plans() {
        // The reader of files below a scan counts bytes as well.
        let files = MeasuredScan::with(&[(BYTES_READ, 1_000)], nothing());
        let of_files = MeasuredScan::with(&[(RECORDS_READ, 3), (BYTES_READ, 50)], files);
        let of_topic = MeasuredScan::with(&[(RECORDS_READ, 4), (RECORDS_PLANNED, 10)], nothing());
        assert_eq!(read(&of_files), (6, 100));
        assert_eq!((planned(&of_files), planned(&of_topic)), (None, Some(20)));
        let both = UnionExec::try_new(vec![of_files, Arc::clone(&of_topic)]).unwrap();
        assert_eq!(read(&both), (14, 100));
        assert_eq!(planned(&both), None, "one of them does not say");
        let twice = UnionExec::try_new(vec![Arc::clone(&of_topic), of_topic]).unwrap();
        assert_eq!(planned(&twice), Some(40));
    }
}
