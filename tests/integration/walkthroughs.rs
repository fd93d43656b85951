//! The stored SQL of `sql/`, on real Kafka and Delta, checked by Kafka's own consumer.

use crate::support::{
    Workspace, copy_folder, create_topic, kafka, numbers_of, produce, read_by_kafka, repository,
    topic,
};

/// The stored SQL in a workspace, over topics that no other test has.
pub(crate) struct StoredSql {
    pub(crate) work: Workspace,
    /// The suffix of the topics' names.
    suffix: String,
}

impl StoredSql {
    pub(crate) fn new() -> Self {
        let work = Workspace::new();
        let suffix = topic("");
        std::fs::remove_file(work.path("sql")).unwrap();
        copy_folder(&repository().join("sql"), &work.path("sql"));
        let mut renamed = 0;
        for file in std::fs::read_dir(work.path("sql/tables")).unwrap() {
            let path = file.unwrap().path();
            let mut text = String::new();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let is_topic = line.starts_with("STORED AS KAFKA LOCATION '");
                match line.strip_suffix('\'').filter(|_| is_topic) {
                    Some(begin) => text += &format!("{begin}{suffix}'\n"),
                    None => text += &format!("{line}\n"),
                }
                renamed += u32::from(is_topic);
            }
            std::fs::write(path, text).unwrap();
        }
        assert!(renamed > 0, "no table over a topic was found");
        Self { work, suffix }
    }

    /// The topic that stored files call so.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }

    /// Its records as Kafka's own consumer prints them, a line each.
    fn printed(&self, name: &str, properties: &[&str]) -> Vec<String> {
        let printed = read_by_kafka(&kafka(), &self.topic(name), properties);
        printed.lines().map(str::to_owned).collect()
    }
}

#[test]
fn sessions_of_an_hour_are_sent_again_whole() {
    let stored = StoredSql::new();
    let work = &stored.work;
    work.anabranch(&[
        "run",
        "sql/tables/visits_archive.sql",
        "sql/sync/load_2025-09-04.sql",
    ])
    .ok();
    let done = work
        .anabranch(&[
            "run",
            "sql/tables/visits_archive.sql",
            "sql/tables/visits_counter.sql",
            "sql/reprocess/sessions.sql",
            "--param",
            "from=2025-09-04T10:00:00",
            "--param",
            "to=2025-09-04T11:00:00",
            "--param",
            "run_id=reprocessing_run_1",
        ])
        .ok();
    assert!(done.err.contains("INSERT 4"), "{}", done.err);
    let mut messages = stored.printed("visits_counter", &["print.headers=true", "print.key=true"]);
    messages.sort();
    let expected = [
        ("20250904_085900-1", 18),
        ("20250904_100000-2", 2),
        ("20250904_104500-2", 2),
        ("20250904_105200-3", 7),
    ]
    .map(|(visit, pages)| {
        format!(
            "source:reprocessing,run_id:reprocessing_run_1\t{visit}\t\
                 {{\"visit_id\":\"{visit}\",\"visited_pages\":{pages},\"is_finished\":true}}"
        )
    });
    assert_eq!(messages, expected);
}

/// The nine records of the conversion: number, minute, page.
const RECORDS: [(u32, u32, &str); 9] = [
    (1, 0, "home"),
    (2, 1, "index"),
    (3, 2, "page"),
    (4, 3, "home-2"),
    (5, 4, "index-2"),
    (6, 5, "page-2"),
    (7, 6, "home-3"),
    (8, 7, "index-3"),
    (9, 8, "page-3"),
];

fn raw((number, minute, page): (u32, u32, &str)) -> String {
    format!(
        "{{\"event_id\": \"click-{number}\", \"visit_id\": 1, \
         \"event_time\": \"2025-09-04T07:0{minute}:00.000000\", \"page\": \"{page}\"}}"
    )
}

fn converted((number, minute, page): (u32, u32, &str)) -> String {
    format!(
        "{{\"event_identifier\":\"click-{number}\",\"visit_identifier\":1,\
         \"event_time\":\"2025-09-04T07:0{minute}:00.000+02:00\",\"visited_page\":\"{page}\"}}"
    )
}

