//! Queries over both halves give what they would give over a topic that never forgot (ARCH-1).

use super::{Lake, table};
use crate::support::{Random, Workspace, create_topic, kafka, produce, topic};
use crate::topics::delete_records_on;

const PARTITIONS: usize = 3;
const ROWS: usize = 90;

/// Rows in any order of time, on the morning of one day.
fn fill(lake: &Lake, random: &mut Random) {
    lake.broker
        .create_topic("visits", PARTITIONS as i32)
        .unwrap();
    let rows = (0..ROWS).map(|_| {
        let (user, page) = (random.below(6), random.below(4));
        let (hour, minute) = (8 + random.below(5), random.below(60));
        let partition = random.below(PARTITIONS);
        format!(
            "({user}, 'page{page}', TIMESTAMP '2025-09-04T{hour:02}:{minute:02}:00', {partition}, 'k{user}', \
             TIMESTAMP '2025-09-04T13:{minute:02}:00.123')"
        )
    });
    let rows: Vec<String> = rows.collect();
    lake.run(&format!(
        "{} INSERT INTO visits (user_id, page, event_time, p, k, ts) VALUES {}",
        table("visits", "visits", ""),
        rows.join(", ")
    ));
}

/// One kind of archive: its columns, how it is partitioned, what is written to it, and the options of the table over it.
struct Kind {
    columns: &'static str,
    by: &'static str,
    select: &'static str,
    options: &'static str,
    /// Whether it has the value as it came.
    is_raw: bool,
}

const KINDS: [Kind; 5] = [
    // Several partitions in one file: the log does not say which offsets it has.
    Kind {
        columns: "value VARCHAR, partition INT, \"offset\" BIGINT, key VARCHAR, timestamp TIMESTAMP",
        by: "",
        select: "raw, p, o, k, ts",
        options: "",
        is_raw: true,
    },
    Kind {
        columns: "value VARCHAR, p INT, o BIGINT, k VARCHAR, ts TIMESTAMP",
        by: "PARTITIONED BY (p)",
        select: "raw, p, o, k, ts",
        options: "",
        is_raw: true,
    },
    // With a column of the event time, of which some rows say nothing.
    Kind {
        columns: "body VARCHAR, p BIGINT, o BIGINT, k VARCHAR, ts TIMESTAMP, event_time TIMESTAMP",
        by: "",
        select: "raw, p, o, k, ts, CASE WHEN user_id = 2 THEN NULL ELSE event_time END",
        options: ", 'archive.value' 'body'",
        is_raw: true,
    },
    Kind {
        columns: "value VARCHAR, p INT, o BIGINT, k VARCHAR, ts TIMESTAMP, year INT, month INT, day INT, hour INT",
        by: "PARTITIONED BY (year, month, day, hour)",
        select: "raw, p, o, k, ts, CAST(date_part('year', event_time) AS INT), CAST(date_part('month', event_time) AS INT), \
                 CAST(date_part('day', event_time) AS INT), CAST(date_part('hour', event_time) AS INT)",
        options: ", 'archive.event_time' 'year, month, day, hour'",
        is_raw: true,
    },
    // Decoded.
    Kind {
        columns: "user_id BIGINT, page VARCHAR, event_time TIMESTAMP, part INT, \"offset\" BIGINT, k VARCHAR, ts TIMESTAMP",
        by: "PARTITIONED BY (part)",
        select: "user_id, page, event_time, p, o, k, ts",
        options: ", 'archive.partition' 'part'",
        is_raw: false,
    },
];

