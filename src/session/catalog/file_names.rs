//! Column names of tables over files that were typed with capitals and without quotes: `userId INT` is the column `userid`, and
//! the field `userId` of the files, unless they have a field named `userid`. The fields of a STRUCT follow the same rule.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::catalog::{Session as SessionLike, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTableUrl};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    ColumnarValue, CreateExternalTable, Expr, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::sql::parser::Statement as SqlStatement;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::error::Result;
use crate::formats::{plain_field, renamed, typed_as, typed_name};
use crate::planner::normalize;
use crate::planner::types::typed_arrow_type;
use crate::tables::boxed_methods::{boxed_insert_into, boxed_scan};

/// Fields of the table by their names in the files.
pub(crate) type FieldsByName = HashMap<String, Field>;

/// The columns of a statement that declares a table over files, if their original spelling, or that of STRUCT fields in them,
/// differs from their names; with that spelling.
pub(crate) fn typed(statement: &SqlStatement) -> Vec<Field> {
    let SqlStatement::CreateExternalTable(table) = statement else {
        return Vec::new();
    };
    // Fields of CSV are matched by position.
    if table.file_type.eq_ignore_ascii_case("csv") {
        return Vec::new();
    }
    let typed = table.columns.iter().filter_map(|column| {
        // A type that only the engine supports has no fields.
        let of = typed_arrow_type(&column.data_type).unwrap_or(DataType::Null);
        let plain = Field::new(normalize(&column.name), of, true);
        let field = typed_as(plain, &column.name.value);
        (plain_field(&field) != field).then_some(field)
    });
    typed.collect()
}

/// The table with the field names of its files.
///
/// # Errors
///
/// Two columns of the same name.
pub(crate) async fn with_names_of_files(
    state: &SessionState,
    mut table: CreateExternalTable,
    typed: &[Field],
) -> Result<(CreateExternalTable, FieldsByName)> {
    // No files, or unreadable ones: the scan reports the error.
    let found = fields_of_files(state, &table).await.ok();
    let found = found.as_ref().map(|schema| schema.fields());
    let mut names = FieldsByName::new();
    let mut fields = Vec::with_capacity(table.schema.fields().len());
    for field in table.schema.fields() {
        let typed = typed.iter().find(|typed| typed.name() == field.name());
        let Some(typed) = typed.filter(|_| !table.table_partition_cols.contains(field.name()))
        else {
            fields.push(Field::clone(field));
            continue;
        };
        let of_file = field_of_file(field, typed, found);
        names.insert(of_file.name().clone(), Field::clone(field));
        fields.push(of_file);
    }
    table.schema = Arc::new(DFSchema::try_from(Schema::new(fields))?);
    Ok((table, names))
}

/// The field with its name in the files: its own name, or else its original spelling; nested fields likewise.
fn field_of_file(field: &Field, typed: &Field, found: Option<&Fields>) -> Field {
    let find = |name: &str| found?.iter().find(|of| of.name() == name);
    let name = match typed_name(typed) {
        Some(typed) if find(field.name()).is_none() => typed,
        _ => field.name().as_str(),
    };
    let below = find(name).map(|of| of.data_type());
    let of = type_of_file(field.data_type(), typed.data_type(), below);
    field.clone().with_name(name).with_data_type(of)
}

fn type_of_file(of: &DataType, typed: &DataType, found: Option<&DataType>) -> DataType {
    let within = |field: &Field, typed: &Field, found: Option<&Field>| {
        let found = found.map(Field::data_type);
        let of = type_of_file(field.data_type(), typed.data_type(), found);
        Arc::new(field.clone().with_data_type(of))
    };
    match (of, typed) {
        (DataType::Struct(fields), DataType::Struct(typed)) => {
            let found = match found {
                Some(DataType::Struct(found)) => Some(found),
                _ => None,
            };
            let fields = fields.iter().zip(typed);
            let fields = fields.map(|(field, typed)| field_of_file(field, typed, found));
            DataType::Struct(fields.collect())
        }
        (DataType::List(item), DataType::List(typed)) => {
            let found = match found {
                Some(DataType::List(found) | DataType::LargeList(found)) => Some(found.as_ref()),
                _ => None,
            };
            DataType::List(within(item, typed, found))
        }
        (DataType::Map(entries, sorted), DataType::Map(typed, _)) => {
            let found = match found {
                Some(DataType::Map(found, _)) => Some(found.as_ref()),
                _ => None,
            };
            DataType::Map(within(entries, typed, found), *sorted)
        }
        _ => of.clone(),
    }
}

