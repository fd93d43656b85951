//! Unique names for casts: in `avg(x), avg(CAST(x AS DOUBLE))` and `GROUP BY x, CAST(x AS DATE)` the engine gives both
//! expressions one name, since its names omit casts, and refuses the second. So the casts of such calls and keys are wrapped in
//! a function that returns its argument and makes the name unique.
//!
//! The same is done for calls with `x IN (SELECT …)` in them, whose query the engine's names omit.
//!
//! And `CAST(x AS INT)` in a select list gets the name `x`: the engine would name it with its table, `t.x`. In VALUES, casts to
//! REAL are kept apart from those that the engine adds to other rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use anabranch_udfs::WalkMut;
use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{
    CastKind, Expr, Function, FunctionArguments, GroupByExpr, Ident, ObjectName, ObjectNamePart,
    OrderByKind, Query, Select, SelectItem, SetExpr, Value, VisitorMut,
};

use crate::planner::normalize;
use crate::planner::types::arrow_type;
use crate::session::names::labels::label_of;
use crate::session::syntax::{call, looked_for, taken};

/// Makes calls and keys unique that differ only by casts, and names casts of columns.
pub(crate) fn apart(node: &mut impl WalkMut) {
    let _ = node.walk_mut(&mut Queries::default());
}

#[derive(Default)]
struct Queries {
    /// Depth of enclosing expressions with a query in them: the columns of such a query need no name.
    values: usize,
}

impl VisitorMut for Queries {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.values += usize::from(has_query(expr));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.values -= usize::from(has_query(expr));
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let is_named = self.values == 0;
        match query.body.as_mut() {
            SetExpr::Select(select) => {
                let order = query.order_by.as_mut().map(|order| &mut order.kind);
                in_select(select, order, is_named);
            }
            other => in_operands(other, is_named),
        }
        ControlFlow::Continue(())
    }
}

fn has_query(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. }
    )
}

/// The operands of UNION and other set operations; those in parentheses are visited as queries.
fn in_operands(body: &mut SetExpr, is_named: bool) {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            in_operands(left, is_named);
            in_operands(right, is_named);
        }
        SetExpr::Select(select) => in_select(select, None, is_named),
        SetExpr::Values(values) if values.rows.len() > 1 => {
            let values = values.rows.iter_mut().flat_map(|row| &mut row.content);
            values.for_each(mark_real);
        }
        _ => {}
    }
}

/// Marks a cast to REAL in VALUES: the engine itself casts the values of other rows to REAL, which should be DOUBLE.
fn mark_real(value: &mut Expr) {
    if let Expr::Cast { data_type, .. } = value
        && matches!(arrow_type(data_type), Ok(DataType::Float32))
    {
        let text = Value::SingleQuotedString(value.to_string());
        *value = call(MARK, [Expr::Value(text.into()), taken(value)]);
    }
}

fn in_select(select: &mut Select, mut order: Option<&mut OrderByKind>, is_named: bool) {
    // Most queries have no casts, and their calls need not be compared.
    if select.walk_mut(&mut AnyUnnamed).is_continue()
        && order
            .as_deref_mut()
            .is_none_or(|order| order.walk_mut(&mut AnyUnnamed).is_continue())
    {
        return;
    }
    if differ_only_by_casts(select) {
        mark_all(select, order);
        return;
    }
    if is_named && order.is_none() {
        name_casts(select);
    }
    let mut calls = QueryCalls::default();
    let mut visit = |calls: &mut QueryCalls| {
        let _ = select.projection.walk_mut(calls);
        let _ = select.having.walk_mut(calls);
        let _ = select.qualify.walk_mut(calls);
        if let Some(order) = order.as_deref_mut() {
            let _ = order.walk_mut(calls);
        }
    };
    visit(&mut calls);
    calls.by_name.retain(|_, texts| texts.len() > 1);
    if !calls.by_name.is_empty() {
        calls.tells_apart = true;
        visit(&mut calls);
    }
}

/// Whether some keys of GROUP BY differ only by a cast.
fn differ_only_by_casts(select: &Select) -> bool {
    let mut by_name: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for key in keys(select) {
        let mut key = key.clone();
        let _ = key.walk_mut(&mut NormalizedNames);
        let text = key.to_string();
        let _ = key.walk_mut(&mut UnnamedParts::casts());
        by_name.entry(key.to_string()).or_default().insert(text);
    }
    by_name.values().any(|texts| texts.len() > 1)
}

