//! Comparison of two answers.

use anabranch::error::Error;
use datafusion::arrow::array::Array;
use datafusion::common::ScalarValue;

use super::generate::{Exactness, Statement};

/// A value of either engine.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    /// All digits, and how many of them stand behind the point.
    Decimal(i128, u32),
    Double(f64),
    Text(String),
    /// Microseconds since 1970 in UTC.
    Time(i64),
    /// Days since 1970.
    Day(i32),
}

impl Value {
    /// A value as the script of the other engine prints it: the name of a type and a text.
    fn from_json(value: &serde_json::Value) -> Self {
        let serde_json::Value::Array(typed) = value else {
            assert!(value.is_null(), "{value}");
            return Value::Null;
        };
        let text = typed[1].as_str().unwrap();
        match typed[0].as_str().unwrap() {
            "bool" => Value::Bool(text == "true"),
            "int" => Value::Int(text.parse().unwrap()),
            "decimal" => {
                let (_, behind) = text.split_once('.').unwrap_or((text, ""));
                let digits = text.replace('.', "").parse().unwrap();
                Value::Decimal(digits, u32::try_from(behind.len()).unwrap())
            }
            "double" => Value::Double(text.parse().unwrap()),
            "text" => Value::Text(text.to_owned()),
            "time" => Value::Time(text.parse().unwrap()),
            "day" => Value::Day(text.parse().unwrap()),
            other => panic!("no type {other}"),
        }
    }

    /// A value of a column.
    pub(super) fn from_column(column: &dyn Array, row: usize) -> Self {
        let value = ScalarValue::try_from_array(column, row).unwrap();
        if value.is_null() {
            return Value::Null;
        }
        match value {
            ScalarValue::Boolean(Some(value)) => Value::Bool(value),
            ScalarValue::Int32(Some(value)) => Value::Int(value.into()),
            ScalarValue::Int64(Some(value)) => Value::Int(value.into()),
            ScalarValue::Decimal128(Some(digits), _, scale) => {
                Value::Decimal(digits, u32::try_from(scale).unwrap())
            }
            ScalarValue::Float64(Some(value)) => Value::Double(value),
            ScalarValue::Utf8(Some(text))
            | ScalarValue::Utf8View(Some(text))
            | ScalarValue::LargeUtf8(Some(text)) => Value::Text(text),
            ScalarValue::TimestampMicrosecond(Some(value), _) => Value::Time(value),
            ScalarValue::Date32(Some(value)) => Value::Day(value),
            other => panic!("no value of either engine: {other:?}"),
        }
    }

    /// Whether both are the same value. A DOUBLE may be away by `tolerance`.
    fn is(&self, other: &Value, tolerance: f64) -> bool {
        match (self, other) {
            (Value::Double(one), Value::Double(other)) => {
                one == other
                    || one.is_nan() && other.is_nan()
                    || (one - other).abs() <= tolerance
                    // In another order the sum overflows.
                    || tolerance.is_infinite()
            }
            // The average of decimals is one of them: its last digit is rounded.
            (Value::Decimal(digits, scale), Value::Double(double))
            | (Value::Double(double), Value::Decimal(digits, scale)) => {
                let unit = 0.1_f64.powi(i32::try_from(*scale).unwrap());
                let decimal = format!("{digits}e-{scale}").parse::<f64>().unwrap();
                (decimal - double).abs() <= unit + tolerance
            }
            (Value::Decimal(one, of_one), Value::Decimal(other, of_other)) => {
                without_zeros(*one, *of_one) == without_zeros(*other, *of_other)
            }
            (Value::Decimal(digits, scale), Value::Int(int))
            | (Value::Int(int), Value::Decimal(digits, scale)) => {
                without_zeros(*digits, *scale) == (*int, 0)
            }
            _ => self == other,
        }
    }
}

/// A decimal without the zeros behind its last digit behind the point.
fn without_zeros(mut digits: i128, mut scale: u32) -> (i128, u32) {
    while scale > 0 && digits % 10 == 0 {
        digits /= 10;
        scale -= 1;
    }
    (digits, scale)
}

/// An engine's answer to a statement.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Rows(Vec<Vec<Value>>),
    /// Why it has none.
    Refused(String),
}

impl Answer {
    /// A line of the script of the other engine.
    pub(super) fn from_json(line: &str) -> Self {
        match serde_json::from_str(line).unwrap() {
            serde_json::Value::Object(refused) => Answer::Refused(refused["refused"].to_string()),
            serde_json::Value::Array(rows) => Answer::Rows(
                rows.iter()
                    .map(|row| {
                        row.as_array()
                            .unwrap()
                            .iter()
                            .map(Value::from_json)
                            .collect()
                    })
                    .collect(),
            ),
            other => panic!("neither rows nor a reason: {other}"),
        }
    }

    pub(super) fn of(answer: Result<Vec<Vec<Value>>, Error>) -> Self {
        match answer {
            Ok(rows) => Answer::Rows(rows),
            Err(error) => Answer::Refused(error.message().to_owned()),
        }
    }

