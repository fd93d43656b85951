//! Kafka tables on a real broker: rows are read back as they were written, and faults are reported in time.

mod avro;
mod refusals;
mod secure;
mod wide;

use std::time::Instant;

use crate::support::{
    Workspace, consume, create_topic, kafka, produce, read_by_kafka, signal, topic,
};
use crate::topics::{ends, partitions, set_topic_on};

/// `CREATE EXTERNAL TABLE name` over a topic, with more options if any.
fn table(name: &str, topic: &str, columns: &str, options: &str) -> String {
    format!(
        "CREATE EXTERNAL TABLE {name} ({columns}) STORED AS KAFKA LOCATION '{topic}' \
         OPTIONS ('kafka.bootstrap.servers' '{}' {options});\n",
        kafka()
    )
}

#[test]
fn every_json_type_comes_back() {
    let topic = topic("types");
    let columns = "b BOOLEAN, i1 TINYINT, i2 SMALLINT, i4 INT, i8 BIGINT, f4 FLOAT, f8 DOUBLE, \
                   d DECIMAL(20, 4), s VARCHAR, bytes BINARY, day DATE, ts TIMESTAMP, \
                   nested STRUCT<a BIGINT, inner STRUCT<t TIMESTAMP, list ARRAY<VARCHAR>>>, \
                   list ARRAY<INT>, map MAP<VARCHAR, DOUBLE>, structs ARRAY<STRUCT<x INT>>";
    let work = Workspace::new();
    let create = table("t", &topic, columns, ", 'topic.partitions' '1'");
    let values = "SELECT true, -128, 32767, -2147483648, 9007199254740993, 1.5, 0.1, CAST('1234567890123456.7891' AS DECIMAL(20, 4)), \
                  'quote \" backslash \\ newline \n é 漢', decode('00ff10', 'hex'), DATE '1969-12-31', \
                  TIMESTAMP '1969-12-31T23:59:59.123456', \
                  named_struct('a', 1, 'inner', named_struct('t', TIMESTAMP '2025-09-04T10:00:00', 'list', ['x', NULL])), \
                  [1, NULL, 3], MAP {'k': 0.5}, [named_struct('x', 7)]";
    let insert = format!("INSERT INTO t {values}");
    let back = work.sql(&[], &[&create, &insert, "SELECT * FROM t"]).ok();
    let direct = work.sql(
        &[],
        &[
            &create,
            &insert,
            "INSERT INTO t SELECT * FROM t",
            "SELECT * FROM t OFFSET 1",
        ],
    );
    let row: serde_json::Value = serde_json::from_str(back.out.lines().next().unwrap()).unwrap();
    let expected = serde_json::json!({
        "b": true, "i1": -128, "i2": 32767, "i4": -2147483648_i64, "i8": 9007199254740993_i64,
        "f4": 1.5, "f8": 0.1, "d": 1_234_567_890_123_456.8, "s": "quote \" backslash \\ newline \n é 漢",
        "bytes": "00ff10", "day": "1969-12-31", "ts": "1969-12-31T23:59:59.123456Z",
        "nested": {"a": 1, "inner": {"t": "2025-09-04T10:00:00Z", "list": ["x", null]}},
        "list": [1, null, 3], "map": {"k": 0.5}, "structs": [{"x": 7}]
    });
    assert_eq!(row, expected);
    // Digits that a double cannot hold are kept.
    assert!(back.out.contains("1234567890123456.7891"), "{}", back.out);
    // Rows that were read and written again are the same once more.
    for line in direct.ok().out.lines() {
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(line).unwrap(),
            expected
        );
    }
}

