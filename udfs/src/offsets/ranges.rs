//! The ranges that two JSON texts as in Spark's `startingOffsets` and `endingOffsets` make.

use datafusion::common::Result;
use datafusion::error::DataFusionError;

use super::json::{ArgumentOffsets, PartitionPlaces, parse_argument, partition_number};
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

fn parse(json: &str, which: &str) -> Result<(Option<String>, PartitionPlaces)> {
    let offsets = parse_argument(json)
        .map_err(|error| wrong(format!("{which} has offsets that are not valid: {error}")))?;
    match offsets {
        ArgumentOffsets::Partitions(partitions) => {
            let numbered =
                partitions
                    .into_iter()
                    .map(|(name, place)| match partition_number::<i64>(&name) {
                        Some(number) => Ok((number, place)),
                        None => Err(wrong(format!(
                            "{which}: {name:?} is not a partition number"
                        ))),
                    });
            Ok((None, numbered.collect::<Result<_>>()?))
        }
        ArgumentOffsets::Topic(topic, places) => Ok((Some(topic), places)),
        ArgumentOffsets::Several => Err(wrong(format!(
            "{which} is about several topics, but a table holds one: {json}"
        ))),
    }
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
            ("{", "{}", "from has offsets that are not valid: EOF"),
            ("[]", "{}", "expected offsets by partition"),
            (r#"{"0":1.5}"#, "{}", "floating point `1.5`"),
            (r#"{"0":"1"}"#, "{}", r#"string "1""#),
            (r#"{"0":-3}"#, "{}", "integer `-3`, expected an offset"),
            (r#"{"0":1,"0":2}"#, "{}", "0 is named twice"),
            (r#"{"t":{"01":1}}"#, "{}", r#"string "01""#),
            (r#"{"01":1}"#, "{}", "\"01\" is not a partition number"),
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
            ("{}", r#"{"0":99999999999999999999}"#, "floating point"),
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
