//! Scripts: a named text, split into statements at each `;` outside strings and comments.

use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::error::{Error, Result};
use crate::planner::dialect::AnabranchDialect;

/// A named text: a file, an argument, or a line typed at the prompt.
#[derive(Debug, Clone)]
pub struct Script {
    /// The name of the script in errors: the file's path as given, or a word in angle brackets.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Script {
    /// A script of this name and text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }

    /// Splits the text into its statements and leaves out empty ones.
    ///
    /// # Errors
    /// Text that cannot be tokenized: an unterminated string or comment, with its place.
    pub fn split(&self) -> Result<Vec<RawStatement>> {
        split(&self.text)
    }
}

/// The tokens of one statement, without its `;`. Positions are those of the whole text.
#[derive(Debug, Clone)]
pub struct RawStatement {
    /// All tokens, including white space and comments, so that the text can be displayed again.
    pub tokens: Vec<TokenWithSpan>,
    /// The first token that is a word or sign.
    pub span: Span,
    /// The text from there on.
    source: String,
}

impl RawStatement {
    /// Numbers each `?` as `$1` and so on; returns the names of all parameters, without `$`, in the order in which clients bind
    /// them: by number if all have one.
    pub fn number_parameters(&mut self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut marks = 0;
        for token in &mut self.tokens {
            let Token::Placeholder(name) = &mut token.token else {
                continue;
            };
            if name == "?" {
                marks += 1;
                *name = format!("${marks}");
            }
            let name = name.trim_start_matches('$').to_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.iter().all(|name| name.parse::<u32>().is_ok()) {
            names.sort_by_key(|name| name.parse::<u32>().unwrap_or(u32::MAX));
        }
        names
    }

    /// The statement's text as typed, from its first word on.
    pub fn text(&self) -> String {
        self.text_with(|_| None)
    }

    /// The text with some tokens replaced.
    pub(crate) fn text_with(&self, other: impl Fn(&TokenWithSpan) -> Option<String>) -> String {
        let mut text = String::with_capacity(self.source.len());
        for (token, typed) in self.typed_tokens() {
            match (other(token), &token.token) {
                (Some(other), _) => text.push_str(&other),
                // The token may have been numbered since.
                (None, Token::Placeholder(name)) => text.push_str(name),
                (None, _) => text.push_str(typed),
            }
        }
        text.trim().to_owned()
    }

    /// The tokens from the first word on, each with its text as typed.
    pub(crate) fn typed_tokens(&self) -> impl Iterator<Item = (&TokenWithSpan, &str)> {
        let mut rest = RemainingText::new(&self.source, self.span.start);
        self.tokens
            .iter()
            .skip_while(|token| !is_significant(token))
            .map(move |token| (token, rest.take_until(token.span.end)))
    }
}

/// The rest of a text, and the place where it begins.
struct RemainingText<'a> {
    text: &'a str,
    at: Location,
}

impl<'a> RemainingText<'a> {
    fn new(text: &'a str, at: Location) -> Self {
        Self { text, at }
    }

    /// The text up to a place, which the tokenizer has counted.
    fn take_until(&mut self, end: Location) -> &'a str {
        let mut bytes = self.text.len();
        for (offset, found) in self.text.char_indices() {
            if self.at >= end {
                bytes = offset;
                break;
            }
            self.at = after(self.at, found);
        }
        let (taken, rest) = self.text.split_at(bytes);
        self.text = rest;
        taken
    }
}

/// The place after a character.
pub(crate) fn after(place: Location, character: char) -> Location {
    match character {
        '\n' => Location::new(place.line + 1, 1),
        _ => next_column(place),
    }
}

/// A text as an SQL string literal.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as a quoted SQL identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// True if the text ends inside a statement: the shell then asks for another line.
pub fn is_incomplete(text: &str) -> bool {
    let dialect = AnabranchDialect::default();
    match Tokenizer::new(&dialect, text).tokenize() {
        // An unterminated string or comment continues on the next line.
        Err(_) => true,
        Ok(tokens) => {
            let last = tokens
                .iter()
                .rev()
                .find(|token| !matches!(token, Token::Whitespace(_)));
            !matches!(last, None | Some(Token::SemiColon))
        }
    }
}

fn split(text: &str) -> Result<Vec<RawStatement>> {
    let dialect = AnabranchDialect::default();
    let tokens = Tokenizer::new(&dialect, text)
        .tokenize_with_location()
        .map_err(|error| {
            let place = error.location;
            Error::invalid(lower_first(&error.message)).at(Span::new(place, next_column(place)))
        })?;
    let mut rest = RemainingText::new(text, Location::new(1, 1));
    let mut statements = Vec::new();
    // Tokens are many times as large as the text: they are moved, not copied.
    let mut tokens = tokens.into_iter().peekable();
    while tokens.peek().is_some() {
        let of_statement = tokens
            .by_ref()
            .take_while(|token| token.token != Token::SemiColon);
        let of_statement: Vec<TokenWithSpan> = of_statement.collect();
        let Some(first) = of_statement.iter().find(|token| is_significant(token)) else {
            continue;
        };
        let (span, end) = (
            first.span,
            of_statement
                .last()
                .map_or(first.span.end, |last| last.span.end),
        );
        rest.take_until(span.start);
        statements.push(RawStatement {
            tokens: of_statement,
            span,
            source: rest.take_until(end).to_owned(),
        });
    }
    Ok(statements)
}

pub(crate) fn is_significant(token: &TokenWithSpan) -> bool {
    !matches!(token.token, Token::Whitespace(_) | Token::EOF)
}

pub(crate) fn next_column(place: Location) -> Location {
    Location::new(place.line, place.column + 1)
}

pub(crate) fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            format!("{}{second}{}", first.to_lowercase(), chars.as_str())
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_and_comments_keep_their_semicolons() {
        let text = "SELECT ';' /* ; */; -- ;\n\n;SELECT 2 -- last; one";
        let parts = split(text).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].text(), "SELECT ';' /* ; */");
        assert_eq!(
            (parts[1].span.start.line, parts[1].span.start.column),
            (3, 2)
        );
    }

    /// A stored statement is parsed again.
    #[test]
    fn the_text_of_a_statement_is_as_typed() {
        let typed =
            "SELECT 'it''s', \"a\"\"b\", E'\\n', 'ä\n\n' || x'00', -- one\r\n\t$a /* two */";
        let script = format!(" ;; /* no */ {typed} \n; SELECT 2");
        let parts = split(&script).unwrap();
        assert_eq!(parts[0].text(), typed);
        assert_eq!(parts[1].text(), "SELECT 2");
    }

    #[test]
    fn an_unterminated_string_says_where() {
        let error = split("SELECT 1;\nSELECT 'abc").unwrap_err();
        assert_eq!(error.span().unwrap().start.line, 2);
    }

    proptest! {
        #[test]
        fn any_text_splits_or_errs(text in "\\PC*") {
            let _ = split(&text);
            let _ = is_incomplete(&text);
        }

        #[test]
        fn any_sql_like_text_splits_or_errs(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "SELECT", "'", "\"", ";", "--", "/*", "*/", "$x", "$", "{", "1e", "\n", " ", "E'", "\\", "é",
                ]),
                0..24,
            )
        ) {
            let _ = split(&words.concat());
        }
    }
}
