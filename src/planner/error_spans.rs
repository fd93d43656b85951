//! Places in a statement's text for errors that have none.
//!
//! Errors of execution name what they are about: a function, a table, a column, a text. The words of the statement are
//! kept with their places, and the error gets the place of the word it names, else of the statement's first word.

use std::sync::Arc;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use crate::error::Error;

/// The words of a statement, with their places. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Places {
    first: Span,
    words: Arc<[Word]>,
}

#[derive(Debug)]
struct Word {
    text: String,
    span: Span,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A name followed by a parenthesis.
    Call,
    Name,
    /// Perhaps a name, perhaps SQL's own: only a message that quotes it means it.
    Keyword,
    /// A quoted text.
    Text,
}

/// Words that stand before the name that an error is about.
const BEFORE_A_NAME: [&str; 7] = [
    "table",
    "view",
    "column",
    "time",
    "topic",
    "parameter",
    "named",
];

/// Words that stand before a name that the statement may have as a text, as `job_state('visits_counter')` does.
const BEFORE_A_TEXT: [&str; 2] = ["job", "named"];

impl Places {
    /// The places of a statement whose first word is at `first`.
    pub(crate) fn new(tokens: &[TokenWithSpan], first: Span) -> Self {
        let significant: Vec<&TokenWithSpan> = tokens
            .iter()
            .filter(|token| super::script::is_significant(token))
            .collect();
        let words = significant.iter().enumerate().filter_map(|(at, token)| {
            let called = significant
                .get(at + 1)
                .is_some_and(|next| next.token == Token::LParen);
            let (text, kind) = match &token.token {
                Token::Word(word) if called => (&word.value, Kind::Call),
                Token::Word(word)
                    if word.keyword == Keyword::NoKeyword || word.quote_style.is_some() =>
                {
                    (&word.value, Kind::Name)
                }
                Token::Word(word) => (&word.value, Kind::Keyword),
                Token::SingleQuotedString(text) => (text, Kind::Text),
                _ => return None,
            };
            Some(Word {
                text: text.clone(),
                span: token.span,
                kind,
            })
        });
        Self {
            first,
            words: words.collect(),
        }
    }

    /// The error with a place: its own, else that of what it names, else that of the first word.
    pub fn locate(&self, error: Error) -> Error {
        match error.span() {
            Some(_) => error,
            None => {
                let named = self.named_in(error.message());
                error.at(named.unwrap_or(self.first))
            }
        }
    }

    /// The place of what a message names: the function it begins with, a name or text it quotes, or a name it introduces.
    fn named_in(&self, message: &str) -> Option<Span> {
        let start = message
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .next()
            .unwrap_or_default();
        let call = self.find(start, |kind| kind == Kind::Call);
        let quoted = || {
            message
                .split('\'')
                .skip(1)
                .step_by(2)
                .find_map(|text| self.find(text, |_| true))
        };
        let introduced = || {
            let mut words = message.split([' ', ':', ',']);
            let first = words.next().unwrap_or_default();
            let mut before = first;
            // `visits is a Kafka table`: the message begins with a name.
            let begins = self.find(first, |kind| kind == Kind::Name);
            begins.or_else(|| {
                words.find_map(|word| {
                    let is_name = BEFORE_A_NAME.contains(&before);
                    let is_text = BEFORE_A_TEXT.contains(&before);
                    before = word;
                    self.find(word, |kind| match kind {
                        Kind::Name => is_name,
                        Kind::Text => is_text,
                        Kind::Call | Kind::Keyword => false,
                    })
                })
            })
        };
        call.or_else(quoted).or_else(introduced)
    }

    fn find(&self, text: &str, is_wanted: impl Fn(Kind) -> bool) -> Option<Span> {
        if text.is_empty() {
            return None;
        }
        let same = |word: &&Word| match word.kind {
            Kind::Text => word.text == text,
            Kind::Call | Kind::Name | Kind::Keyword => word.text.eq_ignore_ascii_case(text),
        };
        self.words
            .iter()
            .filter(|word| is_wanted(word.kind))
            .find(same)
            .map(|word| word.span)
    }
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::planner::{Script, parse_statement};

    /// Column of the place an error with this message gets in this statement.
    fn column(sql: &str, message: &str) -> u64 {
        let raw = Script::new("t", sql).split().unwrap().remove(0);
        let parsed = parse_statement(&raw).unwrap();
        let located = parsed.places.locate(Error::invalid(message));
        located.span().unwrap().start.column
    }

    #[test]
    fn an_error_is_placed_at_what_it_names() {
        let sql = "SELECT * FROM visits WHERE offsets_in(p, o, '{}', 'x') AND ts > 'now'";
        assert_eq!(column(sql, "offsets_in: from is not JSON"), 28);
        assert_eq!(column(sql, "OFFSETS_IN takes a partition"), 28);
        assert_eq!(column(sql, "cannot cast 'x' to a number"), 51);
        assert_eq!(column(sql, "the event time ts is NULL"), 60);
        assert_eq!(column(sql, "visits is a Kafka table"), 15);
        assert_eq!(column(sql, "Table 'visits' doesn't exist"), 15);
    }

    #[test]
    fn the_name_of_a_job_may_be_a_text() {
        let sql = "SELECT count(*) FROM job_state('nope', 4)";
        assert_eq!(column(sql, "no job is named nope"), 32);
        assert_eq!(column(sql, "job nope has no batch 4"), 32);
        assert_eq!(column("SELECT 'nope' FROM t", "job t has no batch"), 1);
    }

    #[test]
    fn an_error_that_names_nothing_is_placed_at_the_first_word() {
        let sql = "  SELECT p FROM visits WHERE o > 1";
        assert_eq!(column(sql, "no connection to Kafka"), 3);
        assert_eq!(column(sql, "divide by zero"), 3);
        assert_eq!(column(sql, "it's a message with one quote"), 3);
        assert_eq!(column(sql, ""), 3);
        // Keywords are no names.
        assert_eq!(column(sql, "column from is missing"), 3);
        let error = Error::invalid("visits").at(somewhere());
        let raw = Script::new("t", sql).split().unwrap().remove(0);
        let located = parse_statement(&raw).unwrap().places.locate(error);
        assert_eq!(located.span().unwrap().start.column, 7);
    }

    fn somewhere() -> super::Span {
        use datafusion::sql::sqlparser::tokenizer::Location;
        super::Span::new(Location::new(1, 7), Location::new(1, 8))
    }
}
