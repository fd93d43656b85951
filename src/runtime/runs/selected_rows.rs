//! The rows that queries select by their coordinates: those of `FOR (SELECT …)`, those of them that another run has repaired, and the late
//! rows that `'late' 'exclude'` leaves out.

use std::collections::BTreeMap;

use anabranch_udfs::WindowKind;
use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt as _;

use crate::core::archive::OffsetRange;
use crate::core::jobs::{NamedOffset, NamedOffsets};
use crate::core::runs::asked_range::{MOST_LEFT_OUT_RANGES, MOST_SELECTED_RANGES};
use crate::core::runs::{AskedRange, Emission, Grouping, OffsetSet, TimeRange, text_version};
use crate::error::{Error, Result, Subject};
use crate::planner::script::quoted;
use crate::planner::{Parameters, Script, StatementClass, parse_statement};
use crate::runtime::runs::host::{PresentJob, RunHost};
use crate::runtime::runs::rows_query::{FOR_FORM, selects_unrepaired};
use crate::runtime::startup::named_by_table;
use crate::session::{ForkOptions, Session, StatementOutcome};
use crate::store::readable_runs;
use crate::streaming::JobQuery;

/// Rows that a query gives in any order make more ranges than they are in the end: so many are held, and no more rows are read.
const MOST_HELD_RANGES: usize = 5 * MOST_SELECTED_RANGES;

/// Rows that a query of `FOR` selects, and that other runs have repaired.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RepairedRows {
    rows: OffsetSet,
    /// The runs with the job's present text that have repaired rows.
    runs: Vec<String>,
}

impl RepairedRows {
    const AGAIN: &'static str = "a query that names repaired_by selects them all the same, such as … WHERE repaired_by = 'run'";

    fn said(&self) -> Option<String> {
        let (count, rows) = match self.rows.len() {
            0 => return None,
            1 => (1, "row"),
            count => (count, "rows"),
        };
        let runs: Vec<String> = self.runs.iter().map(|run| format!("'{run}'")).collect();
        let runs = runs.join(" or ");
        Some(format!("{count} {rows} that FOR selects, by run {runs}"))
    }

    /// Tells the user of a run that it leaves these rows out.
    pub(super) fn warning(&self) -> Option<String> {
        let (said, again) = (self.said()?, Self::AGAIN);
        Some(format!(
            "the run leaves out what is repaired already: {said}; {again}"
        ))
    }

    /// The error of a run that has no row besides them.
    fn nothing_left(&self) -> Option<Error> {
        let said = self.said()?;
        let error = Error::invalid(format!(
            "there is nothing to reprocess: repaired already are {said}"
        ));
        Some(error.with_help(Self::AGAIN))
    }
}

/// The error of a run without a row. It is marked if its query gives none, or none that is not repaired and still `there`.
pub(super) fn nothing_to_do(
    asked: &AskedRange,
    repaired: &RepairedRows,
    there: &OffsetSet,
) -> Error {
    let nothing = |why: &str, help| {
        Error::invalid(format!("there is nothing to reprocess: {why}")).with_help(help)
    };
    let rows = asked.rows.as_ref().map(|rows| &rows.offsets);
    let error = match rows {
        Some(rows) if rows.is_empty() => repaired.nothing_left().unwrap_or_else(|| {
            nothing(
                "the query of FOR gives no rows",
                "run the query by itself to see what it gives",
            )
        }),
        Some(rows) if rows.intersection(there).is_empty() => nothing(
            "neither the topic nor the archive has the rows that FOR selects",
            "SELECT * FROM archive_coverage(…) lists the offsets that are gone",
        ),
        _ => {
            return nothing("no row is in all of the ranges", "ask for another range");
        }
    };
    error.mark_nothing_to_do()
}

/// The rows that the query of `FOR` selects for the run, and those that it leaves out: rows that the job has set aside and that are
/// repaired, if the query does not name `repaired_by`.
///
/// # Errors
///
/// The query's; a name in its column `topic` that stands for no table of the job; more ranges of offsets than can be held.
pub(super) async fn rows_for(
    host: &RunHost<'_>,
    job: &PresentJob,
    text: &str,
) -> Result<(OffsetSet, RepairedRows)> {
    let session = host.session.fork_alike()?;
    let selected = selected(&session, &job.query, text).await?;
    if !selects_unrepaired(text) {
        return Ok((selected, RepairedRows::default()));
    }
    let repaired = repaired_rows(host, job, &selected).await?;
    Ok((selected.without(&repaired.rows), repaired))
}

