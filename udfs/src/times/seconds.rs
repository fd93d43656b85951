//! Texts of times without seconds, as `2025-09-04T10:00` and `2025-09-04 10:00+02:00`: Arrow reads them once they have their
//! seconds.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringViewArray};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::DataType;
use chrono::Utc;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Expr;

/// The place of the seconds, behind `2025-09-04T10:00`.
const SECONDS: usize = 16;

/// The text with its seconds, if it is a time without them.
pub(crate) fn with_seconds(text: &str) -> Option<String> {
    let (minutes, zone) = text.split_at_checked(SECONDS)?;
    let [.., b'T' | b't' | b' ', _, _, b':', _, _] = minutes.as_bytes() else {
        return None;
    };
    if !zone.is_empty() && !zone.starts_with(['Z', 'z', '+', '-', ' ']) {
        return None;
    }
    let text = format!("{minutes}:00{zone}");
    string_to_datetime(&Utc, &text).is_ok().then_some(text)
}

/// The same for a value; `None` if it needs no change.
pub(crate) fn value_with_seconds(value: &ScalarValue) -> Option<ScalarValue> {
    let text = value.try_as_str().flatten()?;
    Some(ScalarValue::Utf8(Some(with_seconds(text)?)))
}

/// The same for an array of texts.
pub(crate) fn texts_with_seconds(texts: &ArrayRef) -> ArrayRef {
    let read = match texts.data_type() {
        DataType::Utf8 => changed(texts.as_string::<i32>().iter()),
        DataType::LargeUtf8 => changed(texts.as_string::<i64>().iter()),
        DataType::Utf8View => changed(texts.as_string_view().iter()),
        _ => None,
    };
    match read {
        Some(read) => Arc::new(read),
        None => Arc::clone(texts),
    }
}

/// The texts, if one of them changes.
fn changed<'a>(texts: impl Iterator<Item = Option<&'a str>> + Clone) -> Option<StringViewArray> {
    let changes = |text: Option<&str>| text.is_some_and(|text| with_seconds(text).is_some());
    if !texts.clone().any(changes) {
        return None;
    }
    let read = |text: &'a str| with_seconds(text).map_or(Cow::Borrowed(text), Cow::Owned);
    Some(texts.map(|text| text.map(read)).collect())
}

/// Whether values of this type are points in time.
pub(crate) fn is_point_in_time(of: &DataType) -> bool {
    matches!(
        of,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
    )
}

/// Gives a literal its seconds, if the expression is a cast of it to a time; returns whether it had none.
pub(crate) fn give_seconds(cast: &mut Expr) -> bool {
    let (of, to) = match cast {
        Expr::Cast(cast) => (&mut cast.expr, &cast.field),
        Expr::TryCast(cast) => (&mut cast.expr, &cast.field),
        _ => return false,
    };
    let Expr::Literal(value, _) = of.as_mut() else {
        return false;
    };
    if !is_point_in_time(to.data_type()) {
        return false;
    }
    let Some(read) = value_with_seconds(value) else {
        return false;
    };
    *value = read;
    true
}

/// The expression, in which such literals have their seconds.
///
/// # Errors
///
/// None in practice.
pub(crate) fn literals_with_seconds(expr: Expr) -> Result<Expr> {
    let read = expr.transform_up(|mut expr| {
        let is_changed = give_seconds(&mut expr);
        Ok(Transformed::new_transformed(expr, is_changed))
    })?;
    Ok(read.data)
}

#[cfg(test)]
mod tests {
    use arrow::array::{LargeStringArray, StringArray};
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_with_hours_and_minutes_gets_its_seconds() {
        for (text, expected) in [
            ("2025-09-04T10:07", "2025-09-04T10:07:00"),
            ("2025-09-04t10:07", "2025-09-04t10:07:00"),
            ("2025-09-04 10:07", "2025-09-04 10:07:00"),
            ("2025-09-04T10:07Z", "2025-09-04T10:07:00Z"),
            ("2025-09-04T10:07z", "2025-09-04T10:07:00z"),
            ("2025-09-04 10:07+02:00", "2025-09-04 10:07:00+02:00"),
            ("2025-09-04T10:07-0530", "2025-09-04T10:07:00-0530"),
            ("2025-09-04 10:07 -08", "2025-09-04 10:07:00 -08"),
        ] {
            assert_eq!(with_seconds(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn all_other_texts_stay() {
        for text in [
            "",
            "2025-09-04",
            "2025-09-04T10",
            "2025-09-04T10:",
            "2025-09-04T10:0",
            "2025-09-04T1000",
            "2025-09-04T10:60",
            "2025-09-04T24:00",
            "2025-02-30T10:07",
            "2025-09-04_10:07",
            "2025-09-04T10:07:",
            "2025-09-04T10:07:3",
            "2025-09-04T10:07:30",
            "2025-09-04T10:07.5",
            "2025-09-04T10:07,5",
            "2025-09-04T10:075",
            "2025-09-04T10:07 ",
            "2025-09-04T10:07 PM",
            "2025-09-04T10:07+",
            " 2025-09-04T10:0",
            "äöü-09-04T10:07",
            "2025-09-04T10:0ä",
        ] {
            assert_eq!(with_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn an_array_changes_only_where_a_text_needs_it() {
        let texts = vec![Some("2025-09-04 10:07"), None, Some("soon")];
        let expected = StringViewArray::from(vec![Some("2025-09-04 10:07:00"), None, Some("soon")]);
        let arrays: [ArrayRef; 3] = [
            Arc::new(StringArray::from(texts.clone())),
            Arc::new(LargeStringArray::from(texts.clone())),
            Arc::new(StringViewArray::from(texts)),
        ];
        for texts in arrays {
            assert_eq!(texts_with_seconds(&texts).as_string_view(), &expected);
            let rest = texts.slice(1, 2);
            assert!(Arc::ptr_eq(&texts_with_seconds(&rest), &rest));
        }
    }

    proptest! {
        #[test]
        fn any_minute_is_read_as_the_one_with_seconds(minutes in -1_000_000_000_i64..=4_000_000_000) {
            let time = DateTime::<Utc>::from_timestamp(minutes * 60, 0).unwrap();
            for (short, long) in [
                ("%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"),
                ("%Y-%m-%d %H:%MZ", "%Y-%m-%d %H:%M:%SZ"),
            ] {
                let read = with_seconds(&time.format(short).to_string());
                prop_assert_eq!(read, Some(time.format(long).to_string()));
            }
        }

        #[test]
        fn no_text_fails(text in "\\PC{0,24}") {
            if let Some(read) = with_seconds(&text) {
                prop_assert_eq!(read.len(), text.len() + 3);
            }
        }
    }
}
