//! Schema `system`: the jobs and reprocessing runs in the data directory, as tables. Each statement reads the directory again.

pub(crate) mod rows;
pub(crate) mod run_rows;
pub(crate) mod scan;
pub(crate) mod scan_filter;

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::core::jobs::AGGREGATE;
use crate::error::{Error, Result, Subject};
use crate::session::names::state_names::shown;
use crate::session::options::TableFilter;
use crate::session::system::scan::SystemTable;
use crate::state::replay;
use crate::store::{DataDir, JobStore};

/// The schema's name.
pub(crate) const SYSTEM: &str = "system";

/// The name of the tables of keyed state in access checks.
const JOB_STATE: &str = "job_state";

const TABLES: [&str; 7] = [
    "batches",
    "dead_letters",
    "jobs",
    "late_rows",
    "partitions",
    "run_changes",
    "runs",
];

/// The tables over a data directory.
pub(super) struct SystemSchema {
    /// Folder or URL; reading does not create it.
    data_dir: String,
    may_name: Option<TableFilter>,
}

impl std::fmt::Debug for SystemSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemSchema")
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl SystemSchema {
    pub(super) fn new(data_dir: String, may_name: Option<TableFilter>) -> Self {
        Self { data_dir, may_name }
    }

    fn shows(&self, name: &str) -> bool {
        self.may_name
            .as_ref()
            .is_none_or(|may_name| may_name(SYSTEM, name))
    }
}

impl SystemSchema {
    /// The keyed state of a job after a batch, or after the last one.
    async fn state(&self, job: &str, batch: Option<u64>) -> Result<RecordBatch> {
        let missing = || {
            Error::not_found(format!("no job is named {job}"))
                .about(Subject::job(job))
                .with_help("SHOW JOBS lists the existing ones")
        };
        if !DataDir::exists(&self.data_dir) {
            return Err(missing());
        }
        let store = JobStore::new(DataDir::open(&self.data_dir)?);
        let (id, history) = store.find(job).await?.ok_or_else(missing)?;
        let committed = match batch {
            None => history.last(),
            Some(batch) => history
                .batches
                .iter()
                .find(|committed| committed.batch == batch),
        };
        let Some(committed) = committed else {
            return Err(Error::not_found(match batch {
                Some(batch) => format!("job {job} has no batch {batch}"),
                None => format!("job {job} has not committed a batch yet"),
            })
            .about(Subject::job(job))
            .with_help("system.batches lists the existing ones"));
        };
        let version = store.version(id, &committed.version).await?;
        let mut files = Vec::new();
        for file in version
            .state_of(AGGREGATE)
            .map_or(&[][..], |state| state.files.as_slice())
        {
            files.push((store.state(id, file).await?, file.closed_by));
        }
        match replay(&files)? {
            Some(rows) => Ok(rows),
            None => {
                Err(Error::invalid(format!("job {job} keeps no state")).about(Subject::job(job)))
            }
        }
    }
}

/// The hidden name of the table behind `job_state`.
pub(super) fn state_table(job: &str, batch: Option<u64>) -> String {
    match batch {
        Some(batch) => format!("job_state@{batch}@{job}"),
        None => format!("job_state@@{job}"),
    }
}

fn state_of(table: &str) -> Option<(&str, Option<u64>)> {
    let (batch, job) = table.strip_prefix("job_state@")?.split_once('@')?;
    Some((job, batch.parse().ok()))
}

impl SystemSchema {
    fn table_boxed<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn TableProvider>>, DataFusionError>> {
        async move {
            if !self.table_exist(name) {
                return Ok(None);
            }
            if let Some((job, batch)) = state_of(name) {
                // Its columns depend on the job.
                let rows = shown(&self.state(job, batch).await?)?;
                let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
                return Ok(Some(Arc::new(table) as Arc<dyn TableProvider>));
            }
            let name = TABLES.into_iter().find(|table| *table == name);
            let table = name.map(|name| SystemTable::try_new(name, &self.data_dir));
            Ok(match table.transpose()? {
                Some(table) => Some(Arc::new(table) as Arc<dyn TableProvider>),
                None => None,
            })
        }
        .boxed()
    }
}

impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        let shown = TABLES.iter().filter(|name| self.shows(name));
        shown.map(ToString::to_string).collect()
    }

    // Written out instead of `async fn`: among the bounds that async_trait adds, rustc proves for each function again that
    // plans are Send, which takes it many seconds each time. A function with one lifetime has no such bounds.
    fn table<'life0, 'life1, 'async_trait>(
        &'life0 self,
        name: &'life1 str,
    ) -> BoxFuture<'async_trait, Result<Option<Arc<dyn TableProvider>>, DataFusionError>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        self.table_boxed(name)
    }

    fn table_exist(&self, name: &str) -> bool {
        (TABLES.contains(&name) && self.shows(name))
            || (state_of(name).is_some() && self.shows(JOB_STATE))
    }
}