async fn selected(session: &Session, query: &JobQuery, text: &str) -> Result<OffsetSet> {
    let by_name = coordinates(session, "FOR", text, None, MOST_HELD_RANGES).await?;
    if by_name.range_count() > MOST_HELD_RANGES {
        return Err(Error::invalid(format!(
            "FOR selects rows in more than {MOST_HELD_RANGES} ranges of offsets, and a run has at most {MOST_SELECTED_RANGES}"
        ))
        .with_help("name them by FROM … TO … or OFFSETS, or run twice"));
    }
    let mut tables: BTreeMap<&str, String> = BTreeMap::new();
    for name in by_name.tables() {
        tables.insert(name, table_of(query, name)?);
    }
    let ranges = by_name.ranges().filter_map(|(name, partition, range)| {
        let table = tables.get(name)?.clone();
        Some((table, partition, range.from..range.to))
    });
    Ok(OffsetSet::of(ranges))
}

/// The table of the job that a name in the column `topic` means: the one that reads the topic of this name, or else, as in `OFFSETS`, the
/// one of this name.
fn table_of(query: &JobQuery, name: &str) -> Result<String> {
    let mut of_topic = tables_of_topic(query, name);
    if let (Some(table), None) = (of_topic.next(), of_topic.next()) {
        return Ok(table.to_owned());
    }
    let place: NamedOffsets = [(name.to_owned(), [(0, NamedOffset::End)].into())].into();
    let mut tables = named_by_table(place, query.sources(), "FOR")?.into_keys();
    let unnamed = || Error::internal("a name of FOR that stands for no table");
    tables.next().ok_or_else(unnamed)
}

/// The tables of the job that read a topic.
fn tables_of_topic<'q>(query: &'q JobQuery, topic: &str) -> impl Iterator<Item = &'q str> {
    let tables = query.sources().iter();
    tables.filter_map(move |(name, table)| (table.topic() == Some(topic)).then_some(name.as_str()))
}

/// Offsets of topics as those of the job's tables that read them; topics that it does not read are left out.
fn of_tables(query: &JobQuery, by_topic: &OffsetSet) -> OffsetSet {
    let mut of_tables = OffsetSet::default();
    for (topic, partition, range) in by_topic.ranges() {
        tables_of_topic(query, topic).for_each(|table| of_tables.insert(table, partition, range));
    }
    of_tables
}

/// Of the selected rows, those that the job has recorded as late or set aside, and that runs of its present text have repaired.
async fn repaired_rows(
    host: &RunHost<'_>,
    job: &PresentJob,
    selected: &OffsetSet,
) -> Result<RepairedRows> {
    let id = job.id.to_string();
    let present = text_version(&job.history.text, &job.history.tables);
    let runs = readable_runs(&host.store).await?.into_iter();
    // Runs with a chunk in the sink may have repaired rows: which ones, the query below reads from `repaired_by`.
    let runs = runs.filter(|run| run.spec.job_id == id && run.history.last().is_some());
    let runs = runs.filter(|run| run.spec.text_version() == present);
    let runs: Vec<String> = runs.map(|run| run.spec.run_id).collect();
    if runs.is_empty() {
        return Ok(RepairedRows::default());
    }
    let name = quoted(&job.history.name);
    let ids: Vec<String> = runs.iter().map(|run| quoted(run)).collect();
    let rows = |table: &str| {
        format!(
            "SELECT topic, \"partition\", \"offset\", repaired_by FROM system.{table} WHERE job = {name}"
        )
    };
    // A row may be late for several windows.
    let text = format!(
        "SELECT topic, \"partition\", \"offset\" FROM ({} UNION ALL {}) AS rows_of_job WHERE topic IS NOT NULL \
         GROUP BY topic, \"partition\", \"offset\" HAVING bool_and(repaired_by IS NOT NULL AND repaired_by IN ({}))",
        rows("late_rows"),
        rows("dead_letters"),
        ids.join(", ")
    );
    let by_topic = of_jobs(host, "the repaired rows of the job", &text, None).await?;
    Ok(RepairedRows {
        rows: of_tables(&job.query, &by_topic).intersection(selected),
        runs,
    })
}

