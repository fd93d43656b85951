//! Identity of the topic or table behind a source or sink (IDENT-1): a position belongs to the identity, never to a name in
//! SQL.

use std::collections::BTreeMap;
use std::fmt;

use super::progress::SourceProgress;

/// A topic or a table, so that another one of the same name is told from it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    /// A topic of Kafka.
    Topic {
        /// Its name.
        topic: String,
        /// The id of its cluster, if the brokers give one.
        cluster: Option<String>,
        /// The id that the cluster gave it when it was created, if the brokers give one.
        id: Option<String>,
    },
    /// A Delta table.
    DeltaTable {
        /// Its URL.
        location: String,
        /// The id in its metadata.
        id: String,
    },
}

/// How two identities compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityMatch {
    /// Both name the same topic or table.
    Same,
    /// They name different ones.
    Other,
    /// The ids that are present agree, but one is missing: the records that were read have to decide.
    Undecided,
}

impl Identity {
    /// Compares this identity with `now`, the present one.
    pub fn compare(&self, now: &Self) -> IdentityMatch {
        match (self, now) {
            (
                Self::Topic { topic, cluster, id },
                Self::Topic {
                    topic: topic_now,
                    cluster: cluster_now,
                    id: id_now,
                },
            ) => {
                let differ = |one: &Option<String>, other: &Option<String>| {
                    one.is_some() && other.is_some() && one != other
                };
                if topic != topic_now || differ(cluster, cluster_now) || differ(id, id_now) {
                    IdentityMatch::Other
                } else if id.is_some() && id_now.is_some() {
                    IdentityMatch::Same
                } else {
                    IdentityMatch::Undecided
                }
            }
            (Self::DeltaTable { .. }, Self::DeltaTable { .. }) if self == now => {
                IdentityMatch::Same
            }
            _ => IdentityMatch::Other,
        }
    }

    /// Whether both are certainly the same topic or table. The addresses of the brokers are not compared.
    pub fn is_certainly(&self, other: &Self) -> bool {
        match self.compare(other) {
            IdentityMatch::Same => true,
            IdentityMatch::Other => false,
            // Within one cluster the name of a topic is enough.
            IdentityMatch::Undecided => self.has_cluster() && other.has_cluster(),
        }
    }

    fn has_cluster(&self) -> bool {
        matches!(
            self,
            Self::Topic {
                cluster: Some(_),
                ..
            }
        )
    }

    /// Describes how `now` differs from this identity.
    pub fn difference(&self, now: &Self) -> String {
        let (what, is_same_place) = match (self, now) {
            (
                Self::Topic { topic, cluster, .. },
                Self::Topic {
                    topic: topic_now,
                    cluster: cluster_now,
                    ..
                },
            ) => (
                format!("topic '{topic}'"),
                topic == topic_now && (cluster == cluster_now || cluster_now.is_none()),
            ),
            (
                Self::DeltaTable { location, .. },
                Self::DeltaTable {
                    location: location_now,
                    ..
                },
            ) => (
                format!("Delta table '{location}'"),
                location == location_now,
            ),
            _ => (String::new(), false),
        };
        if is_same_place {
            let (was, is) = (self.id(), now.id());
            return format!("{what} was recreated: its id was {was} and is {is}");
        }
        format!("it was {self} and is {now}")
    }

    fn id(&self) -> &str {
        match self {
            Self::Topic { id, .. } => id.as_deref().unwrap_or("unknown"),
            Self::DeltaTable { id, .. } => id,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic { topic, cluster, .. } => {
                write!(f, "topic '{topic}' (id {}", self.id())?;
                if let Some(cluster) = cluster {
                    write!(f, ", cluster {cluster}")?;
                }
                f.write_str(")")
            }
            Self::DeltaTable { location, id } => write!(f, "Delta table '{location}' (id {id})"),
        }
    }
}

/// The last record that a job has read from a partition: a log that has another one there is not the log that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMark {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds since 1970 UTC.
    pub timestamp: Option<i64>,
    /// [`Self::checksum_of`] its key and value.
    pub checksum: u64,
}

impl RecordMark {
    /// A checksum of a record: FNV-1a, 64 bits, over key and value with their lengths. It is stored and must not change.
    pub fn checksum_of(key: Option<&[u8]>, value: Option<&[u8]>) -> u64 {
        const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let take = |hash: u64, bytes: &[u8]| {
            bytes.iter().fold(hash, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
            })
        };
        [key, value].into_iter().fold(BASIS, |hash, part| {
            let length = part.map_or(u64::MAX, |bytes| bytes.len() as u64);
            take(take(hash, &length.to_le_bytes()), part.unwrap_or_default())
        })
    }
}

/// What a job that stopped has told of its sources and its sink. The statement that resumes it means this and no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportedChange {
    /// Offsets that are gone, by table and partition: from where the job stands to where it could go on.
    pub lost: BTreeMap<String, BTreeMap<i32, SourceProgress>>,
    /// Tables that are others than the job has read or written: what they are now.
    pub others: BTreeMap<String, Identity>,
}

/// What the user says of a source or a sink that is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedChange {
    /// The identity that the user accepts; the decision does not cover any other one.
    pub identity: Identity,
    /// True if it has the same records at the same offsets, or the same rows; false if it is a new topic or table.
    pub is_moved: bool,
}

/// How a source or sink relates to the one that the job's last version names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityStatus {
    /// The version does not store an identity.
    NotStored,
    /// The same.
    Same,
    /// The ids do not decide: it may be the same.
    Undecided,
    /// Another one, and the user has accepted it as new: stored positions do not apply.
    New,
    /// Another one, and the user has accepted it as a copy with the same content.
    Moved,
    /// Another one, which the user has not accepted.
    Other,
}

