//! Benchmarks of archived topics: queries over a topic and its past, and a job that begins with the past.

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::datatypes::Int64Type;

use crate::archives::{MOST, RAW, TOPIC};
use crate::measure::{ComparedFigure, Report, StepCost, best_of, measure, taken};
use crate::{Bench, PARTITIONS, archives, peers};

/// How often each query is measured.
const TIMES: usize = 5;
/// The condition on the event time of one hour.
const HOUR: &str =
    "WHERE event_time >= '2025-09-04T10:00:00' AND event_time < '2025-09-04T11:00:00'";

pub(crate) fn archived(bench: &Bench, bootstrap: &str, report: &mut Report) {
    archives::fill_topic(bench, bootstrap);
    for (archive, table) in [(RAW, "past"), (MOST, "most_past")] {
        archive.declare(bench);
        archive.past(bench, bootstrap, table, TOPIC);
    }
    archives::without_archive(bench, bootstrap, "topic_alone");
    beside_duckdb(bench, report);
    both_halves(bench, report);
    jobs(bench, bootstrap, report);
}

/// The number of visits of each page, in the rows that follow `FROM`.
fn by_page(page: &str, from: &str) -> String {
    format!("SELECT {page} AS page, count(*) AS visits FROM {from} GROUP BY 1")
}

/// The best time of a query, and how many visits it has counted.
fn counted(bench: &Bench, query: &str) -> (StepCost, u64) {
    let count = || {
        let batches = bench.run(query);
        let counts = batches
            .iter()
            .flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values());
        u64::try_from(counts.sum::<i64>()).unwrap()
    };
    let best = best_of((0..TIMES).map(|_| measure(count)));
    (best, best.rows)
}

/// A topic whose records are all archived, beside DuckDB over the files of the archive.
fn beside_duckdb(bench: &Bench, report: &mut Report) {
    for (what, filter, hours) in [("24 hours", "", None), ("one hour", HOUR, Some(10..=10))] {
        let rows = RAW.in_duckdb(bench, hours);
        let answer = peers::duckdb(&by_page("value->>'page'", &rows));
        let theirs = taken(answer.visits, answer.seconds);
        report.add(
            &format!("DuckDB: count by page, {what} of JSON"),
            &theirs,
            None,
        );
        let (ours, visits) = counted(bench, &by_page("page", &format!("past {filter}")));
        assert_eq!(visits, answer.visits);
        report.add(
            &format!("archived topic: count by page, {what} of JSON"),
            &ours,
            Some((&theirs, ComparedFigure::Time, "≤ 1.0")),
        );
    }
}

/// A topic of which nine tenths of the records are archived.
fn both_halves(bench: &Bench, report: &mut Report) {
    let (alone, visits) = counted(bench, &by_page("page", "topic_alone"));
    assert_eq!(visits, bench.records);
    report.add("topic alone: count by page", &alone, None);
    let (both, visits) = counted(bench, &by_page("page", "most_past"));
    assert_eq!(visits, bench.records);
    report.add(
        "archived topic, 90 % archived: count by page",
        &both,
        Some((&alone, ComparedFigure::Time, "≤ 1.0")),
    );

    let of_hour = format!(
        "{} WHERE year = 2025 AND month = 9 AND day = 4 AND hour = 10",
        MOST.name
    );
    let (alone, visits) = counted(bench, &by_page("json_get_str(value, 'page')", &of_hour));
    report.add("Delta table alone: one hour, count by page", &alone, None);
    let (both, of_both) = counted(bench, &by_page("page", &format!("most_past {HOUR}")));
    assert_eq!(of_both, visits);
    report.add(
        "archived topic, 90 % archived: one hour, count by page",
        &both,
        Some((&alone, ComparedFigure::Time, "≤ 1.2")),
    );
}

/// A job over the backlog of the topic, and one that begins with the archive of the same records.
fn jobs(bench: &Bench, bootstrap: &str, report: &mut Report) {
    let of = |name: &str, table: &str| {
        let topic = format!("bench_{name}");
        peers::create_topic(bootstrap, &topic, PARTITIONS);
        bench.run(&format!(
            "CREATE EXTERNAL TABLE {name}_out (page VARCHAR, window_start TIMESTAMP, visits BIGINT)
             STORED AS KAFKA LOCATION '{topic}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}')"
        ));
        let folder = tempfile::tempdir().unwrap();
        let jobs = bench.job(
            folder.path(),
            &format!(
                "CREATE JOB {name} WITH ('trigger' 'as fast as possible') AS INSERT INTO {name}_out
                 SELECT page, window_start, count(*)
                 FROM TUMBLE(TABLE {table}, DESCRIPTOR(event_time), INTERVAL '10 minutes') GROUP BY page, window_start"
            ),
        );
        let run = measure(|| bench.catch_up(&jobs));
        assert_eq!(run.rows, bench.records);
        run
    };
    let of_topic = of("pages_of_topic", "topic_alone");
    report.add(
        "job: tumbling count per page, from the topic",
        &of_topic,
        None,
    );
    // A job reads from the archive what the topic no longer has.
    peers::forget(bootstrap, TOPIC, PARTITIONS);
    report.add(
        "job: the same, from the archive",
        &of("pages_of_past", "past"),
        Some((&of_topic, ComparedFigure::Rate, "≥ 1.0")),
    );
}
