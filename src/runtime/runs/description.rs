//! A run as rows of `item` and `value`: for EXPLAIN, DESCRIBE RUN, and the statements that plan and apply.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch, StringArray};

use crate::core::jobs::ChangeCounts;
use crate::core::runs::RunState;
use crate::core::runs::time_range::time_text;
use crate::error::{Error, Result};
use crate::runtime::describe::{items, script};
use crate::runtime::owner::now;
use crate::runtime::runs::foundation::items_of;
use crate::runtime::runs::outcome::{RunOutcome, RunPreview};
use crate::session::change_rows;
use crate::store::{RunRow, RunStore, StoredRun, run_row};

/// How many changes of each kind are shown.
const SHOWN: usize = 5;

/// `item`, `value`: what a run would read and emit.
pub(super) fn preview_rows(preview: &RunPreview) -> Result<RecordBatch> {
    let mut rows = preview.items.clone();
    rows.extend(warnings(&preview.warnings));
    items(&rows)
}

/// `item`, `value`: why a statement that asks for a run has made none.
pub(super) fn rows_without_run(nothing: &Error) -> Result<RecordBatch> {
    let mut rows = vec![("outcome", nothing.message().to_owned())];
    rows.extend(nothing.help().map(|help| ("help", help.to_owned())));
    items(&rows)
}

/// `item`, `value`: what a statement has done with a run, how far the run has come, and the first changes of each kind.
///
/// # Errors
///
/// The store does not answer, or a file of the run cannot be read.
pub(super) async fn outcome_rows(
    store: &RunStore,
    run: &StoredRun,
    outcome: &RunOutcome,
) -> Result<RecordBatch> {
    let RunOutcome {
        run: row,
        said,
        warnings: messages,
    } = outcome;
    let mut rows = vec![
        ("run_id", row.run_id.clone()),
        ("outcome", said.clone()),
        ("state", row.state.to_string()),
        ("asked", row.asked.clone()),
        ("reads", row.reads.clone()),
        ("emits", row.emits.clone()),
        ("emit", row.emit.clone()),
        ("sql_version", row.text_version.clone()),
    ];
    rows.extend(progress(row));
    if matches!(row.state, RunState::Planning | RunState::Planned) {
        rows.extend(first_changes(store, run).await?);
    }
    rows.extend(warnings(messages));
    items(&rows)
}

/// `item`, `value`: what a run rests on, how far it has come, the first changes of each kind, and its statements.
///
/// # Errors
///
/// The store does not answer, or a file of the run cannot be read.
pub(super) async fn description(store: &RunStore, run: &StoredRun) -> Result<RecordBatch> {
    let row = run_row(store, run).await?.as_of(now());
    let mut rows = vec![
        ("run_id", row.run_id.clone()),
        ("state", row.state.name().to_owned()),
    ];
    rows.extend(row.reason().map(|reason| ("reason", reason.to_owned())));
    rows.push((
        "created at",
        time_text(row.created_at.saturating_mul(1_000)),
    ));
    rows.extend(items_of(&run.spec));
    rows.extend(progress(&row));
    if let Some(at) = row.heartbeat_at {
        let at = time_text(at.saturating_mul(1_000));
        rows.push(("last heartbeat", at));
    }
    rows.extend(first_changes(store, run).await?);
    if let Some(next) = next_step(run) {
        rows.push(("next", next));
    }
    rows.push(("definition", script(&run.spec.text, &run.spec.tables)));
    items(&rows)
}

fn warnings(messages: &[String]) -> impl Iterator<Item = (&'static str, String)> {
    messages.iter().map(|warning| ("warning", warning.clone()))
}

/// The chunks that were compared and written.
fn progress(row: &RunRow) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if row.chunks_compared > 0 {
        let counts = counts_text(row.counts);
        let compared = format!("{}: {counts}", chunks_text(row.chunks_compared));
        rows.push(("compared", compared));
    }
    if row.chunks > 0 {
        let written = format!(
            "{}: {} records read, {} rows written",
            chunks_text(row.chunks),
            row.rows_in,
            row.rows_out
        );
        rows.push(("written", written));
    }
    if row.left.count() > 0 {
        rows.push(("left out", row.left.to_string()));
    }
    if let Some(position) = &row.position {
        let percent = f64::from(row.done) / 10.0;
        rows.push(("last chunk", format!("{position}; {percent} % done")));
    }
    rows
}

fn chunks_text(count: u64) -> String {
    match count {
        1 => "1 chunk".to_owned(),
        count => format!("{count} chunks"),
    }
}

/// Rows by how they compare with the published ones.
fn counts_text(counts: ChangeCounts) -> String {
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
    let Some(events) = &run.history.run else {
        return Ok(Vec::new());
    };
    let kinds = events.counts().differing();
    let wanted = |count: u64| usize::try_from(count).map_or(SHOWN, |count| count.min(SHOWN));
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (number, chunk) in (1..).zip(&events.compared) {
        let is_enough =
            |(kind, count): &(&str, u64)| found.get(kind).map_or(0, Vec::len) >= wanted(*count);
        let missing: Vec<&str> = kinds
            .iter()
            .filter(|&kind| !is_enough(kind))
            .map(|(kind, _)| *kind)
            .collect();
        if missing.is_empty() {
            break;
        }
        // A file without a row of these is not read.
        let of_chunk = chunk.counts.differing();
        let has_kind = |(kind, count): &(&str, u64)| *count > 0 && missing.contains(kind);
        if !of_chunk.iter().any(has_kind) {
            continue;
        }
        let Some(rows) = change_rows(store, run, number, chunk).await? else {
            continue;
        };
        for (kind, text) in change_texts(&rows) {
            if let Some((kind, _)) = kinds.iter().find(|(known, _)| *known == kind) {
                let shown = found.entry(*kind).or_default();
                if shown.len() < SHOWN {
                    shown.push(text);
                }
            }
        }
    }
    let are_kept = events.compared.iter().any(|chunk| chunk.changes.is_some());
    let mut rows = Vec::new();
    for (kind, count) in kinds {
        let shown = found.remove(kind).unwrap_or_default();
        let more = count.saturating_sub(shown.len() as u64);
        rows.extend(shown.into_iter().map(|text| (kind, text)));
        if are_kept && more > 0 {
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
            let value = |of: &StringArray| of.is_valid(row).then(|| of.value(row).to_owned());
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
    let id = &run.spec.run_id;
    let next = match run.state() {
        RunState::Planning => format!(
            "PLAN REPROCESS JOB with the same range and 'run_id' '{id}' continues it, if no process computes it"
        ),
        RunState::Planned => {
            format!("APPLY RUN '{id}' writes it; system.run_changes has the rows that differ")
        }
        RunState::Running => {
            format!("APPLY RUN '{id}' continues it, if no process writes it")
        }
        RunState::Failed {
            was_running: true, ..
        } => format!("APPLY RUN '{id}' tries again"),
        RunState::Failed {
            was_running: false, ..
        } => "a plan over the same range needs another 'run_id'".to_owned(),
        RunState::Complete | RunState::Aborted => return None,
    };
    Some(format!("{next}; ABORT RUN '{id}' gives it up"))
}
