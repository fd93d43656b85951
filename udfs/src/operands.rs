//! The operands of expressions that get one type, for the analyzer rules that say which.

use std::sync::Arc;

use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery};

/// The columns that expressions of a plan may name.
pub(crate) fn inputs(plan: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = plan {
        schema.merge(&DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &scan.source.schema(),
        )?);
    }
    Ok(schema)
}

/// The operands of a node that get one type, in groups: both sides of an operator, what BETWEEN and IN compare, and of CASE the
/// values that are compared and the results. None of another node.
pub(crate) fn of_one_type(expr: &mut Expr) -> Vec<Vec<&mut Expr>> {
    match expr {
        Expr::BinaryExpr(binary) => vec![vec![&mut *binary.left, &mut *binary.right]],
        Expr::Between(between) => {
            vec![vec![
                &mut *between.expr,
                &mut *between.low,
                &mut *between.high,
            ]]
        }
        Expr::InList(of) => vec![std::iter::once(&mut *of.expr).chain(&mut of.list).collect()],
        Expr::Case(case) => {
            let branches = case.when_then_expr.iter_mut();
            let branches = branches.map(|(when, then)| (&mut **when, &mut **then));
            let (whens, mut results): (Vec<_>, Vec<_>) = branches.unzip();
            results.extend(case.else_expr.iter_mut().map(|expr| &mut **expr));
            // Without an operand they are conditions.
            match &mut case.expr {
                Some(of) => {
                    let compared = std::iter::once(&mut **of).chain(whens);
                    vec![compared.collect(), results]
                }
                None => vec![results],
            }
        }
        _ => Vec::new(),
    }
}

/// Puts what `cast` makes of it in the place of the only column of a subquery, if it says that it has changed it.
pub(crate) fn cast_rows(
    subquery: &mut Subquery,
    cast: impl FnOnce(&mut Expr) -> bool,
) -> Result<bool> {
    let rows = Arc::clone(&subquery.subquery);
    let mut column = Expr::Column(rows.schema().columns().remove(0));
    let name = column.schema_name().to_string();
    if !cast(&mut column) {
        return Ok(false);
    }
    let rows = LogicalPlanBuilder::from(rows).project([column.alias(name)])?;
    *subquery = subquery.with_plan(Arc::new(rows.build()?));
    Ok(true)
}
