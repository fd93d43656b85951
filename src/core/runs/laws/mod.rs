//! RUN-2 and RUN-3 over random rows: windows and sessions are computed by their definitions, chunk by chunk of what each chunk reads, and
//! compared with those of all rows.

use std::collections::BTreeSet;

use anabranch_udfs::{AlignedWindows, WindowKind};
use proptest::prelude::*;

use super::chunks::{Chunk, Chunks};
use super::grouping::Grouping;
use super::time_range::{TimeRange, TimeRanges};

/// A row: its key and its event time.
type TimedRow = (u8, i64);

/// A result: its key, its start and end, and the times of the rows that it is made of.
type Group = (u8, i64, i64, Vec<i64>);

/// The results of all rows, by definition.
fn groups(grouping: Grouping, rows: &[TimedRow]) -> Vec<Group> {
    let keys: BTreeSet<u8> = rows.iter().map(|(key, _)| *key).collect();
    let mut found = Vec::new();
    for key in keys {
        let of_key = rows.iter().filter(|(of, _)| *of == key);
        let mut times: Vec<i64> = of_key.map(|(_, time)| *time).collect();
        times.sort_unstable();
        match grouping {
            Grouping::Rows => found.extend(times.iter().map(|at| (key, *at, *at, vec![*at]))),
            Grouping::Aligned(windows) => {
                let mut bounds = BTreeSet::new();
                for time in &times {
                    let (mut starts, mut ends) = (vec![], vec![]);
                    windows.assign(*time, &mut starts, &mut ends).unwrap();
                    bounds.extend(starts.into_iter().zip(ends));
                }
                found.extend(bounds.into_iter().map(|(start, end)| {
                    let of_window = times.iter().filter(|time| start <= **time && **time < end);
                    (key, start, end, of_window.copied().collect())
                }));
            }
            Grouping::Sessions { gap } => {
                let sessions = times.chunk_by(|earlier, later| later - earlier <= gap);
                found.extend(sessions.map(|session| {
                    let (start, last) = (session[0], session[session.len() - 1]);
                    (key, start, last + gap, session.to_vec())
                }));
            }
        }
    }
    found.sort();
    found
}

/// What a run over `range` emits, by definition: each result that has an instant in the range, and of sessions a row.
fn expected(grouping: Grouping, rows: &[TimedRow], range: TimeRange) -> Vec<Group> {
    let mut all = groups(grouping, rows);
    all.retain(|(_, start, end, times)| match grouping {
        Grouping::Aligned(_) => *start < range.to() && range.from() < *end,
        Grouping::Rows | Grouping::Sessions { .. } => {
            times.iter().any(|time| range.contains(*time))
        }
    });
    all
}

/// What one chunk emits, of the rows that it reads alone. The search for the rows of sessions is that of `COMPLETE_SESSIONS`: it
/// finds all rows of the sessions with a row in the chunk (SESS-2).
fn emitted(grouping: Grouping, rows: &[TimedRow], chunk: &Chunk) -> Vec<Group> {
    let mut found = match grouping {
        Grouping::Sessions { .. } => expected(grouping, rows, chunk.range),
        Grouping::Rows | Grouping::Aligned(_) => {
            let reads = chunk.reads().unwrap();
            let read = rows.iter().filter(|(_, time)| reads.contains(*time));
            groups(grouping, &read.copied().collect::<Vec<_>>())
        }
    };
    found.retain(|(_, start, end, _)| chunk.gives(*start, *end));
    found
}

/// An attempt of a run: how long its chunks are, and how many it commits before it is killed.
type Attempt = (i64, usize);

/// Runs attempt after attempt, and the last one to the end. Returns the results in the order in which they were committed.
fn run(chunks: &Chunks, grouping: Grouping, rows: &[TimedRow], attempts: &[Attempt]) -> Vec<Group> {
    let (mut position, mut committed) = (None, Vec::new());
    let last = attempts.last().map_or(1, |(length, _)| *length);
    let attempts = attempts.iter().copied().chain([(last, usize::MAX)]);
    for (length, count) in attempts {
        for _ in 0..count {
            let Some(chunk) = chunks.next(position, length) else {
                break;
            };
            committed.extend(emitted(grouping, rows, &chunk));
            position = Some(chunk.range.to());
        }
    }
    assert!(chunks.is_complete(position));
    committed
}

fn sorted(mut groups: Vec<Group>) -> Vec<Group> {
    groups.sort();
    groups
}

