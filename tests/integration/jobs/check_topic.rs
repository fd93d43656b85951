//! `anabranch check --sink` with a topic as sink: it tells batches that would be lost from batches that would be
//! written again, and reports nothing for a job that is in order.

use std::time::{Duration, Instant};

use futures::executor::block_on;
use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, TopicPartitionList};
use serde_json::Value;

use super::Pipeline;
use crate::support::PATIENCE;
use crate::topics::admin;

impl Pipeline {
    /// The findings of `check`.
    fn findings(&self) -> Vec<Value> {
        let arguments = ["check", "doubling", "--sink", "--format", "ndjson"];
        let found = self.work.anabranch(&arguments);
        let rows = found.rows();
        assert_eq!(found.code, Some(i32::from(!rows.is_empty())), "{found:#?}");
        rows
    }

    /// The one finding, which is about the sink.
    #[track_caller]
    fn finding(&self, problem: &str, lost: &str, help: &str) {
        let found = self.findings();
        let [one] = &found[..] else {
            panic!("{found:#?}");
        };
        assert_eq!(one["job"], "doubling");
        assert_eq!(one["place"], "sink");
        for (name, words) in [("problem", problem), ("lost", lost), ("help", help)] {
            let said = one[name].as_str().unwrap();
            assert!(said.contains(words), "{name} without {words}: {one:#}");
        }
    }

    /// The group in which the job's transactions say which batch they are.
    fn group(&self) -> String {
        format!("anabranch-{}", self.id_of("doubling"))
    }

    fn member(&self) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", self.group())
            .set("enable.auto.commit", "false")
            .create()
            .unwrap()
    }

    /// The offsets of the job that its last transaction has committed.
    fn committed(&self) -> TopicPartitionList {
        let member = self.member();
        let began = Instant::now();
        loop {
            let mut asked = TopicPartitionList::new();
            asked.add_partition(&self.sink, 0);
            // A transaction that has just ended counts a moment later.
            match member.committed_offsets(asked, PATIENCE) {
                Ok(found) if found.elements().iter().all(|one| one.error().is_ok()) => {
                    return found;
                }
                other => assert!(began.elapsed() < PATIENCE, "{other:?}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_topic_with_each_batch_once_is_consistent() {
    let pipeline = Pipeline::between_topics("check-whole", 1);
    pipeline.send(0..9);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.findings(), [] as [Value; 0]);
    // The topic has a batch of which the log does not say so yet: the next runner sees it.
    pipeline.send(9..12);
    pipeline.crash("job.sql", "committed");
    assert_eq!(pipeline.findings(), [] as [Value; 0]);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.findings(), [] as [Value; 0]);
    // It has not got a batch that was never committed.
    pipeline.send(12..15);
    pipeline.crash("job.sql", "staged");
    assert_eq!(pipeline.findings(), [] as [Value; 0]);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.findings(), [] as [Value; 0]);
    let doubled: Vec<u64> = (0..15).map(|v| v * 2).collect();
    assert_eq!(pipeline.doubled(), doubled);
}

#[test]
fn duplicate_batches_in_a_topic_are_reported() {
    let pipeline = Pipeline::between_topics("check-twice", 1);
    pipeline.send(0..3);
    pipeline.catch_up("job.sql").ok();
    pipeline.keep("anabranch-data");
    pipeline.send(3..9);
    pipeline.catch_up("job.sql").ok();
    pipeline.put_back("anabranch-data");
    pipeline.finding(
        "the data directory is older than the sink",
        "the job would run batch 2 and those after it again",
        "restore the newer data directory",
    );
}

#[test]
fn missing_batches_in_a_topic_are_reported() {
    let pipeline = Pipeline::between_topics("check-lacks", 1);
    pipeline.send(0..3);
    pipeline.catch_up("job.sql").ok();
    let earlier = pipeline.committed();
    pipeline.send(3..9);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.findings(), [] as [Value; 0]);
    // So says a topic that was put back as it was after the first batch, with the offsets of that day.
    let member = pipeline.member();
    member.commit(&earlier, CommitMode::Sync).unwrap();
    pipeline.finding(
        "it does not have batch 2",
        "rows of batches 2 to 3",
        "REWIND JOB doubling TO BATCH 1",
    );
    // A topic with no offsets of the job's group is neither up to date nor behind.
    drop(member);
    let group = pipeline.group();
    let admin = admin(&pipeline.bootstrap);
    let patient = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let deleted = block_on(admin.delete_groups(&[&group], &patient)).unwrap();
    for result in deleted {
        result.unwrap();
    }
    pipeline.finding(
        "it does not say which batch of the job it has",
        "nothing, if the rows are there",
        "inspect it",
    );
}