/// The first one needs the values as they came.
const QUERIES: [&str; 13] = [
    "SELECT p, o, raw FROM {t} WHERE o <> 5 ORDER BY p, o",
    "SELECT count(*) FROM {t}",
    "SELECT user_id, page, event_time, p, o, k, ts FROM {t} ORDER BY p, o",
    "SELECT page, count(*), min(o), max(ts) FROM {t} GROUP BY page ORDER BY page",
    "SELECT p, o FROM {t} WHERE event_time >= '2025-09-04T09:30:00' AND event_time < '2025-09-04T10:30:00' ORDER BY p, o",
    "SELECT count(*) FROM {t} WHERE event_time = '2025-09-04T09:30:00' OR event_time > '2025-09-04T12:00:00'",
    "SELECT p, o FROM {t} WHERE p = 1 AND o >= 7 AND o < 19 ORDER BY p, o",
    "SELECT count(*) FROM {t} WHERE p <> 1 OR page = 'page2'",
    "SELECT p, o FROM {t} WHERE offsets_in(p, o, '{\"0\":3,\"2\":11}', '{\"0\":15,\"2\":-1}') ORDER BY p, o",
    "SELECT p, o, ts FROM {t} WHERE user_id IN (1, 3) AND page <> 'page0' AND NOT (user_id = 1 AND page = 'page2') ORDER BY p, o",
    "SELECT window_start, count(*) FROM TUMBLE(TABLE {t}, DESCRIPTOR(event_time), INTERVAL '1 hour') GROUP BY 1 ORDER BY 1",
    "SELECT user_id, window_start, count(*) FROM COMPLETE_SESSIONS(TABLE {t} PARTITION BY user_id, DESCRIPTOR(event_time), \
     INTERVAL '10 minutes', '2025-09-04T10:00:00', '2025-09-04T11:00:00') GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT a.p, a.o FROM {t} a JOIN {t} b ON a.p = b.p AND a.o = b.o WHERE a.user_id = 3 ORDER BY 1, 2",
];

#[test]
fn arch_1_queries_see_a_topic_that_never_forgot() {
    let lake = Lake::new();
    let mut random = Random::new(33);
    fill(&lake, &mut random);
    let mut expected = Vec::new();
    for query in QUERIES {
        expected.push(lake.run(&query.replace("{t}", "visits")));
    }
    assert_eq!(expected[1], [ROWS.to_string()]);
    for round in 0..3 * KINDS.len() {
        let Kind {
            columns,
            by,
            select,
            options,
            is_raw,
        } = &KINDS[round % KINDS.len()];
        let name = format!("past{round}");
        lake.run(&format!(
            "CREATE EXTERNAL TABLE {name} ({columns}) STORED AS DELTA {by} LOCATION '__DIR__/{name}'"
        ));
        // The border moves between three looks, in every partition by itself. Partitions may be missing. Of two archives one begins later
        // than the topic.
        let mut border = [0; PARTITIONS].map(|first| match round % 2 {
            0 => first,
            _ => random.below(6),
        });
        let all = table(
            &format!("all{round}"),
            "visits",
            &format!(", 'archive' '{name}' {options}"),
        );
        lake.run(&all);
        for _ in 0..3 {
            for (partition, border) in border.iter_mut().enumerate() {
                let next = *border + random.below(15);
                lake.run(&format!(
                    "INSERT INTO {name} SELECT {select} FROM visits WHERE p = {partition} AND o >= {border} AND o < {next}"
                ));
                *border = next;
            }
            let queries = QUERIES.iter().zip(&expected).skip(usize::from(!is_raw));
            for (query, expected) in queries {
                let query = query.replace("{t}", &format!("all{round}"));
                assert_eq!(&lake.run(&query), expected, "{border:?}, {name}: {query}");
            }
        }
        // A limit is met from both.
        let some = lake.run(&format!("SELECT o FROM all{round} LIMIT {}", ROWS - 1));
        assert_eq!(some.len(), ROWS - 1);
    }
}

