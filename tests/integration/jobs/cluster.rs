//! A cluster of three brokers under fire: brokers are stopped, killed and frozen, leaders move, and the process that runs the
//! jobs is killed, at random, for as long as `ANABRANCH_ENDURANCE` says (not without it). Kafka's own producer numbers the
//! records of each key, Kafka's own consumer reads what came out, and a checker that knows nothing of jobs compares the two.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::endurance::{Moments, duration};
use crate::support::{
    OwnBroker, Workspace, kafka_tool, produce_on, read_by_kafka, repository, topic,
};
use crate::topics::{create_replicated, leader_on};

const BROKERS: usize = 3;
const PARTITIONS: u32 = 3;
/// Enough that each partition has some.
const KEYS: u64 = 30;
/// Longer than any of the disturbances takes to heal.
const PATIENCE: Duration = Duration::from_secs(300);

/// The jobs, their tables, and the brokers they work on.
struct Cluster {
    brokers: OwnBroker,
    _alone: MutexGuard<'static, ()>,
    work: Workspace,
    source: String,
    copied: String,
    changed: String,
}

impl Cluster {
    /// Brokers of the test's own, which end with it; one test has some at a time.
    fn start() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            brokers: OwnBroker::start(&["--brokers", "3"]),
            _alone: alone,
            work: Workspace::new(),
            source: topic("fire-in"),
            copied: topic("fire-copied"),
            changed: topic("fire-changed"),
        }
    }

    /// The jobs, and the topics that they read and write.
    fn with_jobs() -> Self {
        let cluster = Self::start();
        for topic in [&cluster.source, &cluster.copied, &cluster.changed] {
            cluster.create(topic, PARTITIONS);
        }
        cluster.write_jobs();
        cluster
    }

    fn bootstrap(&self) -> &str {
        self.brokers.variable("KAFKA_BOOTSTRAP")
    }

    fn tool(&self, arguments: &[&str]) -> String {
        let (tool, rest) = arguments.split_first().unwrap();
        let mut all = vec![*tool, "--bootstrap-server", self.bootstrap()];
        all.extend(rest);
        kafka_tool(&all, "")
    }

    fn create(&self, topic: &str, partitions: u32) {
        let partitions = partitions.to_string();
        let mut arguments = vec!["kafka-topics", "--create", "--topic", topic];
        arguments.extend(["--partitions", &partitions]);
        let said = self.tool(&arguments);
        assert!(said.contains("Created topic"), "{said}");
    }

    /// Four jobs over one topic of seconds: row by row and by windows, to a topic and to a table. Two of them read from the
    /// replicas of one rack, which may be behind the leaders.
    fn write_jobs(&self) {
        let bootstrap = self.bootstrap();
        let kafka = |location: &str, options: &str| {
            format!(
                "STORED AS KAFKA LOCATION '{location}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', \
                 'connect.timeout' '5 seconds'{options});\n"
            )
        };
        let ticks = "(k VARCHAR METADATA FROM 'key', n BIGINT, t TIMESTAMP, \
                     WATERMARK FOR t AS t - INTERVAL '5 seconds') ";
        let never_idle = ", 'watermark.idle_after' '1 day'";
        let near = format!("{never_idle}, 'kafka.client.rack' 'rack-2'");
        let tables = [
            &format!("CREATE EXTERNAL TABLE ticks {ticks}"),
            &kafka(&self.source, never_idle),
            &format!("CREATE EXTERNAL TABLE near_ticks {ticks}"),
            &kafka(&self.source, &near),
            "CREATE EXTERNAL TABLE copied (k VARCHAR METADATA FROM 'key', n BIGINT) ",
            &kafka(&self.copied, ""),
            "CREATE EXTERNAL TABLE changed (k VARCHAR, s TIMESTAMP, n BIGINT, final BOOLEAN, \
             PRIMARY KEY (k, s) NOT ENFORCED) ",
            &kafka(&self.changed, ""),
            "CREATE EXTERNAL TABLE kept (k VARCHAR, n BIGINT) STORED AS DELTA LOCATION 'kept';\n",
            "CREATE EXTERNAL TABLE counts (k VARCHAR, s TIMESTAMP, n BIGINT, total BIGINT) \
             STORED AS DELTA LOCATION 'counts';\n",
        ];
        self.work.file("tables.sql", &tables.concat());
        let job = |name: &str, insert: &str| {
            format!(
                "CREATE JOB {name} WITH ('trigger' '20 milliseconds', 'batch.max_rows' '200') AS INSERT INTO {insert};\n"
            )
        };
        let windows = |table: &str| {
            format!(
                "FROM TUMBLE(TABLE {table}, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start"
            )
        };
        let jobs = [
            job("copying", "copied (k, n) SELECT k, n FROM near_ticks"),
            job("keeping", "kept SELECT k, n FROM ticks"),
            job(
                "changing",
                &format!(
                    "changed SELECT k, window_start, count(*), is_final() {} EMIT CHANGES",
                    windows("ticks")
                ),
            ),
            job(
                "counting",
                &format!(
                    "counts SELECT k, window_start, count(*), sum(n) {} EMIT ON WINDOW CLOSE",
                    windows("near_ticks")
                ),
            ),
        ];
        self.work.file("job.sql", &jobs.concat());
    }

    /// Runs the jobs in the background; what the process says goes to a file.
    fn run_jobs(&self) -> Child {
        let said = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.work.path("said"));
        self.jobs().stderr(said.unwrap()).spawn().unwrap()
    }

    fn jobs(&self) -> Command {
        let mut command = self.work.command();
        command.args(["run", "tables.sql", "job.sql"]);
        command
    }

    /// Waits until each partition has all its replicas: with one of three missing records are still taken, with two they are not.
    fn wait_until_healed(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let missing = self.tool(&[
                "kafka-topics",
                "--describe",
                "--under-replicated-partitions",
            ]);
            if !missing.contains("Partition:") {
                return;
            }
            assert!(Instant::now() < deadline, "not healed: {missing}");
        }
    }

    /// Rows of a query, as the program prints them.
    fn rows(&self, query: &str) -> Vec<serde_json::Value> {
        let rows = self.work.sql(&["tables.sql"], &[query]).ok();
        let lines = rows.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The records of a topic with their keys, in the order of each partition.
    fn records(&self, topic: &str) -> Vec<(String, serde_json::Value)> {
        let printed = read_by_kafka(self.bootstrap(), topic, &["print.key=true"]);
        let record = |line: &str| {
            let (key, value) = line.split_once('\t').unwrap();
            (key.to_owned(), serde_json::from_str(value).unwrap())
        };
        printed.lines().map(record).collect()
    }

    /// The numbers of each key, in the order in which a reader meets them.
    fn numbers(&self, topic: &str) -> HashMap<String, Vec<u64>> {
        let mut numbers: HashMap<String, Vec<u64>> = HashMap::new();
        for (key, value) in self.records(topic) {
            numbers
                .entry(key)
                .or_default()
                .push(value["n"].as_u64().unwrap());
        }
        numbers
    }
}

