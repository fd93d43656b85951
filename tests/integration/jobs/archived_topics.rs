//! Jobs over archived topics (ARCH-1): they read from the archive what the topic has lost, and give what a topic that never forgot
//! would have given.

use super::Pipeline;
use crate::support::create_topic_on;
use crate::topics::{delete_records_on, delete_topic_on, ends};

/// Jobs by name: the columns of their sink, and their query over the table `{visits}`.
const JOBS: [(&str, &str, &str); 4] = [
    (
        "rows",
        "k BIGINT, page VARCHAR, p INT, o BIGINT",
        "SELECT k, page, p, o FROM {visits}",
    ),
    (
        "tumbling",
        "k BIGINT, s TIMESTAMP, n BIGINT, first_offset BIGINT",
        "SELECT k, window_start, count(*), min(o) \
         FROM TUMBLE(TABLE {visits}, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start",
    ),
    (
        "hopping",
        "k BIGINT, s TIMESTAMP, n BIGINT, first_offset BIGINT",
        "SELECT k, window_start, count(*), min(o) \
         FROM HOP(TABLE {visits}, DESCRIPTOR(t), INTERVAL '5 seconds', INTERVAL '15 seconds') GROUP BY k, window_start",
    ),
    (
        "sessions",
        "k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT",
        "SELECT k, window_start, window_end, count(*) \
         FROM SESSION(TABLE {visits} PARTITION BY k, DESCRIPTOR(t), INTERVAL '3 seconds') GROUP BY k, window_start, window_end",
    ),
];

/// A topic of visits; the job in `archive.sql` archives it. For each of [`JOBS`] there are two jobs: `rows.sql` reads the archived
/// topic, and `rows_plain.sql` the topic alone.
fn archived(name: &str, partitions: u32) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, partitions);
    let (bootstrap, source) = (&pipeline.bootstrap, &pipeline.source);
    let visits = |table: &str, options: &str| {
        format!(
            "CREATE EXTERNAL TABLE {table} (k BIGINT, page VARCHAR, t TIMESTAMP, p INT METADATA FROM 'partition', \
             o BIGINT METADATA FROM 'offset', WATERMARK FOR t AS t - INTERVAL '5 seconds') \
             STORED AS KAFKA LOCATION '{source}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'watermark.idle_after' '1 hour'{options});\n"
        )
    };
    let mut tables = format!(
        "CREATE EXTERNAL TABLE messages (value VARCHAR, key VARCHAR METADATA, partition INT METADATA, \
         \"offset\" BIGINT METADATA, \"timestamp\" TIMESTAMP METADATA) \
         STORED AS KAFKA LOCATION '{source}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'format' 'raw');\n\
         CREATE EXTERNAL TABLE visits_raw (value VARCHAR, key VARCHAR, partition INT, \"offset\" BIGINT, \"timestamp\" TIMESTAMP) \
         STORED AS DELTA LOCATION 'visits_raw';\n"
    );
    tables += &visits("visits_plain", "");
    tables += &visits("visits", ", 'archive' 'visits_raw'");
    tables += &visits(
        "visits_with_gaps",
        ", 'archive' 'visits_raw', 'archive.gaps' 'accept'",
    );
    for (job, columns, query) in JOBS {
        for (suffix, table) in [("", "visits"), ("_plain", "visits_plain")] {
            tables += &format!(
                "CREATE EXTERNAL TABLE {job}{suffix}_kept ({columns}) STORED AS DELTA LOCATION '{job}{suffix}_kept';\n"
            );
            let query = query.replace("{visits}", table);
            pipeline.work.file(
                &format!("{job}{suffix}.sql"),
                &format!(
                    "CREATE JOB {job}{suffix} WITH ('trigger' '10 milliseconds', 'batch.max_rows' '7') AS \
                     INSERT INTO {job}{suffix}_kept {query};\n"
                ),
            );
        }
    }
    pipeline.work.file("tables.sql", &tables);
    pipeline.work.file(
        "archive.sql",
        "CREATE JOB archiving WITH ('trigger' '10 milliseconds', 'batch.max_rows' '9') AS INSERT INTO visits_raw \
         SELECT value, key, partition, \"offset\", \"timestamp\" FROM messages;\n",
    );
    pipeline
}

