//! DOUBLE with DECIMAL is DOUBLE, wherever two values get one type.
//!
//! DataFusion's planner makes both a DECIMAL(30, 15) where they are compared: that has no NaN, no infinity, no large number, and
//! only 15 digits behind the point. [`DoubleBeforeDecimal`] is an analyzer rule that casts the decimals to DOUBLE before types are
//! made equal. Arithmetic needs no help: there the library itself chooses DOUBLE.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ExprSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{InList, InSubquery};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, Case, Cast, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Union,
};
use datafusion::optimizer::AnalyzerRule;

/// Functions whose arguments get one type.
const OF_ONE_TYPE: [&str; 8] = [
    "coalesce",
    "greatest",
    "ifnull",
    "least",
    "make_array",
    "nullif",
    "nvl",
    "nvl2",
];

/// Casts decimals to DOUBLE where they meet numbers with a floating point.
#[derive(Debug)]
pub struct DoubleBeforeDecimal;

impl AnalyzerRule for DoubleBeforeDecimal {
    fn name(&self) -> &str {
        "double_before_decimal"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = plan.transform_up_with_subqueries(|node| {
            let node = match node {
                LogicalPlan::Union(union) => with_equal_columns(union)?,
                LogicalPlan::Join(mut join) => {
                    let (left, right) = (join.left.schema(), join.right.schema());
                    for (of_left, of_right) in &mut join.on {
                        let types = [
                            of_left.get_type(left.as_ref())?,
                            of_right.get_type(right.as_ref())?,
                        ];
                        if meet(&types) {
                            let (cast_left, cast_right) = (of_left.clone(), of_right.clone());
                            *of_left = as_double(cast_left, &types[0]);
                            *of_right = as_double(cast_right, &types[1]);
                        }
                    }
                    LogicalPlan::Join(join)
                }
                other => other,
            };
            let mut schema = merge_schema(&node.inputs());
            if let LogicalPlan::TableScan(scan) = &node {
                let of_table = DFSchema::try_from_qualified_schema(
                    scan.table_name.clone(),
                    &scan.source.schema(),
                )?;
                schema.merge(&of_table);
            }
            let names = NamePreserver::new(&node);
            let node = node.map_expressions(|expr| {
                let name = names.save(&expr);
                let changed = expr.transform_up(|expr| in_doubles(expr, &schema))?;
                Ok(changed.update_data(|expr| name.restore(expr)))
            })?;
            node.transform_data(|node| Ok(Transformed::yes(node.recompute_schema()?)))
        })?;
        Ok(changed.data)
    }
}

/// The same in one expression over these columns.
///
/// # Errors
///
/// The expression has no type.
pub fn with_doubles(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(expr.transform_up(|expr| in_doubles(expr, schema))?.data)
}

