//! Which of two columns' values are the same, place by place.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, OffsetSizeTrait, StructArray, UInt64Array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

use super::tolerance::FloatTolerance;

/// For each place, whether both columns have the same value there; NULL is the same as NULL. The columns have one type and one length.
///
/// # Errors
///
/// They do not, or Arrow cannot compare the type.
pub(super) fn same_values(
    one: &ArrayRef,
    two: &ArrayRef,
    tolerance: FloatTolerance,
) -> Result<BooleanBuffer, ArrowError> {
    if one.data_type() != two.data_type() || one.len() != two.len() {
        return Err(ArrowError::SchemaError(format!(
            "{} values of {} were compared with {} of {}",
            one.len(),
            one.data_type(),
            two.len(),
            two.data_type()
        )));
    }
    let same = |is_same: &dyn Fn(usize) -> bool| {
        BooleanBuffer::collect_bool(one.len(), |at| match (one.is_null(at), two.is_null(at)) {
            (false, false) => is_same(at),
            (one, two) => one == two,
        })
    };
    Ok(match one.data_type() {
        DataType::Null => BooleanBuffer::new_set(one.len()),
        DataType::Float16 => same(&same_floats::<Float16Type>(one, two, tolerance.of_narrow())),
        DataType::Float32 => same(&same_floats::<Float32Type>(one, two, tolerance.of_narrow())),
        DataType::Float64 => same(&same_floats::<Float64Type>(one, two, tolerance)),
        DataType::Struct(_) => {
            let fields = same_fields(one.as_struct(), two.as_struct(), tolerance)?;
            same(&|at| fields.value(at))
        }
        DataType::Dictionary(_, values) => {
            same_values(&cast(one, values)?, &cast(two, values)?, tolerance)?
        }
        _ => match (Lists::of(one), Lists::of(two)) {
            (Some(first), Some(second)) => {
                let items = same_items(one, two, &first, &second, tolerance)?;
                same(&|at| items.value(at))
            }
            _ if one.data_type().is_nested() => {
                let fields = vec![SortField::new(one.data_type().clone())];
                let converter = RowConverter::new(fields)?;
                let first = converter.convert_columns(&[Arc::clone(one)])?;
                let second = converter.convert_columns(&[Arc::clone(two)])?;
                BooleanBuffer::collect_bool(one.len(), |at| first.row(at) == second.row(at))
            }
            _ => not_distinct(one, two)?.values().clone(),
        },
    })
}

/// Whether both numbers at a place are the same, if neither is NULL.
fn same_floats<T: ArrowPrimitiveType<Native: Into<f64>>>(
    one: &ArrayRef,
    two: &ArrayRef,
    tolerance: FloatTolerance,
) -> impl Fn(usize) -> bool {
    let (one, two) = (one.as_primitive::<T>(), two.as_primitive::<T>());
    move |at| tolerance.is_same(one.value(at).into(), two.value(at).into())
}

fn same_fields(
    one: &StructArray,
    two: &StructArray,
    tolerance: FloatTolerance,
) -> Result<BooleanBuffer, ArrowError> {
    let mut columns = one.columns().iter().zip(two.columns());
    let all = BooleanBuffer::new_set(one.len());
    columns.try_fold(all, |all, (one, two)| {
        Ok(&all & &same_values(one, two, tolerance)?)
    })
}

/// Lists, and maps as lists of their entries.
struct Lists {
    items: ArrayRef,
    /// Of each place.
    ranges: Vec<Range<usize>>,
}

impl Lists {
    fn of(array: &ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::List(_) => {
                let lists = array.as_list::<i32>();
                Self {
                    items: Arc::clone(lists.values()),
                    ranges: ranges(lists.value_offsets()),
                }
            }
            DataType::LargeList(_) => {
                let lists = array.as_list::<i64>();
                Self {
                    items: Arc::clone(lists.values()),
                    ranges: ranges(lists.value_offsets()),
                }
            }
            DataType::Map(_, _) => {
                let maps = array.as_map();
                Self {
                    items: Arc::new(maps.entries().clone()),
                    ranges: ranges(maps.value_offsets()),
                }
            }
            _ => return None,
        })
    }
}

fn ranges<O: OffsetSizeTrait>(offsets: &[O]) -> Vec<Range<usize>> {
    let pairs = offsets.windows(2);
    pairs
        .map(|pair| pair[0].as_usize()..pair[1].as_usize())
        .collect()
}

