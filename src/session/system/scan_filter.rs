//! The jobs, batches, runs and changes that a statement over the schema `system` asks for, by its filters.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator};

/// The jobs, batches, runs and changes that a statement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanFilter {
    /// Names of jobs; `None`: all jobs.
    pub(crate) jobs: Option<BTreeSet<String>>,
    /// Ids of runs; `None`: all runs.
    pub(crate) runs: Option<BTreeSet<String>>,
    /// Kinds of changes; `None`: all kinds.
    pub(crate) kinds: Option<BTreeSet<String>>,
    /// Numbers of batches.
    pub(crate) batches: RangeInclusive<u64>,
    /// Whether a row is to say which run has repaired it: for that, the runs are read.
    pub(crate) repairs: bool,
}

impl Default for ScanFilter {
    fn default() -> Self {
        Self {
            jobs: None,
            runs: None,
            kinds: None,
            batches: 0..=u64::MAX,
            repairs: true,
        }
    }
}

impl ScanFilter {
    /// The jobs, batches and runs that can pass all of these filters.
    pub(super) fn by(filters: &[Expr]) -> Self {
        let mut wanted = Self::default();
        for filter in filters {
            wanted.narrow(filter);
        }
        wanted
    }

    /// Restricts the selection by a filter; returns whether the filter was used.
    pub(super) fn narrow(&mut self, filter: &Expr) -> bool {
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
                    "job" if op == Operator::Eq => keep(&mut self.jobs, [value].into_iter()),
                    "run_id" if op == Operator::Eq => keep(&mut self.runs, [value].into_iter()),
                    "kind" if op == Operator::Eq => keep(&mut self.kinds, [value].into_iter()),
                    "batch" => self.keep_batches(op, value),
                    _ => false,
                }
            }
            Expr::InList(list) if !list.negated => {
                let names = match plain(&list.expr) {
                    Expr::Column(column) if column.name == "job" => &mut self.jobs,
                    Expr::Column(column) if column.name == "run_id" => &mut self.runs,
                    Expr::Column(column) if column.name == "kind" => &mut self.kinds,
                    _ => return false,
                };
                let values = list.list.iter().map(|value| match plain(value) {
                    Expr::Literal(value, _) => Some(value),
                    _ => None,
                });
                match values.collect::<Option<Vec<_>>>() {
                    Some(values) => keep(names, values.into_iter()),
                    None => false,
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

/// Leaves of the names only those that are one of these values; returns whether all of them are text.
fn keep<'v>(
    names: &mut Option<BTreeSet<String>>,
    values: impl Iterator<Item = &'v ScalarValue>,
) -> bool {
    let Some(values) = values
        .map(ScalarValue::try_as_str)
        .collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    // NULL is not a name: no job passes.
    let values: BTreeSet<String> = values.into_iter().flatten().map(str::to_owned).collect();
    *names = Some(match names.take() {
        Some(names) => names.intersection(&values).cloned().collect(),
        None => values,
    });
    true
}

/// The expression below casts that change no text and no number: those of string types, and of numbers to a wider one.
fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) if matches!(cast.expr.as_ref(), Expr::Column(column) if matches!(column.name.as_str(), "job" | "run_id" | "kind")) => {
            &cast.expr
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    fn jobs(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn predicates_on_job_and_batch_narrow_the_scan() {
        let wanted = ScanFilter::by(&[col("job").eq(lit("a")), col("batch").gt(lit(4_i64))]);
        assert_eq!((wanted.jobs, wanted.batches), (jobs(&["a"]), 5..=u64::MAX));
        let both = col("batch")
            .gt_eq(lit(3_i64))
            .and(lit(9_i64).gt_eq(col("batch")));
        assert_eq!(ScanFilter::by(&[both]).batches, 3..=9);
        let between = col("batch").between(lit(3_i64), lit(9_i64));
        assert_eq!(ScanFilter::by(&[between]).batches, 3..=9);
        let list = col("job").in_list(vec![lit("a"), lit("b")], false);
        let wanted = ScanFilter::by(&[list, lit("b").eq(col("job"))]);
        assert_eq!(wanted.jobs, jobs(&["b"]));
        let wanted = ScanFilter::by(&[col("run_id").eq(lit("r")), col("job").eq(lit("a"))]);
        assert_eq!((wanted.runs, wanted.jobs), (jobs(&["r"]), jobs(&["a"])));
        let list = col("run_id").in_list(vec![lit("r"), lit("s")], false);
        let wanted = ScanFilter::by(&[list]);
        assert_eq!((wanted.runs, wanted.jobs), (jobs(&["r", "s"]), None));
        let wanted = ScanFilter::by(&[col("kind").eq(lit("new"))]);
        assert_eq!((wanted.kinds, wanted.runs), (jobs(&["new"]), None));
        let list = col("kind").in_list(vec![lit("new"), lit("gone")], false);
        assert_eq!(ScanFilter::by(&[list]).kinds, jobs(&["gone", "new"]));
        let null = col("job").eq(lit(ScalarValue::Utf8(None)));
        assert_eq!(ScanFilter::by(&[null]).jobs, jobs(&[]));
        let negative = ScanFilter::by(&[col("batch").gt(lit(-1_i64))]);
        assert_eq!(negative.batches, 0..=u64::MAX);
    }

    #[test]
    fn other_predicates_do_not_narrow_the_scan() {
        for filter in [
            col("job").not_eq(lit("a")),
            col("job").eq(lit("a")).or(col("batch").eq(lit(1_i64))),
            col("state").eq(lit("FAILED")),
            col("job").in_list(vec![lit("a")], true),
            col("batch").eq(lit(-1_i64)),
            col("batch").lt(col("generation")),
            col("job").eq(lit(5_i64)),
        ] {
            assert_eq!(
                ScanFilter::by(std::slice::from_ref(&filter)),
                ScanFilter::default()
            );
            assert!(!ScanFilter::default().narrow(&filter), "{filter}");
        }
    }
}
