//! Rewrites of standard SQL that the engine's planner lacks: FETCH FIRST, members of lists of different number types, ordered
//! texts in jobs, SET TIME ZONE; also the types that parameters are cast to.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::str::FromStr as _;

use anabranch_udfs::{Walk, WalkMut};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::datatypes::DataType;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType as SqlType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, LimitClause,
    ObjectName, Query, Set, Statement as AnsiStatement, UnaryOperator, Value, Visitor, VisitorMut,
};

use crate::error::{Error, Result, Subject};
use crate::planner::normalize;
use crate::planner::types::arrow_type;
use crate::session::syntax::{call, looked_for, taken, visit};

/// Rewrites `SET TIME ZONE 'Europe/Paris'` to the engine's form, `SET timezone = 'Europe/Paris'`.
///
/// # Errors
///
/// An unknown time zone; another form of SET that the engine does not support.
pub(crate) fn time_zone(statement: &mut AnsiStatement) -> Result<()> {
    let AnsiStatement::Set(set) = statement else {
        return Ok(());
    };
    let zone = match set {
        Set::SingleAssignment { .. } => return Ok(()),
        Set::SetTimeZone {
            local: false,
            value: Expr::Value(value),
        } => value.value.clone().into_string(),
        Set::SetTimeZone {
            local: false,
            value: Expr::Identifier(word),
        } => Some(word.value.clone()),
        _ => None,
    };
    let Some(zone) = zone else {
        return Err(Error::unsupported(format!("{set} is not supported"))
            .with_help("write SET name = value, or SET TIME ZONE 'Europe/Paris'"));
    };
    if Tz::from_str(&zone).is_err() {
        return Err(Error::invalid(format!("invalid time zone '{zone}'"))
            .about(Subject::text(zone))
            .with_help("write one such as Europe/Paris or +02:00"));
    }
    *set = Set::SingleAssignment {
        scope: None,
        hivevar: false,
        variable: ObjectName::from(vec![Ident::new("timezone")]),
        values: vec![Expr::Value(Value::SingleQuotedString(zone).into())],
    };
    Ok(())
}

/// Rewrites `FETCH FIRST n ROWS ONLY` to a LIMIT, in all nested queries.
///
/// # Errors
///
/// A part of FETCH that LIMIT does not have.
pub(crate) fn fetch_first(node: &mut impl WalkMut) -> Result<()> {
    match node.walk_mut(&mut FetchFirst) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct FetchFirst;

impl VisitorMut for FetchFirst {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let Some(fetch) = query.fetch.take() else {
            return ControlFlow::Continue(());
        };
        if fetch.with_ties {
            let error = Error::unsupported("FETCH … WITH TIES is not supported");
            return ControlFlow::Break(error.with_help(
                "filter by rank() OVER (ORDER BY …) in a query around it, or write ROWS ONLY",
            ));
        }
        if fetch.percent {
            let error = Error::unsupported("FETCH … PERCENT is not supported");
            return ControlFlow::Break(error.with_help("write FETCH FIRST n ROWS ONLY"));
        }
        let one = || Expr::Value(Value::Number("1".to_owned(), false).into());
        let count = fetch.quantity.unwrap_or_else(one);
        match &mut query.limit_clause {
            none @ None => {
                *none = Some(LimitClause::LimitOffset {
                    limit: Some(count),
                    offset: None,
                    limit_by: Vec::new(),
                });
            }
            Some(LimitClause::LimitOffset {
                limit: limit @ None,
                ..
            }) => *limit = Some(count),
            Some(_) => {
                let error = Error::invalid("LIMIT and FETCH FIRST say the same: leave one out");
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    }
}

/// Rewrites `x = ANY (list)` and similar comparisons to calls of the session's functions, which take numbers of different
/// types, and comparisons with a query to IN. The engine's planner uses the functions of its library, and duplicates the list.
pub(crate) fn members(node: &mut impl WalkMut) {
    let _ = node.walk_mut(&mut Members);
}

struct Members;

impl VisitorMut for Members {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        in_query(expr);
        let (value, op, list, quantifier) = match expr {
            Expr::AnyOp {
                left,
                compare_op,
                right,
                ..
            } => (left, compare_op, right, "any"),
            Expr::AllOp {
                left,
                compare_op,
                right,
            } => (left, compare_op, right, "all"),
            _ => return ControlFlow::Continue(()),
        };
        if matches!(**list, Expr::Subquery(_)) {
            return ControlFlow::Continue(());
        }
        let (value, list) = (taken(value), taken(list));
        let call = match (&*op, quantifier) {
            (BinaryOperator::Eq, "any") => call("array_has", [list, value]),
            (BinaryOperator::NotEq, "all") => Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr: Box::new(call("array_has", [list, value])),
            },
            (op, quantifier) => {
                let how = Value::SingleQuotedString(format!("{op} {quantifier}"));
                call("list_compare", [Expr::Value(how.into()), list, value])
            }
        };
        *expr = call;
        ControlFlow::Continue(())
    }
}

