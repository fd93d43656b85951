//! Three brokers of the tests' own: the state of their partitions, and how a test moves replicas.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::metadata::MetadataPartition;

use crate::support::{TestBroker, Workspace, kafka_tool, read_by_kafka};
use crate::topics::{admin, create_topic_of};

pub(super) const BROKERS: usize = 3;
/// Longer than any of the disturbances takes to heal.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long one broker is waited for: of one that is frozen no answer comes, and another is asked.
const ANSWER: Duration = Duration::from_secs(3);
/// Between two looks at the cluster.
const PAUSE: Duration = Duration::from_millis(300);

/// A partition, and the brokers that have it.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    pub(super) topic: String,
    number: i32,
    /// There is none while another is being elected.
    pub(super) leader: Option<i32>,
    pub(super) replicas: Vec<i32>,
    /// How many of the replicas are in sync.
    in_sync: usize,
}

impl Partition {
    fn new(topic: &str, found: &MetadataPartition) -> Self {
        Self {
            topic: topic.to_owned(),
            number: found.id(),
            leader: (found.leader() >= 0).then(|| found.leader()),
            replicas: found.replicas().to_vec(),
            in_sync: found.isr().len(),
        }
    }

    fn is_whole(&self) -> bool {
        self.leader.is_some() && self.in_sync == self.replicas.len()
    }
}

/// The brokers, and a folder for the processes that use them.
pub(super) struct Cluster {
    brokers: TestBroker,
    _alone: MutexGuard<'static, ()>,
    pub(super) work: Workspace,
    admin: AdminClient<DefaultClientContext>,
}

