//! The SQL dialect: sqlparser's generic one, with table arguments, angle-bracket maps and time travel.

use std::any::TypeId;
use std::cell::Cell;

use anabranch_udfs::parse_table_argument;
use datafusion::sql::sqlparser::ast::{CastKind, Expr};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// The dialect every statement is parsed with.
#[derive(Debug, Default)]
pub struct AnabranchDialect {
    generic: GenericDialect,
    /// How often an operand may still be begun. Where a text is wrong, the parser tries one reading after the other at each
    /// level of nesting: without an end it would be at work for years.
    steps: Option<Cell<usize>>,
}

impl AnabranchDialect {
    /// A dialect that gives up on so many tokens when they have been tried for long.
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
            // The one error that the parser does not take for "try another reading".
            0 => Err(ParserError::RecursionLimitExceeded),
            left => {
                steps.set(left - 1);
                Ok(())
            }
        }
    }
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