fn any_grouping() -> impl Strategy<Value = Grouping> {
    let kind = prop::sample::select(vec![
        WindowKind::Tumble,
        WindowKind::Hop,
        WindowKind::Cumulate,
    ]);
    let aligned = (kind, 1_i64..8, 1_i64..5, 0_i64..30).prop_map(|(kind, step, count, offset)| {
        let size = step * count;
        let step = if kind == WindowKind::Tumble {
            size
        } else {
            step
        };
        Grouping::Aligned(AlignedWindows::try_new(kind, size, step, offset).unwrap())
    });
    let sessions = (0_i64..12).prop_map(|gap| Grouping::Sessions { gap });
    prop_oneof![Just(Grouping::Rows), aligned, sessions]
}

fn any_rows() -> impl Strategy<Value = Vec<TimedRow>> {
    prop::collection::vec((0_u8..3, -60_i64..120), 0..40)
}

fn any_attempts() -> impl Strategy<Value = Vec<Attempt>> {
    prop::collection::vec((1_i64..40, 0_usize..4), 1..6)
}

fn range(from: i64, to: i64) -> TimeRange {
    TimeRange::try_new(from, to).unwrap()
}

fn chunks(grouping: Grouping, range: TimeRange) -> Chunks {
    Chunks::new(grouping, grouping.emission(range).unwrap().into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// RUN-2: a run gives each result once, and the same ones however it is cut, killed and resumed.
    #[test]
    fn run_2_chunks_and_attempts_change_nothing(
        grouping in any_grouping(), rows in any_rows(), attempts in any_attempts(),
        from in -30_i64..60, length in 1_i64..50,
    ) {
        let range = range(from, from + length);
        let found = run(&chunks(grouping, range), grouping, &rows, &attempts);
        prop_assert_eq!(sorted(found), expected(grouping, &rows, range));
    }

    /// RUN-3: runs over the parts of a range give what one run over it gives. A result with instants in several parts is given by each
    /// of them, the same, under one key.
    #[test]
    fn run_3_runs_over_parts_add_up(
        grouping in any_grouping(), rows in any_rows(), attempts in any_attempts(),
        from in -30_i64..60, lengths in prop::collection::vec(1_i64..30, 1..5),
    ) {
        let (mut by_key, mut at) = (BTreeSet::new(), from);
        for length in &lengths {
            let part = chunks(grouping, range(at, at + length));
            let found = run(&part, grouping, &rows, &attempts);
            let once: BTreeSet<Group> = found.iter().cloned().collect();
            let repeated = grouping != Grouping::Rows && once.len() < found.len();
            prop_assert!(!repeated, "a part gives a result twice");
            by_key.extend(once);
            at += length;
        }
        let whole: BTreeSet<Group> = expected(grouping, &rows, range(from, at)).into_iter().collect();
        prop_assert_eq!(by_key, whole);
    }

    /// RUN-2 for the groups of rows far apart, such as late ones: each group of such a row is given once.
    #[test]
    fn run_2_groups_of_rows_are_given_once(
        grouping in any_grouping(), rows in any_rows(), attempts in any_attempts(),
        picked in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let selected: Vec<TimedRow> = match rows.as_slice() {
            [] => Vec::new(),
            rows => picked.iter().map(|index| *index.get(rows)).collect(),
        };
        let times: Vec<i64> = selected.iter().map(|(_, time)| *time).collect();
        let emission: TimeRanges = grouping.emission_of_rows(&times).unwrap();
        let is_selected = |group: &Group| selected.iter().any(|(key, time)| {
            *key == group.0 && group.3.contains(time)
        });
        let mut found = run(&Chunks::new(grouping, emission), grouping, &rows, &attempts);
        found.retain(&is_selected);
        let mut expected = groups(grouping, &rows);
        expected.retain(&is_selected);
        prop_assert_eq!(sorted(found), expected);
    }
}

/// The rule that the first chunk is a gap long is needed: with a shorter one, a session that began before the range is lost.
#[test]
fn run_2_a_first_chunk_shorter_than_the_gap_would_lose_a_session() {
    let grouping = Grouping::Sessions { gap: 10 };
    // One session from 0 to 16, with no row in the first instants of the range.
    let rows = [(0, 0), (0, 8), (0, 16)];
    let range = range(9, 30);
    assert_eq!(expected(grouping, &rows, range).len(), 1);
    let cut = |first: i64| {
        let of = |from, to, begun_from| Chunk {
            range: TimeRange::try_new(from, to).unwrap(),
            begun_from,
            ..chunks(grouping, range).next(None, 1).unwrap()
        };
        let parts = [of(9, 9 + first, None), of(9 + first, 30, Some(9 + first))];
        let found = parts
            .iter()
            .map(|chunk| emitted(grouping, &rows, chunk).len());
        found.sum::<usize>()
    };
    assert_eq!(cut(5), 0, "it is dropped as one of an earlier chunk");
    assert_eq!(cut(10), 1);
    let found = run(&chunks(grouping, range), grouping, &rows, &[(5, 1), (1, 2)]);
    assert_eq!(found.len(), 1);
}
