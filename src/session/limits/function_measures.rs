//! Measures of function calls: how many bytes a function produces for a batch, and how much work that is.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayData, AsArray, GenericListArray, Int64Array, OffsetSizeTrait,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, IntervalUnit, TimeUnit};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};

use crate::session::limits::array_bytes::{of_array, of_value, span};
use crate::session::limits::type_fields;

/// Measures a call; `None` if the arguments do not tell.
pub(crate) type CallMeasure = fn(&ScalarFunctionArgs) -> Option<u128>;

/// Bytes of an argument for all rows.
fn bytes(args: &ScalarFunctionArgs, at: usize) -> Option<u128> {
    Some(match args.args.get(at)? {
        ColumnarValue::Array(array) => array.get_slice_memory_size_or_all() as u128,
        ColumnarValue::Scalar(value) => {
            let of = match value.try_as_str() {
                Some(text) => text.map_or(0, str::len) as u128,
                // A NULL takes as much.
                None => {
                    let width = u128::from(type_fields::width(&value.data_type()));
                    width.max(value.size() as u128)
                }
            };
            of.saturating_mul(args.number_rows as u128)
        }
    })
}

/// The integers of an argument.
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

/// `repeat(text, n)`.
pub(crate) fn repeated(args: &ScalarFunctionArgs) -> Option<u128> {
    times(args, 0)
}

/// `array_repeat(element, n)`: the function first builds the list of source indices.
pub(crate) fn repeated_elements(args: &ScalarFunctionArgs) -> Option<u128> {
    let counts = numbers(args, 1)?;
    let within = elements(args, 0).unwrap_or_else(|| vec![1; args.number_rows]);
    let places = each(&counts)
        .zip(within)
        .map(|(count, within)| count.saturating_mul(within.max(1)))
        .fold(0, u128::saturating_add);
    Some(times(args, 0)?.max(places.saturating_mul(8)))
}

/// Size of the argument at position `of`, times the number in the second argument: exact for texts, an upper bound for others.
fn times(args: &ScalarFunctionArgs, of: usize) -> Option<u128> {
    let counts = numbers(args, 1)?;
    if let Some(lengths) = lengths(args, of) {
        let sizes = lengths.into_iter().zip(each(&counts));
        return Some(
            sizes
                .map(|(length, count)| length.saturating_mul(count))
                .fold(0, u128::saturating_add),
        );
    }
    let most = each(&counts).max().unwrap_or(0);
    Some(
        bytes(args, of)?
            .max(args.number_rows as u128 * 8)
            .saturating_mul(most),
    )
}

/// Bytes of each text of an argument; at least one, for the surrounding data.
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

/// `lpad(text, n)`: n characters, each of up to four bytes if the fill text has such characters.
pub(crate) fn padded(args: &ScalarFunctionArgs) -> Option<u128> {
    let widest = if args.args.len() > 2 { 4 } else { 1 };
    let characters = each(&numbers(args, 1)?).fold(0, u128::saturating_add);
    Some(characters.saturating_mul(widest))
}

/// `array_resize(list, n, value)`.
pub(crate) fn resized(args: &ScalarFunctionArgs) -> Option<u128> {
    let elements = each(&numbers(args, 1)?).fold(0, u128::saturating_add);
    let values = match args.args.len() {
        0..3 => 0,
        _ => times(args, 2)?,
    };
    // The fill value may be NULL.
    Some(values.max(elements.saturating_mul(element_width(args, 0))))
}

/// Bytes that each element of the lists of an argument takes at least.
fn element_width(args: &ScalarFunctionArgs, at: usize) -> u128 {
    let of = args.args.get(at).map(ColumnarValue::data_type);
    match of {
        Some(
            DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _),
        ) => u128::from(type_fields::width(field.data_type()).max(8)),
        _ => 8,
    }
}

/// `arrays_zip(list, list, …)`: each list is padded to the longest one of its row.
pub(crate) fn zipped(args: &ScalarFunctionArgs) -> Option<u128> {
    let mut longest = vec![0; args.number_rows];
    let mut width = 0_u128;
    for at in 0..args.args.len() {
        width = width.saturating_add(element_width(args, at));
        let elements = elements(args, at).unwrap_or_default();
        for (longest, count) in longest.iter_mut().zip(elements) {
            *longest = count.max(*longest);
        }
    }
    let count = longest.into_iter().fold(0, u128::saturating_add);
    Some(together(args)?.saturating_add(count.saturating_mul(width)))
}

