//! Correlated scalar subqueries without an aggregate: `(SELECT x FROM u WHERE u.k = t.k)`.
//!
//! DataFusion makes joins only of those with an aggregate. Here a subquery that should return one row for each outer row
//! returns the list of its values, and the value is taken out of the list above the join: several rows with one key are an
//! error only if an outer row asks for that key. With LIMIT 1 the first value is taken, in the requested order.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, Int32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, Result, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::array_agg::array_agg;
use datafusion::functions_aggregate::first_last::first_value;
use datafusion::logical_expr::{
    ColumnarValue, Expr, FetchType, Limit, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, SkipType, SortExpr, Subquery, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use crate::diagnostic::data_error;
use crate::operands::{any_expr, has_part, map_named_expressions};

/// The column of such a subquery. The engine adds the columns that are compared with the outer row: the name must differ from
/// theirs.
const VALUE: &str = "__value";

/// Gives such subqueries an aggregate. It runs after the rules that move them to filters and projections.
#[derive(Debug)]
pub(crate) struct SingleValueSubqueries;

impl AnalyzerRule for SingleValueSubqueries {
    fn name(&self) -> &str {
        "one_value"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let mut any = false;
        let changed = plan.transform_up_with_subqueries(|plan| {
            let has_any = any_expr(&plan, |expr| has_part(expr, is_one_value));
            let changed = match has_any {
                true => map_named_expressions(plan, |expr| expr.transform_up(valued))?,
                false => Transformed::no(plan),
            };
            any |= changed.transformed;
            // The nullability has changed, also for the operators above.
            match any {
                true => changed.map_data(LogicalPlan::recompute_schema),
                false => Ok(changed),
            }
        })?;
        Ok(changed.data)
    }
}

/// Whether this is a scalar subquery that the engine would refuse for several rows, or for its LIMIT.
fn is_one_value(expr: &Expr) -> bool {
    let Expr::ScalarSubquery(subquery) = expr else {
        return false;
    };
    let plan = subquery.subquery.as_ref();
    if subquery.outer_ref_columns.is_empty() || plan.schema().fields().len() != 1 {
        return false;
    }
    match plan {
        LogicalPlan::Limit(limit) => first(limit).is_some(),
        _ => !is_aggregated(plan) && plan.max_rows().is_none_or(|rows| rows > 1),
    }
}

/// Whether a plan has an aggregate on top: the engine checks those itself.
fn is_aggregated(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_aggregated(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_aggregated(&alias.input),
        LogicalPlan::Filter(filter) => matches!(*filter.input, LogicalPlan::Aggregate(_)),
        LogicalPlan::Aggregate(_) => true,
        _ => false,
    }
}

/// The subquery with an aggregate.
fn valued(expr: Expr) -> Result<Transformed<Expr>> {
    if !is_one_value(&expr) {
        return Ok(Transformed::no(expr));
    }
    let Expr::ScalarSubquery(subquery) = expr else {
        return Ok(Transformed::no(expr));
    };
    let (rows, is_first) = match subquery.subquery.as_ref() {
        LogicalPlan::Limit(limit) => match first(limit) {
            Some(FirstRowLimit::One) => (limit.input.as_ref(), true),
            Some(FirstRowLimit::Several) => (limit.input.as_ref(), false),
            None => return Ok(Transformed::no(Expr::ScalarSubquery(subquery))),
        },
        other => (other, false),
    };
    if is_aggregated(rows) {
        // It has one row for each outer row anyway, or groups, which the engine checks.
        let rows = Arc::new(rows.clone());
        let subquery = with_plan(&subquery, rows);
        return Ok(Transformed::yes(Expr::ScalarSubquery(subquery)));
    }
    let SortedValue { value, keys, input } = sorted(rows);
    let aggregate = match is_first {
        true => first_value(value, keys),
        false => array_agg(value),
    };
    let plan = LogicalPlanBuilder::from(input.clone());
    let plan = plan.aggregate(Vec::<Expr>::new(), [aggregate])?.build()?;
    let columns = plan.schema().columns().into_iter();
    let columns = columns.map(|column| Expr::Column(column).alias(VALUE));
    let plan = LogicalPlanBuilder::from(plan).project(columns)?.build()?;
    let of_row = Expr::ScalarSubquery(with_plan(&subquery, Arc::new(plan)));
    Ok(Transformed::yes(match is_first {
        true => of_row,
        false => single_value(of_row),
    }))
}

fn with_plan(subquery: &Subquery, plan: Arc<LogicalPlan>) -> Subquery {
    Subquery {
        subquery: plan,
        outer_ref_columns: subquery.outer_ref_columns.clone(),
        spans: subquery.spans.clone(),
    }
}

/// A LIMIT that starts at the first row.
enum FirstRowLimit {
    One,
    /// Has no effect: more than one row is an error either way.
    Several,
}

fn first(limit: &Limit) -> Option<FirstRowLimit> {
    let (Ok(SkipType::Literal(0)), Ok(FetchType::Literal(fetch))) =
        (limit.get_skip_type(), limit.get_fetch_type())
    else {
        return None;
    };
    match fetch {
        Some(0) => None,
        Some(1) => Some(FirstRowLimit::One),
        _ => Some(FirstRowLimit::Several),
    }
}

/// The value of a subquery's rows, and its sort keys.
struct SortedValue<'p> {
    value: Expr,
    keys: Vec<SortExpr>,
    input: &'p LogicalPlan,
}

