//! The stateful part of a job as [`StateDescription`] has it: expressions of the engine in a form of our own.
//!
//! Two expressions that always have the same value and differ only in how a release of the engine writes them have one form: names
//! that they are given, casts that change nothing, constants that were cast, `BETWEEN`, `count(*)`, the many types of one text.
//! Names of functions, operators and types are ours, and do not change.
//!
//! Parts that a job may change without a new state are left out: the columns selected from groups, filters below and above the
//! aggregate, the delay and the policy of watermarks, `EMIT`, and options. A state row is the same under all of them.

use anabranch_udfs::{EventWindow, SessionColumn, SessionWindow, as_kept};
use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::{DFSchema, DFSchemaRef, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::{Expr, ExprSchemable as _, Extension, LogicalPlan, Operator};

use crate::core::jobs::fingerprint::{
    Order, Place, StateDescription, Term, Typed, Window, is_versioned,
};
use crate::error::{Error, Result};
use crate::streaming::windowing::Windowing;

/// In the fingerprint of format 1 of state by slice. State of the same windows that was kept by window has the same one without it.
const BY_SLICE: &str = "; by slice";

/// What the state of a job is known by.
#[derive(Debug, Clone)]
pub(super) struct Fingerprints {
    /// As it is written.
    pub(super) now: String,
    /// Of the same state by window, if this is by slice.
    by_window: Option<String>,
    /// As format 1 had it: what the engine prints.
    pub(super) earlier: String,
}

/// The stateful part of a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stateful<'a> {
    pub(super) window: Option<&'a LogicalPlan>,
    /// The window as the engine prints it.
    pub(super) window_text: &'a str,
    pub(super) windowing: &'a Windowing,
    pub(super) groups: &'a [Expr],
    pub(super) aggregates: &'a [Expr],
    /// The columns of the rows that are aggregated.
    pub(super) rows: &'a DFSchemaRef,
}

impl Fingerprints {
    pub(super) fn of(part: &Stateful<'_>) -> Result<Self> {
        let mut description = described(part)?;
        let now = description.fingerprint();
        let by_window = match &mut description.window {
            Window::Aligned { is_by_slice, .. } if *is_by_slice => {
                *is_by_slice = false;
                Some(description.fingerprint())
            }
            _ => None,
        };
        Ok(Self {
            now,
            by_window,
            earlier: earlier(part)?,
        })
    }

    /// Whether a fingerprint that was kept is one of these.
    pub(super) fn are_of(&self, kept: &str) -> bool {
        match is_versioned(kept) {
            true => kept == self.now,
            false => kept == self.earlier,
        }
    }

    /// Whether it is of the same state by window, where this is by slice.
    pub(super) fn are_by_window(&self, kept: &str) -> bool {
        match &self.by_window {
            None => false,
            Some(by_window) if is_versioned(kept) => kept == by_window,
            Some(_) => self.earlier.strip_suffix(BY_SLICE) == Some(kept),
        }
    }
}

/// The expressions that a row of state has for its group.
fn groups<'a>(part: &Stateful<'a>) -> Vec<&'a Expr> {
    match part.windowing {
        Windowing::Keys { groups } | Windowing::Aligned { groups, .. } => groups.iter().collect(),
        Windowing::Sliced { .. } => part.groups.iter().collect(),
        Windowing::Session(session) => session.keys().iter().chain(session.others()).collect(),
    }
}

/// The fingerprint of format 1. It stays as it was: state that was kept with it is still there.
fn earlier(part: &Stateful<'_>) -> Result<String> {
    use std::fmt::Write as _;
    let mut text = part.window_text.to_owned();
    for expr in groups(part).into_iter().chain(part.aggregates) {
        let data_type = expr.get_type(part.rows.as_ref())?;
        // As it was before operators were checked and averages of integers were exact: state that was kept then is read.
        let expr = as_kept(expr.clone(), part.rows)?;
        let _ = write!(text, "; {expr}: {data_type}");
    }
    match part.windowing {
        Windowing::Sliced { .. } => text += BY_SLICE,
        Windowing::Session(session) => {
            let _ = write!(text, "{:?}", session.groups());
        }
        Windowing::Keys { .. } | Windowing::Aligned { .. } => {}
    }
    Ok(text)
}

fn described(part: &Stateful<'_>) -> Result<StateDescription> {
    let all = |exprs: Vec<&Expr>| {
        let typed = exprs.into_iter().map(|expr| typed(expr, part.rows));
        typed.collect::<Result<Vec<_>>>()
    };
    Ok(StateDescription {
        window: window(part)?,
        groups: all(groups(part))?,
        aggregates: all(part.aggregates.iter().collect())?,
    })
}

