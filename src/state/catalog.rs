//! The statements that made a server's catalog, in order: `catalog/<n>.json`. One that is undone later stays in the list.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::state::place::DataDir;

/// The format that this program writes and the newest it reads.
const FORMAT: u32 = 1;

/// A statement that was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogEntry {
    format: u32,
    /// As typed, `${NAME}` unexpanded.
    pub statement: String,
    /// What its `$name` stood for.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// When, in milliseconds since 1970 UTC.
    pub at: i64,
}

impl CatalogEntry {
    /// A statement that was run at `at`.
    pub fn new(statement: String, parameters: BTreeMap<String, String>, at: i64) -> Self {
        Self {
            format: FORMAT,
            statement,
            parameters,
            at,
        }
    }
}

/// The list in a data directory.
#[derive(Debug, Clone)]
pub struct CatalogStore {
    dir: DataDir,
}

impl CatalogStore {
    /// The list of `dir`.
    pub fn new(dir: DataDir) -> Self {
        Self { dir }
    }

    /// A new place for the rows of a table that says none: below the data directory.
    pub fn place_of_table(&self, table: &str) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name: String = table.chars().filter(|c| is_plain(*c)).take(64).collect();
        let id = uuid::Uuid::new_v4().simple();
        self.dir.place(&format!("tables/{name}-{id}"))
    }

    /// All entries, in order.
    ///
    /// # Errors
    ///
    /// The store does not answer, or has an entry that cannot be read.
    pub async fn all(&self) -> Result<Vec<CatalogEntry>> {
        let mut entries = Vec::new();
        for name in self.dir.list("catalog").await? {
            let path = format!("catalog/{name}");
            let bytes = self.dir.read(&path).await?.unwrap_or_default();
            let corrupt = |why: &str| {
                let shown = self.dir.shown();
                Error::data(format!("{path} in the data directory '{shown}': {why}"))
            };
            let entry: CatalogEntry =
                serde_json::from_slice(&bytes).map_err(|error| corrupt(&error.to_string()))?;
            if entry.format > FORMAT {
                return Err(corrupt("it was written by a newer program"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Adds an entry behind all others.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn append(&self, entry: &CatalogEntry) -> Result<()> {
        const ATTEMPTS: usize = 20;
        let bytes =
            serde_json::to_vec(entry).map_err(|error| Error::internal(error.to_string()))?;
        for _ in 0..ATTEMPTS {
            let names = self.dir.list("catalog").await?;
            let last = names.last().and_then(|name| name.strip_suffix(".json"));
            let next = last
                .and_then(|name| name.parse::<u64>().ok())
                .map_or(0, |last| last + 1);
            let path = format!("catalog/{next:010}.json");
            if self.dir.create(&path, bytes.clone()).await? {
                return Ok(());
            }
        }
        Err(Error::unavailable(
            "the catalog is written to by others all the time",
        ))
    }
}
