//! Scan of a table in the schema `system`: it reads, at execution, the jobs and batches that the statement asks for, and no
//! others.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session as CatalogSession, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;

use crate::session::system::{empty_of, rows_of};

/// The jobs and batches that a statement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Names of jobs; `None`: all jobs.
    pub(crate) jobs: Option<BTreeSet<String>>,
    /// Numbers of batches.
    pub(crate) batches: RangeInclusive<u64>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            jobs: None,
            batches: 0..=u64::MAX,
        }
    }
}

impl Wanted {
    /// The jobs and batches that can pass all of these filters.
    fn by(filters: &[Expr]) -> Self {
        let mut wanted = Self::default();
        for filter in filters {
            wanted.narrow(filter);
        }
        wanted
    }

    /// Restricts the selection by a filter; returns whether the filter was used.
    fn narrow(&mut self, filter: &Expr) -> bool {
        match filter {
            Expr::BinaryExpr(both) if both.op == Operator::And => {
                let left = self.narrow(&both.left);
                self.narrow(&both.right) || left
            }
            Expr::BinaryExpr(both) => {
                let (column, op, value) = match (plain(&both.left), plain(&both.right)) {
                    (Expr::Column(column), Expr::Literal(value, _)) => (column, both.op, value),
                    (Expr::Literal(value, _), Expr::Column(column)) => {
                        let Some(op) = both.op.swap() else {
                            return false;
                        };
                        (column, op, value)
                    }
                    _ => return false,
                };
                match column.name.as_str() {
                    "job" if op == Operator::Eq => self.keep_jobs([value].into_iter()),
                    "batch" => self.keep_batches(op, value),
                    _ => false,
                }
            }
            Expr::InList(list) if !list.negated => {
                let is_job =
                    matches!(plain(&list.expr), Expr::Column(column) if column.name == "job");
                let values = list.list.iter().map(|value| match plain(value) {
                    Expr::Literal(value, _) => Some(value),
                    _ => None,
                });
                match values.collect::<Option<Vec<_>>>() {
                    Some(values) if is_job => self.keep_jobs(values.into_iter()),
                    _ => false,
                }
            }
            Expr::Between(between) if !between.negated => {
                let is_batch =
                    matches!(plain(&between.expr), Expr::Column(column) if column.name == "batch");
                match (plain(&between.low), plain(&between.high)) {
                    (Expr::Literal(low, _), Expr::Literal(high, _)) if is_batch => {
                        let low = self.keep_batches(Operator::GtEq, low);
                        self.keep_batches(Operator::LtEq, high) || low
                    }
                    _ => false,
                }
            }
            _ => false,
        }
    }

    fn keep_jobs<'v>(&mut self, values: impl Iterator<Item = &'v ScalarValue>) -> bool {
        let Some(names) = values
            .map(ScalarValue::try_as_str)
            .collect::<Option<Vec<_>>>()
        else {
            return false;
        };
        // NULL is not a name: no job passes.
        let names: BTreeSet<String> = names.into_iter().flatten().map(str::to_owned).collect();
        self.jobs = Some(match self.jobs.take() {
            Some(jobs) => jobs.intersection(&names).cloned().collect(),
            None => names,
        });
        true
    }

    fn keep_batches(&mut self, op: Operator, value: &ScalarValue) -> bool {
        let ScalarValue::Int64(Some(number)) = value else {
            return false;
        };
        let (number, is_below) = (u64::try_from(*number).unwrap_or(0), *number < 0);
        let (low, high) = (*self.batches.start(), *self.batches.end());
        let (from, to) = match op {
            Operator::Eq if !is_below => (number, number),
            Operator::GtEq => (number, u64::MAX),
            Operator::Gt if is_below => (0, u64::MAX),
            Operator::Gt => (number.saturating_add(1), u64::MAX),
            Operator::LtEq if !is_below => (0, number),
            Operator::Lt if !is_below => (0, number),
            _ => return false,
        };
        self.batches = low.max(from)..=high.min(to);
        true
    }
}

/// The expression below casts that change no text and no number: those of string types, and of numbers to a wider one.
fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) if matches!(cast.expr.as_ref(), Expr::Column(column) if column.name == "job") => {
            &cast.expr
        }
        other => other,
    }
}

/// One of these tables.
#[derive(Debug)]
pub(crate) struct SystemTable {
    name: &'static str,
    data_dir: String,
    schema: SchemaRef,
}

impl SystemTable {
    pub(crate) fn try_new(name: &'static str, data_dir: &str) -> crate::error::Result<Self> {
        Ok(Self {
            name,
            data_dir: data_dir.to_owned(),
            schema: empty_of(name)?.schema(),
        })
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        // The scan leaves out whole jobs and batches only: the filter also stays above it.
        let narrows = |filter: &&Expr| match Wanted::default().narrow(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(narrows).collect())
    }

