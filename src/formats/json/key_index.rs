//! Lookup of the field that a key of a JSON object names.

use std::collections::HashMap;

use arrow::datatypes::Fields;

use crate::formats::column_spelling::typed_name;

/// Finds a field by its name. Records of one topic tend to have the same keys in the same order, so a key is first compared
/// with the key at the same position of the last record.
pub(crate) struct KeyIndex {
    fields: HashMap<String, FoundField>,
    last: Vec<(String, Option<FoundField>)>,
}

/// A field that a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundField {
    pub(crate) index: usize,
    /// Whether the key equals the field's name, rather than its original spelling.
    pub(crate) is_exact: bool,
    /// Whether keys of both kinds may name the field.
    pub(crate) is_respelled: bool,
}

impl KeyIndex {
    /// Keys at later positions, and longer keys, are not cached.
    const MAX_POSITION: usize = 256;
    const MAX_LENGTH: usize = 128;

    pub(crate) fn new(fields: &Fields) -> Self {
        let mut by_name = HashMap::with_capacity(fields.len());
        let add = |by_name: &mut HashMap<String, FoundField>, is_exact: bool| {
            for (index, field) in fields.iter().enumerate() {
                let name = match is_exact {
                    true => Some(field.name().as_str()),
                    false => typed_name(field),
                };
                if let Some(name) = name {
                    let is_respelled = typed_name(field).is_some();
                    let found = FoundField {
                        index,
                        is_exact,
                        is_respelled,
                    };
                    by_name.entry(name.to_owned()).or_insert(found);
                }
            }
        };
        add(&mut by_name, true);
        add(&mut by_name, false);
        Self {
            fields: by_name,
            last: Vec::new(),
        }
    }

    /// The field named `key`, which stands at `position` in its object.
    pub(crate) fn find(&mut self, position: usize, key: &str) -> Option<FoundField> {
        if let Some((last, field)) = self.last.get(position)
            && last == key
        {
            return *field;
        }
        let field = self.fields.get(key).copied();
        if key.len() <= Self::MAX_LENGTH {
            let remembered = self.last.len();
            if let Some((last, field_of_last)) = self.last.get_mut(position) {
                last.clear();
                last.push_str(key);
                *field_of_last = field;
            } else if position == remembered && position < Self::MAX_POSITION {
                self.last.push((key.to_owned(), field));
            }
        }
        field
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::formats::column_spelling::typed_as;

    #[test]
    fn fields_are_found_in_any_order_and_unknown_keys_never() {
        let fields = ["a", "b", "A"].map(|name| Field::new(name, DataType::Int64, true));
        let mut keys = KeyIndex::new(&Fields::from(fields.to_vec()));
        let mut find = |position: usize, key: &str| Some(keys.find(position, key)?.index);
        for _ in 0..2 {
            assert_eq!(find(0, "b"), Some(1));
            assert_eq!(find(1, "x"), None);
            assert_eq!(find(2, "a"), Some(0));
        }
        assert_eq!(find(0, "A"), Some(2));
        assert_eq!(find(1, "b"), Some(1));
        // A position that was never reached in order is not cached; the lookup by name still finds the key.
        assert_eq!(find(1000, "a"), Some(0));
        assert_eq!(find(0, &"long".repeat(100)), None);
        assert_eq!(find(0, "A"), Some(2));
    }

    #[test]
    fn a_key_as_it_was_typed_names_the_field_unless_another_has_that_name() {
        let typed =
            |name: &str, typed: &str| typed_as(Field::new(name, DataType::Int64, true), typed);
        let other = Field::new("B", DataType::Int64, true);
        let fields = vec![typed("userid", "userId"), typed("b", "B"), other];
        let mut index = KeyIndex::new(&Fields::from(fields));
        let found = |index, is_exact| {
            let is_respelled = index < 2;
            Some(FoundField {
                index,
                is_exact,
                is_respelled,
            })
        };
        assert_eq!(index.find(0, "userId"), found(0, false));
        assert_eq!(index.find(0, "userid"), found(0, true));
        assert_eq!(index.find(0, "USERID"), None);
        assert_eq!(index.find(0, "B"), found(2, true));
        assert_eq!(index.find(0, "b"), found(1, true));
    }
}
