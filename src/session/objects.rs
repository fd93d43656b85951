//! The tables, views and functions of a session, as listings and metadata show them.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use crate::error::Result;
use crate::session::catalog::TableEntry;
use crate::session::options::{CATALOG, SCHEMA, TableLocation};
use crate::session::rewrite::arguments::Purpose;
use crate::session::rewrite::table_calls::TABLE_FUNCTIONS;
use crate::session::sessions::Session;
use crate::session::system::SYSTEM;

impl Session {
    /// The names of tables and views, sorted.
    pub fn table_names(&self) -> Vec<String> {
        self.catalog.names()
    }

    /// The column names of all tables that are known without a request to a broker or a store.
    pub fn column_names(&self) -> Vec<String> {
        self.catalog.column_names()
    }

    /// All tables and views as metadata lists them: schema, name, and `TABLE`, `VIEW` or `SYSTEM TABLE`.
    pub fn relations(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found: Vec<_> = self
            .catalog
            .names()
            .into_iter()
            .map(|name| {
                let kind = match self.catalog.entry(&name) {
                    Some(TableEntry::View(_)) => "VIEW",
                    _ => "TABLE",
                };
                (SCHEMA, name, kind)
            })
            .collect();
        let system = self.context.catalog(CATALOG);
        let system = system.and_then(|catalog| catalog.schema(SYSTEM));
        let names = system.map_or_else(Vec::new, |schema| schema.table_names());
        found.extend(names.into_iter().map(|name| (SYSTEM, name, "SYSTEM TABLE")));
        found
    }

    /// The columns of a table or view.
    ///
    /// # Errors
    /// There is no such table, or it cannot be opened.
    pub async fn columns_of(&self, schema: &str, name: &str) -> Result<SchemaRef> {
        self.catalog.begin(Purpose::Describe);
        let catalog = self.context.catalog(CATALOG);
        let found = catalog.and_then(|catalog| catalog.schema(schema));
        let table = match found {
            Some(found) => found.table(name).await?,
            None => None,
        };
        let table = table.ok_or_else(|| self.catalog.no_such_table(name))?;
        Ok(table.schema())
    }

    /// The locations of the tables with these names.
    pub(crate) fn places_of(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<TableLocation> {
        self.catalog.places(is_wanted)
    }

    /// Records whether the user who declared a table may use certain tables only.
    pub(crate) fn set_restricted(&self, name: &str, is_restricted: bool) {
        self.catalog.set_restricted(name, is_restricted);
    }

    /// Whether a restricted user declared the table: one who may use certain tables only.
    pub(crate) fn is_restricted(&self, name: &str) -> bool {
        self.catalog.is_restricted(name)
    }

    /// How a table or view was declared, without secrets.
    ///
    /// # Errors
    /// No such table.
    pub fn definition(&self, name: &str) -> Result<String> {
        self.catalog.definition(name)
    }

    /// The names of all functions.
    pub fn function_names(&self) -> Vec<String> {
        let state = self.context.state();
        let mut names: Vec<String> = state.scalar_functions().keys().cloned().collect();
        names.extend(state.aggregate_functions().keys().cloned());
        names.extend(state.window_functions().keys().cloned());
        names.extend(TABLE_FUNCTIONS.map(str::to_owned));
        names.sort();
        names.dedup();
        names
    }

    /// Adds rows as a table of the session, in memory.
    ///
    /// # Errors
    /// The name is taken.
    pub fn register_batch(&self, name: &str, batch: RecordBatch) -> Result<()> {
        self.context.register_batch(name, batch)?;
        Ok(())
    }
}
