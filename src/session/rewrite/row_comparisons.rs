//! Rewrite of row comparisons, `(a, b) = (c, d)` and `(a, b) IN (SELECT x, y …)`, to comparisons of elements, by SQL's rules
//! for NULL.
//!
//! The engine makes structs of such rows, in which NULL equals NULL. Here each comparison becomes one of the elements: an AND
//! or OR of them, or EXISTS if a query gives the rows. Structs that are not rows, such as `{'a': 1}` or a column, are not
//! changed.

use std::ops::ControlFlow;

use anabranch_udfs::{ROWS_OF_QUERY, Walk, WalkMut};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr, Spanned as _, TableFactor,
    TableWithJoins, UnaryOperator, Value, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::error::{Error, Result};
use crate::planner::normalize;
use crate::session::rewrite::standard::in_query;
use crate::session::syntax::{looked_for, taken};

/// Rows in the list of one IN.
const MEMBERS: usize = 4_000;
/// Values of a row in a comparison by order.
const ORDERED: usize = 100;
/// Limit for the number of copied expressions.
pub(crate) const COPIED: usize = 100_000;
/// Bytes of a literal that count as an expression.
const LITERAL: usize = 64;

/// Replaces comparisons of rows by comparisons of their elements.
///
/// # Errors
///
/// Rows of different lengths, and comparisons that are not supported.
pub(crate) fn by_elements(node: &mut impl WalkMut) -> Result<()> {
    match WalkMut::walk_mut(node, &mut Rows { copied: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rows {
    /// Number of expressions copied so far.
    copied: usize,
}

fn flow(done: Result<()>) -> ControlFlow<Error> {
    match done {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl VisitorMut for Rows {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if let Some(filter) = &mut select.selection {
            flow(self.in_filter(filter, true))?;
        }
        let mut tables = select.from.iter_mut();
        flow(tables.try_for_each(|table| self.in_joins(table)))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match factor {
            TableFactor::NestedJoin {
                table_with_joins, ..
            } => flow(self.in_joins(table_with_joins)),
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        flow(self.in_expr(expr))
    }
}

impl Rows {
    fn in_joins(&mut self, table: &mut TableWithJoins) -> Result<()> {
        for join in &mut table.joins {
            if let Some(JoinConstraint::On(condition)) = constraint(&mut join.join_operator) {
                self.in_filter(condition, true)?;
            }
        }
        Ok(())
    }

    /// Rewrites a filter condition that passes rows for which its value is `wanted`: for a filter, unknown is as good as the
    /// opposite.
    fn in_filter(&mut self, expr: &mut Expr, wanted: bool) -> Result<()> {
        if is_membership(expr) {
            *expr = self.exists(taken(expr), wanted)?;
            return Ok(());
        }
        match expr {
            Expr::Nested(inner) => self.in_filter(inner, wanted),
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => self.in_filter(expr, !wanted),
            Expr::BinaryOp {
                left,
                op: BinaryOperator::And | BinaryOperator::Or,
                right,
            } => {
                self.in_filter(left, wanted)?;
                self.in_filter(right, wanted)
            }
            _ => Ok(()),
        }
    }

    /// Rewrites `(a, b) IN (SELECT x, y …)` to `EXISTS (SELECT 1 FROM (SELECT x, y …) AS r (x, y) WHERE a = r.x AND b = r.y)`.
    /// For NOT IN, rows whose comparison is unknown count as matches too.
    fn exists(&mut self, mut membership: Expr, wanted: bool) -> Result<Expr> {
        let span = membership.span();
        in_query(&mut membership);
        let Expr::InSubquery {
            expr: row,
            subquery: query,
            negated,
        } = membership
        else {
            return Err(Error::internal("this is not looked for in a query"));
        };
        let row = elements(*row);
        if let Some(columns) = columns_of(&query.body)
            && columns != row.len()
        {
            return Err(unlike(row.len(), columns, span));
        }
        let is_found = wanted != negated;
        let mut conditions = Vec::with_capacity(row.len());
        for (place, value) in row.iter().enumerate() {
            let column =
                Expr::Identifier(Ident::with_quote('"', format!("{ROWS_OF_QUERY}_{place}")));
            let equal = |column: Expr, value| binary(value, BinaryOperator::Eq, column);
            conditions.push(match is_found {
                true => equal(column, value.clone()),
                // If neither side can be NULL, the planner drops the last two, and the comparison becomes the key of a join.
                false => balanced(
                    vec![
                        equal(column.clone(), self.copy(value, span)?),
                        Expr::IsNull(Box::new(value.clone())),
                        Expr::IsNull(Box::new(column)),
                    ],
                    &BinaryOperator::Or,
                ),
            });
        }
        let filter = balanced(conditions, &BinaryOperator::And);
        Ok(Expr::Exists {
            subquery: Box::new(rows_of(query, row.len(), filter)?),
            negated,
        })
    }

    fn in_expr(&mut self, expr: &mut Expr) -> Result<()> {
        let span = match &*expr {
            Expr::BinaryOp { left, right, .. } if is_row(left) || is_row(right) => expr.span(),
            Expr::InList { expr: value, .. }
            | Expr::InSubquery { expr: value, .. }
            | Expr::Between { expr: value, .. }
            | Expr::AnyOp { left: value, .. }
            | Expr::AllOp { left: value, .. }
            | Expr::IsNull(value)
            | Expr::IsNotNull(value)
                if is_row(value) =>
            {
                expr.span()
            }
            _ => return Ok(()),
        };
        *expr = match taken(expr) {
            Expr::BinaryOp { left, op, right } if is_comparison(&op) => {
                self.binary(*left, op, *right, span)?
            }
            Expr::InList {
                expr,
                list,
                negated,
            } => {
                let found = self.in_list(elements(*expr), list, span)?;
                not_if(negated, found)
            }
            Expr::Between {
                expr,
                negated,
                low,
                high,
            } if is_row(&low) && is_row(&high) => {
                let least = self.copy(&expr, span)?;
                let least = self.pair(least, &BinaryOperator::GtEq, *low, span)?;
                let most = self.pair(*expr, &BinaryOperator::LtEq, *high, span)?;
                not_if(negated, binary(least, BinaryOperator::And, most))
            }
            // All elements are NULL, or all are not NULL: neither is the opposite of the other.
            Expr::IsNull(row) => {
                let each = elements(*row).into_iter();
                let each = each.map(|value| Expr::IsNull(Box::new(value)));
                balanced(each.collect(), &BinaryOperator::And)
            }
            Expr::IsNotNull(row) => {
                let each = elements(*row).into_iter();
                let each = each.map(|value| Expr::IsNotNull(Box::new(value)));
                balanced(each.collect(), &BinaryOperator::And)
            }
            Expr::InSubquery { .. } => {
                return Err(Error::unsupported(
                    "rows of values are compared with a query in WHERE and ON only, alone or combined by AND, OR and NOT",
                )
                .with_help(
                    "write it in WHERE of a query around this one: SELECT … FROM (SELECT …) AS q WHERE (q.a, q.b) IN (SELECT …)",
                )
                .at(span));
            }
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. }
                if matches!(right.as_ref(), Expr::Subquery(_)) =>
            {
                return Err(of_query(span));
            }
            other => other,
        };
        Ok(())
    }

    fn binary(&mut self, left: Expr, op: BinaryOperator, right: Expr, span: Span) -> Result<Expr> {
        if matches!(left, Expr::Subquery(_)) || matches!(right, Expr::Subquery(_)) {
            return Err(of_query(span));
        }
        self.pair(left, &op, right, span)
    }

    /// `left op right` of two values, or of two rows.
    fn pair(&mut self, left: Expr, op: &BinaryOperator, right: Expr, span: Span) -> Result<Expr> {
        match is_row(&left) && is_row(&right) {
            true => self.rows(elements(left), op, elements(right), span),
            false => Ok(binary(left, op.clone(), right)),
        }
    }

    fn rows(
        &mut self,
        left: Vec<Expr>,
        op: &BinaryOperator,
        right: Vec<Expr>,
        span: Span,
    ) -> Result<Expr> {
        if left.len() != right.len() {
            return Err(unlike(left.len(), right.len(), span));
        }
        let joined = match op {
            BinaryOperator::Eq => BinaryOperator::And,
            BinaryOperator::NotEq => BinaryOperator::Or,
            _ => return self.ordered(left, op, right, span),
        };
        let mut each = Vec::with_capacity(left.len());
        for (left, right) in left.into_iter().zip(right) {
            each.push(self.pair(left, op, right, span)?);
        }
        Ok(balanced(each, &joined))
    }

    /// Compares by the first elements that differ: `a < c OR (a = c AND b < d)`.
    fn ordered(
        &mut self,
        left: Vec<Expr>,
        op: &BinaryOperator,
        right: Vec<Expr>,
        span: Span,
    ) -> Result<Expr> {
        if left.len() > ORDERED {
            return Err(Error::unsupported(format!(
                "rows of more than {ORDERED} values are compared by = and <> only"
            ))
            .at(span));
        }
        let differs = match op {
            BinaryOperator::Lt | BinaryOperator::LtEq => BinaryOperator::Lt,
            _ => BinaryOperator::Gt,
        };
        let mut behind: Option<Expr> = None;
        for (left, right) in left.into_iter().zip(right).rev() {
            behind = Some(match behind {
                None => self.pair(left, op, right, span)?,
                Some(behind) => {
                    let (again, against) = (self.copy(&left, span)?, self.copy(&right, span)?);
                    let decided = self.pair(again, &differs, against, span)?;
                    let equal = self.pair(left, &BinaryOperator::Eq, right, span)?;
                    let undecided = binary(equal, BinaryOperator::And, behind);
                    binary(decided, BinaryOperator::Or, undecided)
                }
            });
        }
        behind.ok_or_else(|| Error::internal("a row has no values"))
    }

    fn in_list(&mut self, row: Vec<Expr>, list: Vec<Expr>, span: Span) -> Result<Expr> {
        if list.len() > MEMBERS {
            return Err(Error::unsupported(format!(
                "a list of more than {MEMBERS} rows is not supported"
            ))
            .with_help(
                "compare them with a query, which becomes a join: (a, b) IN (VALUES (1, 2), …)",
            )
            .at(span));
        }
        let row = Expr::Tuple(row);
        let mut each = Vec::with_capacity(list.len());
        for member in list {
            let row = self.copy(&row, span)?;
            each.push(self.binary(row, BinaryOperator::Eq, member, span)?);
        }
        Ok(balanced(each, &BinaryOperator::Or))
    }

    /// A copy of the expression, within the limit.
    fn copy(&mut self, expr: &Expr, span: Span) -> Result<Expr> {
        self.copied = self.copied.saturating_add(size(expr));
        match self.copied > COPIED {
            true => Err(
                Error::unsupported("too many values are compared in rows here")
                    .with_help("compute the values in a query in FROM, and compare its columns")
                    .at(span),
            ),
            false => Ok(expr.clone()),
        }
    }
}

/// The number of expressions within an expression, including itself; a long literal counts as several.
pub(crate) fn size(expr: &Expr) -> usize {
    let mut size = Size(0);
    let _ = Walk::walk(expr, &mut size);
    size.0
}

struct Size(usize);

impl Visitor for Size {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.0 += match expr {
            Expr::Value(value) => 1 + value.to_string().len() / LITERAL,
            _ => 1,
        };
        ControlFlow::Continue(())
    }
}

fn constraint(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => Some(constraint),
        _ => None,
    }
}

/// Whether a row is compared with the rows of a query.
fn is_membership(expr: &Expr) -> bool {
    looked_for(expr).is_some_and(|(value, _)| is_row(value))
}

fn is_comparison(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}

/// Whether this is a row of values: `(a, b)` or `ROW(a, b)`.
fn is_row(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) => is_row(inner),
        Expr::Tuple(values) => !values.is_empty(),
        Expr::Function(function) => {
            values_of(function).is_some_and(|mut values| values.next().is_some())
        }
        _ => false,
    }
}

