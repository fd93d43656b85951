//! The witness of a sink that stores a number and no name: the number that the name of a version begins with. Such a sink gets no
//! commit of a batch without rows.

use std::collections::HashMap;

use crate::core::jobs::recovery::BEGINNING;
use crate::core::jobs::{JobHistory, StagedVersion};
use crate::runtime::sink::{JobLog, Witness};

/// What a sink tells that stores this number.
pub(in crate::runtime) fn witness_of(number: Option<i64>, log: JobLog<'_>) -> Witness {
    let version = version_of(number, log.history, log.staged);
    let rows = match number {
        Some(_) => version.clone(),
        None => BEGINNING.to_owned(),
    };
    Witness {
        version: Some(version),
        rows: Some(rows),
        untold_since: None,
    }
}

/// The files of the version that has this number, as far as they are known.
pub(in crate::runtime) async fn files_of(number: Option<i64>, log: JobLog<'_>) -> Vec<String> {
    let name = version_of(number, log.history, log.staged);
    let is_staged = log.staged.iter().any(|staged| staged.name == name);
    match number {
        Some(_) if is_staged || log.history.known().any(|known| known == name) => {
            let version = log.store.version(log.id, &name).await;
            version.map_or_else(|_| Vec::new(), |version| version.files)
        }
        _ => Vec::new(),
    }
}

/// The name of the version that has this number. Without a number no batch with rows was committed, and the batches that the log
/// names had no rows.
fn version_of(number: Option<i64>, history: &JobHistory, staged: &[StagedVersion]) -> String {
    let Some(number) = number else {
        let last = history.last().map(|last| last.version.as_str());
        return last.unwrap_or(BEGINNING).to_owned();
    };
    let by_number: HashMap<i64, &str> = staged
        .iter()
        .map(|staged| staged.name.as_str())
        .chain(history.known())
        .filter_map(|name| Some((name.split('-').next()?.parse().ok()?, name)))
        .collect();
    by_number
        .get(&number)
        .map_or_else(|| format!("{number:010}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::recovery::recover;
    use crate::core::jobs::{LogEntry, RecoveryDecision};

    #[test]
    fn exact_2_a_table_without_written_rows_agrees_with_the_log() {
        let created = LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let committed = LogEntry::Committed {
            batch: 1,
            version: "0000000002-a".into(),
            at: 0,
        };
        let history = JobHistory::of(&[created, committed]).unwrap();
        let staged = [StagedVersion {
            name: "0000000003-b".into(),
            batch: 2,
            parent: Some("0000000002-a".into()),
        }];
        // The first batch had no rows; the runner died before it committed the second.
        let witness = version_of(None, &history, &staged);
        assert_eq!(
            recover(&history, false, Some(&witness), &staged),
            RecoveryDecision::Continue
        );
        // It died after the commit.
        let witness = version_of(Some(3), &history, &staged);
        let expected = RecoveryDecision::AppendCommitted {
            batch: 2,
            version: "0000000003-b".into(),
        };
        assert_eq!(recover(&history, false, Some(&witness), &staged), expected);
    }
}
