//! Entries for table features that the library does not write.
//!
//! *Type widening*, *VACUUM protocol check*, *clustering* and *domain metadata* require nothing of a writer that adds
//! files. *In-commit timestamps* require the time of a commit in its entry, later than that of the one before; *row
//! tracking* requires numbers for new rows, above those given so far. Both depend on the version that an entry gets, so
//! they are filled in when it is written.

use bytes::Bytes;
use deltalake::DeltaTableError;
use deltalake::kernel::EagerSnapshot;
use deltalake::logstore::LogStoreRef;
use serde_json::{Value, json};

use super::commit_times::{are_in_entries, time_in};
use super::transactions::with_kernel;

const ROW_TRACKING: &str = "delta.rowTracking";
const HIGH_WATER_MARK: &str = "rowIdHighWaterMark";

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FeatureActions {
    in_commit_timestamps: bool,
    row_tracking: bool,
    /// The version that the commit is based on, and the highest number of a row up to there; the number is looked for only if
    /// rows are added.
    since: u64,
    highest_row: i64,
}

impl FeatureActions {
    /// The duties of a commit on top of `snapshot`, which adds files or does not.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub(super) async fn of(
        snapshot: &EagerSnapshot,
        log: &LogStoreRef,
        adds_files: bool,
    ) -> Result<Self, DeltaTableError> {
        let features = snapshot.protocol().writer_features().unwrap_or_default();
        let has = |name: &str| {
            let mut names = features.iter().map(AsRef::<str>::as_ref);
            names.any(|feature| feature == name)
        };
        let configuration = snapshot.metadata().configuration();
        let is_set = |name: &str| {
            let value = configuration.get(name);
            value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
        };
        let row_tracking =
            adds_files && has("rowTracking") && !is_set("delta.rowTrackingSuspended");
        let highest_row = match row_tracking {
            true => highest_row(log, snapshot.version()).await?,
            false => -1,
        };
        Ok(Self {
            in_commit_timestamps: are_in_entries(snapshot),
            row_tracking,
            since: snapshot.version(),
            highest_row,
        })
    }

    /// The entry as it is to be written at `version`.
    ///
    /// # Errors
    ///
    /// An entry before it cannot be read; an action that is not as expected.
    #[expect(
        clippy::disallowed_methods,
        reason = "in-commit timestamps are wall time by the protocol"
    )]
    pub(super) async fn add_actions(
        &self,
        log: &LogStoreRef,
        version: u64,
        entry: Bytes,
    ) -> Result<Bytes, DeltaTableError> {
        if !self.in_commit_timestamps && !self.row_tracking {
            return Ok(entry);
        }
        let mut actions = read_actions(&entry)?;
        if self.in_commit_timestamps {
            let before = entry_at(log, version - 1).await?;
            let now = chrono::Utc::now().timestamp_millis();
            stamp(
                &mut actions,
                time_in(&before).map_or(now, |before| now.max(before + 1)),
            )?;
        }
        if self.row_tracking {
            let mut highest = self.highest_row;
            for between in self.since + 1..version {
                let others = entry_at(log, between).await?;
                highest = highest.max(
                    others
                        .iter()
                        .find_map(high_water_mark_of_action)
                        .unwrap_or(highest),
                );
            }
            number_rows(&mut actions, version, highest)?;
        }
        let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
        Ok(lines.join("\n").into())
    }
}

/// The highest number of a row up to a version. A commit that adds rows records it in its entry; for entries that log
/// cleanup deleted, the checkpoint has it.
async fn highest_row(log: &LogStoreRef, version: u64) -> Result<i64, DeltaTableError> {
    for before in (0..=version).rev() {
        let Some(entry) = log.read_commit_entry(before).await? else {
            return highest_row_of_snapshot(log, version).await;
        };
        if let Some(highest) = read_actions(&entry)?
            .iter()
            .find_map(high_water_mark_of_action)
        {
            return Ok(highest);
        }
    }
    Ok(-1)
}

