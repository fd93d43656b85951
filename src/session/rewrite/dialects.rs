//! Rewrites of SQL that the engine would answer wrongly, or unlike every other database: refused by name, or replaced by the
//! form with the right meaning.

use std::collections::HashMap;
use std::ops::ControlFlow;

use anabranch_udfs::WalkMut;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, Function, FunctionArguments, Ident, JoinConstraint,
    JoinOperator, LimitClause, NamedWindowExpr, Query, Select, SetExpr, SetOperator, SetQuantifier,
    Spanned, TableFactor, TableWithJoins, UnaryOperator, Value, VisitorMut, WindowSpec, WindowType,
};

use crate::error::{Error, Result};
use crate::planner::normalize;
use crate::session::rewrite::grouping;
use crate::session::rewrite::like_escape;
use crate::session::rewrite::time_series;
use crate::session::syntax::{call, taken};

/// Checks and rewrites a statement.
///
/// # Errors
///
/// The refused expression, with its place.
pub(crate) fn settle(node: &mut impl WalkMut) -> Result<()> {
    match node.walk_mut(&mut DialectRewrite { copied: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct DialectRewrite {
    /// Number of expressions copied so far.
    copied: usize,
}

impl VisitorMut for DialectRewrite {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        match set_operation(&query.body).or_else(|| limit_of_query(query)) {
            Some(error) => ControlFlow::Break(error),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if let Some(into) = &select.into {
            return ControlFlow::Break(
                Error::unsupported("SELECT … INTO is not supported")
                    .with_help("write INSERT INTO t SELECT …, or CREATE TABLE t AS SELECT … where tables are in memory")
                    .at(into.name.span()),
            );
        }
        for table in &select.from {
            if let Some(error) = joins(table) {
                return ControlFlow::Break(error);
            }
        }
        match grouping::sets(select, &mut self.copied).and_then(|()| named_windows(select)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        time_series::of_times(factor);
        match factor {
            TableFactor::Table {
                with_ordinality: true,
                ..
            }
            | TableFactor::Function {
                with_ordinality: true,
                ..
            }
            | TableFactor::UNNEST {
                with_ordinality: true,
                ..
            } => ControlFlow::Break(
                Error::unsupported("WITH ORDINALITY is not supported")
                    .with_help("number the rows by row_number() OVER (ORDER BY …)")
                    .at(factor.span()),
            ),
            TableFactor::Table {
                sample: Some(_),
                name,
                ..
            } => ControlFlow::Break(
                Error::unsupported("TABLESAMPLE is not supported")
                    .with_help("WHERE random() < 0.1 takes about a tenth of the rows")
                    .at(name.span()),
            ),
            TableFactor::NestedJoin {
                table_with_joins, ..
            } => match joins(table_with_joins) {
                Some(error) => ControlFlow::Break(error),
                None => ControlFlow::Continue(()),
            },
            _ => match foreign_table(factor) {
                Some((what, help)) => {
                    let error = Error::unsupported(format!("{what} is not supported"));
                    ControlFlow::Break(error.with_help(help).at(factor.span()))
                }
                None => ControlFlow::Continue(()),
            },
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match expr {
            Expr::SimilarTo { .. } => ControlFlow::Break(
                Error::unsupported("SIMILAR TO is not supported")
                    .with_help("write LIKE, or ~ with a regular expression between ^ and $")
                    .at(expr.span()),
            ),
            Expr::Collate { expr: of, .. } => ControlFlow::Break(
                Error::unsupported(
                    "COLLATE is not supported: texts are compared by their code points",
                )
                .with_help("lower(x) compares without regard to case")
                .at(of.span()),
            ),
            Expr::Value(value) => match &value.value {
                Value::UnicodeStringLiteral(text) | Value::NationalStringLiteral(text) => {
                    value.value = Value::SingleQuotedString(text.clone());
                    ControlFlow::Continue(())
                }
                Value::SingleQuotedByteStringLiteral(_) => ControlFlow::Break(
                    Error::unsupported("bit strings are not supported")
                        .with_help("write bytes as X'1f', and bits as a number: 0x1f")
                        .at(value.span),
                ),
                _ => ControlFlow::Continue(()),
            },
            Expr::Like { .. } | Expr::ILike { .. } => {
                like_escape::with_backslashes(expr);
                ControlFlow::Continue(())
            }
            Expr::BinaryOp {
                op: BinaryOperator::PGStartsWith,
                left,
                right,
            } => {
                let (text, start) = (taken(left), taken(right));
                *expr = call("starts_with", [text, start]);
                ControlFlow::Continue(())
            }
            Expr::BinaryOp { op, right, .. } => match refused(op, right) {
                Some((what, help)) => {
                    let error = Error::unsupported(what).with_help(help);
                    ControlFlow::Break(error.at(expr.span()))
                }
                None => {
                    reassociate(expr);
                    ControlFlow::Continue(())
                }
            },
            Expr::CompoundFieldAccess { root, access_chain } => {
                name_fields(root, access_chain);
                ControlFlow::Continue(())
            }
            Expr::Function(function) if matches!(function.args, FunctionArguments::Subquery(_)) => {
                ControlFlow::Break(of_query(function))
            }
            Expr::Function(function) => match &function.over {
                Some(WindowType::WindowSpec(WindowSpec {
                    window_name: Some(name),
                    ..
                })) => ControlFlow::Break(
                    Error::unsupported(format!("window {name} is extended outside a select list"))
                        .with_help("write the whole window, or name another one in WINDOW")
                        .at(name.span),
                ),
                _ => ControlFlow::Continue(()),
            },
            _ => {
                reassociate(expr);
                ControlFlow::Continue(())
            }
        }
    }
}

/// The reason for refusing an operator, and the form to write instead.
fn refused(op: &BinaryOperator, right: &Expr) -> Option<(&'static str, &'static str)> {
    Some(match op {
        BinaryOperator::BitwiseXor => (
            "^ is ambiguous: some databases use it for power, others for XOR",
            "write power(a, b), or (a | b) - (a & b) for XOR",
        ),
        BinaryOperator::PGOverlap => (
            "&& is ambiguous: some databases use it for the overlap of arrays, others for AND",
            "write array_has_any(a, b), or AND",
        ),
        BinaryOperator::HashArrow | BinaryOperator::HashLongArrow
            if matches!(right, Expr::Value(_)) =>
        {
            (
                "a JSON path in one text is not supported",
                "write json #>> ['a', 'b'], or json -> 'a' ->> 'b'",
            )
        }
        BinaryOperator::Overlaps => (
            "OVERLAPS is not supported",
            "write a.start < b.end AND b.start < a.end",
        ),
        _ => return None,
    })
}

/// LIMIT and OFFSET of a query: the engine needs their values at planning.
fn limit_of_query(query: &Query) -> Option<Error> {
    let fetched = query.fetch.iter().flat_map(|fetch| &fetch.quantity);
    let limits: Vec<&Expr> = match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit, offset, .. }) => {
            let offset = offset.iter().map(|offset| &offset.value);
            limit.iter().chain(offset).collect()
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => vec![offset, limit],
        None => Vec::new(),
    };
    let is_query = |expr: &&Expr| {
        let mut expr = *expr;
        while let Expr::Nested(inner) = expr {
            expr = inner;
        }
        matches!(expr, Expr::Subquery(_))
    };
    let limit = limits.into_iter().chain(fetched).find(is_query)?;
    Some(
        Error::unsupported("LIMIT and OFFSET take a number, and not the result of a query")
            .with_help(
                "number the rows in a query in FROM, row_number() OVER (ORDER BY …) AS r, and filter WHERE r <= (SELECT …)",
            )
            .at(limit.span()),
    )
}

/// Parts of FROM that other databases have and this one does not, with the form to write instead.
fn foreign_table(factor: &TableFactor) -> Option<(&'static str, &'static str)> {
    Some(match factor {
        TableFactor::Pivot { .. } => (
            "PIVOT",
            "aggregate with FILTER: sum(x) FILTER (WHERE k = 'a') AS a, sum(x) FILTER (WHERE k = 'b') AS b",
        ),
        TableFactor::Unpivot { .. } => (
            "UNPIVOT",
            "make a row of each column: SELECT k, 'a' AS name, a AS value FROM t UNION ALL SELECT k, 'b', b FROM t",
        ),
        TableFactor::MatchRecognize { .. } => (
            "MATCH_RECOGNIZE",
            "compare a row with those around it by lag(x) OVER (PARTITION BY … ORDER BY …)",
        ),
        TableFactor::JsonTable { .. } | TableFactor::OpenJsonTable { .. } => (
            "a table out of a JSON text",
            "read its fields by json ->> 'a', and its elements by unnest(json_get_array(json, 'list'))",
        ),
        TableFactor::XmlTable { .. } => ("XMLTABLE", "load the text as JSON"),
        _ => return None,
    })
}

/// `ARRAY(SELECT …)` and similar calls with a query.
fn of_query(function: &Function) -> Error {
    let name = function.name.to_string();
    match name.eq_ignore_ascii_case("array") {
        true => Error::unsupported("ARRAY(SELECT …) is not supported").with_help(
            "write (SELECT array_agg(x ORDER BY y) FROM …); of no rows that is NULL, and coalesce(…, []) is not",
        ),
        false => Error::unsupported(format!("a query is not allowed as an argument of {name}"))
            .with_help(format!("put it in parentheses of its own: {name}((SELECT …))")),
    }
    .at(function.name.span())
}

/// Rewrites `l[1].a` and `(s).a` to `l[1]['a']` and `(s)['a']`: a field of another expression than a column is accessed by a
/// text.
fn name_fields(root: &Expr, access: &mut [AccessExpr]) {
    // Names directly after a name may belong to the name of a column: its table, or its schema and table.
    let mut is_of_name = matches!(root, Expr::Identifier(_));
    for link in access {
        let AccessExpr::Dot(field) = link else {
            is_of_name = false;
            continue;
        };
        if let (Expr::Identifier(ident), false) = (&*field, is_of_name) {
            let name = Value::SingleQuotedString(normalize(ident));
            *field = Expr::Value(name.with_span(ident.span));
        }
    }
}

/// INTERSECT ALL and EXCEPT ALL: the engine would not count duplicates.
fn set_operation(body: &SetExpr) -> Option<Error> {
    let SetExpr::SetOperation {
        op,
        set_quantifier,
        left,
        right,
    } = body
    else {
        return None;
    };
    let counts = matches!(
        set_quantifier,
        SetQuantifier::All | SetQuantifier::AllByName
    );
    if counts && !matches!(op, SetOperator::Union) {
        return Some(
            Error::unsupported(format!("{op} ALL is not supported"))
                .with_help(format!(
                    "{op} compares rows without counting them; number equal rows by row_number() in both queries to count them"
                ))
                .at(body.span()),
        );
    }
    set_operation(left).or_else(|| set_operation(right))
}

/// RIGHT and FULL JOIN with USING or NATURAL: the engine would return the left side's column for both.
fn joins(table: &TableWithJoins) -> Option<Error> {
    let refused = table.joins.iter().find(|join| {
        matches!(
            &join.join_operator,
            JoinOperator::Right(JoinConstraint::Using(_) | JoinConstraint::Natural)
                | JoinOperator::RightOuter(JoinConstraint::Using(_) | JoinConstraint::Natural)
                | JoinOperator::FullOuter(JoinConstraint::Using(_) | JoinConstraint::Natural)
        )
    })?;
    Some(
        Error::unsupported("RIGHT and FULL JOIN with USING or NATURAL are not supported")
            .with_help("write ON a.k = b.k, and coalesce(a.k, b.k) for the column of both")
            .at(refused.relation.span()),
    )
}

/// Windows that extend a named one, `OVER (w ORDER BY t)`, get the parts of that one.
fn named_windows(select: &mut Select) -> Result<()> {
    let mut known: HashMap<String, WindowSpec> = HashMap::new();
    // A named window may extend those before it.
    for definition in &mut select.named_window {
        let spec = match &mut definition.1 {
            NamedWindowExpr::WindowSpec(spec) => {
                extend(spec, &known)?;
                Some(spec.clone())
            }
            NamedWindowExpr::NamedWindow(name) => known.get(&normalize(name)).cloned(),
        };
        if let Some(spec) = spec {
            known.insert(normalize(&definition.0), spec);
        }
    }
    struct WindowDefinitions<'a> {
        known: &'a HashMap<String, WindowSpec>,
        queries: usize,
    }
    impl VisitorMut for WindowDefinitions<'_> {
        type Break = Error;

        fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
            self.queries += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
            self.queries -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
            if let Expr::Function(function) = expr
                && let Some(WindowType::WindowSpec(spec)) = &mut function.over
                && self.queries == 0
                && let Err(error) = extend(spec, self.known)
            {
                return ControlFlow::Break(error);
            }
            ControlFlow::Continue(())
        }
    }
    let mut windows = WindowDefinitions {
        known: &known,
        queries: 0,
    };
    let visited = select.projection.walk_mut(&mut windows);
    match (visited, select.qualify.walk_mut(&mut windows)) {
        (ControlFlow::Break(error), _) | (_, ControlFlow::Break(error)) => Err(error),
        _ => Ok(()),
    }
}