impl Cluster {
    /// Brokers of the test's own, which end with it; one test has some at a time.
    pub(super) fn start() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let brokers = TestBroker::start(&["--brokers", "3"]);
        let admin = admin(brokers.variable("KAFKA_BOOTSTRAP"));
        Self {
            brokers,
            _alone: alone,
            work: Workspace::new(),
            admin,
        }
    }

    pub(super) fn bootstrap(&self) -> &str {
        self.brokers.variable("KAFKA_BOOTSTRAP")
    }

    /// `stop`, `start`, `kill`, `pause` or `continue` of one broker.
    pub(super) fn control(&self, broker: i32, action: &str) {
        let number = usize::try_from(broker).unwrap();
        self.brokers.control_broker(number, action);
    }

    /// One of Kafka's own tools.
    pub(super) fn tool(&self, arguments: &[&str]) -> String {
        let (tool, rest) = arguments.split_first().unwrap();
        let mut all = vec![*tool, "--bootstrap-server", self.bootstrap()];
        all.extend(rest);
        kafka_tool(&all, "")
    }

    /// Creates topics that each broker has a replica of.
    pub(super) fn create(&self, topics: &[&str], partitions: u32) {
        let everywhere = i32::try_from(BROKERS).unwrap();
        for topic in topics {
            create_topic_of(self.bootstrap(), topic, partitions, everywhere);
        }
    }

    /// How many brokers there are, and all partitions, as one of them says.
    fn look(&self) -> (usize, Vec<Partition>) {
        let deadline = Instant::now() + PATIENCE;
        let metadata = loop {
            match self.admin.inner().fetch_metadata(None, ANSWER) {
                Ok(metadata) => break metadata,
                Err(error) => assert!(Instant::now() < deadline, "no broker answers: {error}"),
            }
            std::thread::sleep(PAUSE);
        };
        let partitions = metadata.topics().iter().flat_map(|topic| {
            let found = topic.partitions().iter();
            found.map(move |partition| Partition::new(topic.name(), partition))
        });
        (metadata.brokers().len(), partitions.collect())
    }

    /// The partitions of topics with these names.
    pub(super) fn partitions(&self, topics: &[&str]) -> Vec<Partition> {
        let (_, mut partitions) = self.look();
        partitions.retain(|partition| topics.contains(&partition.topic.as_str()));
        partitions
    }

    /// The leader of the first partition of a topic.
    pub(super) fn leader(&self, topic: &str) -> Option<i32> {
        let partitions = self.partitions(&[topic]);
        let first = partitions.iter().find(|partition| partition.number == 0);
        first.and_then(|partition| partition.leader)
    }

    /// Polls until `done` is true.
    pub(super) fn wait_until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "it never came: {what}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until each partition has all its replicas: with one of three missing records are still taken, with two they are not.
    pub(super) fn wait_until_healed(&self) {
        // A broker that has just restarted answers with old metadata. Three good answers in a row count, which may be from
        // different brokers.
        const TIMES: u32 = 3;
        let mut healed = 0;
        self.wait_until("all replicas are in sync", |cluster| {
            let (brokers, partitions) = cluster.look();
            let is_healed = brokers == BROKERS && partitions.iter().all(Partition::is_whole);
            healed = if is_healed { healed + 1 } else { 0 };
            healed == TIMES
        });
    }

    /// The broker that coordinates the transactions of an id, if there is one at the moment.
    pub(super) fn coordinator(&self, transactional_id: &str) -> Option<i32> {
        let partitions = self.partitions(&["__transaction_state"]);
        // The id's hash in Java says which partition keeps its transactions, and the partition's leader is the coordinator.
        let hash = transactional_id.encode_utf16().fold(0_i32, |hash, unit| {
            hash.wrapping_mul(31).wrapping_add(i32::from(unit))
        });
        let count = i32::try_from(partitions.len()).unwrap();
        let number = hash.checked_abs().unwrap_or(0).checked_rem(count)?;
        let found = partitions
            .iter()
            .find(|partition| partition.number == number);
        found.and_then(|partition| partition.leader)
    }

    /// The same, as Kafka's own tool tells it.
    pub(super) fn told_coordinator(&self, transactional_id: &str) -> Option<i32> {
        let told = self.tool(&[
            "kafka-transactions",
            "describe",
            "--transactional-id",
            transactional_id,
        ]);
        // The coordinator is in the first column of the line below the headers.
        let coordinator = told.lines().nth(1)?.split_whitespace().next()?;
        coordinator.parse().ok()
    }

    /// Moves these partitions to the brokers that they name, and waits until they are there.
    pub(super) fn reassign(&self, partitions: &[Partition]) {
        let wanted: Vec<serde_json::Value> = partitions
            .iter()
            .map(|partition| {
                serde_json::json!({
                    "topic": partition.topic,
                    "partition": partition.number,
                    "replicas": partition.replicas,
                })
            })
            .collect();
        let wanted = serde_json::json!({"version": 1, "partitions": wanted});
        let file = self.work.path("replicas.json");
        std::fs::write(&file, wanted.to_string()).unwrap();
        let file = file.display().to_string();
        let said = self.tool(&[
            "kafka-reassign-partitions",
            "--reassignment-json-file",
            &file,
            "--execute",
        ]);
        assert!(said.contains("Successfully started"), "{said}");
        let topics: Vec<&str> = partitions
            .iter()
            .map(|partition| partition.topic.as_str())
            .collect();
        self.wait_until("the replicas are where they shall be", |cluster| {
            let all = cluster.partitions(&topics);
            let is_there = |wanted: &Partition| {
                all.iter().any(|found| {
                    (&found.topic, found.number) == (&wanted.topic, wanted.number)
                        && sorted(&found.replicas) == sorted(&wanted.replicas)
                        && found.is_whole()
                })
            };
            partitions.iter().all(is_there)
        });
    }

    /// The records of a topic with their keys, in the order of each partition.
    pub(super) fn records(&self, topic: &str) -> Vec<(String, serde_json::Value)> {
        let printed = read_by_kafka(self.bootstrap(), topic, &["print.key=true"]);
        let record = |line: &str| {
            let (key, value) = line.split_once('\t').unwrap();
            (key.to_owned(), serde_json::from_str(value).unwrap())
        };
        printed.lines().map(record).collect()
    }
}

fn sorted(brokers: &[i32]) -> Vec<i32> {
    let mut brokers = brokers.to_vec();
    brokers.sort_unstable();
    brokers
}
