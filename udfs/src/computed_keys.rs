//! Computed keys: a projection below the operator computes them, so that the operator sees columns.
//!
//! [`ComputedKeys`] does so with keys that the engine cannot evaluate in place, such as `ORDER BY x IN (SELECT …)`, or would
//! evaluate more than once, such as `GROUP BY random()`; and with subqueries within aggregates, as in
//! `count(CASE WHEN x IN (SELECT …) THEN 1 END)`. [`FollowedKeys`] does so with keys by which the engine sorts without tracking
//! the order, such as `ORDER BY sqrt(x)`. DataFusion asks each function for its `output_ordering`. If the function returns
//! none, DataFusion no longer knows that rows sorted by the result are sorted.

use std::mem::take;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection, Sort, SortExpr, Window};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalSortExpr, create_physical_expr};

use crate::operands::{any_expr, any_node, has_part, subquery_of};
use crate::top_down::changes_top_down;

/// Computes keys that cannot be evaluated in place, subqueries within aggregates and window functions, and volatile keys of
/// GROUP BY. It runs before the subqueries of projections are rewritten.
#[derive(Debug)]
pub struct ComputedKeys;

impl AnalyzerRule for ComputedKeys {
    fn name(&self) -> &str {
        "computed_keys"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let has_any = |plan: &LogicalPlan| match plan {
            LogicalPlan::Aggregate(of) if of.group_expr.iter().any(Expr::is_volatile) => true,
            other => any_expr(other, has_query),
        };
        if !any_node(&plan, has_any)? {
            return Ok(plan);
        }
        let of_query = |key: &Expr, _: &DFSchema| has_query(key);
        let of_group = |key: &Expr| key.is_volatile() || has_query(key);
        let changed = plan.transform_down_with_subqueries(|plan| match plan {
            LogicalPlan::Sort(sort) => sorted(sort, "__key", &of_query),
            LogicalPlan::Window(window) => windows(window, "__key", &of_query, &is_query),
            LogicalPlan::Aggregate(aggregate) => {
                aggregated(aggregate, "__key", &of_group, &of_query, &is_query)
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(changed.data)
    }
}

/// Computes keys whose order the engine would not track. It runs after the rules that change expressions.
#[derive(Debug)]
pub(crate) struct FollowedKeys;

changes_top_down!(FollowedKeys, "followed_keys", followed_keys);

fn followed_keys(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Sort(sort) => sorted(sort, "__order", &is_lost),
        LogicalPlan::Window(window) => windows(window, "__order", &is_lost, &|_: &Expr| false),
        LogicalPlan::Aggregate(aggregate) => aggregated(
            aggregate,
            "__order",
            &|_: &Expr| false,
            &is_lost,
            &|_: &Expr| false,
        ),
        other => Ok(Transformed::no(other)),
    }
}

/// Whether the engine does not track the order of rows sorted by this key.
fn is_lost(key: &Expr, schema: &DFSchema) -> bool {
    if matches!(key, Expr::Column(_) | Expr::Literal(..)) {
        return false;
    }
    let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let Ok(key) = create_physical_expr(key, schema, &props, &context) else {
        return false;
    };
    let order = PhysicalSortExpr::new_default(key);
    let schema = Arc::clone(schema.inner());
    let sorted = EquivalenceProperties::new_with_orderings(schema, [[order.clone()]]);
    !sorted.ordering_satisfy([order]).unwrap_or(false)
}

/// Whether it contains a subquery that the engine turns into a join.
pub(crate) fn has_query(key: &Expr) -> bool {
    key.exists(|part| Ok(is_query(part))).unwrap_or(false)
}

/// Whether it is such a subquery.
fn is_query(part: &Expr) -> bool {
    match part {
        Expr::ScalarSubquery(subquery) => !subquery.outer_ref_columns.is_empty(),
        other => subquery_of(other).is_some(),
    }
}

/// A projection with the columns of its input and the computed keys.
struct KeyProjection<'a> {
    input: &'a Arc<LogicalPlan>,
    name: &'static str,
    keys: Vec<Expr>,
}

impl<'a> KeyProjection<'a> {
    fn new(input: &'a Arc<LogicalPlan>, name: &'static str) -> Self {
        Self {
            input,
            name,
            keys: Vec::new(),
        }
    }

    /// The column in which a key is computed.
    fn column(&mut self, key: &Expr) -> Expr {
        let key = key.clone().unalias();
        let known = self.keys.iter().position(|known| *known == key);
        let place = match known.filter(|_| !key.is_volatile()) {
            Some(place) => place,
            None => {
                self.keys.push(key);
                self.keys.len() - 1
            }
        };
        Expr::Column(Column::new_unqualified(format!("{}_{place}", self.name)))
    }