    pub(super) fn says(&self, what: &str) -> bool {
        matches!(self, Answer::Refused(why) if why.contains(what))
    }
}

/// Whether both refuse, or have the same rows in any order.
pub(super) fn same(statement: &Statement, ours: &Answer, theirs: &Answer) -> bool {
    match (ours, theirs) {
        (Answer::Refused(_), Answer::Refused(_)) => true,
        (Answer::Rows(ours), Answer::Rows(theirs)) => {
            let mut left: Vec<&Vec<Value>> = theirs.iter().collect();
            let are_found = ours.iter().all(|row| {
                let place = left
                    .iter()
                    .position(|other| same_row(statement.exactness, row, other));
                place.map(|place| left.swap_remove(place)).is_some()
            });
            are_found && left.is_empty()
        }
        _ => false,
    }
}

fn same_row(exactness: Exactness, ours: &[Value], theirs: &[Value]) -> bool {
    // A few rounded steps, and the sum of a few rows.
    const STEPS: f64 = 4.0 * f64::EPSILON;
    const ROWS: f64 = 1024.0 * f64::EPSILON;
    let tolerance = |place: usize| match (exactness, &ours[place], ours.last()) {
        (Exactness::Quotient, Value::Double(value), _) => STEPS * value.abs(),
        (Exactness::Summed, _, Some(Value::Double(greatest))) if place + 2 == ours.len() => {
            match *greatest > f64::MAX / 64.0 && greatest.is_finite() {
                true => f64::INFINITY,
                false if greatest.is_finite() => ROWS * greatest,
                false => 0.0,
            }
        }
        _ => 0.0,
    };
    ours.len() == theirs.len()
        && (0..ours.len()).all(|place| ours[place].is(&theirs[place], tolerance(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str) -> Answer {
        Answer::from_json(json)
    }

    fn are_same(exactness: Exactness, ours: &str, theirs: &str) -> bool {
        let statement = Statement {
            ours: String::new(),
            theirs: String::new(),
            exactness,
        };
        same(&statement, &answer(ours), &answer(theirs))
    }

    #[test]
    fn values_are_compared_by_their_type() {
        let exact = |ours, theirs| are_same(Exactness::Exact, ours, theirs);
        assert!(exact(
            r#"[[["double", "nan"]]]"#,
            r#"[[["double", "NaN"]]]"#
        ));
        assert!(exact(
            r#"[[["double", "1e300"]]]"#,
            r#"[[["double", "1e+300"]]]"#
        ));
        assert!(exact(
            r#"[[["double", "-0.0"]]]"#,
            r#"[[["double", "0.0"]]]"#
        ));
        assert!(!exact(
            r#"[[["double", "inf"]]]"#,
            r#"[[["double", "1e308"]]]"#
        ));
        assert!(!exact(r#"[[["double", "nan"]]]"#, r#"[[["double", "1"]]]"#));
        assert!(!exact(
            r#"[[["double", "0.1"]]]"#,
            r#"[[["double", "0.10000000000000002"]]]"#
        ));
        assert!(exact(
            r#"[[["decimal", "1.50"]]]"#,
            r#"[[["decimal", "1.5000"]]]"#
        ));
        assert!(exact(r#"[[["decimal", "-2.00"]]]"#, r#"[[["int", "-2"]]]"#));
        assert!(!exact(
            r#"[[["decimal", "1.50"]]]"#,
            r#"[[["decimal", "1.51"]]]"#
        ));
        assert!(!exact(r#"[[["text", "1"]]]"#, r#"[[["int", "1"]]]"#));
        assert!(!exact("[[null]]", r#"[[["text", "NULL"]]]"#));
        // Rows come in any order, and as often as they do.
        assert!(exact(
            r#"[[["int", "1"]], [null]]"#,
            r#"[[null], [["int", "1"]]]"#
        ));
        assert!(!exact(
            r#"[[null], [null], [["int", "1"]]]"#,
            r#"[[null], [["int", "1"]], [["int", "1"]]]"#
        ));
    }

    #[test]
    fn sums_may_differ_by_their_rounding_order() {
        let summed = |ours: &str, theirs: &str| are_same(Exactness::Summed, ours, theirs);
        let sum = |sum: &str, greatest: &str| {
            format!(r#"[[["double", "{sum}"], ["double", "{greatest}"]]]"#)
        };
        assert!(summed(&sum("0", "1e300"), &sum("0.1", "1e300")));
        assert!(!summed(&sum("0", "1"), &sum("0.1", "1")));
        assert!(!summed(&sum("0", "nan"), &sum("0.1", "nan")));
        assert!(summed(
            &sum("0.30000000000000004", "0.2"),
            &sum("0.3", "0.2")
        ));
        assert!(!summed(&sum("1", "1"), &sum("1", "1.0000000000000002")));
    }
}
