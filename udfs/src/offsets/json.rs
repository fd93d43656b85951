//! Places in the partitions of topics as a user writes them: Spark's JSON of `startingOffsets`. One parser reads it in options, in
//! statements and in arguments of functions.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Unexpected, Visitor};

use super::named::{NamedOffset, NamedOffsetVisitor};

/// Places by table and partition.
pub type NamedOffsets = BTreeMap<String, BTreeMap<i32, NamedOffset>>;

/// Reads Spark's JSON: `{"visits":{"0":23,"1":-2}}`.
///
/// # Errors
///
/// Text that is not JSON or of another shape; a name that occurs twice; an offset below -2. The error has the place in the text.
pub fn parse_named_offsets(json: &str) -> Result<NamedOffsets, serde_json::Error> {
    let tables: Members<String, Members<PartitionNumber<i32>, NamedOffset>> =
        serde_json::from_str(json)?;
    let of_table = |(table, partitions): (String, Members<PartitionNumber<i32>, NamedOffset>)| {
        let partitions = partitions.0.into_iter();
        let numbered = partitions.map(|(partition, start)| (partition.0, start));
        (table, numbered.collect())
    };
    Ok(tables.0.into_iter().map(of_table).collect())
}

/// Places by partition, whose numbers may be those of any column.
pub(super) type PartitionPlaces = BTreeMap<i64, NamedOffset>;

/// Offsets as an argument of a function has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ArgumentOffsets {
    /// `{"0":23}`, or `{}`: names of partitions, which are not checked yet, with their places.
    Partitions(Vec<(String, NamedOffset)>),
    /// `{"visits":{"0":23}}`.
    Topic(String, PartitionPlaces),
    /// Several topics, or topics beside partitions.
    Several,
}

/// Reads the JSON of an argument: that of Spark with one topic, or without it.
///
/// # Errors
///
/// As [`parse_named_offsets`], but an object may be empty.
pub(super) fn parse_argument(json: &str) -> Result<ArgumentOffsets, serde_json::Error> {
    let members: Members<Name, Member> = serde_json::from_str(json)?;
    let mut topics = Vec::new();
    let mut partitions = Vec::new();
    for (Name(name), member) in members.0 {
        match member {
            Member::Topic(places) => topics.push((name, places)),
            Member::Partition(place) => partitions.push((name, place)),
        }
    }
    Ok(
        match (topics.pop(), topics.is_empty() && partitions.is_empty()) {
            (None, _) => ArgumentOffsets::Partitions(partitions),
            (Some((topic, places)), true) => {
                let places = places.0.into_iter();
                let places = places.map(|(partition, place)| (partition.0, place));
                ArgumentOffsets::Topic(topic, places.collect())
            }
            (Some(_), false) => ArgumentOffsets::Several,
        },
    )
}

/// The number of a partition that a text is; none if it is no number from 0 on. A number has one spelling, so that none is named twice.
pub(super) fn partition_number<N>(text: &str) -> Option<N>
where
    N: FromStr + fmt::Display + PartialOrd + Default,
{
    let number = text
        .parse()
        .ok()
        .filter(|number: &N| *number >= N::default());
    number.filter(|number| number.to_string() == text)
}

/// The key of a JSON object.
trait Key: Ord + fmt::Display + for<'de> Deserialize<'de> {
    /// The object, in messages.
    const OBJECT: &'static str;
    /// The message for an empty object; none if it may be empty.
    const NONE: Option<&'static str>;
}

impl Key for String {
    const OBJECT: &'static str = r#"offsets by table and partition, such as {"visits":{"0":23}}"#;
    const NONE: Option<&'static str> = Some("no table is named");
}

/// A topic or a partition in an argument of a function.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(String);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl Key for Name {
    const OBJECT: &'static str = r#"offsets by partition, such as {"0":23} or {"topic":{"0":23}}"#;
    const NONE: Option<&'static str> = None;
}

