//! One parse for all JSON functions that a projection calls over one text.
//!
//! `json_get_int(j, 'a'), json_get_str(j, 'b')` parse `j` once each. In their place one call of `json_values(j)` below the
//! projection parses it once for both, and the projection takes their results out of it. The optimizer has moved the calls of
//! conditions, aggregates and sort keys into projections before.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::functions::core as functions;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable as _, LogicalPlan, Operator, Projection, ScalarUDF, lit,
};

use crate::values::{JsonCall, json_values};

/// The calls over one text.
struct OneText {
    text: Expr,
    calls: Vec<JsonCall>,
    /// The column of their results.
    column: String,
}

/// Lets a projection parse each JSON text once. Only calls that are evaluated for every row are put together. `wrap` is applied to
/// their functions.
///
/// To be called right before physical planning, on each operator from the top: optimizer rules do not know the calls then.
///
/// # Errors
///
/// An expression whose type cannot be derived.
pub fn with_one_parse(
    plan: LogicalPlan,
    wrap: impl Fn(Arc<ScalarUDF>) -> Arc<ScalarUDF>,
) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Projection(projection) = &plan else {
        return Ok(Transformed::no(plan));
    };
    let texts = texts_of(projection)?;
    if texts.is_empty() {
        return Ok(Transformed::no(plan));
    }
    let input = projection.input.schema();
    let names = NamePreserver::new_for_projection();
    let taken = projection.expr.iter().map(|expr| {
        let name = names.save(expr);
        Ok(name.restore(taken_out(expr.clone(), &texts)?))
    });
    let taken = taken.collect::<Result<Vec<Expr>>>()?;
    let mut below = needed(&taken, input);
    for text in texts {
        let of_call = |call: JsonCall| {
            let (_, field) = call.over(&text.text).to_field(input)?;
            Ok((call.wrapped(&wrap), field))
        };
        let calls = text.calls.into_iter().map(of_call);
        let values = json_values(calls.collect::<Result<_>>()?);
        below.push(values.call(vec![text.text]).alias(text.column));
    }
    let below = Projection::try_new(below, Arc::clone(&projection.input))?;
    let below = Arc::new(LogicalPlan::Projection(below));
    let schema = Arc::clone(&projection.schema);
    let above = Projection::try_new_with_schema(taken, below, schema)?;
    Ok(Transformed::yes(LogicalPlan::Projection(above)))
}

/// The texts over which there are several calls.
fn texts_of(projection: &Projection) -> Result<Vec<OneText>> {
    let mut texts: Vec<(&Expr, Vec<JsonCall>)> = vec![];
    for expr in &projection.expr {
        collect(expr, &mut texts)?;
    }
    let input = projection.input.schema();
    let mut several: Vec<OneText> = vec![];
    for (text, calls) in texts {
        if calls.len() < 2 || !is_plain(text)? || !is_text(text, input)? {
            continue;
        }
        several.push(OneText {
            text: text.clone(),
            calls,
            column: free_name(several.len(), input),
        });
    }
    Ok(several)
}

/// Collects the calls in an expression that are evaluated for every row.
fn collect<'a>(expr: &'a Expr, texts: &mut Vec<(&'a Expr, Vec<JsonCall>)>) -> Result<()> {
    if let Some((text, call)) = JsonCall::of(expr) {
        match texts.iter_mut().find(|(known, _)| *known == text) {
            Some((_, calls)) if calls.contains(&call) => {}
            Some((_, calls)) => calls.push(call),
            None => texts.push((text, vec![call])),
        }
    }
    let always: Vec<&Expr> = match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And | Operator::Or,
            ..
        }) => vec![left],
        Expr::Case(case) => match (&case.expr, case.when_then_expr.first()) {
            (Some(value), _) => vec![value],
            (None, Some((when, _))) => vec![when],
            (None, None) => vec![],
        },
        Expr::HigherOrderFunction(_) | Expr::Lambda(_) => vec![],
        Expr::ScalarFunction(call) if call.func.short_circuits() => {
            match call.func.conditional_arguments(&call.args) {
                Some((always, _)) => always,
                None => vec![],
            }
        }
        other => {
            let mut children = vec![];
            other.apply_children(|child| {
                children.push(child);
                Ok(TreeNodeRecursion::Continue)
            })?;
            children
        }
    };
    always
        .into_iter()
        .try_for_each(|child| collect(child, texts))
}

/// Whether an expression depends on the columns of its row alone.
fn is_plain(text: &Expr) -> Result<bool> {
    let is_other = text.exists(|part| {
        Ok(matches!(
            part,
            Expr::OuterReferenceColumn(..)
                | Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::LambdaVariable(_)
        ))
    })?;
    Ok(!is_other && !text.is_volatile())
}

fn is_text(text: &Expr, input: &DFSchema) -> Result<bool> {
    use arrow::datatypes::DataType::{Utf8, Utf8View};
    Ok(matches!(text.get_type(input)?, Utf8 | Utf8View))
}