/// One node of an expression.
fn in_doubles(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(mut binary) if binary.op.supports_propagation() => {
            let changed = equal([&mut *binary.left, &mut *binary.right], schema)?;
            Ok(transformed(Expr::BinaryExpr(binary), changed))
        }
        Expr::Between(Between {
            mut expr,
            negated,
            mut low,
            mut high,
        }) => {
            let changed = equal([&mut *expr, &mut *low, &mut *high], schema)?;
            let between = Between::new(expr, negated, low, high);
            Ok(transformed(Expr::Between(between), changed))
        }
        Expr::InList(InList {
            mut expr,
            mut list,
            negated,
        }) => {
            let all = std::iter::once(&mut *expr).chain(&mut list);
            let changed = equal(all, schema)?;
            let list = InList::new(expr, list, negated);
            Ok(transformed(Expr::InList(list), changed))
        }
        Expr::InSubquery(in_subquery) => in_rows(in_subquery, schema),
        Expr::Case(mut case) => {
            let changed = equal_in_case(&mut case, schema)?;
            Ok(transformed(Expr::Case(case), changed))
        }
        Expr::ScalarFunction(mut function) if OF_ONE_TYPE.contains(&function.func.name()) => {
            let changed = equal(&mut function.args, schema)?;
            Ok(transformed(Expr::ScalarFunction(function), changed))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn equal_in_case(case: &mut Case, schema: &DFSchema) -> Result<bool> {
    let mut changed = false;
    if let Some(expr) = &mut case.expr {
        let whens = case.when_then_expr.iter_mut().map(|(when, _)| &mut **when);
        changed |= equal(std::iter::once(&mut **expr).chain(whens), schema)?;
    }
    let thens = case.when_then_expr.iter_mut().map(|(_, then)| &mut **then);
    let otherwise = case.else_expr.iter_mut().map(|expr| &mut **expr);
    changed |= equal(thens.chain(otherwise), schema)?;
    Ok(changed)
}

/// `x IN (SELECT …)`: the rows of the query, or the value, become DOUBLE.
fn in_rows(mut of: InSubquery, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let rows = Arc::clone(&of.subquery.subquery);
    let [field] = rows.schema().fields().as_ref() else {
        return Ok(Transformed::no(Expr::InSubquery(of)));
    };
    let types = [of.expr.get_type(schema)?, field.data_type().clone()];
    if !meet(&types) {
        return Ok(Transformed::no(Expr::InSubquery(of)));
    }
    if types[1].is_decimal() {
        let column = Expr::Column(rows.schema().columns().remove(0));
        let name = column.schema_name().to_string();
        let rows =
            LogicalPlanBuilder::from(rows).project([as_double(column, &types[1]).alias(name)])?;
        of.subquery = of.subquery.with_plan(Arc::new(rows.build()?));
    }
    *of.expr = as_double(*of.expr, &types[0]);
    Ok(Transformed::yes(Expr::InSubquery(of)))
}

/// Casts the decimals among these to DOUBLE if there is a number with a floating point; whether any was.
fn equal<'a>(all: impl IntoIterator<Item = &'a mut Expr>, schema: &dyn ExprSchema) -> Result<bool> {
    let all: Vec<&mut Expr> = all.into_iter().collect();
    let types = all.iter().map(|expr| expr.get_type(schema));
    let types = types.collect::<Result<Vec<DataType>>>()?;
    if !meet(&types) {
        return Ok(false);
    }
    for (expr, of) in all.into_iter().zip(&types) {
        *expr = as_double(std::mem::take(expr), of);
    }
    Ok(true)
}

/// A union whose columns are DOUBLE in each input where they are in one, and decimals in others.
fn with_equal_columns(union: Union) -> Result<LogicalPlan> {
    let width = union.schema.fields().len();
    let schemas = union.inputs.iter().map(|input| input.schema());
    if schemas.clone().any(|schema| schema.fields().len() != width) {
        return Ok(LogicalPlan::Union(union));
    }
    let types = |column: usize| {
        let of = schemas
            .clone()
            .map(move |schema| schema.field(column).data_type().clone());
        of.collect::<Vec<_>>()
    };
    let double: Vec<bool> = (0..width).map(|column| meet(&types(column))).collect();
    if !double.contains(&true) {
        return Ok(LogicalPlan::Union(union));
    }
    let inputs = union.inputs.iter().map(|input| {
        let schema = input.schema();
        let columns = schema
            .iter()
            .zip(&double)
            .map(|((qualifier, field), double)| {
                let column = Expr::from((qualifier, field));
                match double {
                    true => as_double(column, field.data_type())
                        .alias_qualified(qualifier.cloned(), field.name()),
                    false => column,
                }
            });
        let input = LogicalPlanBuilder::from(Arc::clone(input)).project(columns)?;
        Ok(Arc::new(input.build()?))
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?))
}

/// Whether there are numbers with a floating point among these, and decimals.
fn meet(types: &[DataType]) -> bool {
    types.iter().any(DataType::is_floating) && types.iter().any(DataType::is_decimal)
}

/// A decimal as DOUBLE, another value as it is.
fn as_double(expr: Expr, of: &DataType) -> Expr {
    match of.is_decimal() {
        true => Expr::Cast(Cast::new(Box::new(expr), DataType::Float64)),
        false => expr,
    }
}

fn transformed(expr: Expr, changed: bool) -> Transformed<Expr> {
    match changed {
        true => Transformed::yes(expr),
        false => Transformed::no(expr),
    }
}
