//! Scripts: text with a name, cut into statements at `;` outside strings and comments.

use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::error::{Error, Result};
use crate::planner::dialect::AnabranchDialect;

/// A named text: a file, an argument, or what was typed at the prompt.
#[derive(Debug, Clone)]
pub struct Script {
    /// What errors call it: the file's path as given, or a word in angle brackets.
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

    /// Cuts the text into its statements; empty ones are left out.
    ///
    /// # Errors
    /// Text that has no tokens: an unterminated string or comment, with its place.
    pub fn split(&self) -> Result<Vec<RawStatement>> {
        split(&self.text)
    }
}

/// The tokens of one statement, without its `;`. Positions are those of the whole text.
#[derive(Debug, Clone)]
pub struct RawStatement {
    /// All tokens, white space and comments included, so that the text can be shown again.
    pub tokens: Vec<TokenWithSpan>,
    /// The first token that is a word or sign.
    pub span: Span,
}

impl RawStatement {
    /// Gives each `?` a number, `$1` and so on; gives the names of all parameters, without `$`, in the order in which
    /// clients bind them: by number, where all have one.
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
        let from_first = self
            .tokens
            .iter()
            .skip_while(|token| !is_significant(token));
        let text: String = from_first.map(|token| token.token.to_string()).collect();
        text.trim().to_owned()
    }
}

/// True when the text ends inside a statement: the shell then asks for another line.
pub fn is_incomplete(text: &str) -> bool {
    let dialect = AnabranchDialect::default();
    match Tokenizer::new(&dialect, text).tokenize() {
        // An unterminated string or comment goes on at the next line.
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
    Ok(tokens
        .split(|token| token.token == Token::SemiColon)
        .filter_map(|tokens| {
            let first = tokens.iter().find(|token| is_significant(token))?;
            Some(RawStatement {
                tokens: tokens.to_vec(),
                span: first.span,
            })
        })
        .collect())
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