/// The rows that the job has recorded as late, as far as a run that emits `emission` may read them.
///
/// # Errors
///
/// A row may be late for one window of the job and not for another; several tables read the topic of a late row; there are too many.
pub(super) async fn late_rows(
    host: &RunHost<'_>,
    job: &PresentJob,
    grouping: Grouping,
    emission: &Emission,
) -> Result<OffsetSet> {
    const ALL_COUNT: &str = "leave it out: late rows count in all windows that they belong to";
    let late = Subject::option("late");
    if let Grouping::Aligned(windows) = grouping
        && windows.kind() != WindowKind::Tumble
    {
        return Err(Error::unsupported(
            "'late' 'exclude' of windows that overlap: a row may be late for one of them and not for the next",
        )
        .about(late)
        .with_help(ALL_COUNT));
    }
    let text = format!(
        "SELECT topic, \"partition\", \"offset\", window_start, window_end FROM system.late_rows \
         WHERE topic IS NOT NULL AND job = {}",
        quoted(&job.history.name)
    );
    let read = read_times(grouping, emission);
    let by_topic = of_jobs(host, "the late rows of the job", &text, read).await?;
    let several = by_topic
        .tables()
        .find(|topic| tables_of_topic(&job.query, topic).count() > 1);
    if let Some(topic) = several {
        return Err(Error::unsupported(format!(
            "'late' 'exclude' of topic '{topic}', which several tables of the job read: a late row does not say in which of them"
        ))
        .about(late)
        .with_help(ALL_COUNT));
    }
    let rows = of_tables(&job.query, &by_topic);
    let count = rows.range_count();
    if count > MOST_LEFT_OUT_RANGES {
        return Err(Error::invalid(format!(
            "'late' 'exclude' leaves out rows in {count} ranges of offsets, and a run has at most {MOST_LEFT_OUT_RANGES}"
        ))
        .about(late)
        .with_help("reprocess a shorter range of event time at once"));
    }
    Ok(rows)
}

/// The event times that a run reads, from the first to the last; none if it does not go by event time.
fn read_times(grouping: Grouping, emission: &Emission) -> Option<TimeRange> {
    let Emission::Time(ranges) = emission else {
        return None;
    };
    let (first, last) = (ranges.as_slice().first()?, ranges.as_slice().last()?);
    grouping.read_range(TimeRange::try_new(first.from(), last.to())?)
}

/// The coordinates of a query over what jobs have set aside. A user who may run the job's past need not be one who may read the rows that
/// it has dropped.
async fn of_jobs(
    host: &RunHost<'_>,
    said: &str,
    text: &str,
    times: Option<TimeRange>,
) -> Result<OffsetSet> {
    let session = host.session.fork(&ForkOptions::default())?;
    coordinates(&session, said, text, times, usize::MAX).await
}

/// The topics, partitions and offsets of the rows of a query; names are those in the column `topic`. With `times`, late rows alone that
/// may have an event time there. Rows of more than `most` ranges are not read to their end. `said` names the query in errors.
async fn coordinates(
    session: &Session,
    said: &str,
    text: &str,
    times: Option<TimeRange>,
    most: usize,
) -> Result<OffsetSet> {
    let rows = rows_of(session, text).await;
    let mut rows = rows.map_err(|error| of_query(said, &error))?;
    let mut found = OffsetSet::default();
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|error| of_query(said, &Error::from(error)))?;
        add_rows(&mut found, &batch, times)?;
        if found.range_count() > most {
            break;
        }
    }
    Ok(found)
}

fn add_rows(found: &mut OffsetSet, batch: &RecordBatch, times: Option<TimeRange>) -> Result<()> {
    if batch.num_rows() == 0 {
        return Ok(());
    }
    let topics = column(batch, "topic", &DataType::Utf8)?;
    let partitions = column(batch, "partition", &DataType::Int32)?;
    let offsets = column(batch, "offset", &DataType::Int64)?;
    let topics = topics.as_string::<i32>();
    let partitions = partitions.as_primitive::<Int32Type>();
    let offsets = offsets.as_primitive::<Int64Type>();
    let may_be_read = match times {
        Some(times) => Some(missed_windows(batch, times)?),
        None => None,
    };
    for row in 0..batch.num_rows() {
        let is_left = may_be_read.as_ref().and_then(|may_be| may_be.get(row)) == Some(&false);
        if !is_left {
            let offset = offsets.value(row);
            let range = OffsetRange::new(offset, offset.saturating_add(1));
            found.insert(topics.value(row), partitions.value(row), range);
        }
    }
    Ok(())
}

