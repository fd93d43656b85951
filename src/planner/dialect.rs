//! SQL dialect: sqlparser's generic dialect, plus table arguments, angle-bracket maps and time travel, with PostgreSQL's
//! operator precedence.

use std::any::TypeId;
use std::cell::Cell;
use std::ops::ControlFlow;

use anabranch_udfs::{Walk, parse_table_argument};
use datafusion::sql::sqlparser::ast::{BinaryOperator, CastKind, Expr, UnaryOperator, Visitor};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// The dialect every statement is parsed with.
#[derive(Debug, Default)]
pub struct AnabranchDialect {
    generic: GenericDialect,
    /// How many more operands the parser may begin. Where a text is wrong, the parser tries one reading after the other at each
    /// level of nesting: without this limit it could run for years.
    steps: Option<Cell<usize>>,
}

impl AnabranchDialect {
    /// A dialect that gives up on so many tokens once the parser has tried too many readings.
    pub(crate) fn bounded(tokens: usize) -> Self {
        Self {
            steps: Some(Cell::new(tokens.saturating_mul(20).saturating_add(5_000))),
            ..Self::default()
        }
    }

    /// Whether it has given up.
    pub(crate) fn has_given_up(&self) -> bool {
        self.steps.as_ref().is_some_and(|steps| steps.get() == 0)
    }

    fn step(&self) -> Result<(), ParserError> {
        let Some(steps) = &self.steps else {
            return Ok(());
        };
        match steps.get() {
            // The only error after which the parser does not try another reading.
            0 => Err(ParserError::RecursionLimitExceeded),
            left => {
                steps.set(left - 1);
                Ok(())
            }
        }
    }
}

/// Precedence of operators without one of their own: below `+`, and above `&`, `|` and comparisons.
const OTHER_OPERATORS: u8 = 25;

impl AnabranchDialect {
    /// `x BETWEEN SYMMETRIC a AND b`: the bounds may stand in either order.
    fn parse_symmetric(
        &self,
        parser: &mut Parser,
        expr: &Expr,
    ) -> Result<Option<Expr>, ParserError> {
        let words = parser
            .peek_tokens_ref::<4>()
            .map(|token| match &token.token {
                Token::Word(word) if word.quote_style.is_none() => word.keyword,
                _ => Keyword::NoKeyword,
            });
        let (is_negated, how, next) = match words {
            [Keyword::NOT, Keyword::BETWEEN, how, next] => (true, how, next),
            [Keyword::BETWEEN, how, next, _] => (false, how, next),
            _ => return Ok(None),
        };
        // Before AND it is the name of a column.
        if !matches!(how, Keyword::SYMMETRIC | Keyword::ASYMMETRIC) || next == Keyword::AND {
            return Ok(None);
        }
        for _ in 0..2 + usize::from(is_negated) {
            parser.next_token();
        }
        let precedence = self.prec_value(Precedence::Between);
        let low = parser.parse_subexpr(precedence)?;
        parser.expect_keyword_is(Keyword::AND)?;
        let high = parser.parse_subexpr(precedence)?;
        // The bounds are both duplicated: nested ones would grow exponentially.
        if [expr, &low, &high].into_iter().any(has_between) {
            let found = parser.peek_token_ref();
            return parser.expected_ref("no BETWEEN within BETWEEN SYMMETRIC", found);
        }
        let between = |low: &Expr, high: &Expr| Expr::Between {
            expr: Box::new(expr.clone()),
            negated: false,
            low: Box::new(low.clone()),
            high: Box::new(high.clone()),
        };
        let within = match how {
            Keyword::SYMMETRIC => Expr::Nested(Box::new(Expr::BinaryOp {
                left: Box::new(between(&low, &high)),
                op: BinaryOperator::Or,
                right: Box::new(between(&high, &low)),
            })),
            _ => Expr::Nested(Box::new(between(&low, &high))),
        };
        Ok(Some(match is_negated {
            true => Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr: Box::new(within),
            },
            false => within,
        }))
    }
}

fn has_between(expr: &Expr) -> bool {
    struct Betweens;

    impl Visitor for Betweens {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Between { .. } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }

    expr.walk(&mut Betweens).is_break()
}

