//! Claims of jobs as the log of a table has them: as application transactions, which last, and in the commit info of each commit, for
//! people and programs that read a log.
//!
//! A transaction has an id and a number, and the last number of an id counts. A covered range is the id
//! `anabranch/JOB/offsets/1/CLUSTER/TOPIC/TOPIC ID/PARTITION/FROM` with the offset after its last; skipped offsets are
//! `anabranch/JOB/lost/1/CLUSTER/TOPIC/TOPIC ID/PARTITION/FROM/BATCH/NAME`, alike. A range that is no longer claimed has its own first
//! offset as its number. The `1` is the number of the format: ids of other formats are left out. In parts `%` and `/` are written as
//! `%25` and `%2F`; a part that is not known is empty.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::core::archive::{JobClaims, LostRange, OffsetRange, PartitionClaims, PartitionKey};
use crate::core::jobs::Identity;

/// All ids begin with it.
pub(super) const PREFIX: &str = "anabranch/";

/// The field of an entry's commit info.
pub(super) const COMMIT_FIELD: &str = "anabranchOffsets";

/// The number of the format of ids, and of the commit info.
const FORMAT: u32 = 1;

const OFFSETS: &str = "offsets";
const LOST: &str = "lost";

/// Whether it is the id of a claim, of any job.
pub(super) fn is_claim(id: &str) -> bool {
    let of_job = id.strip_prefix(PREFIX);
    let kind = of_job.and_then(|rest| rest.split('/').nth(1));
    kind.is_some_and(|kind| kind == OFFSETS || kind == LOST)
}

/// The claims among transactions, by the id of the application that made them.
pub(super) fn claims_in(transactions: &HashMap<String, i64>) -> BTreeMap<String, JobClaims> {
    let mut found: BTreeMap<String, JobClaims> = BTreeMap::new();
    for (id, to) in transactions {
        let Some(claim) = parse(id, *to) else {
            continue;
        };
        let job = found.entry(claim.application).or_default();
        if claim.range.is_empty() {
            continue;
        }
        let claimed = job.partitions.entry(claim.key).or_default();
        match claim.lost {
            None => claimed.covered.insert(claim.range),
            Some((job, batch)) => {
                let range = claim.range;
                claimed.lost.push(LostRange { range, job, batch });
            }
        }
    }
    let jobs = found.values_mut();
    for claimed in jobs.flat_map(|job| job.partitions.values_mut()) {
        claimed.lost.sort();
    }
    found
}

/// The transactions by which the claims of an application become `now`, if the table has `before`.
pub(super) fn changes(
    application: &str,
    before: &JobClaims,
    now: &JobClaims,
) -> Vec<(String, i64)> {
    let (before, now) = (numbers(application, before), numbers(application, now));
    let gone = before.iter().filter(|(id, _)| !now.contains_key(*id));
    let gone = gone.map(|(id, (from, _))| (id.clone(), *from));
    let changed = now
        .iter()
        .filter(|(id, range)| before.get(*id) != Some(*range));
    let changed = changed.map(|(id, (_, to))| (id.clone(), *to));
    gone.chain(changed).collect()
}

/// The commit info of a commit of batch `batch` of a job, which adds these claims.
pub(super) fn commit_info(
    application: &str,
    job: &str,
    batch: u64,
    added: &JobClaims,
) -> serde_json::Value {
    let mut topics: Vec<TopicInfo> = Vec::new();
    for (key, claimed) in &added.partitions {
        let Identity::Topic { topic, cluster, id } = &key.topic else {
            continue;
        };
        let of_topic = TopicInfo {
            topic: topic.clone(),
            cluster: cluster.clone(),
            id: id.clone(),
            partitions: Vec::new(),
        };
        match topics.last() {
            Some(last) if last.is_same(&of_topic) => {}
            _ => topics.push(of_topic),
        }
        if let Some(last) = topics.last_mut() {
            last.partitions
                .push(PartitionInfo::of(key.partition, claimed));
        }
    }
    let info = CommitInfo {
        format: FORMAT,
        job: job.to_owned(),
        job_id: application
            .strip_prefix(PREFIX)
            .unwrap_or(application)
            .to_owned(),
        batch,
        topics,
    };
    serde_json::to_value(info).unwrap_or_default()
}

