//! What a new run rests on: the order of a statement over the job, its tables, their archives and its sink as they are now.

use std::collections::BTreeMap;
use std::ops::Range;

use anabranch_udfs::WindowKind;
use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type};

use crate::core::jobs::{JobTime, NamedOffset, NamedOffsets};
use crate::core::runs::asked_range::{MOST_SELECTED_RANGES, PartitionRanges};
use crate::core::runs::order::{AskedText, RunOrder};
use crate::core::runs::{
    AskedRange, Emission, EmitRows, Grouping, LateRows, LostTimes, OffsetBounds, OffsetSet,
    PartitionArchive, RunOptions, RunSpec, SelectedRows, check_beginning, run_watermark,
    time_range::time_text,
};
use crate::error::{Error, Result, Subject};
use crate::planner::{Parameters, Script, StatementClass, parse_statement};
use crate::runtime::owner::now;
use crate::runtime::runs::host::{PresentJob, RunHost};
use crate::runtime::sinks;
use crate::runtime::sources;
use crate::runtime::startup::named_by_table;
use crate::session::{ForkOptions, Session};
use crate::streaming::JobQuery;

/// A spec, and what the user should know about it.
pub(super) struct Foundation {
    pub(super) spec: RunSpec,
    pub(super) warnings: Vec<String>,
}

/// Finds out what a run of this order would rest on. Nothing is written.
///
/// # Errors
///
/// The job cannot be run over a part of its past, or not over this one; a table that does not answer.
pub(super) async fn foundation(
    host: &RunHost<'_>,
    job: &PresentJob,
    order: &RunOrder,
    run_id: &str,
) -> Result<Foundation> {
    let query = &job.query;
    let grouping = query.grouping()?;
    let has_key = !query.sink().primary_key().is_empty();
    let options = options(order, has_key)?;
    if has_key && !options.overwrite {
        query.check_key()?;
    }
    let asked = asked(host, query, &order.asked).await?;
    let tables: Vec<&str> = query.sources().keys().map(String::as_str).collect();
    asked.check(&tables)?;
    let mut warnings = Vec::new();
    let mut archives: Vec<PartitionArchive> = Vec::new();
    let (mut pins, mut ends) = (BTreeMap::new(), PartitionRanges::new());
    let mut begins: Option<i64> = None;
    let mut lost = LostTimes::default();
    for table in tables {
        let facts = sources::pin_source(query, table).await?;
        warnings.extend(facts.warnings);
        begins = begins.max(facts.begins);
        lost = lost.and(facts.lost);
        // All sources share one axis of time: so each partition counts by the delay of its own table.
        let delay = facts.delay.unwrap_or_default();
        archives.extend(facts.archive.into_iter().map(|of| PartitionArchive {
            highest: of.highest.map(|time| time.saturating_sub(delay)),
            ..of
        }));
        ends.insert(table.to_owned(), facts.ranges);
        pins.insert(table.to_owned(), facts.pin);
    }
    let selection = asked.selection(&ends)?;
    let times = match (&selection, grouping) {
        (Some(selection), Grouping::Aligned(_) | Grouping::Sessions { .. }) => {
            sources::times_of(query, &pins, selection).await?
        }
        _ => Vec::new(),
    };
    let emission = Emission::of(&asked, grouping, selection.as_ref(), &times)?;
    if emission.is_empty() {
        return Err(nothing_to_do());
    }
    let left_out = match options.late {
        LateRows::Include => OffsetSet::default(),
        LateRows::Exclude => late_rows(host, query, grouping, &job.history.name).await?,
    };
    let statics = query.static_pins().await?;
    warnings.extend(
        statics
            .unpinned
            .iter()
            .map(|table| format!("{table} has no versions: each chunk reads it as it is then")),
    );
    let spec = RunSpec {
        run_id: run_id.to_owned(),
        job: job.history.name.clone(),
        job_id: job.id.to_string(),
        text: job.history.text.clone(),
        tables: job.history.tables.clone(),
        asked,
        selection,
        left_out,
        emission,
        grouping,
        watermark: run_watermark(&archives, time_of(host, job).await?.as_ref()),
        begins,
        sources: pins,
        statics: statics.pins,
        sink: sinks::identity_of(query.sink()).await?,
        now: now().saturating_mul(1_000),
        options,
    };
    sinks::check_for_run(query, &spec)?;
    let removes = spec.options.withdraw || sinks::removes_gone(query.sink(), spec.options);
    warnings.extend(check_beginning(&spec, removes, lost)?);
    if spec.watermark.is_none() && !matches!(grouping, Grouping::Rows) {
        warnings.push(
            "nothing is final: a partition has no row, and the job waits for it or its topic has more"
                .into(),
        );
    }
    Ok(Foundation { spec, warnings })
}

