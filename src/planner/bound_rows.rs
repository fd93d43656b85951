//! `INSERT INTO t VALUES (?, ?)` with many rows of values: one statement that reads them all as a table (VALUE-1).

use std::ops::ControlFlow;

use anabranch_udfs::{Walk, WalkMut};
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Insert, Query, SelectItem, SetExpr, Statement as AnsiStatement, Value, Visitor,
    VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use crate::error::{Error, Result};
use crate::planner::ast::{ParsedStatement, Statement};

/// The name of the table of bound rows; its columns are named like the parameters, with their `$`.
pub const BOUND_ROWS: &str = "bound rows";

/// Whether the statement inserts one row of values, so that it can insert many at once.
pub fn inserts_one_row(parsed: &ParsedStatement) -> bool {
    let Statement::Sql(sql) = &parsed.statement else {
        return false;
    };
    let SqlStatement::Statement(statement) = sql.as_ref() else {
        return false;
    };
    let AnsiStatement::Insert(insert) = statement.as_ref() else {
        return false;
    };
    one_row(insert).is_some_and(|row| {
        let mut other = UnsupportedPart { is_found: false };
        for expr in row {
            let _ = Walk::walk(expr, &mut other);
        }
        !other.is_found
    })
}

/// Makes the row of an INSERT a query over the table of bound rows.
///
/// # Errors
///
/// None for a statement that [`inserts_one_row`].
pub fn read_bound_rows(statement: &mut SqlStatement) -> Result<()> {
    let internal = || Error::internal("the statement inserts no row of values");
    let SqlStatement::Statement(statement) = statement else {
        return Err(internal());
    };
    let AnsiStatement::Insert(insert) = statement.as_mut() else {
        return Err(internal());
    };
    let row = one_row(insert).ok_or_else(internal)?.to_vec();
    let text = format!("SELECT NULL FROM \"{BOUND_ROWS}\"");
    let query = Parser::parse_sql(&GenericDialect {}, &text);
    let query = query.ok().and_then(|mut parsed| parsed.pop());
    let Some(AnsiStatement::Query(mut query)) = query else {
        return Err(internal());
    };
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(internal());
    };
    let items = row.into_iter().enumerate().map(|(place, mut expr)| {
        let _ = WalkMut::walk_mut(&mut expr, &mut ParameterColumns);
        SelectItem::ExprWithAlias {
            expr,
            alias: Ident::with_quote('"', format!("value {place}")),
        }
    });
    select.projection = items.collect();
    insert.source = Some(query);
    Ok(())
}

fn one_row(insert: &Insert) -> Option<&[Expr]> {
    let Query {
        with: None,
        body,
        order_by: None,
        limit_clause: None,
        ..
    } = insert.source.as_ref()?.as_ref()
    else {
        return None;
    };
    match body.as_ref() {
        SetExpr::Values(values) => match values.rows.as_slice() {
            [row] => Some(&row.content),
            _ => None,
        },
        _ => None,
    }
}

/// Finds parts that must stay literals, or that have a meaning in VALUES only.
struct UnsupportedPart {
    is_found: bool,
}

impl Visitor for UnsupportedPart {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        // DEFAULT is a name.
        let is_other = match expr {
            Expr::Interval(interval) => matches!(
                interval.value.as_ref(),
                Expr::Value(value) if matches!(value.value, Value::Placeholder(_))
            ),
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Subquery(_) => true,
            _ => false,
        };
        self.is_found |= is_other;
        ControlFlow::Continue(())
    }
}

/// Replaces parameters by columns.
struct ParameterColumns;

impl VisitorMut for ParameterColumns {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(name) = &value.value
        {
            let mut column = Ident::with_quote('"', name.clone());
            column.span = value.span;
            *expr = Expr::Identifier(column);
        }
        ControlFlow::Continue(())
    }
}
