//! Session rule over plain integers (SESS-1).

/// Whether a row at `later` is in the session whose last row is at `earlier` (SESS-1): exactly the
/// gap still joins. Needs `earlier <= later` and `gap >= 0`.
pub(crate) fn joins(earlier: i64, later: i64, gap: i64) -> bool {
    // The difference of two ordered i64 always fits a u64.
    later.wrapping_sub(earlier).cast_unsigned() <= gap.cast_unsigned()
}

/// Start and end of each row's session, and the number of sessions; `ticks[i]` is the event time and `keys[i]` the dense id,
/// below `key_count`, of row `i`, in any order. `None` if a session's end is out of range.
///
/// Linear where each key's rows come roughly in the order of time.
pub(crate) fn sessionize(
    ticks: &[i64],
    keys: &[u32],
    key_count: usize,
    gap: i64,
) -> Option<(Vec<i64>, Vec<i64>, usize)> {
    match KeyIntervals::build(ticks, keys, key_count, gap) {
        Some(intervals) => intervals.assign(gap),
        None => sort_and_cut(ticks, keys, key_count, gap),
    }
}

/// Means "no session".
const NONE: u32 = u32::MAX;

/// The sessions of all keys as intervals that grow and merge, row by row.
///
/// A key's sessions are a list from the latest to the earliest. Rows in the order of time touch
/// only its head, so the working set is a few words per key; a row from the past walks back.
struct KeyIntervals {
    spans: Vec<Span>,
    /// The session of each row when the row came; follow [`Span::merged_into`].
    of_row: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Span {
    start: i64,
    last: i64,
    /// The session of the same key before this one.
    earlier: u32,
    /// The session into which this one was merged.
    merged_into: u32,
}

impl KeyIntervals {
    /// `None` if rows are so far out of order that sorting them is cheaper, or too many.
    fn build(ticks: &[i64], keys: &[u32], key_count: usize, gap: i64) -> Option<Self> {
        // A step back is a cache miss or two: more than a few of them cost more than the sort.
        let mut patience = ticks.len() / 8 + 64;
        u32::try_from(ticks.len())
            .ok()
            .filter(|rows| *rows < NONE)?;
        let mut spans: Vec<Span> = Vec::new();
        let mut latest = vec![NONE; key_count];
        let mut of_row = Vec::with_capacity(ticks.len());
        for (tick, key) in ticks.iter().zip(keys) {
            let tick = *tick;
            // The latest session that does not lie wholly more than a gap after the row.
            let mut later = NONE;
            let mut at = latest[*key as usize];
            while at != NONE && tick < spans[at as usize].start {
                if joins(tick, spans[at as usize].start, gap) {
                    break;
                }
                later = at;
                at = spans[at as usize].earlier;
                patience = patience.checked_sub(1)?;
            }
            if at != NONE {
                let span = &mut spans[at as usize];
                if tick <= span.last || joins(span.last, tick, gap) {
                    // The row is more than a gap before the later session: only a new start can make neighbours touch.
                    span.last = span.last.max(tick);
                    if tick < span.start {
                        span.start = tick;
                        merge_earlier(&mut spans, at, gap);
                    }
                    of_row.push(at);
                    continue;
                }
            }
            let new = spans.len() as u32;
            spans.push(Span {
                start: tick,
                last: tick,
                earlier: at,
                merged_into: NONE,
            });
            match later {
                NONE => latest[*key as usize] = new,
                later => spans[later as usize].earlier = new,
            }
            of_row.push(new);
        }
        Some(Self { spans, of_row })
    }

