//! Parts of syntax trees that several rewrites read or make: names of tables, calls, the value of IN.

use std::ops::ControlFlow;

use anabranch_udfs::WalkMut;
use datafusion::sql::parser::{CopyToSource, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, ObjectNamePart, Value, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::error::{Error, Result};
use crate::planner::normalize;

/// Visits a statement, also within EXPLAIN, and the query of a COPY.
pub(crate) fn visit<V: VisitorMut>(
    statement: &mut SqlStatement,
    visitor: &mut V,
) -> ControlFlow<V::Break> {
    match statement {
        SqlStatement::Statement(ansi) => WalkMut::walk_mut(ansi.as_mut(), visitor),
        SqlStatement::Explain(explain) => visit(&mut explain.statement, visitor),
        SqlStatement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => WalkMut::walk_mut(query.as_mut(), visitor),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    }
}

/// A name without catalog and schema.
pub(crate) fn plain_name(name: &ObjectName) -> Result<String> {
    match name.0.last().and_then(ObjectNamePart::as_ident) {
        Some(ident) => Ok(normalize(ident)),
        None => Err(Error::invalid(format!("{name} is not a table name"))),
    }
}

/// The error, with the place of a name.
pub(crate) fn at_name(error: Error, name: &ObjectName) -> Error {
    match name.0.last().and_then(ObjectNamePart::as_ident) {
        Some(ident) => error.at(ident.span),
        None => error,
    }
}

/// The place of the first relation of this name.
pub(crate) fn find_relation(statement: &mut SqlStatement, table: &str) -> Option<Span> {
    struct TableFinder<'a>(&'a str, Option<Span>);

    impl VisitorMut for TableFinder<'_> {
        type Break = ();

        fn pre_visit_relation(&mut self, name: &mut ObjectName) -> ControlFlow<()> {
            match name.0.last().and_then(ObjectNamePart::as_ident) {
                Some(ident) if normalize(ident) == self.0 => {
                    self.1 = Some(ident.span);
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }

    let mut finder = TableFinder(table, None);
    match statement {
        SqlStatement::Statement(ansi) => {
            let _ = ansi.walk_mut(&mut finder);
        }
        SqlStatement::Explain(explain) => return find_relation(&mut explain.statement, table),
        _ => {}
    }
    finder.1
}

/// The value of a comparison by IN, `= ANY` or `<> ALL` with a query, and whether it must be absent from the query's rows.
pub(crate) fn looked_for(expr: &Expr) -> Option<(&Expr, bool)> {
    let (value, list, negated) = match expr {
        Expr::InSubquery { expr, negated, .. } => return Some((expr.as_ref(), *negated)),
        Expr::AnyOp {
            left,
            compare_op: BinaryOperator::Eq,
            right,
            ..
        } => (left, right, false),
        Expr::AllOp {
            left,
            compare_op: BinaryOperator::NotEq,
            right,
        } => (left, right, true),
        _ => return None,
    };
    matches!(**list, Expr::Subquery(_)).then_some((value.as_ref(), negated))
}

/// Takes the expression out and leaves NULL in its place.
pub(crate) fn taken(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Value(Value::Null.into()))
}

/// A call of a function.
pub(crate) fn call<const N: usize>(name: &str, args: [Expr; N]) -> Expr {
    let args = args.map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: Vec::from(args),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
