//! Readings: what a statement means to the other engine, where that is agreed to be something else than here.
//!
//! A reading rewrites the statement so that it means here what the other engine takes it to mean. The answers may differ
//! only if ours to the rewritten statement is the other engine's to the given one, so a wrong value is reported all the same.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Statement, Value, visit_expressions, visit_expressions_mut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// A reading of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) reason: &'static str,
    /// What is written in the place of an expression whose parts are rewritten; `None`: it stays.
    rewrite: fn(&Expr) -> Option<String>,
}

pub(super) const READINGS: [Reading; 7] = [
    Reading {
        reason: "DuckDB computes no operator of which it knows one operand to be NULL before there are rows",
        rewrite: null_first,
    },
    Reading {
        reason: "DuckDB computes no operator of which one operand is NULL in all rows, by the statistics of columns",
        rewrite: null_left,
    },
    Reading {
        reason: "DuckDB computes no operator of which one operand is NULL in all rows, by the statistics of columns",
        rewrite: null_right,
    },
    Reading {
        reason: "a number without a point is a BIGINT, also in nullif(x, 0); DuckDB's is an INTEGER",
        rewrite: small_zero,
    },
    Reading {
        reason: "the sum of BIGINT is BIGINT, and refused beyond; DuckDB's is HUGEINT, and a constant summand is added at its end",
        rewrite: wide_sum,
    },
    Reading {
        reason: "DuckDB computes an argument also for the rows that FILTER leaves out",
        rewrite: without_filter,
    },
    Reading {
        reason: "DuckDB computes the arguments of coalesce also for the rows that an earlier one has a value for",
        rewrite: whole_coalesce,
    },
];

impl Reading {
    /// The statement as the other engine reads it; `None` if it is the same.
    pub(super) fn of(self, sql: &str) -> Option<String> {
        let mut statement = parsed(sql);
        let plain = statement.to_string();
        each(&mut statement, self.rewrite);
        let read = statement.to_string();
        (read != plain).then_some(read)
    }
}

fn parsed(sql: &str) -> Statement {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).unwrap();
    assert_eq!(statements.len(), 1, "{sql}");
    statements.remove(0)
}

fn expression(sql: &str) -> Expr {
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(sql).unwrap();
    parser.parse_expr().unwrap()
}

/// Rewrites expressions from the inside to the outside.
fn each(statement: &mut Statement, rewrite: fn(&Expr) -> Option<String>) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Some(text) = rewrite(expr) {
            *expr = expression(&format!("({text})"));
        }
        ControlFlow::Continue(())
    });
}

/// Whether an expression of the generator is of a type of integers.
fn is_integer(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(name) => ["k", "i", "b"].contains(&name.value.as_str()),
        Expr::Nested(inner) | Expr::UnaryOp { expr: inner, .. } => is_integer(inner),
        Expr::Cast { data_type, .. } => ["INT", "BIGINT"].contains(&data_type.to_string().as_str()),
        Expr::BinaryOp { left, op, .. } if is_arithmetic(op) => is_integer(left),
        Expr::Function(function) => {
            let is_of_argument = ["nullif", "coalesce", "abs"].contains(&name(function).as_str());
            match arguments(function) {
                [one, ..] if is_of_argument => argument(one).is_some_and(is_integer),
                _ => false,
            }
        }
        Expr::Case {
            conditions,
            else_result,
            ..
        } => {
            let results = conditions.iter().map(|when| &when.result);
            let mut results = results.chain(else_result.as_deref());
            let typed = results.find(|result| !is_null(result));
            typed.is_some_and(is_integer)
        }
        _ => false,
    }
}

fn name(function: &Function) -> String {
    function.name.to_string().to_lowercase()
}

fn list(function: &Function) -> Option<&FunctionArgumentList> {
    match &function.args {
        FunctionArguments::List(list) => Some(list),
        _ => None,
    }
}

fn arguments(function: &Function) -> &[FunctionArg] {
    list(function).map_or(&[], |list| list.args.as_slice())
}

fn argument(argument: &FunctionArg) -> Option<&Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

/// The two arguments of a function with this name.
fn pair<'a>(expr: &'a Expr, of: &str) -> Option<(&'a Expr, &'a Expr)> {
    match expr {
        Expr::Function(function) if name(function) == of => match arguments(function) {
            [one, other] => Some((argument(one)?, argument(other)?)),
            _ => None,
        },
        _ => None,
    }
}

/// An aggregate of one of these names, and its only argument.
fn aggregated<'a>(expr: &'a Expr, names: &[&str]) -> Option<(&'a Function, &'a Expr)> {
    let Expr::Function(function) = expr else {
        return None;
    };
    let list = list(function).filter(|_| names.contains(&name(function).as_str()))?;
    match list.args.as_slice() {
        [one] => Some((function, argument(one)?)),
        _ => None,
    }
}

