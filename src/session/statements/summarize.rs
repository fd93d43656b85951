//! SUMMARIZE: statistics of each column of a table or query, in one pass over its rows.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue, UnnestOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, col, lit, when};

use crate::planner::types::type_name;

/// The columns of a summary.
const NAMES: [&str; 12] = [
    "column_name",
    "column_type",
    "min",
    "max",
    "approx_unique",
    "avg",
    "std",
    "q25",
    "q50",
    "q75",
    "count",
    "null_percentage",
];

/// One row for each column of `input`: its name, type, extremes, number of distinct values, mean, deviation, quartiles, number
/// of rows, and share of NULLs. Statistics that a type does not have are NULL.
///
/// # Errors
///
/// `input` has no columns.
pub(crate) fn summary(
    state: &SessionState,
    input: LogicalPlan,
    labels: &[String],
) -> Result<LogicalPlan> {
    let columns: Vec<(Expr, DataType)> = input
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let column = Column::from((qualifier, field.as_ref()));
            (Expr::Column(column), field.data_type().clone())
        })
        .collect();
    let rows = aggregate(state, "count", vec![lit(1_i64)])?.alias("rows");
    let mut aggregates = vec![rows];
    let mut summaries = Vec::with_capacity(columns.len());
    for (place, ((column, data_type), label)) in columns.iter().zip(labels).enumerate() {
        let is_number = data_type.is_numeric();
        let is_plain = !data_type.is_nested() && *data_type != DataType::Null;
        let mut add = |name: &str, has: bool, arguments: Vec<Expr>, to: DataType| -> Result<Expr> {
            if !has {
                return Ok(Expr::Literal(ScalarValue::try_from(&to)?, None));
            }
            let alias = format!("{name} {} {place}", aggregates.len());
            aggregates.push(aggregate(state, name, arguments)?.alias(&alias));
            Ok(cast(col(Column::new_unqualified(alias)), to))
        };
        let double = || cast(column.clone(), DataType::Float64);
        let one = || vec![column.clone()];
        let quantile = |at: f64| vec![double(), lit(at)];
        let has_unique = is_plain && !data_type.is_floating();
        let has_order = is_plain && !matches!(data_type, DataType::Interval(_));
        let values = [
            lit(label.as_str()),
            lit(type_name(data_type)),
            add("min", has_order, one(), DataType::Utf8)?,
            add("max", has_order, one(), DataType::Utf8)?,
            add("approx_distinct", has_unique, one(), DataType::Int64)?,
            add("avg", is_number, vec![double()], DataType::Float64)?,
            add("stddev", is_number, vec![double()], DataType::Float64)?,
            add(
                "approx_percentile_cont",
                is_number,
                quantile(0.25),
                DataType::Float64,
            )?,
            add(
                "approx_percentile_cont",
                is_number,
                quantile(0.5),
                DataType::Float64,
            )?,
            add(
                "approx_percentile_cont",
                is_number,
                quantile(0.75),
                DataType::Float64,
            )?,
            col("rows"),
            null_percentage(add("count", true, one(), DataType::Float64)?)?,
        ];
        summaries.push(values);
    }
    // One row holds everything: a list for each column of the summary, which UNNEST turns into rows.
    let list = |(place, name): (usize, &&str)| -> Result<Expr> {
        let values = summaries.iter().map(|values| values[place].clone());
        Ok(scalar(state, "make_array", values.collect())?.alias(*name))
    };
    let lists = NAMES.iter().enumerate().map(list);
    let names = NAMES.iter().map(|name| Column::new_unqualified(*name));
    LogicalPlanBuilder::from(input)
        .aggregate(Vec::<Expr>::new(), aggregates)?
        .project(lists.collect::<Result<Vec<_>>>()?)?
        .unnest_columns_with_options(names.collect(), UnnestOptions::default())?
        .build()
}

/// The percentage of NULLs among all rows; NULL if there are no rows.
fn null_percentage(count: Expr) -> Result<Expr> {
    let rows = cast(col("rows"), DataType::Float64);
    let share = lit(100.0) - lit(100.0) * count / rows;
    when(col("rows").gt(lit(0_i64)), share).end()
}

fn aggregate(state: &SessionState, name: &str, arguments: Vec<Expr>) -> Result<Expr> {
    let function = state.aggregate_functions().get(name);
    let function = function.ok_or_else(|| DataFusionError::Internal(format!("no {name}()")))?;
    Ok(Arc::clone(function).call(arguments))
}

fn scalar(state: &SessionState, name: &str, arguments: Vec<Expr>) -> Result<Expr> {
    let function = state.scalar_functions().get(name);
    let function = function.ok_or_else(|| DataFusionError::Internal(format!("no {name}()")))?;
    Ok(Arc::clone(function).call(arguments))
}
