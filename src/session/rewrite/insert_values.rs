//! Rewrites of VALUES rows in an INSERT.
//!
//! The engine declares these rows with the types of the target columns, NOT NULL included, but with names of its own: a NULL
//! would be an error about `column1`. Here every value may be NULL; the table refuses NULL by the name of its column.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::{DmlStatement, LogicalPlan, Projection, Values};

/// The plan, in which inserted rows of VALUES may have NULL in any column.
pub(crate) fn with_nullable_values(plan: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Dml(insert) = &plan else {
        return Ok(plan);
    };
    let Some(input) = nullable(&insert.input)? else {
        return Ok(plan);
    };
    Ok(LogicalPlan::Dml(DmlStatement::new(
        insert.table_name.clone(),
        Arc::clone(&insert.target),
        insert.op.clone(),
        Arc::new(input),
    )))
}

/// VALUES below projections; `None` for any other plan.
fn nullable(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::Values(values) => {
            let fields = values.schema.iter().map(|(qualifier, field)| {
                let field = field.as_ref().clone().with_nullable(true);
                (qualifier.cloned(), Arc::new(field))
            });
            let metadata = values.schema.metadata().clone();
            let schema = DFSchema::new_with_metadata(fields.collect(), metadata)?;
            Ok(Some(LogicalPlan::Values(Values {
                schema: Arc::new(schema),
                values: values.values.clone(),
            })))
        }
        LogicalPlan::Projection(projection) => {
            let Some(input) = nullable(&projection.input)? else {
                return Ok(None);
            };
            let above = Projection::try_new(projection.expr.clone(), Arc::new(input))?;
            Ok(Some(LogicalPlan::Projection(above)))
        }
        _ => Ok(None),
    }
}
