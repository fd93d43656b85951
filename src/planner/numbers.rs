//! Check of number tokens: `1_000` is a number, and `1abc` is an error.
//!
//! The parser would take the letters right after a number for an alias: `SELECT 1abc` would be `1 AS abc`.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use crate::error::{Error, Result};

/// Removes the underscores from numbers.
///
/// # Errors
/// [`crate::error::ErrorKind::Invalid`], with the place of a number that letters follow directly, or that has an underscore
/// elsewhere than between two digits.
pub(crate) fn read(tokens: &mut [TokenWithSpan]) -> Result<()> {
    for place in 0..tokens.len() {
        let span = tokens[place].span;
        let Some(number) = number(&tokens[place]) else {
            continue;
        };
        let next = tokens.get(place + 1);
        if let Some(next) = next
            && let Token::Word(word) = &next.token
            && word.quote_style.is_none()
            && next.span.start == span.end
        {
            let all = Span::new(span.start, next.span.end);
            return Err(no_number(&format!("{number}{}", word.value)).at(all));
        }
        if !number.contains('_') {
            continue;
        }
        if !separates_digits(number) {
            return Err(no_number(number).at(span));
        }
        if let Token::Number(number, _) | Token::HexStringLiteral(number) = &mut tokens[place].token
        {
            number.retain(|character| character != '_');
        }
    }
    Ok(())
}

/// The digits of a token that is a number. The token of `0x1f` equals that of `X'1f'`: its length tells them apart.
fn number(token: &TokenWithSpan) -> Option<&str> {
    match &token.token {
        Token::Number(number, _) => Some(number.as_str()),
        Token::HexStringLiteral(digits) => {
            let (start, end) = (token.span.start, token.span.end);
            let length = end.column.saturating_sub(start.column);
            let is_number = start.line == end.line && length == digits.len() as u64 + 2;
            is_number.then_some(digits.as_str())
        }
        _ => None,
    }
}

/// Whether each underscore has a digit on both sides.
fn separates_digits(number: &str) -> bool {
    let bytes = number.as_bytes();
    let is_digit = |place: Option<usize>| {
        let byte = place.and_then(|place| bytes.get(place));
        byte.is_some_and(u8::is_ascii_hexdigit)
    };
    let mut underscores = (0..bytes.len()).filter(|place| bytes[*place] == b'_');
    underscores.all(|place| is_digit(place.checked_sub(1)) && is_digit(Some(place + 1)))
}

fn no_number(text: &str) -> Error {
    Error::invalid(format!(
        "invalid number {text}: it is followed by letters, or has an underscore that is not between two digits"
    ))
    .with_help("write AS before a name, and quote a name that begins with a digit: \"1a\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::Script;

    fn numbers(sql: &str) -> Result<Vec<String>> {
        let mut tokens = Script::new("t", sql).split()?.remove(0).tokens;
        read(&mut tokens)?;
        let numbers = tokens.into_iter().filter_map(|token| match token.token {
            Token::Number(number, _) => Some(number),
            _ => None,
        });
        Ok(numbers.collect())
    }

    #[test]
    fn underscores_stand_between_digits() {
        let read = numbers("SELECT 1_000, 1_0.2_5 AS a, 2 b, (3)c, x1, 1e3, 4").unwrap();
        assert_eq!(read, ["1000", "10.25", "2", "3", "1e3", "4"]);
        for sql in [
            "SELECT 1_000_",
            "SELECT 1__000",
            "SELECT 1_a",
            "SELECT 1._5",
        ] {
            let error = numbers(sql).expect_err(sql);
            assert_eq!(error.span().unwrap().start.column, 8, "{error}");
        }
    }

    #[test]
    fn letters_after_a_number_are_refused_at_their_position() {
        for sql in [
            "SELECT 123abc",
            "SELECT 1.5e",
            "SELECT 1Lx",
            "SELECT 0x1fg",
            "SELECT 1FROM",
        ] {
            let error = numbers(sql).expect_err(sql);
            assert_eq!(error.span().unwrap().start.column, 8, "{error}");
        }
        for sql in ["SELECT X'1f'a", "SELECT 1\"a\"", "SELECT 'x'a"] {
            numbers(sql).expect(sql);
        }
    }
}