#[test]
fn headers_keys_timestamps_and_partitions_come_back() {
    let topic = topic("metadata");
    create_topic(&topic, 3);
    let work = Workspace::new();
    let exact = table(
        "exact",
        &topic,
        "v INT, headers ARRAY<STRUCT<key VARCHAR, value BINARY>> METADATA, k BINARY METADATA FROM 'key', \
         p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset', ts TIMESTAMP METADATA FROM 'timestamp', \
         tt VARCHAR METADATA FROM 'timestamp_type', topic VARCHAR METADATA, raw VARCHAR METADATA FROM 'value'",
        "",
    );
    let easy = table(
        "easy",
        &topic,
        "v INT, headers MAP<VARCHAR, VARCHAR> METADATA",
        "",
    );
    let insert = "INSERT INTO exact (v, headers, k, p, ts) SELECT 1, \
        [named_struct('key', 'a', 'value', decode('00ff', 'hex')), named_struct('key', 'a', 'value', decode('62', 'hex')), \
         named_struct('key', 'n', 'value', NULL)], decode('6b', 'hex'), 2, TIMESTAMP '2025-01-02T03:04:05.678'";
    let select = "SELECT v, headers, k, p, o, ts, tt, topic = $t AS same, raw FROM exact";
    let ran = work
        .anabranch(&[
            "sql",
            "--format",
            "ndjson",
            "-c",
            &exact,
            "-c",
            &easy,
            "-c",
            insert,
            "-c",
            "INSERT INTO easy SELECT 2",
            "-c",
            "INSERT INTO easy (v, headers) SELECT 3, MAP {'x': 'y', 'z': NULL}",
            "-c",
            &format!("{select} ORDER BY v"),
            "-c",
            "SELECT * FROM easy ORDER BY v",
            "-p",
            &format!("t={topic}"),
        ])
        .ok();
    let rows = ran.rows();
    assert_eq!(
        rows[0],
        serde_json::json!({
            "v": 1, "headers": [{"key": "a", "value": "00ff"}, {"key": "a", "value": "62"}, {"key": "n", "value": null}],
            "k": "6b", "p": 2, "o": 0, "ts": "2025-01-02T03:04:05.678Z", "tt": "CreateTime", "same": true,
            "raw": "{\"v\":1}"
        })
    );
    assert_eq!(rows[1]["headers"], serde_json::Value::Null);
    // The easy form: text, the last value of a key.
    assert_eq!(rows[3]["headers"], serde_json::json!({"a": "b", "n": null}));
    assert_eq!(rows[4]["headers"], serde_json::Value::Null);
    assert_eq!(rows[5]["headers"], serde_json::json!({"x": "y", "z": null}));
}

#[test]
fn predicates_narrow_the_offsets_read() {
    let topic = topic("narrow");
    let work = Workspace::new();
    let create = table(
        "t",
        &topic,
        "v INT, p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset', ts TIMESTAMP METADATA FROM 'timestamp'",
        ", 'topic.partitions' '2'",
    );
    let insert = "INSERT INTO t (v, p, ts) SELECT value, value % 2, \
        TIMESTAMP '2025-01-01T00:00:00' + CAST(value || ' minutes' AS INTERVAL) FROM generate_series(0, 19)";
    work.sql(&[], &[&create, insert]).ok();
    let plan = |predicate: &str| {
        let query = format!("EXPLAIN SELECT v FROM t WHERE {predicate}");
        work.sql(&[], &[&create, &query]).ok().out
    };
    assert!(plan("p = 1 AND o >= 4").contains("offsets=[1:[4, 10)]"));
    assert!(plan("o BETWEEN 2 AND 3").contains("offsets=[0:[2, 4), 1:[2, 4)]"));
    assert!(
        plan("offsets_in(p, o, '{\"0\":1,\"1\":8}', '{\"0\":3,\"1\":-1}')")
            .contains("offsets=[0:[1, 3), 1:[8, 10)]")
    );
    // The lower end of a time range moves the start; the upper end cannot: producers set the time.
    assert!(
        plan("ts >= '2025-01-01T00:10:00' AND ts < '2025-01-01T00:12:00'")
            .contains("offsets=[0:[5, 10), 1:[5, 10)]")
    );
    assert!(plan("p = 7").contains("EmptyExec"));
    let rows = work.sql(&[], &[&create, "SELECT v FROM t WHERE ts >= '2025-01-01T00:10:00' AND ts < '2025-01-01T00:12:00' ORDER BY v"]).ok();
    assert_eq!(rows.out, "{\"v\":10}\n{\"v\":11}\n");
}

/// Later times may come before earlier ones, also where brokers set them: here from before the topic had that setting.
#[test]
fn loss_1_an_upper_bound_of_times_cuts_no_rows_off() {
    let topic = topic("append-time");
    create_topic(&topic, 1);
    let work = Workspace::new();
    let create = table(
        "t",
        &topic,
        "v INT, ts TIMESTAMP METADATA FROM 'timestamp'",
        "",
    );
    for row in [
        "(1, TIMESTAMP '2025-06-01T00:00:00')",
        "(2, TIMESTAMP '2025-01-01T00:00:00')",
        "(3, TIMESTAMP '2025-07-01T00:00:00')",
    ] {
        let insert = format!("INSERT INTO t (v, ts) VALUES {row}");
        work.sql(&[], &[&create, &insert]).ok();
    }
    set_topic_on(&kafka(), &topic, "message.timestamp.type", "LogAppendTime");
    for (times, rows, offsets) in [
        ("ts < '2025-03-01T00:00:00'", "{\"v\":2}\n", "0:[0, 3)"),
        ("ts = '2025-01-01T00:00:00'", "{\"v\":2}\n", "0:[0, 3)"),
        (
            "ts BETWEEN '2025-06-15T00:00:00' AND '2025-08-01T00:00:00'",
            "{\"v\":3}\n",
            "0:[2, 3)",
        ),
    ] {
        let query = format!("SELECT v FROM t WHERE {times}");
        assert_eq!(work.sql(&[], &[&create, &query]).ok().out, rows, "{times}");
        let explain = format!("EXPLAIN {query}");
        let plan = work.sql(&[], &[&create, &explain]).ok().out;
        let offsets = format!("offsets=[{offsets}]");
        assert!(plan.contains(&offsets), "{times}: {plan}");
    }
}

