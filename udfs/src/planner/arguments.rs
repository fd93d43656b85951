//! Arguments of a window function: table, keys, descriptor and the constants after it.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, Span};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectNamePart, Query, Spanned,
};

use crate::diagnostic::{closest, plan_error};
use crate::sql::TABLE_ARGUMENT;

/// The function that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowFunction {
    Tumble,
    Hop,
    Cumulate,
    Session,
    CompleteSessions,
}

impl WindowFunction {
    pub(super) fn from_name(name: &Ident) -> Option<Self> {
        if name.quote_style.is_some() {
            return None;
        }
        Some(match name.value.to_ascii_lowercase().as_str() {
            "tumble" => Self::Tumble,
            "hop" => Self::Hop,
            "cumulate" => Self::Cumulate,
            "session" => Self::Session,
            "complete_sessions" => Self::CompleteSessions,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE",
            Self::Hop => "HOP",
            Self::Cumulate => "CUMULATE",
            Self::Session => "SESSION",
            Self::CompleteSessions => "COMPLETE_SESSIONS",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Tumble => "usage: TUMBLE(TABLE t, DESCRIPTOR(event_time), size [, offset])",
            Self::Hop => "usage: HOP(TABLE t, DESCRIPTOR(event_time), slide, size [, offset])",
            Self::Cumulate => {
                "usage: CUMULATE(TABLE t, DESCRIPTOR(event_time), step, size [, offset])"
            }
            Self::Session => {
                "usage: SESSION(TABLE t PARTITION BY key, DESCRIPTOR(event_time), gap)"
            }
            Self::CompleteSessions => {
                "usage: COMPLETE_SESSIONS(TABLE t PARTITION BY key, DESCRIPTOR(event_time), gap, \
                 from, to [, max_extension])"
            }
        }
    }

    /// The fewest and the most arguments after the event time.
    fn constants(self) -> (usize, usize) {
        match self {
            Self::Tumble => (1, 2),
            Self::Hop | Self::Cumulate => (2, 3),
            Self::Session => (1, 1),
            Self::CompleteSessions => (3, 4),
        }
    }

    fn has_keys(self) -> bool {
        matches!(self, Self::Session | Self::CompleteSessions)
    }
}

/// A call, split but not resolved.
pub(super) struct Arguments {
    pub(super) query: Box<Query>,
    pub(super) keys: Vec<ast::Expr>,
    pub(super) event_time: ast::Expr,
    /// Size, slide, gap, bounds and so on, as many as the function allows.
    pub(super) constants: Vec<ast::Expr>,
}

/// Splits the arguments of `function`. The long form names keys by `PARTITION BY` and the event time by `DESCRIPTOR`; the short
/// form gives both by position.
pub(super) fn split(
    function: WindowFunction,
    name_span: Option<Span>,
    args: Vec<FunctionArg>,
) -> Result<Arguments> {
    let usage = |message: String, span: Option<Span>| {
        plan_error(
            format!("{}: {message}", function.name()),
            span.or(name_span),
            function.usage(),
        )
    };
    let given = args.len();
    let mut exprs = Vec::with_capacity(given);
    for arg in args {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => exprs.push(expr),
            other => {
                let span = Span::try_from_sqlparser_span(other.span());
                return Err(usage(format!("{other} is not possible here"), span));
            }
        }
    }
    let mut exprs = exprs.into_iter().peekable();
    let Some(table) = exprs.next() else {
        return Err(usage("the arguments are missing".to_owned(), None));
    };
    let table_span = Span::try_from_sqlparser_span(table.span());
    let (query, mut keys, is_long) = match table {
        ast::Expr::Subquery(query) => (query, vec![], false),
        ast::Expr::Function(call) if call.name.to_string() == TABLE_ARGUMENT => {
            let mut parts = call_arguments(call.args).into_iter();
            match parts.next() {
                Some(ast::Expr::Subquery(query)) => (query, parts.collect(), true),
                _ => return Err(usage("the table is missing".to_owned(), table_span)),
            }
        }
        other => return Err(usage(format!("{other} is not a table"), table_span)),
    };
    if !keys.is_empty() && !function.has_keys() {
        return Err(usage(
            "PARTITION BY is not possible here".to_owned(),
            table_span,
        ));
    }
    let next_is_descriptor = exprs.peek().is_some_and(|expr| descriptor(expr).is_some());
    if function.has_keys() && !is_long && !next_is_descriptor {
        keys = match exprs.next() {
            Some(ast::Expr::Tuple(keys)) => keys,
            Some(ast::Expr::Nested(key)) => vec![*key],
            Some(key) => vec![key],
            None => vec![],
        };
    }
    let Some(event_time) = exprs.next() else {
        return Err(usage("the event time is missing".to_owned(), None));
    };
    let event_time = match descriptor(&event_time) {
        Some(Some(column)) => column,
        Some(None) => {
            let span = Span::try_from_sqlparser_span(event_time.span());
            return Err(usage("DESCRIPTOR takes one column".to_owned(), span));
        }
        None => event_time,
    };
    let constants: Vec<_> = exprs.collect();
    let (fewest, most) = function.constants();
    if constants.len() < fewest || constants.len() > most {
        return Err(usage(format!("wrong number of arguments ({given})"), None));
    }
    Ok(Arguments {
        query,
        keys,
        event_time,
        constants,
    })
}

