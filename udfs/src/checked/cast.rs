//! CAST and TRY_CAST of numbers to types with fewer digits after the point, or none, with rounding; and casts of numbers and
//! times that may fail, or change the value; and casts of texts to times, which may lack seconds.
//!
//! Arrow truncates numbers to integers: 2.7 would become 2. Here a decimal is rounded half away from zero, as Arrow does it in
//! a cast to a decimal with fewer digits, and a DOUBLE or REAL half to even, as in PostgreSQL and DuckDB.
//!
//! DataFusion assumes that it can undo such a cast: it rewrites `CAST(x AS INT) = 3` to `x = 3`, and `TRY_CAST(x AS INT) > 5`
//! to `x > 5`, although an `x` that does not fit INT gives NULL. It does not undo a function. So casts of numbers to types that
//! cannot hold all of them are functions too: otherwise `CAST(x AS INT) > 5` over a BIGINT would keep rows that do not fit INT,
//! without the cast's error. The same goes for times: `CAST(ts AS INT)`, `CAST(n AS DATE)` of a BIGINT, and casts to a finer
//! unit, where the engine would truncate a literal to the coarser unit. Casts to types that hold all values stay the engine's
//! own, which prunes files by them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
    StructArray,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float32Type, Float64Type, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::format::DEFAULT_CAST_OPTIONS;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, TryCast, Volatility,
};

use crate::operands::{element_of, only_argument};
use crate::times::{is_point_in_time, texts_with_seconds};

use super::overflow::out_of_range;
use super::rewrite::plain;

/// A cast that rounds, that may fail, or that reads times without seconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RoundedCast {
    name: String,
    to: DataType,
    /// Whether a value that does not fit the type becomes NULL.
    is_tried: bool,
    signature: Signature,
}

impl RoundedCast {
    /// The cast from one type to another, if the engine's own cast would give another result.
    pub(super) fn over(from: &DataType, to: &DataType, is_tried: bool) -> Option<Self> {
        let differs = may_be_out_of_range(from, to, is_tried) || reads_times(from, to);
        differs.then(|| Self::new(to, is_tried))
    }

    /// The same for a column of a file, in which texts of times have their seconds.
    pub(super) fn over_file(from: &DataType, to: &DataType) -> Option<Self> {
        may_be_out_of_range(from, to, false).then(|| Self::new(to, false))
    }

    fn new(to: &DataType, is_tried: bool) -> Self {
        let verb = if is_tried { "try_cast" } else { "cast" };
        Self {
            name: format!("{verb}_to_{to}"),
            to: to.clone(),
            is_tried,
            signature: Signature::any(1, Volatility::Immutable),
        }
    }

    /// The target type.
    pub(super) fn target(&self) -> &DataType {
        &self.to
    }

    /// The call of the cast for a value.
    pub(super) fn call(self, value: Expr) -> Expr {
        let function = Arc::new(ScalarUDF::from(self));
        Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![value]))
    }

    /// The engine's own cast of a value.
    pub(super) fn plain(&self, value: Expr) -> Expr {
        let (value, to) = (Box::new(value), self.to.clone());
        match self.is_tried {
            true => Expr::TryCast(TryCast::new(value, to)),
            false => Expr::Cast(Cast::new(value, to)),
        }
    }

    /// The first value that does not fit the type, for the message.
    fn culprit(&self, values: &ArrayRef) -> Option<String> {
        if !may_be_out_of_range(values.data_type(), &self.to, self.is_tried) {
            return None;
        }
        let options = CastOptions {
            safe: true,
            ..DEFAULT_CAST_OPTIONS
        };
        let rounded = rounded(values, &self.to).ok()?;
        let tried = ColumnarValue::Array(rounded).cast_to(&self.to, Some(&options));
        let tried = tried.ok()?.into_array(values.len()).ok()?;
        let row = (0..values.len()).find(|row| values.is_valid(*row) && tried.is_null(*row))?;
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(values, &options).ok()?;
        // A time beyond the calendar's range has no text.
        formatter.value(row).try_to_string().ok()
    }
}

