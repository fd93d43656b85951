//! A run as rows of `item` and `value`, for DESCRIBE RUN and for the statements that plan and apply.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch};

use crate::core::jobs::ChangeCounts;
use crate::core::runs::time_range::time_text;
use crate::core::runs::{LateRows, RunSpec, RunState, extent_text};
use crate::error::Result;
use crate::runtime::describe::{items, script};
use crate::session::{change_rows, compared_rows};
use crate::store::{RunStore, StoredRun};

/// How many changes of each kind are shown.
const SHOWN: usize = 5;

/// `item`, `value`: what the run rests on, how far it has come, and the first changes of each kind.
///
/// # Errors
///
/// The store does not answer, or a file of the run cannot be read.
pub(super) async fn description(store: &RunStore, run: &StoredRun) -> Result<RecordBatch> {
    let spec = &run.spec;
    let mut rows = vec![
        ("run_id", spec.run_id.clone()),
        ("job", spec.job.clone()),
        ("state", run.state().to_string()),
        ("created at", time_text(run.history.created_at * 1_000)),
    ];
    rows.extend(facts(spec));
    rows.extend(progress(store, run).await?);
    rows.extend(first_changes(store, run).await?);
    if let Some(next) = next_step(run) {
        rows.push(("next", next));
    }
    rows.push(("definition", script(&spec.text, &spec.tables)));
    items(&rows)
}

/// What a run reads, emits and rests on.
pub(super) fn facts(spec: &RunSpec) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("asked", spec.asked.to_string()),
        ("read", spec.emission.read_text(spec.grouping)),
        ("emitted", spec.emission.emitted_text(spec.grouping)),
    ];
    if let Some(selection) = &spec.selection {
        rows.push(("restricted to", format!("offsets {selection}")));
    }
    let watermark = match spec.watermark {
        Some(watermark) => format!(
            "{}: windows and sessions that end later are left out",
            time_text(watermark)
        ),
        None => "none: no window or session is final".to_owned(),
    };
    rows.push(("watermark of the archives", watermark));
    rows.extend(options(spec));
    for (name, pin) in &spec.sources {
        rows.push(("source", format!("{name}: {}", pin.archive)));
        if let Some(tail) = &pin.tail {
            rows.push(("source", format!("{name}: {tail}")));
        }
    }
    for (name, pin) in &spec.statics {
        rows.push(("static table", format!("{name}: {pin}")));
    }
    rows.push(("sink", spec.sink.to_string()));
    rows.push(("now()", time_text(spec.now)));
    rows.push(("sql_version", spec.text_version()));
    rows
}

/// What the statement wants of the run.
fn options(spec: &RunSpec) -> Vec<(&'static str, String)> {
    let options = &spec.options;
    let late = match options.late {
        LateRows::Include => "include: rows that were late for the job count",
        LateRows::Exclude => "exclude: rows that the job recorded as late are left out",
    };
    let mut rows = vec![
        ("emit", options.emit.to_string()),
        ("late", late.to_owned()),
    ];
    if options.withdraw {
        let said = "true: published rows that the run does not have are removed";
        rows.push(("withdraw", said.to_owned()));
    }
    if options.overwrite {
        let said = "true: the key does not tell windows apart, and is written all the same";
        rows.push(("overwrite", said.to_owned()));
    }
    if options.append {
        let said = "append: rows are added, and replace none";
        rows.push(("write", said.to_owned()));
    }
    if let Some(chunk) = options.chunk {
        let seconds = chunk as f64 / 1_000_000.0;
        rows.push(("chunk", format!("{seconds} seconds of event time")));
    }
    if let Some(rate) = options.max_rows_per_second {
        rows.push(("max_rows_per_second", rate.to_string()));
    }
    rows
}

/// The chunks that were compared and written.
async fn progress(store: &RunStore, run: &StoredRun) -> Result<Vec<(&'static str, String)>> {
    let mut rows = Vec::new();
    if let Some(counts) = compared_rows(run) {
        rows.push(("compared", counts_text(counts)));
    }
    let chunks = store.chunks(run).await?;
    if let Some(last) = chunks.last() {
        let rows_in: u64 = chunks.iter().map(|chunk| chunk.rows_in).sum();
        let rows_out: u64 = chunks.iter().map(|chunk| chunk.rows_out).sum();
        let written = format!(
            "{} chunks, {rows_in} records read, {rows_out} rows written",
            last.number
        );
        rows.push(("written", written));
        let at = time_text(last.at * 1_000);
        let last = format!("{}, committed at {at}", extent_text(&last.extent));
        rows.push(("last chunk", last));
    }
    Ok(rows)
}