/// A name that no column has.
fn free_name(number: usize, input: &DFSchema) -> String {
    let mut name = format!("__json_values_{}", number + 1);
    while input.fields().iter().any(|field| *field.name() == name) {
        name.push('_');
    }
    name
}

/// The expression with the results of calls in place of the calls.
fn taken_out(expr: Expr, texts: &[OneText]) -> Result<Expr> {
    let taken = expr.transform_down(|part| {
        let result = JsonCall::of(&part).and_then(|(text, call)| {
            let known = texts.iter().find(|known| known.text == *text)?;
            known.calls.contains(&call).then(|| {
                let values = Expr::Column(Column::new_unqualified(&known.column));
                functions::get_field().call(vec![values, lit(call.name())])
            })
        });
        Ok(match result {
            Some(result) => Transformed::new(result, true, TreeNodeRecursion::Jump),
            None => Transformed::no(part),
        })
    })?;
    Ok(taken.data)
}

/// The columns of the input that expressions need.
fn needed(exprs: &[Expr], input: &DFSchema) -> Vec<Expr> {
    let mut places: Vec<usize> = exprs
        .iter()
        .flat_map(Expr::column_refs)
        .filter_map(|column| input.maybe_index_of_column(column))
        .collect();
    places.sort_unstable();
    places.dedup();
    places
        .into_iter()
        .map(|place| Expr::from(input.qualified_field(place)))
        .collect()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::logical_expr::{LogicalPlanBuilder, col, table_scan, when};
    use datafusion_functions_json::udfs::{json_as_text_udf, json_get_int_udf, json_get_str_udf};

    use super::*;

    fn rewritten(exprs: Vec<Expr>) -> Transformed<LogicalPlan> {
        let columns = [
            ("j", DataType::Utf8),
            ("k", DataType::Utf8View),
            ("b", DataType::Binary),
        ];
        let columns = columns.map(|(name, of)| Field::new(name, of, true));
        let scan = table_scan(Some("t"), &Schema::new(columns.to_vec()), None).unwrap();
        let plan = LogicalPlanBuilder::from(scan.build().unwrap());
        let plan = plan.project(exprs).unwrap().build().unwrap();
        let changed = with_one_parse(plan.clone(), |function| function).unwrap();
        assert_eq!(changed.data.schema(), plan.schema());
        changed
    }

    fn int(of: Expr, path: &str) -> Expr {
        json_get_int_udf().call(vec![of, lit(path)])
    }

    fn text(of: Expr, path: &str) -> Expr {
        json_as_text_udf().call(vec![of, lit(path)])
    }

    #[test]
    fn calls_over_one_text_are_put_together() {
        let plan = rewritten(vec![
            col("t.b"),
            int(col("t.j"), "a").alias("a"),
            int(col("t.j"), "a") + int(col("t.j"), "b"),
            text(col("t.k"), "a"),
            text(col("t.k"), "b"),
            col("t.k"),
        ]);
        assert!(plan.transformed);
        let plan = plan.data.display_indent().to_string();
        assert_eq!(plan.matches("json_values(t.j)").count(), 1, "{plan}");
        assert_eq!(plan.matches("json_values(t.k)").count(), 1, "{plan}");
        let below = plan.lines().nth(1).unwrap();
        assert!(below.contains("t.b, ") || below.contains("t.b,"), "{plan}");
        assert!(below.contains("t.k,"), "{plan}");
        assert!(!below.contains(" t.j,"), "{plan}");
    }

    #[test]
    fn a_cast_is_evaluated_once() {
        let cast = || datafusion::logical_expr::cast(col("b"), DataType::Utf8);
        let plan = rewritten(vec![int(cast(), "a"), text(cast(), "b")]);
        let plan = plan.data.display_indent().to_string();
        assert_eq!(plan.matches("CAST(t.b AS Utf8)) AS").count(), 1, "{plan}");
    }

    #[test]
    fn what_is_evaluated_for_some_rows_stays() {
        let a = || int(col("j"), "a");
        let b = || int(col("j"), "b");
        for exprs in [
            vec![a()],
            vec![a(), a() + lit(1)],
            vec![a(), int(col("k"), "b")],
            vec![a(), col("j").is_null().and(b().is_null())],
            vec![when(col("j").is_null(), a()).otherwise(b()).unwrap()],
            vec![functions::coalesce().call(vec![a(), b()])],
        ] {
            let plan = rewritten(exprs);
            assert!(!plan.transformed, "{}", plan.data.display_indent());
        }
        let both = rewritten(vec![when(a().is_null(), b()).otherwise(a()).unwrap(), b()]);
        assert!(both.transformed);
    }

    #[test]
    fn a_text_from_json_is_parsed_once_as_well() {
        let inner = || json_get_str_udf().call(vec![col("j"), lit("x")]);
        let exprs = vec![int(inner(), "a"), text(inner(), "b"), text(col("j"), "y")];
        let plan = rewritten(exprs).data;
        let plan = plan
            .transform_down(|plan| with_one_parse(plan, |function| function))
            .unwrap();
        let plan = plan.data.display_indent().to_string();
        assert_eq!(plan.matches("json_values(").count(), 2, "{plan}");
    }
}