    async fn scan(
        &self,
        _: &dyn CatalogSession,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let wanted = Wanted::by(filters);
        let rows: BoxFuture<'_, _> = Box::pin(rows_of(&self.data_dir, self.name, &wanted));
        let rows = rows.await?;
        let plan = MemorySourceConfig::try_new_exec(
            &[vec![rows]],
            Arc::clone(&self.schema),
            projection.cloned(),
        )?;
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;
    use crate::core::jobs::{BatchVersion, Entry};
    use crate::session::system::rows_in;
    use crate::store::simulated::{Faults, Reads, SimulatedDisk};
    use crate::store::{JobId, JobStore};

    fn jobs(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn names_and_numbers_narrow_what_is_read() {
        let wanted = Wanted::by(&[col("job").eq(lit("a")), col("batch").gt(lit(4_i64))]);
        assert_eq!((wanted.jobs, wanted.batches), (jobs(&["a"]), 5..=u64::MAX));
        let both = col("batch")
            .gt_eq(lit(3_i64))
            .and(lit(9_i64).gt_eq(col("batch")));
        assert_eq!(Wanted::by(&[both]).batches, 3..=9);
        let between = col("batch").between(lit(3_i64), lit(9_i64));
        assert_eq!(Wanted::by(&[between]).batches, 3..=9);
        let list = col("job").in_list(vec![lit("a"), lit("b")], false);
        let wanted = Wanted::by(&[list, lit("b").eq(col("job"))]);
        assert_eq!(wanted.jobs, jobs(&["b"]));
        let null = col("job").eq(lit(ScalarValue::Utf8(None)));
        assert_eq!(Wanted::by(&[null]).jobs, jobs(&[]));
        let negative = Wanted::by(&[col("batch").gt(lit(-1_i64))]);
        assert_eq!(negative.batches, 0..=u64::MAX);
    }

    #[test]
    fn what_says_nothing_of_jobs_and_batches_narrows_nothing() {
        for filter in [
            col("job").not_eq(lit("a")),
            col("job").eq(lit("a")).or(col("batch").eq(lit(1_i64))),
            col("state").eq(lit("FAILED")),
            col("job").in_list(vec![lit("a")], true),
            col("batch").eq(lit(-1_i64)),
            col("batch").lt(col("generation")),
            col("job").eq(lit(5_i64)),
        ] {
            assert_eq!(Wanted::by(std::slice::from_ref(&filter)), Wanted::default());
            assert!(!Wanted::default().narrow(&filter), "{filter}");
        }
    }

    /// A job with this many batches.
    async fn job(store: &JobStore, name: &str, batches: u64) -> JobId {
        let created = Entry::Created {
            name: name.to_owned(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let id = store.create(&created, name).await.unwrap().unwrap();
        for number in 1..=batches {
            let version = BatchVersion {
                batch: number,
                sequence: number,
                ..BatchVersion::default()
            };
            let name = format!("{number:010}-v");
            store.stage(id, &name, &version).await.unwrap();
            let committed = Entry::Committed {
                batch: number,
                version: name,
                at: 0,
            };
            assert!(store.append(id, number, &committed).await.unwrap());
        }
        id
    }

    /// The scan does not read jobs and batches that the statement does not ask for, and reads the state of a job without its
    /// batches.
    #[tokio::test]
    async fn what_is_not_asked_for_is_not_read() {
        const JOBS: usize = 30;
        const BATCHES: u64 = 20;
        let reads = Arc::new(Reads::default());
        let dir = SimulatedDisk::default().seen_with(Arc::clone(&reads) as Arc<dyn Faults>);
        let store = JobStore::new(dir);
        let mut ids = Vec::new();
        for number in 0..JOBS {
            ids.push(job(&store, &format!("j{number}"), BATCHES).await);
        }
        let versions = |read: &[String]| -> Vec<String> {
            let versions = read.iter().filter(|path| path.contains("/versions/"));
            versions.cloned().collect()
        };
        reads.take();
        // SHOW JOBS, and system.jobs.
        let all = Wanted::default();
        assert_eq!(
            rows_in(&store, "jobs", &all).await.unwrap().num_rows(),
            JOBS
        );
        assert_eq!(versions(&reads.take()), Vec::<String>::new());
        // The last batch of each job tells the partitions of the job.
        rows_in(&store, "partitions", &all).await.unwrap();
        let last = format!("{BATCHES:010}-v.json");
        let read = versions(&reads.take());
        assert_eq!(read.len(), JOBS);
        assert!(read.iter().all(|path| path.ends_with(&last)), "{read:?}");
        // One batch of one job.
        let one = Wanted::by(&[col("job").eq(lit("j7")), col("batch").eq(lit(3_i64))]);
        for (table, rows) in [("batches", 1), ("dead_letters", 0), ("late_rows", 0)] {
            let found = rows_in(&store, table, &one).await.unwrap();
            assert_eq!(found.num_rows(), rows, "{table}");
            let read = reads.take();
            let of_job = |path: &String| {
                path == "jobs/names/j7" || path.starts_with(&format!("jobs/{}/", ids[7]))
            };
            assert!(read.iter().all(of_job), "{read:?}");
            let version = format!("jobs/{}/versions/0000000003-v.json", ids[7]);
            assert_eq!(versions(&read), [version], "{table}");
        }
    }
}
