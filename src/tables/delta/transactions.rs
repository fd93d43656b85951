//! Application transactions of a table, all of those whose ids begin alike, and the kernel's reading of a log.
//!
//! Transactions last: a checkpoint keeps the last version of each id, also where log cleanup deletes the entries before it.

use std::collections::HashMap;
use std::sync::LazyLock;

use delta_kernel::actions::LOG_TXN_SCHEMA;
use delta_kernel::expressions::ColumnName;
use delta_kernel::schema::DataType;
use delta_kernel::{DeltaResult, Engine, GetData, RowVisitor, Snapshot};
use deltalake::DeltaTableError;
use deltalake::logstore::LogStoreRef;

/// Reads something of a version of a table with the kernel, on a thread that may block.
///
/// # Errors
///
/// The log cannot be read, or `read` fails.
#[expect(clippy::disallowed_methods, reason = "the kernel's engine blocks")]
pub(super) async fn with_kernel<T: Send + 'static>(
    log: &LogStoreRef,
    version: u64,
    read: impl FnOnce(&Snapshot, &dyn Engine) -> DeltaResult<T> + Send + 'static,
) -> Result<T, DeltaTableError> {
    let engine = log.engine(None);
    let mut root = log.config().location().clone();
    // A name without it would be taken for a file.
    if !root.path().ends_with('/') {
        root.set_path(&format!("{}/", root.path()));
    }
    let read = tokio::task::spawn_blocking(move || {
        let snapshot = Snapshot::builder_for(root).at_version(version);
        let snapshot = snapshot.build(engine.as_ref())?;
        read(&snapshot, engine.as_ref())
    });
    let read = read.await;
    Ok(read.map_err(|error| DeltaTableError::GenericError {
        source: error.into(),
    })??)
}

/// The versions that applications had recorded by a version of the table, by the ids that begin with `prefix`.
///
/// # Errors
///
/// The log cannot be read.
pub(super) async fn transactions(
    log: &LogStoreRef,
    version: u64,
    prefix: &str,
) -> Result<HashMap<String, i64>, DeltaTableError> {
    let mut found = Transactions {
        prefix: prefix.to_owned(),
        versions: HashMap::new(),
    };
    with_kernel(log, version, move |snapshot, engine| {
        let actions = snapshot
            .log_segment()
            .read_actions(engine, LOG_TXN_SCHEMA.clone())?;
        for batch in actions {
            found.visit_rows_of(batch?.actions.as_ref())?;
        }
        Ok(found.versions)
    })
    .await
}

/// Collects them, from the newest entry back.
struct Transactions {
    prefix: String,
    versions: HashMap<String, i64>,
}

impl RowVisitor for Transactions {
    fn selected_column_names_and_types(&self) -> (&'static [ColumnName], &'static [DataType]) {
        static NAMES: LazyLock<Vec<ColumnName>> = LazyLock::new(|| {
            ["appId", "version"]
                .map(|name| ColumnName::new(["txn", name]))
                .into()
        });
        static TYPES: [DataType; 2] = [DataType::STRING, DataType::LONG];
        (NAMES.as_slice(), TYPES.as_slice())
    }

    fn visit<'a>(&mut self, rows: usize, getters: &[&'a dyn GetData<'a>]) -> DeltaResult<()> {
        let [ids, versions] = getters else {
            return Err(delta_kernel::Error::generic(
                "a transaction has two columns",
            ));
        };
        for row in 0..rows {
            let Some(id) = ids.get_str(row, "txn.appId")? else {
                continue;
            };
            if id.starts_with(&self.prefix)
                && !self.versions.contains_key(id)
                && let Some(version) = versions.get_long(row, "txn.version")?
            {
                self.versions.insert(id.to_owned(), version);
            }
        }
        Ok(())
    }
}
