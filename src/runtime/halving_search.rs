//! Search for the records of a batch that make it fail. It runs parts of the batch again.
//!
//! The search halves the batch until one record is left. If rows have a watermark (in a job with windows), every part begins at
//! the start of the batch, so that each row meets the same watermark as there. A record is to blame only if it fails alone: a
//! sum that is too large is the fault of no single record. No record is to blame when other jobs hold the memory; a record is
//! to blame when a value made from it is too large.

use crate::core::jobs::PlannedRange;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::batch::BatchRanges;
use crate::runtime::set_aside_records::RecordPosition;

/// The most records of a batch that are set aside. With more the job fails, as with more than half of the batch.
const MOST: u64 = 1_000;

/// Result of a search.
#[derive(Debug)]
pub(super) enum SearchResult {
    /// No record is to blame: the batch fails for another reason.
    NoRecord,
    /// None of its records is known to fail alone.
    OnlyTogether,
    /// These records, each with its own error.
    Records(Vec<(RecordPosition, Error)>),
    /// More records fail than a job may set aside; the first one.
    TooMany(RecordPosition, Error),
}

/// Whether an error may be caused by one record of the batch without naming it. A refusal by a store, a broker or a registry is
/// the fault of no record, and neither is an exhausted memory pool.
pub(super) fn may_be_caused_by_record(error: &Error) -> bool {
    let kinds = [
        ErrorKind::Invalid,
        ErrorKind::Data,
        ErrorKind::Unsupported,
        ErrorKind::Exhausted,
        ErrorKind::Internal,
    ];
    let is_of_rows = !error.is_without_row() && !error.is_exhausted_pool();
    kinds.contains(&error.kind()) && !error.names_record() && is_of_rows
}

/// Searches the batch of `ranges`, which has failed, for the first record that makes it fail, or for all of them.
///
/// `run` runs a part of the batch and returns the part's own error, if it has one. If `from_start` is set, every part must
/// begin at the start of the batch. A search for all records ends early, with those found so far, when `is_enough` returns true
/// or when parts can no longer be run: each record found fails alone, also without the records after it.
///
/// # Errors
///
/// The fault that keeps a part from running before a record is found, such as a broker that does not answer.
pub(super) async fn search<F: Future<Output = Result<()>>>(
    ranges: &BatchRanges,
    from_start: bool,
    all: bool,
    is_enough: impl Fn() -> bool,
    run: impl Fn(BatchRanges) -> F,
) -> Result<SearchResult> {
    let mut ranges = ranges.clone();
    let total = positions(&ranges);
    let before = count_aside(&ranges);
    let run = |part: BatchRanges| fault(run(part));
    // The batch fails even without records: a table or the sink is missing.
    if run(part(&ranges, 0, 0)).await?.is_some() {
        return Ok(SearchResult::NoRecord);
    }
    let mut found = Vec::new();
    let mut next = 0;
    while found.is_empty() || !is_enough() {
        let (at, alone) = match first_fault(&ranges, next, from_start, &run).await {
            Ok(Some(fault)) => fault,
            Ok(None) => break,
            Err(error) if error.may_pass() && !found.is_empty() => break,
            Err(error) => return Err(error),
        };
        let (Some(error), Some(place)) = (alone, place(&ranges, at)) else {
            return Ok(SearchResult::OnlyTogether);
        };
        // It fails although it is set aside already.
        if is_aside(&ranges, &place) {
            return Ok(SearchResult::NoRecord);
        }
        if !all {
            return Ok(SearchResult::Records(vec![(place, error)]));
        }
        found.push((place.clone(), error));
        let count = before + found.len() as u64;
        if count > MOST || (total >= 100 && count * 2 > total) {
            let (place, error) = found.swap_remove(0);
            return Ok(SearchResult::TooMany(place, error));
        }
        ranges.set_aside(&place, String::new());
        next = at + 1;
    }
    Ok(match found.is_empty() {
        // The failing step does not run here, such as the part of the plan above an aggregate.
        true => SearchResult::OnlyTogether,
        false => SearchResult::Records(found),
    })
}