#[test]
fn records_that_cannot_be_decoded() {
    let topic = topic("bad");
    create_topic(&topic, 1);
    produce(
        &topic,
        "{\"v\":1,\"w\":\"a\"}\nnot json\n{\"v\":\"x\",\"w\":\"b\"}\n{\"v\":4}\n",
    );
    let work = Workspace::new();
    let columns = "v INT, w VARCHAR, o BIGINT METADATA FROM 'offset'";
    let fail = work.sql(&[], &[&table("t", &topic, columns, ""), "SELECT * FROM t"]);
    assert_eq!(fail.code, Some(1));
    assert!(fail.err.contains(&format!("{topic}/0@1")), "{}", fail.err);

    let null = work
        .sql(
            &[],
            &[
                &table("t", &topic, columns, ", 'on_error' 'null'"),
                "SELECT * FROM t",
            ],
        )
        .ok();
    assert_eq!(
        null.out.lines().collect::<Vec<_>>(),
        [
            "{\"v\":1,\"w\":\"a\",\"o\":0}",
            "{\"v\":null,\"w\":null,\"o\":1}",
            "{\"v\":null,\"w\":\"b\",\"o\":2}",
            "{\"v\":4,\"w\":null,\"o\":3}"
        ]
    );

    let dead = "CREATE EXTERNAL TABLE dead (topic VARCHAR, partition INT, \"offset\" BIGINT, timestamp TIMESTAMP, \
                key BINARY, value BINARY, reason VARCHAR) STORED AS DELTA LOCATION 'dead';";
    let kept = work
        .sql(
            &[],
            &[
                dead,
                &table("t", &topic, columns, ", 'on_error' 'dead_letter', 'dead_letter.table' 'dead'"),
                "SELECT count(v) AS n FROM t",
                "SELECT partition, \"offset\", CAST(value AS VARCHAR) AS value FROM dead ORDER BY \"offset\"",
            ],
        )
        .ok();
    assert_eq!(
        kept.out.lines().collect::<Vec<_>>(),
        [
            "{\"n\":2}",
            "{\"partition\":0,\"offset\":1,\"value\":\"not json\"}",
            "{\"partition\":0,\"offset\":2,\"value\":\"{\\\"v\\\":\\\"x\\\",\\\"w\\\":\\\"b\\\"}\"}"
        ]
    );
}

#[test]
fn a_primary_key_is_the_message_key() {
    let (one, two) = (topic("one-key"), topic("two-keys"));
    let work = Workspace::new();
    work.sql(
        &[],
        &[
            &table(
                "one",
                &one,
                "id BIGINT, v INT, PRIMARY KEY (id) NOT ENFORCED",
                ", 'topic.partitions' '1'",
            ),
            &table(
                "two",
                &two,
                "a BIGINT, b VARCHAR, v INT, PRIMARY KEY (b, a) NOT ENFORCED",
                ", 'topic.partitions' '1'",
            ),
            "INSERT INTO one VALUES (7, 1)",
            "INSERT INTO two VALUES (7, 'x', 1)",
        ],
    )
    .ok();
    assert_eq!(
        consume(&one, &["print.key=true"]),
        ["7\t{\"id\":7,\"v\":1}"]
    );
    assert_eq!(
        consume(&two, &["print.key=true"]),
        ["{\"b\":\"x\",\"a\":7}\t{\"a\":7,\"b\":\"x\",\"v\":1}"]
    );
}

#[test]
fn a_missing_topic_is_reported_or_created() {
    let topic = topic("missing");
    let work = Workspace::new();
    let plain = table("t", &topic, "v INT", "");
    for statement in ["SELECT * FROM t", "INSERT INTO t VALUES (1)"] {
        let ran = work.sql(&[], &[&plain, statement]);
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.err.contains("does not exist") && ran.err.contains("topic.partitions"),
            "{}",
            ran.err
        );
    }
    let created = table("t", &topic, "v INT", ", 'topic.partitions' '3'");
    work.sql(&[], &[&created, "INSERT INTO t VALUES (1)"]).ok();
    assert_eq!(partitions(&topic), 3);
}