/// What stands behind a name in an argument of a function.
enum Member {
    Partition(NamedOffset),
    Topic(Members<PartitionNumber<i64>, NamedOffset>),
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemberVisitor)
    }
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an offset, -2 for the first record, -1 for the end, or offsets by partition")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        NamedOffsetVisitor.visit_i64(number).map(Member::Partition)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        NamedOffsetVisitor.visit_u64(number).map(Member::Partition)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let visitor = MembersVisitor::<PartitionNumber<i64>, NamedOffset>(PhantomData);
        visitor.visit_map(map).map(Member::Topic)
    }
}

/// The members of a JSON object: none twice.
struct Members<K, V>(BTreeMap<K, V>);

impl<'de, K: Key, V: Deserialize<'de>> Deserialize<'de> for Members<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor::<K, V>(PhantomData))
    }
}

struct MembersVisitor<K, V>(PhantomData<(K, V)>);

impl<'de, K: Key, V: Deserialize<'de>> Visitor<'de> for MembersVisitor<K, V> {
    type Value = Members<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::OBJECT)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(key) = map.next_key::<K>()? {
            if members.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{key} is named twice")));
            }
            members.insert(key, map.next_value()?);
        }
        match K::NONE.filter(|_| members.is_empty()) {
            Some(none) => Err(A::Error::custom(none)),
            None => Ok(Members(members)),
        }
    }
}

/// The number of a partition, which is the key of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PartitionNumber<N>(N);

impl<N: fmt::Display> fmt::Display for PartitionNumber<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}", self.0)
    }
}

/// The object of partitions, in messages.
const PARTITIONS: &str = r#"offsets by partition, such as {"0":23}"#;

impl Key for PartitionNumber<i32> {
    const OBJECT: &'static str = PARTITIONS;
    const NONE: Option<&'static str> = Some("no partition is named");
}

impl Key for PartitionNumber<i64> {
    const OBJECT: &'static str = PARTITIONS;
    const NONE: Option<&'static str> = None;
}

impl<'de, N> Deserialize<'de> for PartitionNumber<N>
where
    N: FromStr + fmt::Display + PartialOrd + Default,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(PartitionVisitor(PhantomData))
    }
}

struct PartitionVisitor<N>(PhantomData<N>);

