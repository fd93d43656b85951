//! Repairs: runs over rows that came late or were set aside, which are marked by what the sink has, and which no second repair writes.

use std::process::Stdio;

use super::Past;
use crate::topics::produce_in;

/// Two visits that come minutes late: of key 0 in partition 0, and of key 1, a minute behind it, in partition 1.
fn visit_late(past: &Past) {
    for (partition, minute) in [(0, 2), (1, 3)] {
        let visit = format!("{{\"k\":{partition},\"t\":\"2025-01-01T00:0{minute}:05Z\"}}");
        let (bootstrap, source) = (&past.pipeline.bootstrap, &past.pipeline.source);
        produce_in(bootstrap, source, partition, &[visit]);
    }
}

/// The windows or sessions of the late visits.
fn with_late_visits(past: &Past, job: &str) -> Vec<String> {
    let of_key = |key: &str, from: &str, to: &str| {
        let whole = past.whole(job, from, to);
        let is_own = move |row: &String| row.starts_with(&format!("{{\"k\":{key},"));
        whole.into_iter().filter(is_own).collect::<Vec<_>>()
    };
    let first = of_key("0", "2025-01-01T00:02:05", "2025-01-01T00:02:06");
    let second = of_key("1", "2025-01-01T00:03:05", "2025-01-01T00:03:06");
    let both = [first, second].concat();
    assert_eq!(both.len(), 2, "{both:?}");
    both
}

/// The late rows of a job by the run that has repaired them.
fn repaired(past: &Past, job: &str) -> Vec<String> {
    past.rows(&format!(
        "SELECT partition AS p, repaired_by AS r FROM system.late_rows WHERE job = '{job}'"
    ))
}

fn marked(first: &str, second: &str) -> [String; 2] {
    let run = |run: &str| match run {
        "" => "null".to_owned(),
        run => format!("\"{run}\""),
    };
    [
        format!("{{\"p\":0,\"r\":{}}}", run(first)),
        format!("{{\"p\":1,\"r\":{}}}", run(second)),
    ]
}

fn repair(job: &str, condition: &str, options: &str) -> String {
    format!(
        "REPROCESS JOB {job} FOR (SELECT topic, partition, \"offset\" FROM system.late_rows WHERE job = '{job}'{condition}) \
         EMIT ALL {options}"
    )
}

#[test]
fn a_repair_marks_its_late_rows_and_a_second_one_writes_nothing() {
    let past = Past::new("run-repair", "");
    past.visit(0..120, false);
    past.catch_up();
    visit_late(&past);
    past.catch_up();
    for job in ["tumbling", "sessions"] {
        assert_eq!(repaired(&past, job), marked("", ""), "{job}");
        let first = format!("first_{job}");
        let order = repair(job, "", &format!("WITH ('run_id' '{first}')"));
        past.sql(&[&format!("PLAN {order}")]).ok();
        assert_eq!(repaired(&past, job), marked("", ""), "{job}: planned");
        past.sql(&[&order]).ok();
        let expected = with_late_visits(&past, job);
        assert_eq!(past.rows_of_run(job, &first), expected, "{job}");
        assert_eq!(repaired(&past, job), marked(&first, &first), "{job}");
        let written = format!("SELECT count(*) AS n FROM {job}_seen WHERE headers IS NOT NULL");
        let before = past.rows(&written);
        for (condition, says) in [
            (
                "",
                format!("repaired already are 2 rows that FOR selects, by run '{first}'"),
            ),
            (
                " AND repaired_by IS NULL",
                "there is nothing to reprocess: the query of FOR gives no rows".to_owned(),
            ),
        ] {
            let runs = "SELECT count(*) AS n FROM system.runs";
            let made = past.rows(runs);
            let order = repair(job, condition, "");
            for verb in ["EXPLAIN ", "PLAN ", ""] {
                let again = past.sql(&[&format!("{verb}{order}")]).ok();
                assert!(again.out.contains(&says), "{again:?}");
            }
            assert_eq!(past.rows(runs), made, "{job}");
        }
        assert_eq!(past.rows(&written), before, "{job}");
        // The query says which rows: a repair that was wrong is done again.
        let condition = format!(" AND repaired_by = '{first}'");
        let second = format!("second_{job}");
        let options = format!("WITH ('run_id' '{second}')");
        past.sql(&[&repair(job, &condition, &options)]).ok();
        assert_eq!(past.rows_of_run(job, &second), expected, "{job}");
        assert_eq!(repaired(&past, job), marked(&second, &second), "{job}");
    }
}