/// Visits of seconds that go forward, some of them out of order and late, and now and then one that cannot be decoded.
fn visits(numbers: std::ops::Range<u32>) -> String {
    numbers
        .map(|n| {
            if n % 13 == 5 {
                return format!("nonsense {n}\n");
            }
            let behind = if n % 11 == 3 { 40 } else { (n * 7) % 4 };
            let second = (60 + n + n / 9 * 5).saturating_sub(behind);
            let page = ["home", "shop", "help"][(n % 3) as usize];
            format!(
                "{{\"k\":{},\"page\":\"{page}\",\"t\":\"2025-01-01T00:{:02}:{:02}Z\"}}\n",
                n % 2,
                second / 60,
                second % 60
            )
        })
        .collect()
}

impl Pipeline {
    fn visit_some(&self, numbers: std::ops::Range<u32>) {
        self.produce(&visits(numbers));
    }

    /// Archives all that the topic has.
    fn archive(&self) {
        self.catch_up("archive.sql").ok();
    }

    /// What a job has written, its late rows, and its dead letters.
    fn results(&self, job: &str) -> [String; 3] {
        let late = format!(
            "SELECT topic, partition, \"offset\", value, \"window_start\" FROM system.late_rows WHERE job = '{job}' ORDER BY 2, 3, 5"
        );
        let dead = format!(
            "SELECT topic, partition, \"offset\", key, value, reason FROM system.dead_letters WHERE job = '{job}' ORDER BY 2, 3"
        );
        let kept = format!("SELECT * FROM {job}_kept ORDER BY 1, 2, 3, 4");
        [kept, late, dead].map(|query| self.work.sql(&["tables.sql"], &[&query]).ok().out)
    }

    /// The offsets of the rows of the job `rows`, in order.
    fn offsets_kept(&self) -> Vec<i64> {
        self.offsets_in("rows_kept")
    }

    /// The offsets of the rows of a table, in order.
    fn offsets_in(&self, table: &str) -> Vec<i64> {
        let query = format!("SELECT o FROM {table} ORDER BY o");
        let rows = self.work.sql(&["tables.sql"], &[&query]).ok().rows();
        rows.iter().map(|row| row["o"].as_i64().unwrap()).collect()
    }

    /// Runs a job that stops, and gives the error.
    fn error_of(&self, file: &str) -> String {
        let stopped = self.catch_up(file);
        assert_eq!(stopped.code, Some(1), "{stopped:?}");
        stopped.err
    }
}

/// The offsets of visits that can be decoded.
fn readable(numbers: std::ops::Range<u32>) -> Vec<i64> {
    let good = numbers.filter(|n| n % 13 != 5);
    good.map(i64::from).collect()
}

#[test]
fn arch_1_jobs_over_the_archive_give_what_the_topic_gave() {
    let pipeline = archived("archived-same", 2);
    for n in 0..12 {
        pipeline.visit_some(n * 12..(n + 1) * 12);
    }
    pipeline.archive();
    for n in 12..15 {
        pipeline.visit_some(n * 12..(n + 1) * 12);
    }
    let expected = JOBS.map(|(job, ..)| {
        let plain = format!("{job}_plain");
        pipeline.catch_up(&format!("{plain}.sql")).ok();
        pipeline.results(&plain)
    });
    // One partition has lost all that was archived, the other one a part of it.
    let archived = pipeline.work.sql(
        &["tables.sql"],
        &["SELECT partition, max(\"offset\") + 1 AS next FROM visits_raw GROUP BY partition ORDER BY partition"],
    );
    for row in archived.ok().rows() {
        let (partition, next) = (
            row["partition"].as_i64().unwrap(),
            row["next"].as_i64().unwrap(),
        );
        let before = if partition == 0 { next } else { next / 2 };
        let partition = i32::try_from(partition).unwrap();
        delete_records_on(&pipeline.bootstrap, &pipeline.source, partition, before);
    }
    for ((job, ..), expected) in JOBS.into_iter().zip(expected) {
        pipeline.catch_up(&format!("{job}.sql")).ok();
        let [kept, late, dead] = pipeline.results(job);
        assert!(!kept.is_empty() && !dead.is_empty(), "{job}");
        assert_eq!([kept, late, dead], expected, "{job}");
    }
}

