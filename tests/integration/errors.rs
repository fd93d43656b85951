//! Error messages as a person sees them: one snapshot of many mistakes.

use crate::support::{Workspace, create_topic, produce, topic};

const TABLE: &str = "CREATE EXTERNAL TABLE visits (user_id BIGINT, event_time TIMESTAMP, page VARCHAR, \
    p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset') STORED AS KAFKA LOCATION 'visits' \
    OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1', 'connect.timeout' '1 second');\n";
const EVENTS: &str = "CREATE TABLE events AS SELECT column1 AS k, column2::timestamp AS ts FROM \
    (VALUES ('a', '2025-09-04T10:00:00'), ('b', NULL));\n";

/// A table of these columns and options, to be refused.
fn kafka(columns: &str, options: &str) -> String {
    format!(
        "CREATE EXTERNAL TABLE t ({columns}) STORED AS KAFKA LOCATION 't'\nOPTIONS ('kafka.bootstrap.servers' 'h:1'{options})"
    )
}

fn statements() -> Vec<String> {
    let mut all: Vec<String> = [
        // Parsing.
        "SELEC 1",
        "SELECT 'open",
        "SELECT 1 +",
        "SELECT 1\n       FORM visits WHERE",
        "SELECT (1",
        "SELECT /* never closed",
        "SELECT 1 AS EMIT CHANGES",
        "SELECT * FROM visits EMIT CHANGES",
        "CREATE EXTERNAL TABLE t (a INT) STORED AS KAFKA",
        "CREATE EXTERNAL TABLE t (a INT) LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a INT) STORED AS ORACLE LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a) STORED AS KAFKA LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a INT, A VARCHAR) STORED AS DELTA LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a INT DEFAULT 1) STORED AS DELTA LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a INT, PRIMARY KEY (a)) STORED AS KAFKA LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a INT, PRIMARY KEY (b) NOT ENFORCED) STORED AS KAFKA LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a INT, WATERMARK FOR b AS b) STORED AS KAFKA LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a UUID) STORED AS DELTA LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a DECIMAL(50, 2)) STORED AS DELTA LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a INT METADATA) STORED AS DELTA LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA PARTITIONED BY (b) LOCATION 't'",
        "CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION 'tables.sql'",
        "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'nothing-here'",
        "CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION '${NOT_SET_ANYWHERE}/t'",
        // Jobs are parsed.
        "CREATE JOB j AS INSERT INTO visits SELECT user_id FROM visits EMIT CHANGES",
        "CREATE JOB j AS SELECT 1",
        "REWIND JOB j TO BATCH 4",
        "REWIND JOB j TO 4",
        "SHOW BATCHES FOR JOB j",
        "RESUME JOB j ASSUMING BATCH 2",
        "CREATE JOB j WITH ('triger' '1 second') AS INSERT INTO visits SELECT user_id FROM visits",
        "REPROCESS JOB j FROM '2025-09-04' TO '2025-09-05' WITH ('run_id' 'r')",
        "REPROCESS JOB j",
        "REPROCESS j FROM '2025-09-04' TO '2025-09-05'",
        "REPROCESS JOB j FROM '2025-09-04' TO '2025-09-05' EMIT CHANGES",
        "PLAN REPROCESS JOB j FROM '2025-09-05' TO '2025-09-04'",
        "PLAN REPROCESS JOB j FROM 'yesterday' TO '2025-09-04'",
        "REPROCESS JOB j OFFSETS FROM '{\"visits\":{\"0\":1}' TO '{\"visits\":{\"0\":2}}'",
        "REPROCESS JOB j FOR (SELECT user_id FROM visits)",
        "EXPLAIN REPROCESS JOB j FOR (SELECT topic FROM late)",
        "REPROCESS JOB j FROM '2025-09-04' TO '2025-09-05' WITH ('lat' 'exclude')",
        "REPROCESS JOB j FROM '2025-09-04' TO '2025-09-05' WITH ('run_id' 'fix 42')",
        "APPLY RUN r",
        "ABORT RUN 'r'",
        "SHOW RUNS FOR JOB j",
        "SHOW CREATE JOB j AS OF BATCH 4",
        // Names.
        "SELECT user FROM visit",
        "SELECT usr_id FROM visits",
        "SELECT cont(*) FROM visits",
        "INSERT INTO visits (user_id, pag) VALUES (1, 'x')",
        "INSERT INTO visits (user_id, o) VALUES (1, 2)",
        "INSERT INTO visits VALUES (1)",
        "INSERT OVERWRITE visits SELECT 1, NULL, NULL",
        "INSERT INTO visits SELECT 1, NULL",
        "SHOW CREATE TABLE visit",
        "OPTIMIZE visits",
        "VACUUM visits RETAIN many HOURS",
        "CREATE VIEW v AS SELECT * FROM v",
        "CREATE VIEW visits AS SELECT 1",
        "CREATE VIEW v AS SELECT * FROM visit",
        "SELECT * FROM visits FOR VERSION AS OF 1",
        "DROP TABLE visit",
        // Parameters.
        "SELECT $from",
        // Windows.
        "SELECT * FROM TUMBLE(events, tss, INTERVAL '1 minute')",
        "SELECT * FROM TUMBLE(TABLE event, DESCRIPTOR(ts), INTERVAL '1 minute')",
        "SELECT * FROM TUMBLE(events, k, INTERVAL '1 minute')",
        "SELECT * FROM TUMBLE(events, ts)",
        "SELECT * FROM TUMBLE(events, ts, INTERVAL '0 minutes')",
        "SELECT * FROM TUMBLE(events, ts, INTERVAL '1 month')",
        "SELECT * FROM TUMBLE(events, ts, INTERVAL '1 minute')",
        "SELECT * FROM SESSION(TABLE events PARTITION BY kk, DESCRIPTOR(ts), INTERVAL '1 minute')",
        "SELECT * FROM COMPLETE_SESSIONS(TABLE events PARTITION BY k, DESCRIPTOR(ts), INTERVAL '1 minute', '2025-09-05', '2025-09-04')",
        "SELECT * FROM COMPLETE_SESSIONS(TABLE events PARTITION BY k, DESCRIPTOR(ts), INTERVAL '1 minute', 'yesterday', '2025-09-04')",
        // Offsets.
        "SELECT * FROM visits WHERE offsets_in(p, o, '{\"0\":1', '{}')",
        "SELECT * FROM visits WHERE offsets_in(p, o, '{\"0\":5}', '{\"0\":2}')",
        "SELECT * FROM visits WHERE offsets_in(p, o, '{\"a\":{\"0\":1},\"b\":{\"0\":1}}', '{\"0\":2}')",
        "SELECT * FROM visits WHERE offsets_in(page, o, '{\"0\":1}', '{\"0\":2}')",
        // Brokers.
        "SELECT * FROM visits",
    ]
    .map(String::from)
    .into();
    all.extend([
        kafka("v INT", ", 'fromat' 'json'"),
        kafka("v INT", ", 'format' 'jsno'"),
        kafka("v INT", ", 'format' 'protobuf'"),
        kafka("v INT", ", 'on_error' 'ignore'"),
        kafka("v INT", ", 'on_error' 'dead_letter'"),
        kafka("v INT", ", 'connect.timeout' 'soon'"),
        kafka("v INT", ", 'topic.partitions' '0'"),
        kafka("v INT", ", 'timezone' 'Europe/Pariss'"),
        kafka("v INT", ", 'kafka.acks' '1'"),
        kafka("v INT", ", 'kafka.no.such.property' '1'"),
        kafka("v INT", ", 'kafka.socket.timeout.ms' 'long'"),
        kafka("v INT", ", 'format' 'raw', 'csv.delimiter' ';'"),
        kafka("a INT, b INT", ", 'format' 'raw'"),
        kafka("v INT, p INT METADATA FROM 'partitoin'", ""),
        kafka("v INT, p VARCHAR METADATA FROM 'partition'", ""),
        kafka("v INT GENERATED ALWAYS AS (1)", ""),
        kafka("p INT METADATA FROM 'partition', q INT METADATA FROM 'partition'", ""),
        kafka("v INT", ", 'format' 'json', 'format' 'raw'"),
        "CREATE EXTERNAL TABLE t (v INT) STORED AS KAFKA LOCATION 'no topic!' OPTIONS ('kafka.bootstrap.servers' 'h:1')".into(),
        "CREATE EXTERNAL TABLE t (v INT) STORED AS KAFKA LOCATION 't'".into(),
    ]);
    all
}