/// Rows by how they compare with the published ones.
pub(super) fn counts_text(counts: ChangeCounts) -> String {
    let ChangeCounts {
        same,
        changed,
        new,
        gone,
        unknown,
    } = counts;
    format!("{same} same, {changed} changed, {new} new, {gone} gone, {unknown} unknown")
}

/// The first changes of each kind, by kind: `changed`, `new`, `gone`, `unknown`.
async fn first_changes(store: &RunStore, run: &StoredRun) -> Result<Vec<(&'static str, String)>> {
    let Some(counts) = compared_rows(run) else {
        return Ok(Vec::new());
    };
    let kinds: [(&'static str, u64); 4] = [
        ("changed", counts.changed),
        ("new", counts.new),
        ("gone", counts.gone),
        ("unknown", counts.unknown),
    ];
    let wanted = |count: u64| usize::try_from(count).map_or(SHOWN, |count| count.min(SHOWN));
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let chunks = run.history.run.iter().flat_map(|run| &run.compared);
    for (number, chunk) in (1..).zip(chunks) {
        let is_enough =
            |(kind, count): &(&str, u64)| found.get(kind).map_or(0, Vec::len) >= wanted(*count);
        if kinds.iter().all(is_enough) {
            break;
        }
        let Some(rows) = change_rows(store, run, number, chunk).await? else {
            continue;
        };
        for (kind, text) in change_texts(&rows) {
            if let Some((kind, _)) = kinds.iter().find(|(known, _)| *known == kind) {
                let shown = found.entry(kind).or_default();
                if shown.len() < SHOWN {
                    shown.push(text);
                }
            }
        }
    }
    let mut rows = Vec::new();
    for (kind, count) in kinds {
        let shown = found.remove(kind).unwrap_or_default();
        let more = count.saturating_sub(shown.len() as u64);
        rows.extend(shown.into_iter().map(|text| (kind, text)));
        if more > 0 {
            let rest = format!(
                "{more} more: SELECT * FROM system.run_changes WHERE run_id = '{}'",
                run.spec.run_id
            );
            rows.push((kind, rest));
        }
    }
    Ok(rows)
}

/// Kind and text of changes in the columns of `system.run_changes`.
fn change_texts(rows: &RecordBatch) -> Vec<(String, String)> {
    let column = |name: &str| rows.column_by_name(name)?.as_string_opt::<i32>();
    let (Some(kinds), Some(before), Some(after)) =
        (column("kind"), column("before"), column("after"))
    else {
        return Vec::new();
    };
    (0..rows.num_rows())
        .map(|row| {
            let value = |of: &datafusion::arrow::array::StringArray| {
                of.is_valid(row).then(|| of.value(row).to_owned())
            };
            let text = match (value(before), value(after)) {
                (Some(before), Some(after)) => format!("{before} becomes {after}"),
                (before, after) => after.or(before).unwrap_or_default(),
            };
            (kinds.value(row).to_owned(), text)
        })
        .collect()
}

/// The statement that continues a run, if one does.
fn next_step(run: &StoredRun) -> Option<String> {
    let id = run.spec.run_id.replace('\'', "''");
    match run.state() {
        RunState::Planned => Some(format!(
            "APPLY RUN '{id}' writes it; ABORT RUN '{id}' gives it up; system.run_changes has the changes"
        )),
        RunState::Failed {
            was_running: true, ..
        } => Some(format!(
            "APPLY RUN '{id}' continues it; ABORT RUN '{id}' gives it up"
        )),
        RunState::Failed {
            was_running: false, ..
        } => Some(format!(
            "the statement that planned it, with 'run_id' '{id}', continues it; ABORT RUN '{id}' gives it up"
        )),
        RunState::Planning | RunState::Running | RunState::Complete | RunState::Aborted => None,
    }
}
