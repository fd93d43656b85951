//! Tests of state by slice: its number of rows, and the conditions under which a job uses it.

use crate::streaming::JobQuery;
use crate::streaming::laws::oracle::{HOP, Joined, Kind, Log, TUMBLE};
use crate::streaming::laws::{ASKED, PLAIN, job, planned, run};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn plan(kind: Kind, asking: &str, emit: &str) -> JobQuery {
    block_on(job(kind, Joined::Not, asking, emit))
}

/// Ten rows of each of three keys, all in one minute.
fn minute() -> Vec<Log> {
    let rows = (0..30).map(|row| (Some(row % 3), 6_000 + row, row));
    vec![rows.collect()]
}

#[test]
fn a_row_is_kept_once_for_any_number_of_windows() {
    for (windows, kind) in [
        (60, Kind::Hop(60, 3_600, 0)),
        (1_440, Kind::Hop(60, 86_400, 0)),
        // The minute is the forty-first of its hour.
        (20, Kind::Cumulate(60, 3_600, 0)),
    ] {
        for emit in ["EMIT ON WINDOW CLOSE", "EMIT CHANGES"] {
            let query = plan(kind, PLAIN, emit);
            let ran = block_on(run(&query, &minute(), &[vec![7], vec![11]]));
            assert_eq!(ran.most_rows, 3, "{kind:?}");
            assert_eq!(ran.open.len(), 3 * windows, "{kind:?}");
            assert!(ran.open.values().all(|(count, _, _)| *count == 10));
        }
    }
    // An aggregate that reads the window of each row has a state row for each window.
    let query = plan(Kind::Hop(60, 3_600, 0), ASKED, "EMIT CHANGES");
    let ran = block_on(run(&query, &minute(), &[]));
    assert_eq!(ran.most_rows, 3 * 60);
}

#[test]
fn time_2_a_row_that_is_late_for_some_windows_has_a_state_row_of_its_own() {
    let key = Some(1);
    // The third one meets a watermark of 95, which is past the end of the window from 80 on; the fourth is late for all.
    let log = vec![(key, 89, 1), (key, 100, 2), (key, 88, 4), (key, 80, 8)];
    for emit in ["EMIT ON WINDOW CLOSE", "EMIT CHANGES"] {
        let query = plan(HOP, PLAIN, emit);
        // A second partition holds the job's watermark back.
        let ran = block_on(run(&query, &[log.clone(), vec![]], &[vec![2, 0]]));
        assert_eq!(ran.most_rows, 3);
        let sums: Vec<_> = ran
            .open
            .iter()
            .map(|((_, start, end), (_, sum, _))| (*start, *end, *sum))
            .collect();
        assert_eq!(
            sums,
            [
                (80, 92, 1),
                (84, 96, 5),
                (88, 100, 5),
                (92, 104, 2),
                (96, 108, 2),
                (100, 112, 2)
            ]
        );
        let late: Vec<_> = ran.late.into_keys().collect();
        assert_eq!(
            late,
            [
                (0, 2, Some((80, 92))),
                (0, 3, Some((72, 84))),
                (0, 3, Some((76, 88))),
                (0, 3, Some((80, 92))),
            ]
        );
    }
}

/// The fingerprint of format 1.
fn earlier(query: &JobQuery) -> String {
    query.stream().unwrap().split.fingerprints.earlier.clone()
}

/// The fingerprint of today.
fn fingerprint(query: &JobQuery) -> String {
    query.stream().unwrap().fingerprint().to_owned()
}