/// Statement after statement, each in a program of its own, with its output and its exit code.
#[test]
fn mistakes_are_explained() {
    let work = Workspace::new();
    let mut seen = String::new();
    let statements = statements();
    assert!(statements.len() > 40);
    for statement in statements {
        let ran = work.anabranch(&[
            "sql",
            "-f",
            work.file("tables.sql", &format!("{TABLE}{EVENTS}")),
            "-c",
            &statement,
        ]);
        assert_ne!(ran.code, Some(0), "{statement}\n{}", ran.out);
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        let said: Vec<&str> = ran
            .err
            .lines()
            .skip_while(|line| !line.starts_with("error"))
            .collect();
        seen.push_str(&format!(
            "[{}] {}\n\n",
            ran.code.unwrap_or(-1),
            said.join("\n")
        ));
    }
    let seen = seen.replace(&work.dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!("mistakes", seen);
}

/// Records, files and logs with wrong contents.
#[test]
fn bad_data_is_explained() {
    let work = Workspace::new();
    let (json, csv, raw) = (topic("bad-json"), topic("bad-csv"), topic("bad-raw"));
    for name in [&json, &csv, &raw] {
        create_topic(name, 1);
    }
    produce(&json, "{\"v\": 1}\n{\"v\": 2\n");
    produce(&csv, "1,2\n3,4,5\n");
    let kafka = |name: &str, columns: &str, options: &str| {
        format!(
            "CREATE EXTERNAL TABLE t ({columns}) STORED AS KAFKA LOCATION '{name}'\n\
             OPTIONS ('kafka.bootstrap.servers' '${{KAFKA_BOOTSTRAP}}'{options});\nSELECT * FROM t"
        )
    };
    let bytes = kafka(&raw, "value BINARY", ", 'format' 'raw'");
    let bytes = bytes.trim_end_matches("SELECT * FROM t");
    work.sql(&[], &[bytes, "INSERT INTO t SELECT decode('e9', 'hex')"])
        .ok();
    let delta = "CREATE EXTERNAL TABLE t (v INT) STORED AS DELTA LOCATION";
    let log = "_delta_log/00000000000000000000.json";
    for name in ["cut", "gone", "hole"] {
        let twice = ["INSERT INTO t SELECT 1", "INSERT INTO t SELECT 2"];
        work.sql(&[], &[&format!("{delta} '{name}'"), twice[0], twice[1]])
            .ok();
    }
    std::fs::write(work.path(&format!("cut/{log}")), "{\"protocol\":").unwrap();
    let data_files = std::fs::read_dir(work.path("gone")).unwrap();
    for file in data_files.map(|entry| entry.unwrap().path()) {
        if file.is_file() {
            std::fs::remove_file(file).unwrap();
        }
    }
    std::fs::remove_file(work.path("hole/_delta_log/00000000000000000001.json")).unwrap();
    let read = |name: &str| {
        format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{name}';\nSELECT * FROM t")
    };
    let mut seen = String::new();
    for script in [
        kafka(&json, "v INT", ""),
        kafka(&json, "v STRUCT<a INT>", ""),
        kafka(&csv, "a INT, b INT", ", 'format' 'csv'"),
        kafka(&csv, "a INT, b BOOLEAN", ", 'format' 'csv'"),
        kafka(&raw, "line VARCHAR", ", 'format' 'raw'"),
        kafka(
            &json,
            "v INT",
            ", 'format' 'avro', 'avro.registry.url' 'http://127.0.0.1:1'",
        ),
        read("cut"),
        read("gone"),
        read("hole"),
        read("sql/tables/visits_raw.sql/inside"),
    ] {
        let ran = work.anabranch(&["run", work.file("script.sql", &script)]);
        assert_ne!(ran.code, Some(0), "{script}\n{}", ran.out);
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        let said: Vec<&str> = ran
            .err
            .lines()
            .skip_while(|line| !line.starts_with("error"))
            .collect();
        seen.push_str(&format!("[{}] {}\n\n", ran.code.unwrap(), said.join("\n")));
    }
    let mut seen = seen.replace(&work.dir.path().display().to_string(), "DIR");
    for name in [&json, &csv, &raw] {
        let stable = name.split('-').take(2).collect::<Vec<_>>().join("-");
        seen = seen.replace(name.as_str(), &stable);
    }
    insta::with_settings!({filters => vec![(UUID, "UUID")]}, {
        insta::assert_snapshot!("bad_data", seen);
    });
}

/// The random part of a file's name.
const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

#[test]
fn nothing_runs_when_a_later_statement_does_not_parse() {
    let work = Workspace::new();
    work.file(
        "script.sql",
        "CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA LOCATION 'made';\nSELEC 1;\n",
    );
    let ran = work.anabranch(&["run", "script.sql"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("script.sql:2:1"), "{}", ran.err);
    assert!(!work.path("made").exists());
}

#[test]
fn unused_parameters_are_reported() {
    let work = Workspace::new();
    let ran = work.anabranch(&["sql", "-c", "SELECT 1", "-p", "run=1"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("$run"), "{}", ran.err);
}

#[test]
fn files_that_cannot_be_read_are_usage_errors() {
    let work = Workspace::new();
    let missing = work.anabranch(&["run", "no-such.sql"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.err.contains("no-such.sql"), "{}", missing.err);
    std::fs::write(work.path("latin1.sql"), b"SELECT '\xe9'").unwrap();
    let latin = work.anabranch(&["run", "latin1.sql"]);
    assert_eq!(latin.code, Some(2));
    assert!(latin.err.contains("not UTF-8 at byte 8"), "{}", latin.err);
}

#[test]
fn secrets_are_not_shown() {
    let work = Workspace::new();
    let create = "CREATE EXTERNAL TABLE t (v INT) STORED AS KAFKA LOCATION 't' OPTIONS \
        ('kafka.bootstrap.servers' 'localhost:1', 'kafka.sasl.password' 'hidden-word')";
    let shown = work.sql(&[], &[create, "SHOW CREATE TABLE t"]).ok();
    assert!(
        shown.out.contains("'kafka.sasl.password' '***'"),
        "{}",
        shown.out
    );
    assert!(!shown.out.contains("hidden-word"));
}
