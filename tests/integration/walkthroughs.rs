//! The stored SQL of `sql/`, on real Kafka and Delta, checked by Kafka's own consumer.

use crate::support::{
    ProgramOutput, Workspace, copy_folder, create_topic, kafka, numbers_of, produce, read_by_kafka,
    repository, topic,
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

    /// Runs the stored files that declare these tables, then other files and options.
    fn run(&self, tables: &[&str], others: &[&str]) -> ProgramOutput {
        self.work
            .anabranch(&[&["run"][..], tables, others].concat())
            .ok()
    }

    /// Sends records of the conversion to the topic of visits.
    fn send(&self, records: &[ClickRecord]) {
        let lines: Vec<String> = records.iter().copied().map(raw).collect();
        produce(&self.topic("visits"), &(lines.join("\n") + "\n"));
    }

    /// Its records as Kafka's own consumer prints them, a line each.
    fn printed(&self, name: &str, properties: &[&str]) -> Vec<String> {
        let printed = read_by_kafka(&kafka(), &self.topic(name), properties);
        printed.lines().map(str::to_owned).collect()
    }
}

/// The archive of raw records, and the records of its topic.
const RECORDS_ARCHIVE: [&str; 2] = ["sql/tables/visits_raw.sql", "sql/tables/visits_records.sql"];

/// The tables of archived visits and of their counts.
const COUNTED_VISITS: [&str; 4] = [
    "sql/tables/visits_raw.sql",
    "sql/tables/visits_records.sql",
    "sql/tables/visits_archived.sql",
    "sql/tables/visits_counter.sql",
];

/// Archives the visits and counts them, until all is done.
const COUNTING: [&str; 3] = [
    "sql/jobs/archive.sql",
    "sql/jobs/sessions.sql",
    "--until-caught-up",
];

/// Archives the records of the conversion and converts them, until all is done.
const CONVERTING: [&str; 3] = [
    "sql/jobs/archive.sql",
    "sql/jobs/convert.sql",
    "--until-caught-up",
];

/// The parts of a message that are printed beside its value.
const KEYS_AND_HEADERS: [&str; 2] = ["print.headers=true", "print.key=true"];

/// The hour that is reprocessed, as parameters.
const HOUR: [&str; 6] = [
    "--param",
    "from=2025-09-04T10:00:00",
    "--param",
    "to=2025-09-04T11:00:00",
    "--param",
    "run_id=reprocessing_run_1",
];

/// The sessions with a visit in that hour: id, pages.
const SESSIONS_OF_THE_HOUR: [(&str, u32); 4] = [
    ("20250904_085900-1", 18),
    ("20250904_100000-2", 2),
    ("20250904_104500-2", 2),
    ("20250904_105200-3", 7),
];

/// A finished session in the topic: key and value.
fn counted((visit, pages): (&str, u32)) -> String {
    format!("{visit}\t{{\"visit_id\":\"{visit}\",\"visited_pages\":{pages},\"is_finished\":true}}")
}

/// These messages have the rows, and the headers of the run.
#[track_caller]
fn assert_marked(
    messages: &[String],
    run_id: &str,
    rows: impl IntoIterator<Item = String, IntoIter: ExactSizeIterator>,
) {
    let rows = rows.into_iter();
    assert_eq!(messages.len(), rows.len(), "{messages:?}");
    let marked = format!("source:reprocessing,run_id:{run_id},sql_version:");
    for (message, row) in messages.iter().zip(rows) {
        assert!(
            message.starts_with(&marked) && message.ends_with(&format!("\t{row}")),
            "{message}"
        );
    }
}

#[test]
fn sessions_of_an_hour_are_sent_again_whole() {
    let stored = StoredSql::new();
    let archive = "sql/tables/visits_archive.sql";
    stored.run(&[archive], &["sql/sync/load_2025-09-04.sql"]);
    let tables = [archive, "sql/tables/visits_counter.sql"];
    let again = [&["sql/reprocess/sessions.sql"][..], &HOUR].concat();
    let done = stored.run(&tables, &again);
    assert!(done.err.contains("INSERT 4"), "{}", done.err);
    let mut messages = stored.printed("visits_counter", &KEYS_AND_HEADERS);
    messages.sort();
    let expected = SESSIONS_OF_THE_HOUR.map(|session| {
        format!(
            "source:reprocessing,run_id:reprocessing_run_1\t{}",
            counted(session)
        )
    });
    assert_eq!(messages, expected);
}

