//! Functions whose result can be much larger than what they are given: `repeat('x', 1000000000)` (SAFE-1).
//!
//! What a function makes is in no memory pool until an operator takes it, and a failed allocation would end the process. So
//! these functions say what they are about to make of a batch, and are refused beyond the budget of their statement, also
//! where the optimizer evaluates them.

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalUnit, TimeUnit};
use datafusion::common::config::{ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::common::config_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::registry::FunctionRegistry as _;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};

use crate::error::{Error, ErrorKind};

/// Bytes that one call of a function may make of a batch.
#[derive(Debug, Clone)]
pub(super) struct Budget(pub(super) usize);

impl ConfigExtension for Budget {
    const PREFIX: &'static str = "anabranch_budget";
}

/// It is no setting of users: none of them shows or sets it.
impl ExtensionOptions for Budget {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _: &str) -> Result<()> {
        config_err!("there is no setting {key}")
    }

    fn entries(&self) -> Vec<datafusion::common::config::ConfigEntry> {
        Vec::new()
    }
}

/// Bytes of what a call makes.
type Size = fn(&ScalarFunctionArgs) -> Option<u128>;

/// The functions, by all of their names, and how large their results are.
const GROWING: [(&str, Size); 14] = [
    ("repeat", repeated),
    ("lpad", padded),
    ("rpad", padded),
    ("array_repeat", repeated),
    ("array_resize", resized),
    ("generate_series", series),
    ("range", series),
    ("replace", replaced),
    ("regexp_replace", replaced),
    ("concat", together),
    ("concat_ws", together),
    ("array_concat", together),
    ("array_to_string", joined),
    ("encode", together),
];

/// Puts the bound around the functions of a state.
///
/// # Errors
///
/// A function of these that is not there.
pub(super) fn bound(state: &mut SessionState) -> Result<()> {
    for (name, size) in GROWING {
        let inner = state.udf(name)?;
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(Bounded { inner, size })))?;
    }
    Ok(())
}

/// A function that is asked for the size of its result first.
#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    size: Size,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let budget = args.config_options.extensions.get::<Budget>();
        if let (Some(Budget(most)), Some(size)) = (budget, (self.size)(&args))
            && size > *most as u128
        {
            let error = Error::new(
                ErrorKind::Exhausted,
                format!(
                    "{} would make {size} bytes of {} rows, and the statement may hold {most}",
                    self.name(),
                    args.number_rows
                ),
            );
            return Err(DataFusionError::from(
                error.with_help("make less of each row, or read fewer rows"),
            ));
        }
        self.inner.invoke_with_args(args)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let inner = self.inner.inner().with_updated_config(config)?;
        Some(ScalarUDF::new_from_impl(Self {
            inner: Arc::new(inner),
            size: self.size,
        }))
    }
}

/// Bytes of an argument for all rows.
fn bytes(args: &ScalarFunctionArgs, at: usize) -> Option<u128> {
    Some(match args.args.get(at)? {
        ColumnarValue::Array(array) => array.get_slice_memory_size_or_all() as u128,
        ColumnarValue::Scalar(value) => {
            let of = match value.try_as_str() {
                Some(text) => text.map_or(0, str::len),
                None => value.size(),
            };
            of as u128 * args.number_rows as u128
        }
    })
}

/// The whole numbers of an argument.
fn numbers(args: &ScalarFunctionArgs, at: usize) -> Option<Int64Array> {
    let array = args.args.get(at)?.to_array(args.number_rows).ok()?;
    let numbers = cast(&array, &DataType::Int64).ok()?;
    numbers.as_primitive_opt::<Int64Type>().cloned()
}

fn each(numbers: &Int64Array) -> impl Iterator<Item = u128> {
    numbers
        .iter()
        .map(|number| u128::try_from(number.unwrap_or(0)).unwrap_or(0))
}

/// `repeat(text, n)`, `array_repeat(element, n)`: exact for texts, an upper bound for other elements.
fn repeated(args: &ScalarFunctionArgs) -> Option<u128> {
    let counts = numbers(args, 1)?;
    if let Some(lengths) = lengths(args, 0) {
        let sizes = lengths.into_iter().zip(each(&counts));
        return Some(
            sizes
                .map(|(length, count)| length.saturating_mul(count))
                .fold(0, u128::saturating_add),
        );
    }
    let most = each(&counts).max().unwrap_or(0);
    Some(
        bytes(args, 0)?
            .max(args.number_rows as u128 * 8)
            .saturating_mul(most),
    )
}