/// The same call over another argument.
fn over(function: &Function, argument: &str) -> String {
    let mut function = function.clone();
    if let FunctionArguments::List(list) = &mut function.args {
        list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(expression(
            argument,
        )))];
    }
    function.to_string()
}

fn is_arithmetic(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Divide, Minus, Modulo, Multiply, Plus};
    matches!(op, Divide | Minus | Modulo | Multiply | Plus)
}

fn is_null(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if value.value == Value::Null)
}

/// Whether an expression has no columns and calls no aggregates.
fn is_constant(expr: &Expr) -> bool {
    let found = visit_expressions(expr, |part| {
        let is_column = matches!(part, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        let is_aggregate = aggregated(part, &["count", "sum", "min", "max", "avg"]).is_some();
        match is_column || is_aggregate {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    found.is_continue()
}

/// A condition without columns that is true only if the expression is NULL in all rows.
fn known_null(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner)
        | Expr::UnaryOp { expr: inner, .. }
        | Expr::Cast { expr: inner, .. } => known_null(inner),
        Expr::BinaryOp { left, op, right } if is_arithmetic(op) => {
            match (known_null(left), known_null(right)) {
                (Some(left), Some(right)) => Some(format!("({left} OR {right})")),
                (left, right) => left.or(right),
            }
        }
        // Made by `null_first`.
        Expr::Case {
            conditions,
            operand: None,
            ..
        } if matches!(conditions.as_slice(), [when] if is_null(&when.result) && is_constant(&when.condition)) => {
            conditions.first().map(|when| when.condition.to_string())
        }
        Expr::Function(function) if name(function) == "abs" => {
            known_null(argument(arguments(function).first()?)?)
        }
        _ => {
            if let Some((one, other)) = pair(expr, "coalesce") {
                return Some(format!("({} AND {})", known_null(one)?, known_null(other)?));
            }
            let text = expr.to_string();
            if is_constant(expr) {
                return may_be_null(&text).then(|| format!("({text} IS NULL)"));
            }
            let (one, other) = pair(expr, "nullif")?;
            match one == other {
                true => Some("true".to_owned()),
                false => known_null(one),
            }
        }
    }
}

fn null_first(expr: &Expr) -> Option<String> {
    if let Some((one, other)) = pair(expr, "nullif") {
        return match (known_null(one), known_null(other)) {
            (Some(known), _) => Some(format!("CASE WHEN {known} THEN NULL ELSE {expr} END")),
            (None, Some(known)) => Some(format!("CASE WHEN {known} THEN {one} ELSE {expr} END")),
            (None, None) => None,
        };
    }
    match expr {
        Expr::BinaryOp { op, .. } if is_arithmetic(op) => {
            let known = known_null(expr)?;
            Some(format!("CASE WHEN {known} THEN NULL ELSE {expr} END"))
        }
        _ => None,
    }
}

fn null_left(expr: &Expr) -> Option<String> {
    match expr {
        Expr::BinaryOp { left, op, .. } if is_arithmetic(op) => null_side(expr, left),
        _ => None,
    }
}

fn null_right(expr: &Expr) -> Option<String> {
    match expr {
        Expr::BinaryOp { right, op, .. } if is_arithmetic(op) => null_side(expr, right),
        _ => None,
    }
}

/// The operator is not computed where this operand is NULL.
fn null_side(expr: &Expr, operand: &Expr) -> Option<String> {
    may_be_null(&operand.to_string())
        .then(|| format!("CASE WHEN ({operand}) IS NULL THEN NULL ELSE {expr} END"))
}

fn may_be_null(text: &str) -> bool {
    text.contains("NULL") || text.contains("nullif")
}

fn small_zero(expr: &Expr) -> Option<String> {
    let (one, other) = pair(expr, "nullif")?;
    (other.to_string() == "0").then(|| format!("nullif({one}, CAST(0 AS INT))"))
}

fn wide_sum(expr: &Expr) -> Option<String> {
    const WIDE: &str = "AS DECIMAL(38, 0))";
    let (function, argument) = aggregated(expr, &["sum"])?;
    if !is_integer(argument) {
        return None;
    }
    let summed = match bare(argument) {
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Plus,
            right,
        } if is_constant(left) != is_constant(right) => {
            format!("CAST({left} {WIDE} + CAST({right} {WIDE}")
        }
        _ => format!("CAST({argument} {WIDE}"),
    };
    Some(over(function, &summed))
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => bare(inner),
        _ => expr,
    }
}

fn without_filter(expr: &Expr) -> Option<String> {
    let Expr::Function(function) = expr else {
        return None;
    };
    function.filter.as_ref()?;
    let mut function = function.clone();
    function.filter = None;
    Some(function.to_string())
}

/// The last argument is asked for in each row.
fn whole_coalesce(expr: &Expr) -> Option<String> {
    let (one, other) = pair(expr, "coalesce")?;
    Some(format!(
        "CASE WHEN ({other}) IS NULL THEN {one} ELSE {expr} END"
    ))
}
