//! Parser from one statement's tokens to a [`Statement`].

use std::collections::BTreeMap;

use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::Statement as AnsiStatement;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use crate::core::redact::{HIDDEN, is_secret, names_a_variable, without_user_info};
use crate::core::stack::with_stack;
use crate::error::{Error, Result};
use crate::planner::ast::{CreateView, Emit, ParsedStatement, Statement};
use crate::planner::chains;
use crate::planner::cursor::Cursor;
use crate::planner::dialect::AnabranchDialect;
use crate::planner::effect::effect;
use crate::planner::error_spans::WordSpans;
use crate::planner::jobs::parse_job;
use crate::planner::numbers;
use crate::planner::runs::parse_run;
use crate::planner::script::{RawStatement, is_significant, quoted};
use crate::planner::tables::parse_create_table;
use crate::planner::token_limits;

/// Parses one statement.
///
/// # Errors
/// [`crate::error::ErrorKind::Invalid`] with the place of the first token that does not fit.
pub fn parse_statement(raw: &RawStatement) -> Result<ParsedStatement> {
    token_limits::check(&raw.tokens)?;
    with_stack(|| parse_checked(raw))
}

fn parse_checked(raw: &RawStatement) -> Result<ParsedStatement> {
    let mut tokens = raw.tokens.clone();
    numbers::read(&mut tokens)?;
    let emit = take_emit(&mut tokens);
    drop_time_travel_for(&mut tokens);
    summarize_all(&mut tokens);
    let dialect = AnabranchDialect::bounded(tokens.len());
    let mut cursor = Cursor::new(&dialect, tokens)?;
    let parsed = parse(&mut cursor, emit.map(|(emit, _)| emit));
    let parsed = parsed.map_err(|error| match dialect.has_given_up() {
        true => {
            Error::invalid("the statement cannot be parsed: there is an error within deep nesting")
                .with_help("parse its parts separately")
        }
        false => error,
    });
    let balanced = parsed.and_then(|mut statement| {
        chains::balance(&mut statement)?;
        Ok(statement)
    });
    let statement = balanced.map_err(|error| error.at(raw.span))?;
    if let Some((_, span)) = emit {
        check_emit(&statement).map_err(|error| error.at(span))?;
    }
    let effect = effect(&statement).map_err(|error| error.at(raw.span))?;
    let text = shown_text(raw, &statement);
    Ok(ParsedStatement {
        statement,
        effect,
        places: WordSpans::new(&raw.tokens, raw.span),
        text,
        rows: None,
    })
}

/// Whether a statement may end with the EMIT of aggregates.
fn check_emit(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Job(_) => Ok(()),
        Statement::Run(_) => Err(Error::invalid("this EMIT belongs to CREATE JOB and SUBSCRIBE")
            .with_help(
                "a run emits what the job emits: EMIT ALL or EMIT CHANGED says which of its rows are written",
            )),
        _ => Err(
            Error::invalid("EMIT belongs to CREATE JOB and SUBSCRIBE")
                .with_help("a query and an INSERT see all rows at once: leave EMIT out"),
        ),
    }
}

/// The statement as typed, with its secrets hidden. `${NAME}` stays: it names a variable and is not the secret itself. In the
/// statements of our own the places of secrets are known; in DataFusion's own statements a secret is the value after a key that
/// names one.
fn shown_text(raw: &RawStatement, statement: &Statement) -> String {
    let mut shown: BTreeMap<Location, String> = BTreeMap::new();
    if let Statement::CreateTable(table) = statement {
        let typed = |start: Location| {
            let mut tokens = raw.tokens.iter();
            let token = tokens.find(|token| token.span.start == start);
            token.map(|token| &token.token)
        };
        for option in &table.options {
            let start = option.value.span.start;
            match typed(start) {
                Some(token) if text_of(token).is_some_and(names_a_variable) => {}
                Some(_) if is_secret(&option.key) => {
                    shown.insert(start, quoted(HIDDEN));
                }
                Some(token) => shown.extend(without_user(token).map(|text| (start, text))),
                None => {}
            }
        }
        let start = table.location.span.start;
        let location = typed(start).and_then(without_user);
        shown.extend(location.map(|text| (start, text)));
    } else {
        hide_values(raw, keys_of(statement), &mut shown);
    }
    raw.text_with(|token| shown.get(&token.span.start).cloned())
}

