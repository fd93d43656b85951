//! Planning of statements whose columns may have equal names.
//!
//! The engine requires unique column names in each query. A column named like an earlier one gets a unique name before
//! planning, and the result gets the original name back. Where the text does not show that two columns have one name, the
//! engine reports it, and the statement is planned once more.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use anabranch_udfs::{Walk, WalkMut};
use datafusion::common::{SchemaError, plan_err};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, SetQuantifier,
    Statement as AnsiStatement, TableFactor, Visitor, VisitorMut,
};

use crate::error::engine::NameProblems;
use crate::planner::normalize;
use crate::session::names::inner_names::{keep_names_of_engine, names_of};
use crate::session::names::labels::{
    LabelItem, first_select, is_column, item_of, label_in, label_of, named_item,
};
use crate::session::names::unique::{
    DistinctColumns, ambiguous_order, is_same, rename_items_apart,
};
use crate::session::names::wildcards::expand_stars;
use crate::session::syntax::visit;

/// Attempts for result column names in GROUP BY: the engine reports one missing column at a time.
const GROUPS: usize = 16;

/// Plans a statement whose columns may have equal names.
///
/// # Errors
///
/// The planning error of the statement as it was typed, except for columns of equal labels.
pub(crate) async fn plan_apart(
    state: &SessionState,
    statement: &SqlStatement,
) -> DataFusionResult<LogicalPlan> {
    let mut error = match Box::pin(state.statement_to_plan(equal_apart(statement))).await {
        Ok(plan) => return ordered_by_one(plan, statement),
        Err(error) => error,
    };
    let mut problems = NameProblems::of(&error);
    let mut missing = missing_column(&error);
    let mut changed: Option<SqlStatement> = None;
    let names = [PlanAttempt::Stars, PlanAttempt::Doubtful].into_iter();
    let groups = std::iter::repeat_n(PlanAttempt::Groups, GROUPS);
    for step in names.chain(groups).chain([PlanAttempt::Engine]) {
        if !step.may_help(problems) {
            continue;
        }
        let apart = changed.get_or_insert_with(|| equal_apart(statement));
        if !step.take(state, apart, missing.as_deref()).await {
            continue;
        }
        match Box::pin(state.statement_to_plan(apart.clone())).await {
            Ok(plan) => return ordered_by_one(plan, statement),
            Err(other) => {
                // Other errors are reported once the names are unique.
                let was_of_names = problems.equal;
                problems = NameProblems::of(&other);
                missing = missing_column(&other);
                if was_of_names && !problems.equal {
                    error = other;
                }
            }
        }
    }
    Err(error)
}

/// The unqualified name that the engine does not find.
fn missing_column(error: &DataFusionError) -> Option<String> {
    let DataFusionError::SchemaError(error, _) = error.find_root() else {
        return None;
    };
    match error.as_ref() {
        SchemaError::FieldNotFound { field, .. } if field.relation.is_none() => {
            Some(field.name.clone())
        }
        _ => None,
    }
}

/// The statement with unique names for columns that are named like earlier ones.
fn equal_apart(statement: &SqlStatement) -> SqlStatement {
    let mut apart = statement.clone();
    name_apart(&mut apart, DistinctColumns::Equal);
    apart
}

/// The attempts for a statement that cannot be planned, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlanAttempt {
    /// Replaces several stars by their columns, each with its own name.
    Stars,
    /// Renames all columns for which the engine may choose equal names.
    Doubtful,
    /// Replaces keys of GROUP BY that name a result column, if no table has a column of that name: those take precedence.
    Groups,
    /// Restores the engine's own names for expressions in inner queries: stored statements may use them.
    Engine,
}

impl PlanAttempt {
    /// Whether this attempt may help a statement with these problems.
    fn may_help(self, of: NameProblems) -> bool {
        match self {
            PlanAttempt::Stars | PlanAttempt::Doubtful => of.equal,
            PlanAttempt::Groups => of.missing,
            PlanAttempt::Engine => of.equal || of.missing || of.unclear,
        }
    }

