//! Search for completed sessions: it decides which rows belong to a session, which sessions are still open at the edge of the
//! range read so far, and which slice to read next (SESS-2). It takes intervals and returns decisions; the caller reads.
//!
//! An interval is the first and last event time of rows of one key that form one session. A single row is the interval
//! `[t, t]`.

use super::node::CompletionRange;
use crate::session::{joins, merge_intervals};

/// One of the two directions of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Before,
    After,
}

/// A half-open range of ticks to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TickRange {
    pub(super) from: i64,
    pub(super) to: i64,
}

/// First and last event time and key of each interval.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intervals<'a> {
    pub(super) starts: &'a [i64],
    pub(super) lasts: &'a [i64],
    pub(super) keys: &'a [u32],
}

impl<'a> Intervals<'a> {
    /// One interval for each row.
    pub(super) fn of_rows(ticks: &'a [i64], keys: &'a [u32]) -> Self {
        Self {
            starts: ticks,
            lasts: ticks,
            keys,
        }
    }
}

/// A session of the result; the number is its index for [`SessionSearch::session`].
pub(super) type SessionId = usize;

/// Start and last row of a session, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FoundSession {
    pub(super) key: u32,
    pub(super) start: i64,
    pub(super) last: i64,
}

/// The state of the search. Keys are dense numbers, given by the caller.
#[derive(Debug)]
pub(super) struct SessionSearch {
    gap: i64,
    range: CompletionRange,
    /// The range read so far.
    read: TickRange,
    /// The width of the next slice on each side where the source is coarse.
    width: [i64; 2],
    /// Whether slices of a side grow fast, since the next one may open the files of this one again.
    is_coarse: [bool; 2],
    /// Slices end at multiples of this.
    grid: i64,
    sessions: Vec<FoundSession>,
    /// The sessions that touch the edge of the range read so far, on each side.
    open: [OpenSessions; 2],
}

/// The open session of each key; one of a key at most, since two at one edge would be one.
#[derive(Debug, Default)]
struct OpenSessions {
    /// By key.
    of_key: Vec<Option<SessionId>>,
    /// The keys that have one.
    keys: Vec<u32>,
}

impl OpenSessions {
    fn get(&self, key: u32) -> Option<SessionId> {
        self.of_key.get(key as usize).copied().flatten()
    }

    fn insert(&mut self, key: u32, id: SessionId) {
        if self.of_key.len() <= key as usize {
            self.of_key.resize(key as usize + 1, None);
        }
        self.of_key[key as usize] = Some(id);
        self.keys.push(key);
    }

    fn ids(&self) -> impl Iterator<Item = SessionId> {
        self.keys.iter().filter_map(|key| self.get(*key))
    }

    /// Drops those for which `stays` is false.
    fn retain(&mut self, stays: impl Fn(SessionId) -> bool) {
        let of_key = &mut self.of_key;
        self.keys.retain(|key| {
            let open = &mut of_key[*key as usize];
            *open = open.filter(|id| stays(*id));
            open.is_some()
        });
    }
}

/// The first slice has a margin of this many gaps on both sides of a range that is at least as long, and of a single gap for a
/// shorter one: planning a slice costs about as much as reading a large one, and the files at the edges are opened anyway.
const MARGIN_IN_GAPS: i64 = 4;

/// Where the source is not coarse, a slice is as wide as open sessions need, or this part of what was read beyond the range on its side: a
/// long session is followed in few slices, and little is read beyond its end.
const NEEDLESS_PART: i64 = 8;