/// Where unquoted words are keys of options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OptionKeys {
    /// Nowhere: the statement is a query, or has one. Only a quoted key names a secret, and its value is the next text.
    Texts,
    /// In the brackets after OPTIONS or WITH.
    Listed,
    /// In the whole statement: it is a SET.
    All,
}

fn keys_of(statement: &Statement) -> OptionKeys {
    fn of_sql(sql: &SqlStatement) -> OptionKeys {
        match sql {
            SqlStatement::CreateExternalTable(_) | SqlStatement::CopyTo(_) => OptionKeys::Listed,
            SqlStatement::Explain(explain) => of_sql(&explain.statement),
            SqlStatement::Statement(ansi) => match ansi.as_ref() {
                AnsiStatement::Set(_) => OptionKeys::All,
                AnsiStatement::CreateTable(_) => OptionKeys::Listed,
                _ => OptionKeys::Texts,
            },
            SqlStatement::Reset(_) => OptionKeys::Texts,
        }
    }

    match statement {
        Statement::Sql(sql) => of_sql(sql),
        _ => OptionKeys::Texts,
    }
}

/// Hides the values of keys that name secrets, and users and passwords in URLs.
fn hide_values(raw: &RawStatement, keys: OptionKeys, shown: &mut BTreeMap<Location, String>) {
    // Brackets that were opened since the list of options began; `None` outside of a list.
    let mut open = 0_usize;
    let mut list_begins = false;
    let mut key: Option<String> = None;
    // The key continues after a dot.
    let mut goes_on = false;
    // The part before the next comma is the value of a secret.
    let mut hides = false;
    for token in raw.tokens.iter().filter(|token| is_significant(token)) {
        let words_are_keys = keys == OptionKeys::All || open > 0;
        let start = token.span.start;
        let begins_here = std::mem::take(&mut list_begins);
        match &token.token {
            Token::LParen | Token::RParen | Token::Comma | Token::SemiColon => {
                (key, goes_on, hides) = (None, false, false);
                match &token.token {
                    Token::LParen if open > 0 || begins_here => open += 1,
                    Token::RParen => open = open.saturating_sub(1),
                    _ => {}
                }
                continue;
            }
            _ if hides => {
                shown.insert(start, String::new());
                continue;
            }
            Token::Eq => continue,
            Token::Period if words_are_keys && key.is_some() => {
                goes_on = true;
                continue;
            }
            _ => {}
        }
        let text = text_of(&token.token);
        let word = match &token.token {
            Token::Word(word) => Some(word.value.as_str()),
            _ => None,
        };
        if keys == OptionKeys::Listed && open == 0 {
            list_begins = is_word(token, "OPTIONS") || is_word(token, "WITH");
        }
        if let (true, Some(key), Some(word)) = (goes_on, &mut key, word) {
            key.push('.');
            key.push_str(word);
            goes_on = false;
            continue;
        }
        let is_value = key.as_deref().is_some_and(is_secret);
        if is_value && (words_are_keys || text.is_some()) {
            key = None;
            if !text.or(word).is_some_and(names_a_variable) {
                shown.insert(start, quoted(HIDDEN));
                hides = words_are_keys;
            }
            continue;
        }
        if keys != OptionKeys::Texts {
            let url = without_user(&token.token);
            shown.extend(url.map(|text| (start, text)));
        }
        key = match words_are_keys {
            true => text.or(word).map(str::to_owned),
            false => text.map(str::to_owned),
        };
    }
}

/// The content of a quoted text, for every way of quoting one; `None` for a quoted name.
fn text_of(token: &Token) -> Option<&str> {
    match token {
        Token::SingleQuotedString(text)
        | Token::DoubleQuotedString(text)
        | Token::TripleSingleQuotedString(text)
        | Token::TripleDoubleQuotedString(text)
        | Token::SingleQuotedRawStringLiteral(text)
        | Token::DoubleQuotedRawStringLiteral(text)
        | Token::EscapedStringLiteral(text)
        | Token::UnicodeStringLiteral(text)
        | Token::NationalStringLiteral(text) => Some(text),
        Token::DollarQuotedString(text) => Some(&text.value),
        _ => None,
    }
}

