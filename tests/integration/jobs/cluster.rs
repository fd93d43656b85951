//! A cluster of three brokers under fire: brokers are stopped, killed and frozen, leaders, coordinators and replicas
//! move, a store hides writes that it has done, delays and refuses requests, and the processes that run the jobs are
//! killed, at random, for as long as `ANABRANCH_ENDURANCE` says (not without it). Kafka's own producer numbers the
//! records of each key, Kafka's own consumer reads the output, and a checker that knows nothing of jobs compares the
//! two.
//!
//! Without `S3_ENDPOINT` the test runs itself again under `docker/with-s3`.

mod brokers;
mod feeder;
mod processes;
mod under_fire;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use brokers::Cluster;
use feeder::{Feeder, KEYS};
use processes::Processes;
use under_fire::{JobsUnderFire, KINDS, ProxyCounts, ProxyFaults};

use super::endurance::{RandomMoments, duration};
use crate::support::{produce_on, topic};
use crate::topics::create_replicated;

#[test]
#[expect(clippy::print_stderr, reason = "a failed test shows it")]
fn exact_1_2_three_brokers_under_fire_lose_and_double_nothing() {
    if std::env::var_os("ANABRANCH_ENDURANCE").is_none() {
        eprintln!("not run: ANABRANCH_ENDURANCE says how long the brokers are disturbed");
        return;
    }
    let name = "jobs::cluster::exact_1_2_three_brokers_under_fire_lose_and_double_nothing";
    let Some((endpoint, bucket)) = crate::support::s3(name) else {
        return;
    };
    let fire = JobsUnderFire::start(&endpoint, &bucket);
    let mut moments = RandomMoments::new();
    let feeder = Feeder::start(&fire.cluster, &fire.source, moments.other());
    let mut processes = Processes::start(&fire);
    fire.wait_until_begun();
    let lies = ProxyFaults::begin(&fire.proxy, moments.other());
    let mut disturbed: BTreeMap<&str, u32> = BTreeMap::new();
    let first = moments.below(KINDS);
    let end = Instant::now() + duration();
    for round in 0.. {
        if Instant::now() >= end {
            break;
        }
        if round % 2 == 0 {
            let status = [503, 403][usize::from(round % 4 == 2)];
            lies.refuse(status, Duration::from_millis(1_000 + moments.below(7_000)));
        }
        // Each kind once, then as it comes.
        let kind = match round < KINDS {
            true => (first + round) % KINDS,
            false => moments.below(KINDS),
        };
        let done = fire.disturb(kind, &mut moments, &mut processes);
        *disturbed.entry(done).or_default() += 1;
        processes.strike(&mut moments);
        fire.cluster.wait_until_healed();
        processes.keep();
        assert!(feeder.goes_on(), "the producer has ended");
    }
    let sent = feeder.finish();
    let by_store = ProxyCounts::by(&fire.proxy);
    let (kills, failed_starts) = (processes.kills, processes.failed_starts);
    fire.proxy.pass();
    eprintln!(
        "{} records, {kills} kills of a process, {failed_starts} starts that the store refused, {disturbed:?}, \
         answers of the store: {by_store:?}",
        sent * KEYS
    );
    // Windows that the watermark of each partition has passed: every key has a record for each second.
    let closed = sent.saturating_sub(1 + 5) / 10;
    if duration() >= Duration::from_secs(60) {
        let ProxyCounts {
            hidden,
            delayed,
            refused,
        } = by_store;
        assert!(hidden > 0 && delayed > 0 && refused > 0, "the store lies");
        assert!(closed > 0, "{sent} seconds close windows");
    }
    processes.catch_up();

    // The topic itself has each record once: then it is the jobs that are tested.
    let all: Vec<u64> = (0..sent).collect();
    for (what, topic) in [("the source", &fire.source), ("the topic", &fire.copied)] {
        let records = fire.cluster.records(topic);
        let numbers = records
            .into_iter()
            .map(|(key, value)| (key, value["n"].as_u64().unwrap()));
        assert_whole(what, &by_key(numbers), &all);
    }
    for table in ["kept", "far_kept"] {
        let rows = fire.rows(&format!("SELECT k, n FROM {table} ORDER BY n"));
        let numbers = rows.iter().map(|row| (key_of(row), number(row, "n")));
        assert_whole(table, &by_key(numbers), &all);
    }

    let expected: Vec<(u64, u64)> = (0..closed)
        .map(|window| (10, (window * 10..window * 10 + 10).sum()))
        .collect();
    for table in ["counts", "far_counts"] {
        let rows = fire.rows(&format!("SELECT k, n, total FROM {table} ORDER BY k, s"));
        let windows = rows
            .iter()
            .map(|row| (key_of(row), (number(row, "n"), number(row, "total"))));
        assert_whole(table, &by_key(windows), &expected);
    }
    for topic in [&fire.changed, &fire.far_changed] {
        assert_changes(topic, fire.cluster.records(topic), closed);
    }
}

fn key_of(row: &serde_json::Value) -> String {
    row["k"].as_str().unwrap().to_owned()
}

fn number(row: &serde_json::Value, column: &str) -> u64 {
    row[column].as_u64().unwrap()
}

/// The values of each key, in the order in which a reader meets them.
fn by_key<T>(found: impl Iterator<Item = (String, T)>) -> HashMap<String, Vec<T>> {
    let mut all: HashMap<String, Vec<T>> = HashMap::new();
    for (key, one) in found {
        all.entry(key).or_default().push(one);
    }
    all
}

/// All keys have all that is expected, once, and in this order.
fn assert_whole<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &HashMap<String, Vec<T>>,
    expected: &[T],
) {
    let keys = if expected.is_empty() { 0 } else { KEYS };
    assert_eq!(found.len() as u64, keys, "{what}");
    for (key, all) in found {
        assert_eq!(all, expected, "{what}: {key}");
    }
}

/// Each batch that touches a window counts more rows in it than the batch before: an update written twice would not
/// grow.
fn assert_changes(what: &str, records: Vec<(String, serde_json::Value)>, closed: u64) {
    let mut said: BTreeMap<String, Vec<(u64, bool)>> = BTreeMap::new();
    for (key, value) in records {
        let one = (number(&value, "n"), value["final"].as_bool().unwrap());
        said.entry(key).or_default().push(one);
    }
    for (window, said) in &said {
        assert!(
            said.is_sorted_by(|one, next| one < next),
            "{what}: {window}: {said:?}"
        );
    }
    let finals = said
        .values()
        .filter(|said| said.last() == Some(&(10, true)));
    assert_eq!(finals.count() as u64, closed * KEYS, "{what}");
}

/// A replica that was behind becomes the leader: records that a job has read are gone, and others may take their offsets.
#[test]
fn loss_1_a_leader_that_lacks_records_stops_the_job() {
    let cluster = Cluster::start();
    let source = topic("unclean");
    let bootstrap = cluster.bootstrap();
    // The leader is broker 1; broker 2 follows. Either may become leader, also with a log that is behind.
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
    // Only the leader has the next records, and it accepts them once it no longer counts on broker 2.
    cluster.control(2, "kill");
    send("d\ne\n");
    let ran = run().ok();
    assert!(ran.err.contains("2 records read"), "{}", ran.err);
    cluster.control(1, "kill");
    cluster.control(2, "start");
    cluster.wait_until("broker 2 becomes the leader", |cluster| {
        cluster.leader(&source) == Some(2)
    });
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