/// The job's time after its last batch.
async fn time_of(host: &RunHost<'_>, job: &PresentJob) -> Result<Option<JobTime>> {
    let Some(last) = job.history.last() else {
        return Ok(None);
    };
    let version = host.jobs.store.version(job.id, &last.version).await?;
    Ok(version.time)
}

/// The range of an order as far as a statement that names a run can be compared by it: the query of `FOR` by its text.
pub(super) fn asked_by_text(query: &JobQuery, asked: &AskedText) -> Result<AskedRange> {
    Ok(AskedRange {
        time: asked.time,
        offsets: offsets_by_table(query, asked.offsets.as_ref())?,
        rows: asked.rows.as_ref().map(|text| SelectedRows {
            query: text.clone(),
            offsets: OffsetSet::default(),
        }),
    })
}

/// The range of an order, with the rows that its query selects.
async fn asked(host: &RunHost<'_>, query: &JobQuery, asked: &AskedText) -> Result<AskedRange> {
    let mut range = asked_by_text(query, asked)?;
    if let Some(rows) = &mut range.rows {
        let session = host.session.fork_alike()?;
        rows.offsets = selected(&session, query, "FOR", &rows.query).await?;
    }
    Ok(range)
}

/// The options of the run: only changed rows are written where the sink has a key by which they can be compared.
fn options(order: &RunOrder, has_key: bool) -> Result<RunOptions> {
    let options = order.options(match has_key {
        true => EmitRows::Changed,
        false => EmitRows::All,
    });
    if has_key {
        return Ok(options);
    }
    let needs = match (options.emit, options.withdraw) {
        (EmitRows::Changed, _) => "EMIT CHANGED",
        (EmitRows::All, true) => "'withdraw' 'true'",
        (EmitRows::All, false) => return Ok(options),
    };
    Err(Error::invalid(format!(
        "{needs} compares rows with the published ones by their key, and the sink has no PRIMARY KEY"
    ))
    .with_help("declare one for the sink, or write EMIT ALL"))
}

fn offsets_by_table(
    query: &JobQuery,
    bounds: Option<&OffsetBounds>,
) -> Result<Option<OffsetBounds>> {
    let named = |places: &NamedOffsets| named_by_table(places.clone(), query.sources(), "OFFSETS");
    bounds
        .map(|bounds| {
            Ok(OffsetBounds {
                from: named(&bounds.from)?,
                to: named(&bounds.to)?,
            })
        })
        .transpose()
}

/// The rows that the job has recorded as late.
///
/// # Errors
///
/// A row may be late for one window of the job and not for another.
async fn late_rows(
    host: &RunHost<'_>,
    query: &JobQuery,
    grouping: Grouping,
    job: &str,
) -> Result<OffsetSet> {
    if let Grouping::Aligned(windows) = grouping
        && windows.kind() != WindowKind::Tumble
    {
        return Err(Error::unsupported(
            "'late' 'exclude' of windows that overlap: a row may be late for one of them and not for the next",
        )
        .about(Subject::option("late"))
        .with_help("leave it out: late rows count in all windows that they belong to"));
    }
    let job = job.replace('\'', "''");
    let text = format!(
        "SELECT DISTINCT topic, \"partition\", \"offset\" FROM system.late_rows WHERE job = '{job}'"
    );
    // A user who may run the job's past need not be one who may read the rows that it has dropped.
    let session = host.session.fork(&ForkOptions::default())?;
    selected(&session, query, "the late rows of the job", &text).await
}

