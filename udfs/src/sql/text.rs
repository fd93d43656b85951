//! Texts of expressions.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Value, ValueWithSpan, VisitorMut};

use super::WalkMut;

/// The text of an expression, which is read as this expression.
///
/// The parser's own text has two quotes in a row, and a quote after `\`, as they are: the text `''''''` would become `''''`, which is
/// another text. Where each quote of a value is doubled before, the parser's text is right.
#[must_use]
pub fn expr_text(expr: &Expr) -> String {
    let mut expr = expr.clone();
    let _ = expr.walk_mut(&mut DoubledQuotes);
    expr.to_string()
}

struct DoubledQuotes;

impl VisitorMut for DoubledQuotes {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => double_in_name(name),
            Expr::CompoundIdentifier(names) => names.iter_mut().for_each(double_in_name),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        match &mut value.value {
            Value::SingleQuotedString(text)
            | Value::NationalStringLiteral(text)
            | Value::SingleQuotedByteStringLiteral(text) => double(text, '\''),
            Value::DoubleQuotedString(text) | Value::DoubleQuotedByteStringLiteral(text) => {
                double(text, '"');
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn double_in_name(name: &mut Ident) {
    if let Some(quote) = name.quote_style {
        double(&mut name.value, quote);
    }
}

fn double(text: &mut String, quote: char) {
    if text.contains(quote) {
        *text = text.replace(quote, &format!("{quote}{quote}"));
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Expr {
        let dialect = GenericDialect {};
        let parser = Parser::new(&dialect).try_with_sql(text);
        parser.unwrap().parse_expr().unwrap()
    }

    #[test]
    fn a_text_is_read_as_what_it_was_made_of() {
        for text in [
            "x || ''''''",
            r"x || '\'' OR true --'",
            r"x || '\'",
            r#""a""""b" = `c``d`"#,
            "DATE '2026-01-01' > t.day - INTERVAL '1 day'",
            "x = 'it''s' AND n > 1",
        ] {
            let expr = read(text);
            assert_eq!(expr_text(&expr), text);
            assert_eq!(read(&expr_text(&expr)), expr);
        }
    }

    proptest! {
        #[test]
        fn texts_with_quotes_are_kept(text in "['\"a\\\\-]{0,12}", name in "[\"'a`\\\\]{1,8}") {
            let value = Expr::Value(Value::SingleQuotedString(text).into());
            prop_assert_eq!(read(&expr_text(&value)), value);
            let name = Expr::Identifier(Ident::with_quote('"', name));
            prop_assert_eq!(read(&expr_text(&name)), name);
        }
    }
}
