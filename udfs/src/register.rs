//! Registration of this crate's functions, planners and rules in a session.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::planner::{ExprPlanner, RelationPlanner};
use datafusion::logical_expr::registry::FunctionRegistry as _;
use datafusion::logical_expr::{AggregateUDF, Expr, LogicalPlan, ScalarUDF};
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use crate::bool_aggregates::{bool_and, bool_or};
use crate::checked::{
    CheckedArithmetic, DecimalOperators, EqualZeroGroups, EqualZeros, WidenDecimalComparisons,
    array_functions, avg, max, min, nan_aggregates, nan_functions, null_if, rounded, sum,
    with_room_to_compare,
};
use crate::comparison_casts::ComparedCasts;
use crate::complete::{AggregateByCompletedSession, seal_completions};
use crate::computed_keys::{ComputedKeys, FollowedKeys};
use crate::doubles::{DoubleBeforeDecimal, RealArithmetic, RealOperators, with_doubles};
use crate::empty_subqueries::EmptySubqueries;
use crate::equalities::HiddenEqualities;
use crate::filtered_arguments::FilteredArguments;
use crate::guards::GuardedConditions;
use crate::is_final::{IsFinalPlanner, is_final};
use crate::join_conditions::JoinConditions;
use crate::join_keys::NamedKeys;
use crate::membership::NullAwareMembership;
use crate::offsets::{next_offsets, offsets_from, offsets_in};
use crate::one_parse::with_one_parse;
use crate::ordered_aggregates::ordered;
use crate::outer_scopes::OuterScopes;
use crate::planner::{WindowExtensionPlanner, WindowRelationPlanner};
use crate::projection_names::DistinctProjectionNames;
use crate::push_down_filters::PushDownFilters;
use crate::ranges::EventTimeRanges;
use crate::session::aggregate::AggregateBySession;
use crate::single_value::SingleValueSubqueries;
use crate::times::{
    self, ExtractPlanner, IntervalsByLength, MicrosecondTime, with_interval_lengths,
};
use crate::unjoinable::{RefuseUnjoinableConditions, RefuseUnjoinableSubqueries};
use crate::values::{
    IntervalPlanner, JsonCasts, JsonOperators, array_has, as_typed, header, headers_list,
    headers_map, interval_times, list_compare, map_extract, signed, signed_functions, to_json,
};
use crate::window_calls::WindowCallPlanner;

/// Adds functions, expression and relation planners and optimizer rules to `builder`, and keeps those it has. Call it after
/// `with_default_features`.
///
/// It does not add the extension planners, which belong into the session's only query planner ([`extension_planners`]), and the
/// JSON operators ([`register_json`]).
#[must_use]
pub fn register(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder
        .scalar_functions()
        .get_or_insert_default()
        .extend(scalar_functions());
    builder
        .aggregate_functions()
        .get_or_insert_default()
        .extend(aggregate_functions());
    // In front: the defaults would refuse an aggregate without arguments.
    builder
        .expr_planners()
        .get_or_insert_default()
        .splice(0..0, expr_planners());
    builder
        .relation_planners()
        .get_or_insert_default()
        .extend(relation_planners());
    let optimizer = builder.optimizer().get_or_insert_default();
    let push_down = place_of("push_down_filter", optimizer);
    if let Some(rule) = push_down.and_then(|position| optimizer.rules.get_mut(position)) {
        *rule = Arc::new(PushDownFilters::default());
    }
    let place = push_down.map_or(optimizer.rules.len(), |position| position + 1);
    optimizer.rules.splice(place..place, optimizer_rules());
    let refusals: [(&str, Arc<dyn OptimizerRule + Send + Sync>); 2] = [
        (
            "decorrelate_predicate_subquery",
            Arc::new(RefuseUnjoinableConditions),
        ),
        (
            "scalar_subquery_to_join",
            Arc::new(RefuseUnjoinableSubqueries),
        ),
    ];
    for (to_joins, refusal) in refusals {
        let place = place_of(to_joins, optimizer);
        optimizer.rules.insert(place.unwrap_or(0), refusal);
    }
    // Before conditions are pushed to tables.
    let simplified = place_of("simplify_expressions", optimizer);
    let place = simplified.map_or(0, |place| place + 1);
    optimizer.rules.insert(place, Arc::new(EqualZeros));
    // Before a CASE becomes AND and OR, which do not guard.
    let place = simplified.unwrap_or(0);
    optimizer.rules.insert(place, Arc::new(GuardedConditions));
    // Last: all other rules have run, so the aggregates and their inputs are final.
    optimizer.rules.push(Arc::new(AggregateBySession));
    optimizer.rules.push(Arc::new(AggregateByCompletedSession));
    optimizer.rules.push(Arc::new(NamedKeys));
    optimizer.rules.push(Arc::new(HiddenEqualities));
    optimizer.rules.push(Arc::new(FollowedKeys));
    optimizer.rules.push(Arc::new(EqualZeroGroups));
    // Before the rules that make the types of operands equal: for casts by the user.
    let analyzer = builder.analyzer().get_or_insert_default();
    analyzer.rules.insert(0, Arc::new(MicrosecondTime));
    analyzer.rules.insert(1, Arc::new(DoubleBeforeDecimal));
    analyzer.rules.insert(2, Arc::new(WidenDecimalComparisons));
    analyzer.rules.insert(3, Arc::new(IntervalsByLength));
    analyzer.rules.insert(0, Arc::new(OuterScopes));
    // And after them: for casts that they added.
    builder
        .with_analyzer_rule(Arc::new(MicrosecondTime))
        .with_analyzer_rule(Arc::new(CheckedArithmetic))
        .with_analyzer_rule(Arc::new(EqualZeros))
        .with_analyzer_rule(Arc::new(JoinConditions))
        .with_analyzer_rule(Arc::new(ComputedKeys))
        .with_analyzer_rule(Arc::new(SingleValueSubqueries))
        .with_analyzer_rule(Arc::new(NullAwareMembership))
        .with_analyzer_rule(Arc::new(ComparedCasts))
        .with_analyzer_rule(Arc::new(EmptySubqueries))
        .with_analyzer_rule(Arc::new(FilteredArguments))
        .with_analyzer_rule(Arc::new(DistinctProjectionNames))
}