/// Bytes of each text of an argument; at least one, for what stands around it.
fn lengths(args: &ScalarFunctionArgs, at: usize) -> Option<Vec<u128>> {
    let array = match args.args.get(at)? {
        ColumnarValue::Scalar(value) => {
            let length = value.try_as_str()?.map_or(1, |text| text.len().max(1));
            return Some(vec![length as u128; args.number_rows]);
        }
        ColumnarValue::Array(array) => array,
    };
    let length = |text: Option<&str>| text.map_or(1, |text| text.len().max(1)) as u128;
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().map(length).collect(),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().map(length).collect(),
        DataType::Utf8View => array.as_string_view().iter().map(length).collect(),
        _ => return None,
    })
}

/// `lpad(text, n)`: as many characters, each of which may take four bytes if what fills it says so.
fn padded(args: &ScalarFunctionArgs) -> Option<u128> {
    let widest = if args.args.len() > 2 { 4 } else { 1 };
    let characters = each(&numbers(args, 1)?).fold(0, u128::saturating_add);
    Some(characters.saturating_mul(widest))
}

/// `array_resize(list, n, value)`.
fn resized(args: &ScalarFunctionArgs) -> Option<u128> {
    let elements = each(&numbers(args, 1)?).fold(0, u128::saturating_add);
    let rows = args.number_rows.max(1) as u128;
    let one = bytes(args, 2).unwrap_or(0) / rows;
    Some(elements.saturating_mul(one.max(8)))
}

/// `range(start, stop, step)` of numbers, days and times.
fn series(args: &ScalarFunctionArgs) -> Option<u128> {
    let of = args.args.first()?.data_type();
    let column = |at: usize| -> Option<Int64Array> {
        let array = args.args.get(at)?.to_array(args.number_rows).ok()?;
        let array = match array.data_type() {
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
                cast(&array, &DataType::Timestamp(TimeUnit::Microsecond, None)).ok()?
            }
            DataType::Interval(_) => return intervals(&array),
            _ => array,
        };
        let numbers = cast(&array, &DataType::Int64).ok()?;
        numbers.as_primitive_opt::<Int64Type>().cloned()
    };
    let is_time = of.is_temporal();
    let (start, stop, step) = match args.args.len() {
        1 => (None, column(0)?, None),
        2 => (Some(column(0)?), column(1)?, None),
        _ => (Some(column(0)?), column(1)?, Some(column(2)?)),
    };
    let value = |of: &Option<Int64Array>, row: usize, otherwise: i64| match of {
        Some(of) if of.is_valid(row) => i128::from(of.value(row)),
        _ => i128::from(otherwise),
    };
    let stop = Some(stop);
    let day = 86_400_000_000;
    let elements = (0..args.number_rows).map(|row| {
        let step = value(&step, row, if is_time { day } else { 1 });
        if step == 0 {
            return 0;
        }
        let span = value(&stop, row, 0) - value(&start, row, 0);
        u128::try_from(span / step).map_or(0, |count| count + 1)
    });
    Some(elements.fold(0, u128::saturating_add).saturating_mul(8))
}

/// Intervals in microseconds; months are short ones.
fn intervals(array: &dyn Array) -> Option<Int64Array> {
    let whole = cast(array, &DataType::Interval(IntervalUnit::MonthDayNano)).ok()?;
    let whole =
        whole.as_primitive_opt::<datafusion::arrow::datatypes::IntervalMonthDayNanoType>()?;
    let micros = |of: datafusion::arrow::datatypes::IntervalMonthDayNano| {
        let days = i64::from(of.months) * 28 + i64::from(of.days);
        days.saturating_mul(86_400_000_000)
            .saturating_add(of.nanoseconds / 1_000)
    };
    Some(whole.iter().map(|of| of.map(micros)).collect())
}