fn window(part: &Stateful<'_>) -> Result<Window> {
    let Some(LogicalPlan::Extension(Extension { node })) = part.window else {
        return Ok(Window::None);
    };
    let node = node.as_any();
    if let Some(window) = node.downcast_ref::<EventWindow>() {
        let windows = window.windows();
        return Ok(Window::Aligned {
            // The name of the function in SQL.
            function: windows.kind().to_string(),
            event_time: typed(window.event_time(), window.input().schema())?,
            size: windows.size(),
            step: windows.step(),
            offset: windows.offset(),
            is_by_slice: matches!(part.windowing, Windowing::Sliced { .. }),
        });
    }
    let (Some(window), Windowing::Session(session)) =
        (node.downcast_ref::<SessionWindow>(), part.windowing)
    else {
        return Err(Error::internal("a window of a kind that is not known"));
    };
    let schema = window.input().schema();
    let keys = window.keys().iter().map(|key| kept_term(key, schema));
    let columns = session.groups().iter().map(|column| match column {
        SessionColumn::Key(number) => Place::Group(i64::try_from(*number).unwrap_or(i64::MAX)),
        SessionColumn::WindowStart => Place::Start,
        SessionColumn::WindowEnd => Place::End,
    });
    Ok(Window::Session {
        keys: keys.collect::<Result<_>>()?,
        event_time: typed(window.event_time(), schema)?,
        gap: window.gap(),
        columns: columns.collect(),
    })
}

fn typed(expr: &Expr, schema: &DFSchema) -> Result<Typed> {
    Ok(Typed {
        data_type: type_name(&expr.get_type(schema)?),
        term: kept_term(expr, schema)?,
    })
}

/// The term of an expression as it was written, with plain operators.
fn kept_term(expr: &Expr, schema: &DFSchema) -> Result<Term> {
    Ok(term(&as_kept(expr.clone(), schema)?, schema))
}

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

