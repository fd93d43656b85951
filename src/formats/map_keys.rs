//! Duplicate keys of maps: the last value of a key counts, as for a field that occurs twice in an object.

use std::collections::HashSet;

use arrow::array::{Array, AsArray, StructArray, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::take;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

/// Up to this many entries of a map are compared with each other, which is faster than hashing.
const FEW: usize = 8;

/// The entries of maps, without each entry whose key occurs again later in the same map.
///
/// # Errors
///
/// Keys that cannot be compared.
pub(crate) fn last_of_each(
    offsets: OffsetBuffer<i32>,
    pairs: StructArray,
) -> Result<(OffsetBuffer<i32>, StructArray), ArrowError> {
    let keys = pairs.column(0);
    let kept = match keys.data_type() {
        DataType::Utf8 => {
            let keys = keys.as_string::<i32>();
            kept(&offsets, |at| keys.value(at).as_bytes())
        }
        other => {
            let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
            let rows = converter.convert_columns(std::slice::from_ref(keys))?;
            kept(&offsets, |at| rows.row(at).data())
        }
    };
    let Some((kept, lengths)) = kept else {
        return Ok((offsets, pairs));
    };
    let pairs = take(&pairs, &UInt32Array::from(kept), None)?;
    Ok((
        OffsetBuffer::from_lengths(lengths),
        pairs.as_struct().clone(),
    ))
}

/// The indices of the entries to keep, and the number of entries of each map; `None` if no map has a duplicate key.
fn kept<'a>(
    offsets: &OffsetBuffer<i32>,
    key: impl Fn(usize) -> &'a [u8],
) -> Option<(Vec<u32>, Vec<usize>)> {
    let maps = || {
        offsets
            .windows(2)
            .map(|ends| ends[0] as usize..ends[1] as usize)
    };
    let mut seen = HashSet::new();
    let mut has_twice = |map: std::ops::Range<usize>| {
        if map.len() <= FEW {
            let mut entries = map.clone();
            return entries.any(|one| (one + 1..map.end).any(|other| key(one) == key(other)));
        }
        seen.clear();
        !map.into_iter().all(|at| seen.insert(key(at)))
    };
    if !maps().any(&mut has_twice) {
        return None;
    }
    let (mut places, mut lengths) = (Vec::new(), Vec::new());
    for map in maps() {
        let start = places.len();
        let mut later = HashSet::new();
        places.extend(
            map.rev()
                .filter(|at| later.insert(key(*at)))
                .map(|at| at as u32),
        );
        places[start..].reverse();
        lengths.push(places.len() - start);
    }
    Some((places, lengths))
}
