//! The archives that benchmarks of the past read, which the generator fills once and which stay, and the topics whose past they are.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use anabranch::cli::visits::{Visit, VisitPlan, Visits};
use datafusion::arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};

use crate::{Bench, DAY, PARTITIONS, peers, record};

/// The topic with the visits of one day.
pub(crate) const TOPIC: &str = "bench_past";
/// The topic whose past is [`LONG`]; it has no record any more.
pub(crate) const FORGOTTEN: &str = "bench_forgotten";

/// An hour has about 17,000 of their sessions.
const USERS: u32 = 64_000;
/// Rows of a commit: of 5 million visits each hour has about ten files, as a job that archives writes them.
const COMMIT: usize = 20_000;
/// The parts of the event time by which archives are partitioned.
const PARTS: [&str; 4] = ["year", "month", "day", "hour"];
const DAY_MICROS: i64 = 86_400_000_000;
/// Archives of another form are made again.
const FORM: u32 = 1;

/// How an archive keeps visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// The JSON of the record as it came.
    Raw,
    /// A column for each field.
    Typed,
}

/// An archive of visits, partitioned by the year, month, day and hour of the event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Archive {
    /// The name of the Delta table, and of its folder.
    pub(crate) name: &'static str,
    content: Content,
    /// The visits of the topic's day are there for so many days, one after the other.
    days: i64,
    /// So many tenths of the visits of each day are there.
    tenths: u64,
}

/// The records of the topic.
pub(crate) const RAW: Archive = Archive {
    name: "visits_raw",
    content: Content::Raw,
    days: 1,
    tenths: 10,
};

/// The same with a column for each field.
pub(crate) const TYPED: Archive = Archive {
    name: "visits_typed",
    content: Content::Typed,
    ..RAW
};

/// Ten days of such records.
pub(crate) const LONG: Archive = Archive {
    name: "visits_long",
    days: 10,
    ..RAW
};

/// The first nine tenths of the topic's records.
pub(crate) const MOST: Archive = Archive {
    name: "visits_most",
    tenths: 9,
    ..RAW
};

fn plan(bench: &Bench) -> VisitPlan {
    VisitPlan {
        seed: 42,
        users: USERS,
        visits: bench.records,
        start: DAY,
        slots: 48,
    }
}

/// The folder of archives that stay from one run of the benchmarks to the next.
fn cache() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from);
    of("BENCH_CACHE").unwrap_or_else(|| {
        let cache = of("XDG_CACHE_HOME");
        let cache = cache.unwrap_or_else(|| of("HOME").unwrap().join(".cache"));
        cache.join("anabranch/bench")
    })
}

impl Archive {
    fn folder(&self, bench: &Bench) -> PathBuf {
        cache().join(format!("{}-{FORM}-{}", self.name, bench.records))
    }

    /// Declares the Delta table; fills it, unless an earlier run of the benchmarks did.
    pub(crate) fn declare(&self, bench: &Bench) {
        let folder = self.folder(bench);
        let mark = folder.with_extension("complete");
        let is_complete = mark.exists();
        if !is_complete {
            // An earlier run may have been stopped while it filled the table.
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(cache()).unwrap();
        }
        let (columns, parts) = match self.content {
            Content::Raw => (
                "value VARCHAR, partition INT, \"offset\" BIGINT",
                PARTS.map(|part| format!("{part} INT")),
            ),
            Content::Typed => (
                "event_id VARCHAR, user_id BIGINT, event_time TIMESTAMP, page VARCHAR, partition INT, \"offset\" BIGINT",
                PARTS.map(|part| {
                    format!("{part} INT GENERATED ALWAYS AS (CAST(date_part('{part}', event_time) AS INT))")
                }),
            ),
        };
        bench.run(&format!(
            "CREATE EXTERNAL TABLE {} ({columns}, {}) STORED AS DELTA PARTITIONED BY (year, month, day, hour) LOCATION '{}'",
            self.name,
            parts.join(", "),
            folder.display()
        ));
        if !is_complete {
            eprintln!("filling {}, once", folder.display());
            self.fill(bench);
            std::fs::write(mark, "").unwrap();
        }
    }

    fn fill(&self, bench: &Bench) {
        let of_day = usize::try_from(bench.records * self.tenths / 10).unwrap();
        let mut first = 0;
        for day in 0..self.days {
            let mut visits = Visits::new(plan(bench)).take(of_day).map(|visit| Visit {
                event_time: visit.event_time + day * DAY_MICROS,
                ..visit
            });
            loop {
                let visits: Vec<Visit> = visits.by_ref().take(COMMIT).collect();
                if visits.is_empty() {
                    break;
                }
                self.commit(bench, first, &visits);
                first += visits.len() as u64;
            }
        }
    }

