//! Limits for the tokens of a statement, checked before the parser reads them (SAFE-1).
//!
//! The parser recurses with brackets and with signs before an operand, and the tree it builds of a chain such as `a + b + c` is
//! as deep as the chain is long: all code that walks or drops the tree recurses as deep. So brackets, types and chains of
//! access have a limit here, and so has the number of tokens between two commas, which no chain can exceed. [`super::chains`]
//! then checks the tree itself more closely.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use crate::error::{Error, Result};
use crate::planner::script::is_significant;

/// Depth of nested brackets.
const NESTING: usize = 64;
/// Tokens between two commas, over all brackets that are open.
const RUN: usize = 40_000;
/// `a.b.c`, `a['b']['c']`, `INT[][]`.
const LINKS: usize = 64;
/// Repetitions of the same token: `- - -`, `INTERVAL INTERVAL`.
const REPEATED: usize = 64;
/// `EXPLAIN EXPLAIN`.
const EXPLAINS: usize = 4;

/// Refuses tokens whose tree could be too deep to build or to drop.
///
/// # Errors
/// [`crate::error::ErrorKind::Invalid`], with the place where the statement becomes too deep.
pub(crate) fn check(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut gate = TokenLimits {
        open: vec![BracketCounters::default()],
        run: 0,
        repeated: 0,
        explains: 0,
    };
    let mut before = None;
    for token in tokens.iter().filter(|token| is_significant(token)) {
        gate.pass(before, token)?;
        before = Some(&token.token);
    }
    Ok(())
}

/// The counters of one bracket.
#[derive(Default)]
struct BracketCounters {
    /// Tokens since the last comma.
    run: usize,
    /// Links of the chain of access that is not over.
    links: usize,
    /// Angle brackets of types.
    angles: usize,
}

struct TokenLimits {
    open: Vec<BracketCounters>,
    run: usize,
    repeated: usize,
    explains: usize,
}

