//! A data directory, a sink or a source that was put back to an earlier state: the job notices, and tells the user how
//! to go on.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::Pipeline;
use crate::support::{PATIENCE, ProgramOutput, Workspace, copy_folder, numbers_of, signal};

impl Pipeline {
    /// Keeps a folder as it is now.
    pub(super) fn keep(&self, folder: &str) {
        copy_folder(&self.work.path(folder), &self.work.path("backup"));
    }

    /// Puts it back.
    pub(super) fn put_back(&self, folder: &str) {
        std::fs::remove_dir_all(self.work.path(folder)).unwrap();
        copy_folder(&self.work.path("backup"), &self.work.path(folder));
    }

    /// Runs a job that stops, and gives the error.
    fn error(&self, file: &str) -> String {
        let stopped = self.catch_up(file);
        assert_eq!(stopped.code, Some(1), "{stopped:?}");
        stopped.err
    }
}

#[test]
fn an_older_data_directory_is_noticed() {
    let pipeline = Pipeline::between_topics("old-directory", 1);
    for (file, job) in [("job.sql", "doubling"), ("keep.sql", "keeping")] {
        pipeline.send(0..3);
        pipeline.catch_up(file).ok();
        pipeline.keep("anabranch-data");
        let rows = || match job {
            "doubling" => pipeline.doubled(),
            _ => pipeline.kept(),
        };
        let before = rows();
        pipeline.send(3..9);
        pipeline.catch_up(file).ok();
        let all = rows();
        assert_eq!(all.len(), before.len() + 6);
        pipeline.put_back("anabranch-data");
        let error = pipeline.error(file);
        assert!(
            error.contains("the data directory is older than the sink"),
            "{error}"
        );
        assert_eq!(rows(), all);
        // The log does not have the later batches: that they are committed does not help.
        let batch = error.split("ASSUMING BATCH ").nth(1).unwrap();
        let batch = batch.split(' ').next().unwrap();
        let assume = |what: &str| {
            let statement = format!("RESUME JOB {job} ASSUMING BATCH {batch} {what}");
            pipeline.work.sql(&[], &[&statement]).ok();
        };
        assume("COMMITTED");
        pipeline.error(file);
        assume("NOT COMMITTED");
        pipeline.catch_up(file).ok();
        assert_eq!(rows().len(), all.len() + 6, "they are there twice");
        pipeline.catch_up(file).ok();
        assert_eq!(rows().len(), all.len() + 6);
        std::fs::remove_dir_all(pipeline.work.path("backup")).unwrap();
    }
}

#[test]
fn exact_2_an_older_sink_is_noticed_and_a_rewind_mends_it() {
    for mends in [true, false] {
        let pipeline = Pipeline::between_topics("old-sink", 1);
        pipeline.send(0..3);
        pipeline.catch_up("keep.sql").ok();
        pipeline.keep("kept");
        pipeline.send(3..9);
        pipeline.catch_up("keep.sql").ok();
        pipeline.put_back("kept");
        let error = pipeline.error("keep.sql");
        assert!(
            error.contains("the log has batches 2 to 3 and the sink does not"),
            "{error}"
        );
        assert_eq!(pipeline.kept(), [0, 1, 2]);
        if mends {
            let rewind = ["REWIND JOB keeping TO BATCH 1", "RESUME JOB keeping"];
            let files = ["tables.sql", "keep.sql"];
            pipeline.work.sql(&files, &rewind).ok();
        } else {
            let statement = "RESUME JOB keeping ASSUMING BATCH 3 COMMITTED";
            pipeline.work.sql(&[], &[statement]).ok();
        }
        pipeline.send(9..11);
        pipeline.catch_up("keep.sql").ok();
        pipeline.catch_up("keep.sql").ok();
        let expected: Vec<u64> = match mends {
            true => (0..11).collect(),
            false => (0..3).chain(9..11).collect(),
        };
        assert_eq!(pipeline.kept(), expected);
    }
}

