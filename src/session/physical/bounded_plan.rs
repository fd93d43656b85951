//! Memory bounds for a logical plan right before physical planning (SAFE-1): no later rule rewrites it, and constants are
//! folded already.
//!
//! Each result is counted where it is computed: functions are called for parts of a batch (`session::parts`), a value that is
//! the same for all rows is counted times the rows (`session::spread`), and so are the results of window functions
//! (`session::frames`). Operators build arrays of all their keys and arguments as well as of their output columns.

use std::sync::Arc;

use anabranch_udfs::{
    CompleteSessions, CompleteSessionsAggregate, JSON_VALUES, with_guards, with_one_parse,
};
use async_trait::async_trait;
use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::Session;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::functions::regex::regexp_like;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, Extension, LogicalPlan, Operator, WindowFunctionDefinition, lit,
};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::{Error, ErrorKind, Subject};
use crate::session::limits::{function_bounds, memory_checks};
use crate::session::physical::constant_values::{ConstantValues, counted_for_each_row};
use crate::session::physical::partwise_calls::called_in_parts;
use crate::session::physical::window_results;

/// Centroids of one approximate percentile, in each group.
const CENTROIDS: i64 = 1_000;
/// Functions that return a part of their argument, and that scans recognize by their type.
const SHOWING: [&str; 3] = ["get_field", "input_file_name", "file_row_index"];
/// A call with more arguments builds arrays of all of them before the function runs.
const FEW: usize = 4;

/// Wraps a planner: it passes on plans whose expressions count their results.
#[derive(Debug)]
pub(crate) struct BoundedPlanner {
    inner: Arc<dyn QueryPlanner + Send + Sync>,
}

impl BoundedPlanner {
    /// Creates the planner; it passes its plans on to `inner`.
    pub(crate) fn new(inner: Arc<dyn QueryPlanner + Send + Sync>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl QueryPlanner for BoundedPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        check(plan)?;
        let budget = memory_checks::budget(session.config_options());
        let plan = plan.clone();
        let plan = plan.transform_down_with_subqueries(|plan| {
            with_guards(plan)?.transform_data(|plan| bounded(plan, budget))
        })?;
        self.inner.create_physical_plan(&plan.data, session).await
    }
}

/// The operator with expressions that count their results.
fn bounded(plan: LogicalPlan, budget: usize) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Projection(_) => {
            with_one_parse(plan, called_in_parts)?.transform_data(|plan| {
                let rows = ConstantValues::of(&plan)?;
                plan.map_expressions(|expr| key(expr, &rows))
            })
        }
        LogicalPlan::Aggregate(_) => {
            let rows = ConstantValues::of(&plan)?;
            plan.map_expressions(|expr| match expr {
                // A grouping set has no name, and its keys have names.
                Expr::GroupingSet(_) => expr.map_children(|expr| key(expr, &rows)),
                expr if is_aggregate(&expr) => {
                    let expr = with_its_name(expr, |expr| bounded_expr(expr, &rows))?;
                    expr.transform_data(|expr| expr.transform_up(|part| aggregated(part, &rows)))
                }
                expr => key(expr, &rows),
            })
        }
        LogicalPlan::Window(ref window) => {
            // The output has the columns of the input, followed by those of the window functions.
            let before = window.input.schema().fields().len();
            let fields = window.schema.fields().iter().skip(before);
            let types: Vec<DataType> = fields.map(|field| field.data_type().clone()).collect();
            let mut types = types.into_iter();
            let rows = ConstantValues::of(&plan)?;
            plan.map_expressions(|expr| {
                let of = types.next().unwrap_or(DataType::Null);
                let expr = with_its_name(expr, |expr| bounded_expr(expr, &rows))?;
                expr.transform_data(|expr| {
                    expr.transform_up(|part| windowed(part, &of, budget, &rows))
                })
            })
        }
        LogicalPlan::Sort(_) => {
            let rows = ConstantValues::of(&plan)?;
            plan.map_expressions(|expr| {
                let expr = bounded_expr(expr, &rows)?;
                expr.transform_data(|expr| rows.counted(expr))
            })
        }
        // The keys of a join, which are casts or have names of their own, are not changed.
        LogicalPlan::Filter(_) | LogicalPlan::Join(_) => {
            let rows = ConstantValues::of(&plan)?;
            plan.map_expressions(|expr| bounded_expr(expr, &rows))
        }
        // The input of these operators is optimized and planned once more, by this planner.
        LogicalPlan::Extension(ref extension) if is_planned_later(extension) => {
            Ok(Transformed::new(plan, false, TreeNodeRecursion::Jump))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// A column or a key of an operator, by its name.
fn key(expr: Expr, rows: &ConstantValues) -> Result<Transformed<Expr>> {
    let expr = with_its_name(expr, |expr| bounded_expr(expr, rows))?;
    expr.transform_data(|expr| rows.counted(expr))
}

fn is_aggregate(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_aggregate(&alias.expr),
        Expr::AggregateFunction(_) => true,
        _ => false,
    }
}