    /// Changes the statement, in which a column is `missing`; returns whether there was anything to change.
    async fn take(
        self,
        state: &SessionState,
        statement: &mut SqlStatement,
        missing: Option<&str>,
    ) -> bool {
        match self {
            PlanAttempt::Stars => expand_stars(state, statement).await,
            PlanAttempt::Doubtful => name_apart(statement, DistinctColumns::Doubtful),
            PlanAttempt::Groups => {
                let Some(name) = missing else {
                    return false;
                };
                let mut groups = GroupKeys { name, any: false };
                let _ = visit(statement, &mut groups);
                groups.any
            }
            PlanAttempt::Engine => keep_names_of_engine(statement),
        }
    }
}

/// Returns the plan, unless ORDER BY names a label that different columns have: the engine would take the first of them.
///
/// # Errors
///
/// ORDER BY names such a label.
fn ordered_by_one(plan: LogicalPlan, statement: &SqlStatement) -> DataFusionResult<LogicalPlan> {
    match order_of_several(&plan, statement) {
        Some(name) => plan_err!("{}", ambiguous_order(&name)),
        None => Ok(plan),
    }
}

/// A label in ORDER BY that several different columns have.
fn order_of_several(plan: &LogicalPlan, statement: &SqlStatement) -> Option<String> {
    let SqlStatement::Statement(ansi) = statement else {
        return None;
    };
    let AnsiStatement::Query(query) = ansi.as_ref() else {
        return None;
    };
    let select = first_select(&query.body)?;
    let OrderByKind::Expressions(keys) = &query.order_by.as_ref()?.kind else {
        return None;
    };
    let mut names = ColumnReferences::default();
    for key in keys {
        let _ = Walk::walk(&key.expr, &mut names);
    }
    if names.0.is_empty() {
        return None;
    }
    let mut labelled: HashMap<String, Vec<&Expr>> = HashMap::new();
    for item in &select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
            && let LabelItem::One(label) = item_of(item)
        {
            labelled.entry(label).or_default().push(expr);
        }
    }
    let mut fields: HashMap<&str, usize> = HashMap::new();
    for field in plan.schema().fields() {
        *fields.entry(label_in(field.name())).or_default() += 1;
    }
    let is_of_several = |name: &String| {
        let [first, others @ ..] = labelled.get(name).map_or(&[][..], Vec::as_slice) else {
            return false;
        };
        // Columns of a `*` have no text.
        let all = fields.get(name.as_str()).copied().unwrap_or_default();
        let is_of_all = all > others.len() + 1;
        let is_other = |expr: &&Expr| !is_column(expr) || label_of(expr) != *name;
        others.iter().any(|expr| !is_same(first, expr))
            || (is_of_all && (is_other(first) || others.iter().any(is_other)))
    };
    let mut seen = HashSet::new();
    let mut names = names.0.into_iter().filter(|name| seen.insert(name.clone()));
    names.find(is_of_several)
}

/// The unqualified names in an expression.
#[derive(Default)]
struct ColumnReferences(Vec<String>);

impl Visitor for ColumnReferences {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Identifier(ident) = expr {
            self.0.push(normalize(ident));
        }
        ControlFlow::Continue(())
    }
}

/// Replaces keys of GROUP BY with this name by the expression of the result column that has it.
struct GroupKeys<'a> {
    name: &'a str,
    any: bool,
}

impl VisitorMut for GroupKeys<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let GroupByExpr::Expressions(keys, _) = &mut select.group_by else {
            return ControlFlow::Continue(());
        };
        let has_name =
            |key: &Expr| matches!(key, Expr::Identifier(name) if normalize(name) == self.name);
        if let Some(first) = keys.iter().position(has_name)
            && let Some(expr) = only_named(&select.projection, self.name)
        {
            // Only the first key is replaced: an expression may be large.
            let mut place = 0;
            keys.retain_mut(|key| {
                let is_first = place == first;
                place += 1;
                if is_first {
                    *key = expr.clone();
                }
                is_first || !has_name(key)
            });
            self.any = true;
        }
        ControlFlow::Continue(())
    }
}

