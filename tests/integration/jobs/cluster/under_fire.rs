//! The system under fire: topics, a store behind a proxy that lies, and the jobs over them; and the faults that are
//! injected.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::brokers::{BROKERS, Cluster, Partition};
use super::processes::Processes;
use crate::jobs::endurance::RandomMoments;
use crate::proxy::{Proxy, RequestFate};
use crate::support::topic;

const PARTITIONS: u32 = 3;
/// How many kinds of disturbances there are.
pub(super) const KINDS: u64 = 7;
/// The jobs to topics of the first process.
const TO_TOPICS: [&str; 2] = ["copying", "changing"];

/// How a broker goes down and comes up again, about the most milliseconds that it is down, and the name of that fault.
const WAYS: [(&str, &str, u64, &str); 4] = [
    ("stop", "start", 2_000, "stopped"),
    ("kill", "start", 2_000, "killed"),
    // At first without, then with a change of leaders: after 4 s the controller takes it for dead.
    ("pause", "continue", 3_000, "frozen"),
    ("pause", "continue", 9_000, "frozen for long"),
];

/// The data directories of the jobs: each has jobs of its own, which a process of its own runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobLocation {
    Folder,
    /// Behind the proxy, as the Delta tables are that the jobs of this place write.
    Store,
}

/// The jobs, their tables, and the brokers and the store that they work on.
pub(super) struct JobsUnderFire {
    pub(super) cluster: Cluster,
    /// Before the store.
    pub(super) proxy: Proxy,
    bucket: String,
    /// A folder of the bucket.
    folder: String,
    pub(super) source: String,
    pub(super) copied: String,
    pub(super) changed: String,
    pub(super) far_changed: String,
}

impl JobsUnderFire {
    /// `endpoint` and `bucket` are those of the store.
    pub(super) fn start(endpoint: &str, bucket: &str) -> Self {
        let fire = Self {
            cluster: Cluster::start(),
            proxy: Proxy::before(endpoint),
            bucket: bucket.to_owned(),
            folder: topic("fire"),
            source: topic("fire-in"),
            copied: topic("fire-copied"),
            changed: topic("fire-changed"),
            far_changed: topic("fire-far-changed"),
        };
        fire.cluster.create(&fire.topics(), PARTITIONS);
        fire.write_jobs(endpoint);
        fire
    }

    fn topics(&self) -> [&str; 4] {
        [&self.source, &self.copied, &self.changed, &self.far_changed]
    }

    /// Jobs over one topic of seconds: row by row and by windows, to topics and to tables, in the folder and in the store. Some of
    /// them read from the replicas of one rack, which may be behind the leaders.
    fn write_jobs(&self, endpoint: &str) {
        let work = &self.cluster.work;
        let (topics, here) = (self.tables_of_topics(), delta_tables("", "", ""));
        let far = self.tables_in_store(&self.proxy.url());
        // The test itself asks the store without the proxy.
        let honest = self.tables_in_store(endpoint);
        work.file("tables.sql", &[&topics[..], &here].concat());
        work.file("far-tables.sql", &[&topics[..], &far].concat());
        work.file("all-tables.sql", &[&topics[..], &here, &honest].concat());

        let often = "'trigger' '20 milliseconds', 'batch.max_rows' '200'";
        // Each batch is a version of the table and some files.
        let seldom = "'trigger' '1 second', 'batch.max_rows' '500'";
        let in_store = "'trigger' '3 seconds', 'batch.max_rows' '2000', 'retention.versions' '50'";
        let job = |name: &str, options: &str, insert: &str| {
            format!("CREATE JOB {name} WITH ({options}) AS INSERT INTO {insert};\n")
        };
        let windows = |table: &str| {
            format!(
                "FROM TUMBLE(TABLE {table}, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start"
            )
        };
        let changes = |sink: &str| {
            let of_ticks = windows("ticks");
            format!("{sink} SELECT k, window_start, count(*), is_final() {of_ticks} EMIT CHANGES")
        };
        let counts = |sink: &str| {
            let of_ticks = windows("near_ticks");
            format!(
                "{sink} SELECT k, window_start, count(*), sum(n) {of_ticks} EMIT ON WINDOW CLOSE"
            )
        };
        let jobs = [
            job(
                "copying",
                often,
                "copied (k, n) SELECT k, n FROM near_ticks",
            ),
            job("keeping", seldom, "kept SELECT k, n FROM ticks"),
            job("changing", often, &changes("changed")),
            job("counting", seldom, &counts("counts")),
        ];
        work.file("jobs.sql", &jobs.concat());
        let jobs = [
            job(
                "far_keeping",
                in_store,
                "far_kept SELECT k, n FROM near_ticks",
            ),
            job("far_changing", in_store, &changes("far_changed")),
            job("far_counting", in_store, &counts("far_counts")),
        ];
        work.file("far-jobs.sql", &jobs.concat());
    }