/// The same as the table's domain metadata has it, which is read with the whole log.
async fn highest_row_of_snapshot(log: &LogStoreRef, version: u64) -> Result<i64, DeltaTableError> {
    let unknown = |error: &dyn std::fmt::Display| {
        DeltaTableError::generic(format!(
            "the table has the feature rowTracking, and which number its last row has cannot be read: {error}"
        ))
    };
    let read = with_kernel(log, version, |snapshot, engine| {
        snapshot.get_domain_metadata_internal(ROW_TRACKING, engine)
    });
    match read.await.map_err(|error| unknown(&error))? {
        Some(told) => high_water_mark(&told).ok_or_else(|| unknown(&told)),
        // No row was given a number.
        None => Ok(-1),
    }
}

async fn entry_at(log: &LogStoreRef, version: u64) -> Result<Vec<Value>, DeltaTableError> {
    let entry = log.read_commit_entry(version).await?;
    let entry = entry.ok_or(DeltaTableError::InvalidVersion(version))?;
    read_actions(&entry)
}

fn read_actions(entry: &[u8]) -> Result<Vec<Value>, DeltaTableError> {
    let lines = entry.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let action = serde_json::from_slice(line);
            action.map_err(|json_err| DeltaTableError::SerializeLogJson { json_err })
        })
        .collect()
}

/// The entry's first action is `commitInfo`, and has the time.
fn stamp(actions: &mut [Value], time: i64) -> Result<(), DeltaTableError> {
    let info = actions
        .first_mut()
        .and_then(|first| first.get_mut("commitInfo"));
    let info = info.and_then(Value::as_object_mut);
    let info = info.ok_or_else(|| DeltaTableError::generic("a commit without commitInfo"))?;
    info.insert("inCommitTimestamp".to_owned(), time.into());
    Ok(())
}

fn high_water_mark(configuration: &str) -> Option<i64> {
    let configuration: Value = serde_json::from_str(configuration).ok()?;
    configuration.get(HIGH_WATER_MARK)?.as_i64()
}

fn high_water_mark_of_action(action: &Value) -> Option<i64> {
    let domain = action.get("domainMetadata")?;
    if domain.get("domain")?.as_str()? != ROW_TRACKING {
        return None;
    }
    high_water_mark(domain.get("configuration")?.as_str()?)
}

