//! Rewrites of a statement's syntax tree before DataFusion plans it: window calls, INSERT columns, time travel and others.

pub(crate) mod dialects;
pub(crate) mod grouping;
pub(crate) mod inserted;
pub(crate) mod likes;
pub(crate) mod literals;
pub(crate) mod recursion;
pub(crate) mod rows;
pub(crate) mod series;
pub(crate) mod standard;
pub(crate) mod value_rows;

use std::ops::ControlFlow;

use anabranch_udfs::rewrite_window_calls;
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{CopyToSource, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Insert, ObjectName,
    ObjectNamePart, Query, SelectItem, SetExpr, Spanned, Statement as AnsiStatement, TableAlias,
    TableFactor, TableObject, TableVersion, Value, ValueWithSpan, VisitMut, VisitorMut,
};

use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};
use crate::planner::normalize;
use crate::session::catalog::{Catalog, TableEntry, time_travel_name};
use crate::session::limits::plan_limits;
use crate::session::limits::weights;
use crate::session::names::apart::repeated_columns;
use crate::session::names::casts::apart;
use crate::session::names::inner_names::attach;
use crate::session::rewrite::dialects::settle;
use crate::session::rewrite::literals::doubles;
use crate::session::rewrite::rows::by_elements;
use crate::session::rewrite::standard::{fetch_first, members, time_zone};
use crate::session::rewrite::value_rows::with_queries;
use crate::session::statements::changes::as_insert;
use crate::session::syntax::at_name;
pub(crate) use crate::session::syntax::plain_name;
use crate::session::system::{SYSTEM, state_table};
use crate::tables::delta::TimeTravel;

/// Prepares a statement for DataFusion's planner.
pub(crate) async fn prepare(
    context: &SessionContext,
    catalog: &Catalog,
    statement: &mut SqlStatement,
) -> Result<()> {
    match statement {
        SqlStatement::Statement(ansi) => {
            weights::check(catalog, ansi.as_ref())?;
            time_zone(ansi.as_mut())?;
            attach(ansi.as_mut())?;
            if let AnsiStatement::Insert(insert) = ansi.as_mut() {
                fill_insert(catalog, insert).await?;
                name_literals(insert);
            }
            as_insert(context, catalog, ansi.as_mut()).await?;
            in_its_queries(context, catalog, ansi.as_mut()).await
        }
        SqlStatement::Explain(explain) => {
            Box::pin(prepare(context, catalog, &mut explain.statement)).await
        }
        SqlStatement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => {
                weights::check(catalog, query.as_ref())?;
                attach(query.as_mut())?;
                in_its_queries(context, catalog, query.as_mut()).await
            }
            CopyToSource::Relation(_) => Ok(()),
        },
        SqlStatement::CreateExternalTable(_) | SqlStatement::Reset(_) => Ok(()),
    }
}

/// The rewrites for all queries of a statement, in this order.
async fn in_its_queries(
    context: &SessionContext,
    catalog: &Catalog,
    node: &mut impl VisitMut,
) -> Result<()> {
    settle(node)?;
    with_queries(node)?;
    by_elements(node)?;
    repeated_columns(node);
    fetch_first(node)?;
    states(node)?;
    travel(context, catalog, node).await?;
    offsets(context, node).await?;
    windows(node)?;
    apart(node);
    members(node);
    doubles(node);
    Ok(())
}

fn windows(node: &mut impl VisitMut) -> Result<()> {
    rewrite_window_calls(node)
        .map_err(|error| Error::from(DataFusionError::SQL(Box::new(error), None)))
}

