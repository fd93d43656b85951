//! Two processes that run the same jobs and are killed at random moments, for as long as `ANABRANCH_ENDURANCE` says: `30s`,
//! `10m`. The moments come from a seed, which is told and which `ANABRANCH_SEED` gives.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use super::Pipeline;
use crate::support::topic;

/// How long without the variable.
const SHORT: Duration = Duration::from_secs(10);

const TICKS_EACH: u64 = 40;

/// Four jobs over one topic of seconds: row by row and by windows, to a topic and to a table.
fn jobs(name: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 1);
    let (bootstrap, source, sink) = (&pipeline.bootstrap, &pipeline.source, &pipeline.sink);
    let changed = topic(&format!("{name}-changed"));
    let kafka = |location: &str, options: &str| {
        format!(
            "STORED AS KAFKA LOCATION '{location}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}'{options});\n"
        )
    };
    let one = ", 'topic.partitions' '1'";
    pipeline.work.file(
        "tables.sql",
        &[
            "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, v BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds') ",
            &kafka(source, ", 'watermark.idle_after' '1 hour'"),
            "CREATE EXTERNAL TABLE doubled (v BIGINT) ",
            &kafka(sink, one),
            "CREATE EXTERNAL TABLE changed (k BIGINT, s TIMESTAMP, n BIGINT, final BOOLEAN, o BIGINT METADATA FROM 'offset', \
             PRIMARY KEY (k, s) NOT ENFORCED) ",
            &kafka(&changed, one),
            "CREATE EXTERNAL TABLE kept (v BIGINT) STORED AS DELTA LOCATION 'kept';\n",
            "CREATE EXTERNAL TABLE counts (k BIGINT, s TIMESTAMP, n BIGINT) STORED AS DELTA LOCATION 'counts';\n",
        ]
        .concat(),
    );
    let windows =
        "FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start";
    let job = |name: &str, insert: &str| {
        format!(
            "CREATE JOB {name} WITH ('trigger' '10 milliseconds', 'batch.max_rows' '5') AS INSERT INTO {insert};\n"
        )
    };
    pipeline.work.file(
        "job.sql",
        &[
            job("doubling", "doubled SELECT v * 2 FROM ticks"),
            job("keeping", "kept SELECT v FROM ticks"),
            job(
                "changing",
                &format!(
                    "changed SELECT k, window_start, count(*), is_final() {windows} EMIT CHANGES"
                ),
            ),
            job(
                "counting",
                &format!("counts SELECT k, window_start, count(*) {windows} EMIT ON WINDOW CLOSE"),
            ),
        ]
        .concat(),
    );
    pipeline
}

/// How long a test of endurance goes on.
pub(super) fn duration() -> Duration {
    let Ok(text) = std::env::var("ANABRANCH_ENDURANCE") else {
        return SHORT;
    };
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().expect("a number of s, m or h");
    Duration::from_secs(match unit {
        "s" => number,
        "m" => number * 60,
        "h" => number * 3_600,
        _ => panic!("ANABRANCH_ENDURANCE is a number of s, m or h, not {text}"),
    })
}

/// Moments from a seed: xorshift, by Marsaglia.
pub(super) struct RandomMoments(u64);

impl RandomMoments {
    #[expect(clippy::print_stderr, reason = "a failed test shows it")]
    pub(super) fn new() -> Self {
        let given = std::env::var("ANABRANCH_SEED").ok();
        let seed = given.map_or_else(
            || {
                let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
                u64::try_from(since.as_nanos() % (1 << 40)).unwrap()
            },
            |seed| seed.parse().unwrap(),
        );
        eprintln!("ANABRANCH_SEED={seed} kills at these moments again");
        Self(seed | 1)
    }