/// Gives the rows of new files numbers above `highest`, and says how far that got.
fn number_rows(
    actions: &mut Vec<Value>,
    version: u64,
    mut highest: i64,
) -> Result<(), DeltaTableError> {
    let mut added = false;
    for action in actions.iter_mut() {
        let Some(add) = action.get_mut("add").and_then(Value::as_object_mut) else {
            continue;
        };
        let stats = add.get("stats").and_then(Value::as_str);
        let stats: Option<Value> = stats.and_then(|stats| serde_json::from_str(stats).ok());
        let rows = stats
            .as_ref()
            .and_then(|stats| stats.get("numRecords")?.as_i64());
        let rows =
            rows.ok_or_else(|| DeltaTableError::generic("a file whose rows were not counted"))?;
        add.insert("baseRowId".to_owned(), (highest + 1).into());
        add.insert("defaultRowCommitVersion".to_owned(), version.into());
        highest += rows;
        added = true;
    }
    if added {
        let configuration = json!({ HIGH_WATER_MARK: highest }).to_string();
        actions.push(json!({"domainMetadata": {
            "domain": ROW_TRACKING, "configuration": configuration, "removed": false,
        }}));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use deltalake::DeltaTable;
    use deltalake::protocol::checkpoints::create_checkpoint;

    use super::*;
    use crate::tables::delta::location::Location;
    use crate::tables::delta::options::DeltaOptions;
    use crate::tables::delta::store::build_log_store;

    #[tokio::test(flavor = "multi_thread")]
    async fn row_ids_are_known_after_log_cleanup() {
        let folder = tempfile::tempdir().unwrap();
        let entry = |version: u64| {
            let name = format!("_delta_log/{version:020}.json");
            folder.path().join(name)
        };
        std::fs::create_dir(folder.path().join("_delta_log")).unwrap();
        let schema = json!({"type": "struct", "fields": [
            {"name": "v", "type": "long", "nullable": true, "metadata": {}},
        ]});
        let first = [
            json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
            json!({"metaData": {
                "id": "0d5ba2b1-42cd-4d17-9a39-9ae6ad2eb5a4",
                "format": {"provider": "parquet", "options": {}},
                "schemaString": schema.to_string(),
                "partitionColumns": [],
                "configuration": {},
                "createdTime": 0,
            }}),
        ];
        std::fs::write(entry(0), format!("{}\n{}", first[0], first[1])).unwrap();
        let location = Location::parse(folder.path().to_str().unwrap()).unwrap();
        let options = DeltaOptions::parse(&BTreeMap::new()).unwrap();
        let log = build_log_store(&location, &options).unwrap();
        assert_eq!(highest_row(&log, 0).await.unwrap(), -1);
        let told = json!({"domainMetadata": {
            "domain": ROW_TRACKING,
            "configuration": "{\"rowIdHighWaterMark\":41}",
            "removed": false,
        }});
        std::fs::write(entry(1), told.to_string()).unwrap();
        let nothing = json!({"txn": {"appId": "a", "version": 1}});
        std::fs::write(entry(2), nothing.to_string()).unwrap();
        assert_eq!(highest_row(&log, 2).await.unwrap(), 41);
        let mut table = DeltaTable::new(std::sync::Arc::clone(&log));
        table.load().await.unwrap();
        create_checkpoint(&table, None).await.unwrap();
        for gone in [0, 1] {
            std::fs::remove_file(entry(gone)).unwrap();
        }
        assert_eq!(highest_row(&log, 2).await.unwrap(), 41);
        // Without the checkpoint the log is not whole.
        for file in std::fs::read_dir(folder.path().join("_delta_log")).unwrap() {
            let path = file.unwrap().path();
            if path != entry(2) {
                std::fs::remove_file(path).unwrap();
            }
        }
        let error = highest_row(&log, 2).await.unwrap_err().to_string();
        assert!(error.contains("rowTracking"), "{error}");
    }

    #[test]
    fn rows_get_ids_above_those_assigned() {
        let mut actions = vec![
            json!({"commitInfo": {}}),
            json!({"add": {"path": "a", "stats": "{\"numRecords\":3}"}}),
            json!({"add": {"path": "b", "stats": "{\"numRecords\":2}"}}),
        ];
        number_rows(&mut actions, 9, 4).unwrap();
        assert_eq!(actions[1]["add"]["baseRowId"], 5);
        assert_eq!(actions[2]["add"]["baseRowId"], 8);
        assert_eq!(actions[2]["add"]["defaultRowCommitVersion"], 9);
        assert_eq!(high_water_mark_of_action(&actions[3]), Some(9));
        let mut nothing = vec![json!({"commitInfo": {}}), json!({"txn": {}})];
        number_rows(&mut nothing, 9, 4).unwrap();
        assert_eq!(nothing.len(), 2);
        let mut uncounted = vec![json!({"add": {"path": "a"}})];
        assert!(number_rows(&mut uncounted, 9, 4).is_err());
    }

    #[test]
    fn the_time_of_a_commit_is_in_its_first_action() {
        let mut actions = vec![
            json!({"commitInfo": {"operation": "WRITE"}}),
            json!({"add": {}}),
        ];
        assert_eq!(time_in(&actions), None);
        stamp(&mut actions, 17).unwrap();
        assert_eq!(time_in(&actions), Some(17));
        assert!(stamp(&mut [json!({"add": {}})], 17).is_err());
    }
}