/// Rewrites `x = ANY (SELECT …)` to `x IN (SELECT …)`, and `x <> ALL (SELECT …)` to `x NOT IN (SELECT …)`.
pub(crate) fn in_query(expr: &mut Expr) {
    let Some((_, negated)) = looked_for(expr) else {
        return;
    };
    if let Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } = expr
        && let Expr::Subquery(subquery) = taken(right)
    {
        let value = Box::new(taken(left));
        *expr = Expr::InSubquery {
            expr: value,
            subquery,
            negated,
        };
    }
}

/// Rewrites `string_agg(x, ', ' ORDER BY t)` to an ordered array as text: a job can merge states of ordered arrays, and not of
/// ordered texts.
pub(crate) fn ordered_texts(node: &mut impl WalkMut) {
    let _ = node.walk_mut(&mut OrderedTexts);
}

struct OrderedTexts;

impl VisitorMut for OrderedTexts {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && let Some(call) = ordered_text(function)
        {
            *expr = Expr::Function(call);
        }
        ControlFlow::Continue(())
    }
}

fn ordered_text(function: &Function) -> Option<Function> {
    let named = |name: &str| ObjectName::from(vec![Ident::new(name)]);
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    let is_ordered =
        |clause: &FunctionArgumentClause| matches!(clause, FunctionArgumentClause::OrderBy(_));
    let [
        FunctionArg::Unnamed(FunctionArgExpr::Expr(value)),
        separator,
    ] = list.args.as_slice()
    else {
        return None;
    };
    let name = function.name.0.last()?.as_ident()?;
    if normalize(name) != "string_agg" || !list.clauses.iter().any(is_ordered) {
        return None;
    }
    // The filter omits NULL values; the text of any other value is not NULL.
    let mut filter = Expr::IsNotNull(Box::new(value.clone()));
    if let Some(given) = &function.filter {
        filter = Expr::BinaryOp {
            left: Box::new(Expr::Nested(given.clone())),
            op: BinaryOperator::And,
            right: Box::new(filter),
        };
    }
    let array = Function {
        name: named("array_agg"),
        args: FunctionArguments::List(FunctionArgumentList {
            args: vec![list.args[0].clone()],
            ..list.clone()
        }),
        filter: Some(Box::new(filter)),
        ..function.clone()
    };
    let array = FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(array)));
    Some(Function {
        name: named("array_to_string"),
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![array, separator.clone()],
            clauses: Vec::new(),
        }),
        filter: None,
        over: None,
        ..function.clone()
    })
}

/// The statement with intervals for the parameters that are added to or subtracted from times; `None` if there are no such
/// parameters.
pub(crate) fn with_spans(statement: &SqlStatement) -> Option<SqlStatement> {
    let mut changed = statement.clone();
    let mut spans = Spans { any: false };
    let _ = visit(&mut changed, &mut spans);
    spans.any.then_some(changed)
}

fn is_parameter(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(value.value, Value::Placeholder(_)))
}

struct Spans {
    any: bool,
}

impl VisitorMut for Spans {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let span = match expr {
            Expr::BinaryOp {
                op: BinaryOperator::Plus | BinaryOperator::Minus,
                right,
                ..
            } if is_parameter(right) => right,
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Plus,
                ..
            } if is_parameter(left) => left,
            _ => return ControlFlow::Continue(()),
        };
        **span = Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(taken(span)),
            data_type: SqlType::Interval {
                fields: None,
                precision: None,
            },
            array: false,
            format: None,
        };
        self.any = true;
        ControlFlow::Continue(())
    }
}

/// The types that parameters are cast to, by name without `$`: `CAST($1 AS BIGINT)`, `$1::DATE`.
pub(crate) fn cast_types(statement: &SqlStatement) -> HashMap<String, DataType> {
    let mut casts = Casts::default();
    match statement {
        SqlStatement::Statement(ansi) => {
            let ansi: &AnsiStatement = ansi;
            let _ = ansi.walk(&mut casts);
        }
        SqlStatement::Explain(explain) => return cast_types(&explain.statement),
        _ => {}
    }
    casts.found
}

#[derive(Default)]
struct Casts {
    found: HashMap<String, DataType>,
}

impl Visitor for Casts {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Cast {
            expr, data_type, ..
        } = expr
            && let Expr::Value(value) = expr.as_ref()
            && let Value::Placeholder(name) = &value.value
            && let Ok(data_type) = arrow_type(data_type)
        {
            let name = name.trim_start_matches('$').to_owned();
            self.found.entry(name).or_insert(data_type);
        }
        ControlFlow::Continue(())
    }
}
