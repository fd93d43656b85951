//! Jobs on a real broker and real Delta tables: exactly once, for every process that dies at any moment.

mod archived_topics;
mod check_topic;
mod cluster;
mod columns;
mod consumers;
mod coverage;
mod crash;
mod delta_foreign;
mod delta_source;
mod delta_upserts;
mod delta_windows;
mod drift;
mod endurance;
mod expressions;
mod identity;
mod joins;
mod keyed;
mod memory;
mod metrics;
mod refusals;
mod reprocessing;
mod reprocessing_delta;
mod restore;
mod retention;
mod session_groups;
mod slices;
mod startup;
mod statements;
mod sums;
mod texts;
mod windows;

use std::process::{Child, Command, Stdio};

use crate::support::{
    ProgramOutput, Workspace, consume_on, create_topic_on, kafka, numbers_of, produce_on,
    read_by_kafka,
};
use crate::topics::delete_records_on;

/// A job from one topic to another, and its tables.
struct Pipeline {
    work: Workspace,
    bootstrap: String,
    source: String,
    sink: String,
    /// Environment variables of the processes that run jobs.
    variables: Vec<(&'static str, String)>,
}

impl Pipeline {
    /// Doubles numbers: `{"v":1}` becomes `{"v":2}`, three records a batch.
    fn between_topics(name: &str, partitions: u32) -> Self {
        Self::on(&kafka(), name, partitions)
    }

    /// The same on another broker.
    fn on(bootstrap: &str, name: &str, partitions: u32) -> Self {
        let source = crate::support::topic(&format!("{name}-in"));
        let sink = crate::support::topic(&format!("{name}-out"));
        create_topic_on(bootstrap, &source, partitions);
        let work = Workspace::new();
        work.file(
            "tables.sql",
            &format!(
                "CREATE EXTERNAL TABLE numbers (v BIGINT, p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset') \
                 STORED AS KAFKA LOCATION '{source}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n\
                 CREATE EXTERNAL TABLE doubled (v BIGINT) STORED AS KAFKA LOCATION '{sink}' \
                 OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
                 CREATE EXTERNAL TABLE kept (v BIGINT, p INT, o BIGINT) STORED AS DELTA LOCATION 'kept';\n"
            ),
        );
        work.file(
            "job.sql",
            "CREATE JOB doubling WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3') AS\n\
             INSERT INTO doubled SELECT v * 2 FROM numbers;\n",
        );
        work.file(
            "keep.sql",
            "CREATE JOB keeping WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3') AS\n\
             INSERT INTO kept SELECT v, p, o FROM numbers;\n",
        );
        Self {
            work,
            bootstrap: bootstrap.to_owned(),
            source,
            sink,
            variables: Vec::new(),
        }
    }

    /// Sends `{"v":n}` for each number.
    fn send(&self, numbers: std::ops::Range<u64>) {
        let lines: Vec<String> = numbers.map(|v| format!("{{\"v\":{v}}}\n")).collect();
        self.produce(&lines.concat());
    }

    /// Sends lines as the values of records.
    fn produce(&self, lines: &str) {
        produce_on(&self.bootstrap, &self.source, lines);
    }

    /// Deletes the records of the source's first partition before an offset, as retention does.
    fn delete_before(&self, offset: i64) {
        delete_records_on(&self.bootstrap, &self.source, 0, offset);
    }

    /// The identity of a job.
    fn id_of(&self, job: &str) -> String {
        let named = format!("anabranch-data/jobs/names/{job}");
        std::fs::read_to_string(self.work.path(&named)).unwrap()
    }

    /// Runs a job file until it has handled all that is there.
    fn catch_up(&self, job: &str) -> ProgramOutput {
        let mut command = self.command(job);
        ProgramOutput::of(command.arg("--until-caught-up"))
    }

    /// The same in a process that dies at a fail point.
    fn crash(&self, job: &str, fail_point: &str) {
        let status = self
            .command(job)
            .arg("--until-caught-up")
            .env("ANABRANCH_FAIL_POINT", fail_point)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "{fail_point} was never reached");
        assert_eq!(status.code(), None, "{fail_point}: it ended by itself");
    }

    /// Lets the job die at each step of a batch, so many times each; before each `send` gives it something to do. Then it
    /// catches up.
    fn crash_at_each_step(&self, job: &str, times: u32, mut send: impl FnMut()) {
        for fail_point in crash::FAIL_POINTS {
            for time in 1..=times {
                send();
                let fail_point = match fail_point {
                    // A job is taken over once a run.
                    "taken-over" => fail_point.to_owned(),
                    _ => format!("{fail_point}:{time}"),
                };
                self.crash(job, &fail_point);
            }
        }
        // Right after a crash, and once more with nothing to do.
        self.catch_up(job).ok();
        self.catch_up(job).ok();
    }

    fn command(&self, job: &str) -> Command {
        let mut command = self.work.command();
        command.args(["run", "tables.sql", job]);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a job file in the background.
    fn start(&self, job: &str) -> Child {
        self.command(job).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The values that `read_committed` readers see in the sink's topic, sorted.
    fn doubled(&self) -> Vec<u64> {
        numbers_of(&consume_on(&self.bootstrap, &self.sink, &[]))
    }

    /// The same as Kafka's own consumer sees them.
    fn doubled_for_others(&self) -> Vec<u64> {
        numbers_of(&read_by_kafka(&self.bootstrap, &self.sink, &[]))
    }

    /// The records of the sink's topic with their keys, as `read_committed` readers see them.
    fn printed(&self) -> String {
        consume_on(&self.bootstrap, &self.sink, &["print.key=true"])
    }

    /// The values in the Delta table, sorted.
    fn kept(&self) -> Vec<u64> {
        let rows = self
            .work
            .sql(&["tables.sql"], &["SELECT v FROM kept ORDER BY v"])
            .ok();
        numbers_of(&rows.out)
    }
}