#[test]
fn a_repair_that_dies_marks_what_it_has_published() {
    let past = Past::new("run-repair-dies", "");
    past.visit(0..120, false);
    past.catch_up();
    visit_late(&past);
    past.catch_up();
    let order = repair(
        "tumbling",
        "",
        "WITH ('run_id' 'dies', 'chunk' '10 seconds')",
    );
    let mut dying = past.process(&order);
    dying.env("ANABRANCH_FAIL_POINT", "logged:1");
    dying.stdout(Stdio::null()).stderr(Stdio::null());
    assert_eq!(dying.status().unwrap().code(), None);
    assert_eq!(repaired(&past, "tumbling"), marked("dies", ""));
    // Another repair takes the rest.
    let rest = repair("tumbling", "", "WITH ('run_id' 'rest')");
    let said = past.sql(&[&rest]).ok();
    assert!(
        said.out
            .contains("repaired already: 1 row that FOR selects, by run 'dies'"),
        "{said:?}"
    );
    let expected = with_late_visits(&past, "tumbling");
    assert_eq!(past.rows_of_run("tumbling", "rest"), expected[1..]);
    assert_eq!(repaired(&past, "tumbling"), marked("dies", "rest"));
}

#[test]
fn a_record_that_a_run_cannot_use_either_is_not_repaired() {
    let past = Past::new("run-repair-dead", "");
    past.visit(0..20, false);
    let (bootstrap, source) = (&past.pipeline.bootstrap, &past.pipeline.source);
    let unusable = "{\"k\":\"seven\",\"t\":\"2025-01-01T00:02:05Z\"}".to_owned();
    produce_in(bootstrap, source, 0, &[unusable]);
    past.catch_up();
    let unrepaired =
        "SELECT count(*) AS n FROM system.dead_letters WHERE job = 'rows' AND repaired_by IS NULL";
    assert_eq!(past.rows(unrepaired), ["{\"n\":1}"]);
    let order = "REPROCESS JOB rows FOR (SELECT topic, partition, \"offset\" FROM system.dead_letters \
                 WHERE job = 'rows') EMIT ALL WITH ('run_id' 'dead')";
    past.sql(&[order]).ok();
    assert_eq!(past.rows_of_run("rows", "dead"), [""; 0]);
    assert_eq!(past.rows(unrepaired), ["{\"n\":1}"]);
}

#[test]
fn late_rows_are_left_out_however_many_the_job_has_recorded_elsewhere() {
    let past = Past::new("run-exclude", "");
    past.visit(0..120, false);
    past.catch_up();
    let before = past.whole("tumbling", "2025-01-01T00:02:00", "2025-01-01T00:02:10");
    visit_late(&past);
    past.catch_up();
    let order = "REPROCESS JOB tumbling FROM '2025-01-01T00:02:00' TO '2025-01-01T00:02:10' EMIT ALL \
                 WITH ('run_id' 'exclude', 'late' 'exclude')";
    past.sql(&[order]).ok();
    assert_eq!(past.rows_of_run("tumbling", "exclude"), before);
    // It has written the window again, and not with the late row.
    assert_eq!(repaired(&past, "tumbling"), marked("", ""));
    let include = order.replace("'exclude', 'late' 'exclude'", "'include'");
    past.sql(&[&include]).ok();
    assert_eq!(repaired(&past, "tumbling"), marked("include", ""));
}
