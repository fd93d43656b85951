//! `anabranch check`: every damage is seen, nothing is written, and a job may run meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use anabranch::runtime::check;
use anabranch::store::DataDir;

use crate::support::Workspace;

const TABLES: &str = "\
CREATE EXTERNAL TABLE written (k BIGINT, t TIMESTAMP) STORED AS DELTA LOCATION 'written';
CREATE EXTERNAL TABLE ticks (WATERMARK FOR t AS t - INTERVAL '5 seconds') STORED AS DELTA LOCATION 'written'
  OPTIONS ('scan.mode' 'stream');
CREATE EXTERNAL TABLE kept (k BIGINT, s TIMESTAMP, v BIGINT) STORED AS DELTA LOCATION 'kept';
";

const JOB: &str = "\
CREATE JOB keep WITH ('trigger' '1 millisecond', 'batch.max_rows' '1', 'retention.versions' '4') AS
  INSERT INTO kept SELECT k, window_start, count(*)
  FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start;
";

/// A job with windows, state and late rows, and no broker.
fn workspace() -> Workspace {
    let work = Workspace::new();
    work.file("tables.sql", TABLES);
    work.file("job.sql", JOB);
    work
}

fn row(second: u32) -> String {
    let (minutes, rest) = (second / 60, second % 60);
    format!(
        "({}, TIMESTAMP '2025-01-01T00:{minutes:02}:{rest:02}Z')",
        second % 2
    )
}

/// A row each of these seconds, each in a commit of its own.
fn add(work: &Workspace, seconds: impl IntoIterator<Item = u32>) {
    let insert = |second: u32| format!("INSERT INTO written VALUES {}", row(second));
    let inserts: Vec<String> = seconds.into_iter().map(insert).collect();
    let inserts: Vec<&str> = inserts.iter().map(String::as_str).collect();
    work.sql(&["tables.sql"], &inserts).ok();
}

fn catch_up(work: &Workspace) {
    let arguments = ["run", "tables.sql", "job.sql", "--until-caught-up"];
    work.anabranch(&arguments).ok();
}

/// A job that has run, with late rows and a dead letter.
fn ran() -> Workspace {
    let work = workspace();
    // One version, which closes windows when it is read to its end.
    let rows: Vec<String> = (0..12).map(|n| row(n * 3)).collect();
    let insert = format!("INSERT INTO written VALUES {}", rows.join(", "));
    work.sql(&["tables.sql"], &[&insert]).ok();
    catch_up(&work);
    // Late, and packed when its batch is swept.
    add(&work, [3]);
    catch_up(&work);
    add(&work, (12..32).map(|n| n * 3));
    catch_up(&work);
    // Late, in a batch that stays.
    add(&work, [4]);
    catch_up(&work);
    // A dead letter, in a batch that stays.
    let insert = "INSERT INTO written VALUES (1, NULL)";
    work.sql(&["tables.sql"], &[insert]).ok();
    catch_up(&work);
    work
}

/// All files of a data directory, with when they were written.
fn files(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let modified = path.metadata().unwrap().modified().unwrap();
            found.insert(path, modified);
        }
    }
    found
}

#[test]
fn an_intact_job_is_reported_and_not_changed() {
    let work = ran();
    let before = files(&work.path("anabranch-data"));
    let kept = files(&work.path("kept"));
    for arguments in [&["check"][..], &["check", "keep"], &["check", "--sink"]] {
        let ran = work.anabranch(arguments);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        assert_eq!(ran.out, "", "{arguments:?}");
        assert!(ran.err.contains("checked 1 job, "), "{}", ran.err);
        assert!(ran.err.contains(": no problems found"), "{}", ran.err);
    }
    let json = work.anabranch(&["check", "--format", "json"]).ok();
    assert_eq!(json.out.trim(), "[]");
    assert_eq!(files(&work.path("anabranch-data")), before);
    assert_eq!(files(&work.path("kept")), kept);
    let missing = work.anabranch(&["check", "nothing"]);
    assert_eq!(missing.code, Some(2), "{missing:#?}");
    assert!(
        missing.err.contains("no job is named nothing"),
        "{}",
        missing.err
    );
    let elsewhere = work.anabranch(&["check", "--data-dir", "nowhere"]);
    assert!(
        elsewhere
            .err
            .contains("data directory 'nowhere' does not exist"),
        "{}",
        elsewhere.err
    );
    assert!(!work.path("nowhere").exists());
}