impl<N> Visitor<'_> for PartitionVisitor<N>
where
    N: FromStr + fmt::Display + PartialOrd + Default,
{
    type Value = PartitionNumber<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"the number of a partition, such as "0""#)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match partition_number(text) {
            Some(number) => Ok(PartitionNumber(number)),
            None => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn partitions(starts: &[(i32, NamedOffset)]) -> BTreeMap<i32, NamedOffset> {
        starts.iter().copied().collect()
    }

    #[test]
    fn offsets_are_read_as_spark_writes_them() {
        let json = r#"{"visits":{"0":23,"1":-2,"10":-1}, "clicks":{"0":9223372036854775807}}"#;
        let visits = [
            (0, NamedOffset::At(23)),
            (1, NamedOffset::First),
            (10, NamedOffset::End),
        ];
        let expected = NamedOffsets::from([
            ("visits".to_owned(), partitions(&visits)),
            (
                "clicks".to_owned(),
                partitions(&[(0, NamedOffset::At(i64::MAX))]),
            ),
        ]);
        assert_eq!(parse_named_offsets(json).unwrap(), expected);
    }

    #[test]
    fn mistakes_in_offsets_are_named_with_their_place() {
        for (json, expected) in [
            ("{", "EOF while parsing an object at line 1 column 1"),
            ("[]", r#"expected offsets by table and partition"#),
            ("{}", "no table is named"),
            (r#"{"t":{}}"#, "no partition is named"),
            (
                r#"{"t":5}"#,
                "invalid type: integer `5`, expected offsets by partition",
            ),
            (
                r#"{"0":5}"#,
                "invalid type: integer `5`, expected offsets by partition",
            ),
            (
                r#"{"t":{"0":-3}}"#,
                "invalid value: integer `-3`, expected an offset, -2 for the first record, or -1 for the end",
            ),
            (r#"{"t":{"0":1.5}}"#, "floating point `1.5`"),
            (
                r#"{"t":{"0":"1"}}"#,
                r#"string "1", expected an offset, -2 for the first record, or -1 for the end at line 1"#,
            ),
            (r#"{"t":{"0":null}}"#, "null"),
            (
                r#"{"t":{"0":9223372036854775808}}"#,
                "integer `9223372036854775808`",
            ),
            (
                r#"{"t":{"x":1}}"#,
                r#"string "x", expected the number of a partition"#,
            ),
            (r#"{"t":{"-1":1}}"#, r#"string "-1""#),
            (r#"{"t":{"01":1}}"#, r#"string "01""#),
            (r#"{"t":{"+1":1}}"#, r#"string "+1""#),
            (r#"{"t":{"2147483648":1}}"#, r#"string "2147483648""#),
            (r#"{"t":{"0":1,"0":1}}"#, "partition 0 is named twice"),
            (r#"{"t":{"0":1},"t":{"1":1}}"#, "t is named twice"),
            (r#"{"t":{"0":1}} {"#, "trailing characters"),
        ] {
            let error = parse_named_offsets(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    fn start() -> impl Strategy<Value = NamedOffset> {
        prop_oneof![
            Just(NamedOffset::First),
            Just(NamedOffset::End),
            (0..i64::MAX).prop_map(NamedOffset::At),
            (0_i64..12).prop_map(NamedOffset::At),
        ]
    }

    /// The text of offsets, written by hand.
    fn written(offsets: &NamedOffsets) -> String {
        let mut json = "{".to_owned();
        for (index, (table, partitions)) in offsets.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(json, "{comma}\"{table}\": {{").unwrap();
            for (index, (partition, start)) in partitions.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                let number = start.number();
                write!(json, "{comma} \"{partition}\" : {number}").unwrap();
            }
            json.push('}');
        }
        json + "}"
    }

    #[test]
    fn an_argument_may_do_without_the_topic() {
        let places = |of: &[(i64, NamedOffset)]| of.iter().copied().collect::<PartitionPlaces>();
        for (json, expected) in [
            (
                r#"{"visits":{"0":23,"3000000000":-1}}"#,
                ArgumentOffsets::Topic(
                    "visits".to_owned(),
                    places(&[(0, NamedOffset::At(23)), (3_000_000_000, NamedOffset::End)]),
                ),
            ),
            (
                r#"{"t":{}}"#,
                ArgumentOffsets::Topic("t".to_owned(), places(&[])),
            ),
            (
                r#"{"1":-2}"#,
                ArgumentOffsets::Partitions(vec![("1".to_owned(), NamedOffset::First)]),
            ),
            ("{}", ArgumentOffsets::Partitions(vec![])),
            (r#"{"a":{},"b":{}}"#, ArgumentOffsets::Several),
            (r#"{"a":{"0":1},"0":1}"#, ArgumentOffsets::Several),
        ] {
            assert_eq!(parse_argument(json).unwrap(), expected, "{json}");
        }
        for (json, expected) in [
            (r#"{"0":1,"0":2}"#, "0 is named twice"),
            (r#"{"t":{"0":1,"0":2}}"#, "partition 0 is named twice"),
            (r#"{"t":{"01":1}}"#, r#"string "01""#),
            (r#"{"t":{"0":1.5}}"#, "floating point `1.5`"),
            (r#"{"t":[]}"#, "invalid type: sequence"),
        ] {
            let error = parse_argument(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            offsets in prop::collection::btree_map(
                "[a-z.]{1,6}",
                prop::collection::btree_map(0..i32::MAX, start(), 1..5),
                1..4,
            ),
        ) {
            let json = written(&offsets);
            prop_assert_eq!(parse_named_offsets(&json).unwrap(), offsets, "{}", json);
        }

        #[test]
        fn no_text_panics(text in ".*", near in r#"\{("(a|0)":(-?[0-9]{1,20}|\{("[01]":-?[0-9]{1,20},?)*\}),?)*\}"#) {
            let _ = parse_named_offsets(&text);
            let _ = parse_named_offsets(&near);
            let _ = parse_argument(&text);
            let _ = parse_argument(&near);
        }
    }
}