impl SessionSearch {
    /// `hour` is an hour in the event time's unit. Slices of a range of at least an hour end at whole hours: archives are
    /// partitioned by hour or by day, and part of a file costs about as much as all of it.
    pub(super) fn new(gap: i64, range: CompletionRange, hour: i64) -> Self {
        let span = range.to.saturating_sub(range.from);
        let margin = gap.saturating_mul(MARGIN_IN_GAPS);
        let grid = if span >= hour { hour.max(1) } else { 1 };
        // Half open at both ends: a row exactly a gap past the last tick of the range is read.
        let margin = if margin <= span.min(range.max_extension) {
            margin
        } else {
            gap
        };
        let (from, to) = (
            range.from.saturating_sub(margin),
            range.to.saturating_add(margin),
        );
        let read = TickRange {
            from: floor(from, grid).max(farthest_from(range)).min(from),
            to: ceil(to, grid).min(farthest_to(range)).max(to),
        };
        let width = if grid > 1 {
            // Rounded up to whole hours.
            margin
        } else {
            gap.saturating_mul(2 * MARGIN_IN_GAPS)
                .max(margin.saturating_mul(2))
        };
        let width = width.max(span / 8);
        Self {
            gap,
            range,
            read,
            width: [width; 2],
            // Slices that end within hours share the files of an hour.
            is_coarse: [grid == 1; 2],
            grid,
            sessions: vec![],
            open: [OpenSessions::default(), OpenSessions::default()],
        }
    }

    /// The slice to read first.
    pub(super) fn first_slice(&self) -> TickRange {
        self.read
    }

    /// The slice to read next on `side`; `None` if no session is open there, or everything within the limit was read.
    pub(super) fn next_slice(&self, side: Direction) -> Option<TickRange> {
        if self.open[side as usize].keys.is_empty() {
            return None;
        }
        let width = match self.is_coarse[side as usize] {
            true => self.width[side as usize],
            false => {
                let of_read = floor(self.read_beyond(side) / NEEDLESS_PART, self.grid);
                self.needed_width(side).max(of_read)
            }
        };
        self.slice_beyond(self.read, side, width)
    }

    /// Slices on `side` grow fast from now on: the source opens the same files for several of them.
    pub(super) fn coarsen(&mut self, side: Direction) {
        self.is_coarse[side as usize] = true;
    }

    /// How far beyond the edge of what was read a row may belong to a session that is open on `side`.
    fn needed_width(&self, side: Direction) -> i64 {
        let widths = self.open[side as usize].ids().map(|id| {
            let session = self.session(id);
            match side {
                Direction::Before => {
                    let first = session.start.saturating_sub(self.gap);
                    self.read.from.saturating_sub(first)
                }
                Direction::After => {
                    let last = session.last.saturating_add(self.gap);
                    last.saturating_sub(self.read.to).saturating_add(1)
                }
            }
        });
        widths.max().unwrap_or(1)
    }

    /// How much was read beyond the range on `side`.
    fn read_beyond(&self, side: Direction) -> i64 {
        match side {
            Direction::Before => self.range.from.saturating_sub(self.read.from),
            Direction::After => self.read.to.saturating_sub(self.range.to),
        }
    }

    /// The range read so far, and the next two slices on both sides if a session is open there.
    pub(super) fn reach(&self) -> TickRange {
        let mut reach = self.read;
        for step in [1, 2] {
            let width = |side: Direction| self.width[side as usize].saturating_mul(step);
            if let Some(slice) =
                self.slice_beyond(reach, Direction::Before, width(Direction::Before))
            {
                reach.from = slice.from;
            }
            if let Some(slice) = self.slice_beyond(reach, Direction::After, width(Direction::After))
            {
                reach.to = slice.to;
            }
        }
        reach
    }

    /// The slice of `width` next to `read` on `side`; `None` if everything within the limit was read.
    fn slice_beyond(&self, read: TickRange, side: Direction, width: i64) -> Option<TickRange> {
        let slice = match side {
            Direction::Before => {
                let from = floor(read.from.saturating_sub(width), self.grid);
                TickRange {
                    from: from.max(farthest_from(self.range)),
                    to: read.from,
                }
            }
            Direction::After => {
                let to = ceil(read.to.saturating_add(width), self.grid);
                TickRange {
                    from: read.to,
                    to: to.min(farthest_to(self.range)),
                }
            }
        };
        (slice.from < slice.to).then_some(slice)
    }

