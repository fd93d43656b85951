//! What the search reads of a source that keeps each hour apart, and that it finds the sessions of the definition there (SESS-2).

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::node::CompletionRange;
use super::search::{Direction, Intervals, SessionSearch, TickRange};

const HOUR: i64 = 60;
const KEYS: u32 = 4;
/// No session reaches so far.
const UNLIMITED: i64 = 1_000_000;

/// Event time and key.
type Row = (i64, u32);

/// The sessions of rows with one in the range: key, first and last event time.
fn defined(rows: &[Row], gap: i64, range: CompletionRange) -> BTreeSet<(u32, i64, i64)> {
    let mut sessions = BTreeSet::new();
    for key in 0..KEYS {
        let of_key = rows.iter().filter(|row| row.1 == key);
        let mut ticks: Vec<i64> = of_key.map(|row| row.0).collect();
        ticks.sort_unstable();
        for session in ticks.chunk_by(|earlier, later| later - earlier <= gap) {
            let is_in_range = |tick: &i64| (range.from..range.to).contains(tick);
            if session.iter().any(is_in_range) {
                sessions.insert((key, session[0], session[session.len() - 1]));
            }
        }
    }
    sessions
}

/// The search over rows, and the slices that it has read; `is_coarse` says that slices share files.
fn searched(
    rows: &[Row],
    gap: i64,
    range: CompletionRange,
    is_coarse: bool,
) -> (SessionSearch, Vec<TickRange>) {
    let within = |slice: TickRange| -> (Vec<i64>, Vec<u32>) {
        let rows = rows.iter().copied();
        rows.filter(|(tick, _)| (slice.from..slice.to).contains(tick))
            .unzip()
    };
    let mut search = SessionSearch::new(gap, range, HOUR);
    let first = search.first_slice();
    let (ticks, keys) = within(first);
    let intervals = Intervals::of_rows(&ticks, &keys);
    search.take_first(intervals, KEYS as usize).unwrap();
    let sides = [Direction::Before, Direction::After];
    if is_coarse {
        for side in sides {
            search.coarsen(side);
        }
    }
    let mut read = vec![first];
    loop {
        let next = sides.map(|side| (side, search.next_slice(side)));
        if next.iter().all(|(_, slice)| slice.is_none()) {
            return (search, read);
        }
        for (side, slice) in next {
            let Some(slice) = slice else {
                continue;
            };
            let (ticks, keys) = within(slice);
            search.take_slice(side, slice, Intervals::of_rows(&ticks, &keys));
            read.push(slice);
        }
    }
}

fn found(search: &SessionSearch) -> BTreeSet<(u32, i64, i64)> {
    let sessions = (0..search.session_count()).map(|id| search.session(id));
    sessions
        .map(|session| (session.key, session.start, session.last))
        .collect()
}

fn hour_of(tick: i64) -> i64 {
    tick.div_euclid(HOUR)
}

proptest! {
    /// No file is opened twice. None is opened of an hour that lies outside the first slice, and in which no session has a row and no row
    /// would belong to one; if sessions reach over more than sixteen hours, an eighth more is.
    #[test]
    fn sess_2_slices_read_the_hours_that_sessions_touch(
        rows in prop::collection::vec((-3_000_i64..3_000, 0..KEYS), 0..300),
        long in prop::collection::vec((-3_000_i64..3_000, 0..KEYS, 1_usize..200), 0..4),
        gap in 1_i64..150,
        from in -200_i64..200,
        length in HOUR..400,
    ) {
        let long = long.into_iter().flat_map(|(start, key, count)| {
            (0_i64..).take(count).map(move |step| (start + step * gap, key))
        });
        let rows: Vec<Row> = rows.into_iter().chain(long).collect();
        let range = CompletionRange { from, to: from + length, max_extension: UNLIMITED };
        let sessions = defined(&rows, gap, range);
        let (search, read) = searched(&rows, gap, range, false);
        prop_assert_eq!(found(&search), sessions.clone());
        let (coarse, _) = searched(&rows, gap, range, true);
        prop_assert_eq!(found(&coarse), sessions.clone());

        let mut hours = BTreeSet::new();
        for slice in &read {
            for hour in hour_of(slice.from)..=hour_of(slice.to - 1) {
                prop_assert!(hours.insert(hour), "hour {} is read twice: {:?}", hour, read);
            }
        }
        let first = read[0];
        let starts = sessions.iter().map(|(_, start, _)| hour_of(start - gap));
        let lasts = sessions.iter().map(|(_, _, last)| hour_of(last + gap));
        let lowest = starts.chain([hour_of(first.from)]).min().unwrap();
        let highest = lasts.chain([hour_of(first.to - 1)]).max().unwrap();
        let more = |reached: i64| if reached < 16 * HOUR { 0 } else { reached / HOUR / 8 };
        let lowest = lowest - more(from - lowest * HOUR);
        let highest = highest + more((highest + 1) * HOUR - (from + length));
        for hour in hours {
            prop_assert!((lowest..=highest).contains(&hour), "hour {} of {:?}", hour, read);
        }
    }
}

#[test]
fn a_session_of_a_week_is_followed_in_few_slices() {
    let week = 7 * 24 * HOUR;
    let rows: Vec<Row> = (-week..=week).step_by(10).map(|tick| (tick, 0)).collect();
    let range = CompletionRange {
        from: 0,
        to: HOUR,
        max_extension: UNLIMITED,
    };
    let (search, read) = searched(&rows, 10, range, false);
    assert_eq!(found(&search), [(0, -week, week)].into());
    assert!(read.len() < 80, "{}", read.len());
    let (search, read) = searched(&rows, 10, range, true);
    assert_eq!(found(&search), [(0, -week, week)].into());
    assert!(read.len() < 20, "{}", read.len());
}

#[test]
fn slices_of_a_coarse_source_become_twice_as_wide_each_time() {
    let rows: Vec<Row> = (-1_000..1_000).step_by(10).map(|tick| (tick, 0)).collect();
    let range = CompletionRange {
        from: 0,
        to: HOUR,
        max_extension: UNLIMITED,
    };
    let widths = |is_coarse: bool| -> Vec<i64> {
        let (_, read) = searched(&rows, 10, range, is_coarse);
        let before = read.iter().filter(|slice| slice.to <= 0);
        before.map(|slice| (slice.to - slice.from) / HOUR).collect()
    };
    assert_eq!(widths(true), [1, 2, 3, 6, 11]);
    // The last one is an eighth of sixteen hours.
    assert_eq!(widths(false), [vec![1; 15], vec![2]].concat());
}