/// The keys of GROUP BY, each once; a number or an alias is replaced by its expression.
fn keys<'a>(select: &'a Select) -> Vec<&'a Expr> {
    let mut listed = Vec::new();
    let mut by_alias = BTreeMap::new();
    for item in &select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) => listed.push(expr),
            SelectItem::ExprWithAlias { expr, alias } => {
                listed.push(expr);
                by_alias.entry(normalize(alias)).or_insert(expr);
            }
            // The positions of the items after it are not known.
            _ => break,
        }
    }
    let mut keys = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |key: &'a Expr| {
        let named = match key {
            Expr::Value(place) => match &place.value {
                Value::Number(place, _) => {
                    let place = place.parse::<usize>().unwrap_or(0);
                    place.checked_sub(1).and_then(|place| listed.get(place))
                }
                _ => None,
            },
            Expr::Identifier(name) => by_alias.get(&normalize(name)),
            _ => None,
        };
        let key = named.copied().unwrap_or(key);
        if seen.insert(std::ptr::from_ref(key)) {
            keys.push(key);
        }
    };
    match &select.group_by {
        GroupByExpr::All(_) => listed.iter().copied().for_each(add),
        GroupByExpr::Expressions(exprs, _) => {
            for expr in exprs {
                match expr {
                    Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => {
                        sets.iter().flatten().for_each(&mut add);
                    }
                    other => add(other),
                }
            }
        }
    }
    keys
}

/// Marks all casts of a query with their types.
fn mark_all(select: &mut Select, order: Option<&mut OrderByKind>) {
    let mut keys = CastMarks::default();
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else {
            let _ = item.walk_mut(&mut keys);
            continue;
        };
        let typed = expr.to_string();
        let _ = expr.walk_mut(&mut keys);
        if expr.to_string() != typed {
            // The outer queries refer to the column by its original text.
            let expr = taken(expr);
            let alias = Ident::with_quote('"', typed);
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
    }
    let _ = select.group_by.walk_mut(&mut keys);
    let _ = select.having.walk_mut(&mut keys);
    let _ = select.qualify.walk_mut(&mut keys);
    if let Some(order) = order {
        let _ = order.walk_mut(&mut keys);
    }
}

/// Names casts of columns like their columns, if no other column has that name.
fn name_casts(select: &mut Select) {
    // In these clauses the engine would resolve the name to the cast and not to the column.
    if select.having.is_some() || select.qualify.is_some() || select.distinct.is_some() {
        return;
    }
    let label = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expr) => Some(label_of(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(normalize(alias)),
        _ => None,
    };
    let labels: Option<Vec<String>> = select.projection.iter().map(label).collect();
    let Some(labels) = labels else {
        return;
    };
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for label in &labels {
        *times.entry(label).or_default() += 1;
    }
    for (item, label) in select.projection.iter_mut().zip(&labels) {
        let SelectItem::UnnamedExpr(expr) = item else {
            continue;
        };
        let is_cast_of_column =
            matches!(&*expr, Expr::Cast { expr, .. } if label_of(expr) == *label);
        let is_only = times.get(label.as_str()) == Some(&1);
        if is_cast_of_column && is_only {
            let expr = taken(expr);
            let alias = Ident::with_quote('"', label.clone());
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
    }
}

/// Finds parts that the engine's names omit.
struct AnyUnnamed;

impl VisitorMut for AnyUnnamed {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match matches!(expr, Expr::Cast { .. }) || membership(expr).is_some() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// The calls of a query, without those of its subqueries.
#[derive(Default)]
struct QueryCalls {
    /// The forms with casts, by the form without casts.
    by_name: BTreeMap<String, BTreeSet<String>>,
    tells_apart: bool,
    queries: usize,
}

impl VisitorMut for QueryCalls {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else {
            return ControlFlow::Continue(());
        };
        if self.queries > 0 || is_marked(&function.name) {
            return ControlFlow::Continue(());
        }
        let mut bare = function.clone();
        lower(&mut bare.name);
        let text = bare.to_string();
        let mut unnamed = UnnamedParts::casts_and_queries(false);
        let _ = bare.args.walk_mut(&mut unnamed);
        let _ = bare.filter.walk_mut(&mut unnamed);
        let name = bare.to_string();
        if !self.tells_apart {
            self.by_name.entry(name).or_default().insert(text);
        } else if self.by_name.contains_key(&name) {
            mark(function);
        }
        ControlFlow::Continue(())
    }
}

fn mark(function: &mut Function) {
    let mut marks = UnnamedParts::casts_and_queries(true);
    if let FunctionArguments::List(_) = &function.args {
        let _ = function.args.walk_mut(&mut marks);
    }
    let _ = function.filter.walk_mut(&mut marks);
}

const MARK: &str = "as_typed";

fn is_marked(name: &ObjectName) -> bool {
    matches!(name.0.as_slice(), [ObjectNamePart::Identifier(name)] if name.value == MARK)
}

/// Unquoted names of functions are case-insensitive.
fn lower(name: &mut ObjectName) {
    for part in &mut name.0 {
        if let ObjectNamePart::Identifier(Ident {
            value,
            quote_style: None,
            ..
        }) = part
        {
            *value = value.to_lowercase();
        }
    }
}

/// Marks the casts of a query with their types, and leaves its subqueries alone.
#[derive(Default)]
struct CastMarks {
    queries: usize,
}

impl VisitorMut for CastMarks {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Cast {
            kind, data_type, ..
        } = expr
        else {
            return ControlFlow::Continue(());
        };
        if self.queries > 0 {
            return ControlFlow::Continue(());
        }
        let of = arrow_type(data_type);
        let of = of.map_or_else(|_| data_type.to_string(), |of| of.to_string());
        let text = match kind {
            CastKind::TryCast | CastKind::SafeCast => format!("TRY {of}"),
            CastKind::Cast | CastKind::DoubleColon => of,
        };
        let text = Expr::Value(Value::SingleQuotedString(text).into());
        *expr = call(KEY, [text, expr.clone()]);
        ControlFlow::Continue(())
    }
}

