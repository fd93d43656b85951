//! Rewrites of a statement's syntax tree before DataFusion plans it: window calls, INSERT columns, time travel and others.

pub(crate) mod arguments;
pub(crate) mod asked_version;
pub(crate) mod dialects;
pub(crate) mod grouping;
pub(crate) mod insert_values;
pub(crate) mod like_escape;
pub(crate) mod literals;
pub(crate) mod recursion;
pub(crate) mod row_comparisons;
pub(crate) mod standard;
pub(crate) mod table_calls;
pub(crate) mod time_series;
pub(crate) mod value_rows;

use std::ops::ControlFlow;

use anabranch_udfs::{WalkMut, rewrite_window_calls};
use datafusion::common::tree_node::TreeNode as _;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr as Expression, LogicalPlan, Volatility};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{CopyToSource, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Insert, ObjectName, ObjectNamePart, SelectItem, SetExpr,
    Statement as AnsiStatement, TableAlias, TableFactor, TableObject, TableVersion, Value,
    ValueWithSpan, VisitorMut,
};

use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};
use crate::planner::normalize;
use crate::session::catalog::{Catalog, TableEntry, time_travel_name};
use crate::session::limits::plan_limits;
use crate::session::limits::query_size;
use crate::session::names::casts::apart;
use crate::session::names::distinct_columns::repeated_columns;
use crate::session::names::inner_names::attach;
use crate::session::rewrite::arguments::{Purpose, deferred, name_queries, with_values};
use crate::session::rewrite::asked_version::{AskedVersion, VersionUnit};
use crate::session::rewrite::dialects::settle;
use crate::session::rewrite::literals::doubles;
use crate::session::rewrite::row_comparisons::by_elements;
use crate::session::rewrite::standard::{fetch_first, members, time_zone};
use crate::session::rewrite::table_calls::table_calls;
use crate::session::rewrite::value_rows::with_queries;
use crate::session::statements::constants;
use crate::session::statements::dml::as_insert;
use crate::session::syntax::at_name;
pub(crate) use crate::session::syntax::plain_name;

