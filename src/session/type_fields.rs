//! How large a type may be (SAFE-1).
//!
//! A struct of two columns of one type doubles that type: a few steps make one with more fields than can be walked, and the
//! planner walks types all the time. So a type is counted where a function says what it gives, and counting ends at the limit.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;

/// Fields within fields of the type of one column.
const FIELDS: usize = 20_000;
/// Types within one another.
const NESTED: usize = 400;

/// Why a type is too large: too many fields, or too deep; nothing for a type within the limits.
pub(super) fn too_large(of: &DataType) -> Option<String> {
    let mut left = FIELDS;
    match count(of, &mut left, NESTED) {
        Counted::All => None,
        Counted::TooMany => Some(format!("more than {FIELDS} fields within fields")),
        Counted::TooDeep => Some(format!("more than {NESTED} types within one another")),
    }
}

/// By what two columns of one large type are known to be that; nothing of a type without others within.
pub(super) fn identity(of: &DataType) -> Option<usize> {
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
enum Counted {
    All,
    TooMany,
    TooDeep,
}

fn count(of: &DataType, left: &mut usize, levels: usize) -> Counted {
    if levels == 0 {
        return Counted::TooDeep;
    }
    if *left == 0 {
        return Counted::TooMany;
    }
    *left -= 1;
    let mut all = |of: &DataType| count(of, left, levels - 1);
    match of {
        DataType::Struct(fields) => {
            for field in fields {
                let counted = all(field.data_type());
                if counted != Counted::All {
                    return counted;
                }
            }
            Counted::All
        }
        DataType::Union(fields, _) => {
            for (_, field) in fields.iter() {
                let counted = all(field.data_type());
                if counted != Counted::All {
                    return counted;
                }
            }
            Counted::All
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => all(field.data_type()),
        DataType::Dictionary(_, values) => all(values),
        _ => Counted::All,
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
        assert_eq!(said, "more than 400 types within one another");
    }
}
