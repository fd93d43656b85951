//! Ranges of a topic read by key: which offsets are read, and which rows stay, over the embedded broker.

use std::time::Duration;

use datafusion::arrow::datatypes::Field;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::*;
use crate::tables::kafka::definition::{KafkaColumn, KafkaTableSpec};
use crate::tables::kafka::embedded_broker::EmbeddedBroker;

/// A record as the test sends it: partition, key, value, time in seconds.
type Sent<'a> = (i32, Option<&'a str>, Option<&'a str>, i64);

fn table(servers: &str) -> Arc<KafkaTable> {
    let column = |name: &str, data_type| KafkaColumn {
        field: Field::new(name, data_type, true),
        metadata: None,
    };
    let options = [
        ("kafka.bootstrap.servers", servers),
        ("connect.timeout", "60s"),
        ("format", "json"),
    ];
    let spec = KafkaTableSpec {
        name: "t".to_owned(),
        topic: "t".to_owned(),
        columns: vec![column("k", DataType::Utf8), column("v", DataType::Int64)],
        primary_key: vec!["k".to_owned()],
        watermark: None,
        options: options
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    Arc::new(KafkaTable::try_new(spec).unwrap())
}

fn send(servers: &str, records: &[Sent<'_>]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()
        .unwrap();
    for (partition, key, value, time) in records {
        let record = BaseRecord::<str, str>::to("t").partition(*partition);
        let record = record.timestamp(time * 1_000);
        let record = match key {
            Some(key) => record.key(*key),
            None => record,
        };
        let record = match value {
            Some(value) => record.payload(*value),
            None => record,
        };
        assert!(producer.send(record).is_ok());
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

fn ranges(of: &[(i32, i64, i64)]) -> BTreeMap<i32, OffsetRanges> {
    let mut ranges: BTreeMap<i32, OffsetRanges> = BTreeMap::new();
    for (partition, from, to) in of {
        let range = archive::OffsetRange::new(*from, *to);
        ranges.entry(*partition).or_default().insert(range);
    }
    ranges
}

async fn rows_in(
    table: &Arc<KafkaTable>,
    ranges: &BTreeMap<i32, OffsetRanges>,
    own: &BTreeMap<i32, OffsetRanges>,
) -> TopicRows {
    let context = SessionContext::new().task_ctx();
    let read = last_rows(table, ranges, own, &context, None);
    read.await.unwrap().0
}

fn shown(rows: &RecordBatch) -> Vec<(String, i64)> {
    let keys = rows.column(0).as_string::<i32>();
    let values = rows.column(1).as_primitive::<Int64Type>();
    let rows = keys.iter().zip(values.iter());
    let mut rows: Vec<_> = rows
        .map(|(key, value)| (key.unwrap().to_owned(), value.unwrap()))
        .collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_by_key_have_the_last_row_of_each_key_without_tombstones() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 2).unwrap();
    let servers = broker.bootstrap_servers();
    let value = |key: &str, value: i64| format!("{{\"k\":\"{key}\",\"v\":{value}}}");
    let (a1, a2, b1, c1, c2, d1) = (
        value("a", 1),
        value("a", 2),
        value("b", 1),
        value("c", 1),
        value("c", 2),
        value("d", 1),
    );
    send(
        &servers,
        &[
            (0, Some("a"), Some(&a1), 1),
            (0, Some("b"), Some(&b1), 2),
            (0, Some("a"), Some(&a2), 3),
            (0, Some("b"), None, 4),
            // Partitions were added: the key went to another one.
            (1, Some("c"), Some(&c1), 1),
            (0, Some("c"), Some(&c2), 9),
            (1, Some("d"), Some(&d1), 5),
            (0, Some("d"), None, 6),
            (1, None, Some("{\"k\":\"z\",\"v\":7}"), 7),
            (1, Some("e"), None, 8),
        ],
    );
    let table = table(&servers);
    let all = ranges(&[(0, 0, 6), (1, 0, 4), (7, 0, 3)]);
    let nothing = BTreeMap::new();
    let found = rows_in(&table, &all, &nothing).await;
    assert_eq!(
        shown(&found.rows),
        [("a".to_owned(), 2), ("c".to_owned(), 2)]
    );
    assert_eq!(found.own, 0);
    // Others have written the record of "c" at offset 4: it is read as well, and told from the own ones.
    for (from, to, own) in [(0, 3, "a"), (4, 5, "c")] {
        let of_job = ranges(&[(0, from, to)]);
        let found = rows_in(&table, &all, &of_job).await;
        assert_eq!((found.own, found.rows.num_rows()), (1, 2));
        let first = found.rows.slice(0, 1);
        assert_eq!(shown(&first), [(own.to_owned(), 2)]);
    }
    assert_eq!(found.low, BTreeMap::from([(0, 0), (1, 0)]));
    assert_eq!(found.rows.schema(), *table.schema());
    // A log that was truncated does not have all.
    let more = ranges(&[(0, 0, 6), (1, 0, 9)]);
    let found = rows_in(&table, &more, &nothing).await;
    assert_eq!(found.low, BTreeMap::from([(0, 0)]));
    assert_eq!(found.rows.num_rows(), 2);
    // A topic that nothing was published to need not be there.
    let nowhere = self::table("localhost:1");
    let none = rows_in(&nowhere, &nothing, &nothing).await;
    assert_eq!((none.rows.num_rows(), none.low.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_behind_those_that_were_read_are_read_on() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 1).unwrap();
    let servers = broker.bootstrap_servers();
    let value = |key: &str, value: i64| format!("{{\"k\":\"{key}\",\"v\":{value}}}");
    let (a1, b1, b2, c1) = (value("a", 1), value("b", 1), value("b", 2), value("c", 1));
    send(
        &servers,
        &[(0, Some("a"), Some(&a1), 1), (0, Some("b"), Some(&b1), 2)],
    );
    let context = SessionContext::new().task_ctx();
    let (table, nothing) = (table(&servers), BTreeMap::new());
    let all = ranges(&[(0, 0, 2)]);
    let first = last_rows(&table, &all, &nothing, &context, None);
    let (found, read) = first.await.unwrap();
    assert_eq!(shown(&found.rows).len(), 2);
    send(
        &servers,
        &[
            (0, Some("a"), None, 3),
            (0, Some("b"), Some(&b2), 4),
            (0, Some("c"), Some(&c1), 5),
        ],
    );
    // What follows replaces and removes what was read before.
    let more = ranges(&[(0, 0, 5)]);
    let missing = read.as_ref().unwrap().missing_in(&more);
    assert_eq!(missing, Some(ranges(&[(0, 2, 5)])));
    let of_job = ranges(&[(0, 3, 4)]);
    let next = last_rows(&table, &more, &of_job, &context, read);
    let (found, read) = next.await.unwrap();
    let expected = [("b".to_owned(), 2), ("c".to_owned(), 1)];
    assert_eq!((shown(&found.rows), found.own), (expected.to_vec(), 1));
    let read = read.unwrap();
    let nothing_more = BTreeMap::from([(0, OffsetRanges::default())]);
    assert_eq!(read.missing_in(&more), Some(nothing_more));
    // Less than was read, and what lies before it, is read from the beginning.
    assert_eq!(read.missing_in(&ranges(&[(0, 1, 5)])), None);
    assert_eq!(read.missing_in(&nothing), None);
    let late = ReadRecords {
        ranges: ranges(&[(0, 3, 5)]),
        covered: ranges(&[(0, 3, 5)]),
        ..read
    };
    assert_eq!(late.missing_in(&more), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_do_not_stay_are_dropped_while_they_are_read() {
    let context = SessionContext::new().task_ctx();
    let table = table("localhost:1");
    let records = table.of_records();
    let mut last = LastRecords::try_new(&records, &context).unwrap();
    let keys = 10_i64;
    let batch = |from: i64| {
        let rows = from..from + 8_192;
        let number = |of: fn(i64) -> i64| rows.clone().map(of).collect::<Vec<i64>>();
        let times = TimestampMicrosecondArray::from(number(|at| at)).with_timezone("UTC");
        let texts = |of: &dyn Fn(i64) -> String| {
            let texts: Vec<String> = rows.clone().map(of).collect();
            let texts = texts.iter().map(|text| Some(text.as_bytes()));
            datafusion::arrow::array::BinaryArray::from_iter(texts)
        };
        let columns: Vec<datafusion::arrow::array::ArrayRef> = vec![
            Arc::new(datafusion::arrow::array::Int32Array::from(vec![0; 8_192])),
            Arc::new(datafusion::arrow::array::Int64Array::from(number(|at| at))),
            Arc::new(times),
            Arc::new(texts(&|at| format!("k{}", at % keys))),
            Arc::new(texts(&|at| {
                format!("{{\"k\":\"k{}\",\"v\":{at}}}", at % keys)
            })),
        ];
        RecordBatch::try_new(Arc::clone(records.schema()), columns).unwrap()
    };
    for at in 0..32 {
        last.push(batch(at * 8_192)).unwrap();
        assert!(last.partitions[&0].rows < 2 * PENDING);
    }
    let rows = decoded(&table, &last.rows().unwrap()).unwrap();
    let end = 32 * 8_192;
    let expected: Vec<i64> = (end - keys..end).collect();
    let mut values: Vec<i64> = shown(&rows).into_iter().map(|row| row.1).collect();
    values.sort_unstable();
    assert_eq!(values, expected);
}

proptest! {
    #[test]
    fn every_wanted_offset_is_read(
        wanted in prop::collection::vec((0_i32..3, 0_i64..200_000, 1_i64..3_000), 0..40),
        ends in prop::collection::btree_map(0_i32..3, (0_i64..100_000, 0_i64..200_000), 0..4),
    ) {
        let wanted: Vec<_> = wanted.into_iter().map(|(partition, from, count)| (partition, from, from + count)).collect();
        let ends: Vec<(i32, i64, i64)> = ends
            .into_iter()
            .map(|(partition, (low, count))| (partition, low, low + count))
            .collect();
        let found = rounds(&ranges(&wanted), &ends);
        prop_assert!(found.len() <= ROUNDS);
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for round in &found {
            let mut partitions: Vec<i32> = round.iter().map(|range| range.partition).collect();
            partitions.dedup();
            prop_assert_eq!(partitions.len(), round.len());
            for range in round {
                let (_, low, high) = *ends.iter().find(|of| of.0 == range.partition).unwrap();
                let next = next.entry(range.partition).or_insert(low);
                prop_assert!(*next <= range.start && range.start < range.end && range.end <= high);
                *next = range.end;
            }
        }
        for (partition, low, high) in ends {
            for (_, from, to) in wanted.iter().filter(|of| of.0 == partition) {
                for offset in [*from, (from + to) / 2, to - 1] {
                    if low <= offset && offset < high {
                        let is_in = |range: &OffsetRange| {
                            range.partition == partition && range.start <= offset && offset < range.end
                        };
                        prop_assert!(found.iter().flatten().any(is_in));
                    }
                }
            }
        }
    }
}