/// Replaces `job_state('job' [, batch])` in FROM by a table of the schema `system`.
fn states(node: &mut impl VisitMut) -> Result<()> {
    struct States;

    impl VisitorMut for States {
        type Break = Error;

        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
            let TableFactor::Table { name, args, .. } = factor else {
                return ControlFlow::Continue(());
            };
            let ident = match name.0.as_slice() {
                [part] => part.as_ident().cloned(),
                _ => None,
            };
            let Some(ident) = ident.filter(|ident| normalize(ident) == "job_state") else {
                return ControlFlow::Continue(());
            };
            let Some(given) = args.take() else {
                return ControlFlow::Continue(());
            };
            let values: Vec<Option<String>> = given.args.iter().map(literal).collect();
            let table = match values.as_slice() {
                [Some(job)] => Some(state_table(job, None)),
                [Some(job), Some(batch)] => {
                    let batch = batch.parse().ok();
                    batch.map(|batch| state_table(job, Some(batch)))
                }
                _ => None,
            };
            let Some(table) = table else {
                return ControlFlow::Break(
                    Error::invalid("job_state takes the name of a job and perhaps a batch")
                        .with_help("SELECT * FROM job_state('visits_counter', 4)")
                        .at(ident.span),
                );
            };
            let mut table = Ident::with_quote('"', table);
            table.span = ident.span;
            *name = ObjectName::from(vec![Ident::new(SYSTEM), table]);
            ControlFlow::Continue(())
        }
    }

    match node.visit(&mut States) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// The text of a literal argument.
fn literal(argument: &FunctionArg) -> Option<String> {
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) = argument else {
        return None;
    };
    match &value.value {
        Value::Number(number, _) => Some(number.clone()),
        other => other.clone().into_string(),
    }
}

/// Without a column list, an INSERT fills the columns that rows can give: not METADATA, not
/// generated ones. With one, each column must exist and be writable.
async fn fill_insert(catalog: &Catalog, insert: &mut Insert) -> Result<()> {
    let TableObject::TableName(name) = &insert.table else {
        return Ok(());
    };
    let Some(ident) = name.0.last().and_then(ObjectNamePart::as_ident) else {
        return Ok(());
    };
    let table = normalize(ident);
    let span = ident.span;
    let entry = catalog.open(&table).await;
    let entry = entry.map_err(|error| error.at(span))?;
    let fill = |names: Vec<String>| -> Vec<ObjectName> {
        names
            .into_iter()
            .map(|name| ObjectName::from(vec![Ident::with_quote('"', name)]))
            .collect()
    };
    match &entry {
        TableEntry::Kafka(kafka) => {
            for column in &insert.columns {
                let name = plain_name(column)?;
                if let Some(key) = kafka.metadata_key(&name)
                    && !key.is_writable()
                {
                    let error = Error::invalid(format!(
                        "column {name} of {table} is metadata '{}', which the broker sets",
                        key.name()
                    ))
                    .about(Subject::column(name))
                    .about(Subject::text(key.name()))
                    .with_help("leave it out of the INSERT; key, headers, timestamp and partition can be written");
                    return Err(at_name(error, column));
                }
                known_column(column, &name, &table, kafka.schema())?;
            }
            if insert.columns.is_empty() {
                insert.columns = fill(
                    kafka
                        .insert_columns()
                        .into_iter()
                        .map(str::to_owned)
                        .collect(),
                );
            }
        }
        TableEntry::Delta { handle, .. } => {
            let schema = handle.schema().await?;
            let generated = handle.generated_columns().await?;
            for column in &insert.columns {
                known_column(column, &plain_name(column)?, &table, &schema)?;
            }
            if insert.columns.is_empty() && !generated.is_empty() {
                let is_generated = |name: &String| generated.iter().any(|(known, _)| known == name);
                let names = schema.fields().iter().map(|field| field.name().clone());
                insert.columns = fill(names.filter(|name| !is_generated(name)).collect());
            }
        }
        TableEntry::View(_) => {
            return Err(
                Error::invalid(format!("{table} is a view: rows cannot be inserted")).at(span),
            );
        }
        TableEntry::Provider(_) | TableEntry::Unopened(_) => {}
    }
    Ok(())
}