#[test]
fn arch_1_rows_of_other_topics_are_no_records() {
    let lake = Lake::new();
    fill(&lake, &mut Random::new(34));
    let expected: Vec<_> = QUERIES
        .iter()
        .map(|query| lake.run(&query.replace("{t}", "visits")))
        .collect();
    for (number, by) in ["", "PARTITIONED BY (topic)", "PARTITIONED BY (p)"]
        .iter()
        .enumerate()
    {
        // Both have offsets of the same partitions; the other topic has more of them. One row names no topic.
        lake.run(&format!(
            "CREATE EXTERNAL TABLE raw{number} (value VARCHAR, p INT, o BIGINT, k VARCHAR, ts TIMESTAMP, topic VARCHAR)
             STORED AS DELTA {by} LOCATION '__DIR__/raw{number}';
             INSERT INTO raw{number}
               SELECT raw, p, o, k, ts, CASE WHEN o = 3 THEN NULL ELSE 'visits' END FROM visits WHERE o < 10
               UNION ALL SELECT 'x', p, o, 'y', ts, 'clicks' FROM visits WHERE o < 10;
             INSERT INTO raw{number} SELECT 'x', 7, o + 1000, 'y', ts, 'clicks' FROM visits;
             INSERT INTO raw{number} SELECT raw, p, o, k, ts, 'visits' FROM visits WHERE o >= 10 AND o < 14"
        ));
        let (archived, name) = (format!(", 'archive' 'raw{number}'"), format!("all{number}"));
        lake.run(&table(&name, "visits", &archived));
        for (query, expected) in QUERIES.iter().zip(&expected) {
            let query = query.replace("{t}", &name);
            assert_eq!(&lake.run(&query), expected, "{by}: {query}");
        }
        let some = lake.run(&format!("SELECT o FROM {name} LIMIT {}", ROWS - 1));
        assert_eq!(some.len(), ROWS - 1);
        let coverage = format!(
            "SELECT partition, from_offset, to_offset FROM archive_coverage('{name}') WHERE kind = 'covered' ORDER BY partition"
        );
        assert_eq!(lake.run(&coverage), ["0 0 14", "1 0 14", "2 0 14"], "{by}");
        let plan = lake.plan(&format!("SELECT page FROM {name}"));
        assert!(plan.contains("topic=topic of 'visits' alone"), "{plan}");
        assert!(plan.contains("topic_from=[0:14, 1:14, 2:14]"), "{plan}");
        // Without the column all rows are of the topic.
        let mixed = format!("mixed{number}");
        lake.run(&table(
            &mixed,
            "visits",
            &format!("{archived}, 'archive.topic' 'none'"),
        ));
        let refused = lake.refused(&format!("SELECT count(*) FROM {mixed}"));
        assert!(refused.contains("more than once"), "{refused}");
    }
    lake.run(
        "CREATE EXTERNAL TABLE others (value VARCHAR, p INT, o BIGINT, topic VARCHAR) STORED AS DELTA LOCATION '__DIR__/others'",
    );
    lake.run(&table("alone", "visits", ", 'archive' 'others'"));
    lake.session.take_warnings();
    let count = "SELECT count(*) FROM alone";
    assert_eq!(lake.run(count), [ROWS.to_string()]);
    assert_eq!(lake.session.take_warnings(), [] as [&str; 0]);
    lake.run("INSERT INTO others VALUES ('x', 0, 0, 'clicks')");
    assert_eq!(lake.run(count), [ROWS.to_string()]);
    let warned = lake.session.take_warnings();
    let said = "archive others has no row of topic 'visits': its column topic names other topics";
    assert!(
        warned.len() == 1 && warned[0].starts_with(said),
        "{warned:?}"
    );
}

#[test]
fn explain_shows_both_halves() {
    let lake = Lake::new();
    fill(&lake, &mut Random::new(1));
    lake.run(
        "CREATE EXTERNAL TABLE raw (value VARCHAR, partition INT, \"offset\" BIGINT, year INT, month INT, day INT, hour INT)
         STORED AS DELTA PARTITIONED BY (year, month, day, hour) LOCATION '__DIR__/raw';
         INSERT INTO raw SELECT raw, p, o, 2025, 9, 4, CAST(date_part('hour', event_time) AS INT) FROM visits WHERE o < 10",
    );
    let columns = "user_id BIGINT, page VARCHAR, event_time TIMESTAMP, p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset', \
                   WATERMARK FOR event_time AS event_time - INTERVAL '1 minute'";
    let declare = |name: &str, options: &str| {
        lake.run(&format!(
            "CREATE EXTERNAL TABLE {name} ({columns}) STORED AS KAFKA LOCATION 'visits'
             OPTIONS ('kafka.bootstrap.servers' '__KAFKA__', 'archive' 'raw' {options})"
        ));
    };
    declare("t", "");
    let plan = lake.plan("SELECT page FROM t WHERE p = 1 AND o >= 4 AND o < 12");
    let archive = "archive=raw, version=1, mapping=raw [value=value, partition=partition, offset=offset], columns=[page, p, o], \
                   offsets=[1:[4, 10)], topic_from=[0:10, 1:10, 2:10]";
    assert!(plan.contains(archive), "{plan}");
    assert!(plan.contains("offsets=[1:[10, 12)]"), "{plan}");
    assert!(
        plan.contains("hint=['archive.event_time' 'year, month, day, hour' would leave files out]"),
        "{plan}"
    );
    declare("pruned", ", 'archive.event_time' 'year, month, day, hour'");
    let query = "SELECT page FROM pruned WHERE event_time >= '2025-09-04T09:00:00' AND event_time < '2025-09-04T10:00:00'";
    let plan = lake.plan(query);
    assert!(plan.contains("pruned_by=["), "{plan}");
    assert!(!plan.contains("hint="), "{plan}");
    assert!(plan.contains("hour=9"), "{plan}");
    assert!(
        !plan.contains("hour=8") && !plan.contains("hour=11"),
        "{plan}"
    );
    // The topic gives what comes before the archive as well.
    lake.run("DELETE FROM raw WHERE \"partition\" = 1 AND \"offset\" < 3");
    let plan = lake.plan("SELECT page FROM t WHERE p = 1 AND o >= 1 AND o < 12");
    for offsets in [
        "offsets=[1:[1, 3)]",
        "offsets=[1:[3, 10)]",
        "offsets=[1:[10, 12)]",
    ] {
        assert!(plan.contains(offsets), "{offsets}: {plan}");
    }
    // Nothing is left out for another column.
    assert!(
        !lake
            .plan("SELECT page FROM pruned WHERE user_id = 3")
            .contains("pruned_by=")
    );
}

