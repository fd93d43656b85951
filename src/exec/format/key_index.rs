//! Which field a key of a JSON object names.

use std::collections::HashMap;

use arrow::datatypes::{FieldRef, Fields};

/// Finds a field by its name. Records of one topic tend to have the same keys in the same order,
/// so a key is first compared with the one the last record had at its place.
pub(super) struct KeyIndex {
    fields: HashMap<String, usize>,
    last: Vec<(String, Option<usize>)>,
}

impl KeyIndex {
    /// Keys further on, or longer, are not remembered.
    const MAX_POSITION: usize = 256;
    const MAX_LENGTH: usize = 128;

    pub(super) fn new(fields: &Fields) -> Self {
        let by_name = fields
            .iter()
            .map(|field: &FieldRef| field.name().clone())
            .zip(0..)
            .collect();
        Self {
            fields: by_name,
            last: Vec::new(),
        }
    }

    /// The field named `key`, which stands at `position` in its object.
    pub(super) fn find(&mut self, position: usize, key: &str) -> Option<usize> {
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

    #[test]
    fn finds_fields_in_any_order_and_strangers_never() {
        let fields = ["a", "b", "A"].map(|name| Field::new(name, DataType::Int64, true));
        let mut index = KeyIndex::new(&Fields::from(fields.to_vec()));
        for _ in 0..2 {
            assert_eq!(index.find(0, "b"), Some(1));
            assert_eq!(index.find(1, "x"), None);
            assert_eq!(index.find(2, "a"), Some(0));
        }
        assert_eq!(index.find(0, "A"), Some(2));
        assert_eq!(index.find(1, "b"), Some(1));
        // A place that was never reached in order is not remembered, but found all the same.
        assert_eq!(index.find(1000, "a"), Some(0));
        assert_eq!(index.find(0, &"long".repeat(100)), None);
        assert_eq!(index.find(0, "A"), Some(2));
    }
}
