//! Retention of jobs: batches that are kept, and files that are swept, also by processes that die meanwhile.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Instant;

use super::Pipeline;
use super::windows::{counting, expected};

/// Counts into a Delta table, as in `keep.sql`, and keeps three batches.
fn forgetful(name: &str) -> Pipeline {
    let pipeline = counting(name);
    pipeline.work.file(
        "keep.sql",
        "CREATE JOB to_delta WITH ('trigger' '1 millisecond', 'batch.max_rows' '3', 'retention.versions' '3') AS \
         INSERT INTO kept SELECT k, window_start, count(*) \
         FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start;\n",
    );
    pipeline
}

impl Pipeline {
    /// The only job's folder.
    fn job_folder(&self) -> std::path::PathBuf {
        let jobs = std::fs::read_dir(self.work.path("anabranch-data/jobs")).unwrap();
        let mut folders = jobs.map(|entry| entry.unwrap().path());
        folders.find(|path| !path.ends_with("names")).unwrap()
    }

    /// How many files of the only job there are, by folder.
    fn files(&self) -> BTreeMap<String, usize> {
        let folders = std::fs::read_dir(self.job_folder()).unwrap();
        folders
            .map(|folder| {
                let folder = folder.unwrap();
                let files = std::fs::read_dir(folder.path()).unwrap().count();
                (folder.file_name().into_string().unwrap(), files)
            })
            .collect()
    }

    fn lines_of(&self, query: &str) -> Vec<serde_json::Value> {
        self.work.sql(&[], &[query]).ok().rows()
    }

    /// The numbers of the batches that the job has, and where its late rows and dead letters come from.
    fn past(&self) -> (Vec<u64>, Vec<i64>, Vec<i64>) {
        let numbers = |query, column: &str| -> Vec<i64> {
            let rows = self.lines_of(query);
            rows.iter()
                .map(|row| row[column].as_i64().unwrap())
                .collect()
        };
        let batches = numbers("SELECT batch FROM system.batches ORDER BY batch", "batch");
        let batches = batches.into_iter().map(i64::unsigned_abs).collect();
        let late = "SELECT \"offset\" FROM system.late_rows ORDER BY 1";
        let dead = "SELECT \"offset\" FROM system.dead_letters ORDER BY 1";
        (batches, numbers(late, "offset"), numbers(dead, "offset"))
    }
}

#[test]
fn exact_3_a_job_goes_back_as_far_as_it_keeps_batches() {
    let pipeline = forgetful("retention");
    pipeline.tick(0..20);
    // LOSS-1: a record that was set aside early is still there when its batch is gone.
    pipeline.produce("nonsense\n");
    pipeline.tick(3..4);
    pipeline.tick(20..120);
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.counted("kept"), expected(120));
    let (batches, late, dead) = pipeline.past();
    let (oldest, newest) = (batches[0], batches[batches.len() - 1]);
    assert!(newest >= 41, "122 records, three at most a batch: {newest}");
    assert!(oldest > 16 && newest - oldest <= 19, "{batches:?}");
    assert_eq!((late, dead), (vec![21], vec![20]));

    for gone in [0, 1, oldest - 1] {
        let rewind = format!("REWIND JOB to_delta TO BATCH {gone}");
        let refused = pipeline.work.sql(&["tables.sql", "keep.sql"], &[&rewind]);
        assert_eq!(refused.code, Some(1), "{refused:#?}");
        let message = format!(
            "job to_delta no longer has batch {gone}; the oldest it can go back to is {oldest}"
        );
        assert!(refused.err.contains(&message), "{}", refused.err);
    }
    let state = format!("SELECT count(*) AS n FROM job_state('to_delta', {oldest})");
    assert!(
        pipeline.lines_of(&state)[0]["n"].as_i64().unwrap() > 0,
        "it can be looked at"
    );
    let rewind = format!("REWIND JOB to_delta TO BATCH {oldest}");
    pipeline
        .work
        .sql(&["tables.sql", "keep.sql"], &[&rewind])
        .ok();
    assert!(pipeline.counted("kept").len() < expected(120).len());
    // Many more batches: the number of kept files does not grow.
    pipeline.tick(120..300);
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.counted("kept"), expected(300));
    let files = pipeline.files();
    assert!(files["log"] <= 80 && files["checkpoint"] <= 2, "{files:?}");
    assert!(files["versions"] <= 60 && files["packs"] <= 3, "{files:?}");
    let (_, late, dead) = pipeline.past();
    assert_eq!((late, dead), (vec![21], vec![20]));
}

