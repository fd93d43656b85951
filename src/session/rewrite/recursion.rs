//! Check of WITH RECURSIVE for a second SELECT that would lose digits.
//!
//! The engine casts each step to the types of the first SELECT. With `SELECT 1.0 AS x UNION ALL SELECT x / 2 …` the type of
//! `1.0` has one digit after the point: each step would be rounded, and some recursions would never end.

use std::collections::HashMap;
use std::ops::ControlFlow;

use anabranch_udfs::Walk;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr as Logical, ExprSchemable as _, LogicalPlan, RecursiveQuery};
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Query, SelectItem, SetExpr, Statement as AnsiStatement, Visitor,
};

use crate::error::{Error, Result};
use crate::planner::normalize;
use crate::planner::types::type_name;

/// Refuses a recursion of this statement whose steps would lose digits. The recursions of views are checked where views are
/// planned.
///
/// # Errors
///
/// A step would lose digits.
pub(crate) fn check(plan: &LogicalPlan, statement: &SqlStatement) -> Result<()> {
    let mut lost = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::RecursiveQuery(query) = node {
            let mut typed = CastColumns::default();
            if let SqlStatement::Statement(ansi) = statement {
                let ansi: &AnsiStatement = ansi;
                let _ = ansi.walk(&mut typed);
            }
            if let Some(casts) = typed.casts.get(&query.name) {
                lost = loss(query, casts)?;
            }
        }
        Ok(match lost {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })?;
    let Some(lost) = lost else {
        return Ok(());
    };
    let message = format!(
        "WITH RECURSIVE {}: column {} is {} in the first SELECT and {} in the second, which would lose digits",
        lost.name,
        lost.column,
        type_name(&lost.first),
        type_name(&lost.second)
    );
    Err(Error::invalid(message).with_help(format!(
        "CAST the column to one type in both, as in CAST({} AS DOUBLE)",
        lost.column
    )))
}

struct LossyCasts {
    name: String,
    column: String,
    first: DataType,
    second: DataType,
}

/// The first column of a recursion that loses digits by an implicit cast.
fn loss(query: &RecursiveQuery, casts: &[bool]) -> DataFusionResult<Option<LossyCasts>> {
    let LogicalPlan::Projection(projection) = query.recursive_term.as_ref() else {
        return Ok(None);
    };
    let fields = query.static_term.schema().fields().iter();
    for (place, (expr, field)) in projection.expr.iter().zip(fields).enumerate() {
        let is_typed = casts.get(place).copied().unwrap_or(false);
        let mut expr = expr;
        while let Logical::Alias(alias) = expr {
            expr = &alias.expr;
        }
        let Logical::Cast(cast) = expr else {
            continue;
        };
        let (first, second) = (
            field.data_type(),
            cast.expr.get_type(projection.input.schema().as_ref())?,
        );
        if !is_typed && cast.field.data_type() == first && loses(&second, first) {
            return Ok(Some(LossyCasts {
                name: query.name.clone(),
                column: field.name().clone(),
                first: first.clone(),
                second,
            }));
        }
    }
    Ok(None)
}

/// Whether a cast silently loses digits.
fn loses(from: &DataType, to: &DataType) -> bool {
    let scale = |of: &DataType| match of {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => Some(*scale),
        of if of.is_integer() => Some(0),
        _ => None,
    };
    match (scale(from), scale(to)) {
        (Some(from), Some(to)) => from > to,
        (None, Some(_)) => from.is_floating(),
        (_, None) => match to {
            DataType::Float32 => *from == DataType::Float64,
            DataType::Date32 => matches!(from, DataType::Timestamp(..)),
            _ => false,
        },
    }
}

/// For the recursions of a text, which columns of the second SELECT are explicit casts.
#[derive(Default)]
struct CastColumns {
    casts: HashMap<String, Vec<bool>>,
}

impl Visitor for CastColumns {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let Some(with) = query.with.as_ref().filter(|with| with.recursive) else {
            return ControlFlow::Continue(());
        };
        for table in &with.cte_tables {
            let SetExpr::SetOperation { right, .. } = table.query.body.as_ref() else {
                continue;
            };
            let casts = match right.as_ref() {
                SetExpr::Select(select) => select.projection.iter().map(is_cast).collect(),
                _ => Vec::new(),
            };
            self.casts.insert(normalize(&table.alias.name), casts);
        }
        ControlFlow::Continue(())
    }
}

fn is_cast(item: &SelectItem) -> bool {
    let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
        return false;
    };
    let mut expr = expr;
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    matches!(expr, Expr::Cast { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_that_round_are_losses() {
        let decimal = |scale| DataType::Decimal128(10, scale);
        for (from, to, expected) in [
            (decimal(2), decimal(1), true),
            (decimal(1), decimal(2), false),
            (DataType::Float64, decimal(2), true),
            (decimal(1), DataType::Int64, true),
            (DataType::Int64, DataType::Int32, false),
            (DataType::Int64, decimal(0), false),
            (decimal(3), DataType::Float64, false),
            (DataType::Float64, DataType::Int64, true),
            (DataType::Float64, DataType::Float32, true),
        ] {
            assert_eq!(loses(&from, &to), expected, "{from} to {to}");
        }
    }
}