/// Whether a cast to this type may round or fail.
pub(super) fn may_differ(to: &DataType) -> bool {
    to.is_integer()
        || to.is_decimal()
        || matches!(
            to,
            DataType::Date32
                | DataType::Date64
                | DataType::Timestamp(..)
                | DataType::List(_)
                | DataType::LargeList(_)
                | DataType::FixedSizeList(..)
                | DataType::Struct(_)
                | DataType::Map(..)
        )
}

/// Whether a value may not fit the type as it is.
fn may_be_out_of_range(from: &DataType, to: &DataType, is_tried: bool) -> bool {
    any_part(from, to, &|from, to| loses(from, to, is_tried))
        || may_overflow(from, to)
        || is_another_time(from, to)
}

/// Whether there are texts that are read as times.
fn reads_times(from: &DataType, to: &DataType) -> bool {
    any_part(from, to, &|from, to| {
        from.is_string() && is_point_in_time(to)
    })
}

/// Whether `is_one` is true for both types, or for those of elements, fields or entries that a cast between them casts.
fn any_part(from: &DataType, to: &DataType, is_one: &dyn Fn(&DataType, &DataType) -> bool) -> bool {
    let of_field =
        |from: &FieldRef, to: &FieldRef| any_part(from.data_type(), to.data_type(), is_one);
    if let (Some(from), Some(to)) = (element_of(from), element_of(to)) {
        return of_field(from, to);
    }
    match (from, to) {
        (DataType::Struct(from), DataType::Struct(to)) => {
            let mut fields = from.iter().enumerate();
            fields.any(|(at, from)| wanted(from, at, to).is_some_and(|to| of_field(from, to)))
        }
        (DataType::Map(from, _), DataType::Map(to, _)) => of_field(from, to),
        (from, to) => is_one(from, to),
    }
}

/// Whether digits after the point may be lost; for TRY_CAST, whether the value may change in any way.
fn loses(from: &DataType, to: &DataType, is_tried: bool) -> bool {
    match (from, to) {
        // A time is a whole number of its unit: the engine truncates the digits of a decimal after the point.
        (from, DataType::Timestamp(..)) => scale(from) > 0,
        (from, to) if !from.is_numeric() || !(to.is_integer() || to.is_decimal()) => false,
        _ if is_tried => from != to,
        (from, _) if from.is_floating() => to.is_integer(),
        _ => scale(to) < scale(from),
    }
}

/// Whether a number of one type may not fit the other; a time counts as the number of its units.
fn may_overflow(from: &DataType, to: &DataType) -> bool {
    if from.is_temporal() && to.is_temporal() {
        return false;
    }
    let digits = |most: i128| i64::from(most.ilog10()) + 1;
    match (bounds(from), bounds(to)) {
        (Some(from), Some(to)) => from.0 < to.0 || from.1 > to.1,
        (Some((_, most)), None) => digits_before(to).is_some_and(|room| digits(most) > room),
        // Some numbers with as many digits as the bound are above it.
        (None, Some((least, most))) => {
            digits_before(from).is_some_and(|of| least == 0 || of >= digits(most))
        }
        (None, None) => match (digits_before(from), digits_before(to)) {
            (Some(from), Some(to)) => from > to,
            _ => false,
        },
    }
}

/// Whether a time may not fit the other type, or become another instant: in a finer unit, or in a zone in which it does not
/// exist.
fn is_another_time(from: &DataType, to: &DataType) -> bool {
    let (DataType::Timestamp(from, of), DataType::Timestamp(to, zone)) = (from, to) else {
        return false;
    };
    let nanoseconds = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    };
    let is_finer = nanoseconds(to) < nanoseconds(from);
    is_finer || (of.is_none() && zone.as_deref().is_some_and(|zone| zone != "UTC"))
}

/// The least and the largest number of an integer type, or of the units of a time.
fn bounds(of: &DataType) -> Option<(i128, i128)> {
    Some(match of {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 | DataType::Date32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 | DataType::Date64 | DataType::Timestamp(..) => {
            (i64::MIN.into(), i64::MAX.into())
        }
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        DataType::UInt64 => (0, u64::MAX.into()),
        _ => return None,
    })
}