/// Which late rows may have an event time in `times`, by the windows that they have missed. A row that was late for a session says none.
fn missed_windows(late: &RecordBatch, times: TimeRange) -> Result<Vec<bool>> {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let bound = |name: &str| cast_column(late, name, &instant);
    let (starts, ends) = (bound("window_start")?, bound("window_end")?);
    let starts = starts.as_primitive::<TimestampMicrosecondType>();
    let ends = ends.as_primitive::<TimestampMicrosecondType>();
    let may_be_read = |(start, end): (Option<i64>, Option<i64>)| match (start, end) {
        (Some(start), Some(end)) => start < times.to() && times.from() < end,
        _ => true,
    };
    Ok(starts.iter().zip(ends.iter()).map(may_be_read).collect())
}

/// The error of a query as that of a part of the statement: places in the text of the query are none of the statement.
fn of_query(said: &str, error: &Error) -> Error {
    let error_of = Error::new(error.kind(), format!("{said}: {}", error.message()));
    match error.help() {
        Some(help) => error_of.with_help(help),
        None => error_of,
    }
}

/// Runs a query from its text.
async fn rows_of(session: &Session, text: &str) -> Result<SendableRecordBatchStream> {
    let mut statements = Script::new("FOR", text).split()?.into_iter();
    let (Some(statement), None) = (statements.next(), statements.next()) else {
        return Err(Error::invalid("it takes one query").with_help(FOR_FORM));
    };
    let mut parsed = parse_statement(&statement)?;
    if parsed.effect.class != StatementClass::Query {
        return Err(Error::invalid("it takes a query").with_help(FOR_FORM));
    }
    Parameters::default().bind(&mut parsed)?;
    match session.execute(parsed).await? {
        StatementOutcome::Rows(rows) => Ok(rows.stream),
        StatementOutcome::Insert(_) | StatementOutcome::Done(_) => {
            Err(Error::internal("a query gives rows"))
        }
    }
}

/// A column of the rows that a query of `FOR` gives.
fn column(batch: &RecordBatch, name: &str, data_type: &DataType) -> Result<ArrayRef> {
    let found = cast_column(batch, name, data_type)?;
    match found.null_count() {
        0 => Ok(found),
        nulls => Err(Error::invalid(format!(
            "column {name} of the query of FOR is NULL in {nulls} rows"
        ))
        .about(Subject::column(name))
        .with_help("leave them out with WHERE … IS NOT NULL")),
    }
}

