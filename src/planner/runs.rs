//! Parser of the statements about reprocessing runs.

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use crate::core::runs::EmitRows;
use crate::error::{Error, Result};
use crate::planner::ast::{Reprocess, RowsQuery, RunStatement, TextRange, TextValue};
use crate::planner::cursor::Cursor;

/// The ranges that a run may have.
const RANGES: &str = "write FROM '…' TO '…', OFFSETS FROM '{…}' TO '{…}', or FOR (SELECT …)";

/// Parses a statement about runs; `None` for any other statement.
pub(crate) fn parse_run(cursor: &mut Cursor<'_>) -> Result<Option<RunStatement>> {
    let statement = if cursor.take_words(&["EXPLAIN", "REPROCESS"]) {
        RunStatement::Explain(parse_reprocess(cursor)?)
    } else if cursor.take_words(&["PLAN", "REPROCESS"]) {
        RunStatement::Plan(parse_reprocess(cursor)?)
    } else if cursor.take_words(&["REPROCESS"]) {
        RunStatement::Reprocess(parse_reprocess(cursor)?)
    } else if cursor.take_words(&["APPLY"]) {
        cursor.expect_words(&["RUN"])?;
        RunStatement::Apply(run_id(cursor)?)
    } else if cursor.take_words(&["ABORT"]) {
        cursor.expect_words(&["RUN"])?;
        RunStatement::Abort(run_id(cursor)?)
    } else if cursor.take_words(&["SHOW", "RUNS"]) {
        let job = match cursor.take_words(&["FOR"]) {
            true => {
                cursor.expect_words(&["JOB"])?;
                Some(cursor.ident()?)
            }
            false => None,
        };
        RunStatement::Show(job)
    } else if at_describe_run(cursor) && cursor.take_words(&["DESCRIBE", "RUN"]) {
        RunStatement::Describe(run_id(cursor)?)
    } else {
        return Ok(None);
    };
    cursor.expect_end()?;
    Ok(Some(statement))
}

/// Whether `DESCRIBE RUN` is followed by something: alone it describes a table of this name.
fn at_describe_run(cursor: &mut Cursor<'_>) -> bool {
    cursor.at_words(&["DESCRIBE", "RUN"])
        && !matches!(
            cursor.parser().peek_nth_token_ref(2).token,
            Token::EOF | Token::Period
        )
}

fn run_id(cursor: &mut Cursor<'_>) -> Result<TextValue> {
    cursor.text("the id of a run, in quotes")
}

