//! Conversion of texts to columns of numbers, by the rules for messages: all digits count.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, PrimitiveBuilder, StringArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Decimal256Type, Int8Type, Int16Type, Int32Type,
    Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::excerpt::excerpt;
use crate::formats::text::scalar::{parse_decimal, parse_integer, parse_wide_decimal};

/// Whether [`numbers`] can produce this type.
pub(crate) fn is_exact(of: &DataType) -> bool {
    of.is_integer() || matches!(of, DataType::Decimal128(..) | DataType::Decimal256(..))
}

/// Parses the texts as numbers. Integers have no fraction, decimals are rounded half away from zero.
///
/// # Errors
///
/// The first text that is not a number or does not fit the type, cut if it is long; any text if the type is not [`is_exact`].
pub(crate) fn numbers(texts: &StringArray, of: &DataType) -> Result<ArrayRef, String> {
    match of {
        DataType::Int8 => each::<Int8Type>(texts, of, parse_integer),
        DataType::Int16 => each::<Int16Type>(texts, of, parse_integer),
        DataType::Int32 => each::<Int32Type>(texts, of, parse_integer),
        DataType::Int64 => each::<Int64Type>(texts, of, parse_integer),
        DataType::UInt8 => each::<UInt8Type>(texts, of, parse_integer),
        DataType::UInt16 => each::<UInt16Type>(texts, of, parse_integer),
        DataType::UInt32 => each::<UInt32Type>(texts, of, parse_integer),
        DataType::UInt64 => each::<UInt64Type>(texts, of, parse_integer),
        DataType::Decimal128(precision, scale) => {
            each::<Decimal128Type>(texts, of, |text| parse_decimal(text, *precision, *scale))
        }
        DataType::Decimal256(precision, scale) => each::<Decimal256Type>(texts, of, |text| {
            parse_wide_decimal(text, *precision, *scale)
        }),
        _ => match texts.iter().flatten().next() {
            Some(text) => Err(excerpt(text)),
            None => Ok(arrow::array::new_null_array(of, texts.len())),
        },
    }
}

fn each<T: ArrowPrimitiveType>(
    texts: &StringArray,
    of: &DataType,
    parse: impl Fn(&str) -> Option<T::Native>,
) -> Result<ArrayRef, String> {
    let builder = PrimitiveBuilder::<T>::with_capacity(texts.len());
    let mut values = builder.with_data_type(of.clone());
    for text in texts {
        match text {
            Some(text) => values.append_value(parse(text).ok_or_else(|| excerpt(text))?),
            None => values.append_null(),
        }
    }
    Ok(Arc::new(values.finish()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use arrow::array::{Decimal128Array, Int32Array};

    use super::*;

    #[test]
    fn value_1_all_digits_are_seen() {
        let read = |text: &str, of: &DataType| numbers(&StringArray::from(vec![text]), of);
        let zeros = |count: usize| "0".repeat(count);
        for text in [
            "2.5".to_owned(),
            "2.0000000000000000001".to_owned(),
            format!("2.{}1", zeros(300)),
            format!("1{}", zeros(256)),
            "true".to_owned(),
            String::new(),
        ] {
            let error = read(&text, &DataType::Int64).unwrap_err();
            assert!(text.starts_with(error.trim_end_matches('…')), "{error}");
        }
        for digits in [255, 256, 257, 512] {
            let text = format!("1{}", zeros(digits));
            read(&text, &DataType::Decimal128(38, 2)).unwrap_err();
            read(&text, &DataType::Decimal256(76, 2)).unwrap_err();
        }
        let whole = format!("2.{}", zeros(300));
        let texts = StringArray::from(vec![Some(whole.as_str()), None, Some("-12e1")]);
        let read = numbers(&texts, &DataType::Int32).unwrap();
        let expected = Int32Array::from(vec![Some(2), None, Some(-120)]);
        assert_eq!(read.as_ref(), &expected as &dyn Array);
    }

    #[test]
    fn decimals_are_rounded_half_away_from_zero() {
        let texts = StringArray::from(vec!["1.005", "-1.005", "1.0049999999999999999", "7"]);
        let read = numbers(&texts, &DataType::Decimal128(10, 2)).unwrap();
        let expected = Decimal128Array::from(vec![101, -101, 100, 700]);
        let expected = expected.with_precision_and_scale(10, 2).unwrap();
        assert_eq!(read.as_ref(), &expected as &dyn Array);
    }
}
