//! Arguments that are queries: the subqueries in `offsets_in` and `offsets_from`.
//!
//! A scan chooses its ranges when it is planned, so such an argument must be a value by then. It is planned with its statement,
//! and its place is taken by a function that has its plan. A statement that runs then runs the query and puts its value there;
//! a job does so in each batch. A statement that is planned only to be described keeps the function, which shows the query's text.

use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use anabranch_udfs::{WalkMut, map_named_expressions};
use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{ScalarValue, internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Subquery, Volatility, lit,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectNamePart, Query,
    SelectItem, SetExpr, Spanned as _, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::error::{Error, Result};
use crate::planner::normalize;

/// Functions that need the values of their arguments before a scan is planned.
const OF_OFFSETS: [&str; 2] = ["offsets_in", "offsets_from"];
/// The function in the place of a query.
const VALUE_OF: &str = "value_of";

/// The purpose for which a statement is planned: it decides when the queries in arguments run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Purpose {
    /// To run once: they run while it is planned.
    #[default]
    Run,
    /// For its columns or its plan alone: they do not run.
    Describe,
    /// To run in the batches of a job: they run in each batch.
    Batches,
}

/// Gives each query in an argument its text as the name of its column, so that its plan has the text and the place.
///
/// # Errors
///
/// None that a caller could cause.
pub(crate) fn name_queries(node: &mut impl WalkMut) -> Result<()> {
    match node.walk_mut(&mut Names) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Names;

impl VisitorMut for Names {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<Error> {
        for query in queries_in(expr) {
            if let Err(error) = name_query(query) {
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    }
}

/// The queries in the arguments of a function of offsets.
fn queries_in(expr: &mut SqlExpr) -> Vec<&mut Query> {
    let SqlExpr::Function(function) = expr else {
        return Vec::new();
    };
    let name = function.name.0.last().and_then(ObjectNamePart::as_ident);
    if !name.is_some_and(|name| OF_OFFSETS.contains(&normalize(name).as_str())) {
        return Vec::new();
    }
    let FunctionArguments::List(list) = &mut function.args else {
        return Vec::new();
    };
    let queries = list.args.iter_mut().filter_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(SqlExpr::Subquery(query))) => {
            Some(query.as_mut())
        }
        _ => None,
    });
    queries.collect()
}

/// `q` becomes `SELECT (q) AS "q"`.
fn name_query(query: &mut Query) -> Result<()> {
    let mut named = Parser::new(&GenericDialect {})
        .try_with_sql("SELECT NULL")
        .and_then(|mut parser| parser.parse_query())
        .map_err(|error| Error::internal(error.to_string()))?;
    let mut name = Ident::with_quote('"', query.to_string());
    name.span = query.span();
    std::mem::swap(query, named.as_mut());
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection = vec![SelectItem::ExprWithAlias {
            expr: SqlExpr::Subquery(named),
            alias: name,
        }];
    }
    Ok(())
}

/// A query in an argument, until its value is known.
#[derive(Debug, Clone)]
pub(crate) struct ArgumentQuery {
    query: Arc<Planned>,
    signature: Signature,
}

#[derive(Debug)]
struct Planned {
    text: String,
    plan: LogicalPlan,
    /// Its place in the statement, if it is known.
    span: Span,
}

impl PartialEq for ArgumentQuery {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.query, &other.query)
    }
}

impl Eq for ArgumentQuery {}

impl Hash for ArgumentQuery {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.query).hash(state);
    }
}

impl ScalarUDFImpl for ArgumentQuery {
    fn name(&self) -> &str {
        VALUE_OF
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        internal_err!("the query in an argument has not run: {}", self.query.text)
    }
}

impl ArgumentQuery {
    fn of(subquery: &Subquery) -> DataFusionResult<Self> {
        let mut text = "SELECT …".to_owned();
        let mut query = subquery;
        if let LogicalPlan::Projection(list) = subquery.subquery.as_ref()
            && let [Expr::Alias(named)] = list.expr.as_slice()
            && let Expr::ScalarSubquery(inner) = named.expr.as_ref()
        {
            text.clone_from(&named.name);
            query = inner;
        }
        if !(subquery.outer_ref_columns.is_empty() && query.outer_ref_columns.is_empty()) {
            return plan_err!(
                "a query in an argument of offsets cannot refer to the query around it: {text}"
            );
        }
        let columns = query.subquery.schema().fields().len();
        if columns != 1 {
            return plan_err!(
                "an offset argument is one value; this query gives {columns} columns: {text}"
            );
        }
        Ok(Self {
            query: Arc::new(Planned {
                text,
                plan: query.subquery.as_ref().clone(),
                span: span_of(subquery),
            }),
            signature: Signature::exact(vec![DataType::Utf8], Volatility::Stable),
        })
    }

    fn call(self) -> Expr {
        let text = lit(self.query.text.as_str());
        let function = Arc::new(ScalarUDF::new_from_impl(self));
        Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![text]))
    }

    /// The plan of the query.
    pub(crate) fn plan(&self) -> &LogicalPlan {
        &self.query.plan
    }

    /// Runs the query, whose plan is given over the tables that it is to read.
    ///
    /// # Errors
    ///
    /// The query's errors, more than one row, or a value that is no text.
    pub(crate) async fn value(
        &self,
        context: &SessionContext,
        plan: LogicalPlan,
    ) -> Result<ScalarValue> {
        let plan = with_values(context, plan).await?;
        let run = async { context.execute_logical_plan(plan).await?.collect().await };
        let value = run.await.map_err(Error::from);
        let value = value.and_then(|rows| one_text(&rows));
        value.map_err(|error| error.at(self.query.span))
    }
}