/// The digits of a decimal before the point.
fn digits_before(of: &DataType) -> Option<i64> {
    match of {
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale)
        | DataType::Decimal256(digits, scale) => Some(i64::from(*digits) - i64::from(*scale)),
        _ => None,
    }
}

/// The target field for a field of a struct: the one with its name, or else the one at its position.
fn wanted<'a>(field: &Field, at: usize, of: &'a Fields) -> Option<&'a FieldRef> {
    let named = of.iter().find(|one| one.name() == field.name());
    named.or_else(|| of.get(at))
}

/// The digits after the point.
fn scale(of: &DataType) -> i8 {
    match of {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    }
}

/// The decimal type without digits after the point that holds the rounded values of this type.
fn whole(of: &DataType) -> Option<DataType> {
    let digits = |digits: u8, scale: i8| {
        let before = i16::from(digits) - i16::from(scale) + 1;
        u8::try_from(before.max(1)).unwrap_or(digits)
    };
    match of {
        DataType::Decimal32(all, scale) if *scale > 0 => {
            Some(DataType::Decimal32(digits(*all, *scale), 0))
        }
        DataType::Decimal64(all, scale) if *scale > 0 => {
            Some(DataType::Decimal64(digits(*all, *scale), 0))
        }
        DataType::Decimal128(all, scale) if *scale > 0 => {
            Some(DataType::Decimal128(digits(*all, *scale), 0))
        }
        DataType::Decimal256(all, scale) if *scale > 0 => {
            Some(DataType::Decimal256(digits(*all, *scale), 0))
        }
        _ => None,
    }
}

/// The values rounded to whole numbers, if the target type has no digits after the point; texts of times with their seconds.
fn rounded(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    Ok(match (values.data_type(), to) {
        (DataType::Float16, to) if to.is_integer() => {
            let values = cast_with_options(values, &DataType::Float32, &DEFAULT_CAST_OPTIONS)?;
            rounded(&values, to)?
        }
        (DataType::Float32, to) if to.is_integer() => {
            let values = values.as_primitive::<Float32Type>();
            Arc::new(values.unary::<_, Float32Type>(f32::round_ties_even))
        }
        (DataType::Float64, to) if to.is_integer() => {
            let values = values.as_primitive::<Float64Type>();
            Arc::new(values.unary::<_, Float64Type>(f64::round_ties_even))
        }
        (from, to) if from.is_string() && is_point_in_time(to) => texts_with_seconds(values),
        (from, to) if to.is_integer() => match whole(from) {
            Some(whole) => cast_with_options(values, &whole, &DEFAULT_CAST_OPTIONS)?,
            None => Arc::clone(values),
        },
        (DataType::List(_), to) => in_lists(values.as_list::<i32>(), to)?,
        (DataType::LargeList(_), to) => in_lists(values.as_list::<i64>(), to)?,
        (DataType::FixedSizeList(..), to) => {
            let lists = values.as_fixed_size_list().clone();
            let (field, size, elements, nulls) = lists.into_parts();
            let Some(to) = element_of(to).filter(|_| size > 0) else {
                return Ok(Arc::clone(values));
            };
            let elements = rounded(&elements, to.data_type())?;
            let field = with_type(&field, elements.data_type());
            Arc::new(FixedSizeListArray::try_new(field, size, elements, nulls)?)
        }
        (DataType::Struct(_), DataType::Struct(to)) => Arc::new(in_struct(values.as_struct(), to)?),
        (DataType::Map(..), DataType::Map(to, _)) => {
            let DataType::Struct(to) = to.data_type() else {
                return internal_err!("the entries of a map are structs");
            };
            let (field, offsets, entries, nulls, is_ordered) = values.as_map().clone().into_parts();
            let entries = in_struct(&entries, to)?;
            let field = with_type(&field, entries.data_type());
            Arc::new(MapArray::try_new(
                field, offsets, entries, nulls, is_ordered,
            )?)
        }
        _ => Arc::clone(values),
    })
}