    /// The sort keys, with columns instead of those for which `is_computed` is true.
    fn sort_keys(
        &mut self,
        keys: &mut [SortExpr],
        is_computed: &impl Fn(&Expr, &DFSchema) -> bool,
    ) {
        let schema = Arc::clone(self.input.schema());
        for key in keys {
            if is_computed(&key.expr, &schema) {
                key.expr = self.column(&key.expr);
            }
        }
    }

    /// The expression, with columns instead of its parts for which `computed` is true.
    fn with_columns(&mut self, expr: &mut Expr, computed: &impl Fn(&Expr) -> bool) -> Result<()> {
        let changed = take(expr).transform_down(|part| {
            if !computed(&part) {
                return Ok(Transformed::no(part));
            }
            let column = self.column(&part);
            Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
        })?;
        *expr = changed.data;
        Ok(())
    }

    fn plan(self) -> Result<Arc<LogicalPlan>> {
        let columns = columns(self.input);
        let name = self.name;
        let keys = self.keys.into_iter().enumerate();
        let keys = keys.map(|(place, key)| key.alias(format!("{name}_{place}")));
        let exprs = columns.into_iter().chain(keys).collect();
        let plan = Projection::try_new(exprs, Arc::clone(self.input))?;
        Ok(Arc::new(LogicalPlan::Projection(plan)))
    }
}

fn columns(plan: &LogicalPlan) -> Vec<Expr> {
    let columns = plan.schema().columns().into_iter();
    columns.map(Expr::Column).collect()
}

/// The columns of `plan` except those at `left_out`, under the names of `schema`.
fn renamed(
    plan: LogicalPlan,
    left_out: std::ops::Range<usize>,
    schema: &DFSchema,
) -> Result<LogicalPlan> {
    let columns = plan.schema().columns().into_iter().enumerate();
    let columns = columns.filter(|(place, _)| !left_out.contains(place));
    let exprs = columns
        .zip(schema.iter())
        .map(|((_, column), (qualifier, field))| {
            let is_named = column.relation.as_ref() == qualifier && column.name == *field.name();
            match is_named {
                true => Expr::Column(column),
                false => {
                    Expr::Column(column).alias_qualified(qualifier.cloned(), field.name().clone())
                }
            }
        })
        .collect();
    Projection::try_new(exprs, Arc::new(plan)).map(LogicalPlan::Projection)
}

fn sorted(
    mut sort: Sort,
    name: &'static str,
    is_computed: &impl Fn(&Expr, &DFSchema) -> bool,
) -> Result<Transformed<LogicalPlan>> {
    let input = Arc::clone(&sort.input);
    let mut below = KeyProjection::new(&input, name);
    below.sort_keys(&mut sort.expr, is_computed);
    if below.keys.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Sort(sort)));
    }
    sort.input = below.plan()?;
    let sorted = Arc::new(LogicalPlan::Sort(sort));
    let above = Projection::try_new(columns(&input), sorted)?;
    Ok(Transformed::yes(LogicalPlan::Projection(above)))
}

/// The expressions of a stack of window operators, from the top down, and the input of the lowest.
fn stacked(top: &Window) -> (Vec<&[Expr]>, &Arc<LogicalPlan>) {
    let mut chain = vec![top.window_expr.as_slice()];
    let mut input = &top.input;
    while let LogicalPlan::Window(window) = input.as_ref() {
        chain.push(window.window_expr.as_slice());
        input = &window.input;
    }
    (chain, input)
}

/// Whether [`KeyProjection::sort_keys`] would compute one of the keys.
fn any_sort_key(
    keys: &[SortExpr],
    schema: &DFSchema,
    is_computed: &impl Fn(&Expr, &DFSchema) -> bool,
) -> bool {
    keys.iter().any(|key| is_computed(&key.expr, schema))
}

/// Whether [`KeyProjection::with_columns`] would compute a part of an argument or of the filter.
fn any_argument(
    arguments: &[Expr],
    filter: Option<&Expr>,
    is_argument: &impl Fn(&Expr) -> bool,
) -> bool {
    let mut arguments = arguments.iter().chain(filter);
    arguments.any(|argument| has_part(argument, is_argument))
}