/// `range(start, stop, step)` of numbers, days and times.
pub(crate) fn series(args: &ScalarFunctionArgs) -> Option<u128> {
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

/// Intervals in microseconds; a month counts with its shortest length.
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

/// `replace(text, from, to)`: the bound assumes that every part that could match is replaced.
pub(crate) fn replaced(args: &ScalarFunctionArgs) -> Option<u128> {
    at_each_place(args, false)
}

/// `regexp_replace(text, pattern, to, flags)`: without flags it replaces one match in each text, which may be the whole text
/// and occur many times in the replacement.
pub(crate) fn replaced_by_pattern(args: &ScalarFunctionArgs) -> Option<u128> {
    if args.args.len() > 3 {
        return at_each_place(args, true);
    }
    let longest = lengths(args, 2)?.into_iter().max().unwrap_or(1);
    let references = match args.args.get(2)? {
        ColumnarValue::Scalar(value) => {
            let to = value.try_as_str().flatten().unwrap_or_default();
            to.matches(['\\', '$']).count() as u128
        }
        // Each reference takes two characters.
        ColumnarValue::Array(_) => longest / 2,
    };
    let text = bytes(args, 0)?.saturating_mul(references.saturating_add(1));
    Some(text.saturating_add(longest.saturating_mul(args.number_rows as u128)))
}

fn at_each_place(args: &ScalarFunctionArgs, is_pattern: bool) -> Option<u128> {
    let text = bytes(args, 0)?.saturating_add(args.number_rows as u128);
    let to = lengths(args, 2)?.into_iter().max().unwrap_or(1);
    let from = match args.args.get(1)? {
        // A pattern may have an empty match at each position.
        _ if is_pattern => 1,
        ColumnarValue::Scalar(value) => value.try_as_str()??.len().max(1) as u128,
        ColumnarValue::Array(_) => 1,
    };
    Some(text.max(text.saturating_mul(to) / from))
}

/// Bytes of all arguments together.
pub(crate) fn together(args: &ScalarFunctionArgs) -> Option<u128> {
    let sizes = (0..args.args.len()).map(|at| bytes(args, at).unwrap_or(0));
    Some(sizes.fold(0, u128::saturating_add))
}

/// `concat_ws(separator, text, text, …)`: the separator is repeated between all texts.
pub(crate) fn separated(args: &ScalarFunctionArgs) -> Option<u128> {
    let between = args.args.len().saturating_sub(2) as u128;
    Some(together(args)?.saturating_add(bytes(args, 0)?.saturating_mul(between)))
}

/// `overlay(text PLACING part FROM n FOR m)`: if it replaces nothing, or little, the result holds the text twice.
pub(crate) fn overlaid(args: &ScalarFunctionArgs) -> Option<u128> {
    Some(together(args)?.saturating_add(bytes(args, 0)?))
}

/// `array_replace_all(list, from, to)`: the bound assumes that every element is replaced.
pub(crate) fn replaced_elements(args: &ScalarFunctionArgs) -> Option<u128> {
    let to = lengths(args, 2).unwrap_or_else(|| each_row(args, 2));
    let counts = elements(args, 0)?.into_iter().zip(to);
    let made = counts
        .map(|(count, to)| count.saturating_mul(to))
        .fold(0, u128::saturating_add);
    Some(bytes(args, 0)?.saturating_add(made))
}

/// Bytes of an argument, row by row.
fn each_row(args: &ScalarFunctionArgs, at: usize) -> Vec<u128> {
    match args.args.get(at) {
        Some(ColumnarValue::Array(array)) => (0..array.len())
            .map(|row| of_array(array.slice(row, 1).as_ref()) as u128)
            .collect(),
        Some(ColumnarValue::Scalar(value)) => {
            vec![of_value(value) as u128; args.number_rows]
        }
        None => Vec::new(),
    }
}

/// `to_json(value)`: each struct repeats the names of its fields.
pub(crate) fn written(args: &ScalarFunctionArgs) -> Option<u128> {
    let made = match args.args.first()? {
        ColumnarValue::Array(array) => json(array.as_ref()),
        ColumnarValue::Scalar(value) => {
            json(value.to_array().ok()?.as_ref()).saturating_mul(args.number_rows as u128)
        }
    };
    Some(made.max(together(args)?))
}

/// Approximate bytes of values as JSON.
fn json(array: &dyn Array) -> u128 {
    let rows = array.len() as u128;
    match array.data_type() {
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let columns = fields.iter().zip(columns).map(|(field, column)| {
                let name = field.name().len() as u128 + 4;
                json(column.as_ref()).saturating_add(name.saturating_mul(rows))
            });
            columns.fold(rows.saturating_mul(2), u128::saturating_add)
        }
        DataType::List(_) => json_of_lists(array.as_list::<i32>()),
        DataType::LargeList(_) => json_of_lists(array.as_list::<i64>()),
        DataType::FixedSizeList(..) => json(array.as_fixed_size_list().values().as_ref()),
        DataType::Map(..) => {
            let maps = array.as_map();
            let (start, length) = span(maps.value_offsets());
            let entries = maps.entries().slice(start, length);
            let columns = entries.columns().iter().map(|column| json(column.as_ref()));
            columns.fold(rows.saturating_mul(2), u128::saturating_add)
        }
        // `null` or `false`, at least.
        _ => (of_array(array) as u128).max(rows.saturating_mul(5)),
    }
}

fn json_of_lists<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> u128 {
    let (start, length) = span(lists.value_offsets());
    let elements = lists.values().slice(start, length);
    json(elements.as_ref()).saturating_add(2 * lists.len() as u128)
}