fn extend(spec: &mut WindowSpec, known: &HashMap<String, WindowSpec>) -> Result<()> {
    let Some(name) = spec.window_name.take() else {
        return Ok(());
    };
    let refused = |name: &Ident, what: &str| {
        let error = Error::invalid(format!("window {name} {what}"));
        Err(error.at(name.span))
    };
    let Some(base) = known.get(&normalize(&name)) else {
        return refused(&name, "is not defined before it is named here");
    };
    if !spec.partition_by.is_empty() {
        return refused(&name, "has its PARTITION BY: one that extends it has none");
    }
    if !spec.order_by.is_empty() && !base.order_by.is_empty() {
        return refused(&name, "has an ORDER BY already");
    }
    if base.window_frame.is_some() {
        return refused(&name, "has a frame: name it without parentheses, OVER w");
    }
    spec.partition_by = base.partition_by.clone();
    if spec.order_by.is_empty() {
        spec.order_by = base.order_by.clone();
    }
    Ok(())
}

/// `a IS DISTINCT FROM b AND c`: the parser takes the whole rest for the right side.
fn reassociate(expr: &mut Expr) {
    if !swallows(expr) {
        return;
    }
    let mut parts = Vec::new();
    flatten(taken(expr), &mut parts);
    // OR binds weaker than AND, and both are left-associative.
    let mut sum: Option<Expr> = None;
    let mut product: Option<Expr> = None;
    for (op, part) in parts {
        match (op, product.take()) {
            (Some(BinaryOperator::And), Some(before)) => {
                product = Some(binary(before, BinaryOperator::And, part));
            }
            (_, before) => {
                sum = either(sum, before);
                product = Some(part);
            }
        }
    }
    if let Some(whole) = either(sum, product) {
        *expr = whole;
    }
}

