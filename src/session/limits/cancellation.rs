//! Cancellation of planning (SAFE-1).
//!
//! Planning runs without a pause, so that no other task can interrupt it. Instead the planner checks whether its plan is still
//! wanted: before each rule of the analyzer and the optimizers, at each operator that a rule visits, and at the operators,
//! literals and functions of expressions. A caller that waits for a plan holds an [`CancelFlag`] and sets it when the wait ends.
//! Long work without such checks is bounded by counting: see [`super::plan_limits`], [`super::query_size`] and the gate of the
//! parser.

use std::cell::RefCell;
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::config::ConfigOptions;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};
use datafusion::physical_optimizer::{PhysicalOptimizerContext, PhysicalOptimizerRule};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::{Error, ErrorKind};
use crate::session::physical::constant_copies;

/// The rule that copies the definitions of columns into conditions.
const COPYING: &str = "push_down_filter";

thread_local! {
    /// The flag of the plan that this thread is making.
    static CURRENT: RefCell<Option<CancelFlag>> = const { RefCell::new(None) };
}

/// A flag that is set once a plan is not wanted any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Marks the plan as unwanted.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the plan is unwanted.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Planning work that ends with an error soon after the plan is unwanted.
pub(crate) fn with_cancel_flag<F: Future>(
    unwanted: CancelFlag,
    work: F,
) -> impl Future<Output = F::Output> {
    let mut work = Box::pin(work);
    poll_fn(move |context| {
        let _within = CancelGuard::new(unwanted.clone());
        work.as_mut().poll(context)
    })
}

/// A guard: while it lives, this thread checks the flag of the plan that the guard was created for.
struct CancelGuard(Option<CancelFlag>);

impl CancelGuard {
    fn new(unwanted: CancelFlag) -> Self {
        Self(CURRENT.replace(Some(unwanted)))
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Returns an error if the plan that this thread makes is unwanted.
///
/// # Errors
///
/// The plan is unwanted.
pub(crate) fn check() -> DataFusionResult<()> {
    let is_wanted = CURRENT.with_borrow(|of| !of.as_ref().is_some_and(CancelFlag::is_set));
    match is_wanted {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Cancelled,
            "the statement was ended while it was planned",
        )
        .into()),
    }
}

/// Makes all rules of a state check the flag.
pub(crate) fn make_rules_cancellable(builder: &mut SessionStateBuilder) {
    if let Some(analyzer) = builder.analyzer() {
        analyzer
            .rules
            .iter_mut()
            .for_each(make_analyzer_cancellable);
    }
    let added = builder.analyzer_rules().iter_mut().flatten();
    added.for_each(make_analyzer_cancellable);
    if let Some(optimizer) = builder.optimizer() {
        optimizer
            .rules
            .iter_mut()
            .for_each(make_optimizer_cancellable);
    }
    let added = builder.optimizer_rules().iter_mut().flatten();
    added.for_each(make_optimizer_cancellable);
    if let Some(optimizer) = builder.physical_optimizers() {
        optimizer
            .rules
            .iter_mut()
            .for_each(make_physical_cancellable);
    }
    let added = builder.physical_optimizer_rules().iter_mut().flatten();
    added.for_each(make_physical_cancellable);
}

fn make_analyzer_cancellable(rule: &mut Arc<dyn AnalyzerRule + Send + Sync>) {
    *rule = Arc::new(CancellableRule(Arc::clone(rule)));
}

fn make_optimizer_cancellable(rule: &mut Arc<dyn OptimizerRule + Send + Sync>) {
    *rule = Arc::new(CancellableRule(Arc::clone(rule)));
}

fn make_physical_cancellable(rule: &mut Arc<dyn PhysicalOptimizerRule + Send + Sync>) {
    *rule = Arc::new(CancellableRule(Arc::clone(rule)));
}

/// A rule that checks the flag first.
#[derive(Debug)]
struct CancellableRule<R: ?Sized>(Arc<R>);

impl AnalyzerRule for CancellableRule<dyn AnalyzerRule + Send + Sync> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        check()?;
        self.0.analyze(plan, config)
    }
}

impl OptimizerRule for CancellableRule<dyn OptimizerRule + Send + Sync> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> DataFusionResult<Transformed<LogicalPlan>> {
        check()?;
        if self.0.name() == COPYING {
            constant_copies::check(&plan)?;
        }
        self.0.rewrite(plan, config)
    }
}

impl PhysicalOptimizerRule for CancellableRule<dyn PhysicalOptimizerRule + Send + Sync> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        check()?;
        self.0.optimize(plan, config)
    }

    fn optimize_with_context(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &dyn PhysicalOptimizerContext,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        check()?;
        self.0.optimize_with_context(plan, context)
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Checks the flag at each part of an expression, in the pass that rewrites functions.
#[derive(Debug)]
pub(crate) struct CancellableRewrite;

impl FunctionRewrite for CancellableRewrite {
    fn name(&self) -> &str {
        "asking_parts"
    }

    fn rewrite(
        &self,
        expr: Expr,
        _: &DFSchema,
        _: &ConfigOptions,
    ) -> DataFusionResult<Transformed<Expr>> {
        check()?;
        Ok(Transformed::no(expr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    async fn planned(unwanted: &CancelFlag, sql: &str) -> crate::error::Result<()> {
        let session = Session::try_new(&SessionOptions::default())?;
        let raw = Script::new("test", sql).split()?.remove(0);
        let planned = session.plan(parse_statement(&raw)?);
        with_cancel_flag(unwanted.clone(), planned).await.map(drop)
    }

    #[tokio::test]
    async fn cancelled_statements_are_not_planned() {
        let unwanted = CancelFlag::default();
        for sql in [
            "SELECT value FROM generate_series(1, 3)",
            "SELECT upper('a' || 'b')",
            "EXPLAIN SELECT max(value) FROM generate_series(1, 3)",
        ] {
            planned(&unwanted, sql).await.unwrap();
        }
        unwanted.set();
        for sql in [
            "SELECT value FROM generate_series(1, 3)",
            "SELECT upper('a' || 'b')",
        ] {
            let error = planned(&unwanted, sql).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        }
        // Another plan of the same thread is still wanted.
        planned(&CancelFlag::default(), "SELECT 1").await.unwrap();
        check().unwrap();
    }

    #[test]
    fn the_outer_plan_is_current_again_after_an_inner_plan() {
        let (outer, inner) = (CancelFlag::default(), CancelFlag::default());
        inner.set();
        let within = CancelGuard::new(outer.clone());
        {
            let _within = CancelGuard::new(inner);
            check().unwrap_err();
        }
        check().unwrap();
        outer.set();
        check().unwrap_err();
        drop(within);
        check().unwrap();
    }
}
