//! Parsing of statements: those of clients, and those that the server writes itself.

use crate::error::{Error, Result};
use crate::planner::{Parameters, ParsedStatement, RawStatement, Script, parse_statement};

/// The one statement of a client's text.
///
/// # Errors
///
/// No statement, or several.
pub(crate) fn one_statement(text: &str) -> Result<RawStatement> {
    let mut statements = Script::new("sql", text).split()?.into_iter();
    match (statements.next(), statements.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            Err(Error::invalid("the text has no statement")
                .with_help("write one, such as SELECT 1"))
        }
        (Some(_), Some(second)) => Err(Error::invalid("the text has several statements")
            .at(second.span)
            .with_help("send one after the other")),
    }
}

/// A statement that the server has written.
///
/// # Errors
///
/// None that a caller could cause.
pub(crate) fn definition(text: &str) -> Result<ParsedStatement> {
    parse(text, &mut Parameters::default())
}

/// The statement, its parameters bound.
///
/// # Errors
///
/// A statement that cannot be parsed, or a parameter without a value.
pub(crate) fn parse(text: &str, parameters: &mut Parameters) -> Result<ParsedStatement> {
    let mut parsed = parse_statement(&one_statement(text)?)?;
    parameters.bind(&mut parsed)?;
    Ok(parsed)
}