#[test]
fn loss_1_an_older_source_is_noticed() {
    let pipeline = Pipeline::from_lake("old-source");
    pipeline.insert_into_lake(0..2);
    pipeline.keep("lake");
    pipeline.insert_into_lake(2..5);
    pipeline.catch_up("job.sql").ok();
    pipeline.put_back("lake");
    let error = pipeline.error("job.sql");
    assert!(
        error.contains("it was restored to an earlier state"),
        "{error}"
    );
    pipeline
        .work
        .sql(&[], &["RESUME JOB doubling SKIPPING LOST"])
        .ok();
    // The job reads the versions that are added after the report, also those with numbers it has read before.
    pipeline.insert_into_lake(20..26);
    pipeline.catch_up("job.sql").ok();
    let all = (0..5).chain(20..26).map(|v| v * 2);
    assert_eq!(pipeline.doubled(), all.collect::<Vec<_>>());
}

#[test]
fn loss_1_an_older_source_that_was_written_to_again_is_noticed() {
    // The versions that were lost are there again, with other rows; or more of them.
    for more in [3, 5] {
        let pipeline = Pipeline::from_lake("rewritten-source");
        pipeline.insert_into_lake(0..2);
        pipeline.keep("lake");
        pipeline.insert_into_lake(2..5);
        pipeline.catch_up("job.sql").ok();
        let before: Vec<u64> = (0..5).map(|v| v * 2).collect();
        assert_eq!(pipeline.doubled(), before);
        pipeline.put_back("lake");
        pipeline.insert_into_lake(20..20 + more);
        // That it is resumed changes nothing.
        for resumes in [false, true] {
            if resumes {
                pipeline.resume("RESUME JOB doubling");
            }
            let error = pipeline.error("job.sql");
            assert!(
                error.contains("which the job has read: it was recreated, restored"),
                "{error}"
            );
            assert_eq!(pipeline.doubled(), before);
        }
        pipeline.resume("RESUME JOB doubling ACCEPTING NEW numbers");
        pipeline.catch_up("job.sql").ok();
        pipeline.insert_into_lake(40..42);
        pipeline.catch_up("job.sql").ok();
        let read = (0..5).chain(0..2).chain(20..20 + more).chain(40..42);
        let mut doubled: Vec<u64> = read.map(|v| v * 2).collect();
        doubled.sort_unstable();
        assert_eq!(pipeline.doubled(), doubled);
    }
}

#[test]
fn loss_1_a_source_restored_while_the_job_runs_is_noticed() {
    let lake = Lake::with_checkpoints(100);
    lake.send(0..2);
    let (written, backup) = (lake.work.path("written"), lake.work.path("backup"));
    copy_folder(&written, &backup);
    let runs = lake.start();
    lake.send(2..5);
    lake.wait_for(&[0, 1, 2, 3, 4]);
    // It does not see the table while only a part of it is copied.
    signal(&runs, "-STOP");
    std::fs::remove_dir_all(&written).unwrap();
    copy_folder(&backup, &written);
    lake.send(20..24);
    signal(&runs, "-CONT");
    let said = ended(runs);
    assert!(
        said.contains("which the job has read: it was recreated, restored"),
        "{said}"
    );
    assert_eq!(lake.kept(), [0, 1, 2, 3, 4]);
}

/// A job from one Delta table to another, a row and a commit each batch.
struct Lake {
    work: Workspace,
}

impl Lake {
    /// The table that is written to makes a checkpoint every so many commits.
    fn with_checkpoints(every: u32) -> Self {
        let work = Workspace::new();
        work.file(
            "tables.sql",
            &format!(
                "CREATE EXTERNAL TABLE written (v BIGINT) STORED AS DELTA LOCATION 'written';\n\
                 CREATE EXTERNAL TABLE numbers STORED AS DELTA LOCATION 'written' OPTIONS ('scan.mode' 'stream');\n\
                 CREATE EXTERNAL TABLE kept (v BIGINT) STORED AS DELTA LOCATION 'kept' \
                 OPTIONS ('delta.checkpointInterval' '{every}');\n"
            ),
        );
        work.file(
            "jobs.sql",
            "CREATE JOB keeping WITH ('trigger' '10 milliseconds', 'batch.max_rows' '1') AS \
             INSERT INTO kept SELECT v FROM numbers;\n",
        );
        Self { work }
    }

    fn send(&self, numbers: std::ops::Range<u64>) {
        let insert = |v| format!("INSERT INTO written VALUES ({v});");
        let inserts: String = numbers.map(insert).collect();
        self.work.sql(&["tables.sql"], &[&inserts]).ok();
    }

