//! A data directory, a sink or a source that was put back as it was earlier: the job notices, and says what to do.

use super::Pipeline;
use crate::support::copy_folder;

impl Pipeline {
    /// Keeps a folder as it is now.
    fn keep(&self, folder: &str) {
        copy_folder(&self.work.path(folder), &self.work.path("backup"));
    }

    /// Puts it back.
    fn put_back(&self, folder: &str) {
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
    let insert = |v: u64| pipeline.insert_into_lake(v);
    (0..2).for_each(&insert);
    pipeline.keep("lake");
    (2..5).for_each(&insert);
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
    (20..26).for_each(&insert);
    pipeline.catch_up("job.sql").ok();
    let all = (0..5).chain(20..26).map(|v| v * 2);
    assert_eq!(pipeline.doubled(), all.collect::<Vec<_>>());
}

#[test]
fn time_1_silence_counts_over_runs_that_end_at_once() {
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