/// Prepares a statement for DataFusion's planner.
pub(crate) async fn prepare(
    context: &SessionContext,
    catalog: &Catalog,
    statement: &mut SqlStatement,
) -> Result<()> {
    match statement {
        SqlStatement::Statement(ansi) => {
            query_size::check(catalog, ansi.as_ref())?;
            time_zone(ansi.as_mut())?;
            name_queries(ansi.as_mut())?;
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
                query_size::check(catalog, query.as_ref())?;
                name_queries(query.as_mut())?;
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
    node: &mut impl WalkMut,
) -> Result<()> {
    settle(node)?;
    with_queries(node)?;
    by_elements(node)?;
    repeated_columns(node);
    fetch_first(node)?;
    table_calls(catalog, node).await?;
    travel(context, catalog, node).await?;
    windows(node)?;
    apart(node);
    members(node);
    doubles(node);
    Ok(())
}

fn windows(node: &mut impl WalkMut) -> Result<()> {
    rewrite_window_calls(node)
        .map_err(|error| Error::from(DataFusionError::SQL(Box::new(error), None)))
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
    node: &mut impl WalkMut,
) -> Result<()> {
    let mut found = TimeTravelNames::default();
    let _ = node.walk_mut(&mut found);
    if found.0.is_empty() {
        return Ok(());
    }
    let mut names = Vec::with_capacity(found.0.len());
    for (name, version) in &found.0 {
        let hidden = version_name(context, catalog, name, version).await;
        names.push(hidden.map_err(|error| at_name(error, name))?);
    }
    let _ = node.walk_mut(&mut TableRename(names));
    Ok(())
}

/// The hidden name of a table at a version.
async fn version_name(
    context: &SessionContext,
    catalog: &Catalog,
    name: &ObjectName,
    version: &TableVersion,
) -> Result<String> {
    let table = plain_name(name)?;
    catalog.delta(&table).await?;
    let (unit, expr) = match version {
        TableVersion::VersionAsOf(expr) => (VersionUnit::Number, expr),
        TableVersion::TimestampAsOf(expr) | TableVersion::ForSystemTimeAsOf(expr) => {
            (VersionUnit::Time, expr)
        }
        other => {
            return Err(Error::unsupported(format!("{other} is not supported"))
                .with_help("use FOR VERSION AS OF n or FOR TIMESTAMP AS OF t"));
        }
    };
    let not_constant = || unit.not_constant(expr);
    let plan = constant_plan(context, catalog, expr, unit).await?;
    let value = constants::row(&context.state(), &plan).map_err(|_| not_constant())?;
    let purpose = catalog.purpose();
    let asked = |plan| AskedVersion {
        table: table.clone(),
        unit,
        text: expr.to_string(),
        plan,
    };
    let travel = match value {
        Some(_) if purpose == Purpose::Batches && !is_immutable(&plan)? => {
            return Ok(catalog.ask_version(asked(plan)));
        }
        Some(value) => unit.travel(&[value.rows]),
        None if purpose == Purpose::Run => {
            let plan = with_values(context, plan).await?;
            let run = async { context.execute_logical_plan(plan).await?.collect().await };
            let rows = run.await.map_err(|_| not_constant())?;
            unit.travel(&rows)
        }
        None => return Ok(catalog.ask_version(asked(plan))),
    };
    let travel = travel?.ok_or_else(not_constant)?;
    Ok(time_travel_name(&table, travel))
}

/// The plan of one row with a version or a time.
async fn constant_plan(
    context: &SessionContext,
    catalog: &Catalog,
    expr: &Expr,
    unit: VersionUnit,
) -> Result<LogicalPlan> {
    let state = context.state();
    let mut statement = state.sql_to_statement(
        &format!("SELECT CAST(NULL AS {})", unit.sql_type()),
        &datafusion::config::Dialect::Generic,
    )?;
    // Its syntax tree takes the place of NULL: the text of a query in it may need the dialect that it was typed in.
    if let SqlStatement::Statement(select) = &mut statement
        && let AnsiStatement::Query(query) = select.as_mut()
        && let SetExpr::Select(select) = query.body.as_mut()
        && let [SelectItem::UnnamedExpr(Expr::Cast { expr: operand, .. })] =
            select.projection.as_mut_slice()
    {
        operand.as_mut().clone_from(expr);
    }
    // A query in it is one like any other.
    Box::pin(prepare(context, catalog, &mut statement)).await?;
    let plan = state.statement_to_plan(statement).await;
    let plan = plan.map_err(|_| unit.not_constant(expr))?;
    plan_limits::check(&plan)?;
    deferred(plan)
}

/// Whether the one row of `plan` is the same at any time.
fn is_immutable(plan: &LogicalPlan) -> Result<bool> {
    for expr in plan.expressions() {
        let changes = expr.exists(|part| {
            Ok(match part {
                Expression::ScalarFunction(call) => {
                    call.func.signature().volatility != Volatility::Immutable
                }
                _ => false,
            })
        })?;
        if changes {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The tables with versions, which get another name for the time being.
#[derive(Default)]
struct TimeTravelNames(Vec<(ObjectName, TableVersion)>);

/// The mark of a name that stands for the number of a version. No name that is typed has it.
const NUMBERED: char = '\0';

impl VisitorMut for TimeTravelNames {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        // The version is taken out before the visit goes on: a query in it is not a part of the statement.
        if let TableFactor::Table {
            name,
            version,
            alias,
            ..
        } = factor
            && let Some(version) = version.take()
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
            let numbered = format!("{NUMBERED}{}", self.0.len());
            let numbered = ObjectName::from(vec![Ident::with_quote('"', numbered)]);
            let name = std::mem::replace(name, numbered);
            self.0.push((name, version));
        }
        ControlFlow::Continue(())
    }
}

/// Gives these tables their hidden names.
struct TableRename(Vec<String>);

impl VisitorMut for TableRename {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, .. } = factor
            && let [ObjectNamePart::Identifier(ident)] = name.0.as_mut_slice()
            && let Some(number) = ident.value.strip_prefix(NUMBERED)
            && let Ok(number) = number.parse::<usize>()
            && let Some(hidden) = self.0.get(number)
        {
            ident.value.clone_from(hidden);
        }
        ControlFlow::Continue(())
    }
}