#[test]
fn records_are_synchronized_converted_and_converted_again() {
    let stored = StoredSql::new();
    let work = &stored.work;
    let visits = stored.topic("visits");
    create_topic(&visits, 1);
    let sync = || {
        work.anabranch(&[
            "run",
            "sql/tables/visits_raw.sql",
            "sql/tables/visits_records.sql",
            "sql/sync/visits_raw.sql",
        ])
        .ok()
        .err
    };

    // Three rounds, each of which continues where the table ends; one more has nothing to do.
    for (round, records) in RECORDS.chunks(3).enumerate() {
        let lines: Vec<String> = records.iter().copied().map(raw).collect();
        produce(&visits, &(lines.join("\n") + "\n"));
        let printed = sync();
        assert!(printed.contains("INSERT 3"), "round {round}: {printed}");
    }
    assert!(sync().contains("INSERT 0"));
    let archive = work
        .sql(
            &["sql/tables/visits_raw.sql"],
            &["SELECT value, partition, \"offset\", year, month, day, hour FROM visits_raw ORDER BY \"offset\""],
        )
        .ok()
        .out;
    let expected: Vec<String> = RECORDS
        .iter()
        .enumerate()
        .map(|(offset, record)| {
            format!(
                "{{\"value\":{},\"partition\":0,\"offset\":{offset},\"year\":2025,\"month\":9,\"day\":4,\"hour\":7}}",
                serde_json::Value::from(raw(*record))
            )
        })
        .collect();
    assert_eq!(archive.lines().collect::<Vec<_>>(), expected);

    let tables = [
        "run",
        "sql/tables/visits_raw.sql",
        "sql/tables/visits_paris.sql",
        "sql/tables/visits_converted.sql",
    ];
    work.anabranch(&[&tables[..], &["sql/sync/convert.sql"]].concat())
        .ok();
    let again = [
        "sql/reprocess/convert.sql",
        "--param",
        "run_id=conversion_1",
        "--param",
        r#"from={"visits":{"0":0}}"#,
        "--param",
        r#"to={"visits":{"0":3}}"#,
    ];
    work.anabranch(&[&tables[..], &again[..]].concat()).ok();

    let messages = stored.printed(
        "visits_converted",
        &["print.headers=true", "print.offset=true"],
    );
    let first = RECORDS
        .iter()
        .enumerate()
        .map(|(offset, record)| format!("Offset:{offset}\tNO_HEADERS\t{}", converted(*record)));
    let second = RECORDS[..3].iter().enumerate().map(|(index, record)| {
        let offset = index + 9;
        format!(
            "Offset:{offset}\tsource:reprocessing,run_id:conversion_1\t{}",
            converted(*record)
        )
    });
    assert_eq!(messages, first.chain(second).collect::<Vec<_>>());
}