/// The function that returns its argument, under another name for keys.
const KEY: &str = "typed_key";

/// The expression with normalized names: without their tables, in lower case unless quoted, and without brackets.
pub(crate) fn bare(expr: &Expr) -> Expr {
    let mut bare = expr.clone();
    let _ = bare.walk_mut(&mut NormalizedNames);
    bare
}

/// Normalizes names: removes their tables and brackets, and makes unquoted ones lower case.
struct NormalizedNames;

impl VisitorMut for NormalizedNames {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let bare = match expr {
            Expr::Identifier(name) => Some(Expr::Identifier(Ident::new(normalize(name)))),
            Expr::CompoundIdentifier(parts) => parts
                .last()
                .map(|name| Expr::Identifier(Ident::new(normalize(name)))),
            Expr::Nested(inner) => Some(taken(inner)),
            Expr::Function(function) => {
                lower(&mut function.name);
                None
            }
            _ => None,
        };
        if let Some(bare) = bare {
            *expr = bare;
        }
        ControlFlow::Continue(())
    }
}

/// Removes from an expression the parts that the engine's names omit, or marks them.
struct UnnamedParts {
    marks: bool,
    /// Also IN with a query, not only casts.
    with_queries: bool,
    queries: usize,
}

impl UnnamedParts {
    fn casts() -> Self {
        Self {
            marks: false,
            with_queries: false,
            queries: 0,
        }
    }

    fn casts_and_queries(marks: bool) -> Self {
        Self {
            marks,
            with_queries: true,
            queries: 0,
        }
    }
}

impl VisitorMut for UnnamedParts {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let asks = self.with_queries && self.queries == 0;
        let left = match (&*expr, asks) {
            (Expr::Cast { expr: inner, .. }, _) => Expr::clone(inner),
            (asked, true) => match membership(asked) {
                Some(name) => Expr::Identifier(Ident::new(name)),
                None => return ControlFlow::Continue(()),
            },
            _ => return ControlFlow::Continue(()),
        };
        *expr = match self.marks {
            false => left,
            true => {
                let text = Value::SingleQuotedString(expr.to_string());
                call(MARK, [Expr::Value(text.into()), expr.clone()])
            }
        };
        ControlFlow::Continue(())
    }
}

/// The part of the engine's name for a value that is looked up in a query.
fn membership(expr: &Expr) -> Option<&'static str> {
    let (_, negated) = looked_for(expr)?;
    Some(if negated { "NOT IN" } else { "IN" })
}