/// `INSERT INTO t SELECT a, NULL, NULL`: columns are matched by position, so that their names do not matter, but DataFusion
/// requires unique names.
fn name_literals(insert: &mut Insert) {
    let Some(SetExpr::Select(select)) = insert.source.as_mut().map(|query| query.body.as_mut())
    else {
        return;
    };
    for (place, item) in select.projection.iter_mut().enumerate() {
        // The engine infers no type for a parameter under an alias.
        let is_literal = |expr: &Expr| matches!(expr, Expr::Value(value) if !is_parameter(value));
        if let SelectItem::UnnamedExpr(expr) = item
            && is_literal(expr)
        {
            *item = SelectItem::ExprWithAlias {
                expr: expr.clone(),
                alias: Ident::with_quote('"', format!("literal {place}")),
            };
        }
    }
}

fn is_parameter(value: &ValueWithSpan) -> bool {
    matches!(value.value, Value::Placeholder(_))
}

fn known_column(
    column: &ObjectName,
    name: &str,
    table: &str,
    schema: &datafusion::arrow::datatypes::SchemaRef,
) -> Result<()> {
    if schema.field_with_name(name).is_ok() {
        return Ok(());
    }
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let error = Error::invalid(format!("table {table} has no column {name}"))
        .about(Subject::table(table))
        .about(Subject::column(name));
    let error = match closest(name, names.iter().copied()) {
        Some(near) => error.with_help(format!("did you mean {near}?")),
        None => error.with_help(format!("the columns are {}", names.join(", "))),
    };
    Err(at_name(error, column))
}

/// `t FOR VERSION AS OF 3`: replaces the table by a hidden name that the catalog resolves.
async fn travel(
    context: &SessionContext,
    catalog: &Catalog,
    node: &mut impl VisitMut,
) -> Result<()> {
    let mut found = Versions::default();
    let _ = node.visit(&mut found);
    if found.expressions.is_empty() {
        return Ok(());
    }
    let mut travels = Vec::with_capacity(found.expressions.len());
    for (name, version) in &found.expressions {
        let table = plain_name(name)?;
        let delta = catalog.delta(&table).await;
        delta.map_err(|error| at_name(error, name))?;
        let at = match version {
            TableVersion::VersionAsOf(expr) => {
                let version = evaluate(context, expr, "BIGINT")
                    .await
                    .map_err(|error| at_name(error, name))?;
                let version = u64::try_from(version).map_err(|_| {
                    at_name(Error::invalid("a version is a whole number from 0"), name)
                })?;
                TimeTravel::Version(version)
            }
            TableVersion::TimestampAsOf(expr) | TableVersion::ForSystemTimeAsOf(expr) => {
                let micros = evaluate(context, expr, "TIMESTAMP")
                    .await
                    .map_err(|error| at_name(error, name))?;
                TimeTravel::Timestamp(micros)
            }
            other => {
                return Err(at_name(
                    Error::unsupported(format!("{other} is not supported")),
                    name,
                )
                .with_help("use FOR VERSION AS OF n or FOR TIMESTAMP AS OF t"));
            }
        };
        travels.push(time_travel_name(&table, at));
    }
    let _ = node.visit(&mut Rename {
        names: travels.into_iter(),
    });
    Ok(())
}

/// A scalar subquery that is an argument of an offset function is run first: a scan's ranges are
/// chosen when it is planned.
async fn offsets(context: &SessionContext, node: &mut impl VisitMut) -> Result<()> {
    let mut found = OffsetQueries::default();
    let _ = node.visit(&mut found);
    if found.queries.is_empty() {
        return Ok(());
    }
    let mut values = Vec::with_capacity(found.queries.len());
    for query in found.queries {
        let span = query.span();
        values.push(
            scalar_text(context, query)
                .await
                .map_err(|error| error.at(span))?,
        );
    }
    let _ = node.visit(&mut OffsetValues {
        values: values.into_iter(),
    });
    Ok(())
}

async fn scalar_text(context: &SessionContext, query: Query) -> Result<Value> {
    let statement = SqlStatement::Statement(Box::new(AnsiStatement::Query(Box::new(query))));
    let plan = context.state().statement_to_plan(statement).await?;
    plan_limits::check(&plan)?;
    let batches = context.execute_logical_plan(plan).await?.collect().await?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let columns = batches.first().map_or(1, RecordBatch::num_columns);
    if rows > 1 || columns != 1 {
        return Err(Error::invalid(format!(
            "an offset argument is one value; this query gives {rows} rows of {columns} columns"
        )));
    }
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() == 1) else {
        return Ok(Value::Null);
    };
    let text = cast(batch.column(0), &DataType::Utf8)
        .map_err(|error| Error::invalid(format!("an offset argument is text: {error}")))?;
    let text = text.as_string::<i32>();
    Ok(if text.is_null(0) {
        Value::Null
    } else {
        Value::SingleQuotedString(text.value(0).to_owned())
    })
}