#[test]
fn state_by_slice_is_distinguished_from_state_by_window() {
    let by_slice = plan(HOP, PLAIN, "EMIT CHANGES");
    let stream = by_slice.stream().unwrap();
    let text = earlier(&by_slice);
    let by_window = text.strip_suffix("; by slice").unwrap();
    assert!(stream.matches_window_fingerprint(by_window));
    assert!(!stream.matches_fingerprint(by_window));
    assert!(stream.matches_fingerprint(&text));
    for own in [text.as_str(), stream.fingerprint()] {
        assert!(!stream.matches_window_fingerprint(own));
        assert!(stream.matches_fingerprint(own));
    }
    assert_eq!(
        stream.state_unit().unwrap(),
        "by slice of 4 seconds, for any number of windows"
    );
    // All other jobs keep their state as before.
    for (kind, asking) in [
        (TUMBLE, PLAIN),
        (Kind::Session, PLAIN),
        (Kind::Hop(5, 5, 0), PLAIN),
        (HOP, ASKED),
    ] {
        let query = plan(kind, asking, "EMIT CHANGES");
        let text = earlier(&query);
        assert!(!text.contains("slice"), "{text}");
        let stream = query.stream().unwrap();
        assert!(!stream.matches_window_fingerprint(&text));
        assert!(!stream.matches_window_fingerprint(stream.fingerprint()));
        if asking == ASKED {
            // The same windows, by slice, know it in both formats.
            let sliced = plan(kind, PLAIN, "EMIT CHANGES");
            assert!(
                !sliced
                    .stream()
                    .unwrap()
                    .matches_fingerprint(stream.fingerprint())
            );
        }
        assert_eq!(stream.state_unit().is_some(), asking == ASKED);
    }
}

/// What the versions of a data directory say.
fn kept_fingerprints(
    fixture: &str,
    of: impl Fn(&serde_json::Value) -> serde_json::Value,
) -> Vec<String> {
    let folder = format!(
        "{}/tests/fixtures/{fixture}/jobs",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut found = Vec::new();
    for job in std::fs::read_dir(folder).unwrap() {
        let Ok(versions) = std::fs::read_dir(job.unwrap().path().join("versions")) else {
            continue;
        };
        for version in versions {
            let text = std::fs::read_to_string(version.unwrap().path()).unwrap();
            let version: serde_json::Value = serde_json::from_str(&text).unwrap();
            found.push(of(&version).as_str().unwrap().to_owned());
        }
    }
    assert!(!found.is_empty());
    found
}

/// The state of the first format: its fingerprint, word for word; and that of the second.
#[test]
fn the_fingerprint_of_a_tumbling_window_is_stable() {
    let query = block_on(planned(
        "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '5 seconds')
         STORED AS KAFKA LOCATION 'ticks' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE EXTERNAL TABLE counts (k BIGINT, s TIMESTAMP, v BIGINT)
         STORED AS KAFKA LOCATION 'counts' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE JOB j AS INSERT INTO counts SELECT k, window_start, count(*)
         FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start",
    ));
    let stream = query.stream().unwrap();
    let of_first = kept_fingerprints("jobs-format-1", |version| version["fingerprint"].clone());
    assert!(
        of_first.iter().all(|kept| *kept == earlier(&query)),
        "{of_first:?}"
    );
    let of_second = kept_fingerprints("jobs-format-2", |version| {
        version["operators"]["aggregate"]["fingerprint"].clone()
    });
    assert!(
        of_second.iter().all(|kept| *kept == fingerprint(&query)),
        "{of_second:?}"
    );
    for kept in of_first.iter().chain(&of_second) {
        assert!(stream.matches_fingerprint(kept), "{kept}");
    }
}

/// Averages of integers were DOUBLE in earlier releases: the fingerprint is that of a query which still asks for averages of
/// DOUBLE.
#[test]
fn the_fingerprint_of_an_integer_average_is_stable() {
    let of = |averages: &str| {
        let query = block_on(planned(&format!(
            "CREATE EXTERNAL TABLE ticks (k BIGINT, v INT, p DECIMAL(18, 4), t TIMESTAMP,
             WATERMARK FOR t AS t - INTERVAL '5 seconds')
             STORED AS KAFKA LOCATION 'ticks' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
             CREATE EXTERNAL TABLE averages (s TIMESTAMP, a DOUBLE)
             STORED AS KAFKA LOCATION 'averages' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
             CREATE JOB j AS INSERT INTO averages SELECT window_start, {averages}
             FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY window_start"
        )));
        (earlier(&query), fingerprint(&query))
    };
    for integer in ["v", "k", "k * 2 + 1", "-k"] {
        for filter in ["", " FILTER (WHERE k > 0)"] {
            let now = of(&format!("avg({integer}){filter}"));
            let once = of(&format!("avg(CAST({integer} AS DOUBLE)){filter}"));
            assert_eq!(now, once);
            assert!(now.0.contains(" AS Float64)"), "{now:?}");
        }
    }
    // Products of decimals whose plain operator has no type are no integers.
    let (product, _) = of("CAST(avg(p * p * p * p) AS DOUBLE)");
    assert!(!product.contains("Float64)"), "{product}");
}