#[tokio::test]
async fn any_bit_that_flips_in_any_file_is_found() {
    let work = ran();
    let data = work.path("anabranch-data");
    let dir = DataDir::open(&data.display().to_string()).unwrap();
    let broken = async || {
        let findings = check(&dir, None).await.unwrap().findings;
        findings
            .into_iter()
            .map(|one| format!("{} {}", one.place, one.problem))
            .collect::<Vec<_>>()
    };
    assert_eq!(broken().await, [] as [String; 0]);
    let mut random = 88_172_645_463_325_252_u64;
    let mut kinds = BTreeMap::<String, usize>::new();
    for path in files(&data).keys() {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "heartbeat.json" {
            continue;
        }
        let whole = std::fs::read(path).unwrap();
        // `check` reports no file of a batch that the job no longer has; it is swept the next time.
        std::fs::remove_file(path).unwrap();
        let of_log = ["/log/", "/checkpoint/", "/names/"]
            .iter()
            .any(|folder| path.display().to_string().contains(folder));
        let is_needed = of_log || !broken().await.is_empty();
        std::fs::write(path, &whole).unwrap();
        if !is_needed {
            continue;
        }
        for turn in 0..6 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut damaged = whole.clone();
            let at = usize::try_from(random % (8 * whole.len() as u64)).unwrap();
            match turn {
                5 => damaged.truncate(at / 8),
                _ => damaged[at / 8] ^= 1 << (at % 8),
            }
            std::fs::write(path, damaged).unwrap();
            let found = broken().await;
            assert!(!found.is_empty(), "{} at bit {at}", path.display());
            let is_named = found.iter().any(|one| one.contains(name));
            assert!(is_named, "{} at bit {at}: {found:?}", path.display());
        }
        std::fs::write(path, whole).unwrap();
        let folder = path
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap();
        *kinds.entry(folder.to_owned()).or_default() += 1;
    }
    for kind in [
        "log",
        "checkpoint",
        "versions",
        "state",
        "late",
        "dead",
        "packs",
        "names",
    ] {
        assert!(
            kinds.contains_key(kind),
            "no file of {kind} was tried: {kinds:?}"
        );
    }
    assert_eq!(broken().await, [] as [String; 0]);
}

#[test]
fn each_problem_names_the_loss_and_the_remedy() {
    let work = ran();
    let version = work
        .sql(&[], &["SELECT max(batch) AS last FROM system.batches"])
        .ok();
    assert!(version.out.contains("last"), "{}", version.out);
    let state = files(&work.path("anabranch-data"));
    let state = state
        .keys()
        .rfind(|path| path.display().to_string().contains("/state/"))
        .unwrap()
        .clone();
    let whole = std::fs::read(&state).unwrap();
    std::fs::write(&state, &whole[..whole.len() / 2]).unwrap();
    let found = work.anabranch(&["check", "--format", "ndjson"]);
    assert_eq!(found.code, Some(1), "{found:#?}");
    let row: serde_json::Value = serde_json::from_str(found.out.lines().next().unwrap()).unwrap();
    assert_eq!(row["job"], "keep");
    assert!(
        row["place"].as_str().unwrap().starts_with("state/"),
        "{row}"
    );
    assert!(
        row["problem"]
            .as_str()
            .unwrap()
            .contains("not those that were written"),
        "{row}"
    );
    assert!(
        row["lost"]
            .as_str()
            .unwrap()
            .contains("keyed state of batches "),
        "{row}"
    );
    assert!(
        row["help"].as_str().unwrap().contains("restore the file"),
        "{row}"
    );
    assert!(found.err.contains("1 problem found"), "{}", found.err);
    // The job says the same when it starts.
    add(&work, [190]);
    let run = work.anabranch(&["run", "tables.sql", "job.sql", "--until-caught-up"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(
        run.err
            .contains("cannot be read: its bytes are not those that were written"),
        "{}",
        run.err
    );
    assert!(run.err.contains("REWIND JOB"), "{}", run.err);
}

#[test]
fn a_table_that_was_restored_to_an_earlier_day_is_found() {
    let work = ran();
    let copy = |from: &str, to: &str| {
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .args([work.path(from), work.path(to)])
            .status();
        assert!(copied.unwrap().success());
    };
    copy("kept", "backup");
    add(&work, (40..50).map(|n| n * 3));
    catch_up(&work);
    work.anabranch(&["check", "--sink"]).ok();
    std::fs::remove_dir_all(work.path("kept")).unwrap();
    copy("backup", "kept");
    let found = work.anabranch(&["check", "keep", "--sink", "--format", "csv"]);
    assert_eq!(found.code, Some(1), "{found:#?}");
    assert!(
        found.out.contains("it is older than the job's log"),
        "{}",
        found.out
    );
    // `check` does not create a sink that is gone.
    std::fs::remove_dir_all(work.path("kept")).unwrap();
    let gone = work.anabranch(&["check", "--sink", "--format", "csv"]);
    assert_eq!(gone.code, Some(1), "{gone:#?}");
    assert!(
        gone.out
            .contains("the Delta table at 'kept' no longer exists"),
        "{}",
        gone.out
    );
    assert!(!work.path("kept").exists());
}

#[test]
fn a_running_job_is_consistent_at_every_moment() {
    let work = workspace();
    add(&work, [0]);
    let mut running = work
        .command()
        .args(["run", "tables.sql", "job.sql"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for turn in 0..12 {
        add(&work, (0..6).map(|n| 3 * (6 * turn + n)));
        let found = work.anabranch(&["check", "--format", "csv"]);
        assert_eq!(found.code, Some(0), "{found:#?}");
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let found = work.anabranch(&["check", "--sink", "--format", "csv"]);
    assert_eq!(found.code, Some(0), "{found:#?}");
}
