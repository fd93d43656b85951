//! What a new run rests on: the order of a statement over the job, its tables, their archives and its sink as they are now.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use crate::core::archive::PartitionOffsets;
use crate::core::jobs::{JobHistory, JobTime, NamedOffsets};
use crate::core::runs::asked_range::PartitionRanges;
use crate::core::runs::order::{AskedText, RunOrder};
use crate::core::runs::{
    AskedRange, Emission, EmitRows, Grouping, LateRows, LostTimes, OffsetBounds, OffsetSet,
    PartitionArchive, RunOptions, RunSpec, SelectedRows, check_beginning, check_length,
    run_watermark, time_range::time_text,
};
use crate::error::{Error, Result};
use crate::runtime::definitions::job_definition;
use crate::runtime::options::JobOptions;
use crate::runtime::owner::now;
use crate::runtime::runs::host::{PresentJob, RunHost};
use crate::runtime::runs::ready::options_of;
use crate::runtime::runs::selected_rows::{RepairedRows, late_rows, nothing_to_do, rows_for};
use crate::runtime::sinks;
use crate::runtime::sources::{self, Pasts};
use crate::runtime::startup::named_by_table;
use crate::streaming::JobQuery;

/// A spec, what the user should know about it, and what was opened for it.
pub(super) struct Foundation {
    pub(super) spec: RunSpec,
    pub(super) warnings: Vec<String>,
    /// The pasts of its sources.
    pub(super) pasts: Pasts,
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
    let (asked, repaired) = asked(host, job, &order.asked).await?;
    let tables: Vec<&str> = query.sources().keys().map(String::as_str).collect();
    asked.check(&tables)?;
    let mut warnings: Vec<String> = repaired.warning().into_iter().collect();
    let mut archives: Vec<PartitionArchive> = Vec::new();
    let (mut pins, mut ends) = (BTreeMap::new(), PartitionRanges::new());
    let mut pasts = Pasts::new();
    let mut begins: Option<i64> = None;
    let mut lost = LostTimes::default();
    let mut there = OffsetSet::default();
    let mut untold: Vec<(&str, BTreeSet<i32>, i64)> = Vec::new();
    let pinned = tables.iter().map(|table| sources::pin_source(query, table));
    // An error of a source is reported first.
    let (pinned, sink) = tokio::join!(join_all(pinned), sinks::identity_of(query.sink()));
    for (table, facts) in tables.into_iter().zip(pinned) {
        let facts = facts?;
        warnings.extend(facts.warnings);
        begins = begins.max(facts.begins);
        // All sources share one axis of time: so each partition counts by the delay of its own table.
        let delay = facts.delay.unwrap_or_default();
        lost = lost.and(facts.lost);
        untold.push((table, facts.untold, delay));
        archives.extend(facts.archive.into_iter().map(|of| PartitionArchive {
            highest: of.highest.map(|time| time.saturating_sub(delay)),
            ..of
        }));
        there.extend(table, &facts.there);
        ends.insert(table.to_owned(), facts.ranges);
        pins.insert(table.to_owned(), facts.pin);
        pasts.insert(table.to_owned(), facts.past);
    }
    let time = time_of(host, job).await?;
    // Batches that a rewind has abandoned may have read more, and an earlier text may have had another delay.
    let JobHistory {
        generation, texts, ..
    } = &job.history;
    let is_first = *generation == 0 && texts.replaced.is_empty();
    let read_until = time.as_ref().filter(|_| is_first);
    for (table, partitions, delay) in &untold {
        let of_job = LostTimes::read_by_job(read_until, (*table, partitions), *delay);
        lost = lost.and(of_job);
    }
    let selection = asked.selection(&ends)?;
    if let (Some(selected), Some(_), Grouping::Rows) = (&selection, &asked.rows, grouping) {
        // No run has these records: it would pass over them and be done.
        let selected = selected.intersection(&there);
        there = there.without(&sources::undecoded_of(&pasts, &selected).await?);
    }
    warnings.extend(rows_gone(&asked, &there));
    let selection = selection.map(|selection| selection.intersection(&there));
    let (selection, times) = match (selection, grouping) {
        (Some(selection), Grouping::Aligned(_) | Grouping::Sessions { .. }) => {
            // A record that still cannot be used is in no group.
            let found = sources::times_of(query, &pins, &pasts, &selection).await?;
            (Some(found.rows), found.times)
        }
        (selection, _) => (selection, Vec::new()),
    };
    let emission = Emission::of(&asked, grouping, selection.as_ref(), &times)?;
    if emission.is_empty() {
        return Err(nothing_to_do(&asked, &repaired, &there));
    }
    check_chunks(grouping, &emission, options)?;
    let left_out = match options.late {
        LateRows::Include => OffsetSet::default(),
        LateRows::Exclude => late_rows(host, job, grouping, &emission).await?,
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
        watermark: run_watermark(&archives, time.as_ref()),
        begins,
        sources: pins,
        statics: statics.pins,
        sink: sink?,
        settled: PartitionOffsets::new(),
        now: now().saturating_mul(1_000),
        options,
    };
    sinks::check_for_run(query, &spec)?;
    let removal = sinks::removal(query, spec.options);
    warnings.extend(check_beginning(&spec, removal, lost)?);
    if spec.watermark.is_none() && !matches!(grouping, Grouping::Rows) {
        warnings.push(
            "nothing is final: a partition has no row, and the job waits for it or its topic has more"
                .into(),
        );
    }
    Ok(Foundation {
        spec,
        warnings,
        pasts,
    })
}

