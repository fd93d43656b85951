//! The JSON of Spark's `startingOffsets` and `endingOffsets`, and the ranges two of them make.

use std::collections::BTreeMap;

use datafusion::common::Result;
use datafusion::error::DataFusionError;
use serde_json::{Map, Value};

use super::named::NamedOffset;
use crate::diagnostic::plan_error;

/// The offsets of one partition: `from` inclusive, `to` exclusive; `None` is unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OffsetRange {
    pub(super) partition: i64,
    pub(super) from: Option<i64>,
    pub(super) to: Option<i64>,
}

/// The ranges between `from` and `to`, by partition; a partition that is missing in either, or that starts at the latest
/// offset, has none.
pub(super) fn offset_ranges(from: &str, to: &str) -> Result<Vec<OffsetRange>> {
    let (from_topic, starts) = parse(from, "from")?;
    let (to_topic, ends) = parse(to, "to")?;
    if let (Some(from_topic), Some(to_topic)) = (&from_topic, &to_topic)
        && from_topic != to_topic
    {
        return Err(wrong(format!(
            "from is about topic {from_topic}, but to is about topic {to_topic}"
        )));
    }
    let mut ranges = vec![];
    for (partition, start) in starts {
        let Some(end) = ends.get(&partition).copied() else {
            continue;
        };
        let to = match end {
            NamedOffset::First => {
                return Err(wrong(format!(
                    "to is {} (earliest) for partition {partition}, but nothing ends there",
                    end.number()
                )));
            }
            NamedOffset::End => None,
            NamedOffset::At(offset) => Some(offset),
        };
        let from = match start {
            NamedOffset::First => None,
            NamedOffset::End => continue,
            NamedOffset::At(offset) => Some(offset),
        };
        if let (Some(from), Some(to)) = (from, to)
            && from > to
        {
            return Err(wrong(format!(
                "from ({from}) is past to ({to}) for partition {partition}"
            )));
        }
        ranges.push(OffsetRange {
            partition,
            from,
            to,
        });
    }
    Ok(ranges)
}

/// Where each partition of `from` starts; `None`: at its beginning. Latest is refused.
pub(super) fn start_offsets(from: &str) -> Result<Vec<(i64, Option<i64>)>> {
    let (_, starts) = parse(from, "from")?;
    let start = |(partition, start): (i64, NamedOffset)| match start {
        NamedOffset::End => Err(wrong(format!(
            "from is {} (latest) for partition {partition}, which leaves nothing to read",
            start.number()
        ))),
        NamedOffset::First => Ok((partition, None)),
        NamedOffset::At(offset) => Ok((partition, Some(offset))),
    };
    starts.into_iter().map(start).collect()
}

type Offsets = BTreeMap<i64, NamedOffset>;

fn parse(json: &str, which: &str) -> Result<(Option<String>, Offsets)> {
    let value: Value = serde_json::from_str(json)
        .map_err(|error| wrong(format!("{which} is not valid JSON: {error}")))?;
    let Value::Object(object) = value else {
        return Err(wrong(format!("{which} is not a JSON object: {json}")));
    };
    if !object.values().any(Value::is_object) {
        return Ok((None, partitions(&object, which)?));
    }
    let mut topics = object.into_iter();
    match (topics.next(), topics.next()) {
        (Some((topic, Value::Object(offsets))), None) => {
            let offsets = partitions(&offsets, which)?;
            Ok((Some(topic), offsets))
        }
        _ => Err(wrong(format!(
            "{which} is about several topics, but a table holds one: {json}"
        ))),
    }
}

fn partitions(object: &Map<String, Value>, which: &str) -> Result<Offsets> {
    object
        .iter()
        .map(|(partition, offset)| {
            let number = partition.parse::<i64>().ok().filter(|number| *number >= 0);
            let Some(number) = number else {
                return Err(wrong(format!(
                    "{which}: {partition:?} is not a partition number"
                )));
            };
            match offset.as_i64().and_then(NamedOffset::of_number) {
                Some(offset) => Ok((number, offset)),
                None => Err(wrong(format!(
                    "{which}: {offset} is not an offset, for partition {partition}"
                ))),
            }
        })
        .collect()
}

fn wrong(message: String) -> DataFusionError {
    plan_error(
        format!("offsets_in: {message}"),
        None,
        r#"write offsets as {"topic":{"0":23,"1":-1}} or {"0":23,"1":-1}; -2 is earliest, -1 latest"#,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn range(partition: i64, from: Option<i64>, to: Option<i64>) -> OffsetRange {
        OffsetRange {
            partition,
            from,
            to,
        }
    }

    #[test]
    fn ranges_are_those_of_partitions_in_both() {
        let ranges = offset_ranges(
            r#"{"visits":{"0":23,"1":-2,"2":-1,"3":5}}"#,
            r#"{"0":30,"1":-1,"2":9,"4":1}"#,
        );
        assert_eq!(
            ranges.unwrap(),
            [range(0, Some(23), Some(30)), range(1, None, None)]
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, expected) in [
            ("{", "{}", "from is not valid JSON"),
            ("[]", "{}", "from is not a JSON object"),
            (r#"{"0":1.5}"#, "{}", "1.5 is not an offset"),
            (r#"{"0":"1"}"#, "{}", "is not an offset"),
            (r#"{"0":-3}"#, "{}", "-3 is not an offset"),
            (r#"{"x":1}"#, "{}", "\"x\" is not a partition number"),
            (r#"{"-1":1}"#, "{}", "\"-1\" is not a partition number"),
            (r#"{"a":{"0":1},"b":{"0":1}}"#, "{}", "several topics"),
            (r#"{"a":{"0":1},"0":1}"#, "{}", "several topics"),
            (
                r#"{"a":{"0":1}}"#,
                r#"{"b":{"0":1}}"#,
                "from is about topic a",
            ),
            (r#"{"0":5}"#, r#"{"0":4}"#, "from (5) is past to (4)"),
            (r#"{"0":5}"#, r#"{"0":-2}"#, "nothing ends there"),
            ("{}", r#"{"0":99999999999999999999}"#, "is not an offset"),
        ] {
            let error = offset_ranges(from, to).unwrap_err().strip_backtrace();
            assert!(error.contains(expected), "{from} {to}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(from in ".*", to in r#"\{("(a|0|1)":(-?[0-9]{1,25}|\{"0":1\}),?)*\}"#) {
            let _ = offset_ranges(&from, &to);
            let _ = offset_ranges(&to, &from);
            let _ = offset_ranges(&to, &to);
        }
    }
}