fn span_of(subquery: &Subquery) -> Span {
    let Some(span) = subquery.spans.first() else {
        return Span::empty();
    };
    let location = |at: datafusion::common::Location| Location::new(at.line, at.column);
    Span::new(location(span.start), location(span.end))
}

/// The value of a query of one column as text; NULL if it has no row.
fn one_text(batches: &[RecordBatch]) -> Result<ScalarValue> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows > 1 {
        return Err(Error::invalid(format!(
            "an offset argument is one value; this query gives {rows} rows"
        )));
    }
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() == 1) else {
        return Ok(ScalarValue::Utf8(None));
    };
    let text = cast(batch.column(0), &DataType::Utf8)
        .map_err(|error| Error::invalid(format!("an offset argument is text: {error}")))?;
    let text = text.as_string::<i32>();
    let text = (!text.is_null(0)).then(|| text.value(0).to_owned());
    Ok(ScalarValue::Utf8(text))
}

/// The plan with a function in the place of each query in an argument.
///
/// # Errors
///
/// A query that refers to the query around it, or has several columns.
pub(crate) fn deferred(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut has_queries = false;
    each_expr(&plan, |expr| {
        has_queries |= is_call_with_queries(expr);
        !has_queries
    })?;
    if !has_queries {
        return Ok(plan);
    }
    Ok(each_expr_mapped(plan, |expr| {
        if !is_call_with_queries(&expr) {
            return Ok(Transformed::no(expr));
        }
        let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else {
            return Ok(Transformed::no(expr));
        };
        let args = args.into_iter().map(|argument| match argument {
            Expr::ScalarSubquery(subquery) => Ok(ArgumentQuery::of(&subquery)?.call()),
            other => Ok(other),
        });
        let args = args.collect::<DataFusionResult<Vec<_>>>()?;
        let call = ScalarFunction::new_udf(func, args);
        Ok(Transformed::yes(Expr::ScalarFunction(call)))
    })?)
}

fn is_call_with_queries(expr: &Expr) -> bool {
    let Expr::ScalarFunction(call) = expr else {
        return false;
    };
    let is_query = |argument: &Expr| matches!(argument, Expr::ScalarSubquery(_));
    OF_OFFSETS.contains(&call.func.name()) && call.args.iter().any(is_query)
}

/// The queries in the arguments of a plan, each once.
///
/// # Errors
///
/// None that a caller could cause.
pub(crate) fn queries_of(plan: &LogicalPlan) -> Result<Vec<ArgumentQuery>> {
    let mut found: Vec<ArgumentQuery> = Vec::new();
    each_expr(plan, |expr| {
        if let Some(query) = query_of(expr)
            && !found.contains(query)
        {
            found.push(query.clone());
        }
        true
    })?;
    Ok(found)
}

fn query_of(expr: &Expr) -> Option<&ArgumentQuery> {
    match expr {
        Expr::ScalarFunction(call) => call.func.inner().downcast_ref::<ArgumentQuery>(),
        _ => None,
    }
}

/// Runs the queries in the arguments of a plan, and gives the plan with their values.
///
/// # Errors
///
/// Errors of the queries.
pub(crate) fn with_values(
    context: &SessionContext,
    plan: LogicalPlan,
) -> BoxFuture<'_, Result<LogicalPlan>> {
    async move {
        let mut values = Values::default();
        for query in queries_of(&plan)? {
            let value = query.value(context, query.plan().clone()).await?;
            values.add(query, value);
        }
        values.put_into(plan)
    }
    .boxed()
}

/// Values of queries in arguments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values(Vec<(ArgumentQuery, ScalarValue)>);

impl Values {
    pub(crate) fn add(&mut self, query: ArgumentQuery, value: ScalarValue) {
        self.0.push((query, value));
    }

    /// The plan with these values in the place of the queries.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(crate) fn put_into(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        if self.0.is_empty() {
            return Ok(plan);
        }
        Ok(each_expr_mapped(plan, |expr| {
            let query = query_of(&expr);
            let known = query.and_then(|query| self.0.iter().find(|(known, _)| known == query));
            Ok(match known {
                Some((_, value)) => Transformed::yes(Expr::Literal(value.clone(), None)),
                None => Transformed::no(expr),
            })
        })?)
    }
}

/// Shows each expression of a plan and of its subqueries to `see`, until that returns false.
fn each_expr(plan: &LogicalPlan, mut see: impl FnMut(&Expr) -> bool) -> DataFusionResult<()> {
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                Ok(match see(part) {
                    true => TreeNodeRecursion::Continue,
                    false => TreeNodeRecursion::Stop,
                })
            })
        })
    })?;
    Ok(())
}

/// Changes each expression of a plan and of its subqueries, those inside first. Columns keep their names.
fn each_expr_mapped(
    plan: LogicalPlan,
    change: impl Fn(Expr) -> DataFusionResult<Transformed<Expr>>,
) -> DataFusionResult<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|node| {
        map_named_expressions(node, |expr| expr.transform_up(&change))
    })?;
    Ok(changed.data)
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
pub(crate) mod tests;