    /// Moments for another thread, from the same seed.
    pub(super) fn other(&mut self) -> Self {
        Self(self.below(u64::MAX) | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

impl Pipeline {
    fn second(&self, seconds: std::ops::Range<u64>) {
        let line = |n: u64| {
            let (hour, minute, second) = (n / 3_600, n / 60 % 60, n % 60);
            let k = n % 2;
            format!(
                "{{\"k\":{k},\"t\":\"2025-01-01T{hour:02}:{minute:02}:{second:02}Z\",\"v\":{n}}}\n"
            )
        };
        self.produce(&seconds.map(line).collect::<String>());
    }

    pub(super) fn rows(&self, query: &str) -> Vec<serde_json::Value> {
        self.work.sql(&["tables.sql"], &[query]).ok().rows()
    }
}

/// Starts processes that have ended, because the other one took their jobs or because they were killed.
fn keep_running(pipeline: &Pipeline, processes: &mut [Option<Child>; 2]) {
    for process in processes {
        let has_ended = match process {
            Some(running) => running.try_wait().unwrap().is_some(),
            None => true,
        };
        if has_ended {
            *process = Some(pipeline.start("job.sql"));
        }
    }
}

fn kill(process: &mut Option<Child>) {
    if let Some(mut running) = process.take() {
        running.kill().unwrap();
        running.wait().unwrap();
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a failed test shows it")]
fn exact_1_2_two_processes_fight_and_are_killed_at_random() {
    let pipeline = jobs("endurance");
    let mut moments = RandomMoments::new();
    let mut processes = [None, None];
    let (mut sent, mut kills) = (0, 0);
    let end = Instant::now() + duration();
    while Instant::now() < end {
        pipeline.second(sent..sent + TICKS_EACH);
        sent += TICKS_EACH;
        for _ in 0..3 {
            keep_running(&pipeline, &mut processes);
            std::thread::sleep(Duration::from_millis(100 + moments.below(900)));
            let victim = usize::try_from(moments.below(2)).unwrap();
            kill(&mut processes[victim]);
            kills += 1;
        }
    }
    processes.iter_mut().for_each(kill);
    pipeline.catch_up("job.sql").ok();
    eprintln!("{sent} records, {kills} kills");

    let all: Vec<u64> = (0..sent).collect();
    let doubled: Vec<u64> = all.iter().map(|v| v * 2).collect();
    assert_eq!(pipeline.doubled(), doubled, "the topic");
    let others = pipeline.doubled_for_others();
    assert_eq!(others, doubled, "the topic, by Kafka's own consumer");
    assert_eq!(pipeline.kept(), all, "the Delta table");

    let closed = (sent - 1 - 5) / 10;
    let counts = pipeline.rows("SELECT n, count(*) AS times FROM (SELECT k, s, sum(n) AS n, count(*) FROM counts GROUP BY k, s) GROUP BY n");
    assert_eq!(
        counts.len(),
        1,
        "each window has the same count: {counts:?}"
    );
    assert_eq!(counts[0]["n"], 5);
    assert_eq!(counts[0]["times"], closed * 2, "windows of two keys");
    let rows = pipeline.rows("SELECT count(*) AS n FROM counts");
    assert_eq!(rows[0]["n"], closed * 2, "each once");

    // Each batch that touches a window counts more rows in it than the batch before: an update written twice would not
    // grow.
    let changed =
        pipeline.rows("SELECT k, CAST(s AS VARCHAR) AS s, n, final FROM changed ORDER BY o");
    let mut windows: BTreeMap<(i64, String), Vec<(i64, bool)>> = BTreeMap::new();
    for row in changed {
        let window = (
            row["k"].as_i64().unwrap(),
            row["s"].as_str().unwrap().to_owned(),
        );
        let said = (row["n"].as_i64().unwrap(), row["final"].as_bool().unwrap());
        windows.entry(window).or_default().push(said);
    }
    for (window, said) in &windows {
        assert!(
            said.is_sorted_by(|one, next| one < next),
            "{window:?}: {said:?}"
        );
        assert!(
            said.iter().filter(|(_, is_final)| *is_final).count() <= 1,
            "{window:?}: {said:?}"
        );
    }
    let finals = windows
        .values()
        .filter(|said| said.last() == Some(&(5, true)));
    assert_eq!(u64::try_from(finals.count()).unwrap(), closed * 2);
}