/// Whether an operator plans its input at execution.
fn is_planned_later(extension: &Extension) -> bool {
    let node = extension.node.as_any();
    node.is::<CompleteSessions>() || node.is::<CompleteSessionsAggregate>()
}

/// Gives a changed expression the name that it had: the name is a column of its operator.
fn with_its_name(
    expr: Expr,
    change: impl FnOnce(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<Expr>> {
    let is_compared = expr.exists(|part| {
        Ok(match part {
            Expr::BinaryExpr(binary) => matches_pattern(binary.op).is_some(),
            _ => false,
        })
    })?;
    // A function keeps its name, also when it is wrapped.
    let name = is_compared.then(|| expr.schema_name().to_string());
    let changed = change(expr)?;
    Ok(match name {
        Some(name) if changed.data.schema_name().to_string() != name => {
            changed.update_data(|expr| expr.alias(name))
        }
        _ => changed,
    })
}

/// The expression with parts that count their results.
fn bounded_expr(expr: Expr, rows: &ConstantValues) -> Result<Transformed<Expr>> {
    expr.transform_up(|part| {
        Ok(match part {
            // The functions that `json_values` calls are called in parts.
            Expr::ScalarFunction(mut call)
                if !SHOWING.contains(&call.name())
                    && call.name() != JSON_VALUES
                    && !function_bounds::counts_steps(call.name()) =>
            {
                if call.args.len() > FEW {
                    for arg in &mut call.args {
                        *arg = rows.counted_array(std::mem::take(arg));
                    }
                }
                Transformed::yes(Expr::ScalarFunction(ScalarFunction {
                    func: called_in_parts(call.func),
                    args: call.args,
                }))
            }
            // A pattern that differs by row is compiled for each row: as a function it is called for a few rows at a time.
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if !matches!(*right, Expr::Literal(..)) && matches_pattern(op).is_some() =>
            {
                let (flags, is_match) = matches_pattern(op).unwrap_or_default();
                let mut args = vec![*left, *right];
                args.extend(flags.map(lit));
                let call = Expr::ScalarFunction(ScalarFunction {
                    func: called_in_parts(regexp_like()),
                    args,
                });
                Transformed::yes(match is_match {
                    true => call,
                    false => Expr::Not(Box::new(call)),
                })
            }
            Expr::Case(mut case) => {
                let mut is_changed = false;
                let results = case.when_then_expr.iter_mut().map(|(_, then)| then);
                for result in results.chain(&mut case.else_expr) {
                    let counted = counted_for_each_row(std::mem::take(&mut **result))?;
                    is_changed |= counted.transformed;
                    **result = counted.data;
                }
                Transformed::new(Expr::Case(case), is_changed, TreeNodeRecursion::Continue)
            }
            Expr::Lambda(mut lambda) => {
                let counted = counted_for_each_row(*lambda.body)?;
                lambda.body = Box::new(counted.data);
                let tnr = TreeNodeRecursion::Continue;
                Transformed::new(Expr::Lambda(lambda), counted.transformed, tnr)
            }
            other => Transformed::no(other),
        })
    })
}

/// The flags of an operator that compares with a pattern, and whether it returns true for a match.
fn matches_pattern(operator: Operator) -> Option<(Option<&'static str>, bool)> {
    Some(match operator {
        Operator::RegexMatch => (None, true),
        Operator::RegexIMatch => (Some("i"), true),
        Operator::RegexNotMatch => (None, false),
        Operator::RegexNotIMatch => (Some("i"), false),
        _ => return None,
    })
}

/// An aggregate whose arguments and sort keys are counted for each row.
fn aggregated(part: Expr, rows: &ConstantValues) -> Result<Transformed<Expr>> {
    let Expr::AggregateFunction(mut call) = part else {
        return Ok(Transformed::no(part));
    };
    let before = call.params.args.first().cloned();
    let mut is_changed = rows.counted_arguments(&mut call.params.args)?;
    for sort in &mut call.params.order_by {
        // An aggregate of distinct values can be ordered by its first argument only, and compares the two.
        match call.params.args.first() {
            Some(first) if before.as_ref() == Some(&sort.expr) => sort.expr = first.clone(),
            _ => {
                let counted = rows.counted(std::mem::take(&mut sort.expr))?;
                is_changed |= counted.transformed;
                sort.expr = counted.data;
            }
        }
    }
    let tnr = TreeNodeRecursion::Continue;
    Ok(Transformed::new(
        Expr::AggregateFunction(call),
        is_changed,
        tnr,
    ))
}

/// A window function that counts its results of a type, and whose arguments and keys are counted for each row.
fn windowed(
    part: Expr,
    of: &DataType,
    budget: usize,
    rows: &ConstantValues,
) -> Result<Transformed<Expr>> {
    Ok(match part {
        Expr::WindowFunction(mut call) => {
            let params = &mut call.params;
            match &call.fun {
                WindowFunctionDefinition::AggregateUDF(_) => {
                    rows.counted_arguments(&mut params.args)?;
                }
                // The arguments of other functions are numbers or default values, and are not built for each row.
                WindowFunctionDefinition::WindowUDF(_) => {
                    if let Some(first) = params.args.first_mut() {
                        *first = rows.counted(std::mem::take(first))?.data;
                    }
                }
            }
            let orders = params.order_by.iter_mut().map(|sort| &mut sort.expr);
            for key in params.partition_by.iter_mut().chain(orders) {
                *key = rows.counted(std::mem::take(key))?.data;
            }
            let counted = window_results::counted(*call, of, budget);
            Transformed::yes(Expr::WindowFunction(Box::new(counted)))
        }
        other => Transformed::no(other),
    })
}

/// Refuses aggregates whose parameters demand too much memory.
fn check(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|part| {
                let (name, args) = match part {
                    Expr::AggregateFunction(call) => (call.func.name(), &call.params.args),
                    Expr::WindowFunction(call) => (call.fun.name(), &call.params.args),
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                let place = match name {
                    "approx_percentile_cont" => 2,
                    "approx_percentile_cont_with_weight" => 3,
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                match args.get(place).is_none_or(are_few) {
                    true => Ok(TreeNodeRecursion::Continue),
                    false => Err(DataFusionError::from(
                        Error::new(
                            ErrorKind::Exhausted,
                            format!("{name} keeps up to {CENTROIDS} centroids"),
                        )
                        .about(Subject::function(name))
                        .with_help("write a number up to that, or none for 100"),
                    )),
                }
            })
        })
    })?;
    Ok(())
}