fn in_lists<O: OffsetSizeTrait>(lists: &GenericListArray<O>, to: &DataType) -> Result<ArrayRef> {
    let Some(to) = element_of(to) else {
        return Ok(Arc::new(lists.clone()));
    };
    let (field, offsets, elements, nulls) = lists.clone().into_parts();
    let elements = rounded(&elements, to.data_type())?;
    let field = with_type(&field, elements.data_type());
    let lists = GenericListArray::try_new(field, offsets, elements, nulls)?;
    Ok(Arc::new(lists))
}

fn in_struct(structs: &StructArray, to: &Fields) -> Result<StructArray> {
    let rows = structs.len();
    let (fields, columns, nulls) = structs.clone().into_parts();
    let mut made = (Vec::new(), Vec::new());
    for (at, (field, column)) in fields.iter().zip(&columns).enumerate() {
        let column = match wanted(field, at, to) {
            Some(to) => rounded(column, to.data_type())?,
            None => Arc::clone(column),
        };
        made.0.push(with_type(field, column.data_type()));
        made.1.push(column);
    }
    let (fields, columns) = made;
    Ok(StructArray::try_new_with_length(
        fields.into(),
        columns,
        nulls,
        rows,
    )?)
}

fn with_type(field: &FieldRef, of: &DataType) -> FieldRef {
    Arc::new(Field::clone(field).with_data_type(of.clone()))
}

impl ScalarUDFImpl for RoundedCast {
    fn name(&self) -> &str {
        &self.name
    }