/// Checks the length of the chunks that a statement asks for.
pub(super) fn check_chunks(
    grouping: Grouping,
    emission: &Emission,
    options: RunOptions,
) -> Result<()> {
    match (emission, options.chunk) {
        (Emission::Time(ranges), Some(length)) => check_length(grouping, ranges, length),
        // Chunks of offsets are as large as the batches of the job.
        (Emission::Offsets(_), _) | (_, None) => Ok(()),
    }
}

/// The warning about rows that the query of `FOR` selects, and of which the records are not there any more.
fn rows_gone(asked: &AskedRange, there: &OffsetSet) -> Option<String> {
    let gone = asked.rows.as_ref()?.offsets.without(there);
    let rows = match gone.len() {
        0 => return None,
        1 => "1 row".to_owned(),
        count => format!("{count} rows"),
    };
    Some(format!(
        "the run does without {rows} that FOR selects: neither the topic nor the archive has {gone}"
    ))
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

/// The range of an order, with the rows that its query selects, and those of them that are repaired.
async fn asked(
    host: &RunHost<'_>,
    job: &PresentJob,
    asked: &AskedText,
) -> Result<(AskedRange, RepairedRows)> {
    let mut range = asked_by_text(&job.query, asked)?;
    let mut repaired = RepairedRows::default();
    if let Some(rows) = &mut range.rows {
        (rows.offsets, repaired) = rows_for(host, job, &rows.query).await?;
    }
    Ok((range, repaired))
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
    if let Some(said) = expression_errors(spec) {
        items.push(("on_expression_error", said.to_owned()));
    }
    items
}

/// What the run does with records for which an expression fails, if it does not do as its job does.
fn expression_errors(spec: &RunSpec) -> Option<&'static str> {
    let of_job = job_definition(&spec.text).and_then(|job| JobOptions::parse(&job.options));
    let of_job = of_job.ok()?;
    let of_run = options_of(spec, of_job.clone()).on_expression_error;
    (of_run != of_job.on_expression_error).then_some(
        "fail: a run that is cut by event time sets no record aside, and stops where an expression fails; its job has 'dead_letter'",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::runs::TimeRange;
    use crate::core::runs::spec::fixture;

    #[test]
    fn a_run_says_where_it_treats_failing_expressions_otherwise_than_its_job() {
        let by_time = Emission::Time(TimeRange::try_new(0, 10).unwrap().into());
        let by_offsets = Emission::Offsets(OffsetSet::default());
        let aside = "WITH ('on_expression_error' 'dead_letter') ";
        for (options, emission, is_said) in [
            (aside, by_time.clone(), true),
            (aside, by_offsets, false),
            ("", by_time, false),
        ] {
            let spec = RunSpec {
                text: format!("CREATE JOB j {options}AS INSERT INTO t SELECT 1 AS n"),
                emission,
                ..fixture::spec("r")
            };
            let items = items_of(&spec);
            let said = items
                .iter()
                .find(|(item, _)| *item == "on_expression_error");
            assert_eq!(said.is_some(), is_said, "{options} {:?}", spec.emission);
            assert!(said.is_none_or(|(_, value)| value.starts_with("fail: ")));
        }
    }

    #[test]
    fn rows_that_are_gone_are_said() {
        let set = |ranges: &[(i64, i64)]| {
            let ranges = ranges.iter();
            OffsetSet::of(ranges.map(|(from, to)| ("visits".to_owned(), 0, *from..*to)))
        };
        let asked = |offsets| AskedRange {
            rows: Some(SelectedRows {
                query: "q".into(),
                offsets,
            }),
            ..AskedRange::default()
        };
        // The topic has lost offsets 0 to 4, and a job has recorded 7 as lost.
        let there = set(&[(5, 7), (8, 100)]);
        assert_eq!(rows_gone(&asked(set(&[(5, 7), (9, 10)])), &there), None);
        assert_eq!(rows_gone(&AskedRange::default(), &there), None);
        let one = rows_gone(&asked(set(&[(6, 9)])), &there).unwrap();
        assert!(one.contains("without 1 row that FOR selects"), "{one}");
        assert!(one.ends_with(&set(&[(7, 8)]).to_string()), "{one}");
        let many = rows_gone(&asked(set(&[(3, 6), (7, 9)])), &there).unwrap();
        assert!(many.contains("without 3 rows that FOR selects"), "{many}");
        // A script that repairs each night does not fail for them.
        for (offsets, succeeds, says) in [
            (set(&[(6, 8)]), false, "no row is in all of the ranges"),
            (
                set(&[(2, 4), (7, 8)]),
                true,
                "neither the topic nor the archive",
            ),
            (set(&[]), true, "the query of FOR gives no rows"),
        ] {
            let error = nothing_to_do(&asked(offsets), &RepairedRows::default(), &there);
            assert_eq!(error.has_nothing_to_do(), succeeds, "{error}");
            assert!(error.message().contains(says), "{error}");
        }
    }
}