fn cast_column(batch: &RecordBatch, name: &str, data_type: &DataType) -> Result<ArrayRef> {
    let Some(found) = batch.column_by_name(name) else {
        return Err(
            Error::invalid(format!("the query of FOR has no column {name}"))
                .about(Subject::column(name))
                .with_help(FOR_FORM),
        );
    };
    cast(found, data_type).map_err(|error| {
        Error::invalid(format!("column {name} of the query of FOR: {error}"))
            .about(Subject::column(name))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{
        Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };

    use super::*;
    use crate::core::runs::SelectedRows;
    use crate::planner::Statement;
    use crate::planner::ast::JobStatement;
    use crate::session::SessionOptions;

    /// A job over the tables `a`, `b` and `c`: `a` reads topic `b`, `b` reads topic `a`, and `c` reads topic `d`.
    async fn job() -> (Session, JobQuery) {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let table = |name: &str, topic: &str| {
            format!(
                "CREATE EXTERNAL TABLE {name} (v BIGINT) STORED AS KAFKA LOCATION '{topic}'
                   OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');"
            )
        };
        let tables = [("a", "b"), ("b", "a"), ("c", "d"), ("out", "out")];
        let tables = tables.map(|(name, topic)| table(name, topic)).concat();
        let job = "CREATE JOB j AS INSERT INTO out SELECT v FROM a UNION ALL SELECT v FROM b UNION ALL SELECT v FROM c";
        for raw in Script::new("t", tables + job).split().unwrap() {
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            match parsed.statement {
                Statement::Job(job) => {
                    let JobStatement::Create { insert, emit, .. } = *job else {
                        panic!("the statement makes no job")
                    };
                    let query = JobQuery::try_new(&session, *insert, emit).await.unwrap();
                    return (session, query);
                }
                _ => drop(session.collect(parsed).await.unwrap()),
            }
        }
        panic!("the script makes no job")
    }

    #[tokio::test]
    async fn a_name_in_the_column_topic_is_that_of_a_topic_before_that_of_a_table() {
        let (session, query) = job().await;
        for (name, table) in [("a", "b"), ("b", "a"), ("c", "c"), ("d", "c")] {
            let text = format!("SELECT '{name}' AS topic, 1 AS partition, 7 AS \"offset\"");
            let found = selected(&session, &query, &text).await.unwrap();
            let expected = OffsetSet::of([(table.to_owned(), 1, 7..8)]);
            assert_eq!(found, expected, "{name}");
        }
        let text = "SELECT 'e' AS topic, 1 AS partition, 7 AS \"offset\"";
        let error = selected(&session, &query, text).await.unwrap_err();
        let says = "FOR names e, and the job reads no table or topic of this name";
        assert!(error.message().contains(says), "{error}");
    }

    /// Late rows of topic `d` at every second offset: the row at offset `n` missed the window of `n` that is ten microseconds long.
    fn late(rows: i64) -> RecordBatch {
        let offsets = || (0..rows).map(|row| 2 * row);
        let starts = offsets().map(|offset| offset / 10 * 10);
        let ends = starts.clone().map(|start| start + 10);
        let times = |times: Vec<i64>| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        };
        let count = usize::try_from(rows).unwrap();
        let columns: [(&str, ArrayRef); 5] = [
            ("topic", Arc::new(StringArray::from(vec!["d"; count]))),
            ("partition", Arc::new(Int32Array::from(vec![0; count]))),
            ("offset", Arc::new(Int64Array::from_iter_values(offsets()))),
            ("window_start", times(starts.collect())),
            ("window_end", times(ends.collect())),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[tokio::test]
    async fn late_rows_are_left_out_however_many_there_are() {
        let (_, query) = job().await;
        let rows = i64::try_from(MOST_SELECTED_RANGES).unwrap() + 50;
        let late = late(rows);
        let mut all = OffsetSet::default();
        add_rows(&mut all, &late, None).unwrap();
        let all = of_tables(&query, &all);
        assert_eq!(all.tables().collect::<Vec<_>>(), ["c"]);
        assert_eq!(all.len(), u64::try_from(rows).unwrap());
        // A run over some windows leaves out the rows of these.
        let mut some = OffsetSet::default();
        add_rows(&mut some, &late, TimeRange::try_new(20, 40)).unwrap();
        let expected = (10..20).map(|row| ("d".to_owned(), 0, 2 * row..2 * row + 1));
        assert_eq!(some, OffsetSet::of(expected));
    }

    #[test]
    fn a_range_without_rows_is_an_error_also_if_others_are_repaired() {
        let none = RepairedRows::default();
        let some = RepairedRows {
            rows: OffsetSet::of([("t".to_owned(), 0, 3..5)]),
            runs: vec!["one".to_owned()],
        };
        let selecting = |offsets: OffsetSet| AskedRange {
            rows: Some(SelectedRows {
                query: String::new(),
                offsets,
            }),
            ..AskedRange::default()
        };
        let there = OffsetSet::of([("t".to_owned(), 0, 0..9)]);
        let others = || selecting(OffsetSet::of([("t".to_owned(), 0, 5..6)]));
        let no_rows = || selecting(OffsetSet::default());
        for (asked, repaired, says, is_nothing) in [
            (AskedRange::default(), &none, "in all of the ranges", false),
            (others(), &none, "in all of the ranges", false),
            (others(), &some, "in all of the ranges", false),
            (no_rows(), &none, "the query of FOR gives no rows", true),
            (no_rows(), &some, "repaired already are 2 rows", true),
        ] {
            let error = nothing_to_do(&asked, repaired, &there);
            assert!(error.message().contains(says), "{error}");
            assert_eq!(error.has_nothing_to_do(), is_nothing, "{error}");
        }
    }

    #[test]
    fn a_run_says_which_rows_it_leaves_out() {
        assert_eq!(RepairedRows::default().warning(), None);
        assert!(RepairedRows::default().nothing_left().is_none());
        let repaired = RepairedRows {
            rows: OffsetSet::of([("t".to_owned(), 0, 3..5)]),
            runs: vec!["one".to_owned(), "two".to_owned()],
        };
        let said = "repaired already: 2 rows that FOR selects, by run 'one' or 'two'";
        let warning = repaired.warning().unwrap();
        assert!(warning.contains(said), "{warning}");
        let error = repaired.nothing_left().unwrap();
        assert!(
            error
                .help()
                .is_some_and(|help| help.contains("repaired_by"))
        );
        assert_eq!(quoted("o'clock"), "'o''clock'");
    }
}