    fn assign(mut self, gap: i64) -> Option<(Vec<i64>, Vec<i64>, usize)> {
        let mut sessions = 0;
        for id in 0..self.spans.len() {
            let mut root = id;
            while self.spans[root].merged_into != NONE {
                root = self.spans[root].merged_into as usize;
            }
            if root == id {
                sessions += 1;
                self.spans[id].last = self.spans[id].last.checked_add(gap)?;
            } else {
                self.spans[id].merged_into = root as u32;
            }
        }
        let mut starts = Vec::with_capacity(self.of_row.len());
        let mut ends = Vec::with_capacity(self.of_row.len());
        for id in &self.of_row {
            let mut span = &self.spans[*id as usize];
            if span.merged_into != NONE {
                span = &self.spans[span.merged_into as usize];
            }
            starts.push(span.start);
            // `last` has become the end above.
            ends.push(span.last);
        }
        Some((starts, ends, sessions))
    }
}

/// Merges into session `at`, whose start has moved back, the earlier ones that it now touches.
fn merge_earlier(spans: &mut [Span], at: u32, gap: i64) {
    loop {
        let Span { start, earlier, .. } = spans[at as usize];
        if earlier == NONE || !joins(spans[earlier as usize].last, start, gap) {
            return;
        }
        let swallowed = &mut spans[earlier as usize];
        swallowed.merged_into = at;
        let Span { start, earlier, .. } = *swallowed;
        spans[at as usize].start = start;
        spans[at as usize].earlier = earlier;
    }
}

/// Sessions by a counting sort on the key, and a sort by time of the keys that need it.
fn sort_and_cut(
    ticks: &[i64],
    keys: &[u32],
    key_count: usize,
    gap: i64,
) -> Option<(Vec<i64>, Vec<i64>, usize)> {
    let mut slots = vec![0_usize; key_count + 1];
    for key in keys {
        slots[*key as usize + 1] += 1;
    }
    for key in 0..key_count {
        slots[key + 1] += slots[key];
    }
    // A counting sort by key; the event times travel along, so that the walk below is sequential.
    let mut next = slots.clone();
    let mut grouped = vec![(0_i64, 0_u32); ticks.len()];
    for (row, (tick, key)) in (0_u32..).zip(ticks.iter().zip(keys)) {
        let slot = &mut next[*key as usize];
        grouped[*slot] = (*tick, row);
        *slot += 1;
    }
    let mut starts = vec![0; ticks.len()];
    let mut ends = vec![0; ticks.len()];
    let mut sessions = 0;
    for bounds in slots.windows(2) {
        let rows = &mut grouped[bounds[0]..bounds[1]];
        if !rows.is_sorted_by_key(|(tick, _)| *tick) {
            rows.sort_unstable_by_key(|(tick, _)| *tick);
        }
        for session in rows.chunk_by(|(earlier, _), (later, _)| joins(*earlier, *later, gap)) {
            let (Some((start, _)), Some((last, _))) = (session.first(), session.last()) else {
                continue;
            };
            sessions += 1;
            let end = last.checked_add(gap)?;
            for (_, row) in session {
                starts[*row as usize] = *start;
                ends[*row as usize] = end;
            }
        }
    }
    Some((starts, ends, sessions))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sess_1_exactly_the_gap_joins_and_one_more_does_not() {
        let (starts, ends, sessions) = sessionize(&[0, 10, 21, 20], &[0, 0, 0, 1], 2, 10).unwrap();
        assert_eq!(starts, [0, 0, 21, 20]);
        assert_eq!(ends, [20, 20, 31, 30]);
        assert_eq!(sessions, 3);
    }

    #[test]
    fn extreme_event_times_neither_panic_nor_join() {
        let (starts, _, _) = sessionize(&[i64::MIN, i64::MAX - 10], &[0, 0], 1, 10).unwrap();
        assert_eq!(starts, [i64::MIN, i64::MAX - 10]);
        assert_eq!(sessionize(&[i64::MAX], &[0], 1, 1), None);
    }

    proptest! {
        #[test]
        fn sess_1_sorted_and_buffered_sessions_agree(
            rows in prop::collection::vec((0_u32..4, -100_i64..100), 0..200),
            gap in 1_i64..12, sorted: bool,
        ) {
            let mut rows = rows;
            if sorted {
                rows.sort_by_key(|row| row.1);
            }
            let (keys, ticks): (Vec<u32>, Vec<i64>) = rows.into_iter().unzip();
            let by_sorting = sort_and_cut(&ticks, &keys, 4, gap).unwrap();
            if let Some(intervals) = KeyIntervals::build(&ticks, &keys, 4, gap) {
                prop_assert_eq!(intervals.assign(gap).unwrap(), by_sorting);
            } else {
                prop_assert!(!sorted, "rows in order never lose patience");
            }
        }
    }

    #[test]
    fn rows_from_the_latest_to_the_earliest_are_sorted_instead() {
        let ticks: Vec<i64> = (0..1000).rev().map(|n| n * 100).collect();
        assert!(KeyIntervals::build(&ticks, &[0; 1000], 1, 10).is_none());
        assert_eq!(sessionize(&ticks, &[0; 1000], 1, 10).unwrap().0, ticks);
    }
}