/// For each place, whether both lists have the same items. Where one is NULL, the answer is of no use.
fn same_items(
    one: &ArrayRef,
    two: &ArrayRef,
    first: &Lists,
    second: &Lists,
    tolerance: FloatTolerance,
) -> Result<BooleanBuffer, ArrowError> {
    let ranges = || first.ranges.iter().zip(&second.ranges).enumerate();
    let has_items = |at: usize, one_of: &Range<usize>, two_of: &Range<usize>| {
        one.is_valid(at) && two.is_valid(at) && one_of.len() == two_of.len()
    };
    let (mut of_one, mut of_two) = (Vec::new(), Vec::new());
    for (at, (one_of, two_of)) in ranges() {
        if has_items(at, one_of, two_of) {
            of_one.extend(one_of.clone().map(|item| item as u64));
            of_two.extend(two_of.clone().map(|item| item as u64));
        }
    }
    let items = same_values(
        &take(&first.items, &UInt64Array::from(of_one), None)?,
        &take(&second.items, &UInt64Array::from(of_two), None)?,
        tolerance,
    )?;
    let mut next = 0;
    let mut same = Vec::with_capacity(first.ranges.len());
    for (at, (one_of, two_of)) in ranges() {
        let is_same = has_items(at, one_of, two_of) && {
            let begin = next;
            next += one_of.len();
            (begin..next).all(|item| items.value(item))
        };
        same.push(is_same);
    }
    Ok(BooleanBuffer::from(same))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        DictionaryArray, Float64Array, Int64Array, ListArray, NullArray, StringArray,
    };
    use arrow::datatypes::{Field, Fields, Int32Type};

    use super::*;

    fn same(one: ArrayRef, two: ArrayRef) -> Vec<bool> {
        let same = same_values(&one, &two, FloatTolerance::default()).unwrap();
        same.iter().collect()
    }

    #[test]
    fn values_are_compared_by_their_type() {
        let texts = |of: [Option<&str>; 4]| Arc::new(StringArray::from(of.to_vec())) as ArrayRef;
        assert_eq!(
            same(
                texts([Some("a"), None, Some("b"), None]),
                texts([Some("a"), None, Some("c"), Some("")]),
            ),
            [true, true, false, false]
        );
        let numbers = |of: [Option<f64>; 3]| Arc::new(Float64Array::from(of.to_vec())) as ArrayRef;
        assert_eq!(
            same(
                numbers([Some(0.1 + 0.2), None, Some(1.0)]),
                numbers([Some(0.3), None, Some(2.0)]),
            ),
            [true, true, false]
        );
        let coded = |of: [&str; 2]| -> ArrayRef {
            Arc::new(of.into_iter().collect::<DictionaryArray<Int32Type>>())
        };
        assert_eq!(same(coded(["b", "a"]), coded(["b", "c"])), [true, false]);
        let nulls = || Arc::new(NullArray::new(2)) as ArrayRef;
        assert_eq!(same(nulls(), nulls()), [true, true]);
        let error = same_values(&nulls(), &texts([None; 4]), FloatTolerance::default());
        assert!(error.is_err());
    }

    #[test]
    fn floats_within_lists_and_structs_have_the_tolerance() {
        let lists = |of: Vec<Option<Vec<Option<f64>>>>| -> ArrayRef {
            let of = of.into_iter();
            Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(of))
        };
        let one = lists(vec![
            Some(vec![Some(0.1 + 0.2), None]),
            None,
            Some(vec![]),
            Some(vec![Some(1.0)]),
            Some(vec![Some(1.0), Some(2.0)]),
        ]);
        let two = lists(vec![
            Some(vec![Some(0.3), None]),
            None,
            None,
            Some(vec![Some(1.5)]),
            Some(vec![Some(1.0)]),
        ]);
        assert_eq!(
            same(Arc::clone(&one), Arc::clone(&two)),
            [true, true, false, false, false]
        );
        let with = |list: ArrayRef| -> ArrayRef {
            let number = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5])) as ArrayRef;
            let fields = Fields::from(vec![
                Field::new("n", DataType::Int64, true),
                Field::new("l", list.data_type().clone(), true),
            ]);
            Arc::new(StructArray::new(fields, vec![number, list], None))
        };
        assert_eq!(
            same(with(one), with(two)),
            [true, true, false, false, false]
        );
    }
}
