//! Planning of views: the query of a view, rewritten and planned over the tables of a catalog.

use std::sync::Weak;

use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{Query, Statement as AnsiStatement};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::error::{Error, Result, Subject};
use crate::session::catalog::{Catalog, PlanViews};
use crate::session::limits::plan_limits;
use crate::session::names::distinct_columns::plan_apart;
use crate::session::rewrite;
use crate::session::rewrite::recursion;

/// Plans views with the state of a session's context. It does not keep the context alive: the context has the catalog.
pub(crate) struct SessionViews {
    state: Box<dyn Fn() -> Option<SessionState> + Send + Sync>,
}

impl SessionViews {
    /// The planner of the views that statements of this context use.
    pub(crate) fn of(context: &SessionContext) -> Self {
        let weak = context.state_weak_ref();
        Self {
            state: Box::new(move || Some(Weak::upgrade(&weak)?.read().clone())),
        }
    }
}

impl PlanViews for SessionViews {
    fn plan<'a>(
        &'a self,
        catalog: &'a Catalog,
        query: Box<Query>,
    ) -> BoxFuture<'a, Result<LogicalPlan>> {
        async move {
            let state = (self.state)().ok_or_else(|| Error::internal("the session is gone"))?;
            let context = SessionContext::new_with_state(state);
            plan_query(&context, catalog, query, None).await
        }
        .boxed()
    }
}

/// The plan of a view's query; `defined` is the name of the view that is being created from it, and that the query may not
/// use.
///
/// # Errors
///
/// The query's, with its place.
pub(crate) async fn plan_query(
    context: &SessionContext,
    catalog: &Catalog,
    query: Box<Query>,
    defined: Option<&str>,
) -> Result<LogicalPlan> {
    let mut statement = SqlStatement::Statement(Box::new(AnsiStatement::Query(query)));
    rewrite::prepare(context, catalog, &mut statement).await?;
    let state = context.state();
    if let Some(name) = defined {
        let named = state.resolve_table_references(&statement)?;
        if named.iter().any(|reference| reference.table() == name) {
            return Err(Error::invalid(format!("view {name} is defined by itself"))
                .about(Subject::table(name)));
        }
    }
    let plan = match plan_apart(&state, &statement).await {
        Ok(plan) => plan,
        Err(error) => return Err(catalog.missing_table(error, statement)),
    };
    plan_limits::check(&plan)?;
    recursion::check(&plan, &statement)?;
    catalog.with_arguments(context, plan).await
}
