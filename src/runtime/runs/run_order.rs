//! From the parts of a statement, which are texts with their places, to the order of a run.

use datafusion::arrow::datatypes::TimeUnit;

use crate::core::jobs::{NamedOffsets, parse_named_offsets};
use crate::core::runs::time_range::time_text;
use crate::core::runs::{AskedText, GivenRunOptions, LateRows, OffsetBounds, RunOrder, TimeRange};
use crate::error::{Error, Result, Subject};
use crate::formats::text::time::TimestampReader;
use crate::formats::text::zone::Zone;
use crate::planner::{Reprocess, TableOption, TextRange, TextValue, normalize};
use crate::tables::options::{self, Options};

/// The names of all options.
const OPTION_NAMES: &[&str] = &[
    "chunk",
    "late",
    "max_rows_per_second",
    "overwrite",
    "run_id",
    "withdraw",
    "write",
    "yield",
];

/// The most characters of a run id: it is part of the name of a file.
const LONGEST_ID: usize = 80;

/// Makes the order of a run of a statement whose parameters are bound. The rows of FOR are left to its query.
///
/// # Errors
///
/// A part that cannot be read, a range without an instant or offset, an unknown option, with the place.
pub(super) fn run_order(asked: &Reprocess) -> Result<RunOrder> {
    let time = asked.time.as_ref().map(time_range).transpose()?;
    let offsets = asked.offsets.as_ref().map(offset_bounds).transpose()?;
    let (run_id, given) = given_options(&asked.options)?;
    Ok(RunOrder {
        job: normalize(&asked.job),
        asked: AskedText {
            time,
            offsets,
            rows: None,
        },
        emit: asked.emit,
        run_id,
        options: given,
    })
}

/// Checks the id of a run, which a statement gives.
///
/// # Errors
///
/// No id, or one with characters that headers and names of files do not have everywhere.
pub(super) fn checked_run_id(id: &TextValue) -> Result<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    let text = id.value.as_str();
    if text.is_empty() || text.len() > LONGEST_ID || !text.chars().all(is_plain) {
        return Err(
            Error::invalid(format!("'{text}' cannot be the id of a run"))
                .with_help(format!(
                    "an id has 1 to {LONGEST_ID} letters of ASCII, digits and _ - . :"
                ))
                .at(id.span),
        );
    }
    Ok(text)
}

fn time_range(range: &TextRange) -> Result<TimeRange> {
    let (from, to) = (time(&range.from, "FROM")?, time(&range.to, "TO")?);
    TimeRange::try_new(from, to).ok_or_else(|| {
        Error::invalid(format!(
            "TO ({}) is not after FROM ({})",
            time_text(to),
            time_text(from)
        ))
        .with_help("the range begins with FROM and ends before TO")
        .at(range.to.span)
    })
}

/// A time without an offset is UTC, as in SQL.
fn time(text: &TextValue, bound: &str) -> Result<i64> {
    let mut reader = TimestampReader::new(Zone::Utc);
    let read = reader.read(text.value.trim(), TimeUnit::Microsecond);
    read.ok_or_else(|| {
        let error = Error::invalid(format!("{bound} does not accept '{}'", text.value));
        let help = match text.value.trim_start().starts_with(['{', '[']) {
            true => "offsets stand behind OFFSETS: OFFSETS FROM '{…}' TO '{…}'",
            false => "write a time such as '2025-09-04T10:00:00', which is UTC, or '2025-09-04T12:00:00+02:00'",
        };
        error.with_help(help).at(text.span)
    })
}

fn offset_bounds(range: &TextRange) -> Result<OffsetBounds> {
    let bounds = OffsetBounds {
        from: named_offsets(&range.from, "FROM")?,
        to: named_offsets(&range.to, "TO")?,
    };
    bounds.check().map_err(|error| error.at(range.to.span))?;
    Ok(bounds)
}

fn named_offsets(text: &TextValue, bound: &str) -> Result<NamedOffsets> {
    parse_named_offsets(&text.value).map_err(|error| {
        Error::invalid(format!(
            "OFFSETS {bound} has offsets that are not valid: {error}"
        ))
        .with_help(
            r#"it takes offsets as Spark writes them: '{"visits":{"0":23,"1":-2}}', where -2 is the first record and -1 the end"#,
        )
        .at(text.span)
    })
}

