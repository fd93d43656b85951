//! Rewrite of `LIKE … ESCAPE '!'`: the engine supports the backslash only.

use datafusion::sql::sqlparser::ast::{Expr, Value};

/// Rewrites a pattern with another escape character, or with none, to one with backslashes. A pattern that is not a literal is
/// not changed.
pub(crate) fn with_backslashes(expr: &mut Expr) {
    let (Expr::Like {
        pattern,
        escape_char,
        ..
    }
    | Expr::ILike {
        pattern,
        escape_char,
        ..
    }) = expr
    else {
        return;
    };
    let Some(Value::SingleQuotedString(escape)) = escape_char.as_ref().map(|char| &char.value)
    else {
        return;
    };
    let Expr::Value(text) = pattern.as_mut() else {
        return;
    };
    let Value::SingleQuotedString(written) = &text.value else {
        return;
    };
    if escape.chars().count() > 1 {
        return;
    }
    if let Some(escaped) = translated(written, escape.chars().next()) {
        text.value = Value::SingleQuotedString(escaped);
        *escape_char = None;
    }
}

/// The pattern with backslashes; `None` if it ends in its escape character.
fn translated(pattern: &str, escape: Option<char>) -> Option<String> {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern.chars();
    while let Some(next) = rest.next() {
        let (is_escaped, next) = match Some(next) == escape {
            true => (true, rest.next()?),
            false => (false, next),
        };
        if next == '\\' || (is_escaped && matches!(next, '%' | '_')) {
            out.push('\\');
        }
        out.push(next);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::translated;

    #[test]
    fn escape_characters_become_backslashes() {
        for (pattern, escape, expected) in [
            ("a!_c%", Some('!'), Some("a\\_c%")),
            ("100!%!!", Some('!'), Some("100\\%!")),
            ("a\\b", Some('!'), Some("a\\\\b")),
            ("a\\_", None, Some("a\\\\_")),
            ("a\\_", Some('\\'), Some("a\\_")),
            ("a!", Some('!'), None),
        ] {
            assert_eq!(
                translated(pattern, escape).as_deref(),
                expected,
                "{pattern}"
            );
        }
    }
}
