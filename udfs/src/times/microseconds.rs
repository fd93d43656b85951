//! Casts to nanoseconds, which DataFusion adds where times meet dates, texts and other times, become casts to microseconds.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{
    Cast, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Subquery, TryCast, Union, Values,
};
use datafusion::optimizer::AnalyzerRule;

use super::timestamp;
use crate::doubles::is_of_one_type;
use crate::operands::{
    any_expr, any_node, cast_rows, has_part, inputs, map_named_expressions, of_one_type,
};

/// Removes casts to nanoseconds from a plan: once before type coercion, for casts by the user, and once after it.
#[derive(Debug)]
pub struct MicrosecondTime;

impl AnalyzerRule for MicrosecondTime {
    fn name(&self) -> &str {
        "microsecond_time"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        if !any_node(&plan, |node| any_expr(node, has_nanoseconds))? {
            return Ok(plan);
        }
        let changed = plan.transform_up_with_subqueries(|node| {
            let schema = inputs(&node)?;
            let node = map_named_expressions(node, |expr| {
                let has_casts = has_nanoseconds(&expr);
                expr.transform_up(|expr| {
                    let micros = match has_casts {
                        true => in_microseconds(expr, &schema)?,
                        false => Transformed::no(expr),
                    };
                    micros.transform_data(|expr| of_one_unit(expr, &schema))
                })
            })?;
            // Types of inputs may have changed as well.
            node.transform_data(|node| Ok(Transformed::yes(with_schema(node)?)))
        })?;
        Ok(changed.data)
    }
}

/// The same for one expression over these columns.
///
/// # Errors
///
/// None in practice.
pub fn with_microseconds(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let changed = expr.transform_up(|expr| {
        in_microseconds(expr, schema)?.transform_data(|expr| of_one_unit(expr, schema))
    })?;
    Ok(changed.data)
}

fn with_schema(plan: LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Union(union) => union_of_one_unit(union),
        LogicalPlan::Join(mut join) => {
            let (left, right) = (Arc::clone(&join.left), Arc::clone(&join.right));
            for (of_left, of_right) in &mut join.on {
                let types = [
                    of_left.get_type(left.schema().as_ref())?,
                    of_right.get_type(right.schema().as_ref())?,
                ];
                if has_both_units(&types) {
                    to_microseconds(of_left, &types[0]);
                    to_microseconds(of_right, &types[1]);
                }
            }
            LogicalPlan::Join(join).recompute_schema()
        }
        LogicalPlan::Values(Values { schema, values }) => {
            let fields = schema.iter().map(|(qualifier, field)| {
                let of = micros_of(field.data_type());
                let of = of.unwrap_or_else(|| field.data_type().clone());
                let field = Field::clone(field).with_data_type(of);
                (qualifier.cloned(), Arc::new(field))
            });
            let metadata = schema.metadata().clone();
            let schema = DFSchema::new_with_metadata(fields.collect(), metadata)?;
            Ok(LogicalPlan::Values(Values {
                schema: Arc::new(schema),
                values,
            }))
        }
        other => other.recompute_schema(),
    }
}

fn has_nanoseconds(expr: &Expr) -> bool {
    has_part(expr, |node| match node {
        Expr::Cast(cast) => micros_of(cast.field.data_type()).is_some(),
        Expr::TryCast(cast) => micros_of(cast.field.data_type()).is_some(),
        _ => false,
    })
}

/// A union whose inputs have microseconds in a column if one of them has. Its inputs may have different types: before type
/// coercion, a column has the first type other than that of NULL.
fn union_of_one_unit(union: Union) -> Result<LogicalPlan> {
    let width = union.schema.fields().len();
    let Union { mut inputs, schema } = union;
    if inputs
        .iter()
        .any(|input| input.schema().fields().len() != width)
    {
        return Ok(LogicalPlan::Union(Union { inputs, schema }));
    }
    let types = |inputs: &[Arc<LogicalPlan>], column: usize| -> Vec<DataType> {
        let of = inputs.iter().map(|input| input.schema().field(column));
        of.map(|field| field.data_type().clone()).collect()
    };
    let mixed: Vec<bool> = (0..width)
        .map(|column| has_both_units(&types(&inputs, column)))
        .collect();
    if mixed.contains(&true) {
        for input in &mut inputs {
            let columns = input.schema().iter().zip(&mixed);
            let columns = columns.map(|((qualifier, field), is_mixed)| {
                let mut column = Expr::from((qualifier, field));
                if *is_mixed && to_microseconds(&mut column, field.data_type()) {
                    column = column.alias_qualified(qualifier.cloned(), field.name());
                }
                column
            });
            let columns: Vec<Expr> = columns.collect();
            let projected = LogicalPlanBuilder::from(Arc::clone(input)).project(columns)?;
            *input = Arc::new(projected.build()?);
        }
    }
    let fields = schema
        .iter()
        .enumerate()
        .map(|(column, (qualifier, field))| {
            let mut of = inputs.iter().map(|input| input.schema().field(column));
            let is_nullable = of.clone().any(|field| field.is_nullable());
            let first = of.find(|field| !field.data_type().is_null());
            let of = first.map_or(field.data_type(), |field| field.data_type());
            let field = Field::clone(field).with_data_type(of.clone());
            let field = field.with_nullable(is_nullable);
            (qualifier.cloned(), Arc::new(field))
        });
    let metadata = schema.metadata().clone();
    let schema = DFSchema::new_with_metadata(fields.collect(), metadata)?;
    Ok(LogicalPlan::Union(Union {
        inputs,
        schema: Arc::new(schema),
    }))
}

