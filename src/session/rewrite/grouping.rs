//! Rewrites of GROUP BY with GROUPING SETS, ROLLUP and CUBE to forms that the engine's planner answers correctly.
//!
//! To a key beside the sets the planner adds the columns that functionally depend on it: where each `a` has one `b`, it would
//! expand `GROUP BY a, ROLLUP (b)` to the sets `(a, b)` and `(a, b, b)`, and return each group twice. To keys within sets it
//! adds none. So the key becomes a set of its own, `GROUPING SETS ((a)), ROLLUP (b)`, which means the same. And the planner
//! takes a number within a set for a value: here it is the position of a column in the select list, as it is beside sets.

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, GroupByWithModifier, Select, SelectItem, Spanned, Value,
};

use crate::error::{Error, Result};
use crate::session::rewrite::row_comparisons::{COPIED, size};
use crate::session::syntax::taken;

/// Rewrites the keys of a query with grouping sets. `copied` counts the copied expressions of the statement.
///
/// # Errors
///
/// A number without an expression in the select list; a form of GROUP BY that the engine would ignore; too many references by
/// number to large expressions.
pub(crate) fn sets(select: &mut Select, copied: &mut usize) -> Result<()> {
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = &select.group_by;
    if let Some(modifier) = modifiers.first() {
        return Err(refused(modifier).at(select.group_by.span()));
    }
    let GroupByExpr::Expressions(keys, _) = &mut select.group_by else {
        return Ok(());
    };
    if !keys.iter().any(is_set) {
        return Ok(());
    }
    for key in keys {
        match key {
            Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => {
                for of in sets.iter_mut().flatten() {
                    named(of, &select.projection, copied)?;
                }
            }
            // Several keys in parentheses are one set, and empty parentheses are the set of all rows.
            Expr::Tuple(of) => {
                let mut set = std::mem::take(of);
                for of in &mut set {
                    named(of, &select.projection, copied)?;
                }
                *key = Expr::GroupingSets(vec![set]);
            }
            of => {
                named(of, &select.projection, copied)?;
                *of = Expr::GroupingSets(vec![vec![taken(of)]]);
            }
        }
    }
    Ok(())
}

fn is_set(key: &Expr) -> bool {
    match key {
        Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => true,
        Expr::Tuple(of) => of.is_empty(),
        _ => false,
    }
}

/// Replaces a number by the expression at that position of the select list.
fn named(key: &mut Expr, list: &[SelectItem], copied: &mut usize) -> Result<()> {
    let Expr::Value(value) = key else {
        return Ok(());
    };
    let Value::Number(number, _) = &value.value else {
        return Ok(());
    };
    let Ok(place) = number.parse::<usize>() else {
        return Ok(());
    };
    let span = value.span;
    let before = list.iter().take_while(|item| is_one(item)).count();
    let item = place.checked_sub(1).and_then(|place| list.get(place));
    match item {
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. })
            if place <= before =>
        {
            *copied = copied.saturating_add(size(expr));
            if *copied > COPIED {
                return Err(Error::unsupported(
                    "too many parts of the select list are referenced by number here",
                )
                .with_help("compute the values in a query in FROM, and group by its columns")
                .at(span));
            }
            *key = expr.clone();
            Ok(())
        }
        // The number of columns of `*` is not known here.
        _ if before < list.len() => Err(Error::unsupported(format!(
            "GROUP BY {number} together with grouping sets cannot count past a * in the select list"
        ))
        .with_help("name the column")
        .at(span)),
        _ => Err(Error::invalid(format!(
            "GROUP BY {number}: the select list has {} columns",
            list.len()
        ))
        .at(span)),
    }
}

/// Whether the item is a single column.
fn is_one(item: &SelectItem) -> bool {
    matches!(
        item,
        SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
    )
}

fn refused(modifier: &GroupByWithModifier) -> Error {
    let (what, help) = match modifier {
        GroupByWithModifier::Rollup => (
            "GROUP BY … WITH ROLLUP is not supported",
            "write GROUP BY ROLLUP (a, b)",
        ),
        GroupByWithModifier::Cube => (
            "GROUP BY … WITH CUBE is not supported",
            "write GROUP BY CUBE (a, b)",
        ),
        GroupByWithModifier::Totals => (
            "GROUP BY … WITH TOTALS is not supported",
            "write GROUP BY GROUPING SETS ((a, b), ())",
        ),
        GroupByWithModifier::GroupingSets(_) => (
            "keys before GROUPING SETS without a comma are not supported",
            "write GROUP BY GROUPING SETS ((a, b), (a))",
        ),
    };
    Error::unsupported(what).with_help(help)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::{SetExpr, Statement};
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn keys(sql: &str) -> Result<String> {
        let mut parsed = Parser::parse_sql(&GenericDialect {}, sql).unwrap();
        let Some(Statement::Query(mut query)) = parsed.pop() else {
            panic!("{sql} is no query");
        };
        let SetExpr::Select(select) = query.body.as_mut() else {
            panic!("{sql} is no SELECT");
        };
        sets(select, &mut 0)?;
        Ok(select.group_by.to_string())
    }

    #[test]
    fn keys_beside_grouping_sets_are_combined() {
        for (sql, wanted) in [
            (
                "SELECT a, b FROM t GROUP BY a, ROLLUP (b)",
                "GROUP BY GROUPING SETS ((a)), ROLLUP (b)",
            ),
            (
                "SELECT a + 1 AS x, b FROM t GROUP BY 1, GROUPING SETS ((2), ())",
                "GROUP BY GROUPING SETS ((a + 1)), GROUPING SETS ((b), ())",
            ),
            (
                "SELECT count(*) FROM t GROUP BY (), (a, b)",
                "GROUP BY GROUPING SETS (()), GROUPING SETS ((a, b))",
            ),
            ("SELECT a FROM t GROUP BY a, 1", "GROUP BY a, 1"),
            ("SELECT *, a FROM t GROUP BY ALL", "GROUP BY ALL"),
        ] {
            assert_eq!(keys(sql).unwrap(), wanted, "{sql}");
        }
    }

    #[test]
    fn grouping_that_the_engine_would_drop_is_refused() {
        for sql in [
            "SELECT a FROM t GROUP BY a WITH ROLLUP",
            "SELECT a FROM t GROUP BY a GROUPING SETS ((a))",
            "SELECT a FROM t GROUP BY ROLLUP (2)",
            "SELECT *, a FROM t GROUP BY ROLLUP (2)",
        ] {
            assert!(keys(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn safe_1_numbers_of_large_expressions_are_counted() {
        let places = vec!["1"; 300].join(", ");
        let of = |list: String| keys(&format!("SELECT {list} FROM t GROUP BY ROLLUP ({places})"));
        of("a + 1".to_owned()).unwrap();
        for list in [
            format!("f({})", vec!["a"; 1_000].join(", ")),
            format!("a || '{}'", "x".repeat(100_000)),
        ] {
            let error = of(list).unwrap_err();
            assert!(error.message().contains("too many parts"), "{error}");
        }
    }
}