#[test]
fn a_claim_about_event_times_is_checked() {
    let lake = Lake::new();
    fill(&lake, &mut Random::new(2));
    // The hours are those of another zone.
    lake.run(
        "CREATE EXTERNAL TABLE raw (value VARCHAR, partition INT, \"offset\" BIGINT, key VARCHAR, timestamp TIMESTAMP,
           event_time TIMESTAMP, year INT, month INT, day INT, hour INT)
         STORED AS DELTA PARTITIONED BY (year, month, day, hour) LOCATION '__DIR__/raw';
         INSERT INTO raw SELECT raw, p, o, k, ts, event_time + INTERVAL '2 hours',
           2025, 9, 4, CAST(date_part('hour', event_time) AS INT) + 2 FROM visits WHERE o < 20",
    );
    let range = "WHERE event_time >= '2025-09-04T10:00:00' AND event_time < '2025-09-04T11:00:00'";
    let expected = lake.run(&format!("SELECT count(*) FROM visits {range}"));
    for (name, options, said) in [
        ("by_column", "", "archive raw says event_time="),
        (
            "by_parts",
            ", 'archive.event_time' 'year, month, day, hour'",
            "archive raw says year=2025, month=9, day=4, hour=1",
        ),
    ] {
        lake.run(&table(
            name,
            "visits",
            &format!(", 'archive' 'raw' {options}"),
        ));
        let error = lake.refused(&format!("SELECT count(*) FROM {name} {range}"));
        assert!(error.contains(said), "{error}");
        assert!(error.contains("'archive.event_time' 'none'"), "{error}");
        // It is also found where nothing was left out, if the event time is read.
        let error = lake.refused(&format!("SELECT max(event_time) FROM {name}"));
        assert!(error.contains(said), "{error}");
        assert_eq!(
            lake.run(&format!("SELECT count(user_id) FROM {name}")),
            [ROWS.to_string()]
        );
    }
    for (name, options) in [
        ("by_none", ", 'archive.event_time' 'none'"),
        (
            "by_zone",
            ", 'archive.event_time' 'year, month, day, hour', 'archive.timezone' '+02:00'",
        ),
    ] {
        lake.run(&table(
            name,
            "visits",
            &format!(", 'archive' 'raw' {options}"),
        ));
        assert_eq!(
            lake.run(&format!("SELECT count(*) FROM {name} {range}")),
            expected
        );
    }
}

