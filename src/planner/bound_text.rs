//! Text of a statement with literals in place of its parameters, for a parser that reads the text again.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::Value;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use crate::planner::script::{RawStatement, after, is_significant, quoted};
use crate::planner::value::BoundValue;

/// The text of one statement, with the original places of its parts.
///
/// Only whole tokens are replaced, each by a whole literal with a space on either side: no value can become anything
/// but a value.
#[derive(Debug, Clone)]
pub struct BoundText {
    text: String,
    /// For each token where it begins in this text, and where it began in the original one.
    places: Vec<(Location, Span)>,
}

impl BoundText {
    /// Builds the text of a statement; `bound` has the value of each place with a parameter.
    pub(crate) fn new(raw: &RawStatement, bound: &BTreeMap<Location, BoundValue>) -> Self {
        let replaced = replacements(raw, bound);
        let mut this = Self {
            text: String::new(),
            places: Vec::new(),
        };
        let mut at = Location::new(1, 1);
        for (token, typed) in raw.typed_tokens() {
            let replacement = replaced.get(&token.span.start);
            let written = replacement.map_or(typed, String::as_str);
            this.places.push((at, token.span));
            this.text.push_str(written);
            at = written.chars().fold(at, after);
        }
        this
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.text.trim_end()
    }

    /// The original place of the part at a place of this text.
    pub fn place(&self, line: u64, column: u64) -> Span {
        let sought = Location::new(line, column);
        let behind = self.places.partition_point(|(start, _)| *start <= sought);
        match self.places.get(behind.saturating_sub(1)) {
            Some((_, span)) => *span,
            None => Span::empty(),
        }
    }

    /// The original place where the statement began.
    pub fn first(&self) -> Span {
        self.place(1, 1)
    }
}

/// The literals that replace the tokens at these places.
fn replacements(
    raw: &RawStatement,
    bound: &BTreeMap<Location, BoundValue>,
) -> BTreeMap<Location, String> {
    let mut replaced = BTreeMap::new();
    let mut before: Option<&TokenWithSpan> = None;
    for token in raw.tokens.iter().filter(|token| is_significant(token)) {
        if let (Token::Placeholder(_), Some(value)) = (&token.token, bound.get(&token.span.start)) {
            let written = match before.map(|before| (before, keyword(before))) {
                Some((_, Keyword::INTERVAL)) => of_interval(&value.plain),
                Some((typed, Keyword::TIMESTAMP | Keyword::DATE | Keyword::TIME))
                    if value.typed.is_some()
                        || !matches!(value.plain, Value::SingleQuotedString(_)) =>
                {
                    // Only a text may follow the type.
                    replaced.insert(typed.span.start, " CAST(".to_owned());
                    format!("{} AS {})", written(value), typed.token)
                }
                _ => written(value),
            };
            replaced.insert(token.span.start, format!(" {written} "));
        }
        before = Some(token);
    }
    replaced
}