    fn tables_of_topics(&self) -> String {
        let bootstrap = self.cluster.bootstrap();
        let kafka = |location: &str, options: &str| {
            format!(
                "STORED AS KAFKA LOCATION '{location}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', \
                 'connect.timeout' '5 seconds'{options});\n"
            )
        };
        let ticks = "(k VARCHAR METADATA FROM 'key', n BIGINT, t TIMESTAMP, \
                     WATERMARK FOR t AS t - INTERVAL '5 seconds') ";
        let changes =
            "(k VARCHAR, s TIMESTAMP, n BIGINT, final BOOLEAN, PRIMARY KEY (k, s) NOT ENFORCED) ";
        let never_idle = ", 'watermark.idle_after' '1 day'";
        let near = format!("{never_idle}, 'kafka.client.rack' 'rack-2'");
        [
            &format!("CREATE EXTERNAL TABLE ticks {ticks}"),
            &kafka(&self.source, never_idle),
            &format!("CREATE EXTERNAL TABLE near_ticks {ticks}"),
            &kafka(&self.source, &near),
            "CREATE EXTERNAL TABLE copied (k VARCHAR METADATA FROM 'key', n BIGINT) ",
            &kafka(&self.copied, ""),
            &format!("CREATE EXTERNAL TABLE changed {changes}"),
            &kafka(&self.changed, ""),
            &format!("CREATE EXTERNAL TABLE far_changed {changes}"),
            &kafka(&self.far_changed, ""),
        ]
        .concat()
    }

    fn tables_in_store(&self, endpoint: &str) -> String {
        let options = format!(
            " OPTIONS ('aws.endpoint' '{endpoint}', 'aws.allow_http' 'true', 'aws.region' 'us-east-1', \
             'aws.access_key_id' 'anabranch', 'aws.secret_access_key' 'anabranch-secret')"
        );
        let place = format!("s3://{}/{}/", self.bucket, self.folder);
        delta_tables("far_", &place, &options)
    }

    /// The command that runs the jobs of a place.
    pub(super) fn jobs(&self, place: JobLocation) -> Command {
        let mut command = self.cluster.work.command();
        match place {
            JobLocation::Folder => command.args(["run", "tables.sql", "jobs.sql"]),
            JobLocation::Store => command
                .args(["run", "far-tables.sql", "far-jobs.sql", "--data-dir"])
                .arg(format!("s3://{}/{}/jobs", self.bucket, self.folder))
                .env("AWS_ENDPOINT", self.proxy.url())
                .env("AWS_ALLOW_HTTP", "true")
                .env("AWS_REGION", "us-east-1"),
        };
        command
    }

    /// The file of all that the processes of a place have said.
    pub(super) fn said(&self, place: JobLocation) -> PathBuf {
        let name = match place {
            JobLocation::Folder => "said",
            JobLocation::Store => "far-said",
        };
        self.cluster.work.path(name)
    }

    /// Rows of a query over all tables, as the program prints them.
    pub(super) fn rows(&self, query: &str) -> Vec<serde_json::Value> {
        let work = &self.cluster.work;
        work.sql(&["all-tables.sql"], &[query]).ok().rows()
    }

    /// The transactional id of a job of `JobLocation::Folder`; `None` until the job is made.
    fn transactional_id(&self, job: &str) -> Option<String> {
        let named = format!("anabranch-data/jobs/names/{job}");
        let id = std::fs::read_to_string(self.cluster.work.path(&named));
        id.ok().map(|id| format!("anabranch-{id}"))
    }

    /// Waits until the jobs write to topics, and Kafka's own tool finds the same coordinators as this test.
    pub(super) fn wait_until_begun(&self) {
        self.cluster.wait_until("the jobs begin", |cluster| {
            TO_TOPICS.iter().all(|job| {
                self.transactional_id(job).is_some_and(|id| {
                    let found = cluster.coordinator(&id);
                    found.is_some() && cluster.told_coordinator(&id) == found
                })
            })
        });
        self.cluster.wait_until_healed();
    }