#[test]
fn where_the_rows_of_trimmed_batches_are_is_kept() {
    let pipeline = counting("retention-published");
    pipeline.work.file(
        "topic.sql",
        "CREATE JOB to_topic WITH ('trigger' '1 millisecond', 'batch.max_rows' '3', 'retention.versions' '3') AS \
         INSERT INTO counts SELECT k, window_start, count(*) \
         FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start;\n",
    );
    let folder = || pipeline.job_folder().join("published");
    let newest = || -> (usize, serde_json::Value) {
        let files = std::fs::read_dir(folder()).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        let last = std::fs::read(files.last().unwrap()).unwrap();
        (files.len(), serde_json::from_slice(&last).unwrap())
    };
    pipeline.tick(0..200);
    pipeline.catch_up("topic.sql").ok();
    let (files, found) = newest();
    assert!(files <= 2 && found["missing"].is_null(), "{found}");
    // All windows are of one hour; the first one ends ten seconds after the first tick.
    let closed = found["closed"].as_array().unwrap();
    assert_eq!(closed.len(), 1, "{found}");
    let from = closed[0]["from"].as_i64();
    assert!(
        from.is_none_or(|from| from < 1_735_689_610_000_000),
        "{found}"
    );
    let offsets = &closed[0]["offsets"]["0"];
    assert!(offsets["start"].as_i64().unwrap() < 3, "{found}");
    let end = offsets["end"].as_i64().unwrap();
    assert!(
        end >= 20,
        "two rows for each of ten windows at least: {found}"
    );
    // A program that does not know these files has trimmed batches.
    std::fs::remove_dir_all(folder()).unwrap();
    pipeline.tick(200..400);
    pipeline.catch_up("topic.sql").ok();
    let (_, found) = newest();
    let missing = &found["missing"]["closed"];
    assert!(missing["to"].as_i64().is_some(), "{found}");
    let start = &found["closed"][0]["offsets"]["0"]["start"];
    assert!(start.as_i64().unwrap() > 0, "{found}");
    assert_eq!(pipeline.counted("counts"), expected(400));
}

#[test]
fn exact_2_a_crash_at_any_step_of_sweeping() {
    let pipeline = forgetful("retention-crash");
    let (mut sent, mut offset, mut late, mut dead) = (0, 0, Vec::new(), Vec::new());
    for fail_point in [
        "packed",
        "trimmed",
        "checkpointed",
        "swept",
        "trimmed",
        "packed",
    ] {
        pipeline.tick(sent..sent + 60);
        (sent, offset) = (sent + 60, offset + 60);
        pipeline.produce("nonsense\n");
        pipeline.tick(3..4);
        dead.push(offset);
        late.push(offset + 1);
        offset += 2;
        pipeline.crash("keep.sql", fail_point);
    }
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.counted("kept"), expected(sent));
    let (batches, ..) = pipeline.past();
    assert!(batches[0] > 1 && batches.len() < 25, "{batches:?}");
    assert_eq!(pipeline.past().1, late);
    assert_eq!(pipeline.past().2, dead);
}