/// A quoted text or name with the user and password of its URL removed; `None` if it has none.
fn without_user(token: &Token) -> Option<String> {
    let text = match token {
        Token::Word(word) => word.quote_style.map(|_| word.value.as_str()),
        other => text_of(other),
    }?;
    let shown = without_user_info(text);
    (shown != text).then(|| quoted(&shown))
}

fn parse(cursor: &mut Cursor<'_>, emit: Option<Emit>) -> Result<Statement> {
    if let Some(job) = parse_job(cursor, emit)? {
        return Ok(Statement::Job(Box::new(job)));
    }
    if let Some(run) = parse_run(cursor)? {
        return Ok(Statement::Run(run));
    }
    if is_our_table(cursor) {
        return Ok(Statement::CreateTable(Box::new(parse_create_table(
            cursor,
        )?)));
    }
    if cursor.take_words(&["SHOW", "CREATE", "TABLE"])
        || cursor.take_words(&["SHOW", "CREATE", "VIEW"])
    {
        let name = cursor.object_name()?;
        cursor.expect_end()?;
        return Ok(Statement::ShowCreateTable(name));
    }
    if cursor.take_words(&["SHOW", "TABLES"]) {
        cursor.expect_end()?;
        return Ok(Statement::ShowTables);
    }
    if cursor.take_words(&["SHOW", "QUERIES"]) {
        cursor.expect_end()?;
        return Ok(Statement::ShowQueries);
    }
    if cursor.take_words(&["KILL", "QUERY"]) {
        let id = cursor.literal("the id of a query, in quotes")?;
        cursor.expect_end()?;
        return Ok(Statement::KillQuery(id));
    }
    if cursor.take_words(&["SHOW", "COLUMNS"]) {
        if !(cursor.take_words(&["FROM"]) || cursor.take_words(&["IN"])) {
            return Err(cursor.expected("FROM and a table"));
        }
        return describe(cursor);
    }
    if cursor.take_words(&["DESCRIBE", "HISTORY"]) {
        let name = cursor.object_name()?;
        cursor.expect_end()?;
        return Ok(Statement::History(name));
    }
    if cursor.take_words(&["DESCRIBE"]) || cursor.take_words(&["DESC"]) {
        cursor.take_words(&["TABLE"]);
        return describe(cursor);
    }
    if cursor.take_words(&["SUMMARIZE"]) {
        return Ok(Statement::Summarize(Box::new(cursor.sql_statement()?)));
    }
    if cursor.take_words(&["OPTIMIZE"]) {
        cursor.take_words(&["TABLE"]);
        let table = cursor.object_name()?;
        let zorder_by = if cursor.take_words(&["ZORDER", "BY"]) {
            cursor.ident_list()?
        } else {
            Vec::new()
        };
        cursor.expect_end()?;
        return Ok(Statement::Optimize { table, zorder_by });
    }
    if cursor.take_words(&["VACUUM"]) {
        cursor.take_words(&["TABLE"]);
        let table = cursor.object_name()?;
        let retain_hours = if cursor.take_words(&["RETAIN"]) {
            let hours = cursor.literal("a number of hours")?;
            cursor.expect_words(&["HOURS"])?;
            Some(hours)
        } else {
            None
        };
        let dry_run = cursor.take_words(&["DRY", "RUN"]);
        cursor.expect_end()?;
        return Ok(Statement::Vacuum {
            table,
            retain_hours,
            dry_run,
        });
    }
    Ok(into_view(cursor.sql_statement()?))
}

/// Whether a query follows rather than a name.
fn at_query(cursor: &mut Cursor<'_>) -> bool {
    let word = cursor.peek_word(0);
    cursor.parser().peek_token_ref().token == Token::LParen
        || matches!(word.as_deref(), Some("SELECT" | "WITH" | "VALUES" | "FROM"))
}

