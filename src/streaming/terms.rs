//! Terms of the stateful part of a job: expressions of the engine in a form of our own.
//!
//! Two expressions that always have the same value and differ only in how a release of the engine writes them have one form: names
//! that they are given, casts that change nothing, constants that were cast, `BETWEEN`, `count(*)`, the many types of one text.
//! Names of functions, operators and types are ours, and do not change.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::{Expr, ExprSchemable as _, Operator};

use crate::core::jobs::fingerprint::{Order, Term};
use crate::streaming::literals::{fits, is_integer, literal, type_name, with_other_sign};

fn call(function: &str, arguments: Vec<Term>) -> Term {
    Term::Call {
        function: function.to_owned(),
        parameters: Vec::new(),
        arguments,
    }
}

/// The form of an expression over rows with these columns.
pub(super) fn term(expr: &Expr, schema: &DFSchema) -> Term {
    let of = |expr: &Expr| term(expr, schema);
    let all = |exprs: &[Expr]| exprs.iter().map(of).collect::<Vec<_>>();
    match expr {
        Expr::Alias(alias) => of(&alias.expr),
        Expr::Column(column) => Term::Column {
            table: column
                .relation
                .as_ref()
                .map(|table| table.table().to_owned()),
            name: column.name.clone(),
        },
        Expr::Literal(value, _) => literal(value),
        Expr::BinaryExpr(binary) => call(
            operator_name(binary.op),
            vec![of(&binary.left), of(&binary.right)],
        ),
        Expr::Like(like) => {
            let function = match (like.case_insensitive, like.negated) {
                (false, false) => "like",
                (false, true) => "not like",
                (true, false) => "ilike",
                (true, true) => "not ilike",
            };
            Term::Call {
                function: function.to_owned(),
                parameters: like.escape_char.iter().map(char::to_string).collect(),
                arguments: vec![of(&like.expr), of(&like.pattern)],
            }
        }
        Expr::SimilarTo(like) => Term::Call {
            function: match like.negated {
                false => "similar to".to_owned(),
                true => "not similar to".to_owned(),
            },
            parameters: like.escape_char.iter().map(char::to_string).collect(),
            arguments: vec![of(&like.expr), of(&like.pattern)],
        },
        Expr::Not(inner) => negated(of(inner)),
        Expr::IsNull(inner) => call("is null", vec![of(inner)]),
        Expr::IsNotNull(inner) => call("is not null", vec![of(inner)]),
        Expr::IsTrue(inner) => call("is true", vec![of(inner)]),
        Expr::IsNotTrue(inner) => call("is not true", vec![of(inner)]),
        Expr::IsFalse(inner) => call("is false", vec![of(inner)]),
        Expr::IsNotFalse(inner) => call("is not false", vec![of(inner)]),
        Expr::IsUnknown(inner) => call("is unknown", vec![of(inner)]),
        Expr::IsNotUnknown(inner) => call("is not unknown", vec![of(inner)]),
        Expr::Negative(inner) => match of(inner) {
            Term::Literal {
                data_type,
                value: Some(value),
            } if is_integer(&data_type) => Term::Literal {
                data_type,
                value: Some(with_other_sign(value)),
            },
            inner => call("negative", vec![inner]),
        },
        Expr::Between(between) => {
            let compare = |op, bound| call(operator_name(op), vec![of(&between.expr), of(bound)]);
            match between.negated {
                false => call(
                    operator_name(Operator::And),
                    vec![
                        compare(Operator::GtEq, &between.low),
                        compare(Operator::LtEq, &between.high),
                    ],
                ),
                true => call(
                    operator_name(Operator::Or),
                    vec![
                        compare(Operator::Lt, &between.low),
                        compare(Operator::Gt, &between.high),
                    ],
                ),
            }
        }
        Expr::Case(case) => {
            let mut parameters = Vec::new();
            let mut arguments = Vec::new();
            if let Some(operand) = &case.expr {
                parameters.push("operand".to_owned());
                arguments.push(of(operand));
            }
            for (when, then) in &case.when_then_expr {
                arguments.extend([of(when), of(then)]);
            }
            if let Some(otherwise) = &case.else_expr {
                parameters.push("else".to_owned());
                arguments.push(of(otherwise));
            }
            Term::Call {
                function: "case".to_owned(),
                parameters,
                arguments,
            }
        }
        Expr::Cast(cast) => cast_term("cast", &cast.expr, cast.field.data_type(), schema),
        Expr::TryCast(cast) => cast_term("try_cast", &cast.expr, cast.field.data_type(), schema),
        Expr::ScalarFunction(function) => {
            call(&function_name(function.func.name()), all(&function.args))
        }
        Expr::AggregateFunction(aggregate) => aggregate_term(aggregate, schema),
        Expr::InList(list) => {
            let function = if list.negated { "not in" } else { "in" };
            let mut arguments = vec![of(&list.expr)];
            arguments.extend(all(&list.list));
            call(function, arguments)
        }
        // None of the others stands in a key or an aggregate of a job that runs.
        other => Term::Call {
            function: "other".to_owned(),
            parameters: vec![other.to_string()],
            arguments: Vec::new(),
        },
    }
}

