//! The object behind a name of the catalog: a table, a view, or a table that could not be opened.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::listing::ListingTable;
use datafusion::execution::cache::cache_manager::FileStatisticsCache;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::sql::sqlparser::ast::Query;

use crate::error::{Error, Subject};
use crate::session::catalog::file_names::RenamedTable;
use crate::session::catalog::unopened_table::UnopenedTable;
use crate::session::options::TableLocation;
use crate::session::statements::declaration::DeclaredTable;
use crate::tables::delta::DeltaTableHandle;
use crate::tables::kafka::KafkaTable;

/// The deepest nesting of views.
pub(crate) const VIEWS: usize = 64;

/// The object behind a name of the catalog.
#[derive(Debug, Clone)]
pub(crate) enum TableEntry {
    Kafka(Arc<KafkaTable>),
    /// The table, and its columns at the time of declaration.
    Delta {
        handle: DeltaTableHandle,
        schema: SchemaRef,
    },
    View(Arc<View>),
    Provider(Arc<dyn TableProvider>),
    /// The table is defined, and could not be opened so far.
    Unopened(Arc<UnopenedTable>),
}

impl TableEntry {
    /// The kind of the object in messages and SHOW TABLES.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self {
            TableEntry::Kafka(_) => "Kafka table",
            TableEntry::Delta { .. } => "Delta table",
            TableEntry::View(_) => "view",
            TableEntry::Provider(_) => "table",
            TableEntry::Unopened(unopened) => unopened.kind_name(),
        }
    }

    /// The entry itself, or the opened table of an entry that was opened since.
    pub(super) fn settled(&self) -> Self {
        match self {
            TableEntry::Unopened(unopened) => match unopened.opened() {
                Some(opened) => opened.clone().into(),
                None => self.clone(),
            },
            other => other.clone(),
        }
    }

    /// The locations of its rows; none of a view and of a table in memory.
    pub(super) fn places(&self) -> Vec<TableLocation> {
        match self {
            TableEntry::Kafka(table) => vec![TableLocation::Topic(table.topic().to_owned())],
            TableEntry::Delta { handle, .. } => {
                vec![TableLocation::Files(handle.location().to_owned())]
            }
            TableEntry::View(_) => Vec::new(),
            TableEntry::Unopened(unopened) => match unopened.opened() {
                Some(opened) => TableEntry::from(opened.clone()).places(),
                None => unopened.place().into_iter().collect(),
            },
            TableEntry::Provider(provider) => match listing(provider.as_ref()) {
                Some(files) => {
                    let paths = files.table_paths().iter();
                    let paths = paths.map(|path| TableLocation::Files(path.as_str().to_owned()));
                    paths.collect()
                }
                None => Vec::new(),
            },
        }
    }
}

impl From<DeclaredTable> for TableEntry {
    fn from(table: DeclaredTable) -> Self {
        match table {
            DeclaredTable::Kafka(table) => Self::Kafka(table),
            DeclaredTable::Delta { handle, schema } => Self::Delta { handle, schema },
        }
    }
}

/// A view's query; every statement that uses the view plans it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) query: Box<Query>,
    pub(crate) columns: Vec<String>,
}

/// The error for a view over too many nested views.
pub(crate) fn too_many_views(name: &str) -> Error {
    Error::invalid(format!(
        "view {name} is nested in more than {VIEWS} levels of views"
    ))
    .about(Subject::table(name))
    .with_help("define one of them over the tables")
}

/// The table over files behind `provider`, also if its columns were renamed; `None` for other tables.
fn listing(provider: &dyn TableProvider) -> Option<&ListingTable> {
    match provider.downcast_ref::<RenamedTable>() {
        Some(renamed) => listing(renamed.files()),
        None => provider.downcast_ref::<ListingTable>(),
    }
}

/// The provider with a cache for the statistics of its files; `None` if it is not over files.
pub(super) fn with_statistics(
    provider: &dyn TableProvider,
    statistics: Option<&Arc<FileStatisticsCache>>,
) -> Option<Arc<dyn TableProvider>> {
    if let Some(renamed) = provider.downcast_ref::<RenamedTable>() {
        let files = with_statistics(renamed.files(), statistics)?;
        return Some(Arc::new(renamed.over(files)));
    }
    let files = provider.downcast_ref::<ListingTable>()?;
    Some(Arc::new(files.clone().with_cache(statistics.cloned())))
}

/// A provider without rows, for a statement that drops the table or view.
pub(super) fn placeholder(entry: &TableEntry) -> Arc<dyn TableProvider> {
    if let TableEntry::View(_) = entry {
        let plan = LogicalPlanBuilder::empty(false).build();
        return match plan {
            Ok(plan) => Arc::new(ViewTable::new(plan, None)),
            Err(_) => Arc::new(EmptyTable::new(Arc::new(Schema::empty()))),
        };
    }
    let schema = match entry {
        TableEntry::Delta { schema, .. } => Arc::clone(schema),
        _ => Arc::new(Schema::empty()),
    };
    Arc::new(EmptyTable::new(schema))
}
