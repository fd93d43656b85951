//! Budget for the result of one function call on a batch (SAFE-1): no memory pool counts the result until an operator takes it.

use std::any::Any;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::common::{Result, config_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};

/// Bytes that one call of a function may produce for a batch.
#[derive(Debug, Clone)]
pub struct Budget(pub usize);

impl ConfigExtension for Budget {
    const PREFIX: &'static str = "anabranch_budget";
}

/// It is not a user setting: no statement displays or changes it.
impl ExtensionOptions for Budget {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _: &str) -> Result<()> {
        config_err!("there is no setting {key}")
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

/// The budget of a call during planning, when no statement has one yet.
const WHILE_PLANNING: usize = 64 << 20;

/// The phrase between the function's name and the size of its result.
const WOULD_MAKE: &str = " would make ";

/// Whether `message` reports a call whose result would be larger than the statement's [`Budget`]; false for a refusal by the
/// shared memory pool.
pub fn is_over_budget(message: &str) -> bool {
    message.contains(WOULD_MAKE)
}

/// Refuses a call whose concatenated texts would exceed the budget, or one array of type `result`.
///
/// # Errors
///
/// [`DataFusionError::ResourcesExhausted`].
pub(crate) fn check_joined(name: &str, args: &ScalarFunctionArgs, result: &DataType) -> Result<()> {
    let budget = args.config_options.extensions.get::<Budget>();
    let mut most = budget.map_or(WHILE_PLANNING, |Budget(most)| *most);
    if matches!(result, DataType::Utf8 | DataType::Binary) {
        most = most.min(i32::MAX as usize);
    }
    let sizes = args.args.iter();
    let sizes = sizes.map(|of| text_bytes(of, args.number_rows));
    let size = sizes.fold(0, usize::saturating_add);
    if size <= most {
        return Ok(());
    }
    Err(DataFusionError::ResourcesExhausted(format!(
        "{name}{WOULD_MAKE}{size} bytes of {} rows, and the statement may hold {most}",
        args.number_rows
    )))
}

/// Bytes of the texts of an argument for all rows.
fn text_bytes(of: &ColumnarValue, rows: usize) -> usize {
    match of {
        ColumnarValue::Array(array) => array_bytes(array),
        ColumnarValue::Scalar(value) => {
            let one = match value.try_as_str() {
                Some(text) => text.map_or(0, str::len),
                None => value.size(),
            };
            one.saturating_mul(rows)
        }
    }
}

fn array_bytes(array: &ArrayRef) -> usize {
    let of_views = |views: &[u128]| {
        // The lower half of a view begins with the length.
        views.iter().map(|view| (*view as u32) as usize).sum()
    };
    match array.data_type() {
        DataType::Utf8 => {
            let offsets = array.as_string::<i32>().value_offsets();
            usize::try_from(offsets[array.len()] - offsets[0]).unwrap_or(usize::MAX)
        }
        DataType::LargeUtf8 => {
            let offsets = array.as_string::<i64>().value_offsets();
            usize::try_from(offsets[array.len()] - offsets[0]).unwrap_or(usize::MAX)
        }
        DataType::Binary => {
            let offsets = array.as_binary::<i32>().value_offsets();
            usize::try_from(offsets[array.len()] - offsets[0]).unwrap_or(usize::MAX)
        }
        DataType::LargeBinary => {
            let offsets = array.as_binary::<i64>().value_offsets();
            usize::try_from(offsets[array.len()] - offsets[0]).unwrap_or(usize::MAX)
        }
        DataType::Utf8View => of_views(array.as_string_view().views()),
        DataType::BinaryView => of_views(array.as_binary_view().views()),
        _ => array.get_array_memory_size(),
    }
}