/// A stack of windows gets its keys from one projection: windows with the same keys sort the rows once.
fn windows(
    top: Window,
    name: &'static str,
    is_computed: &impl Fn(&Expr, &DFSchema) -> bool,
    is_argument: &impl Fn(&Expr) -> bool,
) -> Result<Transformed<LogicalPlan>> {
    let (chain, input) = stacked(&top);
    let schema = Arc::clone(input.schema());
    let is_computed = |key: &Expr, _: &DFSchema| {
        let mut columns = key.column_refs().into_iter();
        columns.all(|column| schema.is_column_from_schema(column)) && is_computed(key, &schema)
    };
    let is_argument = |part: &Expr| {
        let is_known = |column| schema.is_column_from_schema(column);
        is_argument(part) && part.column_refs().into_iter().all(is_known)
    };
    let has_any = |part: &Expr| match part {
        Expr::WindowFunction(function) => {
            let params = &function.params;
            let mut keys = params.partition_by.iter();
            keys.any(|key| is_computed(key, &schema))
                || any_sort_key(&params.order_by, &schema, &is_computed)
                || any_argument(&params.args, params.filter.as_deref(), &is_argument)
        }
        _ => false,
    };
    let mut calls = chain.iter().copied().flatten();
    if !calls.any(|call| has_part(call, has_any)) {
        return Ok(Transformed::no(LogicalPlan::Window(top)));
    }
    let mut chain: Vec<Vec<Expr>> = chain.into_iter().map(<[Expr]>::to_vec).collect();
    let mut below = KeyProjection::new(input, name);
    for expr in chain.iter_mut().flatten() {
        let changed = take(expr).transform_down(|part| {
            let Expr::WindowFunction(mut function) = part else {
                return Ok(Transformed::no(part));
            };
            let params = &mut function.params;
            for key in &mut params.partition_by {
                if is_computed(key, &schema) {
                    *key = below.column(key);
                }
            }
            below.sort_keys(&mut params.order_by, &is_computed);
            let filter = params.filter.as_deref_mut();
            for argument in params.args.iter_mut().chain(filter) {
                below.with_columns(argument, &is_argument)?;
            }
            Ok(Transformed::yes(Expr::WindowFunction(function)))
        })?;
        *expr = changed.data;
    }
    let width = input.schema().fields().len();
    let keys = width..width + below.keys.len();
    let mut plan = below.plan()?;
    for exprs in chain.into_iter().rev() {
        plan = Arc::new(LogicalPlan::Window(Window::try_new(exprs, plan)?));
    }
    renamed(Arc::unwrap_or_clone(plan), keys, &top.schema).map(Transformed::yes)
}

fn aggregated(
    aggregate: Aggregate,
    name: &'static str,
    is_grouped: &impl Fn(&Expr) -> bool,
    is_computed: &impl Fn(&Expr, &DFSchema) -> bool,
    is_argument: &impl Fn(&Expr) -> bool,
) -> Result<Transformed<LogicalPlan>> {
    let is_set = |expr: &Expr| matches!(expr, Expr::GroupingSet(_));
    let input = Arc::clone(&aggregate.input);
    let schema = input.schema();
    let has_any = |part: &Expr| match part {
        Expr::AggregateFunction(function) => {
            let params = &function.params;
            any_sort_key(&params.order_by, schema, is_computed)
                || any_argument(&params.args, params.filter.as_deref(), is_argument)
        }
        _ => false,
    };
    let has_sets = aggregate.group_expr.iter().any(is_set);
    let any_group = !has_sets && aggregate.group_expr.iter().any(is_grouped);
    let mut written = aggregate.aggr_expr.iter();
    if !any_group && !written.any(|call| has_part(call, has_any)) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let (mut groups, mut calls) = (aggregate.group_expr.clone(), aggregate.aggr_expr.clone());
    let mut below = KeyProjection::new(&input, name);
    if !has_sets {
        for key in &mut groups {
            if is_grouped(key) {
                *key = below.column(key);
            }
        }
    }
    for call in &mut calls {
        let changed = take(call).transform_down(|part| {
            let Expr::AggregateFunction(mut function) = part else {
                return Ok(Transformed::no(part));
            };
            let params = &mut function.params;
            let typed: Vec<Expr> = params.order_by.iter().map(|key| key.expr.clone()).collect();
            below.sort_keys(&mut params.order_by, is_computed);
            // DISTINCT uses the argument, which is sorted by its own value.
            for (typed, key) in typed.iter().zip(&params.order_by) {
                for argument in &mut params.args {
                    if *argument == *typed {
                        *argument = key.expr.clone();
                    }
                }
            }
            let filter = params.filter.as_deref_mut();
            for argument in params.args.iter_mut().chain(filter) {
                below.with_columns(argument, is_argument)?;
            }
            Ok(Transformed::yes(Expr::AggregateFunction(function)))
        })?;
        *call = changed.data;
    }
    let inner = Aggregate::try_new(below.plan()?, groups, calls)?;
    renamed(LogicalPlan::Aggregate(inner), 0..0, &aggregate.schema).map(Transformed::yes)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::functions::expr_fn::{abs, lower, sqrt};
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn untracked_orders_are_found() {
        let fields = vec![
            Field::new("a", DataType::Float64, true),
            Field::new("s", DataType::Utf8, true),
        ];
        let schema = DFSchema::try_from(Schema::new(fields)).unwrap();
        for key in [sqrt(col("a")), abs(abs(col("a"))), sqrt(abs(col("a")))] {
            assert!(is_lost(&key, &schema), "{key}");
        }
        for key in [
            col("a"),
            col("a") + lit(1.0),
            lower(lower(col("s"))),
            lit(1),
        ] {
            assert!(!is_lost(&key, &schema), "{key}");
        }
    }
}
