//! Time shapes of generated columns: an expression that is a part of a time column, such as the hour of `event_time`,
//! or its date.

use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::sql::sqlparser::ast::{
    DataType as SqlType, Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, Value,
};

/// A generated column that is a part of the time in one other column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TimeShape {
    /// The time column.
    pub(super) source: String,
    pub(super) part: TimePart,
}

/// Which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimePart {
    /// Grows with time; together with nothing else it fixes time down to this level.
    Absolute(TimeLevel),
    /// Starts again within the next coarser level: the month of a year, the hour of a day.
    Within(TimeLevel),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimeLevel {
    None,
    Year,
    Month,
    Day,
    Hour,
}

impl TimeLevel {
    fn of(unit: &str) -> Option<Self> {
        Some(match unit {
            "year" | "quarter" => TimeLevel::Year,
            "month" => TimeLevel::Month,
            "day" => TimeLevel::Day,
            "hour" | "minute" | "second" => TimeLevel::Hour,
            // A week may lie in two years.
            "week" => TimeLevel::None,
            _ => return None,
        })
    }

    pub(super) fn finer(self) -> Option<Self> {
        match self {
            TimeLevel::None => Some(TimeLevel::Year),
            TimeLevel::Year => Some(TimeLevel::Month),
            TimeLevel::Month => Some(TimeLevel::Day),
            TimeLevel::Day => Some(TimeLevel::Hour),
            TimeLevel::Hour => None,
        }
    }
}

/// The time column and the part of it that the expression of a generated column computes, if it is such an expression.
pub(super) fn time_shape(ast: &SqlExpr, schema: &SchemaRef) -> Option<TimeShape> {
    match ast {
        SqlExpr::Nested(inner) => time_shape(inner, schema),
        SqlExpr::Cast {
            expr, data_type, ..
        } => match data_type {
            SqlType::Date => match source_column(expr, schema) {
                Some(source) => Some(TimeShape {
                    source,
                    part: TimePart::Absolute(TimeLevel::Day),
                }),
                None => match time_shape(expr, schema)? {
                    TimeShape {
                        source,
                        part: TimePart::Absolute(level),
                    } => Some(TimeShape {
                        source,
                        part: TimePart::Absolute(level.min(TimeLevel::Day)),
                    }),
                    TimeShape { .. } => None,
                },
            },
            SqlType::Int(_) | SqlType::Integer(_) | SqlType::BigInt(_) | SqlType::SmallInt(_) => {
                time_shape(expr, schema)
            }
            SqlType::Timestamp(..) => match time_shape(expr, schema)? {
                shape @ TimeShape {
                    part: TimePart::Absolute(_),
                    ..
                } => Some(shape),
                TimeShape { .. } => None,
            },
            _ => None,
        },
        SqlExpr::Extract { field, expr, .. } => {
            part_of(&field.to_string(), source_column(expr, schema)?)
        }
        SqlExpr::Function(function) => {
            let FunctionArguments::List(list) = &function.args else {
                return None;
            };
            let [first, second] = list.args.as_slice() else {
                return None;
            };
            let (first, second) = (plain(first)?, plain(second)?);
            match function.name.to_string().to_ascii_lowercase().as_str() {
                "date_part" | "datepart" => {
                    part_of(string_literal(first)?, source_column(second, schema)?)
                }
                "date_trunc" | "datetrunc" => {
                    let level = TimeLevel::of(&string_literal(first)?.to_ascii_lowercase())?;
                    let source = source_column(second, schema)?;
                    Some(TimeShape {
                        source,
                        part: TimePart::Absolute(level),
                    })
                }
                "to_char" | "date_format" => {
                    let level = ordered_format(string_literal(second)?)?;
                    let source = source_column(first, schema)?;
                    Some(TimeShape {
                        source,
                        part: TimePart::Absolute(level),
                    })
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn part_of(part: &str, source: String) -> Option<TimeShape> {
    let part = match part.to_ascii_lowercase().as_str() {
        "year" => TimePart::Absolute(TimeLevel::Year),
        "month" => TimePart::Within(TimeLevel::Month),
        "day" => TimePart::Within(TimeLevel::Day),
        "hour" => TimePart::Within(TimeLevel::Hour),
        _ => return None,
    };
    Some(TimeShape { source, part })
}

/// The level down to which text in this format sorts as time does.
fn ordered_format(format: &str) -> Option<TimeLevel> {
    let mut letters = format.chars().peekable();
    let mut expected = ['Y', 'm', 'd', 'H', 'M', 'S'].into_iter();
    let mut count = 0;
    while let Some(letter) = letters.next() {
        if letter == '%' && letters.next()? != expected.next()? {
            return None;
        } else if letter == '%' {
            count += 1;
        }
    }
    match count {
        1 => Some(TimeLevel::Year),
        2 => Some(TimeLevel::Month),
        3 => Some(TimeLevel::Day),
        4.. => Some(TimeLevel::Hour),
        _ => None,
    }
}

fn source_column(expr: &SqlExpr, schema: &SchemaRef) -> Option<String> {
    match expr {
        SqlExpr::Nested(inner) => source_column(inner, schema),
        SqlExpr::Identifier(name) => {
            let field = schema.field_with_name(&name.value).ok()?;
            matches!(
                field.data_type(),
                DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Date32
            )
            .then(|| name.value.clone())
        }
        _ => None,
    }
}

fn plain(argument: &FunctionArg) -> Option<&SqlExpr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

/// The text of a string literal.
pub(super) fn string_literal(expr: &SqlExpr) -> Option<&str> {
    match expr {
        SqlExpr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}
