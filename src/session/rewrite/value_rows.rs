//! Rewrite of VALUES with subqueries, `VALUES ((SELECT …), 1), …`: the engine evaluates rows of VALUES by themselves, and
//! supports no subquery in them. Such rows become queries of a UNION ALL, with the column names that VALUES has.
//!
//! `INSERT INTO t SELECT … FROM (VALUES (1), (2)) AS v (x)`: within an INSERT the engine gives every VALUES the columns of the
//! table. That is right for VALUES that are inserted unchanged. Nested VALUES become queries too.

use std::ops::ControlFlow;

use anabranch_udfs::{Walk, WalkMut};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier, Spanned as _,
    Statement, Values, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use crate::error::{Error, Result};

/// The most rows of one VALUES that become queries.
const ROWS: usize = 1_000;

/// Rewrites VALUES with a query in one of its rows, or within the query of an INSERT, to queries.
///
/// # Errors
///
/// Too many rows.
pub(crate) fn with_queries(node: &mut impl WalkMut) -> Result<()> {
    match WalkMut::walk_mut(node, &mut Rows::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

#[derive(Default)]
struct Rows {
    in_insert: bool,
    /// The number of enclosing queries.
    depth: usize,
}

impl VisitorMut for Rows {
    type Break = Error;

    fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<Error> {
        self.in_insert |= matches!(statement, Statement::Insert(_));
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let is_inside_insert = self.in_insert && self.depth > 0;
        self.depth += 1;
        match in_body(&mut query.body, is_inside_insert) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

fn in_body(body: &mut SetExpr, is_inside_insert: bool) -> Result<()> {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            in_body(left, is_inside_insert)?;
            in_body(right, is_inside_insert)
        }
        SetExpr::Values(values)
            if !values.value_keyword && (is_inside_insert || has_query(values)) =>
        {
            let queries = as_queries(values)?;
            *body = queries;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn has_query(values: &Values) -> bool {
    struct AnyQuery;

    impl Visitor for AnyQuery {
        type Break = ();

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }

    let mut all = values.rows.iter().flat_map(|row| &row.content);
    all.any(|value: &Expr| Walk::walk(value, &mut AnyQuery).is_break())
}

fn as_queries(values: &mut Values) -> Result<SetExpr> {
    let rows = std::mem::take(&mut values.rows);
    let first = rows.first().and_then(|row| row.content.first());
    if rows.len() > ROWS {
        let error = Error::unsupported(format!(
            "VALUES of more than {ROWS} rows is not supported with a query in one of them, or inside the query of an INSERT"
        ))
        .with_help(
            "add rows with queries by UNION ALL SELECT …; insert many rows as they are by INSERT INTO t VALUES …",
        );
        return Err(match first {
            Some(first) => error.at(first.span()),
            None => error,
        });
    }
    let template = one_row()?;
    let rows = rows.into_iter().map(|row| {
        let mut select = template.clone();
        let values = row.content.into_iter().enumerate();
        let values = values.map(|(place, expr)| SelectItem::ExprWithAlias {
            expr,
            alias: Ident::with_quote('"', format!("column{}", place + 1)),
        });
        select.projection = values.collect();
        SetExpr::Select(Box::new(select))
    });
    united(rows.collect()).ok_or_else(|| Error::internal("VALUES has no rows"))
}

/// `SELECT 1`. Parsed rather than built by hand: the syntax tree has many fields that mean "absent".
fn one_row() -> Result<Select> {
    let parsed = Parser::new(&GenericDialect {})
        .try_with_sql("SELECT 1")
        .and_then(|mut parser| parser.parse_query());
    match parsed.map(|query| *query.body) {
        Ok(SetExpr::Select(select)) => Ok(*select),
        _ => Err(Error::internal("a row of VALUES is not a query")),
    }
}

/// The UNION ALL of all queries, as a shallow tree.
fn united(mut all: Vec<SetExpr>) -> Option<SetExpr> {
    if all.len() < 2 {
        return all.pop();
    }
    let behind = all.split_off(all.len() / 2);
    Some(SetExpr::SetOperation {
        op: SetOperator::Union,
        set_quantifier: SetQuantifier::All,
        left: Box::new(united(all)?),
        right: Box::new(united(behind)?),
    })
}