    /// Adds all intervals of the first slice; returns for each its session if it belongs to the result. An interval lies within
    /// the range or outside, not across one of its ends. `None` if an event time is too far out for its session's end.
    pub(super) fn take_first(
        &mut self,
        intervals: Intervals<'_>,
        key_count: usize,
    ) -> Option<Vec<Option<SessionId>>> {
        let Intervals {
            starts,
            lasts,
            keys,
        } = intervals;
        let all = merge_intervals(starts, lasts, keys, key_count, self.gap);
        let ends_fit = all
            .lasts
            .iter()
            .all(|last| last.checked_add(self.gap).is_some());
        if !ends_fit {
            return None;
        }
        let mut found: Vec<Option<SessionId>> = vec![None; all.starts.len()];
        for (start, session) in starts.iter().zip(&all.sessions) {
            if (self.range.from..self.range.to).contains(start) && found[*session].is_none() {
                self.sessions.push(FoundSession {
                    key: all.keys[*session],
                    start: all.starts[*session],
                    last: all.lasts[*session],
                });
                found[*session] = Some(self.sessions.len() - 1);
            }
        }
        for id in 0..self.sessions.len() {
            for side in [Direction::Before, Direction::After] {
                if self.touches_edge(id, side) {
                    self.open[side as usize].insert(self.sessions[id].key, id);
                }
            }
        }
        Some(all.sessions.iter().map(|session| found[*session]).collect())
    }

    /// Adds the intervals of `slice` on `side` whose key is open there, in any order (those of other keys are ignored); returns
    /// for each its session if it belongs to the result.
    pub(super) fn take_slice(
        &mut self,
        side: Direction,
        slice: TickRange,
        intervals: Intervals<'_>,
    ) -> Vec<Option<SessionId>> {
        let Intervals {
            starts,
            lasts,
            keys,
        } = intervals;
        // From the edge outward: sorted by the end nearer to the edge.
        let near = match side {
            Direction::Before => lasts,
            Direction::After => starts,
        };
        let mut order: Vec<(i64, usize)> = near
            .iter()
            .copied()
            .zip(0..)
            .filter(|(_, interval)| self.is_open(keys[*interval], side))
            .collect();
        order.sort_unstable();
        if side == Direction::Before {
            order.reverse();
        }
        let mut assigned = vec![None; near.len()];
        for (_, interval) in order {
            let Some(id) = self.open[side as usize].get(keys[interval]) else {
                continue;
            };
            let session = &mut self.sessions[id];
            let (start, last) = (starts[interval], lasts[interval]);
            // An interval that does not join ends the session, and none further out can join either.
            match side {
                Direction::Before
                    if last >= session.start || joins(last, session.start, self.gap) =>
                {
                    session.start = start.min(session.start);
                }
                Direction::After
                    if start <= session.last || joins(session.last, start, self.gap) =>
                {
                    session.last = last.max(session.last);
                }
                _ => continue,
            }
            assigned[interval] = Some(id);
        }
        match side {
            Direction::Before => self.read.from = slice.from,
            Direction::After => self.read.to = slice.to,
        }
        if self.is_coarse[side as usize] {
            self.width[side as usize] = self.width[side as usize].saturating_mul(2);
        }
        let mut open = std::mem::take(&mut self.open[side as usize]);
        open.retain(|id| self.touches_edge(id, side));
        self.open[side as usize] = open;
        assigned
    }

    /// The keys that are open on `side`.
    pub(super) fn open_keys(&self, side: Direction) -> impl Iterator<Item = u32> {
        self.open[side as usize].keys.iter().copied()
    }

    pub(super) fn is_open(&self, key: u32, side: Direction) -> bool {
        self.open[side as usize].get(key).is_some()
    }

