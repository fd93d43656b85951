//! RUN-5 over whole runs: the topic read by key is the same after a run that writes what has changed and after one that writes
//! everything.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use proptest::prelude::*;

use super::*;
use crate::core::archive::OffsetRange;
use crate::core::jobs::SourceProgress;
use crate::core::runs::{
    Chunks, EmitRows, Finality, GivenOut, LateRows, PublishedIndex, TimeRange, TimeRanges,
};

/// A session of a user, or a tombstone of one: user, start, end, count.
type Row = (&'static str, i64, i64, i64);

const GAP: i64 = 5;

fn schema() -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("user", DataType::Utf8, true),
        Field::new("start", time(), true),
        Field::new("end", time(), true),
        Field::new("count", DataType::Int64, true),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let times = |of: fn(&Row) -> i64| -> ArrayRef {
        let times: Vec<i64> = rows.iter().map(of).collect();
        Arc::new(TimestampMicrosecondArray::from(times))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
        times(|row| row.1),
        times(|row| row.2),
        Arc::new(rows.iter().map(|row| Some(row.3)).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<(String, i64, i64, i64)> {
    let users = batch.column(0).as_string::<i32>();
    let numbers = |at: usize| -> Vec<i64> {
        let column = cast(batch.column(at), &DataType::Int64).unwrap();
        let column = column.as_primitive::<datafusion::arrow::datatypes::Int64Type>();
        column.values().to_vec()
    };
    let (starts, ends, counts) = (numbers(1), numbers(2), numbers(3));
    (0..batch.num_rows())
        .map(|row| {
            (
                users.value(row).to_owned(),
                starts[row],
                ends[row],
                counts[row],
            )
        })
        .collect()
}

fn comparison() -> SinkComparison {
    let columns = ResultColumns {
        keys: vec![0, 1],
        start: Some(1),
        end: Some(2),
    };
    let grouping = Grouping::Sessions { gap: GAP };
    SinkComparison::try_new(schema(), columns, &[0, 1, 2, 3], grouping).unwrap()
}

fn options(emit: EmitRows, withdraw: bool) -> RunOptions {
    RunOptions {
        emit,
        late: LateRows::Include,
        withdraw,
        overwrite: false,
        append: false,
        chunk: None,
        max_rows_per_second: None,
        yields: true,
    }
}

type Table = BTreeMap<(String, i64), (i64, i64)>;

fn put(table: &mut Table, found: &RecordBatch) {
    for (user, start, end, count) in rows(found) {
        table.insert((user, start), (end, count));
    }
}

fn remove(table: &mut Table, gone: Option<&RecordBatch>) {
    for (user, start, ..) in gone.iter().flat_map(|gone| rows(gone)) {
        table.remove(&(user, start));
    }
}

/// The oracle: the sessions of rows of users.
fn sessions(times: &[(usize, i64)]) -> Vec<Row> {
    const USERS: [&str; 2] = ["a", "b"];
    let mut found = Vec::new();
    for (number, user) in USERS.iter().enumerate() {
        let own = times.iter().filter(|row| row.0 == number);
        let mut own: Vec<i64> = own.map(|row| row.1).collect();
        own.sort_unstable();
        for run in own.chunk_by(|one, next| next - one <= GAP) {
            let (first, last) = (run[0], run[run.len() - 1]);
            found.push((*user, first, last + GAP, i64::try_from(run.len()).unwrap()));
        }
    }
    found
}

fn everything_is_there(published: &[Row]) -> (PublishedPast, PublishedRows) {
    (PublishedPast::default(), in_topic(published, 0))
}

/// Rows of a topic whose first offset this is, all of which the job has written.
fn in_topic(published: &[Row], low: i64) -> PublishedRows {
    PublishedRows {
        rows: batch(published),
        settled: published.len(),
        low: Some([(0, low)].into()),
        ranges: Default::default(),
        records: None,
    }
}

fn again<'a>(
    (chunk, emission): (&'a Chunk, &'a TimeRanges),
    comparison: &SinkComparison,
) -> GivenAgain<'a> {
    GivenAgain {
        chunk: Some(chunk),
        emission,
        finality: Finality::new(comparison.grouping, Some(1_000_000)),
        is_selection: false,
        has_left: false,
    }
}

proptest! {
    /// Late rows make sessions longer and merge them. After the run the topic has the sessions of all rows, by key, in the range; with
    /// EMIT CHANGED as with EMIT ALL. The rows that differ are kept.
    #[test]
    fn run_5_the_topic_is_the_same_after_changed_and_all(
        on_time in prop::collection::vec((0_usize..2, 0_i64..100), 0..25),
        late in prop::collection::vec((0_usize..2, 0_i64..100), 0..8),
        step in 1_i64..40,
        withdraw: bool,
    ) {
        let comparison = comparison();
        let published = sessions(&on_time);
        let all_rows: Vec<(usize, i64)> = on_time.iter().chain(&late).copied().collect();
        let expected = sessions(&all_rows);
        let whole = TimeRanges::from(TimeRange::try_new(0, 100).unwrap());
        let chunks = Chunks::new(comparison.grouping, whole.clone());
        let (past, sink) = everything_is_there(&published);
        let mut all = Table::new();
        put(&mut all, &batch(&published));
        let mut changed = all.clone();
        let (mut position, mut gone) = (None, 0);
        while let Some(chunk) = chunks.next(position, step) {
            position = Some(chunk.range.to());
            let has_row = |row: &&Row| {
                let user = usize::from(row.0 == "b");
                let mut own = all_rows.iter().filter(|of| of.0 == user);
                own.any(|of| chunk.range.contains(of.1) && row.1 <= of.1 && of.1 < row.2)
                    && chunk.gives(row.1, row.2)
            };
            let computed: Vec<Row> = expected.iter().filter(has_row).copied().collect();
            let of = |emit| {
                let again = again((&chunk, &whole), &comparison);
                comparison.compare(&batch(&computed), (&past, &sink), again, (options(emit, withdraw), None)).unwrap()
            };
            let (of_all, of_changed) = (of(EmitRows::All), of(EmitRows::Changed));
            prop_assert!(of_changed.rows.num_rows() <= of_all.rows.num_rows());
            for (table, of) in [(&mut all, &of_all), (&mut changed, &of_changed)] {
                remove(table, of.withdrawn.as_ref());
                put(table, &of.rows);
            }
            let kept = KeptChanges::read(&comparison.file(&of_changed).unwrap().into()).unwrap();
            let counts = of_changed.counts;
            let differ = 2 * counts.changed + counts.new + counts.gone;
            prop_assert_eq!(kept.results().unwrap().num_rows() as u64, differ);
            prop_assert_eq!(of_changed.rows.num_rows() as u64, counts.changed + counts.new);
            // Nothing has moved since, and everything that was new has been written.
            prop_assert_eq!(comparison.moved(&kept, &sink.rows).unwrap(), 0);
            gone += counts.gone;
            let moved = comparison.moved(&kept, &batch(&expected)).unwrap();
            prop_assert!(moved >= counts.changed + counts.new);
        }
        prop_assert_eq!(&all, &changed);
        let mut by_key = Table::new();
        put(&mut by_key, &batch(&expected));
        let published = published.iter().map(|row| (row.0.to_owned(), row.1));
        let is_gone = |key: &(String, i64)| !by_key.contains_key(key);
        prop_assert_eq!(gone, published.filter(is_gone).count() as u64);
        match withdraw {
            true => prop_assert_eq!(all, by_key),
            false => {
                for (key, row) in by_key {
                    prop_assert_eq!(all.get(&key), Some(&row));
                }
            }
        }
    }
}

#[test]
fn what_the_topic_has_lost_is_unknown() {
    let comparison = comparison();
    let mut index = PublishedIndex::default();
    let offsets = |start, end| [(0, SourceProgress { start, end })].into();
    let hour = 3_600_000_000;
    let closed = |from, to| GivenOut::Closed {
        from: Some(from),
        to,
    };
    index.add(closed(0, 50), &offsets(0, 10));
    index.add(closed(2 * hour, 2 * hour + 50), &offsets(10, 20));
    let past = PublishedPast::from(index);
    let sink = in_topic(&[], 5);
    let whole = TimeRanges::from(TimeRange::try_new(0, 3 * hour).unwrap());
    let chunks = Chunks::new(comparison.grouping, whole.clone());
    let chunk = chunks.next(None, i64::MAX).unwrap();
    let computed = batch(&[("a", 10, 20, 1), ("a", 2 * hour + 10, 2 * hour + 20, 1)]);
    let options = options(EmitRows::Changed, true);
    let again = GivenAgain {
        finality: Finality::new(comparison.grouping, Some(9 * hour)),
        ..again((&chunk, &whole), &comparison)
    };
    let found = comparison.compare(&computed, (&past, &sink), again, (options, None));
    let found = found.unwrap();
    assert_eq!((found.counts.unknown, found.counts.new), (1, 1));
    assert_eq!(found.rows.num_rows(), 2);
    let ends = comparison.ends_of(&computed, Some(chunk.range)).unwrap();
    let offsets = past.offsets_of(&ends);
    assert!(offsets[&0].contains(OffsetRange::new(0, 20)), "{offsets:?}");
}

#[test]
fn what_differs_is_kept() {
    let comparison = comparison();
    let whole = TimeRanges::from(TimeRange::try_new(0, 100).unwrap());
    let chunks = Chunks::new(comparison.grouping, whole.clone());
    let chunk = chunks.next(None, i64::MAX).unwrap();
    let (past, sink) = everything_is_there(&[("a", 0, 10, 1), ("a", 20, 30, 2), ("b", 0, 9, 1)]);
    let computed = batch(&[("a", 0, 30, 4), ("b", 0, 9, 1)]);
    let options = options(EmitRows::Changed, false);
    let again = again((&chunk, &whole), &comparison);
    let found = comparison.compare(&computed, (&past, &sink), again, (options, None));
    let found = found.unwrap();
    assert_eq!((found.counts.same, found.counts.gone), (1, 1));
    assert!(found.withdrawn.is_none());
    let bytes = Bytes::from(comparison.file(&found).unwrap());
    let kept = KeptChanges::read(&bytes).unwrap();
    assert_eq!(rows(&kept.results().unwrap()).len(), 3);
    for length in 0..bytes.len() - 1 {
        assert!(
            KeptChanges::read(&bytes.slice(..length)).is_err(),
            "{length}"
        );
    }
    assert!(
        comparison
            .moved(&kept, &batch(&[("a", 20, 30, 2)]))
            .unwrap()
            > 0
    );
}

/// As metadata of records: the run has other values there than the rows of the sink, and they do not count.
#[test]
fn columns_that_are_not_compared_are_not_kept() {
    let grouping = Grouping::Sessions { gap: GAP };
    let of = |values: &[usize]| {
        let columns = ResultColumns {
            keys: vec![1],
            start: Some(1),
            end: Some(2),
        };
        SinkComparison::try_new(schema(), columns, values, grouping).unwrap()
    };
    let (comparison, of_all) = (of(&[1, 2, 3]), of(&[0, 1, 2, 3]));
    let whole = TimeRanges::from(TimeRange::try_new(0, 100).unwrap());
    let chunks = Chunks::new(grouping, whole.clone());
    let chunk = chunks.next(None, i64::MAX).unwrap();
    let (past, sink) = everything_is_there(&[("live", 0, 10, 1), ("live", 20, 30, 2)]);
    let computed = batch(&[("run", 0, 10, 1), ("run", 20, 30, 3), ("run", 50, 60, 1)]);
    let compare = |plan: Option<&PlannedRows>| {
        let again = again((&chunk, &whole), &comparison);
        let options = options(EmitRows::Changed, false);
        let found = comparison.compare(&computed, (&past, &sink), again, (options, plan));
        found.unwrap()
    };
    let found = compare(None);
    let counts = found.counts;
    assert_eq!((counts.same, counts.changed, counts.new), (1, 1, 1));
    // What is written has all columns.
    assert_eq!(rows(&found.rows)[0].0, "run");
    let bytes = Bytes::from(comparison.file(&found).unwrap());
    let reader = FileReader::try_new(Cursor::new(bytes.clone()), None).unwrap();
    let of_file = reader.schema();
    for (name, place) in [(KEYS, "0"), (START, "0"), (END, "1")] {
        assert_eq!(of_file.metadata()[name], place, "{name}");
    }
    let kept = KeptChanges::read(&bytes).unwrap();
    let results = kept.results().unwrap();
    let of_results = results.schema();
    let names: Vec<&String> = of_results.fields().iter().map(|of| of.name()).collect();
    assert_eq!(names, ["start", "end", "count"]);
    let lacks = of_all.in_sink_columns(&results).unwrap_err();
    assert!(
        lacks.message().ends_with("it has no column user"),
        "{lacks}"
    );
    // Earlier plans have kept all columns.
    let earlier = KeptChanges::read(&of_all.file(&found).unwrap().into()).unwrap();
    assert_eq!(earlier.results().unwrap().num_columns(), 4);
    for kept in [kept, earlier] {
        let results = comparison.in_sink_columns(&kept.results().unwrap());
        assert_eq!(rows(&results.unwrap()).len(), 3);
        assert_eq!(comparison.moved(&kept, &sink.rows).unwrap(), 0);
        let plan = comparison.planned(&[kept], true).unwrap();
        assert_eq!(compare(Some(&plan)).counts, counts);
    }
}

/// The keys of rows that are withdrawn.
fn withdrawn(of: &ComparedRows) -> Vec<(String, i64)> {
    let gone = of.withdrawn.iter().flat_map(rows);
    gone.map(|(user, start, ..)| (user, start)).collect()
}

#[test]
fn only_rows_that_the_run_could_give_again_are_gone() {
    let comparison = comparison();
    let whole = TimeRanges::from(TimeRange::try_new(0, 100).unwrap());
    let chunks = Chunks::new(comparison.grouping, whole.clone());
    let chunk = chunks.next(None, i64::MAX).unwrap();
    let (past, mut sink) =
        everything_is_there(&[("a", 0, 10, 1), ("a", 20, 30, 2), ("b", 40, 50, 1)]);
    let options = options(EmitRows::Changed, true);
    let gone = |sink: &PublishedRows| {
        let again = again((&chunk, &whole), &comparison);
        let none = batch(&[]);
        let found = comparison.compare(&none, (&past, sink), again, (options, None));
        withdrawn(&found.unwrap())
    };
    assert_eq!(gone(&sink).len(), 3);
    // The last one is of another writer, or of records that came in since.
    sink.settled = 2;
    let expected = [("a".to_owned(), 0), ("a".to_owned(), 20)];
    assert_eq!(gone(&sink), expected);
}

#[test]
fn what_is_applied_keeps_to_the_plan() {
    let comparison = comparison();
    let whole = TimeRanges::from(TimeRange::try_new(0, 100).unwrap());
    let chunks = Chunks::new(comparison.grouping, whole.clone());
    let chunk = chunks.next(None, i64::MAX).unwrap();
    let computed = batch(&[("a", 0, 10, 1), ("a", 20, 30, 2), ("b", 40, 50, 1)]);
    let against = |published: &[Row], plan: Option<&PlannedRows>, overwrite: bool| {
        let (past, sink) = everything_is_there(published);
        let again = again((&chunk, &whole), &comparison);
        let options = RunOptions {
            overwrite,
            ..options(EmitRows::Changed, true)
        };
        comparison.compare(&computed, (&past, &sink), again, (options, plan))
    };
    // One is the same, one is changed, one is new, and one is gone.
    let then = [("a", 0, 10, 1), ("a", 20, 25, 1), ("b", 60, 70, 1)];
    let planned = against(&then, None, false).unwrap();
    let kept = KeptChanges::read(&comparison.file(&planned).unwrap().into()).unwrap();
    let plan = comparison.planned(&[kept], true).unwrap();
    assert!(plan.size() > 0);
    let applied = against(&then, Some(&plan), false).unwrap();
    assert_eq!(applied.counts, planned.counts);
    assert_eq!(withdrawn(&applied), [("b".to_owned(), 60)]);
    // A row that is gone now and was not published then stays. A row that the job has published as the run gives it is not written.
    let more = [then.as_slice(), &[("b", 40, 50, 1), ("b", 80, 90, 1)]].concat();
    let applied = against(&more, Some(&plan), false).unwrap();
    assert_eq!(withdrawn(&applied), [("b".to_owned(), 60)]);
    assert_eq!((applied.counts.same, applied.counts.new), (2, 0));
    for (place, row) in [
        // It was the same.
        (0, ("a", 0, 10, 7)),
        // It was changed, and it was gone: both are others now.
        (1, ("a", 20, 25, 9)),
        (2, ("b", 60, 70, 9)),
    ] {
        let mut moved = then.to_vec();
        moved[place] = row;
        let refused = against(&moved, Some(&plan), false).unwrap_err();
        let said = refused.message();
        assert!(said.contains("does not show 1 of the rows"), "{said}");
        assert!(against(&moved, Some(&plan), true).is_ok());
    }
    // The log no longer says that the row which is gone is the job's, as it said when the plan was made. If another row is there by now, it
    // stays.
    let unsettled = |published: &[Row]| {
        let (past, mut sink) = everything_is_there(published);
        sink.settled = 0;
        let again = again((&chunk, &whole), &comparison);
        let options = options(EmitRows::Changed, true);
        let found = comparison.compare(&computed, (&past, &sink), again, (options, Some(&plan)));
        withdrawn(&found.unwrap())
    };
    assert_eq!(unsettled(&then), [("b".to_owned(), 60)]);
    assert!(unsettled(&[then[0], then[1], ("b", 60, 70, 9)]).is_empty());
    // A row that was the same has been withdrawn since.
    let refused = against(&then[1..], Some(&plan), false).unwrap_err();
    assert!(
        refused.message().contains("does not show 1 of"),
        "{refused}"
    );
    // All was the same: nothing may differ.
    let all = [("a", 0, 10, 1), ("a", 20, 30, 2), ("b", 40, 50, 1)];
    let nothing = comparison.planned(&[], true).unwrap();
    assert!(against(&all, Some(&nothing), false).is_ok());
    assert!(against(&then, Some(&nothing), false).is_err());
}

#[test]
fn chunks_of_offsets_keep_to_the_plan() {
    let columns = ResultColumns {
        keys: vec![0, 1],
        ..ResultColumns::default()
    };
    let values = [0, 1, 2, 3];
    let comparison = SinkComparison::try_new(schema(), columns, &values, Grouping::Rows).unwrap();
    let nothing = TimeRanges::default();
    let computed = batch(&[("a", 0, 0, 1), ("a", 1, 0, 2), ("b", 2, 0, 3)]);
    // The first `own` rows of the sink are those that the run has written.
    let against = |published: &[Row], own: usize, plan: Option<&PlannedRows>| {
        let (past, mut sink) = everything_is_there(published);
        sink.settled = own;
        let again = GivenAgain {
            chunk: None,
            emission: &nothing,
            finality: Finality::new(Grouping::Rows, None),
            is_selection: true,
            has_left: false,
        };
        let options = options(EmitRows::Changed, false);
        comparison.compare(&computed, (&past, &sink), again, (options, plan))
    };
    // One is the same, one is changed, and one is new.
    let then = [("a", 0, 0, 1), ("a", 1, 0, 7)];
    let planned = against(&then, 0, None).unwrap();
    let kept = KeptChanges::read(&comparison.file(&planned).unwrap().into()).unwrap();
    let kept = [kept];
    let plan = |is_whole| comparison.planned(&kept, is_whole).unwrap();
    for (moved, of_whole, of_part) in [
        (then.to_vec(), 0, 0),
        // It was the same: of a part of the plan's chunk another row of its key may have been compared.
        (vec![("a", 0, 0, 8), ("a", 1, 0, 7)], 1, 0),
        // It was changed, and has changed again; or it is not there any more.
        (vec![("a", 0, 0, 1), ("a", 1, 0, 8)], 1, 1),
        (vec![("a", 0, 0, 1)], 1, 1),
        // There was none.
        (vec![("a", 0, 0, 1), ("a", 1, 0, 7), ("b", 2, 0, 8)], 1, 1),
    ] {
        for (is_whole, expected) in [(true, of_whole), (false, of_part)] {
            let applied = against(&moved, 0, Some(&plan(is_whole)));
            match expected {
                0 => assert!(applied.is_ok(), "{moved:?}"),
                _ => assert!(applied.is_err(), "{moved:?} {is_whole}"),
            }
        }
    }
    // An earlier chunk has written rows with these keys.
    let own = [("a", 0, 0, 8), ("b", 2, 0, 8), ("a", 1, 0, 7)];
    assert!(against(&own, 0, Some(&plan(true))).is_err());
    assert!(against(&own, 2, Some(&plan(true))).is_ok());
}