/// `array_to_string(list, separator, null)`.
pub(crate) fn joined(args: &ScalarFunctionArgs) -> Option<u128> {
    let list = bytes(args, 0)?;
    let separator = lengths(args, 1)?.into_iter().max().unwrap_or(1);
    let null = lengths(args, 2).and_then(|all| all.into_iter().max());
    let one = separator.saturating_add(null.unwrap_or(0));
    let elements = elements(args, 0).unwrap_or_default().into_iter();
    let count = elements.fold(0, u128::saturating_add);
    // An element of a nested list takes at least four bytes.
    Some(list.saturating_add(count.max(list / 4).saturating_mul(one)))
}

/// `to_char(time, pattern)`: a specifier has two characters, and produces up to some twenty.
pub(crate) fn shown(args: &ScalarFunctionArgs) -> Option<u128> {
    let patterns = lengths(args, 1)?.into_iter();
    Some(patterns.fold(0, u128::saturating_add).saturating_mul(12))
}

/// Number of comparisons between two texts if each character of one is compared with each of the other.
pub(crate) fn each_with_each(args: &ScalarFunctionArgs) -> Option<u128> {
    let pairs = lengths(args, 0)?.into_iter().zip(lengths(args, 1)?);
    Some(
        pairs
            .map(|(left, right)| left.saturating_mul(right))
            .fold(0, u128::saturating_add),
    )
}

/// `btrim(text, characters)`: compares each character of the text with these. A few characters that are the same for all rows
/// cost nothing.
pub(crate) fn trimmed(args: &ScalarFunctionArgs) -> Option<u128> {
    const FEW: usize = 64;
    match args.args.get(1)? {
        ColumnarValue::Scalar(characters) if characters.size() <= FEW + size_of_val(characters) => {
            None
        }
        _ => each_with_each(args),
    }
}

/// `strpos(text, part)`: a part that is the same for all rows is found by one search; otherwise the part is compared at each
/// position, many bytes at a time.
pub(crate) fn searched(args: &ScalarFunctionArgs) -> Option<u128> {
    match (args.args.first()?, args.args.get(1)?) {
        (ColumnarValue::Array(_), ColumnarValue::Scalar(_)) => None,
        _ => Some(each_with_each(args)? / 16),
    }
}

/// `array_has_all(list, list)`: each element is compared with each.
pub(crate) fn element_with_element(args: &ScalarFunctionArgs) -> Option<u128> {
    let pairs = elements(args, 0)?.into_iter().zip(elements(args, 1)?);
    Some(
        pairs
            .map(|(left, right)| left.saturating_mul(right))
            .fold(0, u128::saturating_add),
    )
}

/// `array_has_any(list, list)`: the elements of a list that is the same for all rows are looked up.
pub(crate) fn any_element(args: &ScalarFunctionArgs) -> Option<u128> {
    match (args.args.first()?, args.args.get(1)?) {
        (ColumnarValue::Array(_), ColumnarValue::Scalar(_))
        | (ColumnarValue::Scalar(_), ColumnarValue::Array(_)) => None,
        _ => element_with_element(args),
    }
}

/// Elements of each list of an argument.
fn elements(args: &ScalarFunctionArgs, at: usize) -> Option<Vec<u128>> {
    let (array, rows) = match args.args.get(at)? {
        ColumnarValue::Array(array) => (Arc::clone(array), 1),
        ColumnarValue::Scalar(value) => (value.to_array().ok()?, args.number_rows),
    };
    let counts: Vec<u128> = match array.data_type() {
        DataType::List(_) => {
            let lengths = array.as_list::<i32>().offsets().lengths();
            lengths.map(|length| length as u128).collect()
        }
        DataType::LargeList(_) => {
            let lengths = array.as_list::<i64>().offsets().lengths();
            lengths.map(|length| length as u128).collect()
        }
        DataType::FixedSizeList(_, length) => {
            vec![u128::try_from(*length).unwrap_or(0); array.len()]
        }
        _ => return None,
    };
    Some(counts.repeat(rows))
}

trait SliceSize {
    fn get_slice_memory_size_or_all(&self) -> usize;
}

impl SliceSize for Arc<dyn Array> {
    fn get_slice_memory_size_or_all(&self) -> usize {
        let data = self.to_data();
        let of = data.get_slice_memory_size();
        let of = of.unwrap_or_else(|_| self.get_array_memory_size());
        of.saturating_add(not_counted(&data))
    }
}

/// Bytes behind views, and room for untyped NULLs: the array's own size does not include them.
fn not_counted(data: &ArrayData) -> usize {
    let own = match data.data_type() {
        // An untyped NULL takes no room, and becomes a value of another type where an operator needs one.
        DataType::Null => data.len().saturating_mul(8),
        DataType::Utf8View | DataType::BinaryView => {
            let views = &data.buffers()[0].typed_data::<u128>()[data.offset()..][..data.len()];
            // The lower half of a view begins with the length.
            let lengths = views.iter().map(|view| (*view as u32) as usize);
            lengths.fold(0, usize::saturating_add)
        }
        _ => 0,
    };
    let children = data.child_data().iter().map(not_counted);
    children.fold(own, usize::saturating_add)
}
