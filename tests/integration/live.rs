//! The stored jobs of `sql/` on real Kafka, checked by a consumer of the test's own.

use crate::support::{ProgramOutput, consume, create_topic, produce};
use crate::walkthroughs::StoredSql;

/// Stored files over topics of their own.
struct LiveTopics {
    stored: StoredSql,
    files: Vec<&'static str>,
}

impl LiveTopics {
    /// `source` is the topic that is read, and how many partitions it has.
    fn new(files: &[&'static str], source: (&str, u32)) -> Self {
        let stored = StoredSql::new();
        create_topic(&stored.topic(source.0), source.1);
        Self {
            stored,
            files: files.to_vec(),
        }
    }

    /// Sends lines to a topic, by the name that the files give it.
    fn produce(&self, topic: &str, lines: &str) {
        produce(&self.stored.topic(topic), lines);
    }

    /// The records of a topic, a line each.
    fn consume(&self, topic: &str, properties: &[&str]) -> Vec<String> {
        consume(&self.stored.topic(topic), properties)
    }

    /// Runs the files until all that is there is handled.
    fn catch_up(&self) -> ProgramOutput {
        let mut arguments = vec!["run"];
        arguments.extend(&self.files);
        arguments.push("--until-caught-up");
        self.stored.work.anabranch(&arguments).ok()
    }

    fn sql(&self, statement: &str) -> Vec<serde_json::Value> {
        let work = &self.stored.work;
        work.sql(&self.files, &[statement]).ok().rows()
    }
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn sessions_grow_and_finish_while_an_hour_is_reprocessed() {
    let live = LiveTopics::new(
        &[
            "sql/tables/visits.sql",
            "sql/tables/visits_counter.sql",
            "sql/jobs/sessions.sql",
        ],
        ("visits", 1),
    );
    let visit = |number: u32, user: u32, time: &str, page: &str| {
        format!(
            "{{\"event_id\": \"click-{number}\", \"user_id\": {user}, \
             \"event_time\": \"2025-10-04T{time}:00.000000\", \"page\": \"{page}\"}}\n"
        )
    };
    let message = |visit: &str, pages: u32, finished: bool| {
        format!(
            "NO_HEADERS\t{visit}\t{{\"visit_id\":\"{visit}\",\"visited_pages\":{pages},\"is_finished\":{finished}}}"
        )
    };
    let properties = ["print.headers=true", "print.key=true"];
    let first = [
        visit(1, 1, "07:00", "home"),
        visit(2, 1, "07:01", "index"),
        visit(3, 1, "07:02", "page"),
        visit(4, 2, "07:02", "page"),
        visit(5, 2, "07:03", "page-2"),
    ];
    live.produce("visits", &first.concat());
    live.catch_up();
    let mut expected = vec![
        message("20251004_070000-1", 3, false),
        message("20251004_070200-2", 2, false),
    ];
    assert_eq!(
        sorted(live.consume("visits_counter", &properties)),
        expected
    );

    let second = [
        visit(6, 1, "07:05", "page-4"),
        visit(7, 2, "07:06", "page-6"),
    ];
    live.produce("visits", &second.concat());
    live.catch_up();
    expected.extend([
        message("20251004_070000-1", 4, false),
        message("20251004_070200-2", 3, false),
    ]);
    expected.sort();
    assert_eq!(
        sorted(live.consume("visits_counter", &properties)),
        expected
    );

    // The rows of a reprocessing run go to the same topic; the job goes on unchanged.
    live.stored
        .work
        .anabranch(&[
            "run",
            "sql/tables/visits_archive.sql",
            "sql/sync/load_2025-09-04.sql",
        ])
        .ok();
    let mut reprocess = vec!["run", "sql/tables/visits_archive.sql"];
    reprocess.extend([
        "sql/tables/visits_counter.sql",
        "sql/reprocess/sessions.sql",
    ]);
    for parameter in [
        "from=2025-09-04T10:00:00",
        "to=2025-09-04T11:00:00",
        "run_id=run_1",
    ] {
        reprocess.extend(["--param", parameter]);
    }
    live.stored.work.anabranch(&reprocess).ok();

    // Time goes on: both sessions are finished, and a third begins.
    live.produce("visits", &visit(8, 3, "07:40", "home"));
    live.catch_up();
    expected.extend([
        message("20251004_070000-1", 4, true),
        message("20251004_070200-2", 3, true),
        message("20251004_074000-3", 1, false),
    ]);
    expected.sort();
    let (live_rows, reprocessed): (Vec<String>, Vec<String>) = live
        .consume("visits_counter", &properties)
        .into_iter()
        .partition(|line| line.starts_with("NO_HEADERS"));
    assert_eq!(sorted(live_rows), expected);
    assert_eq!(reprocessed.len(), 4);
}

fn browser(time: &str, browser: &str) -> String {
    format!(
        "{{\"userId\": 1, \"page\": \"index.html\", \"eventTime\": \"2024-10-06T{time}:00Z\", \"browser\": \"{browser}\"}}\n"
    )
}

fn stats(browser: &str, start: &str, end: &str, count: u32, last: &str) -> String {
    let time = |time: &str| format!("\"2024-10-06T{time}:00.000Z\"");
    format!(
        "{{\"browser\":\"{browser}\",\"window\":{{\"start\":{},\"end\":{}}},\"count\":{count},\
         \"last_event_time_in_window\":{}}}",
        time(start),
        time(end),
        time(last)
    )
}

#[test]
fn a_stateless_batch_does_not_accumulate() {
    for (job, second) in [
        ("sql/jobs/browsers_per_batch.sql", 2),
        ("sql/jobs/browsers.sql", 3),
    ] {
        let live = LiveTopics::new(
            &[
                "sql/tables/browser_visits.sql",
                "sql/tables/browser_stats.sql",
                job,
            ],
            ("browser_visits", 1),
        );
        let first = [
            browser("10:00", "Firefox"),
            browser("10:01", "Chrome"),
            browser("10:02", "Safari"),
        ];
        live.produce("browser_visits", &first.concat());
        live.catch_up();
        let more = [browser("10:00", "Firefox"), browser("10:03", "Firefox")];
        live.produce("browser_visits", &more.concat());
        live.catch_up();
        let expected = vec![
            stats("Chrome", "10:00", "10:05", 1, "10:01"),
            stats("Firefox", "10:00", "10:05", 1, "10:00"),
            stats("Firefox", "10:00", "10:05", second, "10:03"),
            stats("Safari", "10:00", "10:05", 1, "10:02"),
        ];
        assert_eq!(
            sorted(live.consume("browser_stats", &[])),
            expected,
            "{job}"
        );
    }
}

#[test]
fn time_2_the_watermark_decides_what_is_late() {
    // Spark's rule, and with one partition the default comes to the same.
    for policy in ["max", "min"] {
        let live = LiveTopics::new(
            &[
                "tables.sql",
                "sql/tables/browser_stats.sql",
                "sql/jobs/browsers.sql",
            ],
            ("browser_visits", 1),
        );
        let table = live.stored.work.path("sql/tables/browser_visits.sql");
        let table = std::fs::read_to_string(table).unwrap();
        live.stored.work.file(
            "tables.sql",
            &table.replace("'max'", &format!("'{policy}'")),
        );
        let mut expected = Vec::new();
        for (time, emitted) in [
            ("10:00", Some(("10:00", "10:05"))),
            // Twenty minutes late, and its window is still open.
            ("09:40", Some(("09:40", "09:45"))),
            ("09:30", None),
            // The watermark moves to 10:10.
            ("10:30", Some(("10:30", "10:35"))),
            ("10:00", None),
        ] {
            live.produce("browser_visits", &browser(time, "Firefox"));
            live.catch_up();
            if let Some((start, end)) = emitted {
                expected.push(stats("Firefox", start, end, 1, time));
            }
        }
        assert_eq!(live.consume("browser_stats", &[]), expected, "{policy}");
        let late = live.sql(
            "SELECT job, \"offset\", CAST(window_start AS VARCHAR) AS missed, CAST(value AS VARCHAR) AS value \
             FROM system.late_rows ORDER BY \"offset\"",
        );
        let told: Vec<String> = late
            .iter()
            .map(|row| format!("{} {} {}", row["job"], row["offset"], row["missed"]))
            .collect();
        let expected = [
            "\"browsers\" 2 \"2024-10-06T09:30:00Z\"",
            "\"browsers\" 4 \"2024-10-06T10:00:00Z\"",
        ];
        assert_eq!(told, expected, "{policy}");
        assert_eq!(late[0]["value"], browser("09:30", "Firefox").trim_end());
    }
}

#[test]
fn exact_3_a_rewind_emits_a_batch_again() {
    let live = LiveTopics::new(
        &[
            "sql/tables/visits_events.sql",
            "sql/tables/visits_windows.sql",
            "sql/jobs/windows.sql",
        ],
        ("visits", 2),
    );
    let visit = |time: &str| {
        format!(
            "{{\"event_id\": \"click\", \"visit_id\": 1, \"event_time\": \"2025-09-04T{time}:00.000000\"}}\n"
        )
    };
    let window = |start: &str, end: &str, visits: u32| {
        format!(
            "{{\"window_start\":\"2025-09-04T{start}:00.000Z\",\"window_end\":\"2025-09-04T{end}:00.000Z\",\"visits\":{visits}}}"
        )
    };
    let rounds: [(&[&str], Vec<String>); 3] = [
        (
            &["07:00", "07:01", "07:02"],
            vec![window("07:00", "07:10", 3)],
        ),
        (
            &["07:00", "07:10", "07:20"],
            vec![
                window("07:00", "07:10", 4),
                window("07:10", "07:20", 1),
                window("07:20", "07:30", 1),
            ],
        ),
        (
            &["07:25", "07:35"],
            vec![window("07:20", "07:30", 2), window("07:30", "07:40", 1)],
        ),
    ];
    let mut seen = 0;
    for (times, expected) in &rounds {
        live.produce(
            "visits",
            &times.iter().map(|time| visit(time)).collect::<String>(),
        );
        live.catch_up();
        let all = live.consume("visits_windows", &[]);
        assert_eq!(sorted(all[seen..].to_vec()), *expected);
        seen = all.len();
    }
    // The job goes back to the batch before the last one with data, and emits that one again.
    let batches = live.sql("SHOW BATCHES FOR JOB visits_windows");
    let with_data: Vec<i64> = batches
        .iter()
        .filter(|batch| batch["rows_in"] != 0)
        .map(|batch| batch["batch"].as_i64().unwrap())
        .collect();
    let to = with_data[with_data.len() - 2];
    let rewound = live
        .stored
        .work
        .sql(
            &live.files,
            &[&format!("REWIND JOB visits_windows TO BATCH {to}")],
        )
        .ok();
    assert!(
        rewound.err.contains("continues from batch"),
        "{}",
        rewound.err
    );
    live.catch_up();
    let all = live.consume("visits_windows", &[]);
    assert_eq!(sorted(all[seen..].to_vec()), rounds[2].1);
    // And again, to the beginning.
    live.stored
        .work
        .sql(&live.files, &["REWIND JOB visits_windows TO BATCH 0"])
        .ok();
    live.catch_up();
    let again = live.consume("visits_windows", &[])[all.len()..].to_vec();
    assert_eq!(
        sorted(again),
        [
            window("07:00", "07:10", 4),
            window("07:10", "07:20", 1),
            window("07:20", "07:30", 2),
            window("07:30", "07:40", 1),
        ],
        "one batch over all there is"
    );
}

#[test]
fn loss_1_late_rows_are_kept_and_the_archive_counts_all() {
    let live = LiveTopics::new(
        &[
            "sql/tables/visits_events.sql",
            "sql/tables/visits_windows.sql",
            "sql/tables/visits_raw.sql",
            "sql/tables/visits_records.sql",
            "sql/jobs/windows_closed.sql",
            "sql/jobs/archive.sql",
        ],
        ("visits", 1),
    );
    let visit = |time: &str| {
        format!(
            "{{\"event_id\": \"click\", \"visit_id\": 1, \"event_time\": \"2025-09-04T{time}:00.000000\"}}\n"
        )
    };
    for times in [&["07:00", "07:09"][..], &["07:41"], &["07:05", "07:42"]] {
        live.produce(
            "visits",
            &times.iter().map(|time| visit(time)).collect::<String>(),
        );
        live.catch_up();
    }
    let closed = "{\"window_start\":\"2025-09-04T07:00:00.000Z\",\"window_end\":\"2025-09-04T07:10:00.000Z\",\"visits\":2}";
    assert_eq!(live.consume("visits_windows", &[]), [closed]);
    let late = live.sql("SELECT \"offset\", CAST(value AS VARCHAR) AS value FROM system.late_rows");
    assert_eq!(late.len(), 1);
    assert_eq!(late[0]["offset"], 3);
    assert_eq!(late[0]["value"], visit("07:05").trim_end());
    let whole = live.sql(
        "SELECT count(*) AS visits FROM TUMBLE(TABLE visits_raw, DESCRIPTOR(event_time), INTERVAL '10 minutes') \
         WHERE window_start = '2025-09-04T07:00:00' GROUP BY window_start",
    );
    assert_eq!(whole[0]["visits"], 3);
    let batches = live.sql(
        "SELECT sum(rows_in) AS rows_in, sum(late_rows) AS late, CAST(max(watermark) AS VARCHAR) AS watermark \
         FROM system.batches WHERE job = 'visits_windows_closed'",
    );
    assert_eq!(batches[0]["rows_in"], 5);
    assert_eq!(batches[0]["late"], 1);
    assert_eq!(batches[0]["watermark"], "2025-09-04T07:22:00Z");
}

#[test]
fn a_session_is_sent_once_with_its_pages_in_order() {
    let live = LiveTopics::new(
        &[
            "sql/tables/page_views.sql",
            "sql/tables/sessions.sql",
            "sql/jobs/visit_sessions.sql",
        ],
        ("page_views", 1),
    );
    let pages = [
        ("07:18", "index", 1_704_093_480_000_u64),
        ("07:21", "contact", 1_704_093_660_000),
        ("07:22", "home", 1_704_093_720_000),
        ("07:26", "home", 1_704_093_960_000),
        ("07:27", "main", 1_704_094_020_000),
        ("07:30", "index", 1_704_094_200_000),
        ("07:31", "main", 1_704_094_260_000),
        ("07:35", "category_7", 1_704_094_500_000),
        ("07:39", "home", 1_704_094_740_000),
        ("07:40", "contact", 1_704_094_800_000),
        ("07:43", "contact", 1_704_094_980_000),
        ("07:48", "contact", 1_704_095_280_000),
    ];
    let visit = "140719780965248_0";
    let user = "140719780965248_f287ad2c-6d87-4cf1-9e9a-2da3d7837bc5";
    let view = |(time, page, _): &(&str, &str, u64)| {
        format!(
            "{{\"visit_id\":\"{visit}\",\"user_id\":\"{user}\",\"event_time\":\"2024-01-01T{time}:00Z\",\"page\":\"{page}\"}}\n"
        )
    };
    // In several batches, a neighbour swapped here and there.
    for chunk in [&pages[..5], &pages[5..6], &pages[6..]] {
        let mut lines: Vec<String> = chunk.iter().map(view).collect();
        if lines.len() == 5 {
            lines.swap(1, 2);
        }
        live.produce("page_views", &lines.concat());
        live.catch_up();
    }
    assert_eq!(live.consume("sessions", &[]), Vec::<String>::new());
    let other = format!(
        "{{\"visit_id\":\"other\",\"user_id\":\"{user}\",\"event_time\":\"2024-01-01T09:00:00Z\",\"page\":\"home\"}}\n"
    );
    live.produce("page_views", &other);
    live.catch_up();
    let visited: Vec<String> = pages
        .iter()
        .map(|(_, page, at)| format!("{{\"page\":\"{page}\",\"event_time_as_milliseconds\":{at}}}"))
        .collect();
    let expected = format!(
        "{{\"visit_id\":\"{visit}\",\"user_id\":\"{user}\",\"start_time\":\"2024-01-01T08:18:00.000+01:00\",\
         \"end_time\":\"2024-01-01T08:48:00.000+01:00\",\"visited_pages\":[{}],\"duration_in_milliseconds\":1800000}}",
        visited.join(",")
    );
    assert_eq!(live.consume("sessions", &[]), [expected]);
}