/// Kafka's own producer, which numbers nothing twice: it is idempotent and waits for brokers.
struct Producer {
    process: Child,
}

impl Producer {
    fn start(cluster: &Cluster) -> Self {
        let process = Command::new(repository().join("docker/kafka-cli"))
            .args(["kafka-console-producer", "--bootstrap-server"])
            .args([cluster.bootstrap(), "--topic", &cluster.source])
            .args(["--property", "parse.key=true"])
            .args(["--producer-property", "acks=all"])
            .args(["--producer-property", "enable.idempotence=true"])
            .args(["--producer-property", "delivery.timeout.ms=600000"])
            .args(["--producer-property", "max.block.ms=600000"])
            .args(["--producer-property", "linger.ms=5"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process }
    }

    /// One record of each key for each number; the number is the second of its event time.
    fn send(&mut self, numbers: std::ops::Range<u64>) {
        let mut lines = String::new();
        for n in numbers {
            let (hour, minute, second) = (n / 3_600, n / 60 % 60, n % 60);
            for k in 0..KEYS {
                lines.push_str(&format!(
                    "key-{k}\t{{\"n\":{n},\"t\":\"2025-01-01T{hour:02}:{minute:02}:{second:02}Z\"}}\n"
                ));
            }
        }
        let stdin = self.process.stdin.as_mut().unwrap();
        stdin.write_all(lines.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Waits until the brokers have all of it.
    fn finish(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

/// Disturbs one broker, and heals it.
fn disturb(cluster: &Cluster, moments: &mut Moments) -> &'static str {
    let number = usize::try_from(moments.below(BROKERS as u64)).unwrap() + 1;
    let pause = |moments: &mut Moments, most| {
        std::thread::sleep(Duration::from_millis(200 + moments.below(most)));
    };
    let broker = |action| cluster.brokers.control_broker(number, action);
    match moments.below(5) {
        0 => {
            broker("stop");
            pause(moments, 2_000);
            broker("start");
            "stopped"
        }
        1 => {
            broker("kill");
            pause(moments, 2_000);
            broker("start");
            "killed"
        }
        // At first without, then with a change of leaders: after 4 s the controller takes it for dead.
        2 => {
            broker("pause");
            pause(moments, 3_000);
            broker("continue");
            "frozen"
        }
        3 => {
            broker("pause");
            pause(moments, 9_000);
            broker("continue");
            "frozen for long"
        }
        // Leaders, also of the coordinators' topics, go back to where they belong.
        _ => {
            cluster.tool(&[
                "kafka-leader-election",
                "--election-type",
                "preferred",
                "--all-topic-partitions",
            ]);
            "elected"
        }
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a failed test shows it")]
fn exact_1_2_three_brokers_under_fire_lose_and_double_nothing() {
    if std::env::var_os("ANABRANCH_ENDURANCE").is_none() {
        eprintln!("not run: ANABRANCH_ENDURANCE says how long the brokers are disturbed");
        return;
    }
    let cluster = Cluster::with_jobs();
    let mut moments = Moments::new();
    let mut producer = Producer::start(&cluster);
    let mut running = cluster.run_jobs();
    let (mut sent, mut kills) = (0, 0);
    let mut disturbed: BTreeMap<&str, u32> = BTreeMap::new();
    let end = Instant::now() + duration();
    while Instant::now() < end {
        producer.send(sent..sent + 10);
        sent += 10;
        *disturbed
            .entry(disturb(&cluster, &mut moments))
            .or_default() += 1;
        producer.send(sent..sent + 10);
        sent += 10;
        if moments.below(2) == 0 {
            running.kill().unwrap();
            running.wait().unwrap();
            running = cluster.run_jobs();
            kills += 1;
        }
        cluster.wait_until_healed();
        if let Some(status) = running.try_wait().unwrap() {
            let said = std::fs::read_to_string(cluster.work.path("said")).unwrap();
            panic!("the jobs have ended, {status}: {said}");
        }
    }
    producer.finish();
    running.kill().unwrap();
    running.wait().unwrap();
    let caught_up = crate::support::Ran::of(cluster.jobs().arg("--until-caught-up"));
    eprintln!("{sent} records of each key, {kills} kills of the process, {disturbed:?}");
    caught_up.ok();

    // The topic itself has each record once: then it is the jobs that are tested.
    let all: Vec<u64> = (0..sent).collect();
    let is_whole = |what: &str, numbers: &HashMap<String, Vec<u64>>| {
        assert_eq!(numbers.len() as u64, KEYS, "{what}");
        for (key, numbers) in numbers {
            assert_eq!(numbers, &all, "{what}: {key}");
        }
    };
    is_whole("the source", &cluster.numbers(&cluster.source));
    is_whole("the topic", &cluster.numbers(&cluster.copied));

    let mut kept: HashMap<String, Vec<u64>> = HashMap::new();
    for row in cluster.rows("SELECT k, n FROM kept ORDER BY n") {
        let key = row["k"].as_str().unwrap().to_owned();
        kept.entry(key)
            .or_default()
            .push(row["n"].as_u64().unwrap());
    }
    is_whole("the Delta table", &kept);

    // Windows that the watermark of each partition has passed: every key has a record for each second.
    let closed = (sent - 1 - 5) / 10;
    let mut counts: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
    for row in cluster.rows("SELECT k, n, total FROM counts ORDER BY k, s") {
        let key = row["k"].as_str().unwrap().to_owned();
        let pair = (row["n"].as_u64().unwrap(), row["total"].as_u64().unwrap());
        counts.entry(key).or_default().push(pair);
    }
    let expected: Vec<(u64, u64)> = (0..closed)
        .map(|window| (10, (window * 10..window * 10 + 10).sum()))
        .collect();
    assert_eq!(counts.len() as u64, KEYS);
    for (key, counts) in &counts {
        assert_eq!(counts, &expected, "closed windows of {key}");
    }

    // A batch that touches a window finds more in it than the one before: what came twice would not grow.
    let mut said: BTreeMap<String, Vec<(u64, bool)>> = BTreeMap::new();
    for (key, value) in cluster.records(&cluster.changed) {
        let one = (
            value["n"].as_u64().unwrap(),
            value["final"].as_bool().unwrap(),
        );
        said.entry(key).or_default().push(one);
    }
    for (window, said) in &said {
        assert!(
            said.is_sorted_by(|one, next| one < next),
            "{window}: {said:?}"
        );
    }
    let finals = said
        .values()
        .filter(|said| said.last() == Some(&(10, true)));
    assert_eq!(finals.count() as u64, closed * KEYS);
}

/// A replica that was behind becomes the leader: records that a job has read are gone, and others may take their offsets.
#[test]
fn loss_1_a_leader_that_lacks_records_stops_the_job() {
    let cluster = Cluster::start();
    let source = topic("unclean");
    let bootstrap = cluster.bootstrap();
    // The leader is broker 1; broker 2 follows. Either may lead whatever it has.
    let settings = [
        ("min.insync.replicas", "1"),
        ("unclean.leader.election.enable", "true"),
    ];
    create_replicated(bootstrap, &source, &[1, 2], &settings);
    cluster.work.file(
        "unclean.sql",
        &format!(
            "CREATE EXTERNAL TABLE unclean (v VARCHAR) STORED AS KAFKA LOCATION '{source}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'format' 'raw', 'connect.timeout' '5 seconds');\n\
             CREATE EXTERNAL TABLE seen (v VARCHAR) STORED AS DELTA LOCATION 'seen';\n"
        ),
    );
    cluster.work.file(
        "see.sql",
        "CREATE JOB seeing AS INSERT INTO seen SELECT v FROM unclean;\n",
    );
    let send = |lines: &str| produce_on(bootstrap, &source, lines);
    let run = || {
        let arguments = ["run", "unclean.sql", "see.sql", "--until-caught-up"];
        cluster.work.anabranch(&arguments)
    };
    send("a\nb\nc\n");
    run().ok();
    // What comes now only the leader has, and it takes it once it no longer counts on broker 2.
    cluster.brokers.control_broker(2, "kill");
    send("d\ne\n");
    let ran = run().ok();
    assert!(ran.err.contains("2 records read"), "{}", ran.err);
    cluster.brokers.control_broker(1, "kill");
    cluster.brokers.control_broker(2, "start");
    let deadline = Instant::now() + PATIENCE;
    while leader_on(bootstrap, &source) != 2 {
        assert!(
            Instant::now() < deadline,
            "broker 2 does not become the leader"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let stopped = run();
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    assert!(
        stopped.err.contains("ends before offset 5"),
        "{}",
        stopped.err
    );
    let resumed = cluster.work.sql(&[], &["RESUME JOB seeing SKIPPING LOST"]);
    resumed.ok();
    send("f\n");
    run().ok();
    let rows = cluster
        .work
        .sql(&["unclean.sql"], &["SELECT v FROM seen ORDER BY v"]);
    let rows = rows.ok().out;
    let seen: Vec<&str> = rows.lines().collect();
    assert_eq!(seen.len(), 6, "{rows}");
    assert!(rows.contains("\"f\""), "{rows}");
}