fn sorted(rows: &LogicalPlan) -> SortedValue<'_> {
    let column = |plan: &LogicalPlan| Expr::Column(Column::from(plan.schema().qualified_field(0)));
    let (value, below) = match rows {
        LogicalPlan::Projection(projection) => match projection.expr.first() {
            Some(value) => (value.clone().unalias(), projection.input.as_ref()),
            None => (column(rows), rows),
        },
        other => (column(other), other),
    };
    // Above computed keys the engine puts a projection that removes them.
    let below = match below {
        LogicalPlan::Projection(list)
            if matches!(list.input.as_ref(), LogicalPlan::Sort(_))
                && list.expr.iter().all(|expr| matches!(expr, Expr::Column(_))) =>
        {
            list.input.as_ref()
        }
        other => other,
    };
    match below {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => SortedValue {
            value,
            keys: sort.expr.clone(),
            input: &sort.input,
        },
        other => SortedValue {
            value,
            keys: Vec::new(),
            input: other,
        },
    }
}

/// The only value of a list; NULL for an empty one.
fn single_value(list: Expr) -> Expr {
    let function = ScalarUDF::from(SingleValue {
        signature: Signature::any(1, Volatility::Immutable),
    });
    function.call(vec![list])
}

/// It is not strict: otherwise the engine might evaluate it below the join, for keys that no outer row asks for.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SingleValue {
    signature: Signature,
}

impl ScalarUDFImpl for SingleValue {
    fn name(&self) -> &str {
        "single_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [DataType::List(of)] => Ok(of.data_type().clone()),
            _ => plan_err!("single_value takes a list"),
        }
    }

    fn is_strict(&self) -> bool {
        false
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(lists) = args.args.first() else {
            return plan_err!("single_value takes a list");
        };
        let lists = lists.to_array(args.number_rows)?;
        let Some(lists) = lists.as_list_opt::<i32>() else {
            return plan_err!("single_value takes a list");
        };
        let mut places = Vec::with_capacity(lists.len());
        for (row, bounds) in lists.value_offsets().windows(2).enumerate() {
            let length = match bounds {
                [begin, end] if lists.is_valid(row) => end - begin,
                _ => 0,
            };
            places.push(match length {
                0 => None,
                1 => bounds.first().copied(),
                _ => {
                    return Err(data_error(
                        "a subquery that is to give one value has several rows for one outer row",
                        "choose one by an aggregate, (SELECT max(x) …), or by ORDER BY … LIMIT 1",
                    ));
                }
            });
        }
        let values = take(lists.values(), &Int32Array::from(places), None)?;
        Ok(ColumnarValue::Array(values))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::ListArray;
    use arrow::datatypes::{Field, Int64Type};

    use super::*;

    fn of_lists(lists: Vec<Option<Vec<Option<i64>>>>) -> Result<Vec<Option<i64>>> {
        let rows = lists.len();
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
        let field = |of: &DataType| Arc::new(Field::new("f", of.clone(), true));
        let function = SingleValue {
            signature: Signature::any(1, Volatility::Immutable),
        };
        let values = function.invoke_with_args(ScalarFunctionArgs {
            arg_fields: vec![field(lists.data_type())],
            args: vec![ColumnarValue::Array(Arc::new(lists))],
            number_rows: rows,
            return_field: field(&DataType::Int64),
            config_options: Arc::default(),
        })?;
        let values = values.into_array(rows)?;
        Ok(values.as_primitive::<Int64Type>().iter().collect())
    }

    #[test]
    fn one_value_is_returned_and_several_are_refused() {
        let lists = vec![
            Some(vec![Some(7)]),
            None,
            Some(vec![]),
            Some(vec![None]),
            Some(vec![Some(9)]),
        ];
        let expected = [Some(7), None, None, None, Some(9)];
        assert_eq!(of_lists(lists).unwrap(), expected);
        let several = of_lists(vec![Some(vec![Some(1)]), Some(vec![None, None])]);
        assert!(several.unwrap_err().to_string().contains("several rows"));
        assert!(of_lists(Vec::new()).unwrap().is_empty());
    }
}
