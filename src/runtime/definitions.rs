//! Definitions that a log or a catalog keeps: the statement of a job, and the tables and views that it uses, in a session of their own.

use std::time::Duration;

use datafusion::sql::parser::Statement as SqlStatement;

use crate::core::redact::HIDDEN;
use crate::error::{Error, Result, Subject};
use crate::planner::ast::Emit;
use crate::planner::{
    JobStatement, Parameters, ParsedStatement, Script, Statement, TableOption, parse_statement,
};
use crate::session::Session;

/// The parts of `CREATE JOB`.
pub(super) struct JobDefinition {
    /// `WITH (…)`.
    pub(super) options: Vec<TableOption>,
    /// The INSERT.
    pub(super) insert: SqlStatement,
    /// When it emits its aggregates.
    pub(super) emit: Emit,
}

/// Gives a session the tables and views of these definitions. Those that it has by the same definition stay as they are. `limit` is
/// how long one of them may take to open.
///
/// # Errors
///
/// A definition that this program cannot read; a table that cannot be opened.
pub(crate) async fn define(
    session: &Session,
    definitions: &[String],
    limit: Duration,
) -> Result<()> {
    for definition in definitions {
        let mut parsed = unbound(definition).map_err(|error| unreadable(&error))?;
        let name = parsed.effect.created_name().map(str::to_owned);
        if is_known(session, name.as_deref(), definition) {
            continue;
        }
        let bound = Parameters::default().bind(&mut parsed);
        bound.map_err(|error| unreadable(&error))?;
        let restored = session.restore(parsed, limit).await;
        restored.map_err(|error| match &name {
            Some(name) => error.context(format!("{name} cannot be opened")),
            None => error,
        })?;
    }
    Ok(())
}

/// Whether a session has a table or view of this name by this definition.
pub(crate) fn is_known(session: &Session, name: Option<&str>, definition: &str) -> bool {
    let known = name.map(|name| session.definition(name));
    known.is_some_and(|known| known.is_ok_and(|known| known == definition))
}

/// The statement of a kept definition, without values for its parameters.
///
/// # Errors
///
/// It cannot be parsed.
pub(crate) fn unbound(text: &str) -> Result<ParsedStatement> {
    let mut statements = Script::new("definition", text).split()?.into_iter();
    match (statements.next(), statements.next()) {
        (Some(one), None) => parse_statement(&one),
        _ => Err(Error::internal("a definition is one statement")),
    }
}

/// The parts of a job's kept statement.
///
/// # Errors
///
/// This program cannot read it, or it creates no job.
pub(super) fn job_definition(text: &str) -> Result<JobDefinition> {
    let mut parsed = unbound(text).map_err(|error| unreadable(&error))?;
    let bound = Parameters::default().bind(&mut parsed);
    bound.map_err(|error| unreadable(&error))?;
    if let Statement::Job(job) = parsed.statement
        && let JobStatement::Create {
            explain: false,
            options,
            insert,
            emit,
            ..
        } = *job
    {
        return Ok(JobDefinition {
            options,
            insert: *insert,
            emit,
        });
    }
    Err(Error::internal(
        "the stored statement does not create a job",
    ))
}

/// The error for a definition whose text this program cannot parse.
pub(crate) fn unreadable(error: &Error) -> Error {
    Error::unsupported(format!(
        "this program cannot read its definition: {}",
        error.message()
    ))
    .with_help("use the program that made it, or a newer one")
}

/// Refuses definitions that the session does not have and that had a secret: the log keeps none.
///
/// # Errors
///
/// There is such a definition.
pub(super) fn check_secrets(session: &Session, definitions: &[String]) -> Result<()> {
    for definition in definitions.iter().filter(|text| text.contains(HIDDEN)) {
        let parsed = unbound(definition).map_err(|error| unreadable(&error))?;
        let name = parsed.effect.created_name();
        if !is_known(session, name, definition) {
            return Err(lacks_secret(name.unwrap_or("a table")));
        }
    }
    Ok(())
}

fn lacks_secret(name: &str) -> Error {
    Error::invalid(format!(
        "{name} is defined otherwise in this session, and the log keeps its definition without the secret that it had"
    ))
    .about(Subject::table(name))
    .with_help(format!(
        "declare {name} as it was, or write '${{NAME}}' for secrets: then the log names the place of the secret"
    ))
}
