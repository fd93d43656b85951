//! Settings of a session and of its forks, and the names of its catalog and schema.

use std::path::PathBuf;
use std::sync::Arc;

/// The name of the catalog, the only one.
pub const CATALOG: &str = "anabranch";

/// The name of the schema of tables and views.
pub const SCHEMA: &str = "public";

/// Settings of a session.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Bytes that sorts, aggregates and joins may hold before they spill; `None`: half of the
    /// machine's memory.
    pub memory_limit: Option<usize>,
    /// The part of the memory that is reserved for jobs.
    pub job_memory: JobMemory,
    /// Parallel streams; `None`: one per processor.
    pub target_partitions: Option<usize>,
    /// The data directory that the schema `system` reads; `None`: there is no such schema.
    pub data_dir: Option<String>,
    /// Where spilled data goes; `None`: the system's temporary folder.
    pub spill_dir: Option<PathBuf>,
}

/// The memory of jobs. Statements cannot take memory reserved for jobs, and jobs take no more than that (SAFE-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JobMemory {
    /// Jobs share all memory with statements: for processes without statements beside jobs.
    #[default]
    Shared,
    /// Half of all memory.
    Half,
    /// This number of bytes.
    Bytes(usize),
}

/// Restrictions of a fork compared with its session.
#[derive(Clone, Default)]
pub struct ForkOptions {
    /// The zone of `now()` and of texts for `to_timestamp`, such as `Europe/Paris`; `None`: the session's zone.
    pub time_zone: Option<String>,
    /// Bytes of the session's memory that its statements may hold; `None`: all.
    pub memory_limit: Option<usize>,
    /// Decides whether its statements may use a table of a schema; `None`: all of them.
    pub may_name: Option<TableFilter>,
    /// Decides whether a table is not opened although its statements may use it, since another table at the same location is
    /// not permitted; `None`: all are opened.
    pub is_closed: Option<ClosedTables>,
    /// Its statements write nothing, not even the dead letters of a query.
    pub only_reads: bool,
}

/// The location of a table's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableLocation {
    /// A folder or a file, on disk or in a store.
    Files(String),
    /// A topic.
    Topic(String),
}

/// Whether a table may be used, by schema and name.
pub type TableFilter = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// Whether a table may not be opened, by name; checked when a statement opens it.
pub type ClosedTables = Arc<dyn Fn(&str) -> bool + Send + Sync>;