#[test]
fn arch_1_a_job_crosses_the_border_in_one_batch_and_falls_behind_retention_again() {
    let pipeline = archived("archived-border", 1);
    pipeline.visit_some(0..20);
    pipeline.archive();
    pipeline.delete_before(13);
    pipeline.visit_some(20..40);
    // Batches of seven: one of them begins at offset 14, and the archive ends at 20.
    pipeline.catch_up("rows.sql").ok();
    assert_eq!(pipeline.offsets_kept(), readable(0..40));
    let batches = pipeline.work.sql(
        &[],
        &["SELECT count(*) AS n FROM system.batches WHERE job = 'rows'"],
    );
    assert_eq!(batches.ok().rows()[0]["n"].as_i64(), Some(6));
    pipeline.visit_some(40..60);
    pipeline.archive();
    pipeline.delete_before(55);
    pipeline.visit_some(60..64);
    pipeline.catch_up("rows.sql").ok();
    assert_eq!(pipeline.offsets_kept(), readable(0..64));
}

#[test]
fn exact_3_a_job_is_rewound_to_batches_that_only_the_archive_has() {
    let pipeline = archived("archived-rewind", 1);
    pipeline.visit_some(0..50);
    let jobs = ["rows", "sessions"];
    let before = jobs.map(|job| {
        pipeline.catch_up(&format!("{job}.sql")).ok();
        pipeline.results(job)
    });
    pipeline.archive();
    pipeline.delete_before(50);
    for batch in [3, 0] {
        for (job, before) in jobs.iter().zip(&before) {
            let (file, rewind) = (
                format!("{job}.sql"),
                format!("REWIND JOB {job} TO BATCH {batch}"),
            );
            pipeline.work.sql(&["tables.sql", &file], &[&rewind]).ok();
            pipeline.catch_up(&file).ok();
            assert_eq!(&pipeline.results(job), before, "{job} {batch}");
        }
    }
}

#[test]
fn exact_2_a_job_that_dies_while_it_reads_the_archive() {
    let pipeline = archived("archived-crash", 1);
    let mut sent = 0;
    pipeline.crash_at_each_step("rows.sql", 1, || {
        pipeline.visit_some(sent..sent + 16);
        pipeline.archive();
        sent += 16;
        // Of some batches the topic has the last records.
        pipeline.delete_before(i64::from(sent) - 3);
        pipeline.visit_some(sent..sent + 5);
        sent += 5;
    });
    assert_eq!(pipeline.offsets_kept(), readable(0..sent));
}

#[test]
fn loss_1_a_hole_between_archive_and_topic_stops_a_job() {
    let pipeline = archived("archived-hole", 1);
    pipeline.visit_some(0..20);
    pipeline.archive();
    pipeline.visit_some(20..40);
    pipeline.delete_before(24);
    let error = pipeline.error_of("rows.sql");
    assert!(
        error.contains("partition 0 lacks offsets 20 to 23"),
        "{error}"
    );
    assert!(error.contains("archive visits_raw"), "{error}");
    assert_eq!(pipeline.offsets_kept(), readable(0..20));
    pipeline
        .work
        .sql(&[], &["RESUME JOB rows SKIPPING LOST"])
        .ok();
    pipeline.catch_up("rows.sql").ok();
    let expected = [readable(0..20), readable(24..40)].concat();
    assert_eq!(pipeline.offsets_kept(), expected);
}

#[test]
fn loss_1_rows_that_were_deleted_from_an_archive_of_a_job_are_no_hole() {
    let pipeline = archived("archived-delete", 1);
    pipeline.visit_some(0..30);
    pipeline.archive();
    pipeline.delete_before(30);
    let delete = "DELETE FROM visits_raw WHERE \"offset\" BETWEEN 8 AND 11";
    pipeline.work.sql(&["tables.sql"], &[delete]).ok();
    pipeline
        .work
        .sql(&["tables.sql"], &["OPTIMIZE visits_raw"])
        .ok();
    pipeline.catch_up("rows.sql").ok();
    let expected = [readable(0..8), readable(12..30)].concat();
    assert_eq!(pipeline.offsets_kept(), expected);
}