#[test]
fn a_dropped_job_is_swept_and_a_process_that_runs_it_ends() {
    let pipeline = forgetful("retention-drop");
    pipeline.tick(0..30);
    pipeline.catch_up("keep.sql").ok();
    let mut command = pipeline.command("keep.sql");
    let running = command.stderr(Stdio::piped()).spawn().unwrap();
    let owner = "SELECT owner FROM system.jobs";
    let before = pipeline.lines_of(owner)[0]["owner"].clone();
    let deadline = Instant::now() + crate::support::PATIENCE;
    while pipeline.lines_of(owner)[0]["owner"] == before {
        assert!(Instant::now() < deadline, "it was not taken over");
    }
    let folder = pipeline.job_folder();
    pipeline.work.sql(&[], &["DROP JOB to_delta CASCADE"]).ok();
    let ended = running.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("job to_delta was dropped"), "{said}");
    let mut left = Vec::new();
    for entry in std::fs::read_dir(folder.join("checkpoint")).unwrap() {
        left.push(entry.unwrap().file_name().into_string().unwrap());
    }
    assert_eq!(left, ["9999999999.json"]);
    for swept in ["log", "versions", "state"] {
        // The runner has deleted the files that it wrote before it saw that the job was dropped.
        let files = std::fs::read_dir(folder.join(swept)).map_or(0, Iterator::count);
        assert_eq!(files, 0, "{swept}");
    }
    // The name is free, and the next job of that name begins with an empty history.
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.lines_of("SELECT batch FROM system.jobs").len(), 1);
}

#[test]
fn retention_options_are_checked_and_shown() {
    let pipeline = forgetful("retention-options");
    let explain = |option: &str| {
        let job = format!(
            "EXPLAIN CREATE JOB e WITH ({option}) AS INSERT INTO kept SELECT k, window_start, count(*) \
             FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start"
        );
        pipeline.work.sql(&["tables.sql"], &[&job])
    };
    let told = explain("'retention.age' '2 days', 'retention.versions' '50'").ok();
    assert!(
        told.out.contains("the last 50 batches, 48 hours at most"),
        "{}",
        told.out
    );
    for (option, problem) in [
        (
            "'retention.versions' '0'",
            "option 'retention.versions' does not accept '0'",
        ),
        (
            "'retention.age' 'long'",
            "option 'retention.age' does not accept 'long'",
        ),
    ] {
        let refused = explain(option);
        assert_eq!(refused.code, Some(1), "{refused:#?}");
        assert!(refused.err.contains(problem), "{}", refused.err);
        assert!(refused.err.contains("= help: "), "{}", refused.err);
    }
}

#[test]
fn exact_2_a_job_in_an_object_store_is_swept_as_well() {
    let test = "jobs::retention::exact_2_a_job_in_an_object_store_is_swept_as_well";
    let Some((endpoint, bucket)) = crate::support::s3(test) else {
        return;
    };
    let pipeline = forgetful("retention-s3");
    let data_dir = format!("s3://{}/{}", bucket, pipeline.source);
    let anabranch = |arguments: &[&str], fail_point: &str| {
        let mut command = pipeline.work.command();
        command
            .args(arguments)
            .args(["--data-dir", &data_dir, "--format", "ndjson"])
            .env("AWS_ENDPOINT", &endpoint)
            .env("AWS_ALLOW_HTTP", "true");
        if !fail_point.is_empty() {
            command.env("ANABRANCH_FAIL_POINT", fail_point);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            said,
        )
    };
    let run = ["run", "tables.sql", "keep.sql", "--until-caught-up"];
    let mut sent = 0;
    for fail_point in ["packed", "trimmed", "checkpointed", ""] {
        pipeline.tick(sent..sent + 60);
        sent += 60;
        pipeline.tick(3..4);
        let (code, _, said) = anabranch(&run, fail_point);
        let died = if fail_point.is_empty() { Some(0) } else { None };
        assert_eq!(code, died, "{fail_point}: {said}");
    }
    assert_eq!(pipeline.counted("kept"), expected(sent));
    let late = "SELECT count(*) AS n FROM system.late_rows";
    let (code, rows, said) = anabranch(&["sql", "-c", late], "");
    assert_eq!((code, rows.trim()), (Some(0), "{\"n\":4}"), "{said}");
    let rewind = "REWIND JOB to_delta TO BATCH 1";
    let (code, _, said) = anabranch(
        &["sql", "-f", "tables.sql", "-f", "keep.sql", "-c", rewind],
        "",
    );
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no longer has batch 1"), "{said}");
    let (code, _, said) = anabranch(&["sql", "-c", "DROP JOB to_delta CASCADE"], "");
    assert_eq!(code, Some(0), "{said}");
}