#[test]
fn records_are_archived_and_converted_by_jobs() {
    let stored = StoredSql::new();
    let work = &stored.work;
    let visits = stored.topic("visits");
    create_topic(&visits, 1);
    for records in RECORDS.chunks(4) {
        let lines: Vec<String> = records.iter().copied().map(raw).collect();
        produce(&visits, &(lines.join("\n") + "\n"));
        let ran = work
            .anabranch(&[
                "run",
                "sql/tables/visits_raw.sql",
                "sql/tables/visits_records.sql",
                "sql/tables/visits_paris.sql",
                "sql/tables/visits_converted.sql",
                "sql/jobs/archive.sql",
                "sql/jobs/convert.sql",
                "--until-caught-up",
            ])
            .ok();
        let counts = format!("{0} records read, {0} rows written", records.len());
        assert_eq!(ran.err.matches(&counts).count(), 2, "{}", ran.err);
    }
    let messages = stored.printed("visits_converted", &["print.headers=true"]);
    let expected: Vec<String> = RECORDS
        .iter()
        .map(|record| format!("NO_HEADERS\t{}", converted(*record)))
        .collect();
    assert_eq!(messages, expected);
    let archive = work
        .sql(
            &["sql/tables/visits_raw.sql"],
            &["SELECT \"offset\", json_get_str(value, 'event_id') AS event_id, hour FROM visits_raw ORDER BY \"offset\""],
        )
        .ok()
        .out;
    let expected: Vec<String> = (0..RECORDS.len())
        .map(|offset| {
            format!(
                "{{\"offset\":{offset},\"event_id\":\"click-{}\",\"hour\":7}}",
                offset + 1
            )
        })
        .collect();
    assert_eq!(archive.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_job_continues_the_archive_of_a_one_time_insert() {
    let stored = StoredSql::new();
    let work = &stored.work;
    let visits = stored.topic("visits");
    create_topic(&visits, 1);
    let tables = ["sql/tables/visits_raw.sql", "sql/tables/visits_records.sql"];
    let send = |records: &[(u32, u32, &str)]| {
        let lines: Vec<String> = records.iter().copied().map(raw).collect();
        produce(&visits, &(lines.join("\n") + "\n"));
    };
    let run = |arguments: &[&str]| {
        work.anabranch(&[&["run"][..], &tables, arguments].concat())
            .ok()
    };
    let archived = || {
        let rows = work.sql(&tables, &["SELECT \"offset\" AS v FROM visits_raw"]);
        numbers_of(&rows.ok().out)
    };
    send(&RECORDS[..5]);
    assert!(run(&["sql/sync/visits_raw.sql"]).err.contains("INSERT 5"));
    // With nothing new, with new records, and once more.
    let keep_going = ["sql/jobs/archive.sql", "--until-caught-up"];
    run(&keep_going);
    assert_eq!(archived(), [0, 1, 2, 3, 4]);
    let coverage = || {
        let query = "SELECT partition, from_offset, to_offset, kind, in_topic FROM archive_coverage('visits_records')";
        work.sql(&tables, &[query]).ok().out
    };
    let range = |to: u32, kind: &str| {
        format!(
            "{{\"partition\":0,\"from_offset\":0,\"to_offset\":{to},\"kind\":\"{kind}\",\"in_topic\":true}}\n"
        )
    };
    assert_eq!(coverage(), range(5, "covered"));
    send(&RECORDS[5..]);
    run(&keep_going);
    run(&keep_going);
    assert_eq!(archived(), (0..9).collect::<Vec<u64>>());
    assert_eq!(coverage(), range(9, "covered"));
}

#[test]
fn sessions_of_an_hour_are_run_again_by_their_job() {
    let stored = StoredSql::new();
    let work = &stored.work;
    let tables = [
        "sql/tables/visits_raw.sql",
        "sql/tables/visits_records.sql",
        "sql/tables/visits_archived.sql",
        "sql/tables/visits_counter.sql",
    ];
    let run = |arguments: &[&str]| {
        work.anabranch(&[&["run"][..], &tables, arguments].concat())
            .ok()
    };
    let sent = run(&["sql/sync/send_2025-09-04.sql"]);
    assert!(sent.err.contains("INSERT 44"), "{}", sent.err);
    run(&[
        "sql/jobs/archive.sql",
        "sql/jobs/sessions.sql",
        "--until-caught-up",
    ]);
    let properties = ["print.headers=true", "print.key=true"];
    let by_job = stored.printed("visits_counter", &properties).len();
    let again = || {
        run(&[
            "sql/reprocess/visits_counter.sql",
            "--param",
            "from=2025-09-04T10:00:00",
            "--param",
            "to=2025-09-04T11:00:00",
            "--param",
            "run_id=reprocessing_run_1",
        ])
    };
    again();
    // A run that is complete writes nothing more.
    again();
    let mut messages = stored
        .printed("visits_counter", &properties)
        .split_off(by_job);
    messages.sort();
    let expected = [
        ("20250904_085900-1", 18),
        ("20250904_100000-2", 2),
        ("20250904_104500-2", 2),
        ("20250904_105200-3", 7),
    ];
    assert_eq!(messages.len(), expected.len(), "{messages:?}");
    for (message, (visit, pages)) in messages.iter().zip(expected) {
        let marked = "source:reprocessing,run_id:reprocessing_run_1,sql_version:";
        let row = format!(
            "\t{visit}\t{{\"visit_id\":\"{visit}\",\"visited_pages\":{pages},\"is_finished\":true}}"
        );
        assert!(
            message.starts_with(marked) && message.ends_with(&row),
            "{message}"
        );
    }
}

#[test]
fn records_are_converted_again_by_their_job() {
    let stored = StoredSql::new();
    let work = &stored.work;
    let visits = stored.topic("visits");
    create_topic(&visits, 1);
    let lines: Vec<String> = RECORDS[..5].iter().copied().map(raw).collect();
    produce(&visits, &(lines.join("\n") + "\n"));
    let tables = [
        "sql/tables/visits_raw.sql",
        "sql/tables/visits_records.sql",
        "sql/tables/visits_paris_archived.sql",
        "sql/tables/visits_converted.sql",
    ];
    let run = |arguments: &[&str]| {
        work.anabranch(&[&["run"][..], &tables, arguments].concat())
            .ok()
    };
    run(&[
        "sql/jobs/archive.sql",
        "sql/jobs/convert.sql",
        "--until-caught-up",
    ]);
    run(&[
        "sql/reprocess/convert_visits.sql",
        "--param",
        "run_id=conversion_1",
        "--param",
        "from={\"visits_paris\":{\"0\":0}}",
        "--param",
        "to={\"visits_paris\":{\"0\":3}}",
    ]);
    let messages = stored.printed("visits_converted", &["print.headers=true"]);
    let by_job = RECORDS[..5]
        .iter()
        .map(|record| format!("NO_HEADERS\t{}", converted(*record)));
    assert_eq!(messages[..5], by_job.collect::<Vec<_>>());
    assert_eq!(messages.len(), 8, "{messages:?}");
    for (message, record) in messages[5..].iter().zip(RECORDS) {
        let marked = "source:reprocessing,run_id:conversion_1,sql_version:";
        let row = format!("\t{}", converted(record));
        assert!(
            message.starts_with(marked) && message.ends_with(&row),
            "{message}"
        );
    }
}

#[test]
fn late_visits_are_repaired_by_a_plan() {
    let stored = StoredSql::new();
    let work = &stored.work;
    let visits = stored.topic("visits");
    let tables = [
        "sql/tables/visits_raw.sql",
        "sql/tables/visits_records.sql",
        "sql/tables/visits_archived.sql",
        "sql/tables/visits_counter.sql",
    ];
    let run = |arguments: &[&str]| {
        work.anabranch(&[&["run"][..], &tables, arguments].concat())
            .ok()
    };
    let jobs = [
        "sql/jobs/archive.sql",
        "sql/jobs/sessions.sql",
        "--until-caught-up",
    ];
    run(&["sql/sync/send_2025-09-04.sql"]);
    run(&jobs);
    // Two visits of user 2 come when the day is over: one belongs to a session that is finished, one is a session of its own.
    let late = [("10:50:00", "late-1"), ("06:00:00", "late-2")].map(|(time, page)| {
        format!(
            "{{\"event_id\": \"{page}\", \"user_id\": 2, \"event_time\": \"2025-09-04T{time}Z\", \"page\": \"{page}\"}}\n"
        )
    });
    produce(&visits, &late.concat());
    run(&jobs);
    let properties = ["print.headers=true", "print.key=true"];
    let by_job = stored.printed("visits_counter", &properties).len();
    let planned = run(&[
        "sql/reprocess/late_visits.sql",
        "--param",
        "run_id=late_visits_1",
    ]);
    let changes = || {
        let query = "SELECT kind, count(*) AS n FROM system.run_changes WHERE run_id = 'late_visits_1' \
                     GROUP BY kind ORDER BY kind";
        work.sql(&tables, &[query]).ok().out
    };
    let expected = "{\"kind\":\"changed\",\"n\":1}\n{\"kind\":\"new\",\"n\":1}\n";
    assert_eq!(changes(), expected, "{}", planned.err);
    assert_eq!(stored.printed("visits_counter", &properties).len(), by_job);
    work.sql(&tables, &["APPLY RUN 'late_visits_1'"]).ok();
    let mut messages = stored
        .printed("visits_counter", &properties)
        .split_off(by_job);
    messages.sort();
    let rows = [("20250904_060000-2", 1), ("20250904_104500-2", 3)].map(|(visit, pages)| {
        format!(
            "\t{visit}\t{{\"visit_id\":\"{visit}\",\"visited_pages\":{pages},\"is_finished\":true}}"
        )
    });
    assert_eq!(messages.len(), rows.len(), "{messages:?}");
    for (message, row) in messages.iter().zip(rows) {
        assert!(
            message.starts_with("source:reprocessing,run_id:late_visits_1,"),
            "{message}"
        );
        assert!(message.ends_with(&row), "{message}");
    }
}

#[test]
fn the_demo_runs_without_installed_services() {
    let work = Workspace::new();
    let done = work.anabranch(&["demo"]).ok();
    assert!(
        done.out
            .contains("{source: reprocessing, run_id: demo_run_1}"),
        "{}",
        done.out
    );
    // Each session that was open is told live, then as finished, then reprocessed with the same count.
    let last = done.out.rsplit("VARCHAR>\n").next().unwrap();
    let told: Vec<Vec<&str>> = last
        .lines()
        .filter(|line| line.contains("{source"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(told.len(), 9, "{last}");
    for of_session in told.chunks(3) {
        let id = of_session[0][0];
        assert!(of_session.iter().all(|row| row[0] == id), "{last}");
        let finished: Vec<&str> = of_session.iter().map(|row| row[2]).collect();
        assert_eq!(finished, ["false", "true", "true"], "{last}");
        assert_eq!(of_session[1][1], of_session[2][1], "{last}");
        let sources: Vec<&str> = of_session.iter().map(|row| row[4]).collect();
        assert_eq!(sources, ["live}", "live}", "reprocessing,"], "{last}");
    }
    assert_eq!(
        std::fs::read_dir(work.dir.path()).unwrap().count(),
        1,
        "only the link to sql"
    );
}