/// A record of the conversion: number, minute, page.
type ClickRecord = (u32, u32, &'static str);

const RECORDS: [ClickRecord; 9] = [
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

fn raw((number, minute, page): ClickRecord) -> String {
    format!(
        "{{\"event_id\": \"click-{number}\", \"visit_id\": 1, \
         \"event_time\": \"2025-09-04T07:0{minute}:00.000000\", \"page\": \"{page}\"}}"
    )
}

fn converted((number, minute, page): ClickRecord) -> String {
    format!(
        "{{\"event_identifier\":\"click-{number}\",\"visit_identifier\":1,\
         \"event_time\":\"2025-09-04T07:0{minute}:00.000+02:00\",\"visited_page\":\"{page}\"}}"
    )
}

#[test]
fn records_are_synchronized_converted_and_converted_again() {
    let stored = StoredSql::new();
    create_topic(&stored.topic("visits"), 1);
    let sync = || {
        stored
            .run(&RECORDS_ARCHIVE, &["sql/sync/visits_raw.sql"])
            .err
    };

    // Three rounds, each of which continues where the table ends; one more has nothing to do.
    for (round, records) in RECORDS.chunks(3).enumerate() {
        stored.send(records);
        let printed = sync();
        assert!(printed.contains("INSERT 3"), "round {round}: {printed}");
    }
    assert!(sync().contains("INSERT 0"));
    let archive = stored
        .work
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
        "sql/tables/visits_raw.sql",
        "sql/tables/visits_paris.sql",
        "sql/tables/visits_converted.sql",
    ];
    stored.run(&tables, &["sql/sync/convert.sql"]);
    let again = [
        "sql/reprocess/convert.sql",
        "--param",
        "run_id=conversion_1",
        "--param",
        r#"from={"visits":{"0":0}}"#,
        "--param",
        r#"to={"visits":{"0":3}}"#,
    ];
    stored.run(&tables, &again);

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
    create_topic(&stored.topic("visits"), 1);
    let tables = [
        "sql/tables/visits_raw.sql",
        "sql/tables/visits_records.sql",
        "sql/tables/visits_paris.sql",
        "sql/tables/visits_converted.sql",
    ];
    for records in RECORDS.chunks(4) {
        stored.send(records);
        let ran = stored.run(&tables, &CONVERTING);
        let counts = format!("{0} records read, {0} rows written", records.len());
        assert_eq!(ran.err.matches(&counts).count(), 2, "{}", ran.err);
    }
    let messages = stored.printed("visits_converted", &["print.headers=true"]);
    let expected: Vec<String> = RECORDS
        .iter()
        .map(|record| format!("NO_HEADERS\t{}", converted(*record)))
        .collect();
    assert_eq!(messages, expected);
    let archive = stored
        .work
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
    create_topic(&stored.topic("visits"), 1);
    let run = |files: &[&str]| stored.run(&RECORDS_ARCHIVE, files);
    let archived = || {
        let rows = stored.work.sql(
            &RECORDS_ARCHIVE,
            &["SELECT \"offset\" AS v FROM visits_raw"],
        );
        numbers_of(&rows.ok().out)
    };
    stored.send(&RECORDS[..5]);
    assert!(run(&["sql/sync/visits_raw.sql"]).err.contains("INSERT 5"));
    // With nothing new, with new records, and once more.
    let keep_going = ["sql/jobs/archive.sql", "--until-caught-up"];
    run(&keep_going);
    assert_eq!(archived(), [0, 1, 2, 3, 4]);
    let coverage = || {
        let query = "SELECT partition, from_offset, to_offset, kind, in_topic FROM archive_coverage('visits_records')";
        stored.work.sql(&RECORDS_ARCHIVE, &[query]).ok().out
    };
    let range = |to: u32, kind: &str| {
        format!(
            "{{\"partition\":0,\"from_offset\":0,\"to_offset\":{to},\"kind\":\"{kind}\",\"in_topic\":true}}\n"
        )
    };
    assert_eq!(coverage(), range(5, "covered"));
    stored.send(&RECORDS[5..]);
    run(&keep_going);
    run(&keep_going);
    assert_eq!(archived(), (0..9).collect::<Vec<u64>>());
    assert_eq!(coverage(), range(9, "covered"));
}

#[test]
fn sessions_of_an_hour_are_run_again_by_their_job() {
    let stored = StoredSql::new();
    let sent = stored.run(&COUNTED_VISITS, &["sql/sync/send_2025-09-04.sql"]);
    assert!(sent.err.contains("INSERT 44"), "{}", sent.err);
    stored.run(&COUNTED_VISITS, &COUNTING);
    let by_job = stored.printed("visits_counter", &KEYS_AND_HEADERS).len();
    let again = [&["sql/reprocess/visits_counter.sql"][..], &HOUR].concat();
    stored.run(&COUNTED_VISITS, &again);
    // A run that is complete writes nothing more.
    stored.run(&COUNTED_VISITS, &again);
    let mut messages = stored
        .printed("visits_counter", &KEYS_AND_HEADERS)
        .split_off(by_job);
    messages.sort();
    let expected = SESSIONS_OF_THE_HOUR.map(counted);
    assert_marked(&messages, "reprocessing_run_1", expected);
}

#[test]
fn records_are_converted_again_by_their_job() {
    let stored = StoredSql::new();
    create_topic(&stored.topic("visits"), 1);
    stored.send(&RECORDS[..5]);
    let tables = [
        "sql/tables/visits_raw.sql",
        "sql/tables/visits_records.sql",
        "sql/tables/visits_paris_archived.sql",
        "sql/tables/visits_converted.sql",
    ];
    stored.run(&tables, &CONVERTING);
    let again = [
        "sql/reprocess/convert_visits.sql",
        "--param",
        "run_id=conversion_1",
        "--param",
        "from={\"visits_paris\":{\"0\":0}}",
        "--param",
        "to={\"visits_paris\":{\"0\":3}}",
    ];
    stored.run(&tables, &again);
    let messages = stored.printed("visits_converted", &["print.headers=true"]);
    let by_job = RECORDS[..5]
        .iter()
        .map(|record| format!("NO_HEADERS\t{}", converted(*record)));
    assert_eq!(messages[..5], by_job.collect::<Vec<_>>());
    let again = RECORDS[..3].iter().copied().map(converted);
    assert_marked(&messages[5..], "conversion_1", again);
}

/// The plan that docs/reprocessing.md explains is printed so; its version follows from the names of the topics.
fn assert_page_has_plan(stored: &StoredSql) {
    let plan = "PLAN REPROCESS JOB visits_counter FROM '2025-09-04T10:00:00' TO '2025-09-04T11:00:00' WITH ('run_id' 'hour_2')";
    let page = std::fs::read_to_string(repository().join("docs/reprocessing.md")).unwrap();
    assert!(page.contains(plan), "the page lacks {plan}");
    let rows = stored.work.sql(&COUNTED_VISITS, &[plan]).ok().rows();
    assert_eq!(rows.len(), 11, "{rows:?}");
    for row in &rows {
        let [item, value] = ["item", "value"].map(|column| row[column].as_str().unwrap());
        let value = value.replace(" becomes ", "\n             becomes ");
        let line = format!("{item:<11}  {value}\n");
        assert!(
            item == "sql_version" || page.contains(&line),
            "the page lacks {line}"
        );
    }
}

#[test]
fn late_visits_are_repaired_by_a_plan() {
    let stored = StoredSql::new();
    stored.run(&COUNTED_VISITS, &["sql/sync/send_2025-09-04.sql"]);
    stored.run(&COUNTED_VISITS, &COUNTING);
    // Two visits of user 2 come when the day is over: one belongs to a session that is finished, one is a session of its own.
    let late = [("10:50:00", "late-1"), ("06:00:00", "late-2")].map(|(time, page)| {
        format!(
            "{{\"event_id\": \"{page}\", \"user_id\": 2, \"event_time\": \"2025-09-04T{time}Z\", \"page\": \"{page}\"}}\n"
        )
    });
    produce(&stored.topic("visits"), &late.concat());
    stored.run(&COUNTED_VISITS, &COUNTING);
    let by_job = stored.printed("visits_counter", &KEYS_AND_HEADERS).len();
    assert_page_has_plan(&stored);
    let plan = [
        "sql/reprocess/late_visits.sql",
        "--param",
        "run_id=late_visits_1",
    ];
    let planned = stored.run(&COUNTED_VISITS, &plan);
    let sql = |statement: &str| stored.work.sql(&COUNTED_VISITS, &[statement]).ok().out;
    let changes = sql(
        "SELECT kind, count(*) AS n FROM system.run_changes WHERE run_id = 'late_visits_1' GROUP BY kind ORDER BY kind",
    );
    let expected = "{\"kind\":\"changed\",\"n\":1}\n{\"kind\":\"new\",\"n\":1}\n";
    assert_eq!(changes, expected, "{}", planned.err);
    assert_eq!(
        stored.printed("visits_counter", &KEYS_AND_HEADERS).len(),
        by_job
    );
    sql("APPLY RUN 'late_visits_1'");
    let mut messages = stored
        .printed("visits_counter", &KEYS_AND_HEADERS)
        .split_off(by_job);
    messages.sort();
    let rows = [("20250904_060000-2", 1), ("20250904_104500-2", 3)].map(counted);
    assert_marked(&messages, "late_visits_1", rows);
}

/// The words of each printed row that has headers.
fn rows_with_headers(printed: &str) -> Vec<Vec<&str>> {
    let rows = printed.lines().filter(|line| line.contains("{source"));
    rows.map(|row| row.split_whitespace().collect()).collect()
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
    let tables: Vec<&str> = done.out.split("VARCHAR>\n").collect();
    let [.., messages, repaired] = tables[..] else {
        panic!("no two tables end with headers: {}", done.out);
    };
    let told = rows_with_headers(messages);
    assert_eq!(told.len(), 9, "{messages}");
    for of_session in told.chunks(3) {
        let id = of_session[0][0];
        assert!(of_session.iter().all(|row| row[0] == id), "{messages}");
        let finished: Vec<&str> = of_session.iter().map(|row| row[2]).collect();
        assert_eq!(finished, ["false", "true", "true"], "{messages}");
        assert_eq!(of_session[1][1], of_session[2][1], "{messages}");
        let sources: Vec<&str> = of_session.iter().map(|row| row[4]).collect();
        assert_eq!(sources, ["live}", "live}", "reprocessing,"], "{messages}");
    }

    // Of the late visits, one is a session of its own, and the other one is counted in the session that it belongs to.
    assert!(
        done.out.contains(" 1 changed, 1 new, 0 gone, 0 unknown"),
        "{}",
        done.out
    );
    let told = rows_with_headers(repaired);
    assert_eq!(
        told[0][..5],
        [
            "20250904_050000-1",
            "1",
            "true",
            "{source:",
            "reprocessing,"
        ]
    );
    let [.., before, after] = &told[1..] else {
        panic!("the other session was published before: {repaired}");
    };
    let count = |row: &[&str]| row[1].parse::<u64>().unwrap();
    assert_eq!(after[0], before[0], "{repaired}");
    assert_eq!(
        [before[4], after[4]],
        ["live}", "reprocessing,"],
        "{repaired}"
    );
    assert_eq!(count(after), count(before) + 1, "{repaired}");
    assert_eq!(
        repaired.matches("run_id: late_visits").count(),
        2,
        "{repaired}"
    );
    // However few users there are.
    let of_one = work.anabranch(&["demo", "--users", "1"]).ok().out;
    assert!(
        of_one.contains(" 1 changed, 1 new, 0 gone, 0 unknown"),
        "{of_one}"
    );
    assert_eq!(
        std::fs::read_dir(work.dir.path()).unwrap().count(),
        1,
        "only the link to sql"
    );
}
