//! A topic and the newest version of its archive, as of one look (ARCH-1, IDENT-1).

use std::collections::BTreeMap;

use crate::core::jobs::{Identity, PartitionEnds};
use crate::error::{Error, Result};
use crate::tables::archive::{CoveredArchive, JobArchive};
use crate::tables::kafka::KafkaJobSource;

/// So often topic and archive are looked at in a row.
const LOOKS: u32 = 8;

/// A topic and its archive, which is its past.
#[derive(Debug)]
pub(super) struct PinnedTopic {
    /// Which topic it is.
    pub(super) identity: Identity,
    /// Its ends after the archive was pinned.
    pub(super) ends: Vec<PartitionEnds>,
    /// The newest version.
    pub(super) archive: CoveredArchive,
}

/// Pins the newest version of the archive, if it is the past of the topic, which has this identity and has had the ends `before`; and the
/// topic's ends after that: they are behind all that the archive has. If the topic has lost records since `before`, they may have been
/// archived meanwhile: both are looked at again.
///
/// # Errors
///
/// One of them cannot be read; the archive is another topic's.
pub(super) async fn pin_newest(
    (topic, identity): (&KafkaJobSource, Identity),
    archive: &JobArchive,
    table: &str,
    before: &[PartitionEnds],
) -> Result<PinnedTopic> {
    let pinned = look((topic, identity), archive, table, before).await?;
    let PinnedTopic { ends, archive, .. } = &pinned;
    archive.check_ends(ends)?;
    let (mut last, mut found) = (BTreeMap::new(), BTreeMap::new());
    if let Some(parts) = archive.compared() {
        last = archive.last_in_topic(ends, parts).await?;
        let offsets = last.iter();
        let offsets = offsets.map(|(partition, mark)| (*partition, mark.offset));
        found = topic.marks_at(offsets.collect(), parts).await?;
    }
    archive.check_records(&last, &found)?;
    Ok(pinned)
}

async fn look(
    (topic, identity): (&KafkaJobSource, Identity),
    archive: &JobArchive,
    table: &str,
    before: &[PartitionEnds],
) -> Result<PinnedTopic> {
    let mut before = lows(before);
    for _ in 0..LOOKS {
        let archive = archive.pin(&identity).await?;
        let ends = topic.ends().await?;
        let now = lows(&ends);
        if now == before {
            return Ok(PinnedTopic {
                identity,
                ends,
                archive,
            });
        }
        before = now;
    }
    Err(Error::unavailable(format!(
        "retention removes records of the topic of {table} while its archive is looked at"
    )))
}

/// The first offset that each partition of the topic has.
fn lows(ends: &[PartitionEnds]) -> Vec<(i32, i64)> {
    let ends = ends.iter();
    ends.map(|ends| (ends.partition, ends.low)).collect()
}
