//! Parser of `TABLE t [PARTITION BY k…]` and `TABLE (query) [PARTITION BY k…]` as a window function's first argument.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, Word};

use super::{TABLE_ARGUMENT, WINDOW_FUNCTIONS, select_all};

/// For a dialect's `parse_prefix`: reads a table argument if the parser stands before one.
///
/// `None` unless the next word is TABLE and the first token in the parentheses of a window function, so that other uses of
/// TABLE are not affected. The result is a call `__table_arg((SELECT * FROM t), k1, k2)`, which
/// [`rewrite_window_calls`](super::rewrite_window_calls) leaves unchanged and the relation planner resolves; names keep their
/// spans.
///
/// A comma is followed by another key as long as a `DESCRIPTOR(…)` follows later; without one there is a single key, or several
/// in parentheses.
pub fn parse_table_argument(parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
    match &parser.peek_token_ref().token {
        Token::Word(word) if word.keyword == Keyword::TABLE && word.quote_style.is_none() => {}
        _ => return None,
    }
    if !opens_window_function(parser) {
        return None;
    }
    match parser.peek_nth_token_ref(1).token {
        Token::LParen | Token::Word(_) => Some(table_argument(parser)),
        _ => None,
    }
}

fn table_argument(parser: &mut Parser) -> Result<Expr, ParserError> {
    let start = parser.next_token().span;
    let table = if parser.consume_token(&Token::LParen) {
        let query = parser.parse_query()?;
        parser.expect_token(&Token::RParen)?;
        Expr::Subquery(query)
    } else {
        select_all(parser.parse_object_name(false)?)?
    };
    let mut args = vec![table];
    if parser.parse_keywords(&[Keyword::PARTITION, Keyword::BY]) {
        loop {
            match parser.parse_expr()? {
                Expr::Tuple(keys) => args.extend(keys),
                Expr::Nested(key) => args.push(*key),
                key => args.push(key),
            }
            if !another_key_follows(parser) {
                break;
            }
            parser.expect_token(&Token::Comma)?;
        }
    }
    let name = Ident::with_span(start, TABLE_ARGUMENT);
    Ok(Expr::Function(Function {
        name: ObjectName::from(vec![name]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args
                .into_iter()
                .map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)))
                .collect(),
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    }))
}

/// Whether the two tokens before the next one are a window function's name and its parenthesis.
fn opens_window_function(parser: &Parser) -> bool {
    let next = parser.index();
    let mut before = (0..next)
        .rev()
        .map(|index| &parser.token_at(index).token)
        .filter(|token| !matches!(token, Token::Whitespace(_)));
    if before.next() != Some(&Token::LParen) {
        return false;
    }
    matches!(before.next(), Some(Token::Word(word)) if is_unquoted(word, &WINDOW_FUNCTIONS))
}

/// Whether a comma comes next, then a token other than DESCRIPTOR, and a DESCRIPTOR( later in the same parentheses.
fn another_key_follows(parser: &Parser) -> bool {
    if parser.peek_nth_token_ref(0).token != Token::Comma || descriptor_at(parser, 1) {
        return false;
    }
    let mut depth = 0_usize;
    for ahead in 1.. {
        match &parser.peek_nth_token_ref(ahead).token {
            Token::EOF => return false,
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return false,
            Token::RParen => depth -= 1,
            _ if depth == 0 && descriptor_at(parser, ahead) => return true,
            _ => {}
        }
    }
    false
}

fn descriptor_at(parser: &Parser, ahead: usize) -> bool {
    matches!(&parser.peek_nth_token_ref(ahead).token, Token::Word(word) if is_unquoted(word, &["descriptor"]))
        && parser.peek_nth_token_ref(ahead + 1).token == Token::LParen
}

fn is_unquoted(word: &Word, names: &[&str]) -> bool {
    word.quote_style.is_none()
        && names
            .iter()
            .any(|name| word.value.eq_ignore_ascii_case(name))
}
