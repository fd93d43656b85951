//! Fast path for one row of expressions without a table, such as `SELECT 1`, which clients send to test the connection: the
//! values are computed at planning, without the rules for plans that read rows, which would be most of the work.

use std::sync::Arc;

use anabranch_udfs::{before_types, checked, equal_zeros, with_microseconds};
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::create_physical_expr;

use crate::session::results::PlannedRows;

/// The row, if `plan` only computes expressions without a table.
///
/// # Errors
///
/// An expression whose evaluation fails, such as a division by zero.
pub(crate) fn row(state: &SessionState, plan: &LogicalPlan) -> Result<Option<PlannedRows>> {
    let LogicalPlan::Projection(projection) = plan else {
        return Ok(None);
    };
    let LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: true,
        schema: nothing,
    }) = projection.input.as_ref()
    else {
        return Ok(None);
    };
    for expr in &projection.expr {
        if expr.exists(|part| Ok(!needs_no_plan(part)))? {
            return Ok(None);
        }
    }
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(nothing))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    // Some functions, such as now(), are evaluated only by the simplifier.
    let simplifier = ExprSimplifier::new(context);
    let planning = PhysicalPlanningContext::default();
    let row = RecordBatchOptions::new().with_row_count(Some(1));
    let input = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &row)?;
    let mut fields = Vec::with_capacity(projection.expr.len());
    let mut columns = Vec::with_capacity(projection.expr.len());
    for (expr, named) in projection.expr.iter().zip(projection.schema.fields()) {
        let expr = with_rewrites(state, expr.clone(), nothing)?;
        let expr = before_types(with_microseconds(expr, nothing)?, nothing)?;
        let expr = with_microseconds(simplifier.coerce(expr, nothing)?, nothing)?;
        let expr = equal_zeros(checked(expr, nothing)?, nothing)?;
        let expr = simplifier.simplify(expr)?;
        let expr = create_physical_expr(&expr, nothing, state.execution_props(), &planning)?;
        let field = expr.return_field(input.schema_ref())?;
        columns.push(expr.evaluate(&input)?.into_array(1)?);
        fields.push(Field::clone(&field).with_name(named.name()));
    }
    let schema = Arc::new(Schema::new(fields));
    let mut exprs = projection.expr.iter();
    Ok(Some(PlannedRows {
        rows: RecordBatch::try_new_with_options(schema, columns, &row)?,
        // Functions and casts may depend on the time and the settings of the session.
        is_always: exprs.all(is_literal),
    }))
}

/// Whether an expression is a literal, with or without a name.
fn is_literal(expr: &Expr) -> bool {
    let of = match expr {
        Expr::Alias(alias) => alias.expr.as_ref(),
        other => other,
    };
    matches!(of, Expr::Literal(..))
}

/// The expression after the session's function rewrites, such as that of a cast of a JSON value.
fn with_rewrites(state: &SessionState, expr: Expr, columns: &DFSchema) -> Result<Expr> {
    let config = state.config_options();
    let rewritten = expr.transform_up(|part| {
        let mut part = Transformed::no(part);
        for rewrite in state.analyzer().function_rewrites() {
            part = part.transform_data(|part| rewrite.rewrite(part, columns, config))?;
        }
        Ok(part)
    })?;
    Ok(rewritten.data)
}