fn describe(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if at_query(cursor) {
        return Ok(Statement::DescribeQuery(Box::new(cursor.sql_statement()?)));
    }
    let name = cursor.object_name()?;
    cursor.expect_end()?;
    Ok(Statement::Describe(name))
}

/// Views are our own statement: DataFusion's would keep the table snapshots of the time of creation.
fn into_view(statement: SqlStatement) -> Statement {
    match statement {
        SqlStatement::Statement(ansi) => match *ansi {
            AnsiStatement::CreateView(view) if !view.materialized => {
                Statement::CreateView(Box::new(CreateView {
                    name: view.name,
                    or_replace: view.or_replace,
                    if_not_exists: view.if_not_exists,
                    columns: view.columns.into_iter().map(|column| column.name).collect(),
                    query: view.query,
                }))
            }
            other => Statement::Sql(Box::new(SqlStatement::Statement(Box::new(other)))),
        },
        other => Statement::Sql(Box::new(other)),
    }
}

/// True for `CREATE … EXTERNAL TABLE` unless it is stored as a file type of DataFusion's.
fn is_our_table(cursor: &mut Cursor<'_>) -> bool {
    let mut at = 0;
    let words: Vec<Option<String>> = (0..5).map(|ahead| cursor.peek_word(ahead)).collect();
    let mut eat = |word: &str| {
        let found = words
            .get(at)
            .is_some_and(|found| found.as_deref() == Some(word));
        at += usize::from(found);
        found
    };
    let created = eat("CREATE");
    let _ = eat("OR") && eat("REPLACE");
    let _ = eat("UNBOUNDED");
    if !(created && eat("EXTERNAL")) {
        return false;
    }
    let mut ahead = 0;
    while cursor.parser().peek_nth_token_ref(ahead).token != Token::EOF {
        let word = |more: usize| cursor.peek_word(ahead + more);
        if word(0).as_deref() == Some("STORED") && word(1).as_deref() == Some("AS") {
            return !matches!(
                word(2).as_deref(),
                Some("PARQUET" | "CSV" | "JSON" | "NDJSON" | "AVRO" | "ARROW")
            );
        }
        ahead += 1;
    }
    true
}

/// Cuts a trailing `EMIT …` off: sqlparser would read the word as a table alias.
fn take_emit(
    tokens: &mut Vec<TokenWithSpan>,
) -> Option<(Emit, datafusion::sql::sqlparser::tokenizer::Span)> {
    const CLAUSES: [(&[&str], Emit); 3] = [
        (&["EMIT", "CHANGES"], Emit::Changes),
        (&["EMIT", "ON", "WINDOW", "CLOSE"], Emit::OnWindowClose),
        (&["EMIT", "PER", "BATCH"], Emit::PerBatch),
    ];
    let significant: Vec<usize> = (0..tokens.len())
        .filter(|index| is_significant(&tokens[*index]))
        .collect();
    for (words, emit) in CLAUSES {
        let Some(first) = significant.len().checked_sub(words.len()) else {
            continue;
        };
        let tail = &significant[first..];
        if tail
            .iter()
            .zip(words)
            .all(|(index, word)| is_word(&tokens[*index], word))
        {
            let span = tokens[tail[0]].span;
            tokens.truncate(tail[0]);
            return Some((emit, span));
        }
    }
    None
}

/// `SUMMARIZE t` is `SUMMARIZE SELECT * FROM t`.
fn summarize_all(tokens: &mut Vec<TokenWithSpan>) {
    let mut significant = (0..tokens.len()).filter(|index| is_significant(&tokens[*index]));
    let (Some(first), Some(second)) = (significant.next(), significant.next()) else {
        return;
    };
    let is_query = tokens[second].token == Token::LParen
        || ["SELECT", "WITH", "VALUES", "FROM"]
            .iter()
            .any(|word| is_word(&tokens[second], word));
    if !is_word(&tokens[first], "SUMMARIZE") || is_query {
        return;
    }
    let span = tokens[first].span;
    let all = [
        Token::make_word("SELECT", None),
        Token::Mul,
        Token::make_word("FROM", None),
    ];
    let all = all.map(|token| TokenWithSpan::new(token, span));
    tokens.splice(second..second, all);
}