/// The place of the optimizer's rule of this name.
fn place_of(name: &str, optimizer: &Optimizer) -> Option<usize> {
    let mut rules = optimizer.rules.iter();
    rules.position(|rule| rule.name() == name)
}

/// Applies to one expression over these columns the analyzer rules that precede type coercion: for expressions outside of
/// plans.
///
/// # Errors
///
/// An expression whose type cannot be derived; a date plus or minus a time of day.
pub fn before_types(expr: Expr, columns: &DFSchema) -> Result<Expr> {
    before(expr, columns, RealArithmetic::Widened)
}

/// The same for an expression that a Delta table stores: there a REAL beside an integer is a REAL, as for all other writers of
/// the table.
///
/// # Errors
///
/// As [`before_types`].
pub fn before_types_of_table(expr: Expr, columns: &DFSchema) -> Result<Expr> {
    before(expr, columns, RealArithmetic::Unchanged)
}

fn before(expr: Expr, columns: &DFSchema, reals: RealArithmetic) -> Result<Expr> {
    let expr = with_doubles(expr, columns, reals)?;
    let expr = with_room_to_compare(expr, columns)?;
    with_interval_lengths(expr, columns)
}

/// Adds the functions and operators of `datafusion-functions-json` (`json_get`, `->`, `->>`, `?`).
///
/// # Errors
///
/// None in practice: a session state takes functions, rewrites and planners at any time.
pub fn register_json(state: &mut SessionState) -> Result<()> {
    // Before the library's rule, which would turn a value of another type into NULL.
    state.register_function_rewrite(Arc::new(JsonCasts))?;
    datafusion_functions_json::register_all(state)?;
    let length = signed(state.udf("json_length")?);
    state.register_udf(length)?;
    Ok(())
}

/// The scalar functions of this crate.
#[must_use]
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = vec![
        Arc::new(offsets_in()),
        Arc::new(offsets_from()),
        Arc::new(header()),
        Arc::new(headers_list()),
        Arc::new(headers_map()),
        Arc::new(to_json()),
        Arc::new(interval_times()),
        Arc::new(array_has()),
        Arc::new(list_compare()),
        Arc::new(map_extract()),
        Arc::new(null_if()),
    ];
    functions.extend(signed_functions());
    functions.extend(times::functions());
    functions.extend(as_typed().map(Arc::new));
    functions.extend(rounded().map(Arc::new));
    functions.extend(nan_functions().map(Arc::new));
    functions.extend(array_functions().map(Arc::new));
    functions
}

/// The aggregate functions of this crate.
#[must_use]
pub fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    let mut functions = vec![
        Arc::new(is_final()),
        Arc::new(next_offsets()),
        Arc::new(sum()),
        Arc::new(avg()),
        Arc::new(min()),
        Arc::new(max()),
        Arc::new(bool_and()),
        Arc::new(bool_or()),
    ];
    functions.extend(ordered().map(Arc::new));
    functions.extend(nan_aggregates().map(Arc::new));
    functions
}

/// The planners of this crate's calls. `with_expr_planners` would replace DataFusion's own:
/// [`register`] adds them.
#[must_use]
pub fn expr_planners() -> Vec<Arc<dyn ExprPlanner>> {
    vec![
        Arc::new(IsFinalPlanner),
        Arc::new(WindowCallPlanner),
        Arc::new(RealOperators),
        Arc::new(DecimalOperators),
        Arc::new(ExtractPlanner),
        Arc::new(IntervalPlanner),
        Arc::new(JsonOperators),
    ]
}

/// The planners of the window functions in FROM.
#[must_use]
pub fn relation_planners() -> Vec<Arc<dyn RelationPlanner>> {
    vec![Arc::new(WindowRelationPlanner)]
}

/// The optimizer rules of this crate. Their place is right after `push_down_filter`, where filters are next to their inputs,
/// and before common subexpressions are extracted from them; [`register`] puts them there. (`with_optimizer_rule` would put
/// them last.)
#[must_use]
pub fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![Arc::new(EventTimeRanges)]
}

/// The planners of this crate's logical nodes.
#[must_use]
pub fn extension_planners() -> Vec<Arc<dyn ExtensionPlanner + Send + Sync>> {
    vec![Arc::new(WindowExtensionPlanner)]
}

/// A query planner with [`extension_planners`] alone, for a session that needs no others; it lets plans parse a JSON text once for
/// all of its values.
#[must_use]
pub fn query_planner() -> Arc<dyn QueryPlanner + Send + Sync> {
    Arc::new(WindowQueryPlanner)
}

#[derive(Debug)]
struct WindowQueryPlanner;

#[async_trait]
impl QueryPlanner for WindowQueryPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(extension_planners());
        let plan = seal_completions(plan.clone())?;
        let plan = plan.transform_down_with_subqueries(|plan| with_one_parse(plan, |call| call))?;
        planner.create_physical_plan(&plan.data, session).await
    }
}
