//! Conversion of Arrow values to SQL literals that keep type and value: `arrow_cast('12.50', 'Decimal128(10, 2)')` (VALUE-1).

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int32Type, Int64Type, IntervalDayTimeType,
    IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType as SqlType, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, Interval, ObjectName, Value,
};

use crate::error::{Error, Result};
use crate::planner::types::timestamp_type;

/// A value that is bound to a parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundValue {
    /// The form where only a literal may stand: text, number, true, false, NULL or bytes.
    pub(crate) plain: Value,
    /// The form where an expression may stand: with its type, if the literal alone does not carry it.
    pub(crate) typed: Option<Expr>,
}

impl BoundValue {
    /// NULL without a type.
    pub fn null() -> Self {
        Self {
            plain: Value::Null,
            typed: None,
        }
    }

    /// The expression.
    pub(crate) fn expr(&self) -> Expr {
        self.typed
            .clone()
            .unwrap_or_else(|| Expr::value(self.plain.clone()))
    }
}

/// A column of bound values in the types used for binding: times are TIMESTAMP if that loses nothing.
///
/// # Errors
///
/// None in practice.
pub fn bound_column(column: &ArrayRef) -> Result<ArrayRef> {
    let to = match column.data_type() {
        DataType::Timestamp(..) => timestamp_type(),
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        _ => return Ok(ArrayRef::clone(column)),
    };
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let Ok(cast) = cast_with_options(column, &to, &strict) else {
        return Ok(ArrayRef::clone(column));
    };
    // TIMESTAMP would lose parts of a microsecond: then the column is not converted.
    let back = cast_with_options(&cast, column.data_type(), &strict);
    Ok(match back {
        Ok(back) if back.as_ref() == column.as_ref() => cast,
        _ => ArrayRef::clone(column),
    })
}

