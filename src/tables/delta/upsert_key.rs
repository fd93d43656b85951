//! The key by which jobs upsert rows, as a declaration names it.

use datafusion::arrow::datatypes::{DataType, SchemaRef};

use crate::error::{Error, Result, Subject};

/// The columns of a key; none of a table that jobs append to.
#[derive(Debug, Default)]
pub(super) struct UpsertKey {
    /// Where they are among the table's columns.
    pub(super) positions: Vec<usize>,
    pub(super) names: Vec<String>,
}

impl UpsertKey {
    /// The key with these columns.
    ///
    /// # Errors
    ///
    /// A column that is not in the table, that is named twice, that the table computes, or by whose values rows are not found again.
    pub(super) fn of(names: &[String], schema: &SchemaRef, generated: &[&str]) -> Result<Self> {
        let mut key = Self::default();
        for name in names {
            let refused = |what: &str, help: &str| {
                Error::invalid(format!("PRIMARY KEY names {name}, {what}"))
                    .about(Subject::column(name))
                    .with_help(help.to_owned())
            };
            let Ok(position) = schema.index_of(name) else {
                let known = schema.fields().iter().map(|field| field.name().as_str());
                let help = match crate::core::suggest::closest(name, known) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "name columns of the table".to_owned(),
                };
                return Err(refused("which is not a column", &help));
            };
            if key.names.contains(name) {
                return Err(refused("which it has already", "name each column once"));
            }
            if generated.contains(&name.as_str()) {
                return Err(refused(
                    "which the table computes",
                    "name the columns that it is computed from",
                ));
            }
            let of_type = schema.field(position).data_type();
            if of_type.is_nested() {
                return Err(refused(
                    "whose values have parts",
                    "name columns of texts, numbers, times or bytes",
                ));
            }
            if matches!(
                of_type,
                DataType::Float16 | DataType::Float32 | DataType::Float64
            ) {
                return Err(refused(
                    "a floating-point number, by which rows are not found again for sure",
                    "use DECIMAL, BIGINT or VARCHAR",
                ));
            }
            key.positions.push(position);
            key.names.push(name.clone());
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn a_key_has_columns_by_which_rows_are_found_again() {
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
        let types = [
            ("id", DataType::Int64),
            ("name", DataType::Utf8View),
            ("share", DataType::Float64),
            ("tags", list),
            ("computed", DataType::Int64),
        ];
        let fields = types.map(|(name, of)| Field::new(name, of, true)).to_vec();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let key = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            UpsertKey::of(&names, &schema, &["computed"])
        };
        let both = key(&["name", "id"]).unwrap();
        assert_eq!(both.positions, [1, 0]);
        assert_eq!(both.names, ["name", "id"]);
        assert!(key(&[]).unwrap().positions.is_empty());
        for (names, said) in [
            (["id", "id"], "which it has already"),
            (["id", "ids"], "which is not a column"),
            (["id", "share"], "a floating-point number"),
            (["id", "tags"], "whose values have parts"),
            (["id", "computed"], "which the table computes"),
        ] {
            let error = key(&names).unwrap_err();
            assert!(error.message().contains(said), "{error}");
        }
    }
}