/// The id of the run, and the other options.
fn given_options(given: &[TableOption]) -> Result<(Option<String>, GivenRunOptions)> {
    let mut options = GivenRunOptions::default();
    let mut run_id = None;
    let mut before: Vec<String> = Vec::new();
    for option in given {
        let key = option.key.to_lowercase();
        if before.contains(&key) {
            return Err(Error::invalid(format!("option '{key}' is given twice"))
                .with_help("leave one of them out")
                .at(option.key_span));
        }
        let one: Options = [(key.clone(), option.value.value.clone())].into();
        options::check_names(&one, OPTION_NAMES, &[]).map_err(|error| error.at(option.key_span))?;
        match key.as_str() {
            "run_id" => run_id = Some(checked_run_id(&option.value)?.to_owned()),
            _ => take(&mut options, &key, &one).map_err(|error| error.at(option.value.span))?,
        }
        before.push(key);
    }
    Ok((run_id, options))
}

/// Reads one option, which `one` has.
fn take(options: &mut GivenRunOptions, key: &str, one: &Options) -> Result<()> {
    const YES: [(&str, bool); 2] = [("true", true), ("false", false)];
    match key {
        "late" => {
            let choices = [
                ("include", LateRows::Include),
                ("exclude", LateRows::Exclude),
            ];
            options.late = Some(options::choice(one, key, &choices, LateRows::default())?);
        }
        "withdraw" => options.withdraw = Some(options::choice(one, key, &YES, false)?),
        "overwrite" => options.overwrite = Some(options::choice(one, key, &YES, false)?),
        "write" => {
            let choices = [("replace", false), ("append", true)];
            options.append = Some(options::choice(one, key, &choices, false)?);
        }
        "yield" => options.yields = Some(options::choice(one, key, &YES, true)?),
        "chunk" => options.chunk = Some(chunk(one, key)?),
        _ => {
            let rows = options::integer(one, key, 1)?;
            options.max_rows_per_second = rows.and_then(|rows| u64::try_from(rows).ok());
        }
    }
    Ok(())
}

