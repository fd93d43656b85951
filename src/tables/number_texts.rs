//! Numbers in files of JSON and CSV: they are read as texts, and become numbers by the rules of messages (VALUE-1).
//!
//! The engine's readers make 2 of 2.7 and of 2.0000000000000000001 where the column is an integer, cut digits of a DECIMAL off, and
//! take a one with 256 zeros for 0.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray as _, GenericListArray, MapArray, OffsetSizeTrait, RecordBatch,
    RecordBatchOptions, StructArray,
};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::error::{DataFusionError, Result};

use crate::error::{Error, Subject};
use crate::formats::{numbers, sql_name};

/// Fields with texts in the place of such types, also within others; nothing if there are none.
pub(super) fn with_texts(fields: &Fields, is_text: fn(&DataType) -> bool) -> Option<Fields> {
    let read: Vec<Option<FieldRef>> = fields
        .iter()
        .map(|field| with_text(field, is_text))
        .collect();
    read.iter().any(Option::is_some).then(|| {
        let fields = fields.iter().zip(read);
        fields
            .map(|(field, read)| read.unwrap_or_else(|| Arc::clone(field)))
            .collect()
    })
}

/// The rows with numbers where there are texts instead.
///
/// # Errors
///
/// A text that is no number or does not fit into its type, with the name of the column.
pub(super) fn with_numbers(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| {
        numbers_in(column, field.data_type()).map_err(|unread| match unread {
            NotNumbers::Misfit { text, of } => misfit(field, &text, &of),
            NotNumbers::Other(error) => error.into(),
        })
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &rows,
    )?)
}

/// Why a column does not become a column of numbers.
enum NotNumbers {
    /// A text that is no number of a type.
    Misfit {
        text: String,
        of: DataType,
    },
    Other(ArrowError),
}

impl From<ArrowError> for NotNumbers {
    fn from(error: ArrowError) -> Self {
        Self::Other(error)
    }
}

fn misfit(field: &Field, text: &str, of: &DataType) -> DataFusionError {
    let help = match of.is_integer() {
        true => {
            "declare the column as DOUBLE or DECIMAL, and CAST in the query if it is to be rounded"
        }
        false => {
            "declare the column as a DECIMAL with more digits, as DOUBLE, or as VARCHAR if it has other texts too"
        }
    };
    let (name, of) = (field.name(), sql_name(of));
    Error::data(format!("{name}: {text} does not fit into {of}"))
        .about(Subject::column(name))
        .with_help(help)
        .into()
}

fn with_text(field: &FieldRef, is_text: fn(&DataType) -> bool) -> Option<FieldRef> {
    let read = match field.data_type() {
        of if is_text(of) => DataType::Utf8,
        DataType::List(item) => DataType::List(with_text(item, is_text)?),
        DataType::LargeList(item) => DataType::LargeList(with_text(item, is_text)?),
        DataType::Map(entries, is_sorted) => {
            DataType::Map(with_text(entries, is_text)?, *is_sorted)
        }
        DataType::Struct(fields) => DataType::Struct(with_texts(fields, is_text)?),
        _ => return None,
    };
    Some(Arc::new(Field::clone(field).with_data_type(read)))
}

fn numbers_in(column: &ArrayRef, of: &DataType) -> Result<ArrayRef, NotNumbers> {
    Ok(match (column.data_type(), of) {
        (from, to) if from == to => Arc::clone(column),
        (DataType::Utf8, to) => {
            let read = numbers(column.as_string::<i32>(), to);
            read.map_err(|text| NotNumbers::Misfit {
                text,
                of: to.clone(),
            })?
        }
        (DataType::List(_), DataType::List(item)) => in_lists(column.as_list::<i32>(), item)?,
        (DataType::LargeList(_), DataType::LargeList(item)) => {
            in_lists(column.as_list::<i64>(), item)?
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            Arc::new(in_struct(column.as_struct(), fields)?)
        }
        (DataType::Map(..), DataType::Map(entries, is_sorted)) => {
            let (_, offsets, values, nulls, _) = column.as_map().clone().into_parts();
            let DataType::Struct(fields) = entries.data_type() else {
                return Ok(Arc::clone(column));
            };
            let values = in_struct(&values, fields)?;
            let entries = Arc::clone(entries);
            let map = MapArray::try_new(entries, offsets, values, nulls, *is_sorted)?;
            Arc::new(map)
        }
        // Its fields are those that were read.
        _ => Arc::clone(column),
    })
}

fn in_lists<O: OffsetSizeTrait>(
    lists: &GenericListArray<O>,
    item: &FieldRef,
) -> Result<ArrayRef, NotNumbers> {
    let (_, offsets, values, nulls) = lists.clone().into_parts();
    let values = numbers_in(&values, item.data_type())?;
    let item = Arc::clone(item);
    let lists = GenericListArray::try_new(item, offsets, values, nulls)?;
    Ok(Arc::new(lists))
}

/// There are fields, since a text is among them.
fn in_struct(structs: &StructArray, fields: &Fields) -> Result<StructArray, NotNumbers> {
    let (_, columns, nulls) = structs.clone().into_parts();
    let columns = columns.iter().zip(fields);
    let columns = columns.map(|(column, field)| numbers_in(column, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(StructArray::try_new(fields.clone(), columns, nulls)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array as _, Int32Array, StringArray};
    use datafusion::arrow::datatypes::Schema;

    use super::*;
    use crate::formats::is_exact;

    fn read(of: DataType, texts: Vec<Option<&str>>) -> Result<ArrayRef> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", of, true)]));
        let texts: ArrayRef = Arc::new(StringArray::from(texts));
        let batch = RecordBatch::try_from_iter([("n", texts)])?;
        Ok(Arc::clone(with_numbers(&batch, &schema)?.column(0)))
    }

    #[test]
    fn value_1_only_fitting_whole_numbers_become_integers() {
        let whole = read(DataType::Int32, vec![Some("2.0"), None, Some("-1")]).unwrap();
        let expected = Int32Array::from(vec![Some(2), None, Some(-1)]);
        assert_eq!(
            whole.as_ref(),
            &expected as &dyn datafusion::arrow::array::Array
        );
        for text in ["2.7", "3000000000", "2.0000000000000000001"] {
            let error = read(DataType::Int32, vec![None, Some(text)]).unwrap_err();
            let shown = format!("n: {text} does not fit into INT");
            assert!(error.to_string().contains(&shown), "{error}");
        }
    }

    #[test]
    fn value_1_nested_whole_numbers_become_integers() {
        let fields = Fields::from(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, true),
        ]);
        let of = DataType::Struct(fields);
        let schema = Arc::new(Schema::new(vec![Field::new("s", of, true)]));
        let texts = with_texts(schema.fields(), is_exact).unwrap();
        let DataType::Struct(texts) = texts[0].data_type() else {
            unreachable!("a struct is read as one");
        };
        let run = |text: &str| {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from(vec![text])),
                Arc::new(StringArray::from(vec![text])),
            ];
            let structs: ArrayRef = Arc::new(StructArray::new(texts.clone(), columns, None));
            with_numbers(
                &RecordBatch::try_from_iter([("s", structs)]).unwrap(),
                &schema,
            )
        };
        let read = run("2").unwrap();
        assert_eq!(read.column(0).data_type(), schema.field(0).data_type());
        assert!(read.column(0).is_valid(0));
        let error = run("2.5").unwrap_err().to_string();
        assert!(error.contains("s: 2.5 does not fit into BIGINT"), "{error}");
        let text = Fields::from(vec![Field::new("t", DataType::Utf8, true)]);
        assert!(with_texts(&text, is_exact).is_none());
    }
}