/// Calls `visit` with each subquery in the arguments of an offset function.
fn offset_arguments(expr: &mut Expr, mut visit: impl FnMut(&mut Expr)) {
    let Expr::Function(function) = expr else {
        return;
    };
    let name = function
        .name
        .0
        .last()
        .and_then(ObjectNamePart::as_ident)
        .map(normalize);
    if !matches!(name.as_deref(), Some("offsets_in" | "offsets_from")) {
        return;
    }
    let FunctionArguments::List(list) = &mut function.args else {
        return;
    };
    for argument in &mut list.args {
        if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument
            && matches!(expr, Expr::Subquery(_))
        {
            visit(expr);
        }
    }
}

#[derive(Default)]
struct OffsetQueries {
    queries: Vec<Query>,
}

impl VisitorMut for OffsetQueries {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        offset_arguments(expr, |argument| {
            if let Expr::Subquery(query) = argument {
                self.queries.push(query.as_ref().clone());
            }
        });
        ControlFlow::Continue(())
    }
}

struct OffsetValues {
    values: std::vec::IntoIter<Value>,
}

impl VisitorMut for OffsetValues {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        offset_arguments(expr, |argument| {
            if let Some(value) = self.values.next() {
                *argument = Expr::Value(value.into());
            }
        });
        ControlFlow::Continue(())
    }
}

/// The value of a constant expression as a whole number, or as microseconds of a timestamp.
async fn evaluate(context: &SessionContext, expr: &Expr, sql_type: &str) -> Result<i64> {
    let invalid = || Error::invalid(format!("{expr} is no constant {sql_type}"));
    let state = context.state();
    let statement = state.sql_to_statement(
        &format!("SELECT CAST({expr} AS {sql_type})"),
        &datafusion::config::Dialect::Generic,
    )?;
    let plan = state
        .statement_to_plan(statement)
        .await
        .map_err(|_| invalid())?;
    plan_limits::check(&plan)?;
    let batches = context
        .execute_logical_plan(plan)
        .await?
        .collect()
        .await
        .map_err(|_| invalid())?;
    let column = batches
        .first()
        .filter(|batch| batch.num_rows() == 1)
        .map(|batch| batch.column(0));
    let column = column.ok_or_else(invalid)?;
    if column.null_count() > 0 {
        return Err(invalid());
    }
    if let Some(version) = column.as_primitive_opt::<Int64Type>() {
        return Ok(version.value(0));
    }
    column
        .as_primitive_opt::<TimestampMicrosecondType>()
        .map(|time| time.value(0))
        .ok_or_else(invalid)
}

#[derive(Default)]
struct Versions {
    expressions: Vec<(ObjectName, TableVersion)>,
}

impl VisitorMut for Versions {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table {
            name,
            version: Some(version),
            ..
        } = factor
        {
            self.expressions.push((name.clone(), version.clone()));
        }
        ControlFlow::Continue(())
    }
}

struct Rename {
    names: std::vec::IntoIter<String>,
}

impl VisitorMut for Rename {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table {
            name,
            version: version @ Some(_),
            alias,
            ..
        } = factor
            && let Some(hidden) = self.names.next()
        {
            if alias.is_none()
                && let Some(ident) = name.0.last().and_then(ObjectNamePart::as_ident)
            {
                *alias = Some(TableAlias {
                    explicit: true,
                    name: ident.clone(),
                    columns: Vec::new(),
                    at: None,
                });
            }
            *name = ObjectName::from(vec![Ident::with_quote('"', hidden)]);
            *version = None;
        }
        ControlFlow::Continue(())
    }
}
