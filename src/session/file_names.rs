//! Tables over files whose columns were typed with capitals and without quotes: `userId INT` is the column `userid`, and the
//! field `userId` of the files, unless they have one that is called `userid`.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session as SessionLike, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTableUrl};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::sql::parser::Statement as SqlStatement;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::error::Result;
use crate::planner::normalize;

/// How columns were typed, by their names, where that differs.
pub(super) type Typed = HashMap<String, String>;

/// The columns of a statement that declares a table over files.
pub(super) fn typed(statement: &SqlStatement) -> Typed {
    let SqlStatement::CreateExternalTable(table) = statement else {
        return Typed::new();
    };
    // Fields of CSV are found by their place.
    if table.file_type.eq_ignore_ascii_case("csv") {
        return Typed::new();
    }
    let columns = table.columns.iter();
    let typed = columns.map(|column| (normalize(&column.name), column.name.value.clone()));
    typed.filter(|(name, typed)| name != typed).collect()
}

/// The table with the names that its files have.
///
/// # Errors
///
/// Two columns of one name.
pub(super) async fn with_names_of_files(
    state: &SessionState,
    mut table: CreateExternalTable,
    typed: &Typed,
) -> Result<CreateExternalTable> {
    // No files, or none that can be read: reading them says so.
    let found = fields_of_files(state, &table).await.ok();
    let has = |name: &str| {
        found
            .as_ref()
            .is_some_and(|of| of.field_with_name(name).is_ok())
    };
    let fields = table.schema.fields().iter().map(|field| {
        let name = match typed.get(field.name()) {
            Some(typed)
                if !has(field.name()) && !table.table_partition_cols.contains(field.name()) =>
            {
                typed
            }
            _ => field.name(),
        };
        Field::clone(field).with_name(name)
    });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    table.schema = Arc::new(DFSchema::try_from(schema)?);
    Ok(table)
}

async fn fields_of_files(
    state: &SessionState,
    table: &CreateExternalTable,
) -> DataFusionResult<SchemaRef> {
    let factory = state.get_file_format_factory(&table.file_type);
    let factory = factory.ok_or_else(|| {
        datafusion::error::DataFusionError::Configuration(format!("no format {}", table.file_type))
    })?;
    let format: Arc<dyn FileFormat> = factory.create(state, &table.options)?;
    let options = ListingOptions::new(format).with_file_extension("");
    let location = table.locations.first().map_or("", String::as_str);
    options
        .infer_schema(state, &ListingTableUrl::parse(location)?)
        .await
}

/// A table whose columns are called otherwise than the fields of its files.
#[derive(Debug)]
pub(super) struct Renamed {
    files: Arc<dyn TableProvider>,
    schema: SchemaRef,
}

impl Renamed {
    /// The table over `files` with the names of SQL.
    pub(super) fn new(files: Arc<dyn TableProvider>, typed: &Typed) -> Self {
        let names: HashMap<&str, &str> = typed
            .iter()
            .map(|(name, typed)| (typed.as_str(), name.as_str()))
            .collect();
        let schema = files.schema();
        let fields = schema.fields().iter().map(|field| {
            let name = names.get(field.name().as_str()).copied();
            Field::clone(field).with_name(name.unwrap_or(field.name()))
        });
        Self {
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            files,
        }
    }

    /// The table as its files have it.
    pub(super) fn files(&self) -> &dyn TableProvider {
        self.files.as_ref()
    }

    /// The filter with the names of the files.
    fn of_files(&self, filter: &Expr) -> DataFusionResult<Expr> {
        let files = self.files.schema();
        let renamed = filter.clone().transform(|expr| {
            let Expr::Column(column) = &expr else {
                return Ok(Transformed::no(expr));
            };
            let place = self.schema.index_of(&column.name)?;
            let name = files.field(place).name().clone();
            let column = Column::new(column.relation.clone(), name);
            Ok(Transformed::yes(Expr::Column(column)))
        })?;
        Ok(renamed.data)
    }
}

impl Renamed {
    fn scan_boxed<'a>(
        &'a self,
        state: &'a dyn SessionLike,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn ExecutionPlan>>> {
        async move {
            let filters = filters.iter().map(|filter| self.of_files(filter));
            let filters = filters.collect::<DataFusionResult<Vec<_>>>()?;
            let plan = self.files.scan(state, projection, &filters, limit).await?;
            let fields = self.schema.fields();
            let name = |place: usize| fields[place].name().clone();
            match projection {
                Some(projection) => called(plan, projection.iter().map(|place| name(*place))),
                None => called(plan, (0..fields.len()).map(name)),
            }
        }
        .boxed()
    }

    fn insert_boxed<'a>(
        &'a self,
        state: &'a dyn SessionLike,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn ExecutionPlan>>> {
        async move {
            let files = self.files.schema();
            let names = files.fields().iter().map(|field| field.name().clone());
            let input = called(input, names)?;
            self.files.insert_into(state, input, op).await
        }
        .boxed()
    }
}

/// The plan with its columns called so.
fn called(
    plan: Arc<dyn ExecutionPlan>,
    names: impl Iterator<Item = String>,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let schema = plan.schema();
    let fields = schema.fields().iter().zip(names).enumerate();
    let columns: Vec<ProjectionExpr> = fields
        .map(|(place, (field, alias))| ProjectionExpr {
            expr: Arc::new(PhysicalColumn::new(field.name(), place)),
            alias,
        })
        .collect();
    Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
}

impl TableProvider for Renamed {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        self.files.table_type()
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        let renamed = filters.iter().map(|filter| self.of_files(filter));
        let renamed = renamed.collect::<DataFusionResult<Vec<_>>>()?;
        let renamed: Vec<&Expr> = renamed.iter().collect();
        self.files.supports_filters_pushdown(&renamed)
    }

    // Written out instead of `async fn`, see the provider of Kafka tables.
    fn scan<'life0, 'life1, 'life2, 'life3, 'async_trait>(
        &'life0 self,
        state: &'life1 dyn SessionLike,
        projection: Option<&'life2 Vec<usize>>,
        filters: &'life3 [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'async_trait, DataFusionResult<Arc<dyn ExecutionPlan>>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        Self: 'async_trait,
    {
        self.scan_boxed(state, projection, filters, limit)
    }

    fn insert_into<'life0, 'life1, 'async_trait>(
        &'life0 self,
        state: &'life1 dyn SessionLike,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> BoxFuture<'async_trait, DataFusionResult<Arc<dyn ExecutionPlan>>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        self.insert_boxed(state, input, op)
    }
}
