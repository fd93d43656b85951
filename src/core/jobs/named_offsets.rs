//! Places in the partitions of topics as a user writes them: Spark's JSON of `startingOffsets`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

pub use anabranch_udfs::NamedOffset;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Unexpected, Visitor};

/// Places by table and partition.
pub type NamedOffsets = BTreeMap<String, BTreeMap<i32, NamedOffset>>;

/// Reads Spark's JSON: `{"visits":{"0":23,"1":-2}}`.
///
/// # Errors
///
/// Text that is not JSON or of another shape; a name that occurs twice; an offset below -2. The error has the place in the text.
pub fn parse_named_offsets(json: &str) -> Result<NamedOffsets, serde_json::Error> {
    let tables: Members<String, Members<PartitionNumber, NamedOffset>> =
        serde_json::from_str(json)?;
    let of_table = |(table, partitions): (String, Members<PartitionNumber, NamedOffset>)| {
        let partitions = partitions.0.into_iter();
        let numbered = partitions.map(|(partition, start)| (partition.0, start));
        (table, numbered.collect())
    };
    Ok(tables.0.into_iter().map(of_table).collect())
}

/// The key of a JSON object.
trait Key: Ord + fmt::Display + for<'de> Deserialize<'de> {
    /// The object, in messages.
    const OBJECT: &'static str;
    /// The message for an empty object.
    const NONE: &'static str;
}

impl Key for String {
    const OBJECT: &'static str = r#"offsets by table and partition, such as {"visits":{"0":23}}"#;
    const NONE: &'static str = "no table is named";
}

/// The members of a JSON object: at least one, and none twice.
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
        match members.is_empty() {
            true => Err(A::Error::custom(K::NONE)),
            false => Ok(Members(members)),
        }
    }
}

/// The number of a partition, which is the key of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PartitionNumber(i32);

impl fmt::Display for PartitionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}", self.0)
    }
}

impl Key for PartitionNumber {
    const OBJECT: &'static str = r#"offsets by partition, such as {"0":23}"#;
    const NONE: &'static str = "no partition is named";
}

impl<'de> Deserialize<'de> for PartitionNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(PartitionVisitor)
    }
}

struct PartitionVisitor;

impl Visitor<'_> for PartitionVisitor {
    type Value = PartitionNumber;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"the number of a partition, such as "0""#)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        // A number has one spelling, so that none is named twice.
        let number = text.parse().ok().filter(|number: &i32| *number >= 0);
        match number.filter(|number| number.to_string() == text) {
            Some(number) => Ok(PartitionNumber(number)),
            None => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
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
        }
    }
}
