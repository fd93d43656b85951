//! Parser over the tokens of one statement, whose errors carry their place.

use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParser, DFParserBuilder, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Value};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use crate::error::engine::SyntaxReason;
use crate::error::{Error, Result};
use crate::planner::ast::{TableOption, TextValue};
use crate::planner::dialect::AnabranchDialect;
use crate::planner::script::{is_significant, lower_first, next_column};
use crate::planner::token_limits::too_deep;

/// How deep the parser may recurse: each bracket that the gate lets through may take it several levels down.
const RECURSION: usize = 250;

/// Reads one statement. Words that are not sqlparser's keywords are matched by their text.
pub(crate) struct Cursor<'a> {
    inner: DFParser<'a>,
    end: Span,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(dialect: &'a AnabranchDialect, tokens: Vec<TokenWithSpan>) -> Result<Self> {
        let last = tokens
            .iter()
            .rfind(|token| is_significant(token))
            .map(|token| token.span);
        let end = last.map_or_else(Span::empty, |span| {
            Span::new(span.end, next_column(span.end))
        });
        let inner = DFParserBuilder::new(tokens)
            .with_dialect(dialect)
            // The gate has a lower limit, with a place.
            .with_recursion_limit(RECURSION)
            .build()
            .map_err(|error| parse_error(error, end))?;
        Ok(Self { inner, end })
    }

    /// The plain sqlparser parser at the same place.
    pub(crate) fn parser(&mut self) -> &mut Parser<'a> {
        &mut self.inner.parser
    }

    /// Runs a sqlparser rule and gives its error a place.
    pub(crate) fn parse<T>(
        &mut self,
        rule: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>,
    ) -> Result<T> {
        let end = self.end;
        rule(&mut self.inner.parser)
            .map_err(|error| parse_error(DataFusionError::SQL(Box::new(error), None), end))
    }

    /// Parses a statement of DataFusion's up to the end of the tokens.
    pub(crate) fn sql_statement(&mut self) -> Result<SqlStatement> {
        let end = self.end;
        let statement = self
            .inner
            .parse_statement()
            .map_err(|error| parse_error(error, end))?;
        self.expect_end()?;
        Ok(statement)
    }

    pub(crate) fn span(&self) -> Span {
        let token = self.inner.parser.peek_token_ref();
        if token.token == Token::EOF {
            self.end
        } else {
            token.span
        }
    }

    /// The next word in upper case, unless it is quoted.
    pub(crate) fn peek_word(&self, ahead: usize) -> Option<String> {
        match &self.inner.parser.peek_nth_token_ref(ahead).token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
            _ => None,
        }
    }

    /// True when the next words are these.
    pub(crate) fn at_words(&self, words: &[&str]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(ahead, word)| self.peek_word(ahead).as_deref() == Some(word))
    }

    /// Takes these words if they are next.
    pub(crate) fn take_words(&mut self, words: &[&str]) -> bool {
        let found = self.at_words(words);
        if found {
            for _ in words {
                self.inner.parser.next_token();
            }
        }
        found
    }

    pub(crate) fn expect_words(&mut self, words: &[&str]) -> Result<()> {
        if self.take_words(words) {
            Ok(())
        } else {
            Err(self.expected(&words.join(" ")))
        }
    }

    pub(crate) fn take(&mut self, token: &Token) -> bool {
        self.inner.parser.consume_token(token)
    }

    pub(crate) fn expect(&mut self, token: &Token) -> Result<()> {
        if self.take(token) {
            Ok(())
        } else {
            Err(self.expected(&token.to_string()))
        }
    }

    pub(crate) fn expect_end(&mut self) -> Result<()> {
        match self.inner.parser.peek_token_ref().token {
            Token::EOF => Ok(()),
            _ => Err(self.expected("end of statement")),
        }
    }

    /// `expected …, found …` at the next token.
    pub(crate) fn expected(&self, what: &str) -> Error {
        let found = match &self.inner.parser.peek_token_ref().token {
            Token::EOF => "the end of the statement".to_owned(),
            token => token.to_string(),
        };
        Error::invalid(format!("expected {what}, found {found}")).at(self.span())
    }

    pub(crate) fn ident(&mut self) -> Result<Ident> {
        self.parse(Parser::parse_identifier)
    }

    pub(crate) fn object_name(&mut self) -> Result<ObjectName> {
        self.parse(|parser| parser.parse_object_name(false))
    }

    /// `(a, b, …)`.
    pub(crate) fn ident_list(&mut self) -> Result<Vec<Ident>> {
        self.expect(&Token::LParen)?;
        let mut idents = vec![self.ident()?];
        while self.take(&Token::Comma) {
            idents.push(self.ident()?);
        }
        self.expect(&Token::RParen)?;
        Ok(idents)
    }

    /// A string literal, or a parameter that stands for one.
    pub(crate) fn text(&mut self, what: &str) -> Result<TextValue> {
        let span = self.span();
        let token = self.inner.parser.peek_token_ref().token.clone();
        let (value, is_parameter) = match token {
            Token::SingleQuotedString(value) => (value, false),
            Token::Placeholder(name) => (name, true),
            _ => return Err(self.expected(what)),
        };
        self.inner.parser.next_token();
        Ok(TextValue {
            value,
            is_parameter,
            span,
        })
    }

    /// A literal of any simple kind as text, or a parameter.
    pub(crate) fn literal(&mut self, what: &str) -> Result<TextValue> {
        let span = self.span();
        let expected = self.expected(what);
        let value = self.parse(Parser::parse_value).map_err(|_| expected)?;
        let (value, is_parameter) = match value.value {
            Value::Placeholder(name) => (name, true),
            Value::Boolean(flag) => (flag.to_string(), false),
            Value::Number(number, _) => (number.to_string(), false),
            other => match other.into_string() {
                Some(text) => (text, false),
                None => return Err(Error::invalid(format!("expected {what}")).at(span)),
            },
        };
        Ok(TextValue {
            value,
            is_parameter,
            span,
        })
    }

    /// `('key' 'value', …)`; `=` between key and value is allowed.
    pub(crate) fn options(&mut self) -> Result<Vec<TableOption>> {
        self.expect(&Token::LParen)?;
        let mut options = Vec::new();
        while !self.take(&Token::RParen) {
            let key_span = self.span();
            let key = match self.inner.parser.peek_token_ref().token.clone() {
                Token::SingleQuotedString(key) => {
                    self.inner.parser.next_token();
                    key
                }
                Token::Word(_) => self.dotted_key()?,
                _ => return Err(self.expected("an option name such as 'format'")),
            };
            self.take(&Token::Eq);
            let value = self.literal(&format!("a value for option '{key}'"))?;
            options.push(TableOption {
                key,
                key_span,
                value,
            });
            if !self.take(&Token::Comma) {
                self.expect(&Token::RParen)?;
                break;
            }
        }
        Ok(options)
    }

    fn dotted_key(&mut self) -> Result<String> {
        let mut key = self.ident()?.value;
        while self.take(&Token::Period) {
            key.push('.');
            key.push_str(&self.ident()?.value);
        }
        Ok(key)
    }
}

/// Gives a parser's error the place it names in its text, or the end of the statement.
fn parse_error(error: DataFusionError, end: Span) -> Error {
    match SyntaxReason::of(error) {
        SyntaxReason::TooDeep => too_deep(end),
        SyntaxReason::Placed(error) => error,
        SyntaxReason::Said { message, place } => {
            let place = place.map_or(end, |place| Span::new(place, next_column(place)));
            Error::invalid(lower_first(&message)).at(place)
        }
    }
}
