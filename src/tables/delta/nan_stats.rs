//! Statistics of files that hold NaN: columns with NaN get no bounds.
//!
//! The Parquet writer leaves NaN out of the least and the greatest value. Readers that skip files by these bounds would
//! lose rows that are NaN; without bounds they read the file.

use std::collections::BTreeSet;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use deltalake::kernel::Add;
use serde_json::Value;

/// The names that lead to a column: of the column, and of the fields it is in.
type ColumnPath = Vec<String>;

/// The columns in which NaN was seen.
#[derive(Debug, Default)]
pub(super) struct NanColumns {
    seen: BTreeSet<ColumnPath>,
}

impl NanColumns {
    /// Checks more rows for NaN.
    pub(super) fn look_at(&mut self, rows: &RecordBatch) {
        let schema = rows.schema();
        for (field, column) in schema.fields().iter().zip(rows.columns()) {
            self.look_at_column(&mut vec![field.name().clone()], column);
        }
    }

    fn look_at_column(&mut self, path: &mut ColumnPath, column: &ArrayRef) {
        // The value in a slot that is null may be anything. If it is NaN, one more file has no statistics, which does
        // no harm.
        let has_nan = match column.data_type() {
            DataType::Float16 => {
                let values = column.as_primitive::<Float16Type>().values();
                values.iter().any(|value| value.is_nan())
            }
            DataType::Float32 => {
                let values = column.as_primitive::<Float32Type>().values();
                values.iter().any(|value| value.is_nan())
            }
            DataType::Float64 => {
                let values = column.as_primitive::<Float64Type>().values();
                values.iter().any(|value| value.is_nan())
            }
            DataType::Struct(fields) => {
                for (field, column) in fields.iter().zip(column.as_struct().columns()) {
                    path.push(field.name().clone());
                    self.look_at_column(path, column);
                    path.pop();
                }
                false
            }
            _ => false,
        };
        if has_nan && !self.seen.contains(path) {
            self.seen.insert(path.clone());
        }
    }

    /// Takes the bounds of these columns out of the statistics of a file.
    pub(super) fn strike_from(&self, add: &mut Add) {
        if self.seen.is_empty() {
            return;
        }
        let Some(text) = &add.stats else { return };
        // Statistics that cannot be read are of no use to others either.
        add.stats = serde_json::from_str(text).ok().map(|mut stats: Value| {
            for path in &self.seen {
                strike(&mut stats, path);
            }
            stats.to_string()
        });
    }
}

fn strike(stats: &mut Value, path: &[String]) {
    let Some((column, folders)) = path.split_last() else {
        return;
    };
    for bound in ["minValues", "maxValues"] {
        let mut at = stats.get_mut(bound);
        for folder in folders {
            at = at.and_then(|fields| fields.get_mut(folder));
        }
        if let Some(Value::Object(fields)) = at {
            fields.remove(column);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Float64Array, Int32Array, StructArray};
    use datafusion::arrow::datatypes::Field;

    use super::*;

    #[test]
    fn columns_with_nan_have_no_bounds() {
        let nan: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN]));
        let plain: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
        let whole: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let field =
            |name: &str, of: &ArrayRef| Arc::new(Field::new(name, of.data_type().clone(), true));
        let inner = StructArray::from(vec![
            (field("a", &nan), Arc::clone(&nan)),
            (field("b", &plain), Arc::clone(&plain)),
        ]);
        let rows = RecordBatch::try_from_iter([
            ("d", nan),
            ("e", plain),
            ("i", whole),
            ("s", Arc::new(inner) as ArrayRef),
        ])
        .unwrap();
        let mut columns = NanColumns::default();
        columns.look_at(&rows);
        let bounds = r#"{"d":1.0,"e":1.0,"i":1,"s":{"a":1.0,"b":1.0}}"#;
        let mut add = Add {
            stats: Some(format!(
                r#"{{"numRecords":2,"minValues":{bounds},"maxValues":{bounds},"nullCount":{{"d":0}}}}"#
            )),
            ..Add::default()
        };
        columns.strike_from(&mut add);
        let stats: Value = serde_json::from_str(&add.stats.unwrap()).unwrap();
        let left = serde_json::json!({"e": 1.0, "i": 1, "s": {"b": 1.0}});
        assert_eq!(stats["minValues"], left);
        assert_eq!(stats["maxValues"], left);
        assert_eq!(stats["numRecords"], 2);
        assert_eq!(stats["nullCount"]["d"], 0);
    }
}