    /// Disturbs the brokers in one way, and heals them; processes may be killed meanwhile.
    pub(super) fn disturb(
        &self,
        kind: u64,
        moments: &mut RandomMoments,
        processes: &mut Processes<'_>,
    ) -> &'static str {
        let broker = i32::try_from(moments.below(BROKERS as u64)).unwrap() + 1;
        let control = |action| self.cluster.control(broker, action);
        let mut meanwhile = |moments: &mut RandomMoments, most| {
            std::thread::sleep(Duration::from_millis(200 + moments.below(most)));
            processes.strike(moments);
        };
        match kind {
            0..=3 => {
                let (down, up, most, name) = WAYS[usize::try_from(kind).unwrap()];
                control(down);
                meanwhile(moments, most);
                control(up);
                name
            }
            // Leaders, also of the coordinators' topics, go back to where they belong.
            4 => {
                self.cluster.tool(&[
                    "kafka-leader-election",
                    "--election-type",
                    "preferred",
                    "--all-topic-partitions",
                ]);
                "elected"
            }
            5 => {
                self.move_coordinator(moments, &mut meanwhile);
                "coordinator moved"
            }
            _ => {
                self.move_replicas(moments, &mut meanwhile);
                "reassigned"
            }
        }
    }

    /// Takes the coordinator of a job's transactions away, until another broker coordinates them.
    fn move_coordinator(
        &self,
        moments: &mut RandomMoments,
        mut meanwhile: impl FnMut(&mut RandomMoments, u64),
    ) {
        let chosen = |moments: &mut RandomMoments, end: usize| {
            usize::try_from(moments.below(end as u64)).unwrap()
        };
        // The last differs from the one before in its time alone.
        let ways = &WAYS[..3];
        let job = TO_TOPICS[chosen(moments, TO_TOPICS.len())];
        let (down, up, ..) = ways[chosen(moments, ways.len())];
        let id = self.transactional_id(job).unwrap();
        let before = self.cluster.coordinator(&id).unwrap();
        self.cluster.control(before, down);
        self.cluster
            .wait_until("another broker coordinates", |cluster| {
                cluster.coordinator(&id).is_some_and(|now| now != before)
            });
        meanwhile(moments, 2_000);
        self.cluster.control(before, up);
    }

    /// Moves all partitions of the jobs, and those in which brokers keep offsets and transactions, away from the brokers that
    /// lead them, then back: the former leaders fetch all records again.
    fn move_replicas(
        &self,
        moments: &mut RandomMoments,
        mut meanwhile: impl FnMut(&mut RandomMoments, u64),
    ) {
        let internal = ["__consumer_offsets", "__transaction_state"];
        let topics = [&self.topics()[..], &internal[..]].concat();
        let before = self.cluster.partitions(&topics);
        let away: Vec<Partition> = before
            .iter()
            .cloned()
            .map(|mut partition| {
                let leader = partition.leader;
                partition.replicas.retain(|broker| Some(*broker) != leader);
                partition
            })
            .collect();
        self.cluster.reassign(&away);
        meanwhile(moments, 2_000);
        self.cluster.reassign(&before);
    }
}

/// The Delta tables that row-by-row jobs and jobs with windows write to.
fn delta_tables(before: &str, place: &str, options: &str) -> String {
    let table = |name: &str, columns: &str| {
        format!(
            "CREATE EXTERNAL TABLE {before}{name} ({columns}) STORED AS DELTA LOCATION '{place}{name}'{options};\n"
        )
    };
    table("kept", "k VARCHAR, n BIGINT")
        + &table("counts", "k VARCHAR, s TIMESTAMP, n BIGINT, total BIGINT")
}

/// The faults of the proxy before the store: some requests are done and reported as failed, some have to wait, and for
/// a while all are refused.
pub(super) struct ProxyFaults {
    /// Until when requests are refused, and with which status.
    refused: Arc<Mutex<Option<(Instant, u16)>>>,
}

impl ProxyFaults {
    pub(super) fn begin(proxy: &Proxy, mut moments: RandomMoments) -> Self {
        let refused: Arc<Mutex<Option<(Instant, u16)>>> = Arc::default();
        let until = Arc::clone(&refused);
        let (mut requests, mut writes) = (0_u64, 0_u64);
        proxy.rule(move |request| {
            let refusal = *until.lock().unwrap();
            if let Some((_, status)) = refusal.filter(|(end, _)| Instant::now() < *end) {
                return RequestFate::Refuse(status);
            }
            requests += 1;
            if request.method == "PUT" {
                writes += 1;
                match writes % 12 {
                    5 => return RequestFate::Hide(500),
                    11 => return RequestFate::Hide(502),
                    _ => {}
                }
            }
            match requests % 20 {
                0 => RequestFate::Delay(Duration::from_millis(moments.below(1_500))),
                _ => RequestFate::Pass,
            }
        });
        Self { refused }
    }

    /// From now on all requests are refused with this status for so long.
    pub(super) fn refuse(&self, status: u16, time: Duration) {
        *self.refused.lock().unwrap() = Some((Instant::now() + time, status));
    }
}

/// How many answers the proxy has hidden, delayed and refused.
#[derive(Debug, Default)]
pub(super) struct ProxyCounts {
    pub(super) hidden: u32,
    pub(super) delayed: u32,
    pub(super) refused: u32,
}

impl ProxyCounts {
    pub(super) fn by(proxy: &Proxy) -> Self {
        let mut counted = Self::default();
        for (_, fate) in proxy.disturbed() {
            match fate {
                RequestFate::Hide(_) => counted.hidden += 1,
                RequestFate::Delay(_) => counted.delayed += 1,
                RequestFate::Refuse(_) => counted.refused += 1,
                RequestFate::Pass | RequestFate::Cut | RequestFate::Late(..) => {}
            }
        }
        counted
    }
}