    /// For each session, whether it is open on either side.
    pub(super) fn open_sessions(&self) -> Vec<bool> {
        let mut open = vec![false; self.sessions.len()];
        for id in self.open.iter().flat_map(OpenSessions::ids) {
            open[id] = true;
        }
        open
    }

    /// The number of sessions: session ids are smaller.
    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn session(&self, id: SessionId) -> FoundSession {
        self.sessions[id]
    }

    pub(super) fn range(&self) -> CompletionRange {
        self.range
    }

    pub(super) fn gap(&self) -> i64 {
        self.gap
    }

    /// The whole range read so far.
    pub(super) fn read(&self) -> TickRange {
        self.read
    }

    /// Whether an unread row on `side` could join the session.
    fn touches_edge(&self, id: SessionId, side: Direction) -> bool {
        let session = self.sessions[id];
        match side {
            Direction::Before => session.start.saturating_sub(self.gap) < self.read.from,
            Direction::After => session.last.saturating_add(self.gap) >= self.read.to,
        }
    }
}

/// The first tick that may be read.
fn farthest_from(range: CompletionRange) -> i64 {
    range.from.saturating_sub(range.max_extension)
}

/// The first tick that may not be read any more.
fn farthest_to(range: CompletionRange) -> i64 {
    range.to.saturating_add(range.max_extension)
}

fn floor(tick: i64, grid: i64) -> i64 {
    tick.saturating_sub(tick.rem_euclid(grid))
}