#[test]
fn loss_1_gaps_of_an_archive_that_no_job_wrote_are_accepted_as_declared() {
    let pipeline = archived("archived-gaps", 1);
    pipeline.visit_some(0..20);
    let copy = "INSERT INTO visits_raw SELECT value, key, partition, \"offset\", \"timestamp\" FROM messages \
                WHERE \"offset\" NOT IN (9, 10)";
    pipeline.work.sql(&["tables.sql"], &[copy]).ok();
    // The topic fills the gap, until it has lost the records.
    pipeline.delete_before(8);
    pipeline.catch_up("tumbling.sql").ok();
    pipeline.delete_before(20);
    let error = pipeline.error_of("rows.sql");
    assert!(
        error.contains("partition 0 lacks offsets 9 to 10"),
        "{error}"
    );
    assert!(error.contains("'archive.gaps' 'accept'"), "{error}");
    assert_eq!(pipeline.offsets_kept(), readable(0..9));
    pipeline.work.file(
        "gaps.sql",
        "CREATE JOB gaps WITH ('trigger' '10 milliseconds', 'batch.max_rows' '7') AS \
         INSERT INTO gaps_kept SELECT o FROM visits_with_gaps;\n",
    );
    let sink = "CREATE EXTERNAL TABLE gaps_kept (o BIGINT) STORED AS DELTA LOCATION 'gaps_kept';\n";
    pipeline.work.append("tables.sql", sink);
    pipeline.catch_up("gaps.sql").ok();
    // No value is decoded, so no record is bad.
    let expected: Vec<i64> = (0..9).chain(11..20).collect();
    assert_eq!(pipeline.offsets_in("gaps_kept"), expected);
}

#[test]
fn a_job_that_writes_the_archive_reads_the_topic_alone() {
    let pipeline = archived("archived-own", 1);
    pipeline.visit_some(0..9);
    let decoded = "CREATE EXTERNAL TABLE visits_decoded (k BIGINT, page VARCHAR, t TIMESTAMP, p INT, o BIGINT) \
                   STORED AS DELTA LOCATION 'visits_decoded';\n";
    let (bootstrap, source) = (&pipeline.bootstrap, &pipeline.source);
    let own = format!(
        "CREATE EXTERNAL TABLE own (k BIGINT, page VARCHAR, t TIMESTAMP, p INT METADATA FROM 'partition', \
         o BIGINT METADATA FROM 'offset') STORED AS KAFKA LOCATION '{source}' \
         OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'archive' 'visits_decoded');\n"
    );
    pipeline
        .work
        .append("tables.sql", &(decoded.to_owned() + &own));
    for (name, sink) in [("writing", "visits_decoded"), ("reading", "rows_kept")] {
        let columns = match sink {
            "rows_kept" => "k, page, p, o",
            _ => "k, page, t, p, o",
        };
        pipeline.work.file(
            &format!("{name}.sql"),
            &format!("CREATE JOB {name} AS INSERT INTO {sink} SELECT {columns} FROM own;\n"),
        );
    }
    pipeline.catch_up("writing.sql").ok();
    pipeline.visit_some(9..14);
    pipeline.catch_up("writing.sql").ok();
    let count = "SELECT count(*) AS n, count(DISTINCT o) AS different FROM visits_decoded";
    let counted = pipeline.work.sql(&["tables.sql"], &[count]).ok().rows();
    assert_eq!(counted[0]["n"], counted[0]["different"]);
    assert_eq!(counted[0]["n"].as_i64(), Some(13));
    // A decoded archive gives the same rows.
    pipeline.delete_before(14);
    pipeline.catch_up("reading.sql").ok();
    assert_eq!(pipeline.offsets_kept(), readable(0..14));
}

#[test]
fn ident_1_an_archive_of_another_topic_is_not_mixed_with_this_one() {
    let pipeline = archived("archived-other", 1);
    pipeline.visit_some(0..20);
    pipeline.archive();
    delete_topic_on(&pipeline.bootstrap, &pipeline.source);
    create_topic_on(&pipeline.bootstrap, &pipeline.source, 1);
    for sent in [5, 30] {
        let there = u32::try_from(ends(&pipeline.source)[0]).unwrap();
        pipeline.visit_some(100 + there..100 + sent);
        let error = pipeline.error_of("rows.sql");
        assert!(error.contains("archive visits_raw"), "{error}");
        assert!(error.contains("recreated"), "{error}");
        assert_eq!(pipeline.offsets_kept(), Vec::<i64>::new());
        pipeline.work.sql(&[], &["RESUME JOB rows"]).ok();
    }
}