/// The values of a call of ROW.
fn values_of(function: &Function) -> Option<impl Iterator<Item = &Expr>> {
    let [name] = function.name.0.as_slice() else {
        return None;
    };
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    let is_named = name.as_ident().is_some_and(|name| normalize(name) == "row");
    let are_values = list
        .args
        .iter()
        .all(|argument| value_of(argument).is_some());
    let is_plain = list.clauses.is_empty() && list.duplicate_treatment.is_none();
    (is_named && are_values && is_plain && function.over.is_none())
        .then(move || list.args.iter().filter_map(value_of))
}

fn value_of(argument: &FunctionArg) -> Option<&Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Some(value),
        _ => None,
    }
}

/// The values of a row.
fn elements(row: Expr) -> Vec<Expr> {
    match row {
        Expr::Nested(inner) => elements(*inner),
        Expr::Tuple(values) => values,
        Expr::Function(function) => {
            let values: Option<Vec<Expr>> =
                values_of(&function).map(|values| values.cloned().collect());
            values.unwrap_or_else(|| vec![Expr::Function(function)])
        }
        other => vec![other],
    }
}

/// The number of columns of a query, if its text determines it.
fn columns_of(body: &SetExpr) -> Option<usize> {
    match body {
        SetExpr::Select(select) => {
            let is_one = |item: &SelectItem| {
                matches!(
                    item,
                    SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
                )
            };
            let are_told = select.projection.iter().all(is_one);
            are_told.then_some(select.projection.len())
        }
        SetExpr::Values(values) => values.rows.first().map(|row| row.content.len()),
        SetExpr::Query(query) => columns_of(&query.body),
        SetExpr::SetOperation { left, .. } => columns_of(left),
        _ => None,
    }
}