fn ceil(tick: i64, grid: i64) -> i64 {
    floor(tick.saturating_add(grid - 1), grid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: CompletionRange = CompletionRange {
        from: 100,
        to: 120,
        max_extension: 150,
    };

    #[test]
    fn the_first_slice_is_the_range_and_a_margin_around_it() {
        let search = SessionSearch::new(10, RANGE, i64::MAX);
        assert_eq!(search.first_slice(), TickRange { from: 90, to: 130 });
        assert_eq!(
            search.next_slice(Direction::Before),
            None,
            "nothing is open yet"
        );
        // A range of at least four gaps has a margin of four gaps on both sides, if the limit allows it.
        let long = CompletionRange { to: 140, ..RANGE };
        let search = SessionSearch::new(10, long, i64::MAX);
        assert_eq!(search.first_slice(), TickRange { from: 60, to: 180 });
        let bounded = CompletionRange {
            max_extension: 30,
            ..long
        };
        let search = SessionSearch::new(10, bounded, i64::MAX);
        assert_eq!(search.first_slice(), TickRange { from: 90, to: 150 });
    }

    #[test]
    fn slices_of_an_hour_end_at_whole_hours() {
        let range = CompletionRange {
            from: 605,
            to: 665,
            max_extension: 1_000,
        };
        let search = |range| SessionSearch::new(10, range, 60);
        assert_eq!(
            search(range).first_slice(),
            TickRange { from: 540, to: 720 }
        );
        let short = CompletionRange { to: 664, ..range };
        assert_eq!(
            search(short).first_slice(),
            TickRange { from: 565, to: 704 }
        );
        // Never past what may be read.
        let bounded = CompletionRange {
            max_extension: 45,
            ..range
        };
        assert_eq!(
            search(bounded).first_slice(),
            TickRange { from: 560, to: 710 }
        );
        let mut search = search(range);
        let ticks = [545, 555, 565, 575, 585, 595, 605];
        let rows = Intervals::of_rows(&ticks, &[0; 7]);
        search.take_first(rows, 1).unwrap();
        let before = search.next_slice(Direction::Before);
        assert_eq!(before, Some(TickRange { from: 480, to: 540 }));
        // The next two slices on both sides, the second of twice the width.
        assert_eq!(search.reach(), TickRange { from: 360, to: 900 });
        assert_eq!((floor(-1, 60), ceil(-1, 60), ceil(60, 60)), (-60, 0, 60));
        assert_eq!(
            (floor(i64::MIN, 7), ceil(i64::MAX, 1)),
            (i64::MIN, i64::MAX)
        );
    }

    #[test]
    fn sess_2_intervals_join_like_their_rows() {
        let narrow = CompletionRange { to: 105, ..RANGE };
        let mut search = SessionSearch::new(10, narrow, i64::MAX);
        // The second session spans the range without a row in it.
        let first = Intervals {
            starts: &[91, 100, 95, 107],
            lasts: &[95, 104, 99, 110],
            keys: &[0, 0, 1, 1],
        };
        let taken = search.take_first(first, 2).unwrap();
        assert_eq!(taken, [Some(0), Some(0), None, None]);
        let before = search.next_slice(Direction::Before).unwrap();
        assert_eq!(before, TickRange { from: 10, to: 90 });
        // Overlapping ones, as several partitions give them; the last is a gap and one away.
        let outward = Intervals {
            starts: &[60, 70, 50, 20],
            lasts: &[82, 85, 58, 39],
            keys: &[0; 4],
        };
        let taken = search.take_slice(Direction::Before, before, outward);
        assert_eq!(taken, [Some(0), Some(0), Some(0), None]);
        assert_eq!(search.session(0).start, 50);
        let after = search.next_slice(Direction::After);
        assert_eq!(after, None, "104 and the gap end before 115");
    }

    #[test]
    fn sess_2_sessions_are_followed_slice_by_slice_until_they_end() {
        let mut search = SessionSearch::new(10, RANGE, i64::MAX);
        // The session of key 0 extends before the range, that of key 1 past it, that of key 2 ends within, key 3 has none in
        // it.
        let ticks = [105, 95, 115, 125, 110, 92, 128];
        let taken = search
            .take_first(Intervals::of_rows(&ticks, &[0, 0, 1, 1, 2, 3, 3]), 4)
            .unwrap();
        assert_eq!(
            taken,
            [Some(0), Some(0), Some(1), Some(1), Some(2), None, None]
        );
        assert_eq!(search.open_keys(Direction::Before).collect::<Vec<_>>(), [0]);
        assert_eq!(search.open_keys(Direction::After).collect::<Vec<_>>(), [1]);

        let before = search.next_slice(Direction::Before).unwrap();
        assert_eq!(before, TickRange { from: 10, to: 90 });
        // 85 joins 95; 74 is a gap and one from 85; 88 is of a key that is not open.
        let taken = search.take_slice(
            Direction::Before,
            before,
            Intervals::of_rows(&[74, 85, 88], &[0, 0, 1]),
        );
        assert_eq!(taken, [None, Some(0), None]);
        assert_eq!(search.next_slice(Direction::Before), None);
        assert_eq!(
            search.session(0),
            FoundSession {
                key: 0,
                start: 85,
                last: 105
            }
        );

        let after = search.next_slice(Direction::After).unwrap();
        assert_eq!(after, TickRange { from: 130, to: 210 });
        let ticks = [142, 133, 152, 162, 172, 182, 192, 202];
        let taken = search.take_slice(Direction::After, after, Intervals::of_rows(&ticks, &[1; 8]));
        assert_eq!(taken, [Some(1); 8]);
        // Twice as wide, but not past what may be read.
        let after = search.next_slice(Direction::After).unwrap();
        assert_eq!(after, TickRange { from: 210, to: 270 });
        let ticks = [212, 222, 232, 242, 252, 262];
        let taken = search.take_slice(Direction::After, after, Intervals::of_rows(&ticks, &[1; 6]));
        assert_eq!(taken, [Some(1); 6]);
        assert_eq!(
            search.next_slice(Direction::After),
            None,
            "150 past the range is the limit"
        );
        assert_eq!(
            search.open_sessions(),
            [false, true, false],
            "the session of key 1 is capped"
        );
    }
}
