//! The session rule over plain integers (SESS-1).

/// Whether a row at `later` is in the session whose last row is at `earlier` (SESS-1): exactly the
/// gap still joins. Needs `earlier <= later` and `gap >= 0`.
pub(crate) fn joins(earlier: i64, later: i64, gap: i64) -> bool {
    // The difference of two ordered i64 always fits a u64.
    later.wrapping_sub(earlier).cast_unsigned() <= gap.cast_unsigned()
}

/// Start and end of each row's session, and how many sessions there are; `ticks[i]` is the event time and `keys[i]` the dense id,
/// below `key_count`, of row `i`, in any order. `None` if a session's end is out of range.
///
/// Linear but for keys whose rows are out of order, which are sorted alone.
pub(crate) fn sessionize(
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
}