    /// Appends visits, the first of which is record number `first` of the topic.
    fn commit(&self, bench: &Bench, first: u64, visits: &[Visit]) {
        let width = u64::from(PARTITIONS.unsigned_abs());
        let numbers = first..first + visits.len() as u64;
        let partitions = numbers
            .clone()
            .map(|number| i32::try_from(number % width).unwrap());
        let partitions: ArrayRef = Arc::new(Int32Array::from_iter_values(partitions));
        let offsets = numbers.map(|number| (number / width).cast_signed());
        let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(offsets));
        let times = visits.iter().map(|visit| visit.event_time);
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        let times: ArrayRef = Arc::new(times);
        let mut columns = vec![
            ("partition", partitions),
            ("offset", offsets),
            ("event_time", times),
        ];
        let texts = |text: &dyn Fn(&Visit) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(visits.iter().map(text)))
        };
        let (into, select) = match self.content {
            Content::Raw => {
                columns.push(("value", texts(&record)));
                let parts =
                    PARTS.map(|part| format!("CAST(date_part('{part}', event_time) AS INT)"));
                (
                    "value, partition, \"offset\", year, month, day, hour",
                    format!("value, partition, \"offset\", {}", parts.join(", ")),
                )
            }
            Content::Typed => {
                let users = visits.iter().map(|visit| i64::from(visit.user_id));
                let users: ArrayRef = Arc::new(Int64Array::from_iter_values(users));
                columns.push((
                    "event_id",
                    texts(&|visit: &Visit| format!("click-{}", visit.number)),
                ));
                columns.push(("user_id", users));
                columns.push((
                    "page",
                    texts(&|visit: &Visit| format!("page-{}", visit.page)),
                ));
                let all = "event_id, user_id, event_time, page, partition, \"offset\"";
                (all, all.to_owned())
            }
        };
        let generated = format!("{}_{first}", self.name);
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        bench.session.register_batch(&generated, batch).unwrap();
        let written = bench.insert(&format!(
            "INSERT INTO {} ({into}) SELECT {select} FROM {generated}",
            self.name
        ));
        assert_eq!(written, visits.len() as u64);
        bench.run(&format!("DROP TABLE {generated}"));
    }

    /// The Kafka table `name` over a topic whose past this is.
    pub(crate) fn past(&self, bench: &Bench, bootstrap: &str, name: &str, topic: &str) {
        let by_hour = match self.content {
            Content::Raw => ", 'archive.event_time' 'year, month, day, hour'",
            Content::Typed => "",
        };
        let archive = format!(", 'archive' '{}'{by_hour}", self.name);
        declare_topic(bench, bootstrap, name, topic, &archive);
    }

    /// How many files it has for these hours of the topic's day.
    pub(crate) fn files(&self, bench: &Bench, hours: RangeInclusive<u64>) -> usize {
        let day = self.folder(bench).join("year=2025/month=9/day=4");
        let of_hour = |hour: u64| {
            let files = std::fs::read_dir(day.join(format!("hour={hour}"))).unwrap();
            let names = files.map(|file| file.unwrap().path());
            names
                .filter(|name| name.extension().is_some_and(|kind| kind == "parquet"))
                .count()
        };
        hours.map(of_hour).sum()
    }

    /// The rows of some hours of the topic's day, as DuckDB reads them; of all hours, if none are given.
    pub(crate) fn in_duckdb(&self, bench: &Bench, hours: Option<RangeInclusive<u64>>) -> String {
        let folder = self.folder(bench);
        let files = format!(
            "read_parquet('{}/year=*/month=*/day=*/hour=*/*.parquet', hive_partitioning = true)",
            folder.display()
        );
        match hours {
            None => files,
            Some(hours) => format!(
                "{files} WHERE year = 2025 AND month = 9 AND day = 4 AND hour BETWEEN {} AND {}",
                hours.start(),
                hours.end()
            ),
        }
    }

    /// User and time of these rows in DuckDB: a JSON text is parsed once for both.
    pub(crate) fn users_and_times(&self, bench: &Bench, hours: RangeInclusive<u64>) -> String {
        let rows = self.in_duckdb(bench, Some(hours));
        match self.content {
            Content::Typed => format!("SELECT user_id, event_time FROM {rows}"),
            Content::Raw => format!(
                "SELECT CAST(field[1] AS BIGINT) AS user_id, CAST(field[2] AS TIMESTAMPTZ) AS event_time \
                 FROM (SELECT json_extract_string(value, ['$.user_id', '$.event_time']) AS field FROM {rows})"
            ),
        }
    }
}

/// The Kafka table `name` over the topic alone.
pub(crate) fn without_archive(bench: &Bench, bootstrap: &str, name: &str) {
    declare_topic(bench, bootstrap, name, TOPIC, "");
}

fn declare_topic(bench: &Bench, bootstrap: &str, name: &str, topic: &str, options: &str) {
    bench.run(&format!(
        "CREATE EXTERNAL TABLE {name} (event_id VARCHAR, user_id BIGINT, event_time TIMESTAMP, page VARCHAR,
           kafka_partition INT METADATA FROM 'partition', kafka_offset BIGINT METADATA FROM 'offset',
           WATERMARK FOR event_time AS event_time - INTERVAL '15 minutes')
         STORED AS KAFKA LOCATION '{topic}'
         OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'watermark.max_ahead' '10000 days'{options})"
    ));
}

/// Fills the topic with the visits of one day, in the order in which the archives number them.
pub(crate) fn fill_topic(bench: &Bench, bootstrap: &str) {
    eprintln!("generating {} records", bench.records);
    peers::create_topic(bootstrap, TOPIC, PARTITIONS);
    let visits = Visits::new(plan(bench));
    let records = visits.map(|visit| record(&visit));
    peers::fill(bootstrap, TOPIC, PARTITIONS, 1, records);
}

/// The topic whose past is [`LONG`]: it has had as many records, and retention has removed them.
pub(crate) fn forget_topic(bench: &Bench, bootstrap: &str) {
    peers::create_topic(bootstrap, FORGOTTEN, PARTITIONS);
    let records = LONG.days.unsigned_abs() * bench.records;
    let empty = (0..records).map(|_| "{}".to_owned());
    peers::fill(bootstrap, FORGOTTEN, PARTITIONS, 1, empty);
    peers::forget(bootstrap, FORGOTTEN, PARTITIONS);
}
