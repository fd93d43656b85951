//! Rewrite of the bare table name in `TUMBLE(visits, …)` to a subquery.
//!
//! Before planning, DataFusion resolves the names that the statement uses as relations. A name used as an expression is not
//! among them; as `(SELECT * FROM visits)` it is.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, ObjectName, ObjectNamePart, TableFactor, VisitorMut,
};
use datafusion::sql::sqlparser::parser::ParserError;

use super::{WalkMut, is_window_function, select_all};

/// Rewrites the first argument of every TUMBLE, HOP, CUMULATE, SESSION and COMPLETE_SESSIONS in `node` (a statement or a query)
/// from a name to a subquery. Call it once between parsing and planning; a second call changes nothing.
///
/// # Errors
///
/// Only if the subquery cannot be built, which a valid name does not cause.
pub fn rewrite_window_calls<V: WalkMut>(node: &mut V) -> Result<(), ParserError> {
    match node.walk_mut(&mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = ParserError;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<ParserError> {
        let TableFactor::Table {
            name,
            args: Some(args),
            ..
        } = factor
        else {
            return ControlFlow::Continue(());
        };
        let [ObjectNamePart::Identifier(function)] = name.0.as_slice() else {
            return ControlFlow::Continue(());
        };
        if !is_window_function(function) {
            return ControlFlow::Continue(());
        }
        let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))) = args.args.first_mut()
        else {
            return ControlFlow::Continue(());
        };
        let table = match argument {
            Expr::Identifier(ident) => ObjectName::from(vec![ident.clone()]),
            Expr::CompoundIdentifier(idents) => ObjectName::from(idents.clone()),
            _ => return ControlFlow::Continue(()),
        };
        match select_all(table) {
            Ok(subquery) => {
                *argument = subquery;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}
