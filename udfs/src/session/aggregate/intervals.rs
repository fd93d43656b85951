//! Intervals of event time per key, over plain integers (SESS-1).

use super::super::joins;

/// Means "no interval".
const NONE: u32 = u32::MAX;
/// The number of earlier intervals of a key that are checked before a row makes a new one. A smaller number gives more
/// intervals, which are merged later; the result stays the same.
const LOOK_BACK: usize = 8;

/// The intervals seen so far. Intervals of one key may touch or overlap: the merge step, which has all of them, merges them.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    gap: i64,
    /// The newest interval of each key.
    newest: Vec<u32>,
    /// For each interval: first and last event time, in one vector since every row reads both.
    bounds: Vec<(i64, i64)>,
    /// For each interval: its key, and the previous interval of its key.
    keys: Vec<u32>,
    older: Vec<u32>,
}

impl Intervals {
    pub(super) fn new(gap: i64) -> Self {
        Self {
            gap,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bounds.len()
    }

    /// Per interval: key, first and last event time.
    pub(super) fn into_parts(self) -> (Vec<u32>, Vec<i64>, Vec<i64>) {
        let (starts, lasts) = self.bounds.into_iter().unzip();
        (self.keys, starts, lasts)
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        (self.newest.capacity() + self.keys.capacity() + self.older.capacity()) * 4
            + self.bounds.capacity() * 16
    }

    /// Allocates entries for keys below `count`.
    pub(super) fn grow_keys(&mut self, count: usize) {
        if count > self.newest.len() {
            self.newest.resize(count, NONE);
        }
    }

    /// Adds a row to an interval of its key; returns the interval. `None` if there are too many.
    #[inline]
    pub(super) fn place(&mut self, key: usize, tick: i64) -> Option<usize> {
        let newest = self.newest[key];
        if newest != NONE && self.take(newest as usize, tick) {
            return Some(newest as usize);
        }
        self.place_elsewhere(key, newest, tick)
    }

    /// Adds the row if it is in the interval or at most the gap from it.
    #[inline]
    fn take(&mut self, interval: usize, tick: i64) -> bool {
        let (start, last) = &mut self.bounds[interval];
        if tick > *last {
            if !joins(*last, tick, self.gap) {
                return false;
            }
            *last = tick;
        } else if tick < *start {
            if !joins(tick, *start, self.gap) {
                return false;
            }
            *start = tick;
        }
        true
    }

    #[cold]
    fn place_elsewhere(&mut self, key: usize, newest: u32, tick: i64) -> Option<usize> {
        let mut interval = newest;
        // A row after the newest interval rarely fits an older one.
        let is_later = newest != NONE && tick > self.bounds[newest as usize].1;
        let look_back = if is_later { 0 } else { LOOK_BACK };
        for _ in 0..look_back {
            if interval == NONE {
                break;
            }
            interval = self.older[interval as usize];
            if interval != NONE && self.take(interval as usize, tick) {
                return Some(interval as usize);
            }
        }
        let made = u32::try_from(self.bounds.len())
            .ok()
            .filter(|made| *made != NONE)?;
        self.keys.push(u32::try_from(key).ok()?);
        self.bounds.push((tick, tick));
        self.older.push(newest);
        self.newest[key] = made;
        Some(made as usize)
    }
}

/// Sessions made of intervals.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// The session of each interval.
    pub(crate) sessions: Vec<usize>,
    /// Per session: its key, first and last event time.
    pub(crate) keys: Vec<u32>,
    pub(crate) starts: Vec<i64>,
    pub(crate) lasts: Vec<i64>,
}

/// Merges intervals of one key that are at most the gap apart (SESS-1), in any order; keys are below `key_count`.
pub(crate) fn merge_intervals(
    starts: &[i64],
    lasts: &[i64],
    keys: &[u32],
    key_count: usize,
    gap: i64,
) -> Sessions {
    // Grouped by key first, instead of sorting everything.
    let mut ends = vec![0_usize; key_count + 1];
    for key in keys {
        ends[*key as usize + 1] += 1;
    }
    for key in 0..key_count {
        ends[key + 1] += ends[key];
    }
    let mut next = ends.clone();
    let mut by_key = vec![(0_i64, 0_u32); keys.len()];
    for (row, key) in (0_u32..).zip(keys) {
        let place = &mut next[*key as usize];
        by_key[*place] = (starts[row as usize], row);
        *place += 1;
    }
    let mut merged = Sessions {
        sessions: vec![0; keys.len()],
        ..Sessions::default()
    };
    for (key, range) in (0_u32..).zip(ends.windows(2)) {
        let intervals = &mut by_key[range[0]..range[1]];
        intervals.sort_unstable();
        let first = merged.starts.len();
        for (start, row) in intervals.iter() {
            let last = lasts[*row as usize];
            let joined = merged.starts.len() > first
                && merged
                    .lasts
                    .last()
                    .is_some_and(|end| *start <= *end || joins(*end, *start, gap));
            if joined {
                if let Some(end) = merged.lasts.last_mut() {
                    *end = last.max(*end);
                }
            } else {
                merged.keys.push(key);
                merged.starts.push(*start);
                merged.lasts.push(last);
            }
            merged.sessions[*row as usize] = merged.starts.len() - 1;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sess_1_rows_join_sessions_within_the_gap() {
        let mut intervals = Intervals::new(10);
        intervals.grow_keys(2);
        let mut place = |key, tick| intervals.place(key, tick).unwrap();
        assert_eq!(place(0, 100), 0);
        assert_eq!(place(0, 110), 0, "exactly the gap joins");
        assert_eq!(place(0, 121), 1);
        assert_eq!(place(1, 105), 2, "another key");
        // Late rows join an older interval, at either end.
        assert_eq!(place(0, 90), 0);
        assert_eq!(place(0, 105), 0);
        let (keys, starts, lasts) = intervals.into_parts();
        assert_eq!((starts[0], lasts[0]), (90, 110));
        assert_eq!(keys, [0, 0, 1]);
    }

    #[test]
    fn far_apart_times_do_not_overflow() {
        let mut intervals = Intervals::new(i64::MAX);
        intervals.grow_keys(1);
        assert_eq!(intervals.place(0, i64::MIN), Some(0));
        assert_eq!(intervals.place(0, i64::MAX), Some(1));
        assert_eq!(intervals.place(0, 0), Some(1));
    }

    #[test]
    fn sess_1_intervals_merge_in_any_order() {
        let starts = [50, 0, 21, 5, 100];
        let lasts = [60, 10, 40, 8, 100];
        let merged = merge_intervals(&starts, &lasts, &[0, 0, 0, 0, 1], 2, 10);
        assert_eq!(merged.starts, [0, 21, 100]);
        assert_eq!(
            merged.lasts,
            [10, 60, 100],
            "exactly the gap joins 40 and 50"
        );
        assert_eq!(merged.keys, [0, 0, 1]);
        assert_eq!(merged.sessions, [1, 0, 1, 0, 2]);
    }
}