/// The type with the field names of another type of the same structure.
fn called_like(of: &DataType, named: &DataType) -> DataType {
    let field = |(field, named): (&FieldRef, &FieldRef)| {
        let of = called_like(field.data_type(), named.data_type());
        Arc::new(
            Field::clone(field)
                .with_name(named.name())
                .with_data_type(of),
        )
    };
    match (of, named) {
        (DataType::Struct(fields), DataType::Struct(named)) if fields.len() == named.len() => {
            DataType::Struct(fields.iter().zip(named).map(field).collect())
        }
        (DataType::List(item), DataType::List(named)) => DataType::List(field((item, named))),
        (DataType::Map(entries, sorted), DataType::Map(named, _)) => {
            DataType::Map(field((entries, named)), *sorted)
        }
        _ => of.clone(),
    }
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

/// A table whose columns have other names than the fields of its files.
#[derive(Debug)]
pub(crate) struct RenamedTable {
    files: Arc<dyn TableProvider>,
    schema: SchemaRef,
}

impl RenamedTable {
    /// The table over `files` with the SQL names.
    pub(crate) fn new(files: Arc<dyn TableProvider>, names: &FieldsByName) -> Self {
        let schema = files.schema();
        let fields = schema.fields().iter().map(|field| {
            let Some(named) = names.get(field.name()) else {
                return Field::clone(field);
            };
            let of = called_like(field.data_type(), named.data_type());
            let field = Field::clone(field).with_name(named.name());
            field.with_data_type(of)
        });
        Self {
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            files,
        }
    }

    /// The same table over other files with the same columns.
    pub(crate) fn over(&self, files: Arc<dyn TableProvider>) -> Self {
        Self {
            files,
            schema: Arc::clone(&self.schema),
        }
    }

    /// The table with the names of its files.
    pub(crate) fn files(&self) -> &dyn TableProvider {
        self.files.as_ref()
    }

    /// The filter with the names of the files; `None` if it may name a field of a STRUCT that has another name there.
    fn of_files(&self, filter: &Expr) -> DataFusionResult<Option<Expr>> {
        let files = self.files.schema();
        let mut names_fields = false;
        let renamed = filter.clone().transform(|expr| {
            let Expr::Column(column) = &expr else {
                return Ok(Transformed::no(expr));
            };
            let place = self.schema.index_of(&column.name)?;
            let field = files.field(place);
            names_fields |= field.data_type() != self.schema.field(place).data_type();
            let column = Column::new(column.relation.clone(), field.name().clone());
            Ok(Transformed::yes(Expr::Column(column)))
        })?;
        Ok((!names_fields).then_some(renamed.data))
    }
}

impl RenamedTable {
    fn scan_boxed<'a>(
        &'a self,
        state: &'a dyn SessionLike,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn ExecutionPlan>>> {
        async move {
            let filters = filters.iter().map(|filter| self.of_files(filter));
            let filters = filters.filter_map(|filter| filter.transpose());
            let filters = filters.collect::<DataFusionResult<Vec<_>>>()?;
            let plan = self.files.scan(state, projection, &filters, limit).await?;
            let shown = match projection {
                Some(projection) => Arc::new(self.schema.project(projection)?),
                None => Arc::clone(&self.schema),
            };
            called(plan, &shown)
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
            let input = called(input, &self.files.schema())?;
            self.files.insert_into(state, input, op).await
        }
        .boxed()
    }
}

/// The plan with its columns, and the fields in them, renamed as in `shown`.
fn called(
    plan: Arc<dyn ExecutionPlan>,
    shown: &SchemaRef,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let schema = plan.schema();
    let fields = schema.fields().iter().zip(shown.fields()).enumerate();
    let columns: Vec<ProjectionExpr> = fields
        .map(|(place, (field, shown))| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(field.name(), place));
            let of = called_like(field.data_type(), shown.data_type());
            let expr: Arc<dyn PhysicalExpr> = match of == *field.data_type() {
                true => column,
                false => Arc::new(RenamedFields { column, of }),
            };
            ProjectionExpr {
                expr,
                alias: shown.name().clone(),
            }
        })
        .collect();
    Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
}

/// A column whose fields have other names.
#[derive(Debug, Eq)]
struct RenamedFields {
    column: Arc<dyn PhysicalExpr>,
    of: DataType,
}

// By hand, as in the engine: https://github.com/rust-lang/rust/issues/78808
impl PartialEq for RenamedFields {
    fn eq(&self, other: &Self) -> bool {
        self.column.eq(&other.column) && self.of == other.of
    }
}

impl Hash for RenamedFields {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.column.hash(state);
        self.of.hash(state);
    }
}

impl fmt::Display for RenamedFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field_names({})", self.column)
    }
}

impl PhysicalExpr for RenamedFields {
    fn return_field(&self, schema: &Schema) -> DataFusionResult<FieldRef> {
        let field = self.column.return_field(schema)?;
        let field = Field::clone(&field).with_data_type(self.of.clone());
        Ok(Arc::new(field))
    }

    fn data_type(&self, _: &Schema) -> DataFusionResult<DataType> {
        Ok(self.of.clone())
    }

    fn nullable(&self, schema: &Schema) -> DataFusionResult<bool> {
        self.column.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DataFusionResult<ColumnarValue> {
        let column = self.column.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(renamed(&column, &self.of)?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        let column = children.into_iter().next();
        Ok(Arc::new(Self {
            column: column.unwrap_or_else(|| Arc::clone(&self.column)),
            of: self.of.clone(),
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.column.fmt_sql(f)
    }
}

impl TableProvider for RenamedTable {
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
        let of_files: Vec<&Expr> = renamed.iter().flatten().collect();
        let mut supported = self.files.supports_filters_pushdown(&of_files)?.into_iter();
        let is_supported = |filter: &Option<Expr>| match filter {
            Some(_) => supported.next(),
            None => None,
        };
        let supported = renamed.iter().map(is_supported);
        Ok(supported
            .map(|of| of.unwrap_or(TableProviderFilterPushDown::Unsupported))
            .collect())
    }

    boxed_scan!(|table, state, projection, filters, limit| {
        table.scan_boxed(state, projection, filters, limit)
    });

    boxed_insert_into!(|table, state, input, op| table.insert_boxed(state, input, op));
}