/// Whether these types include times in nanoseconds and times in microseconds.
fn has_both_units(types: &[DataType]) -> bool {
    types.iter().any(is_in_microseconds) && types.iter().any(|of| micros_of(of).is_some())
}

fn is_in_microseconds(of: &DataType) -> bool {
    match of {
        DataType::Timestamp(unit, _) | DataType::Duration(unit) => *unit == TimeUnit::Microsecond,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            is_in_microseconds(field.data_type())
        }
        _ => false,
    }
}

/// Casts an expression of nanoseconds; returns whether it is one.
fn to_microseconds(expr: &mut Expr, of: &DataType) -> bool {
    let Some(micros) = micros_of(of) else {
        return false;
    };
    *expr = Expr::Cast(Cast::new(Box::new(std::mem::take(expr)), micros));
    true
}

/// Processes an expression node whose operands get one type: none stays in nanoseconds if another is in microseconds.
fn of_one_unit(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let changed = match &mut expr {
        Expr::ScalarFunction(function) if is_of_one_type(function.func.name()) => {
            equal(function.args.iter_mut().collect(), schema)
        }
        Expr::InSubquery(of) => rows_of_one_unit(&mut of.expr, &mut of.subquery, schema)?,
        Expr::SetComparison(of) => rows_of_one_unit(&mut of.expr, &mut of.subquery, schema)?,
        other => {
            let mut changed = false;
            for all in of_one_type(other) {
                changed |= equal(all, schema);
            }
            changed
        }
    };
    Ok(Transformed::new_transformed(expr, changed))
}

/// The same for a value and the rows that it is compared with.
fn rows_of_one_unit(expr: &mut Expr, subquery: &mut Subquery, schema: &DFSchema) -> Result<bool> {
    let rows = Arc::clone(&subquery.subquery);
    let [field] = rows.schema().fields().as_ref() else {
        return Ok(false);
    };
    let Ok(of_expr) = expr.get_type(schema) else {
        return Ok(false);
    };
    let types = [of_expr, field.data_type().clone()];
    if !has_both_units(&types) {
        return Ok(false);
    }
    to_microseconds(expr, &types[0]);
    cast_rows(subquery, |column| to_microseconds(column, &types[1]))?;
    Ok(true)
}

/// Casts the expressions of nanoseconds if there is one of microseconds; returns whether any was cast.
fn equal(all: Vec<&mut Expr>, schema: &DFSchema) -> bool {
    // A value without a type yet, such as a parameter, gets one later.
    let types = all.iter().map(|expr| expr.get_type(schema));
    let types: Vec<DataType> = types.map(|of| of.unwrap_or(DataType::Null)).collect();
    if !has_both_units(&types) {
        return false;
    }
    for (expr, of) in all.into_iter().zip(&types) {
        to_microseconds(expr, of);
    }
    true
}

/// The microsecond type for a nanosecond type.
fn micros_of(of: &DataType) -> Option<DataType> {
    let within = |field: &Arc<Field>| {
        let of = micros_of(field.data_type())?;
        Some(Arc::new(Field::clone(field).with_data_type(of)))
    };
    match of {
        DataType::List(field) => within(field).map(DataType::List),
        DataType::LargeList(field) => within(field).map(DataType::LargeList),
        DataType::FixedSizeList(field, size) => {
            within(field).map(|field| DataType::FixedSizeList(field, *size))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, None) => Some(timestamp()),
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
        }
        DataType::Duration(TimeUnit::Nanosecond) => Some(DataType::Duration(TimeUnit::Microsecond)),
        _ => None,
    }
}

/// Processes an expression node with a cast to nanoseconds; columns in nanoseconds, which files may have, are cast too.
fn in_microseconds(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::Cast(cast) => match micros_of(cast.field.data_type()) {
            Some(of) => Transformed::yes(Expr::Cast(Cast::new(cast.expr, of))),
            None => Transformed::no(Expr::Cast(cast)),
        },
        Expr::TryCast(cast) => match micros_of(cast.field.data_type()) {
            Some(of) => Transformed::yes(Expr::TryCast(TryCast::new(cast.expr, of))),
            None => Transformed::no(Expr::TryCast(cast)),
        },
        Expr::Column(_) => match expr.get_type(schema).ok().as_ref().and_then(micros_of) {
            Some(of) => Transformed::yes(Expr::Cast(Cast::new(Box::new(expr), of))),
            None => Transformed::no(expr),
        },
        other => Transformed::no(other),
    })
}