/// Whether this number of centroids is within the limit. An invalid number is refused by the aggregate.
fn are_few(count: &Expr) -> bool {
    let Expr::Literal(count, _) = count else {
        return false;
    };
    match count.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(count)) => count.is_none_or(|count| count <= CENTROIDS),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{AsArray as _, RecordBatch};
    use datafusion::arrow::util::pretty::pretty_format_batches;

    use crate::core::heap;
    use crate::error::{ErrorKind, Result};
    use crate::planner::{Script, parse_statement};
    use crate::session::{ForkOptions, Session, SessionOptions};

    async fn run(sql: &str) -> Result<usize> {
        let session = Session::try_new(&SessionOptions::default())?;
        let raw = Script::new("test", sql).split()?.remove(0);
        let rows = session.collect(parse_statement(&raw)?).await?;
        Ok(rows.iter().map(|batch| batch.num_rows()).sum())
    }

    /// Within 128 MiB, of which one call may make 32, and in one task.
    async fn limited(sql: &str) -> Result<Vec<RecordBatch>> {
        let whole = Session::try_new(&SessionOptions {
            target_partitions: Some(1),
            ..SessionOptions::default()
        })?;
        let limited = ForkOptions {
            memory_limit: Some(128 << 20),
            ..ForkOptions::default()
        };
        let session = whole.fork(&limited)?;
        let raw = Script::new("test", sql).split()?.remove(0);
        session.collect(parse_statement(&raw)?).await
    }

    async fn is_refused(sql: &str) {
        let error = limited(sql).await.expect_err(sql);
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{sql}: {error}");
    }

    #[tokio::test]
    async fn a_value_for_all_rows_is_counted_for_each() {
        for value in [
            "range(1, 1000000)",
            "repeat('x', 10000000)",
            "string_to_array(repeat('a,', 100000), ',')",
            "(SELECT max(repeat('x', 1000000)) FROM generate_series(1, 2))",
            "upper((SELECT max(repeat('x', 1000000)) FROM generate_series(1, 2)))",
            "CASE WHEN value % 2 = 0 THEN repeat('x', 1000000) ELSE 'y' END",
            "CASE value WHEN 7 THEN [1] ELSE range(1, 1000000) END",
        ] {
            is_refused(&format!(
                "SELECT value, {value} AS r FROM generate_series(1, 8000)"
            ))
            .await;
            let one = format!("SELECT value, {value} AS r FROM generate_series(1, 1)");
            assert_eq!(limited(&one).await.expect(&one)[0].num_rows(), 1, "{one}");
        }
        for call in [
            "array_agg(repeat('x', 1000000))",
            "count(DISTINCT repeat('x', 1000000) || value)",
            "array_agg(range(1, 1000000))",
            "array_agg(repeat('x', 1000000)) OVER (ORDER BY value)",
            "first_value(repeat('x', 1000000)) OVER ()",
            "lag('a', 100000, repeat('x', 1000000)) OVER (ORDER BY value)",
        ] {
            is_refused(&format!("SELECT {call} FROM generate_series(1, 8000)")).await;
        }
        for statement in [
            "SELECT count(*) FROM generate_series(1, 8000) GROUP BY repeat('x', 1000000)",
            "SELECT count(*) FROM generate_series(1, 8000) GROUP BY ROLLUP (value % 2, repeat('x', 1000000))",
            "SELECT array_agg(value ORDER BY repeat('x', 1000000)) FROM generate_series(1, 8000)",
            "SELECT approx_distinct(repeat('x', 1000000)) OVER () FROM generate_series(1, 8000)",
            "SELECT string_agg('a', repeat('x', 20000)) FROM generate_series(1, 8000) GROUP BY value",
        ] {
            is_refused(statement).await;
            let few = statement.replace("8000", "8");
            assert!(!limited(&few).await.expect(&few).is_empty(), "{few}");
        }
        let name = "x".repeat(50_000);
        is_refused(&format!(
            "SELECT arrow_typeof(named_struct('{name}', value)) FROM generate_series(1, 8000)"
        ))
        .await;
        // A condition that compares with a constant, or with its length, needs no array of it.
        for condition in [
            "CAST(value AS VARCHAR) = repeat('7', 1000000)",
            "length(repeat('7', 1000000)) = value",
            "CAST(value AS VARCHAR) IN (repeat('7', 1000000), '7')",
            "array_length(range(1, 1000000)) > value",
        ] {
            let sql = format!("SELECT count(*) FROM generate_series(1, 8000) WHERE {condition}");
            assert_eq!(limited(&sql).await.expect(&sql)[0].num_rows(), 1, "{sql}");
        }
    }

    #[tokio::test]
    async fn partwise_calls_return_the_same_results() {
        // Some 16 MB, as an array and as a value for all rows.
        let texts =
            "SELECT value, repeat('ab,', 700 + value % 7) AS t FROM generate_series(1, 8000)";
        for (expr, expected) in [
            ("sum(length(upper(t)))", "16872009"),
            (
                "count(*) FILTER (WHERE upper(t) = translate(t, 'ab', 'AB'))",
                "8000",
            ),
            ("sum(array_length(string_to_array(t, ',')))", "5632003"),
            ("sum(array_position(range(0, 20000), value))", "32012000"),
            (
                "count(*) FILTER (WHERE split_part(t, ',', 700) = 'ab')",
                "8000",
            ),
            ("sum(position('b' IN t))", "16000"),
            ("sum(length(replace(t, 'ab,', 'b')))", "5624003"),
            ("count(*) FILTER (WHERE t LIKE '%b,')", "8000"),
            (
                "count(*) FILTER (WHERE ('a' || value) ~ ('a' || value || '$'))",
                "8000",
            ),
            (
                "count(*) FILTER (WHERE 'a' !~* ('A' || (value % 2)))",
                "8000",
            ),
            (
                "count(*) FILTER (WHERE regexp_like('a' || value, 'a' || value))",
                "8000",
            ),
            (
                "count(*) FILTER (WHERE CAST(NULL AS VARCHAR) ~ ('a' || value))",
                "0",
            ),
            (
                "count(*) FILTER (WHERE regexp_like('A' || value, 'a', CASE WHEN value % 2 = 0 THEN 'i' ELSE 's' END))",
                "4000",
            ),
        ] {
            let sql = format!("SELECT {expr} AS n FROM ({texts})");
            let rows = limited(&sql).await.expect(&sql);
            let shown = pretty_format_batches(&rows).unwrap().to_string();
            assert!(shown.contains(&format!("| {expected} ")), "{sql}\n{shown}");
        }
        let named = limited("SELECT ('a' || value) ~ ('a' || value) FROM generate_series(1, 2)");
        let rows = named.await.unwrap();
        assert!(
            rows[0]
                .column(0)
                .as_boolean()
                .iter()
                .all(|is| is == Some(true))
        );
        // The result of all parts together is too large: it is refused.
        is_refused(
            "SELECT max(array_length(string_to_array(repeat(',', 2000 + value % 7), ',')))
             FROM generate_series(1, 8000)",
        )
        .await;
    }

    #[tokio::test]
    async fn results_of_window_functions_are_counted() {
        for call in [
            "array_agg(value) OVER ()",
            "string_agg('xxxxxxxxxx', ',') OVER ()",
            "array_agg(value) OVER (PARTITION BY value % 2)",
            "array_agg(value) FILTER (WHERE value < 5000) OVER ()",
            "array_agg(value) OVER (ORDER BY value)",
            "array_agg(value) OVER (ORDER BY value DESC)",
            "string_agg('xxxxxxxxxx', ',') OVER (ORDER BY value)",
            "array_agg(value) OVER (ORDER BY value ROWS BETWEEN 5000 PRECEDING AND CURRENT ROW)",
            "array_agg(value) OVER (ORDER BY value ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)",
            "first_value(repeat('x', 10000 + value)) OVER ()",
            "max(repeat('x', 10000 + value)) OVER (ORDER BY value)",
        ] {
            is_refused(&format!(
                "SELECT {call} AS v FROM generate_series(1, 15000)"
            ))
            .await;
            let few = format!("SELECT {call} AS v FROM generate_series(1, 100)");
            let rows = limited(&few).await.expect(&few);
            let rows: usize = rows.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, 100, "{few}");
        }
        // There are many partitions, and each is small.
        let few = "SELECT array_agg(value) OVER (PARTITION BY value % 5000) AS v FROM generate_series(1, 50000)";
        let rows = limited(few).await.expect(few);
        assert_eq!(
            rows.iter().map(RecordBatch::num_rows).sum::<usize>(),
            50_000
        );
        // Sliding frames keep only the rows of the frame, however many rows there are.
        let sliding = "SELECT sum(array_length(v)) AS n FROM (
            SELECT array_agg(value) OVER (ORDER BY value ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS v
            FROM generate_series(1, 200000))";
        let rows = limited(sliding).await.expect(sliding);
        let shown = pretty_format_batches(&rows).unwrap().to_string();
        assert!(shown.contains("| 599997 "), "{shown}");
    }

    /// Each call by itself has a pass of its own over the text.
    #[tokio::test]
    async fn json_texts_are_parsed_once_with_the_same_results() {
        let texts = [
            r#"{"a": 1, "b": "x", "c": {"d": [1, 2.5, "z"], "a": null}, "0": true}"#,
            r#"{"b": [], "a": {"a": {"a": 1}}, "a": 2}"#,
            r#"{"c": {"d": [1, 2"#,
            r#"{"a": 12abc, "b": 1}"#,
            r#"[{"a": "a text that is longer than a view"}, [1, [2]], 7]"#,
            "",
            "{}",
        ];
        let rows = texts.map(|text| format!("('{text}')")).join(", ");
        let from = format!("FROM (VALUES {rows}, (NULL)) AS t(j)");
        let calls = [
            "json_get(j, 'a')",
            "json_get_int(j, 'a')",
            "json_as_text(j, 'a', 'a')",
            "json_get_str(j, 'b')",
            "json_get_float(j, 'c', 'd', 1)",
            "json_get_json(j, 'c')",
            "json_get_array(j, 'c', 'd')",
            "json_get_bool(j, '0')",
            "json_contains(j, 'c', 'd', -1)",
            "json_length(j, 1)",
            "json_object_keys(j, 'c')",
            "json_as_text(j, 0, 'a')",
            "TRY_CAST(j -> 'a' AS BIGINT)",
            "CASE WHEN j IS NOT NULL THEN j ->> 'b' ELSE j ->> 'c' END",
        ];
        let together = limited(&format!("SELECT {} {from}", calls.join(", "))).await;
        let together = together.unwrap();
        for (place, call) in calls.iter().enumerate() {
            let alone = limited(&format!("SELECT {call} {from}")).await.unwrap();
            assert_eq!(alone[0].num_rows(), texts.len() + 1);
            assert_eq!(alone[0].column(0), together[0].column(place), "{call}");
            let (alone, together) = (alone[0].schema(), together[0].schema());
            assert_eq!(alone.field(0), together.field(place), "{call}");
        }
        for rest in [
            "SELECT j ->> 'a', j ->> 'b' FROM t",
            "SELECT count(*) FROM t WHERE j ->> 'a' = '1' AND j ->> 'b' = 'x'",
            "SELECT sum(json_get_int(j, 'a')), max(j ->> 'b') FROM t",
            "SELECT j ->> 'a' AS a, count(*) FROM t GROUP BY j ->> 'a', j ->> 'b'",
            "SELECT json_get_int(b, 'a'), json_get_str(b, 'b') FROM (SELECT CAST(CAST(j AS BYTEA) AS VARCHAR) AS b FROM t) AS q",
        ] {
            let sql = format!("EXPLAIN FORMAT INDENT WITH t AS (SELECT j {from}) {rest}");
            let plan = pretty_format_batches(&limited(&sql).await.unwrap()).unwrap();
            let plan = plan.to_string();
            let (_, operators) = plan.split_once("physical_plan").unwrap();
            let parses = operators.matches("json_values(").count();
            assert_eq!(parses, 1, "{rest}: {plan}");
        }
    }

    /// All calls for one batch run without a pause.
    #[tokio::test]
    async fn results_of_many_columns_are_counted_together() {
        let columns: Vec<String> = (0..40)
            .map(|n| format!("repeat('x', 2000 + value % {}) AS c{n}", n + 2))
            .collect();
        let sql = format!(
            "SELECT {} FROM generate_series(1, 8000)",
            columns.join(", ")
        );
        // A CASE copies its values, and calls no function.
        let cases: Vec<String> = (0..100)
            .map(|n| format!("CASE WHEN value > {n} THEN t ELSE 'y' END"))
            .collect();
        let texts =
            "SELECT value, repeat('x', 2000 + value % 7) AS t FROM generate_series(1, 8000)";
        let copied = format!("SELECT {} FROM ({texts})", cases.join(", "));
        let joined = format!("SELECT length(concat({})) FROM ({texts})", cases.join(", "));
        // Each text is small.
        let literals: Vec<String> = (0..200)
            .map(|n| format!("'{}' AS c{n}", "x".repeat(900 + n)))
            .collect();
        let literals = format!(
            "SELECT value, {} FROM generate_series(1, 8000)",
            literals.join(", ")
        );
        for sql in [sql, copied, joined, literals] {
            let owner = Arc::new(heap::MemoryOwner::default());
            let refused = heap::within(owner, 256 << 20, limited(&sql)).await;
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
            assert!(error.message().contains("of one step"), "{error}");
        }
    }

    #[tokio::test]
    async fn centroids_of_aggregates_are_limited() {
        let calls = |count: &str| {
            [
                format!("approx_percentile_cont(value, 0.5, {count})"),
                format!("approx_percentile_cont(0.5, {count}) WITHIN GROUP (ORDER BY value)"),
                format!("approx_percentile_cont_with_weight(value, 1, 0.5, {count})"),
                format!("approx_percentile_cont(value, 0.5, {count}) OVER ()"),
            ]
        };
        for count in ["200000000000000", "100000 * 100000", "2000"] {
            for call in calls(count) {
                let sql = format!("SELECT {call} FROM generate_series(1, 10)");
                for sql in [
                    format!("SELECT * FROM ({sql})"),
                    format!("SELECT 1 WHERE 5 IN ({sql})"),
                    sql,
                ] {
                    let error = run(&sql).await.expect_err(&sql);
                    assert_eq!(error.kind(), ErrorKind::Exhausted, "{sql}: {error}");
                }
            }
        }
        for call in calls("500") {
            let sql = format!("SELECT {call} FROM generate_series(1, 10)");
            assert!(run(&sql).await.expect(&sql) > 0, "{sql}");
        }
    }
}
