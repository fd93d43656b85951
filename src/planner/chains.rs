//! Depth limit for syntax trees (SAFE-1): long chains of AND, OR and UNION are rebalanced into shallow trees of the same
//! meaning; the parser refuses trees that are still too deep.

use std::ops::ControlFlow;

use anabranch_udfs::WalkMut;
use datafusion::sql::parser::{CopyToSource, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Query, Select, SetExpr, SetOperator, Spanned as _,
    Statement as AnsiStatement, TableFactor, Value, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::error::{Error, Result};
use crate::planner::ast::{ColumnKind, JobStatement, Statement};
use crate::planner::derivation_limit::Derivation;
use crate::planner::token_limits::too_deep;

/// Depth of nested expressions, and of nested queries.
const DEPTH: usize = 400;
/// Conditions of one AND or OR.
const TERMS: usize = 4_000;
/// Queries of one UNION.
const BRANCHES: usize = 2_000;
/// Set operations that cannot be balanced, one on top of the other.
const STACKED: usize = 100;
/// Grouping sets of one GROUP BY: the planner expands each of them.
const GROUPINGS: u64 = 4_096;
/// Expressions of all grouping sets of one GROUP BY.
const GROUPED: u64 = 200_000;
/// Shorter chains are left unchanged.
const SHORT: usize = 16;

/// Makes the trees of a statement shallow.
///
/// # Errors
/// [`crate::error::ErrorKind::Invalid`] where a tree is still too deep.
pub(super) fn balance(statement: &mut Statement) -> Result<()> {
    match statement {
        Statement::CreateTable(table) => {
            if let Some((_, expr)) = &mut table.watermark {
                node(expr)?;
            }
            table
                .columns
                .iter_mut()
                .try_for_each(|column| match &mut column.kind {
                    ColumnKind::Generated { expr, .. } => node(expr.as_mut()),
                    _ => Ok(()),
                })
        }
        Statement::CreateView(view) => node(&mut view.query),
        Statement::Job(job) => match job.as_mut() {
            JobStatement::Create { insert: query, .. } | JobStatement::Subscribe { query, .. } => {
                sql(query)
            }
            _ => Ok(()),
        },
        Statement::Run(run) => match run.asked_mut().and_then(|asked| asked.rows.as_mut()) {
            Some(rows) => node(&mut rows.query),
            None => Ok(()),
        },
        Statement::Sql(statement) => sql(statement),
        _ => Ok(()),
    }
}

fn sql(statement: &mut SqlStatement) -> Result<()> {
    match statement {
        SqlStatement::Statement(ansi) => node(ansi.as_mut()),
        SqlStatement::Explain(explain) => sql(&mut explain.statement),
        SqlStatement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => node(query),
            CopyToSource::Relation(_) => Ok(()),
        },
        SqlStatement::CreateExternalTable(_) | SqlStatement::Reset(_) => Ok(()),
    }
}

