//! Rows of VALUES that are inserted.
//!
//! The engine declares them as the columns they go into, NOT NULL included, but by names of its own: a NULL would be an error of
//! `column1`. Here any of them may be NULL; the table says which of its columns may not, by their names.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::{DmlStatement, LogicalPlan, Projection, Values};

/// The plan, in which rows of VALUES may be NULL if they are inserted.
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

/// VALUES below projections; `None` if `plan` is something else.
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