/// Unnamed columns of inner queries are not part of the fingerprint; a text that names one as the engine does has the same
/// fingerprint.
#[test]
fn names_of_inner_queries_change_no_fingerprint() {
    let of = |columns: &str, key: &str| {
        let query = block_on(planned(&format!(
            "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '5 seconds')
             STORED AS KAFKA LOCATION 'ticks' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
             CREATE EXTERNAL TABLE counts (k BIGINT, s TIMESTAMP, v BIGINT)
             STORED AS KAFKA LOCATION 'counts' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
             CREATE JOB j AS INSERT INTO counts WITH v AS (SELECT {columns}, t FROM ticks)
             SELECT {key}, window_start, count(*) FROM TUMBLE(TABLE v, DESCRIPTOR(t), INTERVAL '10 seconds')
             GROUP BY {key}, window_start"
        )));
        (earlier(&query), fingerprint(&query))
    };
    assert_eq!(of("k, k + 1", "k"), of("k", "k"));
    let (by_engine, _) = of("k + 1", "\"ticks.k + Int64(1)\"");
    assert!(
        by_engine.contains("ticks.k + Int64(1): Int64"),
        "{by_engine}"
    );
    let (by_name, _) = of("k + 1", "\"?column?\"");
    assert!(by_name.contains("?column?: Int64"), "{by_name}");
}

/// The expression that reads a row's window is named, wherever it stands below the aggregate.
#[test]
fn expressions_that_read_a_rows_window_are_named() {
    let unit = |from: &str, select: &str, group: &str| {
        let query = block_on(planned(&format!(
            "CREATE EXTERNAL TABLE visits (k BIGINT, event_time TIMESTAMP, v BIGINT,
               WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds')
             STORED AS KAFKA LOCATION 'visits' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
             CREATE EXTERNAL TABLE out (s TIMESTAMP, n BIGINT)
             STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
             CREATE VIEW days AS SELECT * FROM (VALUES (TIMESTAMP '2025-01-01T00:00:00Z')) AS d (day);
             CREATE JOB j AS INSERT INTO out WITH w AS (SELECT * FROM HOP(TABLE visits, DESCRIPTOR(event_time),
               INTERVAL '1 minute', INTERVAL '1 hour')) SELECT {select} FROM {from} GROUP BY {group}"
        )));
        query.stream().unwrap().state_unit().unwrap()
    };
    let plain = "window_start, count(*)";
    for (from, select, group) in [
        ("w", plain, "window_start, k"),
        (
            "w",
            "window_start, sum(v % 3)",
            "window_end, window_start, k % 2",
        ),
        (
            "(SELECT window_start AS s, v + 1 AS u FROM w WHERE v > 2) AS x",
            "s, sum(u)",
            "s",
        ),
        ("w JOIN days ON w.event_time > day", plain, "window_start"),
        (
            "w WHERE event_time IN (SELECT day FROM days)",
            plain,
            "window_start",
        ),
        // Above the aggregate a window is one of its columns.
        (
            "w",
            "window_end, count(*)",
            "window_start, window_end HAVING window_end > TIMESTAMP '2025-01-01T00:00:00Z'",
        ),
    ] {
        let unit = unit(from, select, group);
        assert!(
            unit.starts_with("by slice of 60 seconds"),
            "{from}, {select}, {group}: {unit}"
        );
    }
    for (from, select, group) in [
        (
            "w WHERE window_start > TIMESTAMP '2025-01-01T00:00:00Z'",
            plain,
            "window_start",
        ),
        (
            "w",
            "window_start, count(CASE WHEN event_time < window_end THEN 1 END)",
            "window_start",
        ),
        (
            "w",
            "window_start, count(*)",
            "window_start, date_trunc('day', window_end)",
        ),
        (
            "(SELECT *, window_end AS e, window_end - INTERVAL '1 second' AS u FROM w) AS x",
            plain,
            "window_start, u",
        ),
        ("w JOIN days ON window_start = day", plain, "window_start"),
        (
            "w WHERE window_start IN (SELECT day FROM days)",
            plain,
            "window_start",
        ),
        (
            "(SELECT * FROM w UNION ALL SELECT * FROM w) AS x",
            plain,
            "window_start",
        ),
    ] {
        let unit = unit(from, select, group);
        assert!(
            unit.starts_with("by window"),
            "{from}, {select}, {group}: {unit}"
        );
    }
}
