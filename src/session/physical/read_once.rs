//! Left sides of nested-loop joins that cannot be read twice (SAFE-1).
//!
//! When such a join runs short of memory while it collects its left side, the engine executes that side again, writes it to disk,
//! and joins a part of it at a time. This fails for some plans. An operator that shares its state among executions has given its
//! rows to the first one: `RepartitionExec` panics, and a join counts its partitions once only. A scan of a topic that has a dead
//! letter table would set the same records aside again. And where the join gives each row of the left side once, as a LEFT JOIN
//! gives rows without a match, each of several partitions of the right side would give it. All of these say that memory has run
//! short.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_udfs::{only_child, passes_rows_on};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{JoinType, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec,
};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, replace_children_if_necessary,
};

use crate::tables::archive::ArchiveScanExec;
use crate::tables::kafka::KafkaScanExec;

/// Message for a join that has begun to read its left side again.
const AGAIN: &str = "a join without an equality does not fit into memory, and what it joins cannot be read a second time";

/// Puts [`OnceExec`] below each nested-loop join whose left side cannot be read twice. It runs after the engine's rules.
#[derive(Debug)]
pub(crate) struct ReadOnce;

impl PhysicalOptimizerRule for ReadOnce {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let once = plan.transform_up(|plan| {
            let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() else {
                return Ok(Transformed::no(plan));
            };
            if join.left().is::<OnceExec>() || !(shares_state(join.left()) || repeats(join)) {
                return Ok(Transformed::no(plan));
            }
            let left: Arc<dyn ExecutionPlan> = Arc::new(OnceExec::new(Arc::clone(join.left())));
            let children = vec![left, Arc::clone(join.right())];
            Ok(Transformed::yes(replace_children_if_necessary(
                plan, children,
            )?))
        })?;
        Ok(once.data)
    }

    fn name(&self) -> &'static str {
        "read_once"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether a part of the plan cannot be executed a second time.
fn shares_state(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<RepartitionExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<PiecewiseMergeJoinExec>()
        || plan
            .downcast_ref::<KafkaScanExec>()
            .is_some_and(KafkaScanExec::sets_aside)
        || plan
            .downcast_ref::<ArchiveScanExec>()
            .is_some_and(ArchiveScanExec::sets_aside)
        || plan.children().into_iter().any(shares_state)
}

/// Whether each of several partitions would give a row of the left side that the join gives once.
fn repeats(join: &NestedLoopJoinExec) -> bool {
    let gives_left_once = matches!(
        join.join_type(),
        JoinType::Left
            | JoinType::LeftSemi
            | JoinType::LeftAnti
            | JoinType::LeftMark
            | JoinType::Full
    );
    let right = join.right().properties();
    gives_left_once && right.output_partitioning().partition_count() > 1
}

/// Passes on the rows of its input, which is executed once.
#[derive(Debug)]
struct OnceExec {
    input: Arc<dyn ExecutionPlan>,
    /// By partition, whether it was executed.
    begun: Vec<AtomicBool>,
}

impl OnceExec {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        Self {
            input,
            begun: (0..partitions).map(|_| AtomicBool::new(false)).collect(),
        }
    }
}

impl DisplayAs for OnceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnceExec")
    }
}

impl ExecutionPlan for OnceExec {
    passes_rows_on!("OnceExec");

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(only_child("OnceExec", children)?)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(begun) = self.begun.get(partition) else {
            return internal_err!("OnceExec has no partition {partition}");
        };
        if begun.swap(true, Ordering::Relaxed) {
            return Err(DataFusionError::ResourcesExhausted(AGAIN.to_owned()));
        }
        self.input.execute(partition, context)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::physical_plan::{Partitioning, collect};

    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::planner::{Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    /// Three rows in each of so many partitions.
    fn rows(partitions: usize) -> Arc<dyn ExecutionPlan> {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let rows = RecordBatch::try_from_iter([("v", column)]).unwrap();
        let schema = rows.schema();
        let partitions = vec![vec![rows]; partitions];
        MemorySourceConfig::try_new_exec(&partitions, schema, None).unwrap()
    }

    /// The same rows, from an operator that gives them to its first execution.
    fn repartitioned() -> Arc<dyn ExecutionPlan> {
        let parts = RepartitionExec::try_new(rows(1), Partitioning::RoundRobinBatch(2)).unwrap();
        Arc::new(CoalescePartitionsExec::new(Arc::new(parts)))
    }

    /// The join of all rows, as the rule leaves it.
    fn joined(
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
        kind: JoinType,
    ) -> Arc<dyn ExecutionPlan> {
        let join = NestedLoopJoinExec::try_new(left, right, None, &kind, None).unwrap();
        let options = ConfigOptions::default();
        ReadOnce.optimize(Arc::new(join), &options).unwrap()
    }

    fn is_read_once(plan: &Arc<dyn ExecutionPlan>) -> bool {
        plan.children()[0].is::<OnceExec>()
    }

    /// What a plan says that has no memory.
    async fn fails(plan: Arc<dyn ExecutionPlan>) -> Error {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(1)))
            .build_arc()
            .unwrap();
        let context = Arc::new(TaskContext::default().with_runtime(runtime));
        collect(plan, context).await.unwrap_err().into()
    }

    #[tokio::test]
    async fn safe_1_a_side_that_cannot_be_read_twice_says_that_memory_is_short() {
        for (left, right, kind) in [
            // The operator below would panic.
            (repartitioned(), rows(1), JoinType::Inner),
            // Each partition of the right side would give the rows that it has no match for.
            (rows(1), rows(2), JoinType::Left),
            (rows(1), rows(2), JoinType::LeftSemi),
        ] {
            let plan = joined(left, right, kind);
            assert!(is_read_once(&plan), "{kind}");
            let error = fails(plan).await;
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{kind}: {error}");
            assert_eq!(error.message(), AGAIN, "{kind}");
        }
    }

    #[test]
    fn a_side_that_can_be_read_twice_may_go_to_disk() {
        for (right, kind) in [(rows(2), JoinType::Inner), (rows(1), JoinType::Left)] {
            let plan = joined(rows(1), right, kind);
            assert!(!is_read_once(&plan), "{kind}");
        }
    }

    #[test]
    fn the_rule_changes_a_plan_once() {
        let plan = joined(repartitioned(), rows(1), JoinType::Inner);
        let again = ReadOnce.optimize(plan, &ConfigOptions::default()).unwrap();
        assert!(is_read_once(&again));
        assert!(!again.children()[0].children()[0].is::<OnceExec>());
    }

    #[tokio::test]
    async fn sessions_have_the_rule() {
        let options = SessionOptions {
            target_partitions: Some(2),
            ..SessionOptions::default()
        };
        let session = Session::try_new(&options).unwrap();
        // Groups of rows in two partitions are repartitioned by their keys.
        let groups = "(SELECT value AS v, count(*) FROM (
            SELECT value FROM generate_series(1, 100) UNION ALL SELECT value FROM generate_series(1, 100)) GROUP BY value)";
        let sql = format!("EXPLAIN SELECT * FROM {groups} AS a JOIN {groups} AS b ON a.v <> b.v");
        let raw = Script::new("test", &sql).split().unwrap().remove(0);
        let rows = session.collect(parse_statement(&raw).unwrap()).await;
        let shown = pretty_format_batches(&rows.unwrap()).unwrap().to_string();
        assert!(shown.contains("OnceExec"), "{shown}");
    }
}