/// `JOB name` and the parts behind it, in any order.
fn parse_reprocess(cursor: &mut Cursor<'_>) -> Result<Box<Reprocess>> {
    cursor.expect_words(&["JOB"])?;
    let mut asked = Reprocess {
        job: cursor.ident()?,
        time: None,
        offsets: None,
        rows: None,
        emit: None,
        options: Vec::new(),
    };
    let mut has_options = false;
    loop {
        let span = cursor.span();
        if cursor.at_words(&["FROM"]) {
            once(asked.time.is_some(), "FROM … TO …", span)?;
            asked.time = Some(range(cursor, |cursor| {
                cursor.take_words(&["TIMESTAMP"]);
                cursor.text("a time, in quotes")
            })?);
        } else if cursor.take_words(&["OFFSETS"]) {
            once(asked.offsets.is_some(), "OFFSETS", span)?;
            asked.offsets = Some(range(cursor, |cursor| {
                cursor.text(r#"offsets such as '{"visits":{"0":23}}'"#)
            })?);
        } else if cursor.take_words(&["FOR"]) {
            once(asked.rows.is_some(), "FOR (SELECT …)", span)?;
            asked.rows = Some(rows(cursor)?);
        } else if cursor.take_words(&["EMIT"]) {
            once(asked.emit.is_some(), "EMIT", span)?;
            asked.emit = Some(if cursor.take_words(&["ALL"]) {
                EmitRows::All
            } else if cursor.take_words(&["CHANGED"]) {
                EmitRows::Changed
            } else {
                return Err(cursor.expected("ALL or CHANGED"));
            });
        } else if cursor.take_words(&["WITH"]) {
            once(has_options, "WITH", span)?;
            has_options = true;
            asked.options = cursor.options()?;
        } else {
            break;
        }
    }
    if cursor.parser().peek_token_ref().token != Token::EOF {
        return Err(cursor
            .expected("FROM, OFFSETS, FOR, EMIT or WITH")
            .with_help(RANGES));
    }
    if asked.time.is_none() && asked.offsets.is_none() && asked.rows.is_none() {
        let name = asked.job.value;
        let error = Error::invalid(format!("the run of job {name} has no range"));
        return Err(error.with_help(RANGES).at(asked.job.span));
    }
    Ok(Box::new(asked))
}

/// Refuses a part that the statement has twice.
fn once(is_there: bool, part: &str, span: Span) -> Result<()> {
    match is_there {
        true => Err(Error::invalid(format!("the statement has {part} twice"))
            .with_help("a run reads what is in all of its ranges, and has one of each kind")
            .at(span)),
        false => Ok(()),
    }
}

/// `FROM a TO b`.
fn range(
    cursor: &mut Cursor<'_>,
    bound: impl Fn(&mut Cursor<'_>) -> Result<TextValue>,
) -> Result<TextRange> {
    cursor.expect_words(&["FROM"])?;
    let from = bound(cursor)?;
    cursor.expect_words(&["TO"])?;
    let to = bound(cursor)?;
    Ok(TextRange { from, to })
}

/// `(SELECT …)`.
fn rows(cursor: &mut Cursor<'_>) -> Result<RowsQuery> {
    let span = cursor.span();
    cursor.expect(&Token::LParen).map_err(|error| {
        error
            .with_help(r#"FOR (SELECT topic, "partition", "offset" FROM system.late_rows WHERE …)"#)
    })?;
    let query = cursor.parse(Parser::parse_query)?;
    cursor.expect(&Token::RParen)?;
    Ok(RowsQuery { query, span })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{Parameters, ParsedStatement, Script, Statement, parse_statement};

    fn parsed(sql: &str) -> Result<ParsedStatement> {
        parse_statement(&Script::new("t", sql).split()?.remove(0))
    }

    fn run(sql: &str) -> RunStatement {
        match parsed(sql).expect(sql).statement {
            Statement::Run(run) => run,
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn asked(sql: &str) -> Reprocess {
        match run(sql) {
            RunStatement::Explain(asked)
            | RunStatement::Plan(asked)
            | RunStatement::Reprocess(asked) => *asked,
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn each_statement_is_known_by_its_words() {
        for (sql, verb) in [
            (
                "explain reprocess job j FROM 'a' TO 'b'",
                "EXPLAIN REPROCESS JOB",
            ),
            ("PLAN REPROCESS JOB j FROM 'a' TO 'b'", "PLAN REPROCESS JOB"),
            ("REPROCESS JOB \"J\" FOR (SELECT 1)", "REPROCESS JOB"),
            ("APPLY RUN 'r'", "APPLY RUN"),
            ("abort run $r", "ABORT RUN"),
            ("SHOW RUNS", "SHOW RUNS"),
            ("SHOW RUNS FOR JOB j", "SHOW RUNS"),
            ("DESCRIBE RUN 'r'", "DESCRIBE RUN"),
        ] {
            assert_eq!(run(sql).verb(), verb, "{sql}");
        }
        for of_a_table in ["DESCRIBE run", "DESCRIBE run.r", "DESCRIBE runs"] {
            let statement = parsed(of_a_table).unwrap().statement;
            assert!(matches!(statement, Statement::Describe(_)), "{of_a_table}");
        }
    }

    #[test]
    fn the_parts_of_a_range_come_in_any_order() {
        let in_order = asked(
            "REPROCESS JOB j FROM 'a' TO 'b' OFFSETS FROM 'c' TO 'd' FOR (SELECT 1) EMIT ALL WITH ('late' 'exclude', withdraw true)",
        );
        let other = asked(
            "REPROCESS JOB j WITH ('late' 'exclude', withdraw = true) EMIT ALL FOR (SELECT 1) OFFSETS FROM 'c' TO 'd' FROM TIMESTAMP 'a' TO TIMESTAMP 'b'",
        );
        for asked in [in_order, other] {
            let texts =
                |range: Option<TextRange>| range.map(|range| (range.from.value, range.to.value));
            let text = |of: &str, to: &str| Some((of.to_owned(), to.to_owned()));
            assert_eq!(texts(asked.time), text("a", "b"));
            assert_eq!(texts(asked.offsets), text("c", "d"));
            assert_eq!(asked.rows.unwrap().query.to_string(), "SELECT 1");
            assert_eq!(asked.emit, Some(EmitRows::All));
            let options: Vec<_> = asked
                .options
                .iter()
                .map(|option| (option.key.as_str(), option.value.value.as_str()))
                .collect();
            assert_eq!(options, [("late", "exclude"), ("withdraw", "true")]);
        }
        assert_eq!(asked("PLAN REPROCESS JOB j FOR (SELECT 1)").emit, None);
        let changed = asked("PLAN REPROCESS JOB j FOR (SELECT 1) EMIT CHANGED");
        assert_eq!(changed.emit, Some(EmitRows::Changed));
    }

    #[test]
    fn parameters_stand_for_each_text() {
        let sql = "PLAN REPROCESS JOB j FROM $a TO $b OFFSETS FROM $c TO $d FOR (SELECT 't', $p, $o) WITH ('run_id' $r)";
        let mut parsed = parsed(sql).unwrap();
        let mut parameters = Parameters::default();
        for (name, value) in [
            ("a", "2025-09-04"),
            ("b", "2025-09-05"),
            ("c", "{\"t\":{\"0\":1}}"),
            ("d", "{\"t\":{\"0\":2}}"),
            ("p", "0"),
            ("o", "7"),
            ("r", "fix's"),
        ] {
            parameters.set(name, value);
        }
        parameters.bind(&mut parsed).unwrap();
        assert_eq!(parameters.unused(), Vec::<&str>::new());
        let Statement::Run(run) = parsed.statement else {
            panic!("{sql}")
        };
        let RunStatement::Plan(asked) = run else {
            panic!("{sql}")
        };
        assert_eq!(asked.time.unwrap().to.value, "2025-09-05");
        assert_eq!(asked.offsets.unwrap().from.value, "{\"t\":{\"0\":1}}");
        assert_eq!(asked.rows.unwrap().query.to_string(), "SELECT 't', 0, 7");
        assert_eq!(asked.options[0].value.value, "fix's");
        for sql in ["APPLY RUN $r", "ABORT RUN $r", "DESCRIBE RUN $r"] {
            let raw = Script::new("t", sql).split().unwrap().remove(0);
            let mut parsed = parse_statement(&raw).unwrap();
            let bound = parameters.bind_text(&raw, &mut parsed).unwrap();
            assert!(bound.text().contains("'fix''s'"), "{}", bound.text());
            let error = Parameters::default().bind(&mut super::tests::parsed(sql).unwrap());
            assert!(error.unwrap_err().span().is_some());
        }
    }

    /// Message, column of the place, and a part of the help.
    #[test]
    fn mistakes_have_a_place_and_help() {
        for (sql, message, column, help) in [
            (
                "REPROCESS j FROM 'a' TO 'b'",
                "expected JOB, found j",
                11,
                "",
            ),
            ("REPROCESS JOB", "", 14, ""),
            (
                "REPROCESS JOB j",
                "the run of job j has no range",
                15,
                "OFFSETS FROM",
            ),
            (
                "PLAN REPROCESS JOB j EMIT ALL WITH ('late' 'include')",
                "the run of job j has no range",
                20,
                "FOR (SELECT …)",
            ),
            (
                "REPROCESS JOB j FROM 'a'",
                "expected TO, found the end of the statement",
                25,
                "",
            ),
            (
                "REPROCESS JOB j FROM a TO b",
                "expected a time, in quotes, found a",
                22,
                "",
            ),
            (
                "REPROCESS JOB j TO 'b' FROM 'a'",
                "expected FROM, OFFSETS, FOR, EMIT or WITH, found TO",
                17,
                "FROM '…' TO '…'",
            ),
            (
                "REPROCESS JOB j BETWEEN 'a' AND 'b'",
                "expected FROM, OFFSETS, FOR, EMIT or WITH, found BETWEEN",
                17,
                "FROM '…' TO '…'",
            ),
            (
                "REPROCESS JOB j FROM 'a' TO 'b' FROM 'c' TO 'd'",
                "the statement has FROM … TO … twice",
                33,
                "one of each kind",
            ),
            (
                "REPROCESS JOB j FOR (SELECT 1) FOR (SELECT 2)",
                "the statement has FOR (SELECT …) twice",
                32,
                "one of each kind",
            ),
            (
                "REPROCESS JOB j OFFSETS FROM 'a' TO 'b' OFFSETS FROM 'a' TO 'b'",
                "the statement has OFFSETS twice",
                41,
                "one of each kind",
            ),
            (
                "REPROCESS JOB j OFFSETS '{}' TO '{}'",
                "expected FROM, found '{}'",
                25,
                "",
            ),
            (
                "REPROCESS JOB j OFFSETS FROM {\"t\":{\"0\":1}} TO '{}'",
                "expected offsets such as '{\"visits\":{\"0\":23}}', found {",
                30,
                "",
            ),
            (
                "REPROCESS JOB j FOR SELECT 1",
                "expected (, found SELECT",
                21,
                "system.late_rows",
            ),
            (
                "REPROCESS JOB j FOR (SELECT 1",
                "expected ), found the end of the statement",
                30,
                "",
            ),
            (
                "REPROCESS JOB j FOR (DELETE FROM t)",
                "DELETE inside a query is not supported",
                21,
                "",
            ),
            (
                "REPROCESS JOB j FROM 'a' TO 'b' EMIT SOME",
                "expected ALL or CHANGED, found SOME",
                38,
                "",
            ),
            (
                "REPROCESS JOB j FROM 'a' TO 'b' EMIT CHANGES",
                "this EMIT belongs to CREATE JOB and SUBSCRIBE",
                33,
                "EMIT ALL or EMIT CHANGED",
            ),
            (
                "REPROCESS JOB j FROM 'a' TO 'b' EMIT ALL EMIT CHANGED",
                "the statement has EMIT twice",
                42,
                "one of each kind",
            ),
            (
                "REPROCESS JOB j FROM 'a' TO 'b' WITH 'late' 'exclude'",
                "expected (, found 'late'",
                38,
                "",
            ),
            (
                "REPROCESS JOB j FROM 'a' TO 'b' WITH ('late')",
                "expected a value for option 'late', found )",
                45,
                "",
            ),
            ("APPLY 'r'", "expected RUN, found 'r'", 7, ""),
            (
                "APPLY RUN",
                "expected the id of a run, in quotes, found the end of the statement",
                10,
                "",
            ),
            (
                "APPLY RUN r",
                "expected the id of a run, in quotes, found r",
                11,
                "",
            ),
            (
                "ABORT RUN 7",
                "expected the id of a run, in quotes, found 7",
                11,
                "",
            ),
            (
                "ABORT RUN 'r' NOW",
                "expected end of statement, found NOW",
                15,
                "",
            ),
            ("SHOW RUNS FOR j", "expected JOB, found j", 15, ""),
            ("SHOW RUNS j", "expected end of statement, found j", 11, ""),
            (
                "DESCRIBE RUN r",
                "expected the id of a run, in quotes, found r",
                14,
                "",
            ),
            (
                "SHOW CREATE JOB j AS OF 4",
                "expected OF BATCH, found OF",
                22,
                "",
            ),
        ] {
            let error = parsed(sql).map(|parsed| parsed.statement).unwrap_err();
            if !message.is_empty() {
                assert_eq!(error.message(), message, "{sql}");
            }
            let place = error.span().map(|span| span.start.column);
            assert_eq!(place, Some(column), "{sql}: {}", error.message());
            let found = error.help().unwrap_or_default();
            assert!(found.contains(help), "{sql}: {found}");
        }
    }
}