#[test]
fn an_unreachable_broker_is_reported_in_time() {
    let work = Workspace::new();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for (options, expected) in [
        ("", "no connection to Kafka"),
        (
            ", 'kafka.security.protocol' 'ssl'",
            "no connection to Kafka",
        ),
    ] {
        let create = format!(
            "CREATE EXTERNAL TABLE t (v INT) STORED AS KAFKA LOCATION 't' OPTIONS \
             ('kafka.bootstrap.servers' '127.0.0.1:{port}', 'connect.timeout' '2 seconds' {options})"
        );
        for statement in ["SELECT * FROM t", "INSERT INTO t VALUES (1)"] {
            let start = Instant::now();
            let ran = work.sql(&[], &[&create, statement]);
            assert_eq!(ran.code, Some(2), "{ran:?}");
            assert!(ran.err.contains(expected), "{}", ran.err);
            assert!(
                start.elapsed() < crate::support::AT_ONCE,
                "{:?}",
                start.elapsed()
            );
        }
    }
}

#[test]
fn wrong_security_settings_are_reported_with_their_cause() {
    let work = Workspace::new();
    for (options, expected) in [
        ("'kafka.security.protocol' 'ssl'", "ssl"),
        (
            "'kafka.security.protocol' 'sasl_plaintext', 'kafka.sasl.mechanism' 'PLAIN', \
             'kafka.sasl.username' 'u', 'kafka.sasl.password' 'hidden-word'",
            "sasl",
        ),
    ] {
        let create = table(
            "t",
            "any",
            "v INT",
            &format!(", 'connect.timeout' '3 seconds', {options}"),
        );
        let start = Instant::now();
        let ran = work.sql(&[], &[&create, "SELECT * FROM t"]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.to_lowercase().contains(expected), "{}", ran.err);
        let about_the_error = ran
            .err
            .lines()
            .filter(|line| !line.contains("CREATE"))
            .collect::<String>();
        assert!(!about_the_error.contains("hidden-word"), "{}", ran.err);
        assert!(start.elapsed() < crate::support::AT_ONCE);
    }
}

#[test]
fn a_transactional_insert_is_all_or_nothing() {
    let topic = topic("atomic");
    create_topic(&topic, 2);
    let work = Workspace::new();
    let create = table("t", &topic, "v BIGINT", ", 'delivery' 'transactional'");
    // The last row cannot be computed: nothing of the statement is visible.
    let failed = work.sql(
        &[],
        &[
            &create,
            "INSERT INTO t SELECT 10 / (200000 - value) FROM generate_series(1, 200000)",
        ],
    );
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(
        failed.err.contains("rows written before the failure: 0"),
        "{}",
        failed.err
    );
    let count = || {
        work.sql(&[], &[&create, "SELECT count(*) AS n FROM t"])
            .ok()
            .out
    };
    assert_eq!(count(), "{\"n\":0}\n");

    let endless = "INSERT INTO t SELECT a.value FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    let uncommitted = || ends(&topic).iter().sum::<i64>();
    let begun = || {
        let before = uncommitted();
        let child = work
            .command()
            .args(["sql", "-c", &create, "-c", endless])
            .spawn()
            .unwrap();
        let deadline = Instant::now() + crate::support::PATIENCE;
        while uncommitted() <= before {
            assert!(
                Instant::now() < deadline,
                "the INSERT never reached the broker"
            );
        }
        child
    };

    // Interrupted: the transaction is aborted at once, and later records are visible at once.
    let mut child = begun();
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    work.sql(&[], &[&create, "INSERT INTO t VALUES (1)"]).ok();
    assert_eq!(count(), "{\"n\":1}\n");

    // Killed: none of its rows is ever visible.
    let mut child = begun();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(count(), "{\"n\":1}\n");
    assert_eq!(read_by_kafka(&kafka(), &topic, &[]), "{\"v\":1}\n");
}

#[test]
fn a_failed_idempotent_insert_reports_the_written_rows() {
    let topic = topic("half");
    create_topic(&topic, 2);
    let work = Workspace::new();
    let create = table("t", &topic, "v BIGINT", "");
    let failed = work.sql(
        &[],
        &[
            &create,
            "INSERT INTO t SELECT 10 / (150000 - value) FROM generate_series(1, 200000)",
        ],
    );
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let count = work
        .sql(&[], &[&create, "SELECT count(*) AS n FROM t"])
        .ok()
        .out;
    let count: serde_json::Value = serde_json::from_str(&count).unwrap();
    let rows = count["n"].as_u64().unwrap();
    // Streams side by side: the other one may be past the row that failed.
    assert!((1..200_000).contains(&rows), "{rows}");
    assert!(
        failed
            .err
            .contains(&format!("rows written before the failure: {rows}\n")),
        "{rows}: {}",
        failed.err
    );
}

