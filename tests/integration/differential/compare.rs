//! When two answers are the same, and where they are agreed to differ.

use super::generate::Statement;

/// What an engine says to a statement.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// Rows of texts; `None` is NULL.
    Rows(Vec<Vec<Option<String>>>),
    /// Why it has none.
    Refused(String),
}

impl Answer {
    pub(super) fn from_json(line: &str) -> Self {
        match serde_json::from_str(line).unwrap() {
            serde_json::Value::Object(refused) => Answer::Refused(refused["refused"].to_string()),
            rows => Answer::Rows(serde_json::from_value(rows).unwrap()),
        }
    }
}

/// Whether both refuse, or have the same rows in whatever order.
pub(super) fn same(ours: &Answer, theirs: &Answer) -> bool {
    match (ours, theirs) {
        (Answer::Refused(_), Answer::Refused(_)) => true,
        (Answer::Rows(ours), Answer::Rows(theirs)) => {
            let (ours, theirs) = (sorted(ours), sorted(theirs));
            ours.len() == theirs.len()
                && ours.iter().zip(&theirs).all(|(ours, theirs)| {
                    ours.len() == theirs.len()
                        && ours
                            .iter()
                            .zip(theirs)
                            .all(|(ours, theirs)| same_value(ours, theirs))
                })
        }
        _ => false,
    }
}

fn sorted(rows: &[Vec<Option<String>>]) -> Vec<Vec<Option<String>>> {
    let mut rows: Vec<Vec<Option<String>>> = rows
        .iter()
        .map(|row| {
            row.iter()
                .map(|value| value.as_deref().map(plain))
                .collect()
        })
        .collect();
    // Rows that differ in the last digits of a float are sorted alike.
    rows.sort_by_cached_key(|row| {
        let key = row.iter().map(|value| match value {
            Some(text) => match text.parse::<f64>() {
                Ok(number) => format!("{number:.6e}"),
                Err(_) => text.clone(),
            },
            None => "\u{0}".to_owned(),
        });
        key.collect::<Vec<_>>()
    });
    rows
}

/// A value as both engines write it: times with a blank and no zone, numbers without zeros behind the last digit.
fn plain(text: &str) -> String {
    let is_time = text.len() >= 19 && text.as_bytes()[4] == b'-';
    if is_time {
        let text = text.replace('T', " ");
        return text
            .trim_end_matches('Z')
            .trim_end_matches("+00:00")
            .to_owned();
    }
    if text.contains('.') && text.parse::<f64>().is_ok() && !text.contains(['e', 'E']) {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    match text {
        "NaN" => "nan".to_owned(),
        "-0" => "0".to_owned(),
        other => other.to_owned(),
    }
}

fn same_value(ours: &Option<String>, theirs: &Option<String>) -> bool {
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        return ours == theirs;
    };
    if ours == theirs {
        return true;
    }
    let is_float = |text: &str| text.contains(['.', 'e', 'E', 'n']);
    match (ours.parse::<f64>(), theirs.parse::<f64>()) {
        // One of them is a DOUBLE: the last digits go by the order in which it was summed.
        (Ok(ours_value), Ok(theirs_value)) if is_float(ours) || is_float(theirs) => {
            let difference = (ours_value - theirs_value).abs();
            ours_value == theirs_value
                || difference <= 1e-9 * ours_value.abs().max(theirs_value.abs())
                || difference <= 1e-12
        }
        _ => false,
    }
}

/// Why the answers may differ; `None`: they may not.
pub(super) fn agreed(
    statement: &Statement,
    ours: &Answer,
    theirs: &Answer,
) -> Option<&'static str> {
    let says = |answer: &Answer, what: &str| match answer {
        Answer::Refused(why) => why.contains(what),
        Answer::Rows(_) => false,
    };
    let sql = &statement.ours;
    if says(ours, "out of range of BIGINT") && sql.contains("sum(") {
        return Some("the sum of BIGINT is BIGINT and refused beyond; DuckDB's is HUGEINT");
    }
    if says(ours, "out of range of DECIMAL(38") && matches!(theirs, Answer::Rows(_)) {
        return Some(
            "products of decimals have the digits of both, up to 38; DuckDB's are DOUBLE beyond",
        );
    }
    if says(theirs, "Decimal") || says(theirs, "DECIMAL") {
        return Some(
            "DuckDB does not widen the sum of two decimals beyond 18 digits, and its products are refused earlier",
        );
    }
    if (says(theirs, "Overflow") || says(theirs, "Out of Range")) && sql.contains("avg(") {
        return Some("DuckDB sums what it averages in the type of the values");
    }
    if says(theirs, "Out of Range") && statement.has_doubles {
        return Some("DOUBLE overflows to infinity, as IEEE 754 says; DuckDB refuses it");
    }
    None
}