/// The rows whose topics, partitions and offsets a query gives. `said` names it in errors.
async fn selected(
    session: &Session,
    query: &JobQuery,
    said: &str,
    text: &str,
) -> Result<OffsetSet> {
    // Places in the text of the query are none of the statement.
    let rows = rows_of(session, text).await.map_err(|error| {
        let error_of = Error::new(error.kind(), format!("{said}: {}", error.message()));
        match error.help() {
            Some(help) => error_of.with_help(help),
            None => error_of,
        }
    })?;
    let mut ranges: Vec<(String, i32, Range<i64>)> = Vec::new();
    for batch in rows.iter().filter(|batch| batch.num_rows() > 0) {
        let topics = column(batch, "topic", &DataType::Utf8)?;
        let partitions = column(batch, "partition", &DataType::Int32)?;
        let offsets = column(batch, "offset", &DataType::Int64)?;
        let topics = topics.as_string::<i32>();
        let partitions = partitions.as_primitive::<Int32Type>();
        let offsets = offsets.as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let (partition, offset) = (partitions.value(row), offsets.value(row));
            ranges.push((
                topics.value(row).to_owned(),
                partition,
                offset..offset.saturating_add(1),
            ));
        }
    }
    let by_topic = OffsetSet::of(ranges);
    if by_topic.range_count() > MOST_SELECTED_RANGES {
        return Ok(by_topic);
    }
    // The same names as in OFFSETS: those of tables, or of the topics that they read.
    let names: NamedOffsets = by_topic
        .tables()
        .map(|name| (name.to_owned(), [(0, NamedOffset::End)].into()))
        .collect();
    let mut renamed = Vec::new();
    for (name, place) in names {
        let named = named_by_table([(name.clone(), place)].into(), query.sources(), said)?;
        let table = named.into_keys().next().unwrap_or_default();
        renamed.push((name, table));
    }
    let ranges = by_topic.ranges().filter_map(|(topic, partition, range)| {
        let (_, table) = renamed.iter().find(|(name, _)| name == topic)?;
        Some((table.clone(), partition, range.from..range.to))
    });
    Ok(OffsetSet::of(ranges))
}

/// Runs the query of `FOR`.
async fn rows_of(session: &Session, text: &str) -> Result<Vec<RecordBatch>> {
    let mut statements = Script::new("FOR", text).split()?.into_iter();
    let (Some(statement), None) = (statements.next(), statements.next()) else {
        return Err(Error::invalid("it takes one query").with_help(FOR_FORM));
    };
    let mut parsed = parse_statement(&statement)?;
    if parsed.effect.class != StatementClass::Query {
        return Err(Error::invalid("it takes a query").with_help(FOR_FORM));
    }
    Parameters::default().bind(&mut parsed)?;
    session.collect(parsed).await
}

const FOR_FORM: &str =
    "write FOR (SELECT topic, partition, \"offset\" FROM system.late_rows WHERE job = '…')";

/// A column of the rows that a query of `FOR` gives.
fn column(batch: &RecordBatch, name: &str, data_type: &DataType) -> Result<ArrayRef> {
    let Some(found) = batch.column_by_name(name) else {
        return Err(
            Error::invalid(format!("the query of FOR has no column {name}"))
                .about(Subject::column(name))
                .with_help(FOR_FORM),
        );
    };
    let found = cast(found, data_type).map_err(|error| {
        Error::invalid(format!("column {name} of the query of FOR: {error}"))
            .about(Subject::column(name))
    })?;
    match found.null_count() {
        0 => Ok(found),
        nulls => Err(Error::invalid(format!(
            "column {name} of the query of FOR is NULL in {nulls} rows"
        ))
        .about(Subject::column(name))
        .with_help("leave them out with WHERE … IS NOT NULL")),
    }
}

fn nothing_to_do() -> Error {
    Error::invalid("there is nothing to reprocess: no row is in all of the ranges")
        .with_help("ask for another range")
}

/// What a run rests on, for the user.
pub(super) fn items_of(spec: &RunSpec) -> Vec<(&'static str, String)> {
    let mut items = vec![
        ("job", spec.job.clone()),
        ("sql_version", spec.text_version()),
        ("asked", spec.asked.to_string()),
        ("reads", spec.emission.read_text(spec.grouping)),
        ("emits", spec.emission.emitted_text(spec.grouping)),
    ];
    if !matches!(spec.grouping, Grouping::Rows) {
        let until = match spec.watermark {
            Some(watermark) => format!("what ends by {}", time_text(watermark)),
            None => "nothing".to_owned(),
        };
        items.push(("final", until));
    }
    if let Some(begins) = spec.begins {
        items.push(("past", format!("whole from {} on", time_text(begins))));
    }
    for (table, pin) in &spec.sources {
        items.push(("archive", format!("{table}: {}", pin.archive)));
        if let Some(tail) = &pin.tail {
            items.push(("topic", format!("{table}: {tail}")));
        }
    }
    for (table, pin) in &spec.statics {
        items.push(("static table", format!("{table}: {pin}")));
    }
    items.push(("sink", spec.sink.to_string()));
    items.push(("emit", spec.options.emit.to_string()));
    items
}