#[test]
fn raw_and_csv_records() {
    let topic = topic("text");
    create_topic(&topic, 1);
    produce(&topic, "1,\"a, b\",2025-09-04T10:00:00Z\n2,,\n");
    let work = Workspace::new();
    let raw = work
        .sql(
            &[],
            &[
                &table("t", &topic, "line VARCHAR", ", 'format' 'raw'"),
                "SELECT * FROM t",
            ],
        )
        .ok();
    assert_eq!(
        raw.out,
        "{\"line\":\"1,\\\"a, b\\\",2025-09-04T10:00:00Z\"}\n{\"line\":\"2,,\"}\n"
    );
    let csv = work
        .sql(
            &[],
            &[
                &table(
                    "t",
                    &topic,
                    "i INT, s VARCHAR, ts TIMESTAMP",
                    ", 'format' 'csv'",
                ),
                "SELECT i, ts FROM t",
            ],
        )
        .ok();
    assert_eq!(
        csv.out,
        "{\"i\":1,\"ts\":\"2025-09-04T10:00:00Z\"}\n{\"i\":2,\"ts\":null}\n"
    );
}

#[test]
fn a_self_join_reads_one_snapshot() {
    let topic = topic("snapshot");
    let work = Workspace::new();
    let create = table("t", &topic, "v INT", ", 'topic.partitions' '1'");
    let ran = work
        .sql(
            &[],
            &[
                &create,
                "INSERT INTO t SELECT value FROM generate_series(1, 100)",
                // The statement reads the topic it writes: it ends, with the rows that were there before.
                "INSERT INTO t SELECT a.v FROM t a JOIN t b ON a.v = b.v",
                "SELECT count(*) AS n FROM t",
            ],
        )
        .ok();
    assert_eq!(ran.out, "{\"n\":200}\n");
}

#[test]
fn columns_typed_in_camel_case_are_the_fields_of_that_name() {
    let topic = topic("camel");
    create_topic(&topic, 1);
    produce(
        &topic,
        "{\"userId\":7,\"pageView\":{\"pageId\":1},\"Tags\":[{\"tagName\":\"a\"}]}\n\
         {\"userid\":8,\"pageview\":{\"pageid\":2},\"tags\":[{\"tagname\":\"b\"}]}\n\
         {\"userId\":9,\"userid\":10}\n{\"userid\":12,\"userId\":11}\n",
    );
    let work = Workspace::new();
    let columns = "userId INT, pageView STRUCT<pageId INT>, Tags ARRAY<STRUCT<tagName VARCHAR>>, o BIGINT METADATA FROM 'offset'";
    let create = table("t", &topic, columns, "");
    let select = "SELECT userid, userId AS again, pageView['pageid'] AS page, tags[1]['tagname'] AS tag FROM t ORDER BY o";
    let rows = work.sql(&[], &[&create, select]).ok().out;
    let rows: Vec<&str> = rows.lines().collect();
    assert_eq!(
        rows,
        [
            "{\"userid\":7,\"again\":7,\"page\":1,\"tag\":\"a\"}",
            "{\"userid\":8,\"again\":8,\"page\":2,\"tag\":\"b\"}",
            // The column's own name comes first, in either order of the two fields.
            "{\"userid\":10,\"again\":10,\"page\":null,\"tag\":null}",
            "{\"userid\":12,\"again\":12,\"page\":null,\"tag\":null}",
        ]
    );
    // Written as it was typed; a quoted name is its own spelling only.
    let out = format!("{topic}-out");
    let options = ", 'topic.partitions' '1'";
    let copy = table("copied", &out, columns, options);
    let quoted = table("quoted", &out, "\"userId\" INT, \"userid\" INT", "");
    let insert = "INSERT INTO copied SELECT userId, pageView, Tags FROM t WHERE userId = 7";
    let back = work.sql(
        &[],
        &[&create, &copy, insert, &quoted, "SELECT * FROM quoted"],
    );
    assert_eq!(back.ok().out, "{\"userId\":7,\"userid\":null}\n");
    let written = consume(&out, &[]);
    let expected = "{\"userId\":7,\"pageView\":{\"pageId\":1},\"Tags\":[{\"tagName\":\"a\"}]}";
    assert_eq!(written, [expected]);
}
