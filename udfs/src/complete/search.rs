//! The search itself: which rows belong, which sessions are still open at the edge of what was
//! read, and where to read next (SESS-2). Rows in, decisions out; reading is the caller's.

use super::node::CompletionRange;
use crate::session::{joins, merge_intervals};

/// One of the two directions of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Before,
    After,
}

/// A half-open range of ticks to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) from: i64,
    pub(super) to: i64,
}

/// A session of the result; the number is its place in [`Search::session`].
pub(super) type SessionId = usize;

/// Start and last row of a session, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) key: u32,
    pub(super) start: i64,
    pub(super) last: i64,
}

/// The state of the search. Keys are dense numbers, given by the caller.
#[derive(Debug)]
pub(super) struct Search {
    gap: i64,
    range: CompletionRange,
    /// What has been read so far.
    read: Slice,
    /// How much is read next, on each side.
    width: [i64; 2],
    sessions: Vec<Session>,
    /// The sessions that touch the edge of what was read, on each side.
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

    /// Forgets those for which `stays` is false.
    fn retain(&mut self, stays: impl Fn(SessionId) -> bool) {
        let of_key = &mut self.of_key;
        self.keys.retain(|key| {
            let open = &mut of_key[*key as usize];
            *open = open.filter(|id| stays(*id));
            open.is_some()
        });
    }
}

/// The first slice has this many gaps on both sides of a range that is at least as long, a shorter one a single gap:
/// planning a slice costs about as much as reading a large one, and the files at the edges are opened anyway.
const MARGIN_IN_GAPS: i64 = 4;

impl Search {
    pub(super) fn new(gap: i64, range: CompletionRange) -> Self {
        let span = range.to.saturating_sub(range.from);
        let margin = gap.saturating_mul(MARGIN_IN_GAPS);
        // Half open at both ends: a row exactly a gap past the last tick of the range is read.
        let margin = if margin <= span.min(range.max_extension) {
            margin
        } else {
            gap
        };
        let read = Slice {
            from: range.from.saturating_sub(margin),
            to: range.to.saturating_add(margin),
        };
        let width = gap
            .saturating_mul(2 * MARGIN_IN_GAPS)
            .max(margin.saturating_mul(2))
            .max(span / 8);
        Self {
            gap,
            range,
            read,
            width: [width; 2],
            sessions: vec![],
            open: [OpenSessions::default(), OpenSessions::default()],
        }
    }

    /// What to read first.
    pub(super) fn first_slice(&self) -> Slice {
        self.read
    }

    /// What to read next on `side`: none if nothing is open there, or all that may be was read.
    pub(super) fn next_slice(&self, side: Side) -> Option<Slice> {
        if self.open[side as usize].keys.is_empty() {
            return None;
        }
        let width = self.width[side as usize];
        let slice = match side {
            Side::Before => {
                let limit = self.range.from.saturating_sub(self.range.max_extension);
                Slice {
                    from: self.read.from.saturating_sub(width).max(limit),
                    to: self.read.from,
                }
            }
            Side::After => {
                let limit = self.range.to.saturating_add(self.range.max_extension);
                Slice {
                    from: self.read.to,
                    to: self.read.to.saturating_add(width).min(limit),
                }
            }
        };
        (slice.from < slice.to).then_some(slice)
    }

    /// Takes all rows of the first slice; gives each row's session if it belongs to the result.
    /// None if an event time is too far out for its session's end.
    pub(super) fn take_first(
        &mut self,
        ticks: &[i64],
        keys: &[u32],
        key_count: usize,
    ) -> Option<Vec<Option<SessionId>>> {
        // A row is an interval of one instant.
        let all = merge_intervals(ticks, ticks, keys, key_count, self.gap);
        let ends_fit = all
            .lasts
            .iter()
            .all(|last| last.checked_add(self.gap).is_some());
        if !ends_fit {
            return None;
        }
        let mut found: Vec<Option<SessionId>> = vec![None; all.starts.len()];
        for (tick, session) in ticks.iter().zip(&all.sessions) {
            if (self.range.from..self.range.to).contains(tick) && found[*session].is_none() {
                self.sessions.push(Session {
                    key: all.keys[*session],
                    start: all.starts[*session],
                    last: all.lasts[*session],
                });
                found[*session] = Some(self.sessions.len() - 1);
            }
        }
        for id in 0..self.sessions.len() {
            for side in [Side::Before, Side::After] {
                if self.touches_edge(id, side) {
                    self.open[side as usize].insert(self.sessions[id].key, id);
                }
            }
        }
        Some(all.sessions.iter().map(|session| found[*session]).collect())
    }