/// `SELECT 1 FROM (query) AS r (…) WHERE filter`.
fn rows_of(query: Box<Query>, columns: usize, filter: Expr) -> Result<Query> {
    let internal = || Error::internal("rows of a query cannot be named");
    let names = (0..columns).map(|place| format!("\"{ROWS_OF_QUERY}_{place}\""));
    let names = names.collect::<Vec<_>>().join(", ");
    // Parsed rather than built by hand: the syntax tree has many fields that mean "absent".
    let text = format!("SELECT 1 FROM (SELECT 1) AS \"{ROWS_OF_QUERY}\" ({names})");
    let parsed = Parser::new(&GenericDialect {})
        .try_with_sql(&text)
        .and_then(|mut parser| parser.parse_query());
    let mut rows = parsed.map_err(|_| internal())?;
    let SetExpr::Select(select) = rows.body.as_mut() else {
        return Err(internal());
    };
    let from = select.from.first_mut().map(|from| &mut from.relation);
    let Some(TableFactor::Derived { subquery, .. }) = from else {
        return Err(internal());
    };
    *subquery = query;
    select.selection = Some(filter);
    Ok(*rows)
}

/// The conjunction or disjunction of all expressions, as a shallow tree.
fn balanced(mut all: Vec<Expr>, op: &BinaryOperator) -> Expr {
    if all.len() < 2 {
        return all.pop().unwrap_or_else(|| Expr::Value(Value::Null.into()));
    }
    let behind = all.split_off(all.len() / 2);
    binary(balanced(all, op), op.clone(), balanced(behind, op))
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op,
        right: Box::new(right),
    }
}

fn not_if(negated: bool, expr: Expr) -> Expr {
    match negated {
        true => Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr: Box::new(Expr::Nested(Box::new(expr))),
        },
        false => expr,
    }
}

fn unlike(left: usize, right: usize, span: Span) -> Error {
    Error::invalid(format!(
        "a row of {left} values is compared with one of {right}"
    ))
    .at(span)
}

fn of_query(span: Span) -> Error {
    Error::unsupported(
        "rows of values are compared with a query by IN, NOT IN, = ANY and <> ALL only",
    )
    .with_help("write a = (SELECT x …) AND b = (SELECT y …), or join with the query")
    .at(span)
}