/// Finds the column that `expr` names in `schema`; `what` is the argument's name for messages.
pub(super) fn resolve_column(
    context: &dyn RelationPlannerContext,
    expr: &ast::Expr,
    schema: &DFSchema,
    what: &str,
) -> Result<Column> {
    let span = Span::try_from_sqlparser_span(expr.span());
    let idents = match expr {
        // `user` and a few other words parse as functions that are called without parentheses.
        ast::Expr::Function(ast::Function {
            name,
            args: FunctionArguments::None,
            ..
        }) => name
            .0
            .iter()
            .filter_map(ObjectNamePart::as_ident)
            .cloned()
            .collect(),
        ast::Expr::Identifier(ident) => vec![ident.clone()],
        ast::Expr::CompoundIdentifier(idents) => idents.clone(),
        other => {
            return Err(plan_error(
                format!("{what} must be a column, got {other}"),
                span,
                "compute it in a subquery: TABLE (SELECT …, expression AS name FROM t)",
            ));
        }
    };
    let parts: Vec<String> = idents
        .into_iter()
        .map(|ident| context.normalize_ident(ident))
        .collect();
    let Some((name, qualifier)) = parts.split_last() else {
        return Err(plan_error(
            format!("{what} has no name"),
            span,
            "name a column",
        ));
    };
    let found: Vec<Column> = schema
        .iter()
        .filter(|(relation, field)| {
            field.name() == name
                && (qualifier.is_empty()
                    || relation.is_some_and(|relation| relation.to_vec().ends_with(qualifier)))
        })
        .map(Column::from)
        .collect();
    match found.as_slice() {
        [column] => Ok(column.clone()),
        [] => {
            let known: Vec<&str> = schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            let help = match closest(name, known.iter().copied()) {
                Some(close) => format!("did you mean \"{close}\"?"),
                None => format!("the columns are {}", known.join(", ")),
            };
            Err(plan_error(
                format!("no column named {}", parts.join(".")),
                span,
                help,
            ))
        }
        _ => Err(plan_error(
            format!("{what} {name} is ambiguous"),
            span,
            "write the table's name before it, or choose columns in a subquery",
        )),
    }
}

/// The unit and type of the event time `column`; it must be a timestamp.
pub(super) fn event_time_type(
    schema: &DFSchema,
    column: &Column,
    span: Option<Span>,
) -> Result<(DataType, TimeUnit)> {
    let data_type = schema.data_type(column)?;
    match data_type {
        DataType::Timestamp(unit, _) => Ok((data_type.clone(), *unit)),
        other => Err(plan_error(
            format!(
                "event time {} is of type {other}, not a timestamp",
                column.name
            ),
            span,
            "name a TIMESTAMP column, or cast it in a subquery",
        )),
    }
}

/// Some(Some(column)) for `DESCRIPTOR(column)`, Some(None) for a wrong one, None for anything else.
fn descriptor(expr: &ast::Expr) -> Option<Option<ast::Expr>> {
    match expr {
        ast::Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case("descriptor") => {
            let mut columns = call_arguments(call.args.clone());
            let column = if columns.len() == 1 {
                columns.pop()
            } else {
                None
            };
            Some(column)
        }
        _ => None,
    }
}

fn call_arguments(args: FunctionArguments) -> Vec<ast::Expr> {
    match args {
        FunctionArguments::List(list) => list
            .args
            .into_iter()
            .filter_map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
                _ => None,
            })
            .collect(),
        _ => vec![],
    }
}