impl TokenLimits {
    fn pass(&mut self, before: Option<&Token>, token: &TokenWithSpan) -> Result<()> {
        let (of, span) = (&token.token, token.span);
        self.count(before, of, span)?;
        match of {
            Token::LParen | Token::LBracket | Token::LBrace => {
                self.link(span)?;
                self.open.push(BracketCounters::default());
                let angles: usize = self.open.iter().map(|bracket| bracket.angles).sum();
                if self.open.len() + angles > NESTING {
                    return Err(too_deep(span));
                }
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                // A closing bracket too many is refused by the parser.
                if self.open.len() > 1
                    && let Some(closed) = self.open.pop()
                {
                    self.run -= closed.run;
                }
            }
            Token::Comma => {
                if let Some(bracket) = self.open.last_mut() {
                    self.run -= bracket.run;
                    (bracket.run, bracket.links) = (0, 0);
                }
            }
            Token::Period => self.link(span)?,
            Token::Lt if before.is_some_and(is_type_of_types) => {
                let open = self.open.len();
                if let Some(bracket) = self.open.last_mut() {
                    bracket.angles += 1;
                    if open + bracket.angles > NESTING {
                        return Err(too_deep(span));
                    }
                }
            }
            Token::Gt => self.close_angles(1),
            Token::ShiftRight => self.close_angles(2),
            // Tokens after a point belong to the chain, and so does a name before its brackets.
            Token::Word(_) if matches!(before, Some(Token::Period)) => {}
            _ => {
                if let Some(bracket) = self.open.last_mut() {
                    bracket.links = 0;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, before: Option<&Token>, token: &Token, span: Span) -> Result<()> {
        if let Some(bracket) = self.open.last_mut() {
            bracket.run += 1;
        }
        self.run += 1;
        if self.run > RUN {
            return Err(Error::invalid(format!(
                "the statement is a chain of more than {RUN} words and signs"
            ))
            .with_help("write values as a list, x IN (1, 2, …), or join with a table that has them")
            .at(span));
        }
        let is_bracket = matches!(
            token,
            Token::LParen | Token::RParen | Token::RBracket | Token::RBrace | Token::Comma
        );
        self.repeated = match before == Some(token) && !is_bracket {
            true => self.repeated + 1,
            false => 0,
        };
        if self.repeated > REPEATED {
            return Err(too_deep(span));
        }
        match word(token).as_deref() {
            Some("EXPLAIN") => self.explains += 1,
            Some("ANALYZE" | "VERBOSE" | "FORMAT" | "INDENT" | "TREE" | "PGJSON" | "GRAPHVIZ") => {}
            _ => self.explains = 0,
        }
        if self.explains > EXPLAINS {
            return Err(Error::invalid(
                "EXPLAIN shows the plan of a statement, not of another EXPLAIN",
            )
            .at(span));
        }
        Ok(())
    }

    fn link(&mut self, span: Span) -> Result<()> {
        let Some(bracket) = self.open.last_mut() else {
            return Ok(());
        };
        bracket.links += 1;
        match bracket.links > LINKS {
            true => Err(Error::invalid(format!(
                "the chain of names and brackets has more than {LINKS} links"
            ))
            .at(span)),
            false => Ok(()),
        }
    }

    fn close_angles(&mut self, count: usize) {
        if let Some(bracket) = self.open.last_mut() {
            bracket.angles = bracket.angles.saturating_sub(count);
            bracket.links = 0;
        }
    }
}

fn is_type_of_types(token: &Token) -> bool {
    matches!(word(token).as_deref(), Some("ARRAY" | "STRUCT" | "MAP"))
}

fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
        _ => None,
    }
}

/// The error for a statement that is nested too deep at this place.
pub(crate) fn too_deep(span: Span) -> Error {
    Error::invalid("the statement is nested too deep here")
        .with_help("name parts of it with WITH or in views, or break it into several statements")
        .at(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::Script;

    fn checked(sql: &str) -> Result<()> {
        check(&Script::new("t", sql).split()?.remove(0).tokens)
    }

    #[test]
    fn real_statements_pass() {
        let numbers: Vec<String> = (0..200_000).map(|n| n.to_string()).collect();
        let rows: Vec<String> = (0..20_000).map(|n| format!("({n}, 'x', NULL)")).collect();
        let branches = vec!["SELECT a, b FROM t WHERE a = 1"; 1_000];
        for sql in [
            format!("SELECT * FROM t WHERE a IN ({})", numbers.join(", ")),
            format!("INSERT INTO t VALUES {}", rows.join(", ")),
            branches.join(" UNION ALL "),
            vec!["(a = 1 AND b = 'x')"; 4_000].join(" OR "),
            format!("SELECT {}1{}", "(".repeat(50), ")".repeat(50)),
            "EXPLAIN ANALYZE VERBOSE SELECT a.b.c['d'][1] FROM x.y.z".to_owned(),
            "SELECT CAST(a AS ARRAY<STRUCT<a INT, b MAP<TEXT, ARRAY<INT>>>>), a < b, b >> 2"
                .to_owned(),
        ] {
            checked(&sql).unwrap();
        }
    }

    #[test]
    fn too_deep_nesting_is_refused_at_its_position() {
        let times = |text: &str, count: usize| text.repeat(count);
        for sql in [
            format!("SELECT {}1", times("(", 100)),
            format!("SELECT {}1", times("[", 100)),
            format!("SELECT {}1", times("f(", 100)),
            format!("SELECT 1{}", times(" + 1", 30_000)),
            format!("SELECT {}1", times("- ", 100)),
            format!("SELECT {}1", times("NOT ", 100)),
            format!("SELECT {}'1 day'", times("INTERVAL ", 100)),
            format!("SELECT a{}", times(".b", 100)),
            format!("SELECT a{}", times("['b']", 100)),
            format!("SELECT f{}", times("(1)", 100)),
            format!("SELECT CAST(1 AS INT{})", times("[]", 100)),
            format!("SELECT CAST(1 AS {}INT)", times("ARRAY<", 100)),
            format!(
                "SELECT CAST(1 AS {}INT)",
                times("STRUCT<a INT, b STRUCT<a INT, b ", 50)
            ),
            format!("{}SELECT 1", times("EXPLAIN ", 10)),
            format!("{}SELECT 1", times("EXPLAIN ANALYZE VERBOSE ", 10)),
        ] {
            let error = checked(&sql).expect_err(&sql[..40]);
            assert!(error.span().unwrap().start.column > 7, "{error}");
        }
    }
}
