//! Stored definitions: a session runs them again, and keeps those of tables that cannot be opened.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::planner::{CreateView, ParsedStatement, Statement};
use crate::session::catalog::TableEntry;
use crate::session::catalog::unopened_table::{UnopenedTable, within};
use crate::session::sessions::Session;
use crate::session::statements::create::{ViewName, check_name, keep_view};
use crate::session::statements::declaration::{IfMissing, open_table};
use crate::session::syntax::plain_name;

impl Session {
    /// Creates a view that was planned in a fork of this session; returns a message for the user.
    ///
    /// # Errors
    /// The name is taken.
    pub(crate) fn define_view(&self, view: CreateView, text: &str) -> Result<String> {
        Ok(match check_name(&self.catalog, &view)? {
            ViewName::Free(name) => keep_view(&self.catalog, &name, view, text),
            ViewName::Taken(said) => said,
        })
    }

    /// Runs a stored definition, with a time limit. If it fails, the catalog keeps the definition: its name is taken, and
    /// statements that use it try again. A Delta table that is missing at its location is not created again, and neither is a
    /// table in memory. The definition replaces an entry of the same name in the session.
    ///
    /// # Errors
    /// Why the table cannot be opened, or the definition cannot be kept.
    pub(crate) async fn restore(&self, parsed: ParsedStatement, limit: Duration) -> Result<()> {
        if let Statement::CreateView(view) = &parsed.statement {
            // Statements that use the view check the tables of its query: here those may be unavailable.
            let name = plain_name(&view.name)?;
            keep_view(&self.catalog, &name, view.as_ref().clone(), &parsed.text);
            return Ok(());
        }
        if let Statement::CreateTable(table) = &parsed.statement {
            let name = plain_name(&table.name)?;
            let opened = open_table(table, &name, IfMissing::Refuse);
            match within(limit, opened).await {
                Ok(table) => self.catalog.put(&name, table.into(), parsed.text),
                Err(error) => {
                    self.keep(&name, Some(parsed.clone()), &parsed.text, &error);
                    return Err(error);
                }
            }
            return Ok(());
        }
        if parsed.effect.creates_in_memory()
            && let [name] = parsed.effect.defined_names()
        {
            // An earlier release stored such definitions. To run one again would run its query again.
            let error = Error::unsupported(
                "CREATE TABLE made it in memory, and its rows ended with the server that made it",
            )
            .with_help("DROP it, and declare a table that lasts, STORED AS DELTA");
            self.keep(name, None, &parsed.text, &error);
            return Err(error);
        }
        let kept = parsed.clone();
        if let Some(name) = kept.effect.created_name() {
            // DataFusion's own statements refuse a name that is taken: here another definition may have it.
            self.catalog.remove(name);
        }
        let done = within(limit, self.execute(parsed)).await;
        if let (Err(error), Some(name)) = (&done, kept.effect.created_name()) {
            self.keep(name, Some(kept.clone()), &kept.text, error);
        }
        done.map(drop)
    }

    /// Reserves a name for a definition that this program cannot read.
    pub(crate) fn keep_unreadable(&self, name: &str, text: &str, error: &Error) {
        self.keep(name, None, text, error);
    }

    fn keep(&self, name: &str, statement: Option<ParsedStatement>, text: &str, error: &Error) {
        let unopened = UnopenedTable::new(name, statement, error);
        let entry = TableEntry::Unopened(Arc::new(unopened));
        self.catalog.put(name, entry, text.to_owned());
    }

    /// The tables that are defined and not open, with the reason of each.
    pub(crate) fn unopened(&self) -> Vec<(String, String)> {
        self.catalog.unopened()
    }

    /// Tries again to open a table, with a time limit.
    ///
    /// # Errors
    /// Why it cannot be opened now.
    pub(crate) async fn open_again(&self, name: &str, limit: Duration) -> Result<()> {
        match self.catalog.entry(name) {
            Some(TableEntry::Unopened(unopened)) => within(limit, unopened.open()).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Whether running its statement again opens a table, in the session that keeps the definitions.
    pub(crate) fn is_run_again(&self, name: &str) -> bool {
        match self.catalog.entry(name) {
            Some(TableEntry::Unopened(unopened)) => unopened.to_run_again().is_some(),
            _ => false,
        }
    }

    /// Runs the statement of such a table again, with a time limit.
    ///
    /// # Errors
    /// Why it fails now.
    pub(crate) async fn run_again(&self, name: &str, limit: Duration) -> Result<()> {
        let Some(TableEntry::Unopened(unopened)) = self.catalog.entry(name) else {
            return Ok(());
        };
        let Some(statement) = unopened.to_run_again() else {
            return Ok(());
        };
        let is_restricted = self.catalog.is_restricted(name);
        // DataFusion's own statements refuse a name that is taken.
        let kept = self.catalog.remove(name);
        let done = within(limit, self.execute(statement.clone())).await;
        if done.is_err()
            && let Some((entry, definition)) = kept
        {
            self.catalog.put(name, entry, definition);
        }
        if is_restricted {
            self.catalog.set_restricted(name, true);
        }
        done.map(drop)
    }
}
