//! What batches have published, of which the versions may be swept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::format::{FORMAT, UnreadableFile, opened, parsed};
use super::parts::{IdentityFile, ProgressFile, by_key};
use crate::core::runs::{ClosedWindows, GivenOut, PublishedBatches, PublishedIndex};
use crate::error::Result;
use crate::store::checksum::seal;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedFile {
    format: u32,
    up_to: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sink: Option<IdentityFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    closed_by: BTreeMap<String, Option<i64>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    closed: Vec<ClosedFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    any_time: BTreeMap<i32, ProgressFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing: Option<GivenOutFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClosedFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<i64>,
    to: i64,
    offsets: BTreeMap<i32, ProgressFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum GivenOutFile {
    Closed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<i64>,
        to: i64,
    },
    AnyTime,
}

impl From<GivenOut> for GivenOutFile {
    fn from(of: GivenOut) -> Self {
        match of {
            GivenOut::Closed { from, to } => Self::Closed { from, to },
            GivenOut::AnyTime => Self::AnyTime,
        }
    }
}

impl From<GivenOutFile> for GivenOut {
    fn from(of: GivenOutFile) -> Self {
        match of {
            GivenOutFile::Closed { from, to } => Self::Closed { from, to },
            GivenOutFile::AnyTime => Self::AnyTime,
        }
    }
}

/// The file of what batches have published.
pub(in crate::store) fn published_bytes(of: &PublishedBatches) -> Result<Vec<u8>> {
    let closed = of.index.closed().cloned().map(|of| ClosedFile {
        from: of.from,
        to: of.to,
        offsets: by_key(of.offsets),
    });
    seal(&PublishedFile {
        format: FORMAT,
        up_to: of.up_to,
        sink: of.sink.clone().map(Into::into),
        closed_by: of.closed_by.clone(),
        closed: closed.collect(),
        any_time: by_key(of.index.any_time().clone()),
        missing: of.index.missing().map(Into::into),
    })
}

/// What batches have published, of such a file.
pub(in crate::store) fn read_published(bytes: &[u8]) -> Result<PublishedBatches, UnreadableFile> {
    let (json, format) = opened(bytes)?;
    let file: PublishedFile = parsed(&json, format)?;
    let closed = file.closed.into_iter().map(|of| ClosedWindows {
        from: of.from,
        to: of.to,
        offsets: by_key(of.offsets),
    });
    let any_time = by_key(file.any_time);
    let missing = file.missing.map(Into::into);
    Ok(PublishedBatches {
        index: PublishedIndex::of(closed, any_time, missing),
        sink: file.sink.map(Into::into),
        up_to: file.up_to,
        closed_by: file.closed_by,
    })
}

#[cfg(test)]
pub(in crate::store) mod tests {
    use super::*;
    use crate::core::jobs::{Identity, SourceProgress};

    pub(in crate::store) fn batches(up_to: u64) -> PublishedBatches {
        let offsets = |start, end| [(1, SourceProgress { start, end })].into();
        let mut index = PublishedIndex::default();
        for (from, to) in [(None, 7), (Some(7), 9_000_000_000)] {
            index.add(GivenOut::Closed { from, to }, &offsets(to, to + 5));
        }
        index.add(GivenOut::AnyTime, &offsets(1, 3));
        index.miss(GivenOut::Closed { from: None, to: -3 });
        PublishedBatches {
            index,
            sink: Some(Identity::Topic {
                topic: "t".into(),
                cluster: None,
                id: Some("1".into()),
            }),
            up_to,
            closed_by: [("0000000007-v".to_owned(), Some(9_000_000_000))].into(),
        }
    }

    #[test]
    fn what_was_published_reads_back() {
        let mut unknown = PublishedBatches::default();
        unknown.index.miss(GivenOut::AnyTime);
        for of in [batches(8), PublishedBatches::default(), unknown] {
            let bytes = published_bytes(&of).unwrap();
            assert_eq!(read_published(&bytes).unwrap(), of);
            for length in 0..bytes.len() {
                assert!(read_published(&bytes[..length]).is_err(), "{length}");
            }
        }
        let newer = br#"{"format":3}"#;
        assert_eq!(read_published(newer), Err(UnreadableFile::Newer(3)));
    }
}
