//! CREATE EXTERNAL TABLE and CREATE VIEW: checks of names, and the new entry of the catalog.

use std::sync::Arc;

use datafusion::prelude::SessionContext;

use crate::error::{Error, ErrorKind, Result, Subject};
use crate::planner::{CreateTable, CreateView, normalize};
use crate::session::catalog::{Catalog, TableEntry, View};
use crate::session::names::inner_names::with_unique_names;
use crate::session::names::labels::Labels;
use crate::session::statements::declaration::{DeclaredTable, IfMissing, open_table, place};
use crate::session::syntax::plain_name;
use crate::session::views::plan_query;
use crate::tables::archive::PinnedArchive;
use crate::tables::delta::TimeTravel;
use crate::tables::kafka::KafkaTable;

/// Creates a table over a topic or a Delta table; returns a message for the user.
///
/// # Errors
///
/// The name is taken, or the table cannot be opened.
pub(crate) async fn create_table(
    catalog: &Catalog,
    table: &CreateTable,
    text: &str,
) -> Result<String> {
    let name = plain_name(&table.name)?;
    let span = table
        .name
        .0
        .first()
        .and_then(|part| part.as_ident())
        .map(|ident| ident.span);
    if catalog.entry(&name).is_some() {
        if table.if_not_exists {
            return Ok(format!("{name} exists already"));
        }
        if !table.or_replace {
            let error = Error::new(ErrorKind::Exists, format!("table {name} exists already"))
                .about(Subject::table(name))
                .with_help("CREATE OR REPLACE EXTERNAL TABLE declares it again");
            return Err(match span {
                Some(span) => error.at(span),
                None => error,
            });
        }
    }
    let declared = open_table(table, &name, IfMissing::Create).await?;
    if let DeclaredTable::Kafka(kafka) = &declared {
        place(table, check_archive(catalog, kafka).await)?;
    }
    let entry = TableEntry::from(declared);
    let done = format!("{} {name}", entry.kind_name());
    catalog.put(&name, entry, text.to_owned());
    Ok(done)
}

/// Checks that the archive of a table, if it names one, is a Delta table that can be its archive.
async fn check_archive(catalog: &Catalog, table: &Arc<KafkaTable>) -> Result<()> {
    let Some(archive) = table.archive() else {
        return Ok(());
    };
    let delta = catalog.delta(archive.table()).await;
    let delta = delta.map_err(|error| error.about(Subject::option("archive")))?;
    if !delta.primary_key().is_empty() {
        return Err(Error::invalid(format!(
            "{}, the archive of the table, has a PRIMARY KEY: a job that writes it replaces records of the topic by later ones",
            archive.table()
        ))
        .about(Subject::option("archive"))
        .with_help("an archive has every record: declare that table without the key"));
    }
    PinnedArchive::open(Arc::clone(table), &delta, TimeTravel::Latest).await?;
    Ok(())
}

/// Creates a view whose query can be planned; returns a message for the user.
///
/// # Errors
///
/// The name is taken, or the error of the query.
pub(crate) async fn create_view(
    context: &SessionContext,
    catalog: &Catalog,
    view: CreateView,
    text: &str,
) -> Result<String> {
    let name = match check_name(catalog, &view)? {
        ViewName::Free(name) => name,
        ViewName::Taken(said) => return Ok(said),
    };
    let query = view.query.clone();
    let plan = plan_query(context, catalog, query, Some(&name)).await?;
    if !view.columns.is_empty() && view.columns.len() != plan.schema().fields().len() {
        return Err(Error::invalid(format!(
            "the view names {} columns and its query has {}",
            view.columns.len(),
            plan.schema().fields().len()
        )));
    }
    if view.columns.is_empty() {
        with_unique_names(plan, &Labels::of_query(&view.query))?;
    }
    Ok(keep_view(catalog, &name, view, text))
}

/// The name for a new view.
pub(crate) enum ViewName {
    /// The name is free: the view is created by it.
    Free(String),
    /// The name is taken, and the existing object stays; with a message for the user.
    Taken(String),
}

/// Checks whether the name of a view is taken.
///
/// # Errors
///
/// [`ErrorKind::Exists`], unless the statement has OR REPLACE or IF NOT EXISTS.
pub(crate) fn check_name(catalog: &Catalog, view: &CreateView) -> Result<ViewName> {
    let name = plain_name(&view.name)?;
    if catalog.entry(&name).is_some() {
        if view.if_not_exists {
            return Ok(ViewName::Taken(format!("{name} exists already")));
        }
        if !view.or_replace {
            return Err(
                Error::new(ErrorKind::Exists, format!("{name} exists already"))
                    .about(Subject::table(&name))
                    .with_help("CREATE OR REPLACE VIEW replaces it"),
            );
        }
    }
    Ok(ViewName::Free(name))
}

/// Creates a view without a check of the tables in its query: statements that use the view check them. Returns a message for
/// the user.
pub(crate) fn keep_view(catalog: &Catalog, name: &str, view: CreateView, text: &str) -> String {
    let entry = TableEntry::View(Arc::new(View {
        columns: view.columns.iter().map(normalize).collect(),
        query: view.query,
    }));
    catalog.put(name, entry, text.to_owned());
    format!("view {name}")
}