    /// Takes the rows of `slice` on `side` whose key is open there, in any order (rows of other
    /// keys are ignored); gives each row's session if it belongs to the result.
    pub(super) fn take_slice(
        &mut self,
        side: Side,
        slice: Slice,
        ticks: &[i64],
        keys: &[u32],
    ) -> Vec<Option<SessionId>> {
        let mut order: Vec<(i64, usize)> = ticks
            .iter()
            .copied()
            .zip(0..)
            .filter(|(_, row)| self.is_open(keys[*row], side))
            .collect();
        order.sort_unstable();
        if side == Side::Before {
            order.reverse();
        }
        let mut assigned = vec![None; ticks.len()];
        for (_, row) in order {
            let Some(id) = self.open[side as usize].get(keys[row]) else {
                continue;
            };
            let session = &mut self.sessions[id];
            // A row that does not join ends the session, and no row further out can join then.
            match side {
                Side::Before if joins(ticks[row], session.start, self.gap) => {
                    session.start = ticks[row];
                }
                Side::After if joins(session.last, ticks[row], self.gap) => {
                    session.last = ticks[row];
                }
                _ => continue,
            }
            assigned[row] = Some(id);
        }
        match side {
            Side::Before => self.read.from = slice.from,
            Side::After => self.read.to = slice.to,
        }
        self.width[side as usize] = self.width[side as usize].saturating_mul(2);
        let mut open = std::mem::take(&mut self.open[side as usize]);
        open.retain(|id| self.touches_edge(id, side));
        self.open[side as usize] = open;
        assigned
    }

    /// The keys that are open on `side`.
    pub(super) fn open_keys(&self, side: Side) -> impl Iterator<Item = u32> {
        self.open[side as usize].keys.iter().copied()
    }

    pub(super) fn is_open(&self, key: u32, side: Side) -> bool {
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

    pub(super) fn session(&self, id: SessionId) -> Session {
        self.sessions[id]
    }

    pub(super) fn gap(&self) -> i64 {
        self.gap
    }

    /// What was read in all.
    pub(super) fn read(&self) -> Slice {
        self.read
    }

    /// Whether an unread row on `side` could join the session.
    fn touches_edge(&self, id: SessionId, side: Side) -> bool {
        let session = self.sessions[id];
        match side {
            Side::Before => session.start.saturating_sub(self.gap) < self.read.from,
            Side::After => session.last.saturating_add(self.gap) >= self.read.to,
        }
    }
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
        let search = Search::new(10, RANGE);
        assert_eq!(search.first_slice(), Slice { from: 90, to: 130 });
        assert_eq!(search.next_slice(Side::Before), None, "nothing is open yet");
        // A range of at least four gaps has four gaps on both sides, if so much may be read.
        let long = CompletionRange { to: 140, ..RANGE };
        let search = Search::new(10, long);
        assert_eq!(search.first_slice(), Slice { from: 60, to: 180 });
        let bounded = CompletionRange {
            max_extension: 30,
            ..long
        };
        let search = Search::new(10, bounded);
        assert_eq!(search.first_slice(), Slice { from: 90, to: 150 });
    }

    #[test]
    fn sess_2_sessions_are_followed_slice_by_slice_until_they_end() {
        let mut search = Search::new(10, RANGE);
        // Key 0 goes on before the range, key 1 past it, key 2 ends within, key 3 is not in it.
        let ticks = [105, 95, 115, 125, 110, 92, 128];
        let taken = search
            .take_first(&ticks, &[0, 0, 1, 1, 2, 3, 3], 4)
            .unwrap();
        assert_eq!(
            taken,
            [Some(0), Some(0), Some(1), Some(1), Some(2), None, None]
        );
        assert_eq!(search.open_keys(Side::Before).collect::<Vec<_>>(), [0]);
        assert_eq!(search.open_keys(Side::After).collect::<Vec<_>>(), [1]);

        let before = search.next_slice(Side::Before).unwrap();
        assert_eq!(before, Slice { from: 10, to: 90 });
        // 85 joins 95; 74 is a gap and one from 85; 88 is of a key that is not open.
        let taken = search.take_slice(Side::Before, before, &[74, 85, 88], &[0, 0, 1]);
        assert_eq!(taken, [None, Some(0), None]);
        assert_eq!(search.next_slice(Side::Before), None);
        assert_eq!(
            search.session(0),
            Session {
                key: 0,
                start: 85,
                last: 105
            }
        );

        let after = search.next_slice(Side::After).unwrap();
        assert_eq!(after, Slice { from: 130, to: 210 });
        let ticks = [142, 133, 152, 162, 172, 182, 192, 202];
        let taken = search.take_slice(Side::After, after, &ticks, &[1; 8]);
        assert_eq!(taken, [Some(1); 8]);
        // Twice as wide, but not past what may be read.
        let after = search.next_slice(Side::After).unwrap();
        assert_eq!(after, Slice { from: 210, to: 270 });
        let ticks = [212, 222, 232, 242, 252, 262];
        let taken = search.take_slice(Side::After, after, &ticks, &[1; 6]);
        assert_eq!(taken, [Some(1); 6]);
        assert_eq!(
            search.next_slice(Side::After),
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