fn either(left: Option<Expr>, right: Option<Expr>) -> Option<Expr> {
    match (left, right) {
        (Some(left), Some(right)) => Some(binary(left, BinaryOperator::Or, right)),
        (left, right) => left.or(right),
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op,
        right: Box::new(right),
    }
}

fn is_logical(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::BinaryOp {
            op: BinaryOperator::And | BinaryOperator::Or,
            ..
        }
    )
}

/// Whether an expression ends with such a right side.
fn swallows(expr: &Expr) -> bool {
    match expr {
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => {
            is_logical(right) || swallows(right)
        }
        Expr::BinaryOp { right, .. } if is_logical(expr) => swallows(right),
        Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr,
        } => swallows(expr),
        _ => false,
    }
}

/// The operands of AND and OR, each with the operator before it.
fn flatten(expr: Expr, parts: &mut Vec<(Option<BinaryOperator>, Expr)>) {
    let first = parts.len();
    let around: fn(Box<Expr>, Expr) -> Expr = match &expr {
        Expr::IsDistinctFrom(..) => |left, right| Expr::IsDistinctFrom(left, Box::new(right)),
        _ => |left, right| Expr::IsNotDistinctFrom(left, Box::new(right)),
    };
    match expr {
        Expr::BinaryOp { left, op, right }
            if matches!(op, BinaryOperator::And | BinaryOperator::Or) =>
        {
            flatten(*left, parts);
            let next = parts.len();
            flatten(*right, parts);
            if let Some((before, _)) = parts.get_mut(next) {
                *before = Some(op);
            }
        }
        Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
            flatten(*right, parts);
            if let Some((_, compared)) = parts.get_mut(first) {
                *compared = around(left, taken(compared));
            }
        }
        Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr,
        } if swallows(&expr) => {
            flatten(*expr, parts);
            if let Some((_, negated)) = parts.get_mut(first) {
                *negated = Expr::UnaryOp {
                    op: UnaryOperator::Not,
                    expr: Box::new(taken(negated)),
                };
            }
        }
        other => parts.push((None, other)),
    }
}