    fn catch_up(&self) -> ProgramOutput {
        let arguments = ["run", "tables.sql", "jobs.sql", "--until-caught-up"];
        self.work.anabranch(&arguments)
    }

    /// Runs the job, which stops, and gives the error.
    fn error(&self) -> String {
        let stopped = self.catch_up();
        assert_eq!(stopped.code, Some(1), "{stopped:?}");
        stopped.err
    }

    fn say(&self, statements: &[&str]) -> ProgramOutput {
        self.work.sql(&["tables.sql", "jobs.sql"], statements)
    }

    fn start(&self) -> Child {
        let mut command = self.work.command();
        command.args(["run", "tables.sql", "jobs.sql"]);
        let piped = command.stdout(Stdio::null()).stderr(Stdio::piped());
        piped.spawn().unwrap()
    }

    fn kept(&self) -> Vec<u64> {
        let rows = self
            .work
            .sql(&["tables.sql"], &["SELECT v FROM kept ORDER BY v"])
            .ok();
        numbers_of(&rows.out)
    }

    fn wait_for(&self, kept: &[u64]) {
        let began = Instant::now();
        while self.kept() != kept {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.kept());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The newest version of the table that is written to.
    fn version(&self) -> u64 {
        let log = std::fs::read_dir(self.work.path("kept/_delta_log")).unwrap();
        let numbers = log.filter_map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".json")?.parse::<u64>().ok()
        });
        numbers.max().unwrap()
    }

    /// RESTORE TABLE, by the library.
    fn restore(&self, version: u64) {
        let url = url::Url::from_directory_path(self.work.path("kept")).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let table = deltalake::open_table(url).await.unwrap();
            let restore = table.restore().with_version_to_restore(version);
            restore.await.unwrap();
        });
    }
}