/// Whether an expression can be evaluated by itself, without another plan or outer values.
fn needs_no_plan(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Alias(_)
            | Expr::Literal(..)
            | Expr::BinaryExpr(_)
            | Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::Negative(_)
            | Expr::Between(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::InList(_)
            | Expr::ScalarFunction(_)
    )
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray as _;

    use crate::error::{ErrorKind, Result};
    use crate::planner::{Parameters, Script, parse_statement};
    use crate::session::{Planned, Session, SessionOptions};

    async fn planned(session: &Session, sql: &str) -> Result<Planned> {
        let raw = Script::new("test", sql).split().unwrap().remove(0);
        let mut parsed = parse_statement(&raw).unwrap();
        Parameters::default().bind(&mut parsed).unwrap();
        session.plan(parsed).await
    }

    #[tokio::test]
    async fn the_fast_path_returns_the_same_as_a_plan() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        for exprs in [
            "1",
            "1 AS a, NULL AS b, 'x' AS \"C\", true",
            "1 + 2.5, 7 / 2, -(3), 5 % 3, 2 > 1 AND NOT false",
            "CAST('2024-01-02' AS DATE), TIMESTAMP '2024-01-02 03:04:05', INTERVAL '1 day'",
            "TRY_CAST('x' AS INT), '7'::BIGINT, 1 IN (1, 2), 2 BETWEEN 1 AND 3, NULL IS NULL",
            "CASE WHEN 1 = 1 THEN 'yes' ELSE 'no' END, coalesce(NULL, 3), upper('ä')",
            "[1, 2, 3], {'a': 1, 'b': 'x'}, map(['k'], [7]), arrow_typeof(1.5)",
            "'abc' LIKE 'a%', 'abc' ~ 'b', concat('a', 1, NULL), to_json({'a': [1]})",
            "CASE WHEN false THEN 1 / 0 ELSE 2 END",
            "CASE -0e0 WHEN 0e0 THEN 1 ELSE 2 END, -0e0 IN (0e0, 1e0), array_position([0e0], -0e0)",
            "1::DECIMAL(10, 2) * 3, 0x0f, 1e3",
            "('{\"n\": 12345678901234567890.12}' -> 'n')::DECIMAL(30, 2), ('{\"n\": 1.0}' -> 'n')::TEXT",
            "CAST(2.7 AS INT), TRY_CAST(2.5e0 AS INT), nullif(INTERVAL '1 day', INTERVAL '24 hours')",
        ] {
            let sql = format!("SELECT {exprs}");
            let here = planned(&session, &sql).await.unwrap();
            let here = here.answer().expect(exprs).rows.clone();
            let sql = format!("SELECT {exprs} FROM (VALUES (1)) AS t (unused)");
            let there = planned(&session, &sql).await.unwrap();
            assert!(there.answer().is_none(), "{exprs}");
            let there = session.begin(there).unwrap().rows().await.unwrap();
            assert_eq!(here, there, "{exprs}");
        }
    }

    #[tokio::test]
    async fn now_and_random_are_per_statement() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let same = planned(&session, "SELECT now() = now()").await.unwrap();
        let same = &same.answer().unwrap().rows;
        assert_eq!(same.column(0).as_boolean().iter().next(), Some(Some(true)));
        for sql in ["SELECT now()", "SELECT random()", "SELECT uuid()"] {
            let first = planned(&session, sql).await.unwrap();
            let second = planned(&session, sql).await.unwrap();
            let [first, second] = [first, second].map(|planned| planned.answer().cloned().unwrap());
            assert_ne!(first.rows, second.rows, "{sql}");
            assert!(!first.is_always, "{sql}");
        }
    }

    #[tokio::test]
    async fn only_literals_take_the_fast_path() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        for (sql, is_always) in [
            ("SELECT 1, 'a' AS b, NULL, true, 1.5", true),
            ("SELECT 1 + 1", false),
            ("SELECT TIMESTAMP '2024-01-02 03:04:05'", false),
            ("SELECT now()", false),
            ("SHOW TABLES", false),
        ] {
            let planned = planned(&session, sql).await.unwrap();
            assert_eq!(planned.answer().unwrap().is_always, is_always, "{sql}");
        }
    }

    #[tokio::test]
    async fn other_expressions_are_planned_and_invalid_ones_refused() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        for sql in [
            "SELECT (SELECT 1)",
            "SELECT 1 WHERE false",
            "SELECT count(*)",
            "SELECT unnest([1, 2])",
            "SELECT row_number() OVER ()",
            "EXPLAIN SELECT 1",
        ] {
            assert!(
                planned(&session, sql).await.unwrap().answer().is_none(),
                "{sql}"
            );
        }
        for sql in ["SELECT 1 / 0", "SELECT CAST('x' AS INT)"] {
            let error = planned(&session, sql).await.err().expect(sql);
            assert_eq!(error.kind(), ErrorKind::Data, "{sql}: {error}");
        }
    }
}
