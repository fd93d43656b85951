//! Search of an Avro schema for arrays whose items have no bytes.
//!
//! A record says how many items an array has. If each has a byte, a number that is too high is found at the end of the record. Of
//! items without bytes a damaged record may announce so many that reading them never ends (SAFE-1).

use std::collections::HashMap;

use serde_json::Value;

/// Whether the schema, which is JSON, has such an array.
pub(super) fn has_items_without_bytes(schema: &str) -> bool {
    let mut search = Search::default();
    if let Ok(schema) = serde_json::from_str(schema) {
        search.is_empty(&schema);
    }
    search.is_found
}

#[derive(Default)]
struct Search {
    /// Whether values of a named type have no bytes. Types with the same name in several namespaces count as empty if one is.
    named: HashMap<String, bool>,
    is_found: bool,
}

impl Search {
    /// Whether values of this type have no bytes; looks at all types within.
    fn is_empty(&mut self, schema: &Value) -> bool {
        match schema {
            Value::String(name) => {
                let name = simple(name);
                name == "null" || self.named.get(name).copied().unwrap_or(false)
            }
            // The number of the branch is written first.
            Value::Array(branches) => {
                for branch in branches {
                    self.is_empty(branch);
                }
                false
            }
            Value::Object(object) => {
                let is_empty = match object.get("type") {
                    Some(Value::String(kind)) => match kind.as_str() {
                        "array" => {
                            let items = object.get("items").unwrap_or(&Value::Null);
                            self.is_found |= self.is_empty(items);
                            false
                        }
                        "map" => {
                            // An entry has a key, whose length is written.
                            self.is_empty(object.get("values").unwrap_or(&Value::Null));
                            false
                        }
                        "record" | "error" => {
                            let fields = object.get("fields").and_then(Value::as_array);
                            let fields = fields.into_iter().flatten();
                            let types = fields.filter_map(|field| field.get("type"));
                            // All are looked at, also behind the first that has bytes.
                            let with_bytes = types.filter(|of| !self.is_empty(of));
                            with_bytes.count() == 0
                        }
                        "fixed" => object.get("size").and_then(Value::as_u64) == Some(0),
                        _ => return self.is_empty(&Value::String(kind.clone())),
                    },
                    Some(inner) => return self.is_empty(inner),
                    None => false,
                };
                if let Some(name) = object.get("name").and_then(Value::as_str) {
                    *self.named.entry(simple(name).to_owned()).or_default() |= is_empty;
                }
                is_empty
            }
            _ => false,
        }
    }
}

/// The name without its namespace.
fn simple(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_what_has_no_bytes_are_found_wherever_they_are() {
        let empty =
            r#"{"type": "record", "name": "a.none", "fields": [{"name": "n", "type": "null"}]}"#;
        for (is_found, items) in [
            (true, r#""null""#),
            (true, r#"{"type": "null"}"#),
            (true, empty),
            (true, r#"{"type": "record", "name": "e", "fields": []}"#),
            (true, r#"{"type": "fixed", "name": "f", "size": 0}"#),
            (true, r#"{"type": "array", "items": "null"}"#),
            (false, r#"{"type": "fixed", "name": "f", "size": 1}"#),
            (false, r#"["null"]"#),
            (false, r#"{"type": "map", "values": "null"}"#),
            (false, r#"{"type": "enum", "name": "e", "symbols": ["A"]}"#),
            (
                false,
                r#"{"type": "record", "name": "one", "fields": [{"name": "n", "type": "null"}, {"name": "i", "type": "int"}]}"#,
            ),
            (
                false,
                r#"{"type": "long", "logicalType": "timestamp-micros"}"#,
            ),
        ] {
            let array = format!(r#"{{"type": "array", "items": {items}}}"#);
            for of in [
                array.clone(),
                format!(r#"["null", {array}]"#),
                format!(r#"{{"type": "map", "values": {array}}}"#),
                format!(
                    r#"{{"type": "record", "name": "in", "fields": [{{"name": "x", "type": "int"}}, {{"name": "y", "type": {array}}}]}}"#
                ),
            ] {
                let schema = format!(
                    r#"{{"type": "record", "name": "r", "fields": [{{"name": "v", "type": {of}}}]}}"#
                );
                assert_eq!(has_items_without_bytes(&schema), is_found, "{schema}");
            }
        }
        // By its name.
        let named = format!(
            r#"{{"type": "record", "name": "r", "fields": [{{"name": "a", "type": {empty}}},
                {{"name": "b", "type": {{"type": "array", "items": "none"}}}}]}}"#
        );
        assert!(has_items_without_bytes(&named));
    }
}
