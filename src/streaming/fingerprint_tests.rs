//! Expressions as one release of the engine writes them, and as another does.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::functions_aggregate::average::avg_udaf;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::min_max::max_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment, Sort};
use datafusion::logical_expr::{
    AggregateUDF, Between, Expr, Operator, binary_expr, cast, lit, not,
};

use super::terms::term;

fn schema() -> DFSchema {
    let fields = vec![
        Field::new("k", DataType::Int64, true),
        Field::new("v", DataType::Int32, true),
        Field::new("name", DataType::Utf8, true),
        Field::new(
            "t",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            false,
        ),
    ];
    DFSchema::try_from_qualified_schema("ticks", &Schema::new(fields)).unwrap()
}

fn column(name: &str) -> Expr {
    Expr::Column(Column::new(Some("ticks"), name))
}

/// An aggregate and what it is asked for.
fn aggregate(function: Arc<AggregateUDF>, args: Vec<Expr>) -> AggregateFunction {
    AggregateFunction::new_udf(function, args, false, None, vec![], None)
}

fn count(of: Expr) -> Expr {
    Expr::AggregateFunction(aggregate(count_udaf(), vec![of]))
}

fn sum(of: Expr) -> Expr {
    Expr::AggregateFunction(aggregate(sum_udaf(), vec![of]))
}

fn max(of: Expr) -> Expr {
    Expr::AggregateFunction(aggregate(max_udaf(), vec![of]))
}

fn max_by_order(asc: bool, nulls_first: bool) -> Expr {
    let mut call = aggregate(max_udaf(), vec![column("v")]);
    call.params.order_by = vec![Sort::new(column("t"), asc, nulls_first)];
    Expr::AggregateFunction(call)
}

fn between(negated: bool) -> Expr {
    Expr::Between(Between::new(
        Box::new(column("k")),
        negated,
        Box::new(lit(1_i64)),
        Box::new(lit(9_i64)),
    ))
}

fn compared(op: Operator, bound: i64) -> Expr {
    binary_expr(column("k"), op, lit(bound))
}

fn filtered(filter: Expr) -> Expr {
    let mut call = aggregate(sum_udaf(), vec![column("k")]);
    call.params.filter = Some(Box::new(filter));
    Expr::AggregateFunction(call)
}

fn treating_nulls(treatment: Option<NullTreatment>) -> Expr {
    let mut call = aggregate(max_udaf(), vec![column("v")]);
    call.params.null_treatment = treatment;
    Expr::AggregateFunction(call)
}

fn text(value: &str) -> Expr {
    lit(ScalarValue::Utf8(Some(value.to_owned())))
}

fn text_view(value: &str) -> Expr {
    lit(ScalarValue::Utf8View(Some(value.to_owned())))
}

#[test]
fn spellings_of_one_expression_have_one_form() {
    let full = TableReference::full("anabranch", "public", "ticks");
    let table = [
        // A constant that is not NULL counts every row.
        (count(lit(1_i64)), count(lit(1_i64)).alias("count(*)")),
        (count(lit(1_i64)), count(lit(1_u8))),
        // Names are for people.
        (sum(column("v")), sum(column("v")).alias("sum(ticks.v)")),
        (sum(column("v")), sum(column("v").alias("v"))),
        (column("k"), Expr::Column(Column::new(Some(full), "k"))),
        // Constants are cast when they are planned, or later.
        (
            binary_expr(column("k"), Operator::Modulo, lit(3_i64)),
            binary_expr(
                column("k"),
                Operator::Modulo,
                cast(lit(3_i32), DataType::Int64),
            ),
        ),
        (lit(-1_i64), Expr::Negative(Box::new(lit(1_i64)))),
        // One text has three types.
        (
            binary_expr(column("name"), Operator::Eq, text("a")),
            binary_expr(
                cast(column("name"), DataType::Utf8View),
                Operator::Eq,
                text_view("a"),
            ),
        ),
        (
            max(column("name")),
            max(cast(column("name"), DataType::LargeUtf8)),
        ),
        (sum(column("k")), sum(cast(column("k"), DataType::Int64))),
        // Two ways to say one condition.
        (
            filtered(between(false)),
            filtered(compared(Operator::GtEq, 1).and(compared(Operator::LtEq, 9))),
        ),
        (
            filtered(between(true)),
            filtered(compared(Operator::Lt, 1).or(compared(Operator::Gt, 9))),
        ),
        (column("k").is_not_null(), not(column("k").is_null())),
        (
            column("k").in_list(vec![lit(1_i64)], true),
            not(column("k").in_list(vec![lit(1_i64)], false)),
        ),
        (
            treating_nulls(None),
            treating_nulls(Some(NullTreatment::RespectNulls)),
        ),
    ];
    let schema = schema();
    for (one, other) in table {
        assert_eq!(
            term(&one, &schema),
            term(&other, &schema),
            "{one} and {other}"
        );
    }
}

#[test]
fn different_expressions_have_different_forms() {
    let avg = Expr::AggregateFunction(aggregate(avg_udaf(), vec![column("v")]));
    let mut distinct = aggregate(count_udaf(), vec![lit(1_i64)]);
    distinct.params.distinct = true;
    let modulo = |by: i64| binary_expr(column("k"), Operator::Modulo, lit(by));
    let all = [
        count(lit(1_i64)),
        count(lit(ScalarValue::Int64(None))),
        count(column("v")),
        Expr::AggregateFunction(distinct),
        sum(column("v")),
        sum(column("k")),
        sum(cast(column("v"), DataType::Int64)),
        sum(cast(column("v"), DataType::Float64)),
        avg,
        max(column("v")),
        max_by_order(true, true),
        max_by_order(false, true),
        max_by_order(true, false),
        treating_nulls(Some(NullTreatment::IgnoreNulls)),
        filtered(between(false)),
        filtered(between(true)),
        filtered(compared(Operator::GtEq, 1)),
        modulo(2),
        modulo(3),
        modulo(-3),
        binary_expr(lit(3_i64), Operator::Modulo, column("k")),
        binary_expr(column("k"), Operator::Divide, lit(3_i64)),
        binary_expr(column("name"), Operator::Eq, text("a")),
        binary_expr(column("name"), Operator::Eq, text("b")),
        binary_expr(column("name"), Operator::Eq, lit(ScalarValue::Utf8(None))),
        column("k"),
        Expr::Column(Column::new(Some("tocks"), "k")),
        Expr::Column(Column::new_unqualified("k")),
        column("k").is_null(),
        column("k").is_not_null(),
        column("k").is_true(),
        lit(0.0_f64),
        lit(-0.0_f64),
        lit(true),
        // Has no place in its type.
        cast(lit(300_i64), DataType::Int8),
        lit(300_i64),
    ];
    let schema = schema();
    for (number, one) in all.iter().enumerate() {
        for other in &all[number + 1..] {
            assert_ne!(
                term(one, &schema),
                term(other, &schema),
                "{one} and {other}"
            );
        }
    }
}