fn keyword(token: &TokenWithSpan) -> Keyword {
    match &token.token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

/// A value with its type.
fn written(value: &BoundValue) -> String {
    match &value.typed {
        Some(typed) => typed.to_string(),
        None => literal(&value.plain),
    }
}

/// A literal that keeps its meaning between any neighbours.
fn literal(value: &Value) -> String {
    match value {
        Value::SingleQuotedString(text) => quoted(text),
        Value::Number(number, _) if number.starts_with('-') => format!("({number})"),
        // A number, true, false, NULL or bytes.
        other => other.to_string(),
    }
}

/// An interval takes no parentheses.
fn of_interval(value: &Value) -> String {
    match value {
        Value::Number(number, _) => quoted(number),
        other => literal(other),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;
    use proptest::prelude::*;

    use super::*;
    use crate::error::Result;
    use crate::planner::dialect::AnabranchDialect;
    use crate::planner::{Parameters, Script, parse_statement};

    fn bind(sql: &str, values: &[(&str, &str)]) -> Result<BoundText> {
        let raw = Script::new("t", sql).split()?.remove(0);
        let mut parsed = parse_statement(&raw)?;
        let mut parameters = Parameters::default();
        for (name, value) in values {
            parameters.set(*name, *value);
        }
        parameters.bind_text(&raw, &mut parsed)
    }

    fn text(sql: &str, values: &[(&str, &str)]) -> String {
        bind(sql, values).unwrap().text().to_owned()
    }

    #[test]
    fn parameter_values_replace_their_names() {
        let values = [
            ("t", "it's; DROP TABLE t --"),
            ("n", "-2"),
            ("i", "1 minute"),
            ("y", "2025"),
            ("b", "X'00ff'"),
            ("q", "'7'"),
            ("u", "NULL"),
        ];
        for (sql, wanted) in [
            (
                "SELECT $t, 1-$n",
                "SELECT  'it''s; DROP TABLE t --' , 1- (-2) ",
            ),
            ("SELECT 2-$y", "SELECT 2- 2025 "),
            (
                "SELECT INTERVAL $i, $b",
                "SELECT INTERVAL  '1 minute' ,  X'00ff' ",
            ),
            ("SELECT INTERVAL $n DAY", "SELECT INTERVAL  '-2'  DAY"),
            ("SELECT TIMESTAMP $i", "SELECT TIMESTAMP  '1 minute' "),
            (
                "SELECT timestamp $y, DATE $u",
                "SELECT  CAST(  2025 AS timestamp) ,  CAST(  NULL AS DATE) ",
            ),
            ("SELECT $q LIMIT $y", "SELECT  '7'  LIMIT  2025 "),
            ("SELECT '$t', \"$t\" -- $t", "SELECT '$t', \"$t\" -- $t"),
            // A text is wanted: a number is one.
            (
                "CREATE EXTERNAL TABLE a (id INT) STORED AS DELTA LOCATION $y OPTIONS ('x' $y, y $n, z $q)",
                "CREATE EXTERNAL TABLE a (id INT) STORED AS DELTA LOCATION  '2025'  OPTIONS ('x'  '2025' , y  '-2' , z  '7' )",
            ),
            (
                "CREATE JOB j WITH ('trigger' $i) AS INSERT INTO a SELECT $n FROM b EMIT CHANGES",
                "CREATE JOB j WITH ('trigger'  '1 minute' ) AS INSERT INTO a SELECT  (-2)  FROM b EMIT CHANGES",
            ),
            ("REWIND JOB j TO BATCH $y", "REWIND JOB j TO BATCH  '2025' "),
        ] {
            assert_eq!(text(sql, &values), wanted.trim_end(), "{sql}");
            let again = Script::new("t", wanted).split().unwrap().remove(0);
            parse_statement(&again).unwrap();
        }
    }

    #[test]
    fn positions_refer_to_the_typed_text() {
        let sql = "  SELECT $a,\n  /* x */ nothing, $b + other";
        let bound = bind(sql, &[("a", "one\ntwo"), ("b", "a long value")]).unwrap();
        let at = |needle: &str| {
            let before = &bound.text()[..bound.text().find(needle).unwrap()];
            let line = before.matches('\n').count() as u64 + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() as u64 + 1;
            let place = bound.place(line, column).start;
            (place.line, place.column)
        };
        assert_eq!(at("SELECT"), (1, 3));
        assert_eq!(at("two"), (1, 10));
        assert_eq!(at("nothing"), (2, 11));
        assert_eq!(at("long"), (2, 20));
        assert_eq!(at("other"), (2, 25));
        assert_eq!(bound.first().start, Location::new(1, 3));
        assert_eq!(bound.place(99, 1).start, Location::new(2, 25));
    }

    fn tokens(sql: &str) -> Vec<Token> {
        let dialect = AnabranchDialect::default();
        let tokens = Tokenizer::new(&dialect, sql).tokenize().unwrap();
        let is_word = |token: &Token| !matches!(token, Token::Whitespace(_));
        tokens.into_iter().filter(is_word).collect()
    }

    proptest! {
        /// Each value stays one literal, and the text around it does not change.
        #[test]
        fn a_parameter_value_is_never_parsed_as_sql(value in "[-'\"\\\\$;/*a0.\n X()]{0,8}|\\PC*") {

            let sql = "SELECT x-$v||$v, $v FROM f($v)WHERE a=$v--";
            let bound = bind(sql, &[("v", &value)]).unwrap();
            let found = tokens(bound.text());
            let literal = tokens(&text("SELECT $v", &[("v", &value)])).split_off(1);
            let short = matches!(
                literal.as_slice(),
                [Token::SingleQuotedString(_) | Token::Number(..) | Token::Word(_) | Token::HexStringLiteral(_)]
                    | [Token::LParen, Token::Minus, Token::Number(..), Token::RParen]
            );
            prop_assert!(short, "{:?}", literal);
            if let [Token::SingleQuotedString(text)] = literal.as_slice() {
                let unquoted = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
                prop_assert_eq!(text, unquoted.unwrap_or(&value));
            }
            let mut wanted = Vec::new();
            for token in tokens(sql) {
                match token {
                    Token::Placeholder(_) => wanted.extend(literal.iter().cloned()),
                    other => wanted.push(other),
                }
            }
            prop_assert_eq!(found, wanted);
        }
    }
}
