//! Statement of a job as it is planned once: each batch puts its own tables and values into this plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::error::{Error, Result};
use crate::session::rewrite::arguments::{ArgumentQuery, Values, queries_of};
use crate::session::rewrite::asked_version::AskedVersion;
use crate::session::{SCHEMA, Session};
use crate::streaming::batch_tables::BatchInputs;
use crate::streaming::stream_inputs::{BatchTables, StreamSources, over, static_tables};

/// A job's statement, rewritten, planned and analyzed.
#[derive(Debug)]
pub(super) struct Analyzed {
    /// Its rows in the sink's columns.
    pub(super) input: LogicalPlan,
    /// The columns of the sink, if they can change.
    sink: Option<SchemaRef>,
    /// The queries in its arguments, whose values each batch asks for.
    queries: Vec<ArgumentQuery>,
    /// Versions of static tables that each batch asks for, those first that others need.
    versions: Vec<AskedVersion>,
    /// All its static tables, also those that the queries and versions read.
    statics: Vec<TableReference>,
}

impl Analyzed {
    /// Of an analyzed plan over these streams.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn try_new(
        input: LogicalPlan,
        sink: Option<SchemaRef>,
        versions: Vec<AskedVersion>,
        sources: &StreamSources,
    ) -> Result<Self> {
        let mut statics = Vec::new();
        for version in &versions {
            add_statics(&version.plan, sources, &mut statics)?;
        }
        add_statics(&input, sources, &mut statics)?;
        Ok(Self {
            queries: queries_of(&input)?,
            input,
            sink,
            versions,
            statics,
        })
    }

    /// Its static tables, which each batch reads as they are when it begins.
    pub(super) fn statics(&self) -> &[TableReference] {
        &self.statics
    }

    /// The tables that the queries in arguments read, and those that give the versions of other tables.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn tables_of_arguments(&self) -> Result<Vec<TableReference>> {
        let mut found = Vec::new();
        let plans = self.queries.iter().map(ArgumentQuery::plan);
        let versions = self.versions.iter().map(|version| &version.plan);
        for plan in plans.chain(versions) {
            add_tables(plan, &mut found)?;
        }
        Ok(found)
    }

    /// The version of a static table, if each batch asks for it.
    pub(super) fn version(&self, name: &str) -> Option<&AskedVersion> {
        let mut versions = self.versions.iter();
        versions.find(|version| version.hidden_name() == name)
    }

    /// Whether a batch with these inputs, into a sink with these columns, can be planned from it.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn fits(&self, inputs: &BatchInputs, sink: Option<&SchemaRef>) -> Result<bool> {
        let is_same_sink = match (&self.sink, sink) {
            (Some(planned), Some(now)) => planned.fields() == now.fields(),
            _ => true,
        };
        Ok(is_same_sink && inputs.have_columns_of(&self.input)?)
    }

    /// What a batch reads that begins now: these streams, by table name, static tables as they are, and the values of its
    /// arguments over them.
    ///
    /// # Errors
    ///
    /// A static table cannot be opened; errors of the queries in arguments.
    pub(super) async fn inputs(
        &self,
        session: &Session,
        streams: BTreeMap<String, Arc<dyn TableProvider>>,
    ) -> Result<BatchInputs> {
        let mut tables = BatchTables::default();
        for name in &self.statics {
            if self.version(name.table()).is_some() {
                continue;
            }
            // A table that a function gives, such as generate_series, has no entry: it stays as it was planned.
            if let Some(provider) = opened(session, name).await? {
                tables.statics.insert(name.clone(), provider);
            }
        }
        for version in &self.versions {
            let provider = at_version(session, version, &tables).await?;
            let name = TableReference::bare(version.hidden_name());
            tables.statics.insert(name, provider);
        }
        let values = values_of(&session.context, &tables, self.queries.clone()).await?;
        tables.streams = streams;
        Ok(BatchInputs { tables, values })
    }
}

/// Adds the static tables of a plan and of the queries in its arguments.
fn add_statics(
    plan: &LogicalPlan,
    sources: &StreamSources,
    found: &mut Vec<TableReference>,
) -> Result<()> {
    for name in static_tables(plan, sources) {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    for query in queries_of(plan)? {
        add_tables(query.plan(), found)?;
    }
    Ok(())
}

/// Adds all tables of a query in an argument: it reads a Delta table whole that is declared as a stream, as it reads any table.
fn add_tables(plan: &LogicalPlan, found: &mut Vec<TableReference>) -> Result<()> {
    add_statics(plan, &StreamSources::new(), found)
}

async fn opened(
    session: &Session,
    name: &TableReference,
) -> Result<Option<Arc<dyn TableProvider>>> {
    match name.schema() {
        // The plan may have it from a view whose tables the job's user may not name.
        None | Some(SCHEMA) => session.catalog.provider_of_plan(name.table()).await,
        Some(_) => {
            let provider = session.context.table_provider(name.clone()).await?;
            Ok(Some(provider))
        }
    }
}

/// The table at the version that is asked for now.
async fn at_version(
    session: &Session,
    version: &AskedVersion,
    tables: &BatchTables,
) -> Result<Arc<dyn TableProvider>> {
    let context = &session.context;
    let plan = over(version.plan.clone(), tables)?;
    let values = values_of(context, tables, queries_of(&plan)?).await?;
    let plan = values.put_into(plan)?;
    let rows = context.execute_logical_plan(plan).await?.collect().await?;
    let travel = version.unit.travel(&rows)?;
    let travel = travel.ok_or_else(|| version.unit.not_constant(&version.text))?;
    let table = session.catalog.delta_of_plan(&version.table).await?;
    table.snapshot(travel).await
}

/// The values of queries in arguments over these tables.
fn values_of<'a>(
    context: &'a SessionContext,
    tables: &'a BatchTables,
    queries: Vec<ArgumentQuery>,
) -> BoxFuture<'a, Result<Values>> {
    async move {
        let mut values = Values::default();
        for query in queries {
            let plan = over(query.plan().clone(), tables)?;
            let inside = values_of(context, tables, queries_of(&plan)?).await?;
            let value = query.value(context, inside.put_into(plan)?).await?;
            values.add(query, value);
        }
        Ok::<_, Error>(values)
    }
    .boxed()
}