/// The expression of the only column of this name.
fn only_named<'a>(items: &'a [SelectItem], name: &str) -> Option<&'a Expr> {
    let mut named = items
        .iter()
        .filter(|item| matches!(named_item(item), LabelItem::One(found) if found == name));
    match (named.next()?, named.next()) {
        (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }, None)
            if !is_column(expr) =>
        {
            Some(expr)
        }
        _ => None,
    }
}

/// Renames columns that have the name of an earlier column of their query, where the enclosing query does not need the names:
/// in queries in FROM, in the later queries of a UNION or other set operation, and below EXISTS.
pub(crate) fn repeated_columns(node: &mut impl WalkMut) {
    let _ = WalkMut::walk_mut(node, &mut HiddenColumns);
}

/// The same for a query whose columns get other names afterwards.
pub(crate) fn columns_apart(query: &mut Query) {
    rename_apart(&mut query.body, DistinctColumns::Equal);
}

struct HiddenColumns;

impl VisitorMut for HiddenColumns {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let Some(with) = &mut query.with {
            for table in &mut with.cte_tables {
                if !table.alias.columns.is_empty() {
                    columns_apart(&mut table.query);
                }
            }
        }
        if names_of(query).is_some() {
            columns_apart(query);
        }
        later_queries(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Derived {
            subquery,
            alias: Some(alias),
            ..
        } = factor
            && !alias.columns.is_empty()
        {
            columns_apart(subquery);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Exists { subquery, .. } = expr {
            columns_apart(subquery);
        }
        ControlFlow::Continue(())
    }
}

/// A set operation takes its names from its first query.
fn later_queries(body: &mut SetExpr) {
    let SetExpr::SetOperation {
        set_quantifier,
        left,
        right,
        ..
    } = body
    else {
        return;
    };
    later_queries(left);
    match set_quantifier {
        SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName => {
            later_queries(right);
        }
        _ => {
            rename_apart(right, DistinctColumns::Equal);
        }
    }
}

/// Gives columns unique names for the engine, in all parts of a UNION; returns whether any was renamed.
fn rename_apart(body: &mut SetExpr, which: DistinctColumns) -> bool {
    match body {
        SetExpr::Select(select) => rename_items_apart(&mut select.projection, which),
        SetExpr::Query(query) => rename_apart(&mut query.body, which),
        SetExpr::SetOperation { left, right, .. } => {
            let left = rename_apart(left, which);
            rename_apart(right, which) || left
        }
        _ => false,
    }
}

/// The same for the columns of a query, or those that an INSERT takes by position; with [`DistinctColumns::Doubtful`] also for those of
/// its subqueries.
fn name_apart(statement: &mut SqlStatement, which: DistinctColumns) -> bool {
    if let SqlStatement::Explain(explain) = statement {
        return name_apart(&mut explain.statement, which);
    }
    let inner = which == DistinctColumns::Doubtful && {
        let mut inner = InnerQueries { any: false };
        let _ = visit(statement, &mut inner);
        inner.any
    };
    let SqlStatement::Statement(ansi) = statement else {
        return inner;
    };
    let outermost = match ansi.as_mut() {
        AnsiStatement::Query(query) => rename_apart(&mut query.body, which),
        AnsiStatement::Insert(insert) => match &mut insert.source {
            Some(source) => rename_apart(&mut source.body, which),
            None => false,
        },
        _ => false,
    };
    outermost || inner
}

/// Renames the columns of queries in FROM for which the engine may choose equal names.
struct InnerQueries {
    any: bool,
}

impl VisitorMut for InnerQueries {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if names_of(query).is_some() {
            self.any |= rename_apart(&mut query.body, DistinctColumns::Doubtful);
        }
        ControlFlow::Continue(())
    }
}
