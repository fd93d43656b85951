//! Size in bytes of the rows of an array, or of a value: a slice counts with its own rows only, not with the whole buffer.

use datafusion::arrow::array::{
    Array, AsArray as _, GenericListArray, OffsetSizeTrait, StructArray,
};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;

/// Whether each value of a type takes a few bytes at most.
pub(crate) fn is_narrow(of: &DataType) -> bool {
    of.is_primitive() || matches!(of, DataType::Boolean | DataType::Null)
}

/// Bytes of a literal; 0 for any other expression.
pub(crate) fn of_literal(expr: &Expr) -> usize {
    match expr {
        Expr::Literal(value, _) => of_value(value),
        _ => 0,
    }
}

/// Bytes of the literals within an expression.
///
/// # Errors
///
/// Returns no error of its own.
pub(crate) fn of_literals(expr: &Expr) -> Result<usize> {
    let mut size = 0_usize;
    expr.apply(|part| {
        size = size.saturating_add(of_literal(part));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(size)
}

/// Bytes of all rows of an array.
pub(crate) fn of_array(array: &dyn Array) -> usize {
    let nulls = array.nulls().map_or(0, |_| array.len().div_ceil(8));
    let own = match array.data_type() {
        DataType::Null => 0,
        DataType::Boolean => array.len().div_ceil(8),
        DataType::Utf8 => shown(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => shown(array.as_string::<i64>().value_offsets()),
        DataType::Binary => shown(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => shown(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => seen(array.as_string_view().views()),
        DataType::BinaryView => seen(array.as_binary_view().views()),
        DataType::List(_) => of_lists(array.as_list::<i32>()),
        DataType::LargeList(_) => of_lists(array.as_list::<i64>()),
        DataType::FixedSizeList(..) => of_array(array.as_fixed_size_list().values().as_ref()),
        DataType::Map(..) => {
            let maps = array.as_map();
            let (start, length) = span(maps.value_offsets());
            size_of_val(maps.value_offsets()) + of_struct(&maps.entries().slice(start, length))
        }
        DataType::Struct(_) => of_struct(array.as_struct()),
        DataType::Dictionary(..) => {
            let keys = array.as_any_dictionary();
            let values = keys.values();
            // A reader that copies the values out copies one for each key.
            let each = of_array(values.as_ref()) / values.len().max(1);
            array.len().saturating_mul(each.saturating_add(8))
        }
        DataType::FixedSizeBinary(width) => {
            let width = usize::try_from(*width).unwrap_or(0);
            array.len().saturating_mul(width)
        }
        other => match other.primitive_width() {
            Some(width) => array.len().saturating_mul(width),
            None => array.get_array_memory_size(),
        },
    };
    own.saturating_add(nulls)
}

/// Bytes of a value as an element of an array.
pub(crate) fn of_value(value: &ScalarValue) -> usize {
    /// Bytes that every value takes at least.
    const LEAST: usize = 8;
    let own = match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => {
            text.as_ref().map_or(0, String::len)
        }
        ScalarValue::Binary(bytes)
        | ScalarValue::LargeBinary(bytes)
        | ScalarValue::BinaryView(bytes) => bytes.as_ref().map_or(0, Vec::len),
        ScalarValue::FixedSizeBinary(width, _) => usize::try_from(*width).unwrap_or(0),
        ScalarValue::List(list) => of_array(list.as_ref()),
        ScalarValue::LargeList(list) => of_array(list.as_ref()),
        ScalarValue::FixedSizeList(list) => of_array(list.as_ref()),
        ScalarValue::Struct(fields) => of_array(fields.as_ref()),
        ScalarValue::Map(map) => of_array(map.as_ref()),
        ScalarValue::Dictionary(_, value) => of_value(value),
        other => other.size(),
    };
    own.max(LEAST)
}

/// The number of bytes or elements of a value whose array counts them in 32 bits, up to 2³¹; `None` for other types.
pub(crate) fn counted(value: &ScalarValue) -> Option<usize> {
    match value {
        ScalarValue::Utf8(text) => Some(text.as_ref().map_or(0, String::len)),
        ScalarValue::Binary(bytes) => Some(bytes.as_ref().map_or(0, Vec::len)),
        ScalarValue::List(list) => Some(list.values().len()),
        ScalarValue::Map(map) => Some(map.entries().len()),
        _ => None,
    }
}

fn of_struct(fields: &StructArray) -> usize {
    let columns = fields.columns().iter();
    columns
        .map(|column| of_array(column.as_ref()))
        .fold(0, usize::saturating_add)
}

fn of_lists<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> usize {
    let (start, length) = span(lists.value_offsets());
    let elements = lists.values().slice(start, length);
    size_of_val(lists.value_offsets()).saturating_add(of_array(elements.as_ref()))
}

/// Bytes of the texts with these offsets.
fn shown<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
    size_of_val(offsets).saturating_add(span(offsets).1)
}

/// The start of the first text, and the distance to the end of the last one.
pub(crate) fn span<O: OffsetSizeTrait>(offsets: &[O]) -> (usize, usize) {
    match (offsets.first(), offsets.last()) {
        (Some(first), Some(last)) => {
            let first = first.as_usize();
            (first, last.as_usize().saturating_sub(first))
        }
        _ => (0, 0),
    }
}

/// Bytes of texts behind views: the lower half of each view begins with the length.
fn seen(views: &[u128]) -> usize {
    let lengths = views.iter().map(|view| 16 + (*view as u32) as usize);
    lengths.fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{
        ArrayRef, FixedSizeListArray, Int64Array, ListArray, MapArray, StringArray,
        StringViewArray, new_null_array,
    };
    use datafusion::arrow::compute::cast;
    use datafusion::arrow::datatypes::{Field, Int64Type};

    use super::*;

    /// A tenth of the rows must take about a tenth of the bytes.
    fn halves(array: &dyn Array) {
        let (all, rows) = (of_array(array), array.len());
        let tenth = of_array(array.slice(rows / 2, rows / 10).as_ref());
        let of = array.data_type();
        assert!(tenth * 10 <= all + all / 5 + 800, "{of}: {tenth} of {all}");
        assert!(tenth * 10 + all / 5 + 800 >= all, "{of}: {tenth} of {all}");
    }

    #[test]
    fn array_slices_count_their_own_bytes() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..1_000).map(|n| format!("{n:050}")),
        ));
        let lists = (0..1_000).map(|n| Some(vec![Some(n); 40]));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists));
        let fixed = (0..1_000).map(|n| Some(vec![Some(n); 3]));
        let fixed: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(
            fixed, 3,
        ));
        let fields = vec![
            (
                Arc::new(Field::new("a", DataType::Utf8, true)),
                Arc::clone(&texts),
            ),
            (
                Arc::new(Field::new("b", lists.data_type().clone(), true)),
                Arc::clone(&lists),
            ),
        ];
        let structs: ArrayRef = Arc::new(StructArray::from(fields));
        let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(
            (0..1_000).map(|n| format!("{n:050}")),
        ));
        let keyed = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let keyed = cast(&texts, &keyed).unwrap();
        for array in [&numbers, &texts, &lists, &fixed, &structs, &views, &keyed] {
            halves(array.as_ref());
        }
        assert!(of_array(texts.as_ref()) >= 50_000);
        assert!(of_array(views.as_ref()) >= 50_000);
        assert!(of_array(keyed.as_ref()) >= 50_000);
        assert!(of_array(lists.as_ref()) >= 320_000);
        let keys = ["a", "b", "c", "d"].into_iter();
        let values = Int64Array::from(vec![1, 2, 3, 4]);
        let maps = MapArray::new_from_strings(keys, &values, &[0, 1, 4]).unwrap();
        assert!(of_array(&maps.slice(0, 1)) < of_array(&maps.slice(1, 1)));
        assert_eq!(of_array(new_null_array(&DataType::Null, 1_000).as_ref()), 0);
    }

    #[test]
    fn a_scalar_has_the_size_of_its_array_element() {
        let text = "x".repeat(1_000);
        let list = ScalarValue::new_list(
            &vec![ScalarValue::Int64(Some(1)); 100],
            &DataType::Int64,
            true,
        );
        for (value, bytes, count) in [
            (ScalarValue::Int64(Some(1)), 8, None),
            (ScalarValue::Utf8(Some(text.clone())), 1_000, Some(1_000)),
            (ScalarValue::LargeUtf8(Some(text)), 1_000, None),
            (ScalarValue::FixedSizeBinary(500, None), 500, None),
            (ScalarValue::Utf8(None), 8, Some(0)),
            (ScalarValue::List(list), 800, Some(100)),
        ] {
            let found = of_value(&value);
            assert!((bytes..bytes + 100).contains(&found), "{value}: {found}");
            assert_eq!(counted(&value), count, "{value}");
        }
    }
}
