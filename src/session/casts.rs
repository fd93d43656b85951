//! `avg(x), avg(CAST(x AS DOUBLE))` in one select list: the engine calls both alike, since casts are no part of its names, and
//! refuses the second. So the casts of such calls are told apart by a function that gives the value itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArguments, Ident, ObjectName, ObjectNamePart, OrderByKind, Query,
    Select, SetExpr, Value, VisitMut, VisitorMut,
};

use crate::session::standard::call;

/// Tells the casts apart of calls that differ by nothing else.
pub(super) fn apart(node: &mut impl VisitMut) {
    let _ = node.visit(&mut Queries);
}

struct Queries;

impl VisitorMut for Queries {
    type Break = ();

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        match query.body.as_mut() {
            SetExpr::Select(select) => {
                let order = query.order_by.as_mut().map(|order| &mut order.kind);
                in_select(select, order);
            }
            other => in_operands(other),
        }
        ControlFlow::Continue(())
    }
}

/// The queries of UNION and its kin; those in parentheses are visited as queries.
fn in_operands(body: &mut SetExpr) {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            in_operands(left);
            in_operands(right);
        }
        SetExpr::Select(select) => in_select(select, None),
        _ => {}
    }
}

fn in_select(select: &mut Select, mut order: Option<&mut OrderByKind>) {
    // Most have no cast, and their calls need not be compared.
    if select.visit(&mut AnyCast).is_continue()
        && order
            .as_deref_mut()
            .is_none_or(|order| order.visit(&mut AnyCast).is_continue())
    {
        return;
    }
    let mut calls = Calls::default();
    let mut visit = |calls: &mut Calls| {
        let _ = select.projection.visit(calls);
        let _ = select.having.visit(calls);
        let _ = select.qualify.visit(calls);
        if let Some(order) = order.as_deref_mut() {
            let _ = order.visit(calls);
        }
    };
    visit(&mut calls);
    calls.by_name.retain(|_, texts| texts.len() > 1);
    if !calls.by_name.is_empty() {
        calls.tells_apart = true;
        visit(&mut calls);
    }
}

/// Looks for a cast.
struct AnyCast;

impl VisitorMut for AnyCast {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Cast { .. } => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The calls of a query, and not of those within it.
#[derive(Default)]
struct Calls {
    /// As they are without casts, and as they are.
    by_name: BTreeMap<String, BTreeSet<String>>,
    tells_apart: bool,
    queries: usize,
}

impl VisitorMut for Calls {
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
        let _ = bare.args.visit(&mut Casts { marks: false });
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
    if let FunctionArguments::List(_) = &function.args {
        let _ = function.args.visit(&mut Casts { marks: true });
    }
}

const MARK: &str = "as_typed";

fn is_marked(name: &ObjectName) -> bool {
    matches!(name.0.as_slice(), [ObjectNamePart::Identifier(name)] if name.value == MARK)
}

/// Names of functions without quotes are of no case.
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

/// Takes casts out, or marks them.
struct Casts {
    marks: bool,
}

impl VisitorMut for Casts {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Cast { expr: inner, .. } = expr else {
            return ControlFlow::Continue(());
        };
        let replaced = match self.marks {
            false => Expr::clone(inner),
            true => {
                let text = Value::SingleQuotedString(expr.to_string());
                call(MARK, [Expr::Value(text.into()), expr.clone()])
            }
        };
        *expr = replaced;
        ControlFlow::Continue(())
    }
}