/// The position of the first record from `next` on with which the batch fails, and the error of that record alone, if it fails
/// alone; `None` if the rest of the batch does not fail.
async fn first_fault<F: Future<Output = Result<Option<Error>>>>(
    ranges: &BatchRanges,
    next: u64,
    from_start: bool,
    run: &impl Fn(BatchRanges) -> F,
) -> Result<Option<(u64, Option<Error>)>> {
    let total = positions(ranges);
    let begin = |from| if from_start { 0 } else { from };
    if next >= total || run(part(ranges, begin(next), total)).await?.is_none() {
        return Ok(None);
    }
    let of_part = |from: u64, to: u64| run(part(ranges, begin(from), to));
    let found = halve(next, total, of_part).await?;
    let alone = run(part(ranges, found, found + 1)).await?;
    Ok(Some((found, alone)))
}

/// Halves positions that fail together until one is left: `good` is the first of them, and `bad` the one after the last. `run` gives
/// the error of the part from one position up to another.
pub(super) async fn halve<F: Future<Output = Result<Option<Error>>>>(
    mut good: u64,
    mut bad: u64,
    run: impl Fn(u64, u64) -> F,
) -> Result<u64> {
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match run(good, middle).await? {
            Some(_) => bad = middle,
            None => good = middle,
        }
    }
    Ok(good)
}

