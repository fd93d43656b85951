//! Limit for the size of a type (SAFE-1).
//!
//! A struct of two columns of one type doubles that type: a few steps give a type with more fields than can be walked, and the
//! planner walks types all the time. So a type is counted where a function returns it, and counting stops at the limit.
//!
//! A type may also fix the number of bytes of each value, as `FixedSizeBinary(2000000000)` does: a NULL takes as many, so that
//! a column of NULL could be larger than the machine's memory.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;

/// Nested fields in the type of one column.
const FIELDS: usize = 20_000;
/// Depth of nested types.
const NESTED: usize = 400;
/// Bytes that each value takes, even NULL: a batch has thousands of values.
const WIDTH: u64 = 64 << 10;

/// The reason why a type is too large: too many fields, too deep, or too wide; `None` for a type within the limits.
pub(crate) fn too_large(of: &DataType) -> Option<String> {
    let mut left = FIELDS;
    match count(of, &mut left, NESTED) {
        FieldCount::All if width(of) > WIDTH => Some(format!(
            "more than {WIDTH} bytes for each value, also for NULL"
        )),
        FieldCount::All => None,
        FieldCount::TooMany => Some(format!("more than {FIELDS} nested fields")),
        FieldCount::TooDeep => Some(format!("more than {NESTED} nested types")),
    }
}

/// The reason why the text of a type must not be parsed: the parser recurses for each nested type.
pub(crate) fn too_deep(text: &str) -> Option<String> {
    let mut open = 0_usize;
    for sign in text.chars() {
        match sign {
            '(' | '<' | '[' => open += 1,
            ')' | '>' | ']' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > NESTED {
            return Some(format!("more than {NESTED} nested types"));
        }
    }
    None
}

/// Bytes per value of a type's part with fixed size; the type must have been counted.
pub(crate) fn width(of: &DataType) -> u64 {
    match of {
        DataType::FixedSizeBinary(bytes) => u64::try_from(*bytes).unwrap_or(0),
        DataType::FixedSizeList(field, length) => {
            let length = u64::try_from(*length).unwrap_or(0);
            width(field.data_type()).max(1).saturating_mul(length)
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| width(field.data_type()));
            fields.fold(0, u64::saturating_add)
        }
        DataType::Union(fields, _) => {
            let fields = fields.iter().map(|(_, field)| width(field.data_type()));
            fields.fold(0, u64::saturating_add)
        }
        // Parts of variable length are stored apart from the values.
        _ => 8,
    }
}

/// An identity that two columns of the same large type share; `None` for a type without nested types.
pub(crate) fn identity(of: &DataType) -> Option<usize> {
    Some(match of {
        DataType::Struct(fields) => fields.as_ptr().addr(),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => Arc::as_ptr(field).addr(),
        _ => return None,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldCount {
    All,
    TooMany,
    TooDeep,
}

fn count(of: &DataType, left: &mut usize, levels: usize) -> FieldCount {
    if levels == 0 {
        return FieldCount::TooDeep;
    }
    if *left == 0 {
        return FieldCount::TooMany;
    }
    *left -= 1;
    let mut all = |of: &DataType| count(of, left, levels - 1);
    match of {
        DataType::Struct(fields) => {
            for field in fields {
                let counted = all(field.data_type());
                if counted != FieldCount::All {
                    return counted;
                }
            }
            FieldCount::All
        }
        DataType::Union(fields, _) => {
            for (_, field) in fields.iter() {
                let counted = all(field.data_type());
                if counted != FieldCount::All {
                    return counted;
                }
            }
            FieldCount::All
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => all(field.data_type()),
        DataType::Dictionary(_, values) => all(values),
        _ => FieldCount::All,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{Field, Fields};

    use super::*;

    #[test]
    fn types_that_double_and_types_that_are_deep_are_refused() {
        let mut doubled = DataType::Int64;
        let mut steps = 0;
        while too_large(&doubled).is_none() {
            let part = |name: &str| Field::new(name, doubled.clone(), true);
            doubled = DataType::Struct(Fields::from(vec![part("a"), part("b")]));
            steps += 1;
        }
        assert_eq!(steps, 14);
        let mut deep = DataType::Int64;
        for _ in 1..NESTED {
            deep = DataType::new_list(deep, true);
            assert_eq!(too_large(&deep), None);
        }
        let said = too_large(&DataType::new_list(deep, true)).unwrap();
        assert_eq!(said, "more than 400 nested types");
    }

    #[test]
    fn types_whose_values_are_wide_are_refused() {
        let list = |of: DataType, length: i32| {
            DataType::FixedSizeList(Arc::new(Field::new_list_field(of, true)), length)
        };
        let lists = list(list(DataType::Int64, 1_000_000), i32::MAX);
        let part = |name: &str| Field::new(name, list(DataType::Int8, 5_000), true);
        let both = DataType::Struct(Fields::from(vec![part("a"), part("b")]));
        let bytes = DataType::FixedSizeBinary(2_000_000_000);
        for of in [lists, both, bytes, list(DataType::Null, i32::MAX)] {
            let said = too_large(&of).unwrap();
            assert_eq!(said, "more than 65536 bytes for each value, also for NULL");
        }
        for of in [
            list(DataType::Float64, 4_096),
            list(list(DataType::Int64, 64), 64),
            DataType::FixedSizeBinary(65_536),
            DataType::new_list(list(DataType::Float32, 4_096), true),
        ] {
            assert_eq!(too_large(&of), None, "{of}");
        }
    }

    #[test]
    fn texts_of_deep_types_are_not_read() {
        let list = |levels: usize| format!("{}Int64{}", "List(".repeat(levels), ")".repeat(levels));
        assert_eq!(too_deep(&list(NESTED)), None);
        assert_eq!(too_deep(&"Struct(a: Int64), ".repeat(1_000)), None);
        assert!(too_deep(&list(100_000)).is_some());
    }
}