fn node(node: &mut impl WalkMut) -> Result<()> {
    match node.walk_mut(&mut ChainBalancer::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

#[derive(Default)]
struct ChainBalancer {
    depth: usize,
    derivation: Derivation,
}

impl ChainBalancer {
    fn enter(&mut self) -> ControlFlow<()> {
        self.depth += 1;
        match self.depth > DEPTH {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn leave(&mut self) -> ControlFlow<Error> {
        self.depth = self.depth.saturating_sub(1);
        ControlFlow::Continue(())
    }
}

fn flow(done: Result<()>) -> ControlFlow<Error> {
    match done {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl VisitorMut for ChainBalancer {
    type Break = Error;

    // To compute the span of a deep tree its whole depth is walked: the spans of its ends are near enough.

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        flow(branches(&mut query.body))?;
        self.derivation.enter_query();
        match self.enter() {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(()) => ControlFlow::Break(too_deep(Span::empty())),
        }
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.derivation.leave_query();
        self.leave()
    }

    fn pre_visit_table_factor(&mut self, _: &mut TableFactor) -> ControlFlow<Error> {
        match self.enter() {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(()) => ControlFlow::Break(too_deep(Span::empty())),
        }
    }

    fn post_visit_table_factor(&mut self, _: &mut TableFactor) -> ControlFlow<Error> {
        self.leave()
    }

    fn pre_visit_statement(&mut self, _: &mut AnsiStatement) -> ControlFlow<Error> {
        match self.enter() {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(()) => ControlFlow::Break(too_deep(Span::empty())),
        }
    }

    fn post_visit_statement(&mut self, _: &mut AnsiStatement) -> ControlFlow<Error> {
        self.leave()
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        match &select.group_by {
            GroupByExpr::Expressions(groups, _) => flow(groupings(groups)),
            GroupByExpr::All(_) => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        flow(groupings(std::slice::from_ref(expr)))?;
        flow(terms(expr))?;
        self.derivation.enter(expr);
        match self.enter() {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(()) => ControlFlow::Break(too_deep(end_of(expr))),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        flow(self.derivation.leave(expr))?;
        self.leave()
    }
}

/// The place of the last part of a chain; the first token's if the part has none.
fn end_of(mut expr: &Expr) -> Span {
    while let Expr::BinaryOp { right, .. } = expr {
        expr = right;
    }
    match expr {
        Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_) => expr.span(),
        _ => Span::empty(),
    }
}

fn nothing() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

/// Refuses a GROUP BY of too many grouping sets: CUBE doubles them with each of its expressions, and several CUBE, ROLLUP and
/// GROUPING SETS are multiplied.
fn groupings(groups: &[Expr]) -> Result<()> {
    let mut sets = 1_u64;
    let mut width = 0_u64;
    for expr in groups {
        let of = |parts: &[Vec<Expr>]| parts.iter().map(Vec::len).sum::<usize>();
        let (own, wide): (u64, usize) = match expr {
            Expr::Cube(parts) => {
                let doubled = u32::try_from(parts.len()).ok();
                let doubled = doubled.and_then(|times| 1_u64.checked_shl(times));
                (doubled.unwrap_or(u64::MAX), of(parts))
            }
            Expr::Rollup(parts) => (parts.len() as u64 + 1, of(parts)),
            Expr::GroupingSets(parts) => (parts.len() as u64 + 1, of(parts)),
            _ => {
                width = width.saturating_add(1);
                continue;
            }
        };
        sets = sets.saturating_mul(own);
        width = width.saturating_add(wide as u64);
        if sets > GROUPINGS {
            return Err(Error::invalid(format!(
                "one GROUP BY has more than {GROUPINGS} grouping sets"
            ))
            .with_help("CUBE makes twice as many with each expression: write those that you need as GROUPING SETS")
            .at(expr.span()));
        }
        if sets.saturating_mul(width) > GROUPED {
            return Err(Error::invalid(format!(
                "the grouping sets of one GROUP BY have more than {GROUPED} expressions"
            ))
            .with_help("split it into several statements")
            .at(expr.span()));
        }
    }
    Ok(())
}

/// Balances the chain of AND or OR whose top is this expression.
fn terms(expr: &mut Expr) -> Result<()> {
    let Expr::BinaryOp { op, right, .. } = &*expr else {
        return Ok(());
    };
    if !matches!(op, BinaryOperator::And | BinaryOperator::Or) {
        return Ok(());
    }
    let op = op.clone();
    let is_link = |expr: &Expr| matches!(expr, Expr::BinaryOp { op: found, .. } if *found == op);
    let mut count = 1;
    let mut at = &*expr;
    while let Expr::BinaryOp { left, .. } = at
        && is_link(at)
    {
        count += 1;
        at = left;
    }
    if count > TERMS {
        return Err(Error::invalid(format!(
            "one {op} has {count} conditions, and the limit is {TERMS}"
        ))
        .with_help("write values as a list, x IN (1, 2, …), or join with a table that has them")
        .at(end_of(right)));
    }
    if count <= SHORT {
        return Ok(());
    }
    let mut terms = Vec::with_capacity(count);
    let mut rest = std::mem::replace(expr, nothing());
    loop {
        match rest {
            Expr::BinaryOp {
                left,
                op: found,
                right,
            } if found == op => {
                terms.push(*right);
                rest = *left;
            }
            first => {
                terms.push(first);
                break;
            }
        }
    }
    terms.reverse();
    let joined = in_pairs(terms, |left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: op.clone(),
        right: Box::new(right),
    });
    if let Some(joined) = joined {
        *expr = joined;
    }
    Ok(())
}

/// Balances the UNION at the top of this query, and checks the set operations that cannot be balanced.
fn branches(body: &mut Box<SetExpr>) -> Result<()> {
    let mut count = 1;
    let mut stacked = 0;
    let mut last = None;
    let mut at = body.as_ref();
    while let SetExpr::SetOperation {
        op,
        set_quantifier,
        left,
        ..
    } = at
    {
        count += 1;
        if last != Some((*op, *set_quantifier)) || *op != SetOperator::Union {
            stacked += 1;
        }
        last = Some((*op, *set_quantifier));
        at = left;
    }
    if stacked > STACKED || count > BRANCHES {
        return Err(Error::invalid(format!(
            "{count} queries are combined here, and the limit is {} of one kind and {} of different kinds",
            BRANCHES, STACKED
        ))
        .with_help("split it into several statements"));
    }
    if count > SHORT {
        take_apart(body);
    }
    Ok(())
}

fn take_apart(body: &mut Box<SetExpr>) {
    let SetExpr::SetOperation {
        op: SetOperator::Union,
        set_quantifier,
        ..
    } = body.as_ref()
    else {
        // Another operation is on top: its left side may be a long UNION.
        if let SetExpr::SetOperation { left, .. } = body.as_mut() {
            take_apart(left);
        }
        return;
    };
    let quantifier = *set_quantifier;
    let mut branches = Vec::new();
    let mut rest = std::mem::replace(body.as_mut(), SetExpr::Values(no_values()));
    loop {
        match rest {
            SetExpr::SetOperation {
                op: SetOperator::Union,
                set_quantifier,
                left,
                right,
            } if set_quantifier == quantifier => {
                branches.push(*right);
                rest = *left;
            }
            first => {
                branches.push(first);
                break;
            }
        }
    }
    branches.reverse();
    if let Some(first) = branches.first_mut() {
        let mut boxed = Box::new(std::mem::replace(first, SetExpr::Values(no_values())));
        take_apart(&mut boxed);
        *first = *boxed;
    }
    let joined = in_pairs(branches, |left, right| SetExpr::SetOperation {
        op: SetOperator::Union,
        set_quantifier: quantifier,
        left: Box::new(left),
        right: Box::new(right),
    });
    if let Some(joined) = joined {
        **body = joined;
    }
}

fn no_values() -> datafusion::sql::sqlparser::ast::Values {
    datafusion::sql::sqlparser::ast::Values {
        explicit_row: false,
        value_keyword: false,
        rows: Vec::new(),
    }
}

/// Joins neighbours in pairs, then the pairs, and so on.
fn in_pairs<T>(mut level: Vec<T>, join: impl Fn(T, T) -> T) -> Option<T> {
    while level.len() > 1 {
        let mut next = Vec::with_capacity(level.len().div_ceil(2));
        let mut terms = level.into_iter();
        while let Some(left) = terms.next() {
            next.push(match terms.next() {
                Some(right) => join(left, right),
                None => left,
            });
        }
        level = next;
    }
    level.pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::stack::with_stack;
    use crate::planner::{Script, parse_statement};

    fn parsed(sql: &str) -> Result<String> {
        let raw = Script::new("t", sql).split()?.remove(0);
        Ok(match parse_statement(&raw)?.statement {
            Statement::Sql(sql) => sql.to_string(),
            other => format!("{other:?}"),
        })
    }

    /// How deep the first condition of a query is.
    fn depth(sql: &str) -> usize {
        struct DepthMeasure(usize, usize);
        impl VisitorMut for DepthMeasure {
            type Break = ();
            fn pre_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<()> {
                self.0 += 1;
                self.1 = self.1.max(self.0);
                ControlFlow::Continue(())
            }
            fn post_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<()> {
                self.0 -= 1;
                ControlFlow::Continue(())
            }
        }
        let raw = Script::new("t", sql).split().unwrap().remove(0);
        let Statement::Sql(mut sql) = parse_statement(&raw).unwrap().statement else {
            panic!("{sql}")
        };
        let SqlStatement::Statement(ansi) = sql.as_mut() else {
            panic!("no statement")
        };
        let mut deepest = DepthMeasure(0, 0);
        let _ = ansi.walk_mut(&mut deepest);
        deepest.1
    }

    #[test]
    fn balanced_chains_are_shallow_and_equivalent() {
        for (word, count) in [("OR", 3_000), ("AND", 3_000), ("OR", 17)] {
            let terms: Vec<String> = (0..count).map(|n| format!("a = {n}")).collect();
            let sql = format!("SELECT * FROM t WHERE {}", terms.join(&format!(" {word} ")));
            assert_eq!(parsed(&sql).unwrap(), sql);
            assert!(depth(&sql) < 16, "{}", depth(&sql));
        }
        let short = "SELECT a OR b OR c AND d";
        assert_eq!(parsed(short).unwrap(), short);
        let union = vec!["SELECT a FROM t"; 1_500].join(" UNION ALL ");
        assert_eq!(parsed(&union).unwrap(), union);
        let mixed = format!("{union} EXCEPT SELECT 1");
        assert_eq!(parsed(&mixed).unwrap(), mixed);
    }

    #[test]
    fn chains_that_stay_deep_are_refused_with_a_place() {
        for chain in [
            " + 1",
            " - 1",
            " || 'a'",
            " = 1",
            "::INT",
            " IS NULL",
            " BETWEEN 1 AND 2",
            " AT TIME ZONE 'UTC'",
            " LIKE 'a'",
            " IS DISTINCT FROM 1",
            " -> 'a'",
        ] {
            let sql = format!("SELECT 1{}", chain.repeat(1_000));
            let error = parsed(&sql).expect_err(chain);
            assert!(error.message().contains("too deep"), "{chain}: {error}");
            assert!(error.span().is_some());
        }
        let or = vec!["a = 1"; 5_000].join(" OR ");
        let error = parsed(&format!("SELECT {or}")).unwrap_err();
        assert!(
            error
                .message()
                .contains("5000 conditions, and the limit is 4000"),
            "{error}"
        );
        let except = vec!["SELECT 1"; 500].join(" EXCEPT ");
        assert!(parsed(&except).is_err());
        let turns = vec!["SELECT 1 UNION SELECT 2"; 500].join(" UNION ALL ");
        assert!(parsed(&turns).is_err());
    }

    #[test]
    fn grouping_sets_are_limited() {
        let columns = |n: usize| {
            let columns: Vec<String> = (0..n).map(|n| format!("c{n}")).collect();
            columns.join(", ")
        };
        let sets = |n: usize| {
            let sets: Vec<String> = (0..n).map(|n| format!("(c{n})")).collect();
            sets.join(", ")
        };
        for (groups, may) in [
            (format!("CUBE({})", columns(12)), true),
            (format!("CUBE({})", columns(13)), false),
            (format!("CUBE({})", columns(63)), false),
            (format!("CUBE({})", columns(64)), false),
            (format!("CUBE({})", columns(500)), false),
            (format!("ROLLUP({})", columns(400)), true),
            (format!("ROLLUP({})", columns(4_000)), false),
            (format!("ROLLUP({})", columns(5_000)), false),
            (format!("GROUPING SETS({})", sets(400)), true),
            (format!("GROUPING SETS({})", sets(5_000)), false),
            (format!("a, CUBE({}), b", columns(11)), true),
            (
                format!("CUBE({}), ROLLUP({})", columns(8), columns(20)),
                false,
            ),
            (["CUBE(a, b)"; 7].join(", "), false),
            (columns(3_000), true),
        ] {
            for sql in [
                format!("SELECT count(*) FROM t GROUP BY {groups}"),
                format!("SELECT (SELECT count(*) FROM t GROUP BY {groups})"),
                format!("WITH a AS (SELECT count(*) FROM t GROUP BY {groups}) SELECT * FROM a"),
            ] {
                let checked = parsed(&sql);
                assert_eq!(checked.is_ok(), may, "{:.60}: {checked:?}", groups);
                if let Err(error) = checked {
                    assert!(error.message().contains("one GROUP BY"), "{error}");
                    assert!(error.span().is_some());
                }
            }
        }
    }

    #[test]
    fn backtracking_of_the_parser_is_limited() {
        for (open, close) in [
            ("CAST(", " AS BIGINT)"),
            ("TRY_CAST(", " AS BIGINT)"),
            ("CASE WHEN ", " THEN 1 END"),
            ("(", ")"),
            ("EXISTS (SELECT ", ")"),
            ("(SELECT ", ")"),
            ("NOT (", ")"),
            ("abs(", ")"),
            ("[", "]"),
            ("STRUCT(", ")"),
            ("INTERVAL (", ")"),
            ("EXTRACT(DAY FROM ", ")"),
        ] {
            for wrong in ["1", "1 1", "+", ""] {
                let sql = format!("SELECT {}{wrong}{}", open.repeat(48), close.repeat(48));
                // Parsed or refused: at once.
                let _ = with_stack(|| parsed(&sql));
            }
        }
    }
}