/// The output of a process that ends by itself.
fn ended(mut child: Child) -> String {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

const LACKS: &str = "the log has batches 3 to 5 and the sink does not";

#[test]
fn exact_2_a_sink_that_was_restored_by_a_commit_is_noticed_and_a_rewind_mends_it() {
    for mends in [true, false] {
        let lake = Lake::with_checkpoints(100);
        lake.send(0..2);
        lake.catch_up().ok();
        let earlier = lake.version();
        lake.send(2..5);
        lake.catch_up().ok();
        assert_eq!(lake.kept(), [0, 1, 2, 3, 4]);
        lake.work.anabranch(&["check", "--sink"]).ok();
        lake.restore(earlier);
        assert_eq!(lake.kept(), [0, 1]);
        let found = lake.work.anabranch(&["check", "--sink", "--format", "csv"]);
        assert_eq!(found.code, Some(1), "{found:?}");
        assert!(found.out.contains("it does not have batch 3"), "{found:?}");
        lake.send(5..6);
        let error = lake.error();
        assert!(error.contains(LACKS), "{error}");
        // That it is resumed says nothing of the rows.
        lake.say(&["RESUME JOB keeping"]).ok();
        let error = lake.error();
        assert!(error.contains(LACKS), "{error}");
        assert_eq!(lake.kept(), [0, 1]);
        if mends {
            lake.say(&["REWIND JOB keeping TO BATCH 2", "RESUME JOB keeping"])
                .ok();
            lake.catch_up().ok();
        } else {
            lake.say(&["RESUME JOB keeping ASSUMING BATCH 5 COMMITTED"])
                .ok();
            lake.catch_up().ok();
            assert_eq!(lake.kept(), [0, 1, 5]);
            lake.work.anabranch(&["check", "--sink"]).ok();
            // The job can be rewound over batches whose files are gone.
            lake.say(&["REWIND JOB keeping TO BATCH 1"]).ok();
            assert_eq!(lake.kept(), [0]);
            lake.catch_up().ok();
        }
        assert_eq!(lake.kept(), [0, 1, 2, 3, 4, 5]);
        lake.catch_up().ok();
        lake.work.anabranch(&["check", "--sink"]).ok();
        assert_eq!(lake.kept(), [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn exact_2_a_sink_that_is_restored_while_the_job_runs_is_noticed() {
    let lake = Lake::with_checkpoints(100);
    lake.send(0..2);
    lake.catch_up().ok();
    let earlier = lake.version();
    let runs = lake.start();
    lake.send(2..5);
    lake.wait_for(&[0, 1, 2, 3, 4]);
    lake.restore(earlier);
    lake.send(5..7);
    let said = ended(runs);
    assert!(said.contains(LACKS), "{said}");
    assert_eq!(lake.kept(), [0, 1], "no later rows hide it");
    lake.say(&["REWIND JOB keeping TO BATCH 2", "RESUME JOB keeping"])
        .ok();
    lake.catch_up().ok();
    assert_eq!(lake.kept(), (0..7).collect::<Vec<_>>());
}

#[test]
fn exact_2_a_restore_that_keeps_the_rows_of_the_job_does_not_stop_it() {
    let lake = Lake::with_checkpoints(100);
    lake.send(0..3);
    lake.catch_up().ok();
    // Another writer's rows, which are undone.
    let whole = lake.version();
    lake.say(&["INSERT INTO kept VALUES (90)"]).ok();
    lake.restore(whole);
    lake.send(3..4);
    lake.catch_up().ok();
    assert_eq!(lake.kept(), [0, 1, 2, 3]);
    // Back and forth, by way of files that were put together.
    lake.say(&["OPTIMIZE kept"]).ok();
    let whole = lake.version();
    lake.restore(1);
    lake.restore(whole);
    lake.send(4..5);
    lake.catch_up().ok();
    assert_eq!(lake.kept(), [0, 1, 2, 3, 4]);
}

#[test]
fn exact_3_rows_restored_after_a_rewind_are_not_doubled() {
    let lake = Lake::with_checkpoints(100);
    lake.send(0..4);
    lake.catch_up().ok();
    let whole = lake.version();
    lake.say(&["REWIND JOB keeping TO BATCH 1"]).ok();
    assert_eq!(lake.kept(), [0]);
    // Nothing was committed since: the rewind is brought to its end again.
    lake.restore(whole);
    assert_eq!(lake.kept(), [0, 1, 2, 3]);
    lake.catch_up().ok();
    assert_eq!(lake.kept(), [0, 1, 2, 3]);
    // Something was: the table is of an earlier state, and has rows of batches that were abandoned.
    lake.restore(whole);
    lake.send(4..5);
    let error = lake.error();
    assert!(error.contains("and the sink does not"), "{error}");
    lake.say(&["REWIND JOB keeping TO BATCH 1", "RESUME JOB keeping"])
        .ok();
    lake.catch_up().ok();
    assert_eq!(lake.kept(), [0, 1, 2, 3, 4]);
}

#[test]
fn exact_2_a_sink_restored_to_its_last_checkpoint_is_noticed() {
    for runs in [false, true] {
        // Each version has a checkpoint.
        let lake = Lake::with_checkpoints(1);
        lake.send(0..2);
        lake.catch_up().ok();
        copy_folder(&lake.work.path("kept"), &lake.work.path("backup"));
        let running = runs.then(|| lake.start());
        lake.send(2..5);
        match &running {
            Some(_) => lake.wait_for(&[0, 1, 2, 3, 4]),
            None => drop(lake.catch_up().ok()),
        }
        std::fs::remove_dir_all(lake.work.path("kept")).unwrap();
        copy_folder(&lake.work.path("backup"), &lake.work.path("kept"));
        lake.send(5..6);
        let error = match running {
            Some(running) => ended(running),
            None => lake.error(),
        };
        assert!(error.contains(LACKS), "{error}");
        lake.say(&["REWIND JOB keeping TO BATCH 2", "RESUME JOB keeping"])
            .ok();
        lake.catch_up().ok();
        assert_eq!(lake.kept(), [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn time_1_idle_time_counts_across_short_runs() {
    let pipeline = super::identity::per_minute("timer", 2, "1 second");
    pipeline.minutes(0..1, 0..3);
    pipeline.catch_up("job.sql").ok();
    // Partition 1 is empty. Each run ends as soon as all is read; nothing comes between them.
    let closes = (0..200).any(|_| {
        pipeline.catch_up("job.sql").ok();
        !pipeline.windows().is_empty()
    });
    assert!(closes, "the empty partition holds the windows back");
    assert_eq!(pipeline.windows(), [1, 1]);
}