/// Compares the present identity `now` with the `stored` one of the job's last version.
pub fn identity_status(
    stored: Option<&Identity>,
    now: &Identity,
    accepted: Option<&AcceptedChange>,
) -> IdentityStatus {
    if let Some(accepted) = accepted
        && accepted.identity.compare(now) != IdentityMatch::Other
    {
        return match accepted.is_moved {
            true => IdentityStatus::Moved,
            false => IdentityStatus::New,
        };
    }
    match stored.map(|stored| stored.compare(now)) {
        None => IdentityStatus::NotStored,
        Some(IdentityMatch::Same) => IdentityStatus::Same,
        Some(IdentityMatch::Undecided) => IdentityStatus::Undecided,
        Some(IdentityMatch::Other) => IdentityStatus::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, cluster: Option<&str>, id: Option<&str>) -> Identity {
        Identity::Topic {
            topic: name.to_owned(),
            cluster: cluster.map(str::to_owned),
            id: id.map(str::to_owned),
        }
    }

    fn table(location: &str, id: &str) -> Identity {
        Identity::DeltaTable {
            location: location.to_owned(),
            id: id.to_owned(),
        }
    }

    #[test]
    fn ident_1_equal_names_are_not_the_same_identity() {
        let one = topic("t", Some("c"), Some("1"));
        assert_eq!(one.compare(&one), IdentityMatch::Same);
        for other in [
            topic("t", Some("c"), Some("2")),
            topic("t", Some("d"), Some("1")),
            topic("u", Some("c"), Some("1")),
            topic("u", None, None),
            table("t", "1"),
        ] {
            assert_eq!(one.compare(&other), IdentityMatch::Other, "{other}");
            assert_eq!(other.compare(&one), IdentityMatch::Other, "{other}");
        }
        // If a broker gives no ids, the identities are undecided.
        for untold in [topic("t", Some("c"), None), topic("t", None, None)] {
            assert_eq!(one.compare(&untold), IdentityMatch::Undecided);
            assert_eq!(untold.compare(&untold), IdentityMatch::Undecided);
        }
        let lake = table("file:///a/", "1");
        assert_eq!(lake.compare(&lake), IdentityMatch::Same);
        assert_eq!(
            lake.compare(&table("file:///a/", "2")),
            IdentityMatch::Other
        );
        assert_eq!(
            lake.compare(&table("file:///b/", "1")),
            IdentityMatch::Other
        );
    }

    #[test]
    fn one_topic_has_the_same_identity_by_any_broker_address() {
        let one = topic("t", Some("c"), Some("1"));
        for (other, is_one) in [
            (one.clone(), true),
            (topic("t", Some("c"), None), true),
            (topic("t", None, Some("1")), true),
            (topic("t", Some("c"), Some("2")), false),
            (topic("t", Some("d"), Some("1")), false),
            (topic("u", Some("c"), Some("1")), false),
            (topic("t", None, None), false),
            (table("t", "1"), false),
        ] {
            assert_eq!(one.is_certainly(&other), is_one, "{other}");
            assert_eq!(other.is_certainly(&one), is_one, "{other}");
        }
        let lake = table("file:///a/", "1");
        assert!(lake.is_certainly(&lake));
        // A copy of a table has its id.
        assert!(!lake.is_certainly(&table("file:///b/", "1")));
    }

    #[test]
    fn ident_1_only_the_reported_identity_can_be_accepted() {
        let (was, is, later) = (
            topic("t", None, Some("1")),
            topic("t", None, Some("2")),
            topic("t", None, Some("3")),
        );
        let accepted = |is_moved| AcceptedChange {
            identity: is.clone(),
            is_moved,
        };
        assert_eq!(
            identity_status(Some(&was), &was, None),
            IdentityStatus::Same
        );
        assert_eq!(
            identity_status(Some(&was), &is, None),
            IdentityStatus::Other
        );
        assert_eq!(identity_status(None, &is, None), IdentityStatus::NotStored);
        let new = accepted(false);
        assert_eq!(
            identity_status(Some(&was), &is, Some(&new)),
            IdentityStatus::New
        );
        let moved = accepted(true);
        assert_eq!(
            identity_status(Some(&was), &is, Some(&moved)),
            IdentityStatus::Moved
        );
        assert_eq!(
            identity_status(Some(&was), &later, Some(&new)),
            IdentityStatus::Other
        );
        assert_eq!(
            identity_status(Some(&was), &was, Some(&new)),
            IdentityStatus::Same
        );
    }

    #[test]
    fn an_identity_difference_shows_old_and_new() {
        let (was, is) = (
            topic("t", Some("c"), Some("1")),
            topic("t", Some("c"), Some("2")),
        );
        assert_eq!(
            was.difference(&is),
            "topic 't' was recreated: its id was 1 and is 2"
        );
        assert_eq!(
            was.difference(&table("file:///a/", "x")),
            "it was topic 't' (id 1, cluster c) and is Delta table 'file:///a/' (id x)"
        );
    }

    #[test]
    fn a_checksum_distinguishes_key_value_null_and_empty() {
        let sums = [
            RecordMark::checksum_of(None, None),
            RecordMark::checksum_of(Some(b""), None),
            RecordMark::checksum_of(None, Some(b"")),
            RecordMark::checksum_of(Some(b"a"), Some(b"b")),
            RecordMark::checksum_of(Some(b"ab"), Some(b"")),
            RecordMark::checksum_of(Some(b"b"), Some(b"a")),
        ];
        let different: std::collections::BTreeSet<u64> = sums.into_iter().collect();
        assert_eq!(different.len(), sums.len());
        // It is stored: another release must find the same.
        assert_eq!(sums[3], 0x41c8_0da7_2d0a_ec94);
    }
}