/// The length of a chunk in microseconds.
fn chunk(one: &Options, key: &str) -> Result<i64> {
    let length = options::duration(one, key, std::time::Duration::ZERO)?;
    let micros = i64::try_from(length.as_micros()).ok();
    micros.filter(|micros| *micros > 0).ok_or_else(|| {
        let value = one.get(key).map_or("", String::as_str);
        Error::invalid(format!("option '{key}' does not accept '{value}'"))
            .about(Subject::option(key))
            .with_help("a chunk is a part of the range: give its length, such as '1 hour'")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::NamedOffset;
    use crate::core::runs::EmitRows;
    use crate::planner::{RunStatement, Script, Statement, parse_statement};

    fn order(parts: &str) -> Result<RunOrder> {
        let sql = format!("REPROCESS JOB J {parts}");
        let raw = Script::new("t", sql).split()?.remove(0);
        let parsed = parse_statement(&raw)?;
        let Statement::Run(run) = parsed.statement else {
            panic!("{parts}")
        };
        match run {
            RunStatement::Reprocess(asked) => run_order(&asked),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_part_is_read() {
        let order = order(
            r#"FROM '2025-09-04T10:00:00' TO '2025-09-04T13:00:00.000001+02:00'
            OFFSETS FROM '{"visits":{"0":23,"1":-2}}' TO '{"visits":{"0":99,"1":-1}}'
            FOR (SELECT topic, partition, "offset" FROM system.late_rows WHERE job = 'j')
            EMIT CHANGED WITH ('Run_Id' 'fix_42', late 'EXCLUDE', 'withdraw' true, 'overwrite' 'true', 'write' 'append',
              'chunk' '1 hour', 'max_rows_per_second' 50000, 'yield' 'false')"#,
        )
        .unwrap();
        assert_eq!(order.job, "j");
        let ten = 1_756_980_000_000_000;
        let range = TimeRange::try_new(ten, ten + 3_600_000_001);
        assert_eq!(order.asked.time, range);
        let offsets = order.asked.offsets.unwrap();
        assert_eq!(offsets.from["visits"][&1], NamedOffset::First);
        assert_eq!(offsets.to["visits"][&0], NamedOffset::At(99));
        assert_eq!(order.emit, Some(EmitRows::Changed));
        assert_eq!(order.run_id.as_deref(), Some("fix_42"));
        let options = GivenRunOptions {
            late: Some(LateRows::Exclude),
            withdraw: Some(true),
            overwrite: Some(true),
            append: Some(true),
            chunk: Some(3_600_000_000),
            max_rows_per_second: Some(50_000),
            yields: Some(false),
        };
        assert_eq!(order.options, options);
    }

    #[test]
    fn a_part_that_is_not_given_is_left_open() {
        let day = order("FROM TIMESTAMP '2025-09-04' TO TIMESTAMP '2025-09-05'").unwrap();
        assert_eq!(
            day.asked.time.unwrap().to_string(),
            "2025-09-04T00:00:00Z to 2025-09-05T00:00:00Z"
        );
        assert_eq!(day.asked.offsets, None);
        assert_eq!(day.options, GivenRunOptions::default());
        assert_eq!((day.emit, day.run_id), (None, None));
    }

    /// What is wrong, a part of the message, the text at the place, and a part of the help.
    #[test]
    fn mistakes_have_a_place_and_help() {
        const FROM: &str = "FROM '2025-09-04T10:00:00' TO '2025-09-04T11:00:00'";
        let with = |options: &str| format!("{FROM} WITH ({options})");
        for (parts, message, place, help) in [
            (
                "FROM '2025-09-04T11:00:00' TO '2025-09-04T10:00:00'".to_owned(),
                "TO (2025-09-04T10:00:00Z) is not after FROM (2025-09-04T11:00:00Z)",
                "'2025-09-04T10:00:00'",
                "ends before TO",
            ),
            (
                "FROM '2025-09-04T10:00:00+00:00' TO '2025-09-04T12:00:00+02:00'".to_owned(),
                "TO (2025-09-04T10:00:00Z) is not after FROM (2025-09-04T10:00:00Z)",
                "'2025-09-04T12",
                "ends before TO",
            ),
            (
                "FROM 'yesterday' TO '2025-09-04'".to_owned(),
                "FROM does not accept 'yesterday'",
                "'yesterday'",
                "which is UTC",
            ),
            (
                "FROM '2025-09-04' TO ''".to_owned(),
                "TO does not accept ''",
                "''",
                "which is UTC",
            ),
            (
                "FROM '2025-02-30' TO '2025-03-01'".to_owned(),
                "FROM does not accept '2025-02-30'",
                "'2025-02-30'",
                "which is UTC",
            ),
            (
                r#"FROM '{"t":{"0":1}}' TO '{"t":{"0":2}}'"#.to_owned(),
                "FROM does not accept",
                "'{\"t\":{\"0\":1}}'",
                "OFFSETS FROM",
            ),
            (
                r#"OFFSETS FROM '{"t":{"0":1}' TO '{"t":{"0":2}}'"#.to_owned(),
                "OFFSETS FROM has offsets that are not valid: EOF while parsing",
                "'{\"t\":{\"0\":1}'",
                "-2 is the first record",
            ),
            (
                r#"OFFSETS FROM '{"t":{"0":1}}' TO '{"t":5}'"#.to_owned(),
                "OFFSETS TO has offsets that are not valid",
                "'{\"t\":5}'",
                "-2 is the first record",
            ),
            (
                r#"OFFSETS FROM '{}' TO '{}'"#.to_owned(),
                "no table is named",
                "'{}'",
                "Spark",
            ),
            (
                "OFFSETS FROM '2025-09-04' TO '2025-09-05'".to_owned(),
                "OFFSETS FROM has offsets that are not valid",
                "'2025-09-04'",
                "Spark",
            ),
            (
                r#"OFFSETS FROM '{"t":{"0":9}}' TO '{"t":{"0":9}}'"#.to_owned(),
                "FROM (9) is not before TO (9) for partition 0 of 't'",
                "'{\"t\":{\"0\":9}}'",
                "end before TO",
            ),
            (
                r#"OFFSETS FROM '{"t":{"0":9}}' TO '{"t":{"1":9}}'"#.to_owned(),
                "no partition is in both FROM and TO of OFFSETS",
                "'{\"t\":{\"1\":9}}'",
                "{\"table\":{\"0\":99}}",
            ),
            (
                r#"OFFSETS FROM '{"t":{"0":9}}' TO '{"t":{"0":-2}}'"#.to_owned(),
                "TO is -2 (earliest) for partition 0 of 't', where nothing ends",
                "'{\"t\":{\"0\":-2}}'",
                "-1 is the end",
            ),
            (
                with("'lat' 'exclude'"),
                "unknown option 'lat'",
                "'lat'",
                "did you mean 'late'?",
            ),
            (
                with("'trigger' 'once'"),
                "unknown option 'trigger'",
                "'trigger'",
                "the options are",
            ),
            (
                with("'late' 'exclud'"),
                "option 'late' does not accept 'exclud'",
                "'exclud'",
                "did you mean 'exclude'?",
            ),
            (
                with("'late' 'exclude', 'LATE' 'include'"),
                "option 'late' is given twice",
                "'LATE'",
                "leave one of them out",
            ),
            (
                with("'withdraw' 'yes'"),
                "option 'withdraw' does not accept 'yes'",
                "'yes'",
                "'true'",
            ),
            (
                with("'yield' 'yes'"),
                "option 'yield' does not accept 'yes'",
                "'yes'",
                "'true'",
            ),
            (
                with("'overwrite' 1"),
                "option 'overwrite' does not accept '1'",
                "1)",
                "'true'",
            ),
            (
                with("'write' 'merge'"),
                "option 'write' does not accept 'merge'",
                "'merge'",
                "'append'",
            ),
            (
                with("'chunk' 'hour'"),
                "option 'chunk' does not accept 'hour'",
                "'hour'",
                "a number and a unit",
            ),
            (
                with("'chunk' '0 seconds'"),
                "option 'chunk' does not accept '0 seconds'",
                "'0 seconds'",
                "such as '1 hour'",
            ),
            (
                with("'chunk' '300000000 days'"),
                "option 'chunk' does not accept '300000000 days'",
                "'300000000 days'",
                "such as '1 hour'",
            ),
            (
                with("'max_rows_per_second' '0'"),
                "option 'max_rows_per_second' does not accept '0'",
                "'0'",
                "at least 1",
            ),
            (
                with("'max_rows_per_second' 'fast'"),
                "option 'max_rows_per_second' does not accept 'fast'",
                "'fast'",
                "at least 1",
            ),
            (
                with("'run_id' ''"),
                "'' cannot be the id of a run",
                "''",
                "1 to 80",
            ),
            (
                with("'run_id' 'fix 42'"),
                "'fix 42' cannot be the id of a run",
                "'fix 42'",
                "_ - . :",
            ),
            (
                with("'run_id' 'läuft'"),
                "'läuft' cannot be the id of a run",
                "'läuft'",
                "ASCII",
            ),
            (
                with("'run_id' '../x'"),
                "'../x' cannot be the id of a run",
                "'../x'",
                "_ - . :",
            ),
        ] {
            let error = order(&parts).unwrap_err();
            assert!(error.message().contains(message), "{parts}: {error}");
            let start = error.span().map_or(0, |span| span.start.column) as usize;
            let sql: Vec<char> = format!("REPROCESS JOB J {parts}").chars().collect();
            let found: String = sql[start - 1..].iter().collect();
            assert!(found.starts_with(place), "{parts}: {found}");
            let found = error.help().unwrap_or_default();
            assert!(found.contains(help), "{parts}: {found}");
        }
        let long = order(&with(&format!("'run_id' '{}'", "r".repeat(81))));
        assert!(long.is_err());
        assert!(order(&with(&format!("'run_id' '{}'", "r".repeat(80)))).is_ok());
    }
}
