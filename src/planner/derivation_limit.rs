//! Limit for how often the engine derives the types of the parts of an expression (SAFE-1).
//!
//! The engine derives the type of CASE and then its nullability, and each of the two derives the parts below again; for a
//! condition `CASE … IS NULL` it does so three times. Functions do not cache the answer. So the work for
//! `abs(CASE WHEN a THEN abs(CASE WHEN …))` doubles with each level, before there is a plan that could be measured. This module
//! counts the derivations in the syntax tree, where each part is visited once.

use datafusion::sql::sqlparser::ast::{Expr, Spanned as _};

use crate::error::{Error, Result};

/// Limit of derivations for one expression.
const ANSWERS: u64 = 10_000_000;
/// Expressions with fewer derivations are always accepted.
const FEW: u64 = 200_000;
/// Only doubling exceeds this number of derivations per part: the deepest chains that the other limits allow stay below it.
const OF_ONE: u64 = 1_000;

/// The cost of the expressions that the visitor has left so far.
#[derive(Debug)]
pub(super) struct Derivation {
    /// The expressions that the visitor is in, innermost last.
    open: Vec<OpenExpression>,
}

/// An expression that the visitor is in.
#[derive(Debug, Default, Clone, Copy)]
struct OpenExpression {
    /// The cost of the expressions directly below it.
    below: Cost,
    case: Option<CaseParts>,
}

/// The parts of a CASE visited so far: operand, conditions and values in turn, and the value of ELSE.
#[derive(Debug, Clone, Copy)]
struct CaseParts {
    has_operand: bool,
    conditions: usize,
    visited: usize,
    /// Derivations for its type alone, or for its nullability alone.
    one: u64,
}

impl CaseParts {
    fn add(&mut self, cost: Cost) {
        let of_operand = usize::from(self.has_operand);
        let is_condition = self.visited >= of_operand
            && self.visited < of_operand + 2 * self.conditions
            && (self.visited - of_operand).is_multiple_of(2);
        self.visited += 1;
        // Beside an operand there are values, and no conditions.
        let answers = match is_condition && !self.has_operand {
            true => cost.condition,
            false => cost.one,
        };
        self.one = self.one.saturating_add(answers);
    }
}

/// Number of derivations that an expression needs, including those below it.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    /// Number of its parts.
    parts: u64,
    /// Derivations if both its type and its nullability are derived.
    both: u64,
    /// Derivations if only one of them is derived.
    one: u64,
    /// Derivations if the expression is a condition of CASE.
    condition: u64,
}

impl Cost {
    fn add(&mut self, other: Cost) {
        self.parts = self.parts.saturating_add(other.parts);
        self.both = self.both.saturating_add(other.both);
        self.one = self.one.saturating_add(other.one);
        self.condition = self.condition.saturating_add(other.condition);
    }

    /// The cost that an expression adds to that of the expressions below it.
    fn of(expr: &Expr, open: OpenExpression) -> Cost {
        let below = open.below;
        let parts = below.parts.saturating_add(1);
        let more = |count: u64| count.saturating_add(1);
        let known = |condition: u64| Cost {
            parts,
            both: 1,
            one: 1,
            condition: more(condition),
        };
        if let Some(case) = open.case {
            let one = more(case.one);
            return Cost {
                parts,
                both: one.saturating_mul(2),
                one,
                condition: one,
            };
        }
        match expr {
            Expr::Value(_) => Cost::default(),
            Expr::Nested(_) => below,
            Expr::IsNull(_) | Expr::IsNotNull(_) => {
                known(below.one.saturating_mul(2).saturating_add(below.condition))
            }
            Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_) => known(below.condition),
            // Operators become functions too.
            _ => {
                let both = more(below.both);
                Cost {
                    parts,
                    both,
                    one: both,
                    condition: both.saturating_add(below.condition),
                }
            }
        }
    }
}

impl Default for Derivation {
    fn default() -> Self {
        Self {
            open: vec![OpenExpression::default()],
        }
    }
}