/// `replace(text, from, to)`: as if each part that can be replaced were.
fn replaced(args: &ScalarFunctionArgs) -> Option<u128> {
    let text = bytes(args, 0)?.saturating_add(args.number_rows as u128);
    let to = lengths(args, 2)?.into_iter().max().unwrap_or(1);
    let from = match args.args.get(1)? {
        // A pattern may match nothing at each place.
        _ if args.args.len() > 3 => 1,
        ColumnarValue::Scalar(value) => value.try_as_str()??.len().max(1) as u128,
        ColumnarValue::Array(_) => 1,
    };
    Some(text.max(text.saturating_mul(to) / from))
}

/// What is put together of the arguments.
fn together(args: &ScalarFunctionArgs) -> Option<u128> {
    let sizes = (0..args.args.len()).map(|at| bytes(args, at).unwrap_or(0));
    Some(sizes.fold(0, u128::saturating_add))
}

/// `array_to_string(list, separator)`.
fn joined(args: &ScalarFunctionArgs) -> Option<u128> {
    let list = bytes(args, 0)?;
    let separator = lengths(args, 1)?.into_iter().max().unwrap_or(1);
    // An element takes four bytes at least.
    Some(list.saturating_add((list / 4).saturating_mul(separator)))
}

trait SliceSize {
    fn get_slice_memory_size_or_all(&self) -> usize;
}

impl SliceSize for Arc<dyn Array> {
    fn get_slice_memory_size_or_all(&self) -> usize {
        let of = self.to_data().get_slice_memory_size();
        of.unwrap_or_else(|_| self.get_array_memory_size())
    }
}

#[cfg(test)]
mod tests {
    use crate::error::ErrorKind;
    use crate::planner::{Script, parse_statement};
    use crate::session::{ForkOptions, Session, SessionOptions};

    async fn run(sql: &str) -> crate::error::Result<usize> {
        let whole = Session::try_new(&SessionOptions::default())?;
        let limited = ForkOptions {
            memory_limit: Some(32 << 20),
            ..ForkOptions::default()
        };
        let session = whole.fork(&limited)?;
        let raw = Script::new("test", sql).split()?.remove(0);
        let rows = session.collect(parse_statement(&raw)?).await?;
        Ok(rows.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn what_would_be_too_large_is_refused_before_it_is_made() {
        for expr in [
            "repeat('x', COUNT)",
            "repeat('xyz', 2000000000 + value)",
            "lpad('x', COUNT)",
            "rpad('x', COUNT, 'ab')",
            "array_repeat(1, COUNT)",
            "array_repeat([value, 2], COUNT)",
            "array_resize([1], COUNT, 0)",
            "generate_series(1, COUNT)",
            "range(0, COUNT)",
            "range(0, COUNT, 2)",
            "generate_series(TIMESTAMP '2024-01-01', TIMESTAMP '2034-01-01', INTERVAL '10 milliseconds')",
            "range(DATE '0001-01-01', DATE '9999-01-01', INTERVAL '1 second')",
            "replace(repeat('x', 100000), 'x', repeat('y', 100000))",
            "regexp_replace(repeat('x', 100000), '', repeat('y', 100000), 'g')",
            "array_to_string(range(0, 100000), repeat('y', 100000))",
        ] {
            for n in ["2000000000", "(2000000000 + value)"] {
                let expr = expr.replace("COUNT", n);
                for sql in [
                    format!("SELECT {expr} FROM generate_series(1, 10)"),
                    format!("SELECT {} ", expr.replace("value", "1")),
                    format!("SELECT value FROM generate_series(1, 10) WHERE {expr} IS NULL"),
                ] {
                    let error = run(&sql).await.expect_err(&sql);
                    assert_eq!(error.kind(), ErrorKind::Exhausted, "{sql}: {error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn what_has_a_size_of_this_world_is_made() {
        for expr in [
            "repeat('x', 100)",
            "lpad(CAST(value AS VARCHAR), 20, '0')",
            "array_repeat(value, 10)",
            "generate_series(1, value)",
            "range(DATE '2024-01-01', DATE '2024-12-31', INTERVAL '1 day')",
            "replace('aXb', 'X', '')",
            "concat('a', value, NULL)",
            "concat_ws(',', 'a', 'b')",
            "encode('abc', 'hex')",
            "array_to_string([1, 2], ',')",
            "regexp_replace('abc', '(b)', '<\\1>')",
        ] {
            let sql = format!("SELECT {expr} FROM generate_series(1, 1000)");
            assert_eq!(run(&sql).await.expect(&sql), 1_000, "{sql}");
        }
    }
}
