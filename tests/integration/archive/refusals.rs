//! Archives that cannot be the past of a topic: by name, with what to do.

use super::{Lake, table};

/// A lake with a topic of two partitions with a few rows each, and a Delta table that has some of them.
fn lake() -> Lake {
    let lake = Lake::new();
    lake.broker.create_topic("visits", 2).unwrap();
    lake.run(&format!(
        "{} INSERT INTO visits (user_id, page, event_time, p)
           SELECT value, 'x', TIMESTAMP '2025-09-04T10:00:00', value % 2 FROM generate_series(0, 9);
         CREATE EXTERNAL TABLE raw (value VARCHAR, partition INT, \"offset\" BIGINT, key VARCHAR, timestamp TIMESTAMP)
         STORED AS DELTA LOCATION '__DIR__/raw';
         INSERT INTO raw SELECT raw, p, o, k, ts FROM visits WHERE o < 3",
        table("visits", "visits", "")
    ));
    lake
}

#[test]
fn an_archive_that_is_none_is_refused_where_it_is_declared() {
    let lake = lake();
    lake.run(
        "CREATE EXTERNAL TABLE odd (body DOUBLE, partition VARCHAR, o BIGINT) STORED AS DELTA LOCATION '__DIR__/odd';
         CREATE EXTERNAL TABLE bare (partition INT, \"offset\" BIGINT, user_id VARCHAR, page VARCHAR) STORED AS DELTA LOCATION '__DIR__/bare'",
    );
    for (options, said) in [
        (
            ", 'archive' 'rae'",
            vec!["no table or view is named rae", "did you mean raw?"],
        ),
        (", 'archive' 'visits'", vec!["visits is a Kafka table"]),
        (
            ", 'archive.offset' 'o'",
            vec!["names none", "'archive' 'visits_raw'"],
        ),
        (
            ", 'archive' 'raw', 'archive.value' 'valeu'",
            vec![
                "Delta table raw cannot be the archive of t: it has no column 'valeu'",
                "did you mean 'value'?",
            ],
        ),
        (
            ", 'archive' 'odd', 'archive.value' 'body'",
            vec![
                "the partition in column partition of type VARCHAR",
                "INT or BIGINT",
                "'archive.partition'",
            ],
        ),
        (
            ", 'archive' 'bare'",
            vec![
                "has no column 'value', and lacks user_id BIGINT (it has VARCHAR), event_time TIMESTAMP",
                "'archive.value'",
            ],
        ),
        (
            ", 'archive' 'raw', 'archive.event_time' 'timestamp, key'",
            vec!["column timestamp of type TIMESTAMP is no part of a time"],
        ),
        (
            ", 'archive' 'raw', 'archive.partition' 'none'",
            vec!["does not accept 'none'"],
        ),
        (
            ", 'archive' 'raw', 'archive.timezone' 'Mars'",
            vec!["'archive.timezone' does not accept 'Mars'"],
        ),
        (
            ", 'archive' 'raw', 'archive.ofset' 'o'",
            vec!["unknown option 'archive.ofset'", "'archive.offset'"],
        ),
    ] {
        let error = lake.refused(&table("t", "visits", options));
        for said in said {
            assert!(error.contains(said), "{options}: {error}");
        }
    }
}

#[test]
fn duplicates_are_an_error_and_not_counted() {
    let lake = lake();
    lake.run(&table("t", "visits", ", 'archive' 'raw'"));
    assert_eq!(lake.run("SELECT count(*) FROM t"), ["10"]);
    // More rows than offsets: the log tells, or a look at partition and offset does.
    lake.run("INSERT INTO raw SELECT raw, p, o, k, ts FROM visits WHERE o < 3");
    let error = lake.refused("SELECT count(*) FROM t");
    assert!(
        error.contains("archive raw has 6 rows of partition"),
        "{error}"
    );
    assert!(error.contains("DELETE FROM"), "{error}");
    // As many rows as offsets or fewer, and one of them twice: found when it is read.
    lake.run(
        "CREATE EXTERNAL TABLE gaps (value VARCHAR, partition INT, \"offset\" BIGINT, key VARCHAR, timestamp TIMESTAMP)
         STORED AS DELTA LOCATION '__DIR__/gaps';
         INSERT INTO gaps SELECT raw, p, o, k, ts FROM visits WHERE o IN (0, 3);
         INSERT INTO gaps SELECT raw, p, o, k, ts FROM visits WHERE p = 1 AND o = 3",
    );
    lake.run(&table("g", "visits", ", 'archive' 'gaps'"));
    let error = lake.refused("SELECT count(*) FROM g");
    assert!(
        error.contains("archive gaps has offset 3 of partition 1 more than once"),
        "{error}"
    );
    // What is not read twice is not counted twice.
    assert_eq!(lake.run("SELECT count(*) FROM g WHERE p = 0"), ["3"]);
}

#[test]
fn the_archive_of_another_topic_is_recognized() {
    let lake = lake();
    lake.broker.create_topic("small", 2).unwrap();
    lake.broker.create_topic("narrow", 1).unwrap();
    lake.run(&table("small", "small", ", 'archive' 'raw'"));
    let error = lake.refused("SELECT count(*) FROM small");
    assert!(
        error.contains("archive raw is not the past of topic 'small': it has offset 2 of partition 0, and the topic ends at offset 0"),
        "{error}"
    );
    lake.run(&table("narrow", "narrow", ", 'archive' 'raw'"));
    let error = lake.refused("SELECT count(*) FROM narrow");
    assert!(
        error.contains("archive raw is not the past of topic 'narrow'"),
        "{error}"
    );
}

#[test]
fn metadata_that_an_archive_lacks_is_missed_where_it_is_read() {
    let lake = lake();
    lake.run(
        "CREATE EXTERNAL TABLE lean (value VARCHAR, partition INT, \"offset\" BIGINT) STORED AS DELTA LOCATION '__DIR__/lean';
         INSERT INTO lean SELECT raw, p, o FROM visits WHERE o < 3",
    );
    lake.run(&table("t", "visits", ", 'archive' 'lean'"));
    assert_eq!(
        lake.run("SELECT count(raw), sum(user_id) FROM t"),
        ["10 45"]
    );
    let error = lake.refused("SELECT ts FROM t");
    assert!(
        error.contains("archive lean has no column for ts, which is the record's timestamp"),
        "{error}"
    );
    assert!(error.contains("'archive.timestamp' 'none'"), "{error}");
    lake.run(&table(
        "n",
        "visits",
        ", 'archive' 'lean', 'archive.timestamp' 'none', 'archive.key' 'none'",
    ));
    assert_eq!(lake.run("SELECT count(*), count(ts) FROM n"), ["10 4"]);
}

#[test]
fn an_archive_that_was_dropped_is_missed_where_the_table_is_used() {
    let lake = lake();
    lake.run(&table("t", "visits", ", 'archive' 'raw'"));
    lake.run("DROP TABLE raw");
    let error = lake.refused("SELECT count(*) FROM t");
    assert!(
        error.contains("the archive of table t: no table or view is named raw"),
        "{error}"
    );
    // The table is there all the same, and takes rows once it has its archive back.
    lake.run("CREATE EXTERNAL TABLE raw STORED AS DELTA LOCATION '__DIR__/raw'");
    assert_eq!(lake.run("SELECT count(*) FROM t"), ["10"]);
    lake.run("INSERT INTO t (user_id, page, event_time, p) VALUES (10, 'y', TIMESTAMP '2025-09-04T11:00:00', 0)");
    assert_eq!(lake.run("SELECT count(*) FROM t"), ["11"]);
}