impl Derivation {
    /// The visitor enters an expression.
    pub(super) fn enter(&mut self, expr: &Expr) {
        let case = match expr {
            Expr::Case {
                operand,
                conditions,
                ..
            } => Some(CaseParts {
                has_operand: operand.is_some(),
                conditions: conditions.len(),
                visited: 0,
                one: 0,
            }),
            _ => None,
        };
        self.open.push(OpenExpression {
            below: Cost::default(),
            case,
        });
    }

    /// The visitor enters a query: a query is planned by itself.
    pub(super) fn enter_query(&mut self) {
        self.open.push(OpenExpression::default());
    }

    /// The visitor leaves a query.
    pub(super) fn leave_query(&mut self) {
        self.open.pop();
    }

    /// The visitor leaves an expression.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Invalid`] if the engine would need too many derivations.
    pub(super) fn leave(&mut self, expr: &Expr) -> Result<()> {
        let open = self.open.pop().unwrap_or_default();
        let cost = Cost::of(expr, open);
        let is_doubled = cost.both > FEW && cost.both / cost.parts.max(1) > OF_ONE;
        if is_doubled || cost.both > ANSWERS {
            return Err(Error::invalid(
                "CASE is nested too deep within functions, or within conditions of CASE, here",
            )
            .with_help(
                "compute the inner ones as columns of a query in FROM, and name those columns",
            )
            .at(expr.span()));
        }
        if let Some(around) = self.open.last_mut() {
            around.below.add(cost);
            if let Some(case) = &mut around.case {
                case.add(cost);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::error::Result;
    use crate::planner::{Script, parse_statement};

    fn parsed(sql: &str) -> Result<()> {
        let raw = Script::new("t", sql).split()?.remove(0);
        parse_statement(&raw).map(drop)
    }

    fn nested(levels: usize, step: impl Fn(String) -> String) -> String {
        (0..levels).fold("a".to_owned(), |inner, _| step(inner))
    }

    #[test]
    fn exponential_expressions_are_refused() {
        for (what, levels, may) in [
            ("abs(CASE WHEN b THEN X END)", 12, true),
            ("abs(CASE WHEN b THEN X END)", 40, false),
            ("CASE WHEN b THEN 1 + X END", 12, true),
            ("CASE WHEN b THEN 1 + X END", 40, false),
            ("CASE WHEN (X) IS NULL THEN NULL END", 5, true),
            ("CASE WHEN (X) IS NULL THEN NULL END", 20, false),
            ("CASE WHEN b THEN 1 ELSE X END", 45, true),
            ("CASE WHEN b THEN X ELSE 1 END", 45, true),
            ("CASE b WHEN X THEN 1 END", 45, true),
            ("abs(X)", 50, true),
            ("(X) IS NULL", 50, true),
        ] {
            let expr = nested(levels, |inner| what.replace('X', &inner));
            for sql in [
                format!("SELECT {expr} FROM t"),
                format!("SELECT 1 FROM t WHERE {expr} > 1"),
                format!("SELECT (SELECT max({expr}) FROM t)"),
            ] {
                let checked = parsed(&sql);
                assert_eq!(checked.is_ok(), may, "{what} {levels}: {checked:?}");
                if let Err(error) = checked {
                    assert!(
                        error.message().starts_with("CASE is nested too deep"),
                        "{error}"
                    );
                }
            }
        }
    }

    #[test]
    fn long_expressions_pass() {
        let whens: Vec<String> = (0..3_000)
            .map(|n| format!("WHEN a = {n} THEN b + {n}"))
            .collect();
        let list: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
        let terms = vec!["a = 1 AND b IS NULL"; 2_000].join(" OR ");
        for sql in [
            format!("SELECT CASE {} END FROM t", whens.join(" ")),
            format!("SELECT CASE WHEN a IN ({}) THEN 1 END", list.join(", ")),
            format!("SELECT CASE WHEN {terms} THEN 1 END FROM t"),
            format!(
                "SELECT CASE WHEN a{} > 1 THEN 1 END FROM t",
                " + b".repeat(300)
            ),
        ] {
            parsed(&sql).unwrap();
        }
    }
}
