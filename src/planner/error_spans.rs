//! Places in a statement's text for errors that have none.
//!
//! An error has subjects: a table, a column, an option, a function, a job or a text. This module keeps the words of the
//! statement with their places, and gives the error the place of the first subject found in the statement, or else of the
//! statement's first word.

use std::sync::Arc;

use datafusion::sql::sqlparser::keywords::{
    Keyword, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_TABLE_ALIAS,
};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use crate::error::{Error, Subject};

/// The words of a statement, with their places. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WordSpans {
    first: Span,
    words: Arc<[Word]>,
}

#[derive(Debug)]
struct Word {
    text: String,
    span: Span,
    kind: WordKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WordKind {
    /// A name followed by a parenthesis.
    Call,
    Name,
    /// A keyword that may also be a name, such as `date`.
    Keyword,
    /// A reserved keyword: only a subject of any text can refer to it.
    Reserved,
    /// A quoted text.
    Text,
}

/// The kinds of words that may be a table, with the most likely first: a table may be followed by columns, as in `t (a INT)`.
const TABLES: &[WordKind] = &[
    WordKind::Name,
    WordKind::Call,
    WordKind::Text,
    WordKind::Keyword,
];
/// The same for a column or a job, which may be the text argument of a function.
const NAMES: &[WordKind] = &[WordKind::Name, WordKind::Text, WordKind::Keyword];

impl WordSpans {
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
                Token::Word(word) if called => (&word.value, WordKind::Call),
                Token::Word(word)
                    if word.keyword == Keyword::NoKeyword || word.quote_style.is_some() =>
                {
                    (&word.value, WordKind::Name)
                }
                Token::Word(word) if is_reserved(word.keyword) => (&word.value, WordKind::Reserved),
                Token::Word(word) => (&word.value, WordKind::Keyword),
                Token::SingleQuotedString(text) => (text, WordKind::Text),
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

    /// Gives the error a place: its own, or else that of its first subject in the statement, or else that of the first word.
    pub fn locate(&self, error: Error) -> Error {
        match error.span() {
            Some(_) => error,
            None => {
                let mut subjects = error.subjects().iter();
                let place = subjects.find_map(|subject| self.of(subject));
                error.at(place.unwrap_or(self.first))
            }
        }
    }

    /// The first place of a subject in the statement.
    fn of(&self, subject: &Subject) -> Option<Span> {
        match subject {
            Subject::Function(name) => self.find(name, |kind| kind == WordKind::Call),
            Subject::Table(name) | Subject::UnknownTable(name) => self.find_as(TABLES, name),
            Subject::Column(name) | Subject::Job(name) => self.find_as(NAMES, name),
            Subject::Option(name) | Subject::UnknownOption(name) => {
                self.find(name, |kind| kind == WordKind::Text)
            }
            Subject::Location(text) | Subject::Text(text) => self.find(text, |_| true),
            Subject::Output => None,
        }
    }

    fn find_as(&self, kinds: &[WordKind], name: &str) -> Option<Span> {
        let mut kinds = kinds.iter();
        kinds.find_map(|wanted| self.find(name, |kind| kind == *wanted))
    }

    fn find(&self, text: &str, is_wanted: impl Fn(WordKind) -> bool) -> Option<Span> {
        if text.is_empty() {
            return None;
        }
        let same = |word: &&Word| match word.kind {
            WordKind::Text => word.text == text,
            WordKind::Call | WordKind::Name | WordKind::Keyword | WordKind::Reserved => {
                word.text.eq_ignore_ascii_case(text)
            }
        };
        self.words
            .iter()
            .filter(|word| is_wanted(word.kind))
            .find(same)
            .map(|word| word.span)
    }
}

/// Whether a keyword cannot be a name without quotes.
fn is_reserved(keyword: Keyword) -> bool {
    RESERVED_FOR_COLUMN_ALIAS.contains(&keyword) || RESERVED_FOR_TABLE_ALIAS.contains(&keyword)
}

#[cfg(test)]
mod tests {
    use crate::error::{Error, Subject};
    use crate::planner::{Script, parse_statement};

    /// The column of the place that an error with these subjects gets in this statement. The message does not matter.
    fn column(sql: &str, subjects: &[Subject]) -> u64 {
        let raw = Script::new("t", sql).split().unwrap().remove(0);
        let parsed = parse_statement(&raw).unwrap();
        let error = Error::invalid("'visits' is no offsets_in of job nope");
        let error = subjects.iter().cloned().fold(error, Error::about);
        let located = parsed.places.locate(error);
        located.span().unwrap().start.column
    }

    #[test]
    fn an_error_is_placed_at_its_subject() {
        let sql = "SELECT * FROM visits WHERE offsets_in(p, o, '{}', 'x') AND ts > 'now'";
        for (subject, at) in [
            (Subject::function("offsets_in"), 28),
            (Subject::function("OFFSETS_IN"), 28),
            (Subject::text("x"), 51),
            (Subject::column("ts"), 60),
            (Subject::table("visits"), 15),
            (Subject::UnknownTable("Visits".into()), 15),
            (Subject::text("where"), 22),
            (Subject::location("now"), 65),
            // A function is called, and an option is between quotes.
            (Subject::function("visits"), 1),
            (Subject::option("visits"), 1),
            (Subject::option("x"), 51),
        ] {
            assert_eq!(
                column(sql, std::slice::from_ref(&subject)),
                at,
                "{subject:?}"
            );
        }
    }

    #[test]
    fn the_first_subject_that_stands_in_the_statement_counts() {
        let sql = "SELECT ts FROM visits WHERE p = 'ts'";
        let gone = Subject::column("gone");
        assert_eq!(column(sql, &[gone.clone(), Subject::table("visits")]), 16);
        let both = [Subject::table("visits"), Subject::column("ts")];
        assert_eq!(column(sql, &both), 16);
        assert_eq!(column(sql, &[gone]), 1);
    }

    #[test]
    fn the_name_of_a_job_may_be_a_text() {
        let sql = "SELECT count(*) FROM job_state('nope', 4)";
        assert_eq!(column(sql, &[Subject::job("nope")]), 32);
        assert_eq!(column("DROP JOB nope", &[Subject::job("nope")]), 10);
    }

    #[test]
    fn a_name_may_be_one_of_the_words_of_sql() {
        let sql = "SELECT date FROM t WHERE date > 'from'";
        assert_eq!(column(sql, &[Subject::column("date")]), 8);
        assert_eq!(column(sql, &[Subject::column("from")]), 33);
        assert_eq!(column("SELECT a FROM t", &[Subject::column("from")]), 1);
    }

    #[test]
    fn an_error_without_a_subject_is_placed_at_the_first_word() {
        let sql = "  SELECT p FROM visits WHERE o > 1";
        assert_eq!(column(sql, &[]), 3);
        assert_eq!(column(sql, &[Subject::text("")]), 3);
        let error = Error::invalid("no").about(Subject::table("visits"));
        let raw = Script::new("t", sql).split().unwrap().remove(0);
        let located = parse_statement(&raw)
            .unwrap()
            .places
            .locate(error.at(any_span()));
        assert_eq!(located.span().unwrap().start.column, 7);
    }

    fn any_span() -> super::Span {
        use datafusion::sql::sqlparser::tokenizer::Location;
        super::Span::new(Location::new(1, 7), Location::new(1, 8))
    }
}
