//! Versions of static tables: those that a run pins, and those that it reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;

use crate::core::runs::{Pin, PinnedAt};
use crate::error::{Error, Result, Subject};
use crate::session::Session;
use crate::session::catalog::{TableEntry, split_time_travel};
use crate::session::system::SYSTEM;
use crate::tables::delta::TimeTravel;

/// The states of a job's static tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StaticPins {
    /// The present versions of Delta tables, by table.
    pub pins: BTreeMap<String, Pin>,
    /// Tables without versions, which a run reads as they are when a chunk runs.
    pub unpinned: Vec<String>,
}

/// The present states of these static tables. Those that the job reads at a fixed version or time need none.
///
/// # Errors
///
/// A table cannot be opened.
pub(in crate::streaming) async fn static_pins<'a>(
    session: &Session,
    statics: impl Iterator<Item = &'a TableReference>,
) -> Result<StaticPins> {
    let mut found = StaticPins::default();
    for table in statics {
        if table.schema() == Some(SYSTEM) {
            found.unpinned.push(table.to_string());
            continue;
        }
        let (name, TimeTravel::Latest) = split_time_travel(table.table()) else {
            continue;
        };
        match session.catalog.entry_of_plan(name) {
            // A table that a function gives does not change.
            None => {}
            Some(TableEntry::Delta { .. } | TableEntry::Unopened(_)) => {
                let handle = session.catalog.delta_of_plan(name).await?;
                let pin = Pin {
                    identity: handle.identity().await?,
                    at: PinnedAt::Version(handle.version().await?),
                };
                found.pins.insert(name.to_owned(), pin);
            }
            Some(_) => found.unpinned.push(name.to_owned()),
        }
    }
    found.unpinned.sort();
    found.unpinned.dedup();
    Ok(found)
}

/// The static tables of a run, at its versions.
#[derive(Debug, Default)]
pub(in crate::streaming) struct PinnedStatics(Vec<(String, Arc<dyn TableProvider>)>);

impl PinnedStatics {
    /// Opens the tables at these versions.
    ///
    /// # Errors
    ///
    /// A table is gone or is another one, or the version is.
    pub(in crate::streaming) async fn open(
        session: &Session,
        pins: &BTreeMap<String, Pin>,
    ) -> Result<Self> {
        let mut tables = Vec::with_capacity(pins.len());
        for (name, pin) in pins {
            let PinnedAt::Version(version) = pin.at else {
                return Err(Error::internal(format!(
                    "static table {name} is pinned to offsets"
                )));
            };
            let handle = session.catalog.delta_of_plan(name).await?;
            let now = handle.identity().await?;
            if now != pin.identity {
                return Err(Error::invalid(format!(
                    "static table {name} is another one than the run was planned with: {}",
                    pin.identity.difference(&now)
                ))
                .about(Subject::table(name))
                .with_help("begin another run: it reads the present table"));
            }
            let table = handle.snapshot(TimeTravel::Version(version)).await;
            let table = table.map_err(|error| {
                error.context(format!(
                    "the run reads version {version} of static table {name}"
                ))
            })?;
            tables.push((name.clone(), table));
        }
        Ok(Self(tables))
    }

    /// Lets the statement that is planned next read them.
    pub(in crate::streaming) fn pin_in(&self, session: &Session) {
        for (name, table) in &self.0 {
            session.catalog.pin(name, Arc::clone(table));
        }
    }
}