/// The name of a type: of SQL, where it has one there. Types that hold the same values in different layouts have one name:
/// state that was kept in one of them is read into the other.
fn type_name(data_type: &DataType) -> String {
    let fraction = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INTEGER UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float16 => "FLOAT16".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Date64 => "DATE64".to_owned(),
        DataType::Time32(unit) | DataType::Time64(unit) => format!("TIME({})", fraction(unit)),
        DataType::Timestamp(unit, None) => format!("TIMESTAMP({})", fraction(unit)),
        DataType::Timestamp(unit, Some(zone)) => {
            let zone = match zone.as_ref() {
                "+00:00" | "Z" | "Etc/UTC" => "UTC",
                zone => zone,
            };
            format!("TIMESTAMP({}) WITH TIME ZONE '{zone}'", fraction(unit))
        }
        DataType::Duration(unit) => format!("DURATION({})", fraction(unit)),
        DataType::Interval(IntervalUnit::YearMonth) => "INTERVAL YEAR TO MONTH".to_owned(),
        DataType::Interval(IntervalUnit::DayTime) => "INTERVAL DAY TO SECOND".to_owned(),
        DataType::Interval(IntervalUnit::MonthDayNano) => "INTERVAL".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "VARBINARY".to_owned(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("ARRAY<{}>", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| {
                // Names are quoted: one may have any letters.
                let name = field.name().replace('"', "\"\"");
                format!("\"{name}\" {}", type_name(field.data_type()))
            });
            format!("STRUCT<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => format!(
                "MAP<{}, {}>",
                type_name(fields[0].data_type()),
                type_name(fields[1].data_type())
            ),
            other => format!("MAP<{}>", type_name(other)),
        },
        DataType::Dictionary(_, value) => type_name(value),
        DataType::RunEndEncoded(_, value) => type_name(value.data_type()),
        DataType::Union(fields, _) => {
            let fields = fields
                .iter()
                .map(|(id, field)| format!("{id} {}", type_name(field.data_type())));
            format!("UNION<{}>", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

fn is_integer(data_type: &str) -> bool {
    range_of(data_type).is_some()
}

/// The lowest and the highest number of a type of whole numbers.
fn range_of(data_type: &str) -> Option<(i128, i128)> {
    Some(match data_type {
        "TINYINT" => (i128::from(i8::MIN), i128::from(i8::MAX)),
        "SMALLINT" => (i128::from(i16::MIN), i128::from(i16::MAX)),
        "INTEGER" => (i128::from(i32::MIN), i128::from(i32::MAX)),
        "BIGINT" => (i128::from(i64::MIN), i128::from(i64::MAX)),
        "TINYINT UNSIGNED" => (0, i128::from(u8::MAX)),
        "SMALLINT UNSIGNED" => (0, i128::from(u16::MAX)),
        "INTEGER UNSIGNED" => (0, i128::from(u32::MAX)),
        "BIGINT UNSIGNED" => (0, i128::from(u64::MAX)),
        _ => return None,
    })
}

/// Whether a number in digits has a place in a type of whole numbers.
fn fits(digits: &[u8], data_type: &str) -> bool {
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse::<i128>().ok());
    match (number, range_of(data_type)) {
        (Some(number), Some((lowest, highest))) => (lowest..=highest).contains(&number),
        _ => false,
    }
}

/// A number in digits with the other sign.
fn with_other_sign(digits: Vec<u8>) -> Vec<u8> {
    match digits.strip_prefix(b"-") {
        Some(positive) => positive.to_vec(),
        None if digits == b"0" => digits,
        None => [&b"-"[..], &digits].concat(),
    }
}

/// A constant.
fn literal(value: &ScalarValue) -> Term {
    if let ScalarValue::Dictionary(_, value) | ScalarValue::RunEndEncoded(_, _, value) = value {
        return literal(value);
    }
    let data_type = type_name(&value.data_type());
    if value.is_null() {
        return Term::Literal {
            data_type,
            value: None,
        };
    }
    let nested = |kind: &str, values: Vec<Term>| Term::Call {
        function: kind.to_owned(),
        parameters: vec![data_type.clone()],
        arguments: values,
    };
    match value {
        ScalarValue::List(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::LargeList(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::ListView(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::LargeListView(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::FixedSizeList(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::Struct(fields) => {
            return nested(
                "struct",
                fields.columns().iter().flat_map(values_of).collect(),
            );
        }
        ScalarValue::Map(map) => {
            let entries = map.value(0);
            return nested(
                "map",
                entries.columns().iter().flat_map(values_of).collect(),
            );
        }
        _ => {}
    }
    Term::Literal {
        data_type,
        value: Some(value_bytes(value)),
    }
}

fn values_of(values: &ArrayRef) -> Vec<Term> {
    let value = |row| match ScalarValue::try_from_array(values, row) {
        Ok(value) => literal(&value),
        // Each value of an array is a constant.
        Err(error) => call(&error.to_string(), Vec::new()),
    };
    (0..values.len()).map(value).collect()
}

/// A value that is not NULL: numbers in digits, floating ones by their bits, times in ticks.
fn value_bytes(value: &ScalarValue) -> Vec<u8> {
    fn digits<T: ToString>(number: &Option<T>) -> Vec<u8> {
        number
            .as_ref()
            .map(T::to_string)
            .unwrap_or_default()
            .into_bytes()
    }
    match value {
        ScalarValue::Boolean(value) => digits(value),
        ScalarValue::Float16(value) => digits(&value.map(|value| value.to_bits())),
        ScalarValue::Float32(value) => digits(&value.map(f32::to_bits)),
        ScalarValue::Float64(value) => digits(&value.map(f64::to_bits)),
        ScalarValue::Decimal32(value, ..) => digits(value),
        ScalarValue::Decimal64(value, ..) => digits(value),
        ScalarValue::Decimal128(value, ..) => digits(value),
        ScalarValue::Decimal256(value, ..) => digits(value),
        ScalarValue::Int8(value) => digits(value),
        ScalarValue::Int16(value) => digits(value),
        ScalarValue::Int32(value)
        | ScalarValue::Date32(value)
        | ScalarValue::Time32Second(value)
        | ScalarValue::Time32Millisecond(value)
        | ScalarValue::IntervalYearMonth(value) => digits(value),
        ScalarValue::Int64(value)
        | ScalarValue::Date64(value)
        | ScalarValue::Time64Microsecond(value)
        | ScalarValue::Time64Nanosecond(value)
        | ScalarValue::TimestampSecond(value, _)
        | ScalarValue::TimestampMillisecond(value, _)
        | ScalarValue::TimestampMicrosecond(value, _)
        | ScalarValue::TimestampNanosecond(value, _)
        | ScalarValue::DurationSecond(value)
        | ScalarValue::DurationMillisecond(value)
        | ScalarValue::DurationMicrosecond(value)
        | ScalarValue::DurationNanosecond(value) => digits(value),
        ScalarValue::UInt8(value) => digits(value),
        ScalarValue::UInt16(value) => digits(value),
        ScalarValue::UInt32(value) => digits(value),
        ScalarValue::UInt64(value) => digits(value),
        ScalarValue::IntervalDayTime(value) => {
            digits(&value.map(|value| format!("{} {}", value.days, value.milliseconds)))
        }
        ScalarValue::IntervalMonthDayNano(value) => digits(
            &value.map(|value| format!("{} {} {}", value.months, value.days, value.nanoseconds)),
        ),
        ScalarValue::Utf8(value) | ScalarValue::Utf8View(value) | ScalarValue::LargeUtf8(value) => {
            value.clone().unwrap_or_default().into_bytes()
        }
        ScalarValue::Binary(value)
        | ScalarValue::BinaryView(value)
        | ScalarValue::LargeBinary(value)
        | ScalarValue::FixedSizeBinary(_, value) => value.clone().unwrap_or_default(),
        // A constant of a union cannot be written in SQL.
        other => other.to_string().into_bytes(),
    }
}