/// `ISNULL` after an expression, which the parser would take for an alias.
fn is_isnull(token: &Token) -> bool {
    matches!(
        token,
        Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("isnull")
    )
}

macro_rules! as_generic {
    ($($method:ident),* $(,)?) => {
        $(fn $method(&self) -> bool {
            self.generic.$method()
        })*
    };
}

impl Dialect for AnabranchDialect {
    // The parser asks for the generic dialect by its type in some places.
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        self.generic.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        self.generic.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.generic.is_identifier_part(ch)
    }

    fn supports_map_literal_with_angle_brackets(&self) -> bool {
        true
    }

    fn supports_numeric_literal_underscores(&self) -> bool {
        true
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn supports_notnull_operator(&self) -> bool {
        true
    }

    /// Operators of JSON and of arrays bind tighter than comparisons, and looser than `+`: `json ->> 'a' = 'x'`.
    fn prec_value(&self, precedence: Precedence) -> u8 {
        match precedence {
            Precedence::PgOther => OTHER_OPERATORS,
            other => self.generic.prec_value(other),
        }
    }

    /// So does `||`: `'a' || 1 + 2`.
    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        match &parser.peek_token_ref().token {
            Token::StringConcat => Some(Ok(OTHER_OPERATORS)),
            token if is_isnull(token) => Some(Ok(self.prec_value(Precedence::Is))),
            _ => None,
        }
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        _: u8,
    ) -> Option<Result<Expr, ParserError>> {
        let next = parser.peek_token_ref();
        if is_isnull(&next.token) {
            return Some(parser.expected_ref("IS NULL", next));
        }
        self.parse_symmetric(parser, expr).transpose()
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        if let Err(error) = self.step() {
            return Some(Err(error));
        }
        parse_typed_parameter(parser)
            .transpose()
            .or_else(|| parse_table_argument(parser))
    }

    as_generic!(
        supports_unicode_string_literal,
        supports_partition_by_after_order_by,
        supports_array_join_syntax,
        supports_group_by_expr,
        supports_group_by_with_modifier,
        supports_left_associative_joins_without_parens,
        supports_connect_by,
        supports_match_recognize,
        supports_pipe_operator,
        supports_start_transaction_modifier,
        supports_window_function_null_treatment_arg,
        supports_dictionary_syntax,
        supports_window_clause_named_window_reference,
        supports_parenthesized_set_variables,
        supports_select_wildcard_except,
        support_map_literal_syntax,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_extract_comma_syntax,
        supports_create_view_comment_syntax,
        supports_parens_around_table_factor,
        supports_values_as_table_factor,
        supports_explain_with_utility_options,
        supports_limit_comma,
        supports_from_first_select,
        supports_projection_trailing_commas,
        supports_try_convert,
        supports_bitwise_shift_operators,
        supports_named_fn_args_with_assignment_operator,
        supports_struct_literal,
        supports_empty_projections,
        supports_nested_comments,
        supports_string_escape_constant,
        supports_array_typedef_with_brackets,
        supports_filter_during_aggregation,
        supports_select_wildcard_exclude,
        supports_data_type_signed_suffix,
        supports_interval_options,
        supports_select_wildcard_replace,
        supports_select_wildcard_ilike,
        supports_select_wildcard_rename,
        supports_comma_separated_trim,
    );
}

/// `TIMESTAMP $x`, `DATE $x` and `TIME $x`: a typed literal whose text is a parameter.
fn parse_typed_parameter(parser: &mut Parser) -> Result<Option<Expr>, ParserError> {
    let [first, second] = parser.peek_tokens_ref::<2>();
    let typed = matches!(
        &first.token,
        Token::Word(word) if word.quote_style.is_none()
            && matches!(word.keyword, Keyword::TIMESTAMP | Keyword::DATE | Keyword::TIME)
    );
    if !typed || !matches!(second.token, Token::Placeholder(_)) {
        return Ok(None);
    }
    let data_type = parser.parse_data_type()?;
    let expr = Box::new(Expr::Value(parser.parse_value()?));
    Ok(Some(Expr::Cast {
        kind: CastKind::Cast,
        expr,
        data_type,
        array: false,
        format: None,
    }))
}