/// What a commit of a batch says of the offsets that it covers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CommitInfo {
    format: u32,
    /// The name of the job.
    job: String,
    job_id: String,
    batch: u64,
    topics: Vec<TopicInfo>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicInfo {
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    partitions: Vec<PartitionInfo>,
}

impl TopicInfo {
    fn is_same(&self, other: &Self) -> bool {
        (&self.topic, &self.cluster, &self.id) == (&other.topic, &other.cluster, &other.id)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PartitionInfo {
    partition: i32,
    /// Archived since the commit before it.
    covered: Vec<RangeInfo>,
    /// Skipped by `SKIPPING LOST`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<RangeInfo>,
}

impl PartitionInfo {
    fn of(partition: i32, claimed: &PartitionClaims) -> Self {
        let lost = claimed.lost.iter().map(|lost| lost.range.into());
        Self {
            partition,
            covered: claimed.covered.ranges().map(RangeInfo::from).collect(),
            lost: lost.collect(),
        }
    }
}

/// `from` is the first offset, `to` the one after the last.
#[derive(Serialize)]
struct RangeInfo {
    from: i64,
    to: i64,
}

impl From<OffsetRange> for RangeInfo {
    fn from(range: OffsetRange) -> Self {
        let OffsetRange { from, to } = range;
        Self { from, to }
    }
}

/// The claims with the ids of their transactions.
fn numbers(application: &str, claims: &JobClaims) -> BTreeMap<String, (i64, i64)> {
    let mut found = BTreeMap::new();
    for (key, claimed) in &claims.partitions {
        let Identity::Topic { topic, cluster, id } = &key.topic else {
            continue;
        };
        let [cluster, topic, id] = [cluster.as_deref(), Some(topic.as_str()), id.as_deref()]
            .map(|part| encoded(part.unwrap_or_default()));
        let partition = key.partition;
        let of_topic = |kind: &str, from: i64| {
            format!("{application}/{kind}/{FORMAT}/{cluster}/{topic}/{id}/{partition}/{from}")
        };
        for range in claimed.covered.ranges() {
            found.insert(of_topic(OFFSETS, range.from), (range.from, range.to));
        }
        for lost in &claimed.lost {
            let of_range = of_topic(LOST, lost.range.from);
            let id = format!("{of_range}/{}/{}", lost.batch, encoded(&lost.job));
            found.insert(id, (lost.range.from, lost.range.to));
        }
    }
    found
}

/// A transaction that is a claim.
struct Claim {
    application: String,
    key: PartitionKey,
    range: OffsetRange,
    /// The job and the batch that have skipped the range.
    lost: Option<(String, u64)>,
}

fn parse(id: &str, to: i64) -> Option<Claim> {
    let parts: Vec<&str> = id.strip_prefix(PREFIX)?.split('/').collect();
    let [
        job,
        kind,
        format,
        cluster,
        topic,
        topic_id,
        partition,
        from,
        rest @ ..,
    ] = &parts[..]
    else {
        return None;
    };
    if format.parse() != Ok(FORMAT) {
        return None;
    }
    let lost = match (*kind, rest) {
        (OFFSETS, []) => None,
        (LOST, [batch, name]) => Some((decoded(name), batch.parse().ok()?)),
        _ => return None,
    };
    let known = |part: &str| (!part.is_empty()).then(|| decoded(part));
    let topic = Identity::Topic {
        topic: decoded(topic),
        cluster: known(cluster),
        id: known(topic_id),
    };
    Some(Claim {
        application: format!("{PREFIX}{job}"),
        key: PartitionKey {
            topic,
            partition: partition.parse().ok()?,
        },
        range: OffsetRange::new(from.parse().ok()?, to),
        lost,
    })
}

fn encoded(part: &str) -> String {
    part.replace('%', "%25").replace('/', "%2F")
}

fn decoded(part: &str) -> String {
    part.replace("%2F", "/").replace("%25", "%")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const APPLICATION: &str = "anabranch/4be6";

    fn identity(topic: &str, cluster: Option<&str>, id: Option<&str>) -> Identity {
        Identity::Topic {
            topic: topic.to_owned(),
            cluster: cluster.map(str::to_owned),
            id: id.map(str::to_owned),
        }
    }

    fn claims(topic: Identity, covered: &[(i64, i64)], lost: &[(i64, i64)]) -> JobClaims {
        let range = |(from, to): &(i64, i64)| OffsetRange::new(*from, *to);
        let lost = lost.iter().map(|lost| LostRange {
            range: range(lost),
            job: "sync/50%".to_owned(),
            batch: 7,
        });
        let claimed = PartitionClaims {
            covered: covered.iter().map(range).collect(),
            lost: lost.collect(),
        };
        let key = PartitionKey {
            topic,
            partition: 2,
        };
        JobClaims {
            partitions: [(key, claimed)].into(),
        }
    }

    #[test]
    fn ids_stay_as_they_were_written() {
        let topic = identity("visits", Some("a/b"), Some("x%2F"));
        let all = claims(topic, &[(3, 10)], &[(10, 12)]);
        let written = changes(APPLICATION, &JobClaims::default(), &all);
        let expected = [
            (
                "anabranch/4be6/lost/1/a%2Fb/visits/x%252F/2/10/7/sync%2F50%25",
                12,
            ),
            ("anabranch/4be6/offsets/1/a%2Fb/visits/x%252F/2/3", 10),
        ];
        let expected = expected.map(|(id, to)| (id.to_owned(), to));
        assert_eq!(written, expected);
        assert!(written.iter().all(|(id, _)| is_claim(id)));
        let read = claims_in(&written.into_iter().collect());
        assert_eq!(read, [(APPLICATION.to_owned(), all)].into());
    }

    #[test]
    fn other_transactions_are_no_claims() {
        let others = [
            "anabranch/4be6",
            "anabranch/4be6/rows",
            "anabranch/4be6/rows/taken-back",
            "spark/4be6/offsets/1/c/t/i/0/3",
            "anabranch/4be6/offsets/2/c/t/i/0/3",
            "anabranch/4be6/offsets/1/c/t/i/zero/3",
            "anabranch/4be6/offsets/1/c/t/i/0",
            "anabranch/4be6/lost/1/c/t/i/0/3",
        ];
        let others: HashMap<String, i64> =
            others.into_iter().map(|id| (id.to_owned(), 9)).collect();
        assert_eq!(claims_in(&others), BTreeMap::new());
        assert!(!is_claim("anabranch/4be6/rows") && !is_claim("spark/a/offsets/1"));
    }

    #[test]
    fn the_commit_info_says_what_a_commit_adds() {
        let added = claims(identity("visits", None, Some("x")), &[(3, 10)], &[(10, 12)]);
        let expected = json!({
            "format": 1,
            "job": "sync",
            "jobId": "4be6",
            "batch": 7,
            "topics": [{
                "topic": "visits",
                "id": "x",
                "partitions": [{
                    "partition": 2,
                    "covered": [{"from": 3, "to": 10}],
                    "lost": [{"from": 10, "to": 12}],
                }],
            }],
        });
        assert_eq!(commit_info(APPLICATION, "sync", 7, &added), expected);
    }

    proptest! {
        /// The transactions of commits one after the other give the claims of the last one.
        #[test]
        fn the_last_claims_are_read_back(
            steps in prop::collection::vec(
                (prop::collection::vec((0_i64..30, 1_i64..9), 0..4), prop::option::of(0_i64..30)),
                1..8,
            ),
        ) {
            let mut known = JobClaims::default();
            let mut log = HashMap::new();
            for (covered, lost) in steps {
                let covered: Vec<(i64, i64)> = covered.iter().map(|(from, n)| (*from, from + n)).collect();
                let lost: Vec<(i64, i64)> = lost.iter().map(|from| (*from, from + 2)).collect();
                let mut now = claims(identity("t", Some("c"), None), &covered, &lost);
                now.partitions.retain(|_, claimed| !(claimed.covered.is_empty() && claimed.lost.is_empty()));
                let written = changes(APPLICATION, &known, &now);
                prop_assert_eq!(written.is_empty(), now == known);
                log.extend(written);
                known = now;
                let read = claims_in(&log).remove(APPLICATION).unwrap_or_default();
                prop_assert_eq!(&read, &known);
            }
        }
    }
}