#[test]
fn a_tombstone_in_an_archive_is_one_in_the_topic() {
    let lake = Lake::new();
    lake.broker.create_topic("keyed", 1).unwrap();
    let columns = "id BIGINT, name VARCHAR, o BIGINT METADATA FROM 'offset', p INT METADATA FROM 'partition', v VARCHAR METADATA FROM 'value'";
    let keyed = |name: &str, options: &str| {
        format!(
            "CREATE EXTERNAL TABLE {name} ({columns}) STORED AS KAFKA LOCATION 'keyed'
             OPTIONS ('kafka.bootstrap.servers' '__KAFKA__' {options});"
        )
    };
    lake.run(&format!(
        "CREATE EXTERNAL TABLE lines (line VARCHAR) STORED AS KAFKA LOCATION 'keyed'
         OPTIONS ('kafka.bootstrap.servers' '__KAFKA__', 'format' 'raw');
         INSERT INTO lines VALUES ('{{\"id\":1,\"name\":\"a\"}}'), (NULL), ('{{\"id\":2}}'), (NULL);
         {}
         CREATE EXTERNAL TABLE raw (value BINARY, partition INT, \"offset\" BIGINT) STORED AS DELTA LOCATION '__DIR__/raw';
         INSERT INTO raw SELECT arrow_cast(v, 'Binary'), p, o FROM keyed WHERE o < 3;
         CREATE EXTERNAL TABLE decoded (id BIGINT, name VARCHAR, p INT, o BIGINT) STORED AS DELTA LOCATION '__DIR__/decoded';
         INSERT INTO decoded SELECT id, name, p, o FROM keyed WHERE o < 3;",
        keyed("keyed", "")
    ));
    lake.run(&keyed("of_raw", ", 'archive' 'raw'"));
    lake.run(&keyed(
        "of_decoded",
        ", 'archive' 'decoded', 'archive.value' 'none'",
    ));
    let query = "SELECT o, id, name FROM {t} ORDER BY o";
    let expected = ["0 1 a", "1 NULL NULL", "2 2 NULL", "3 NULL NULL"];
    for name in ["keyed", "of_raw", "of_decoded"] {
        assert_eq!(lake.run(&query.replace("{t}", name)), expected, "{name}");
    }
    // What an archive lacks on purpose is NULL.
    let values = lake.run("SELECT o, v FROM of_decoded WHERE o IN (0, 2) ORDER BY o");
    assert_eq!(values, ["0 NULL", "2 NULL"]);
}

#[test]
fn records_that_retention_took_come_from_the_archive() {
    let topic = topic("archived");
    create_topic(&topic, 1);
    let work = Workspace::new();
    let lines = |from: usize, to: usize| -> String {
        (from..to).map(|v| format!("{{\"v\":{v}}}\n")).collect()
    };
    produce(&topic, &lines(0, 20));
    let tables = format!(
        "CREATE EXTERNAL TABLE raw (value VARCHAR, partition INT, \"offset\" BIGINT) STORED AS DELTA LOCATION 'raw';
         CREATE EXTERNAL TABLE plain (v INT, p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset', raw VARCHAR METADATA FROM 'value')
         STORED AS KAFKA LOCATION '{topic}' OPTIONS ('kafka.bootstrap.servers' '{kafka}');
         CREATE EXTERNAL TABLE whole (v INT, p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset')
         STORED AS KAFKA LOCATION '{topic}' OPTIONS ('kafka.bootstrap.servers' '{kafka}', 'archive' 'raw');",
        kafka = kafka()
    );
    work.file("tables.sql", &tables);
    let sql = |statement: &str| work.sql(&["tables.sql"], &[statement]).ok();
    let values = "SELECT v, o FROM whole ORDER BY v";
    let all = |to: usize| -> String {
        (0..to)
            .map(|v| format!("{{\"v\":{v},\"o\":{v}}}\n"))
            .collect()
    };
    assert_eq!(sql(values).out, all(20));
    sql("INSERT INTO raw SELECT raw, p, o FROM plain WHERE o < 12");
    delete_records_on(&kafka(), &topic, 0, 7);
    assert_eq!(sql(values).out, all(20));
    assert!(sql("SELECT count(*) AS n FROM plain").out.contains("13"));
    produce(&topic, &lines(20, 30));
    assert_eq!(sql(values).out, all(30));
    // The statement that archives the rest reads it by the archive's own end.
    sql("INSERT INTO raw SELECT raw, p, o FROM plain \
         WHERE offsets_from(p, o, (SELECT next_offsets(partition, \"offset\") FROM raw))");
    delete_records_on(&kafka(), &topic, 0, 30);
    assert_eq!(sql(values).out, all(30));
    // Records that were removed before they were archived are missed, and that is said.
    produce(&topic, &lines(30, 40));
    delete_records_on(&kafka(), &topic, 0, 35);
    let ran = sql("SELECT count(*) AS n FROM whole");
    assert_eq!(ran.rows()[0]["n"], 35);
    let warning = format!("topic '{topic}' no longer has offsets 30 to 34 of partition 0");
    assert!(ran.err.contains(&warning), "{}", ran.err);
}