/// The part's own error, if it has one.
pub(super) async fn fault(run: impl Future<Output = Result<()>>) -> Result<Option<Error>> {
    match run.await {
        Ok(()) => Ok(None),
        Err(error) if may_be_caused_by_record(&error) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

fn length(range: &PlannedRange) -> u64 {
    u64::try_from(range.end - range.start).unwrap_or(0)
}

/// Number of offsets of a batch. A position counts through them, partition after partition.
fn positions(ranges: &BatchRanges) -> u64 {
    ranges.planned.values().flatten().map(length).sum()
}

/// The part of the batch with these positions.
fn part(ranges: &BatchRanges, from: u64, to: u64) -> BatchRanges {
    let mut part = ranges.clone();
    let mut passed = 0;
    for range in part.planned.values_mut().flatten() {
        let here = length(range);
        let cut = |position: u64| {
            let within = position.clamp(passed, passed + here) - passed;
            range.start + i64::try_from(within).unwrap_or(i64::MAX)
        };
        (range.start, range.end) = (cut(from), cut(to));
        passed += here;
    }
    part
}

/// How many records of the batch are set aside already.
fn count_aside(ranges: &BatchRanges) -> u64 {
    let of_table = |(table, planned): (&String, &Vec<PlannedRange>)| {
        let aside = ranges.aside.get(table).into_iter();
        let aside = aside.flat_map(|aside| aside.keys());
        let is_in = |range: &PlannedRange, (partition, offset): (i32, i64)| {
            range.partition == partition && (range.start..range.end).contains(&offset)
        };
        let aside = aside.filter(|at| planned.iter().any(|range| is_in(range, **at)));
        aside.count() as u64
    };
    ranges.planned.iter().map(of_table).sum()
}

/// Whether a record is set aside already.
fn is_aside(ranges: &BatchRanges, place: &RecordPosition) -> bool {
    let aside = ranges.aside.get(&place.table);
    aside.is_some_and(|aside| aside.contains_key(&(place.partition, place.offset)))
}

/// The record at a position.
fn place(ranges: &BatchRanges, at: u64) -> Option<RecordPosition> {
    let part = part(ranges, at, at + 1);
    let all = part.planned.into_iter();
    let mut all = all.flat_map(|(table, ranges)| {
        let table = move || table.clone();
        ranges.into_iter().map(move |range| (table(), range))
    });
    let (table, range) = all.find(|(_, range)| range.end > range.start)?;
    Some(RecordPosition {
        table,
        partition: range.partition,
        offset: range.start,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::future::ready;

    use super::*;

    fn batch() -> BatchRanges {
        let range = |partition, start, end| PlannedRange {
            partition,
            start,
            end,
        };
        let of_a = vec![range(0, 10, 70), range(1, 0, 0), range(2, 5, 45)];
        let of_b = vec![range(0, 0, 30)];
        BatchRanges {
            planned: BTreeMap::from([("a".to_owned(), of_a), ("b".to_owned(), of_b)]),
            ..BatchRanges::default()
        }
    }

    fn at(table: &str, partition: i32, offset: i64) -> RecordPosition {
        RecordPosition {
            table: table.to_owned(),
            partition,
            offset,
        }
    }

    /// Whether a part has a record that is not set aside.
    fn has(part: &BatchRanges, place: &RecordPosition) -> bool {
        let in_range = part.planned[&place.table].iter().any(|range| {
            range.partition == place.partition && (range.start..range.end).contains(&place.offset)
        });
        let key = (place.partition, place.offset);
        let aside = part.aside.get(&place.table);
        in_range && !aside.is_some_and(|aside| aside.contains_key(&key))
    }

    /// Result of a search in which these records fail, and the number of parts that it ran.
    async fn found(bad: &[RecordPosition], from_start: bool, all: bool) -> (SearchResult, u32) {
        let runs = Cell::new(0);
        let run = |part: BatchRanges| {
            runs.set(runs.get() + 1);
            if from_start && positions(&part) > 1 {
                assert_eq!(part.planned["a"][0].start, 10);
            }
            ready(match bad.iter().find(|place| has(&part, place)) {
                Some(place) => Err(Error::data(format!("{place:?}"))),
                None => Ok(()),
            })
        };
        let blamed = search(&batch(), from_start, all, || false, run)
            .await
            .unwrap();
        (blamed, runs.get())
    }

    #[tokio::test]
    async fn exactly_the_failing_records_are_found() {
        let bad = [
            at("a", 0, 10),
            at("a", 2, 5),
            at("a", 2, 44),
            at("b", 0, 29),
        ];
        for from_start in [false, true] {
            let (blamed, runs) = found(&bad, from_start, true).await;
            let SearchResult::Records(records) = blamed else {
                panic!("{blamed:?}");
            };
            for ((place, error), expected) in records.iter().zip(&bad) {
                assert_eq!(place, expected);
                assert_eq!(error.message(), format!("{expected:?}"));
            }
            assert_eq!(records.len(), bad.len());
            assert!(runs < 60, "{runs}");
            let (blamed, runs) = found(&bad[2..], from_start, false).await;
            assert!(
                matches!(&blamed, SearchResult::Records(one) if one.len() == 1 && one[0].0 == bad[2])
            );
            assert!(runs < 12, "{runs}");
        }
    }

    #[tokio::test]
    async fn a_fault_of_no_record_blames_none() {
        // A sum that is too large from some record on, and a table that does not exist.
        for (most, is_of_records) in [(90, true), (0, false)] {
            let run = |part: BatchRanges| {
                ready(match positions(&part) >= most {
                    true => Err(Error::data("too many")),
                    false => Ok(()),
                })
            };
            let blamed = search(&batch(), true, true, || false, run).await.unwrap();
            match is_of_records {
                true => assert!(matches!(blamed, SearchResult::OnlyTogether), "{blamed:?}"),
                false => assert!(matches!(blamed, SearchResult::NoRecord), "{blamed:?}"),
            }
        }
        let (blamed, _) = found(&[], false, true).await;
        assert!(matches!(blamed, SearchResult::OnlyTogether), "{blamed:?}");
    }

    #[tokio::test]
    async fn a_record_that_was_set_aside_is_not_blamed_again() {
        let bad = at("a", 2, 7);
        let run = |mut part: BatchRanges| {
            part.aside.clear();
            ready(match has(&part, &bad) {
                true => Err(Error::data("damaged")),
                false => Ok(()),
            })
        };
        let mut batch = batch();
        batch.set_aside(&bad, "damaged".to_owned());
        let blamed = search(&batch, false, true, || false, run).await.unwrap();
        assert!(matches!(blamed, SearchResult::NoRecord), "{blamed:?}");
    }

    #[test]
    fn a_store_error_blames_no_record() {
        assert!(may_be_caused_by_record(&Error::data("1 / 0")));
        assert!(!may_be_caused_by_record(
            &Error::data("1 / 0").mark_record()
        ));
        assert!(!may_be_caused_by_record(
            &Error::data("the data file is gone").without_row()
        ));
        // A value that is too large comes from a record; a pool that others have exhausted does not.
        let exhausted = || Error::new(ErrorKind::Exhausted, "too much");
        assert!(may_be_caused_by_record(&exhausted()));
        assert!(!may_be_caused_by_record(&exhausted().mark_exhausted_pool()));
    }

    #[tokio::test]
    async fn a_batch_with_mostly_failing_records_is_not_set_aside() {
        let bad: Vec<RecordPosition> = (10..70).map(|offset| at("a", 0, offset)).collect();
        let (blamed, _) = found(&bad, false, true).await;
        assert!(matches!(blamed, SearchResult::Records(all) if all.len() == 60));
        let more = [bad, (0..30).map(|offset| at("b", 0, offset)).collect()].concat();
        let (blamed, _) = found(&more, false, true).await;
        assert!(matches!(blamed, SearchResult::TooMany(first, _) if first == at("a", 0, 10)));
    }

    #[tokio::test]
    async fn a_broker_failure_during_the_search_is_an_error() {
        let run = |part: BatchRanges| {
            ready(match positions(&part) {
                0 => Ok(()),
                _ => Err(Error::unavailable("away")),
            })
        };
        for all in [false, true] {
            let error = search(&batch(), false, all, || false, run)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
    }

    /// The places of the records that a search has found.
    fn places(blamed: SearchResult) -> Vec<RecordPosition> {
        let SearchResult::Records(records) = blamed else {
            panic!("{blamed:?}");
        };
        records.into_iter().map(|(place, _)| place).collect()
    }

    /// Searches again without the records found before, as a job does, while each search ends when `is_enough` or `run` make it
    /// end.
    #[tokio::test]
    async fn records_found_before_a_search_ends_early_are_kept() {
        let bad: Vec<RecordPosition> = (0..5).map(|n| at("a", 0, 12 + 9 * n)).collect();
        let fails = |part: &BatchRanges| match bad.iter().find(|place| has(part, place)) {
            Some(place) => Err(Error::data(format!("{place:?}"))),
            None => Ok(()),
        };
        for from_start in [false, true] {
            // The search is long enough when it has found the first record.
            let mut batch = batch();
            for expected in &bad {
                let run = |part: BatchRanges| ready(fails(&part));
                let blamed = search(&batch, from_start, true, || true, run)
                    .await
                    .unwrap();
                assert_eq!(places(blamed), std::slice::from_ref(expected));
                batch.set_aside(expected, String::new());
            }
            assert!(fails(&batch).is_ok());
        }
        // The broker goes away after any number of parts: the search returns the records found until then, and later ones find
        // the rest.
        for most in 1..60 {
            let (mut batch, mut found) = (batch(), Vec::new());
            let left = Cell::new(most);
            while fails(&batch).is_err() {
                let run = |part: BatchRanges| {
                    let is_there = left.get() > 0;
                    left.set(if is_there { left.get() - 1 } else { 0 });
                    ready(match is_there {
                        true => fails(&part),
                        false => Err(Error::unavailable("away")),
                    })
                };
                match search(&batch, false, true, || false, run).await {
                    Ok(blamed) => {
                        let places = places(blamed);
                        assert!(!places.is_empty());
                        places
                            .iter()
                            .for_each(|place| batch.set_aside(place, String::new()));
                        found.extend(places);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
                }
                // It is back.
                left.set(u32::MAX);
            }
            assert_eq!(found, bad, "{most}");
        }
    }

    /// However many searches it takes, no more than half of a batch is set aside.
    #[tokio::test]
    async fn records_that_earlier_searches_found_count() {
        let bad: Vec<RecordPosition> = (10..70).map(|offset| at("a", 0, offset)).collect();
        let more = [bad, (0..30).map(|offset| at("b", 0, offset)).collect()].concat();
        let mut batch = batch();
        let mut rounds = 0;
        let first = loop {
            rounds += 1;
            let run = |part: BatchRanges| {
                ready(match more.iter().find(|place| has(&part, place)) {
                    Some(place) => Err(Error::data(format!("{place:?}"))),
                    None => Ok(()),
                })
            };
            match search(&batch, false, true, || true, run).await.unwrap() {
                SearchResult::Records(records) => {
                    for (place, _) in records {
                        batch.set_aside(&place, String::new());
                    }
                }
                SearchResult::TooMany(first, _) => break first,
                SearchResult::NoRecord | SearchResult::OnlyTogether => panic!("the batch fails"),
            }
        };
        assert_eq!((rounds, first), (66, at("b", 0, 5)));
    }
}
