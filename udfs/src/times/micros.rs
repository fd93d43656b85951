//! Casts to nanoseconds, which DataFusion adds where times meet dates, texts and other times, become casts to microseconds.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, TryCast, Union, Values};
use datafusion::optimizer::AnalyzerRule;

use super::timestamp;

/// Takes casts to nanoseconds out of a plan: once before types are made equal, for those of the text, and once behind.
#[derive(Debug)]
pub struct MicrosecondTime;

impl AnalyzerRule for MicrosecondTime {
    fn name(&self) -> &str {
        "microsecond_time"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let mut has_any = false;
        plan.apply_with_subqueries(|node| {
            has_any |= node.expressions().iter().any(has_nanoseconds);
            Ok(match has_any {
                true => datafusion::common::tree_node::TreeNodeRecursion::Stop,
                false => datafusion::common::tree_node::TreeNodeRecursion::Continue,
            })
        })?;
        if !has_any {
            return Ok(plan);
        }
        let changed = plan.transform_up_with_subqueries(|node| {
            let schema = inputs(&node)?;
            let names = NamePreserver::new(&node);
            let node = node.map_expressions(|expr| {
                if !has_nanoseconds(&expr) {
                    return Ok(Transformed::no(expr));
                }
                let name = names.save(&expr);
                let micros = expr.transform_up(|expr| in_microseconds(expr, &schema))?;
                Ok(micros.update_data(|expr| name.restore(expr)))
            })?;
            // Types of inputs may have changed as well.
            node.transform_data(|node| Ok(Transformed::yes(with_schema(node)?)))
        })?;
        Ok(changed.data)
    }
}

/// The same in one expression over these columns.
///
/// # Errors
///
/// None in practice.
pub fn with_microseconds(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(expr
        .transform_up(|expr| in_microseconds(expr, schema))?
        .data)
}

/// The columns that expressions of a plan may name.
fn inputs(plan: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = plan {
        schema.merge(&DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &scan.source.schema(),
        )?);
    }
    Ok(schema)
}

fn with_schema(plan: LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Union(union) => Ok(LogicalPlan::Union(Union::try_new(union.inputs)?)),
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
    let found = expr.exists(|node| {
        Ok(match node {
            Expr::Cast(cast) => micros_of(cast.field.data_type()).is_some(),
            Expr::TryCast(cast) => micros_of(cast.field.data_type()).is_some(),
            _ => false,
        })
    });
    found.unwrap_or(true)
}

/// The type in microseconds of one in nanoseconds.
fn micros_of(of: &DataType) -> Option<DataType> {
    match of {
        DataType::Timestamp(TimeUnit::Nanosecond, None) => Some(timestamp()),
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
        }
        DataType::Duration(TimeUnit::Nanosecond) => Some(DataType::Duration(TimeUnit::Microsecond)),
        _ => None,
    }
}

/// One node of an expression with a cast to nanoseconds; columns in nanoseconds, which files may have, are cast too.
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