/// Reads `FOR VERSION AS OF` and `FOR TIMESTAMP AS OF` as sqlparser's `VERSION AS OF`, with a word before it.
fn drop_time_travel_for(tokens: &mut Vec<TokenWithSpan>) {
    let significant: Vec<usize> = (0..tokens.len())
        .filter(|index| is_significant(&tokens[*index]))
        .collect();
    let dropped: Vec<usize> = significant
        .windows(4)
        .filter(|window| {
            is_word(&tokens[window[0]], "FOR")
                && (is_word(&tokens[window[1]], "VERSION")
                    || is_word(&tokens[window[1]], "TIMESTAMP"))
                && is_word(&tokens[window[2]], "AS")
                && is_word(&tokens[window[3]], "OF")
        })
        .map(|window| window[0])
        .collect();
    for index in dropped.into_iter().rev() {
        tokens.remove(index);
    }
}

fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(found)
        if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::planner::{JobStatement, Script};

    fn parse_one(sql: &str) -> Result<ParsedStatement> {
        parse_statement(&Script::new("t", sql).split()?.remove(0))
    }

    #[test]
    fn job_statements_are_parsed_completely() {
        for (sql, verb) in [
            (
                "CREATE OR REPLACE JOB j WITH ('trigger' '1 second') AS INSERT INTO t SELECT 1 EMIT PER BATCH",
                "CREATE JOB",
            ),
            (
                "EXPLAIN CREATE JOB j AS INSERT INTO t SELECT 1",
                "CREATE JOB",
            ),
            ("RESUME JOB j ASSUMING BATCH 4 NOT COMMITTED", "RESUME JOB"),
            ("RESUME JOB j SKIPPING LOST", "RESUME JOB"),
            (
                "RESUME JOB j ACCEPTING NEW a, MOVED \"B\" SKIPPING LOST ASSUMING BATCH 4 COMMITTED",
                "RESUME JOB",
            ),
            ("DROP JOB IF EXISTS j CASCADE", "DROP JOB"),
            ("REWIND JOB j TO BATCH $n", "REWIND JOB"),
            ("SHOW BATCHES FOR JOB j", "SHOW BATCHES"),
            ("SHOW CREATE JOB j", "DESCRIBE JOB"),
            ("SHOW CREATE JOB j AS OF BATCH 4", "DESCRIBE JOB"),
            ("DESCRIBE JOB j AS OF BATCH $n", "DESCRIBE JOB"),
            ("SUBSCRIBE SELECT 1", "SUBSCRIBE"),
            (
                "SUBSCRIBE WITH ('trigger' $t) WITH t AS (SELECT 1) SELECT * FROM t EMIT PER BATCH",
                "SUBSCRIBE",
            ),
            (
                "SUBSCRIBE WITH t AS (SELECT 1) SELECT * FROM t",
                "SUBSCRIBE",
            ),
        ] {
            let Statement::Job(job) = parse_one(sql).unwrap().statement else {
                panic!("{sql}")
            };
            assert_eq!(job.verb(), verb);
            if let JobStatement::Create { emit, .. } | JobStatement::Subscribe { emit, .. } = *job {
                assert_eq!(emit == Emit::PerBatch, sql.contains("PER BATCH"));
            }
        }
    }

    #[test]
    fn secrets_leave_the_text_however_they_are_written() {
        for option in [
            "'kafka.sasl.password' 'hidden'",
            "kafka.sasl.password 'hidden'",
            "\"kafka.ssl.key.password\" = 'hidden'",
            "'kafka.sasl.password' $$hidden$$",
            "'kafka.sasl.password' E'hidden'",
            "'avro.registry.url' 'http://me:hidden@h/x'",
            "'avro.registry.url' $$http://me:hidden@h/x$$",
            "'avro.registry.url' E'http://me:hidden@h/x'",
        ] {
            let sql = format!(
                "CREATE EXTERNAL TABLE t (a INT) STORED AS KAFKA LOCATION 't' OPTIONS ({option}, 'format' 'json')"
            );
            let shown = parse_one(&sql).unwrap().text;
            assert!(
                !shown.contains("hidden") && shown.contains("'json'"),
                "{shown}"
            );
        }
    }

    #[test]
    fn secrets_leave_the_text_of_other_statements() {
        for option in [
            "'aws.secret_access_key' 'hidden'",
            "aws.secret_access_key 'hidden'",
            "aws.secret_access_key hidden",
            "aws . secret_access_key hidden",
            "\"aws.secret_access_key\" 'hidden'",
            "\"aws.secret_access_key\" \"hidden\"",
            "E'aws.secret_access_key' E'hidden'",
            "E'aws.secret_access_key' 'hidden'",
            "'aws.secret_access_key' E'hidden'",
            "'aws.secret_access_key' \"hidden\"",
            "'aws.secret_access_key' hidden",
            "'aws.endpoint' 'http://me:hidden@h/x'",
            "aws.endpoint E'http://me:hidden@h/x'",
            "aws.endpoint \"http://me:hidden@h/x\"",
        ] {
            for sql in [
                format!(
                    "CREATE EXTERNAL TABLE t (password INT) STORED AS CSV LOCATION 'x.csv' OPTIONS ({option}, 'format.has_header' 'true')"
                ),
                format!(
                    "COPY t TO 'x.csv' STORED AS CSV OPTIONS ('format.has_header' 'true', {option})"
                ),
            ] {
                let shown = parse_one(&sql).expect(&sql).text;
                assert!(
                    !shown.contains("hidden") && shown.contains("'format.has_header' 'true'"),
                    "{shown}"
                );
            }
        }
        for sql in [
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://me:hidden@b/x.csv'",
            "CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION 's3://me:hidden@b/x'",
            "CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION E's3://me:hidden@b/x'",
            "COPY t TO 's3://me:hidden@b/x.csv'",
            "SET datafusion.some.password = 'hidden'",
            "SET datafusion.some.password TO hidden",
        ] {
            if let Ok(parsed) = parse_one(sql) {
                assert!(!parsed.text.contains("hidden"), "{}", parsed.text);
            }
        }
        for sql in [
            "CREATE EXTERNAL TABLE t (password VARCHAR, token INT) STORED AS CSV LOCATION 'x.csv'",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x.csv' OPTIONS ('aws.secret_access_key' '${SECRET}')",
            "COPY (SELECT password, secret FROM tokens) TO 'x.csv' OPTIONS ('format.has_header' 'true')",
            "CREATE VIEW v AS SELECT password FROM users WHERE token = 'a'",
            "SELECT secret AS password, token FROM t WHERE url = 'http://a@b'",
            "SET datafusion.execution.batch_size = 10",
        ] {
            assert_eq!(parse_one(sql).expect(sql).text, sql);
        }
    }

    proptest! {
        #[test]
        fn any_words_parse_or_return_an_error(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "CREATE", "EXTERNAL", "TABLE", "t", "(", ")", ",", "a", "INT", "METADATA", "FROM", "'x'", "STORED",
                    "AS", "KAFKA", "DELTA", "LOCATION", "OPTIONS", "GENERATED", "ALWAYS", "WATERMARK", "FOR", "PRIMARY",
                    "KEY", "NOT", "ENFORCED", "SELECT", "1", "JOB", "WITH", "INSERT", "INTO", "EMIT", "CHANGES", "REWIND",
                    "TO", "BATCH", "SESSION", "PARTITION", "BY", "DESCRIPTOR", "INTERVAL", "VERSION", "OF", "TIMESTAMP",
                    "$p", "EXPLAIN", "PLAN", "REPROCESS", "OFFSETS", "ALL", "CHANGED", "APPLY", "RUN", "VACUUM", "OPTIMIZE", "ZORDER", "*", "MAP", "{", "}", "<", ">", "STRUCT", "=",
                ]),
                1..16,
            )
        ) {
            let _ = parse_one(&words.join(" "));
        }
    }
}