    /// The engine's names omit casts.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let of = only_argument(&self.name, args)?;
        Ok(plain(of.clone())?.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let of = only_argument(&self.name, args.arg_fields)?;
        let is_nullable = self.is_tried || of.is_nullable();
        Ok(Arc::new(Field::new(
            self.name(),
            self.to.clone(),
            is_nullable,
        )))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn evaluate_bounds(&self, _: &[&Interval]) -> Result<Interval> {
        Interval::make_unbounded(&self.to)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let of = only_argument(&self.name, &args.args)?;
        let is_scalar = matches!(of, ColumnarValue::Scalar(_));
        let values = of.to_array(if is_scalar { 1 } else { args.number_rows })?;
        let options = CastOptions {
            safe: self.is_tried,
            ..DEFAULT_CAST_OPTIONS
        };
        let made = ColumnarValue::Array(rounded(&values, &self.to)?);
        let made = made.cast_to(&self.to, Some(&options));
        let made = made.map_err(|error| match self.culprit(&values) {
            Some(value) => out_of_range(value, &self.to),
            None => error,
        })?;
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                &made.into_array(1)?,
                0,
            )?)),
            false => Ok(made),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::buffer::OffsetBuffer;
    use datafusion::common::config::ConfigOptions;

    use super::*;

    fn run(values: ArrayRef, to: &DataType, is_tried: bool) -> Result<ArrayRef> {
        let from = values.data_type().clone();
        let cast = RoundedCast::over(&from, to, is_tried).unwrap();
        let rows = values.len();
        let field = |of: &DataType| Arc::new(Field::new("", of.clone(), true));
        let args = ScalarFunctionArgs {
            args: vec![ColumnarValue::Array(values)],
            arg_fields: vec![field(&from)],
            number_rows: rows,
            return_field: field(to),
            config_options: Arc::new(ConfigOptions::default()),
        };
        cast.invoke_with_args(args)?.into_array(rows)
    }

    fn timestamp(unit: TimeUnit, zone: Option<&str>) -> DataType {
        DataType::Timestamp(unit, zone.map(Into::into))
    }

    fn decimals(values: &[i128], digits: u8, scale: i8) -> ArrayRef {
        let values = Decimal128Array::from(values.to_vec());
        Arc::new(values.with_precision_and_scale(digits, scale).unwrap())
    }

    #[test]
    fn decimals_are_rounded_half_away_from_zero() {
        let values = decimals(&[25, -25, 24, -24, 27, 0, 9_999], 5, 1);
        let whole = run(values, &DataType::Int32, false).unwrap();
        let expected = Int32Array::from(vec![3, -3, 2, -2, 3, 0, 1_000]);
        assert_eq!(whole.as_ref(), &expected as &dyn Array);
        // All digits are after the point.
        let most = 10_i128.pow(38) - 1;
        let whole = run(decimals(&[most, -most], 38, 38), &DataType::Int32, false).unwrap();
        let expected = Int32Array::from(vec![1, -1]);
        assert_eq!(whole.as_ref(), &expected as &dyn Array);
    }

    #[test]
    fn doubles_are_rounded_half_to_even() {
        let values = Float64Array::from(vec![2.5, -2.5, 3.5, 2.7, -0.5, 0.49]);
        let whole = run(Arc::new(values), &DataType::Int32, false).unwrap();
        let expected = Int32Array::from(vec![2, -2, 4, 3, 0, 0]);
        assert_eq!(whole.as_ref(), &expected as &dyn Array);
    }

    #[test]
    fn out_of_range_casts_are_an_error_or_null() {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 2_147_483_647.5, f64::NAN]));
        let error = run(Arc::clone(&values), &DataType::Int32, false).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("2147483647.5 is out of range of INT")
        );
        let tried = run(values, &DataType::Int32, true).unwrap();
        let expected = Int32Array::from(vec![Some(2), None, None]);
        assert_eq!(tried.as_ref(), &expected as &dyn Array);
    }

    #[test]
    fn elements_are_rounded() {
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(vec![
            Some(vec![Some(2.7), None]),
            None,
        ]);
        let to = DataType::new_list(DataType::Int32, true);
        let whole = run(Arc::new(lists), &to, false).unwrap();
        let elements = whole.as_list::<i32>().values();
        let expected = Int32Array::from(vec![Some(3), None]);
        assert_eq!(elements.as_ref(), &expected as &dyn Array);
    }

    #[test]
    fn lossless_casts_are_the_engines_own() {
        let decimal = DataType::Decimal128;
        for (from, to) in [
            (DataType::Int32, DataType::Int64),
            (DataType::UInt32, DataType::Int64),
            (DataType::Utf8, DataType::Int32),
            (decimal(9, 0), DataType::Int32),
            (DataType::Int64, decimal(19, 0)),
            (decimal(38, 0), DataType::Decimal256(76, 38)),
            (decimal(10, 2), decimal(12, 4)),
            (decimal(10, 2), DataType::Float64),
            (DataType::Float32, DataType::Float64),
            (DataType::Float64, decimal(10, 2)),
            (timestamp(TimeUnit::Microsecond, None), DataType::Int64),
            (timestamp(TimeUnit::Microsecond, None), decimal(19, 0)),
            (DataType::Int64, timestamp(TimeUnit::Microsecond, None)),
            (DataType::UInt32, timestamp(TimeUnit::Second, None)),
            (decimal(18, 0), timestamp(TimeUnit::Second, None)),
            (DataType::Date32, DataType::Int32),
            (DataType::Int32, DataType::Date32),
            // These casts are not undone, and the engine prunes files by them.
            (timestamp(TimeUnit::Microsecond, None), DataType::Date32),
            (DataType::Date32, timestamp(TimeUnit::Microsecond, None)),
            (
                timestamp(TimeUnit::Microsecond, None),
                timestamp(TimeUnit::Second, None),
            ),
            (
                timestamp(TimeUnit::Microsecond, None),
                timestamp(TimeUnit::Microsecond, Some("UTC")),
            ),
            (
                timestamp(TimeUnit::Microsecond, Some("Europe/Paris")),
                timestamp(TimeUnit::Microsecond, Some("UTC")),
            ),
        ] {
            let cast = RoundedCast::over(&from, &to, false);
            assert!(cast.is_none(), "{from} to {to}");
        }
        assert!(loses(&decimal(10, 2), &decimal(10, 1), false));
        assert!(loses(&DataType::Int64, &DataType::Int32, true));
    }

    #[test]
    fn a_cast_that_may_fail_is_a_function() {
        let decimal = DataType::Decimal128;
        for (from, to) in [
            (DataType::Int64, DataType::Int32),
            (DataType::Int8, DataType::UInt64),
            (DataType::UInt64, DataType::Int64),
            (DataType::Int64, decimal(18, 0)),
            (DataType::UInt64, decimal(19, 0)),
            (decimal(10, 0), DataType::Int32),
            (decimal(1, 0), DataType::UInt64),
            (decimal(10, 2), decimal(10, 4)),
            (timestamp(TimeUnit::Microsecond, None), DataType::Int32),
            (timestamp(TimeUnit::Second, Some("UTC")), DataType::UInt64),
            (DataType::Utf8, timestamp(TimeUnit::Microsecond, None)),
            (DataType::Utf8View, DataType::Date32),
            (timestamp(TimeUnit::Microsecond, None), decimal(18, 0)),
            (DataType::Date64, DataType::Int32),
            (DataType::Int64, DataType::Date32),
            (DataType::UInt64, timestamp(TimeUnit::Microsecond, None)),
            (decimal(19, 0), timestamp(TimeUnit::Microsecond, None)),
            (decimal(10, 2), timestamp(TimeUnit::Microsecond, None)),
            (
                timestamp(TimeUnit::Millisecond, Some("UTC")),
                timestamp(TimeUnit::Microsecond, Some("UTC")),
            ),
            (
                timestamp(TimeUnit::Microsecond, None),
                timestamp(TimeUnit::Microsecond, Some("Europe/Paris")),
            ),
        ] {
            for is_tried in [false, true] {
                let cast = RoundedCast::over(&from, &to, is_tried);
                assert!(cast.is_some(), "{from} to {to}");
            }
        }
        let values: ArrayRef = Arc::new(Int64Array::from(vec![1, 3_000_000_000]));
        let error = run(values, &DataType::Int32, false).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("3000000000 is out of range of INT"));
    }

    #[test]
    fn texts_of_times_may_lack_their_seconds() {
        let to = timestamp(TimeUnit::Microsecond, Some("UTC"));
        let texts = |texts: &[&str]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
        let short = texts(&["2025-09-04T10:07", "2025-09-04 12:07+02:00"]);
        let long = texts(&["2025-09-04T10:07:00Z", "2025-09-04T10:07:00Z"]);
        let expected = run(long, &to, false).unwrap();
        for is_tried in [false, true] {
            let read = run(Arc::clone(&short), &to, is_tried).unwrap();
            assert_eq!(&read, &expected);
        }
        let offsets = OffsetBuffer::from_lengths([2]);
        let field = Arc::new(Field::new_list_field(DataType::Utf8, true));
        let lists = ListArray::new(field, offsets, short, None);
        let of_lists = DataType::new_list(to.clone(), true);
        let read = run(Arc::new(lists), &of_lists, false).unwrap();
        assert_eq!(read.as_list::<i32>().values(), &expected);
        // The message says which text it is, and not that it is out of range.
        let error = run(texts(&["2025-09-04T10:60"]), &to, false).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("'2025-09-04T10:60'"), "{message}");
        assert!(!message.contains("out of range"), "{message}");
        let tried = run(texts(&["2025-09-04T10:60"]), &to, true).unwrap();
        assert!(tried.is_null(0));
        assert!(RoundedCast::over_file(&DataType::Utf8, &to).is_none());
    }

    #[test]
    fn out_of_range_times_are_an_error_or_null() {
        let times = |values: Vec<i64>| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
        };
        let error = run(times(vec![7, 5_000_000_000]), &DataType::Int32, false).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("1970-01-01T01:23:20Z is out of range of INT"),
            "{message}"
        );
        let tried = run(times(vec![7, 5_000_000_000]), &DataType::Int32, true).unwrap();
        let expected = Int32Array::from(vec![Some(7), None]);
        assert_eq!(tried.as_ref(), &expected as &dyn Array);
        let fine = timestamp(TimeUnit::Nanosecond, Some("UTC"));
        run(times(vec![i64::MAX]), &fine, false).unwrap_err();
        let tried = run(times(vec![7, i64::MAX]), &fine, true).unwrap();
        assert!(tried.is_valid(0) && tried.is_null(1));
    }
}
