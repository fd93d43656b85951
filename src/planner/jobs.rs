//! Parser of the statements about jobs.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Error, Result};
use crate::planner::ast::{Emit, JobStatement};
use crate::planner::cursor::Cursor;

/// Parses a statement about jobs; `None` for any other statement. `emit` is the trailing EMIT clause, which the caller cut off
/// before.
pub(crate) fn parse_job(
    cursor: &mut Cursor<'_>,
    emit: Option<Emit>,
) -> Result<Option<JobStatement>> {
    let statement = if cursor.at_words(&["CREATE", "JOB"])
        || cursor.at_words(&["CREATE", "OR", "REPLACE", "JOB"])
        || cursor.at_words(&["EXPLAIN", "CREATE", "JOB"])
    {
        let explain = cursor.take_words(&["EXPLAIN"]);
        return parse_create(cursor, explain, emit).map(Some);
    } else if cursor.take_words(&["PAUSE", "JOB"]) {
        JobStatement::Pause(cursor.ident()?)
    } else if cursor.take_words(&["RESUME", "JOB"]) {
        let name = cursor.ident()?;
        let mut accepting = Vec::new();
        if cursor.take_words(&["ACCEPTING"]) {
            loop {
                let is_moved = match cursor.take_words(&["MOVED"]) {
                    true => true,
                    false if cursor.take_words(&["NEW"]) => false,
                    false => return Err(cursor.expected("NEW or MOVED and the name of a table")),
                };
                accepting.push((cursor.ident()?, is_moved));
                if !cursor.take(&Token::Comma) {
                    break;
                }
            }
        }
        let skipping_lost = cursor.take_words(&["SKIPPING", "LOST"]);
        let assuming = if cursor.take_words(&["ASSUMING", "BATCH"]) {
            let batch = cursor.literal("a batch number")?;
            let committed = !cursor.take_words(&["NOT"]);
            cursor.expect_words(&["COMMITTED"])?;
            Some((batch, committed))
        } else {
            None
        };
        JobStatement::Resume {
            name,
            skipping_lost,
            accepting,
            assuming,
        }
    } else if cursor.take_words(&["DROP", "JOB"]) {
        let if_exists = cursor.take_words(&["IF", "EXISTS"]);
        JobStatement::Drop {
            if_exists,
            name: cursor.ident()?,
            cascade: cursor.take_words(&["CASCADE"]),
        }
    } else if cursor.take_words(&["REWIND", "JOB"]) {
        let name = cursor.ident()?;
        cursor.expect_words(&["TO", "BATCH"])?;
        JobStatement::Rewind {
            name,
            batch: cursor.literal("a batch number")?,
        }
    } else if cursor.take_words(&["SHOW", "JOBS"]) {
        JobStatement::ShowJobs
    } else if cursor.take_words(&["SHOW", "BATCHES"]) {
        cursor.expect_words(&["FOR", "JOB"])?;
        JobStatement::ShowBatches(cursor.ident()?)
    } else if cursor.take_words(&["SHOW", "CREATE", "JOB"])
        || cursor.take_words(&["DESCRIBE", "JOB"])
    {
        let name = cursor.ident()?;
        let batch = match cursor.take_words(&["AS"]) {
            true => {
                cursor.expect_words(&["OF", "BATCH"])?;
                Some(cursor.literal("a batch number")?)
            }
            false => None,
        };
        JobStatement::Describe { name, batch }
    } else if cursor.take_words(&["SUBSCRIBE"]) {
        // WITH and a name begins the query itself.
        let is_list = matches!(cursor.parser().peek_nth_token_ref(1).token, Token::LParen);
        let options = if is_list && cursor.take_words(&["WITH"]) {
            cursor.options()?
        } else {
            Vec::new()
        };
        if !cursor.at_words(&["SELECT"]) && !cursor.at_words(&["WITH"]) {
            return Err(cursor.expected("SELECT"));
        }
        JobStatement::Subscribe {
            options,
            query: Box::new(cursor.sql_statement()?),
            emit: emit.unwrap_or_default(),
        }
    } else {
        return Ok(None);
    };
    cursor.expect_end()?;
    Ok(Some(statement))
}

fn parse_create(
    cursor: &mut Cursor<'_>,
    explain: bool,
    emit: Option<Emit>,
) -> Result<JobStatement> {
    cursor.expect_words(&["CREATE"])?;
    let or_replace = cursor.take_words(&["OR", "REPLACE"]);
    cursor.expect_words(&["JOB"])?;
    let name = cursor.ident()?;
    let options = if cursor.take_words(&["WITH"]) {
        cursor.options()?
    } else {
        Vec::new()
    };
    cursor.expect_words(&["AS"])?;
    let body = cursor.span();
    if !cursor.at_words(&["INSERT", "INTO"]) {
        return Err(cursor.expected("INSERT INTO"));
    }
    if matches!(cursor.parser().peek_token_ref().token, Token::EOF) {
        return Err(Error::invalid("a job needs an INSERT INTO … SELECT").at(body));
    }
    let insert = Box::new(cursor.sql_statement()?);
    Ok(JobStatement::Create {
        explain,
        name,
        or_replace,
        options,
        insert,
        emit: emit.unwrap_or_default(),
    })
}
