//! A place in a partition as Spark's JSON of offsets has it: a number, of which two have a meaning of their own.

use std::fmt;

use serde::de::{Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A place in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedOffset {
    /// The first record that the topic keeps, or its archive: -2 in Spark's JSON.
    First,
    /// Behind the last record: -1 in Spark's JSON.
    End,
    /// This offset.
    At(i64),
}

impl NamedOffset {
    /// The number that it is in Spark's JSON.
    pub fn number(self) -> i64 {
        match self {
            NamedOffset::First => -2,
            NamedOffset::End => -1,
            NamedOffset::At(offset) => offset,
        }
    }

    /// The place with this number; none if the number is below -2.
    pub fn of_number(number: i64) -> Option<Self> {
        match number {
            0.. => Some(NamedOffset::At(number)),
            -1 => Some(NamedOffset::End),
            -2 => Some(NamedOffset::First),
            _ => None,
        }
    }
}

impl Serialize for NamedOffset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.number())
    }
}

impl<'de> Deserialize<'de> for NamedOffset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(NamedOffsetVisitor)
    }
}

/// Reads a place from its number.
pub(super) struct NamedOffsetVisitor;

impl Visitor<'_> for NamedOffsetVisitor {
    type Value = NamedOffset;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an offset, -2 for the first record, or -1 for the end")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        let place = NamedOffset::of_number(number);
        place.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        match i64::try_from(number) {
            Ok(offset) => Ok(NamedOffset::At(offset)),
            Err(_) => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
        }
    }
}