fn aggregate_term(aggregate: &AggregateFunction, schema: &DFSchema) -> Term {
    let params = &aggregate.params;
    let of = |expr: &Expr| term(expr, schema);
    let function = function_name(aggregate.func.name());
    let mut arguments: Vec<Term> = params.args.iter().map(of).collect();
    let counts_rows = matches!(arguments.as_slice(), [Term::Literal { value: Some(_), .. }]);
    if function == "count" && counts_rows && !params.distinct {
        arguments.clear();
    }
    let order = params.order_by.iter().map(|sort| Order {
        by: of(&sort.expr),
        is_ascending: sort.asc,
        has_nulls_first: sort.nulls_first,
    });
    Term::Aggregate {
        function,
        arguments,
        is_distinct: params.distinct,
        filter: params.filter.as_deref().map(|filter| Box::new(of(filter))),
        order_by: order.collect(),
        ignores_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
    }
}

/// A cast to the type that its value has anyway is none, and a whole number is a constant of the type that it is cast to.
fn cast_term(function: &str, value: &Expr, to: &DataType, schema: &DFSchema) -> Term {
    let to = type_name(to);
    let has_type = value
        .get_type(schema)
        .is_ok_and(|own| type_name(&own) == to);
    match term(value, schema) {
        inner if has_type => inner,
        Term::Literal {
            data_type,
            value: Some(value),
        } if is_integer(&data_type) && fits(&value, &to) => Term::Literal {
            data_type: to,
            value: Some(value),
        },
        inner => Term::Call {
            function: function.to_owned(),
            parameters: vec![to],
            arguments: vec![inner],
        },
    }
}

fn negated(inner: Term) -> Term {
    const PAIRS: [(&str, &str); 5] = [
        ("in", "not in"),
        ("like", "not like"),
        ("ilike", "not ilike"),
        ("similar to", "not similar to"),
        ("is null", "is not null"),
    ];
    let Term::Call {
        function,
        parameters,
        arguments,
    } = inner
    else {
        return call("not", vec![inner]);
    };
    let other = PAIRS.iter().find_map(|(one, other)| match &function {
        name if name == one => Some(*other),
        name if name == other => Some(*one),
        _ => None,
    });
    match other {
        Some(other) => Term::Call {
            function: other.to_owned(),
            parameters,
            arguments,
        },
        None => call(
            "not",
            vec![Term::Call {
                function,
                parameters,
                arguments,
            }],
        ),
    }
}

/// Functions have one name each, in small letters.
fn function_name(name: &str) -> String {
    let name = name.to_lowercase();
    let known = match name.as_str() {
        "mean" => "avg",
        "stddev_samp" => "stddev",
        "var_samp" | "var_sample" | "variance" => "var",
        "var_population" => "var_pop",
        "corr_pearson" => "corr",
        "covar" => "covar_samp",
        "every" => "bool_and",
        _ => name.as_str(),
    };
    known.to_owned()
}

fn operator_name(operator: Operator) -> &'static str {
    match operator {
        Operator::Eq => "=",
        Operator::NotEq => "<>",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        Operator::Plus => "+",
        Operator::Minus => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::Modulo => "%",
        Operator::And => "and",
        Operator::Or => "or",
        Operator::IsDistinctFrom => "is distinct from",
        Operator::IsNotDistinctFrom => "is not distinct from",
        Operator::RegexMatch => "~",
        Operator::RegexIMatch => "~*",
        Operator::RegexNotMatch => "!~",
        Operator::RegexNotIMatch => "!~*",
        Operator::LikeMatch => "~~",
        Operator::ILikeMatch => "~~*",
        Operator::NotLikeMatch => "!~~",
        Operator::NotILikeMatch => "!~~*",
        Operator::BitwiseAnd => "&",
        Operator::BitwiseOr => "|",
        Operator::BitwiseXor => "^",
        Operator::BitwiseShiftRight => ">>",
        Operator::BitwiseShiftLeft => "<<",
        Operator::StringConcat => "||",
        Operator::AtArrow => "@>",
        Operator::ArrowAt => "<@",
        Operator::Arrow => "->",
        Operator::LongArrow => "->>",
        Operator::HashArrow => "#>",
        Operator::HashLongArrow => "#>>",
        Operator::AtAt => "@@",
        Operator::IntegerDivide => "div",
        Operator::HashMinus => "#-",
        Operator::AtQuestion => "@?",
        Operator::Question => "?",
        Operator::QuestionAnd => "?&",
        Operator::QuestionPipe => "?|",
        Operator::Colon => ":",
    }
}