/// The value in a row of a column, to be bound to the parameter `name`.
///
/// # Errors
///
/// A type without a literal.
pub fn bound_value(name: &str, column: &ArrayRef, row: usize) -> Result<BoundValue> {
    let internal = |error: datafusion::arrow::error::ArrowError| Error::internal(error.to_string());
    let column = bound_column(&column.slice(row, 1))?;
    let of = column.data_type();
    if column.is_null(0) {
        // Clients that do not know the type bind NULL as text: an untyped NULL fits any type.
        let has_type = !matches!(
            of,
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        ) && !of.is_nested();
        return Ok(BoundValue {
            plain: Value::Null,
            typed: has_type.then(|| arrow_cast(Expr::value(Value::Null), of)),
        });
    }
    let shown = {
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(&column, &options).map_err(internal)?;
        formatter.value(0).to_string()
    };
    let number = |text: String| Value::Number(text, false);
    let text = |text: String| Value::SingleQuotedString(text);
    let ticks = |of: &DataType| -> Result<String> {
        let ticks = cast(&column, of).map_err(internal)?;
        Ok(match of {
            DataType::Int32 => ticks.as_primitive::<Int32Type>().value(0).to_string(),
            _ => ticks.as_primitive::<Int64Type>().value(0).to_string(),
        })
    };
    let (plain, typed) = match of {
        DataType::Boolean => (Value::Boolean(column.as_boolean().value(0)), None),
        DataType::Int64 => (number(shown), None),
        of if of.is_integer() => {
            let plain = number(shown);
            let typed = arrow_cast(Expr::value(plain.clone()), of);
            (plain, Some(typed))
        }
        of if of.is_decimal() => {
            let typed = arrow_cast(Expr::value(text(shown.clone())), of);
            (number(shown), Some(typed))
        }
        DataType::Float64 => {
            let value = column.as_primitive::<Float64Type>().value(0);
            // The shortest text that is read as the same number.
            let typed = double(format!("{value:e}"));
            (number(shown), Some(typed))
        }
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(0);
            let typed = arrow_cast(Expr::value(text(format!("{value:e}"))), of);
            (number(shown), Some(typed))
        }
        DataType::Float16 => {
            let typed = arrow_cast(Expr::value(text(shown.clone())), of);
            (number(shown), Some(typed))
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => (text(shown), None),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => {
            let bytes = cast(&column, &DataType::Binary).map_err(internal)?;
            let bytes = bytes.as_binary::<i32>().value(0).iter();
            let hex = bytes.map(|byte| format!("{byte:02x}")).collect();
            (Value::HexStringLiteral(hex), None)
        }
        DataType::Date32 | DataType::Time32(_) | DataType::Interval(IntervalUnit::YearMonth) => {
            let days = Expr::value(number(ticks(&DataType::Int32)?));
            (
                text(shown),
                Some(arrow_cast(arrow_cast(days, &DataType::Int32), of)),
            )
        }
        DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Duration(_) => {
            let ticks = Expr::value(number(ticks(&DataType::Int64)?));
            (text(shown), Some(arrow_cast(ticks, of)))
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = column.as_primitive::<IntervalDayTimeType>().value(0);
            let parts = format!("{} days {} milliseconds", value.days, value.milliseconds);
            (text(parts.clone()), Some(interval(parts)))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = column.as_primitive::<IntervalMonthDayNanoType>().value(0);
            let parts = format!(
                "{} months {} days {} nanoseconds",
                value.months, value.days, value.nanoseconds
            );
            (text(parts.clone()), Some(interval(parts)))
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            let item = match of {
                DataType::List(item) | DataType::LargeList(item) => item,
                DataType::FixedSizeList(item, _) => item,
                _ => return Err(Error::internal("a list of no items")),
            };
            let list = cast(&column, &DataType::List(item.clone())).map_err(internal)?;
            let items = list.as_list::<i32>().value(0);
            let items = (0..items.len()).map(|at| Ok(bound_value(name, &items, at)?.expr()));
            let list = call("make_array", items.collect::<Result<_>>()?);
            (text(shown), Some(list))
        }
        DataType::Struct(fields) => {
            let values = column.as_struct();
            let mut parts = Vec::with_capacity(2 * fields.len());
            for (field, values) in fields.iter().zip(values.columns()) {
                parts.push(Expr::value(text(field.name().clone())));
                parts.push(bound_value(name, values, 0)?.expr());
            }
            (text(shown), Some(call("named_struct", parts)))
        }
        _ => {
            return Err(Error::unsupported(format!(
                "parameter ${name} is of type {of}, which cannot be bound"
            ))
            .with_help("bind text, a number, a time, a boolean, bytes, a list or a struct"));
        }
    };
    Ok(BoundValue { plain, typed })
}

fn arrow_cast(value: Expr, to: &DataType) -> Expr {
    let name = match to {
        // As the function reads it.
        DataType::Timestamp(unit, zone) => {
            let unit = match unit {
                TimeUnit::Second => "Second",
                TimeUnit::Millisecond => "Millisecond",
                TimeUnit::Microsecond => "Microsecond",
                TimeUnit::Nanosecond => "Nanosecond",
            };
            match zone {
                Some(zone) => format!("Timestamp({unit}, Some(\"{zone}\"))"),
                None => format!("Timestamp({unit}, None)"),
            }
        }
        other => format!("{other:?}"),
    };
    let to = Expr::value(Value::SingleQuotedString(name));
    call("arrow_cast", vec![value, to])
}

fn double(text: String) -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::value(Value::SingleQuotedString(text))),
        data_type: SqlType::Double(ExactNumberInfo::None),
        array: false,
        format: None,
    }
}

fn interval(parts: String) -> Expr {
    Expr::Interval(Interval {
        value: Box::new(Expr::value(Value::SingleQuotedString(parts))),
        leading_field: None,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    })
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let arguments = arguments.into_iter();
    let arguments = arguments.map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: arguments.collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
