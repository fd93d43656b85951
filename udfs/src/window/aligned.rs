//! Arithmetic of aligned windows: pure integers, in the unit of the event time.

use std::fmt;

/// The arrangement of the windows of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowKind {
    /// Side by side: a row is in one window.
    Tumble,
    /// A window of `size` starts at every `step`.
    Hop,
    /// Windows share a start every `size` and end at every `step` after it.
    Cumulate,
}

impl fmt::Display for WindowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WindowKind::Tumble => "TUMBLE",
            WindowKind::Hop => "HOP",
            WindowKind::Cumulate => "CUMULATE",
        })
    }
}

/// Windows aligned to the epoch plus `offset`; all numbers are ticks of the event time's unit.
///
/// Invariants, kept by [`AlignedWindows::try_new`]: `0 < step <= size`, `size` is a multiple of
/// `step`, `0 <= offset < size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AlignedWindows {
    kind: WindowKind,
    size: i64,
    step: i64,
    offset: i64,
}

impl AlignedWindows {
    /// Windows of `size`, `step` and `offset` ticks; for TUMBLE `step` is `size`. `None` unless
    /// `0 < step <= size` and `size` is a multiple of `step`; any `offset` is taken modulo `size`.
    pub fn try_new(kind: WindowKind, size: i64, step: i64, offset: i64) -> Option<Self> {
        let valid = step > 0 && size >= step && size % step == 0;
        let valid = valid && (kind != WindowKind::Tumble || size == step);
        valid.then(|| Self {
            kind,
            size,
            step,
            offset: offset.rem_euclid(size),
        })
    }

    /// The arrangement of the windows.
    pub fn kind(&self) -> WindowKind {
        self.kind
    }

    /// The length of a (whole) window.
    pub fn size(&self) -> i64 {
        self.size
    }

    /// The distance between starts (HOP) or ends (CUMULATE); the size for TUMBLE.
    pub fn step(&self) -> i64 {
        self.step
    }

    /// The shift of all boundaries from the epoch, in `0..size`.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The most windows one row can be in.
    pub fn windows_per_row(&self) -> i64 {
        self.size / self.step
    }

    /// The highest boundary, `grid` ticks apart, at or before `tick`. `None` if out of range.
    pub fn boundary_at_or_before(&self, tick: i64, grid: i64) -> Option<i64> {
        // Both remainders are in 0..grid, so nothing overflows before the last subtraction, and
        // ticks before the epoch are floored, not truncated.
        let past = tick.rem_euclid(grid) - self.offset.rem_euclid(grid);
        tick.checked_sub(if past < 0 { past + grid } else { past })
    }

    /// Appends start and end of every window that contains `tick`, ascending, and returns their number. `None` if one is out of
    /// range.
    pub fn assign(&self, tick: i64, starts: &mut Vec<i64>, ends: &mut Vec<i64>) -> Option<usize> {
        match self.kind {
            WindowKind::Tumble => {
                let start = self.boundary_at_or_before(tick, self.size)?;
                starts.push(start);
                ends.push(start.checked_add(self.size)?);
                Some(1)
            }
            WindowKind::Hop => {
                let last = self.boundary_at_or_before(tick, self.step)?;
                let mut start = last.checked_sub(self.size - self.step)?;
                for _ in 0..self.windows_per_row() {
                    starts.push(start);
                    ends.push(start.checked_add(self.size)?);
                    start = start.checked_add(self.step)?;
                }
                usize::try_from(self.windows_per_row()).ok()
            }
            WindowKind::Cumulate => {
                let start = self.boundary_at_or_before(tick, self.size)?;
                let whole_end = start.checked_add(self.size)?;
                let mut end = self
                    .boundary_at_or_before(tick, self.step)?
                    .checked_add(self.step)?;
                let mut count = 0;
                while end <= whole_end {
                    starts.push(start);
                    ends.push(end);
                    count += 1;
                    end = end.checked_add(self.step)?;
                }
                Some(count)
            }
        }
    }

    /// The ticks `a..b` that hold the last tick of each window with a tick in `from..to`, and of no other window: these windows are
    /// those that end after `a`, at or before `b`. Both are boundaries of steps. `None` if the range is empty, or a window is out of
    /// range.
    pub fn last_ticks_of(&self, from: i64, to: i64) -> Option<(i64, i64)> {
        if from >= to {
            return None;
        }
        // Windows that start at the same boundary or before it end by the last of these ends.
        let grid = match self.kind {
            WindowKind::Cumulate => self.size,
            WindowKind::Tumble | WindowKind::Hop => self.step,
        };
        let first = self.boundary_at_or_before(from, self.step)?;
        let last_start = self.boundary_at_or_before(to.checked_sub(1)?, grid)?;
        Some((first, last_start.checked_add(self.size)?))
    }

    /// The first tick of the windows whose last tick is at or after `a`, a boundary of a step. `None` if it is out of range.
    pub fn first_tick_of(&self, a: i64) -> Option<i64> {
        match self.kind {
            WindowKind::Cumulate => self.boundary_at_or_before(a, self.size),
            WindowKind::Tumble | WindowKind::Hop => {
                a.checked_add(self.step)?.checked_sub(self.size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use proptest::prelude::*;

    fn windows(aligned: &AlignedWindows, tick: i64) -> Vec<(i64, i64)> {
        let (mut starts, mut ends) = (vec![], vec![]);
        let count = aligned.assign(tick, &mut starts, &mut ends).unwrap();
        assert_eq!((count, count), (starts.len(), ends.len()));
        starts.into_iter().zip(ends).collect()
    }

    /// Every window near `tick`, filtered by the definition.
    fn by_definition(
        kind: WindowKind,
        size: i64,
        step: i64,
        offset: i64,
        tick: i64,
    ) -> Vec<(i64, i64)> {
        let mut found = vec![];
        let reach = (tick - offset) / step;
        for n in reach - 2 * (size / step) - 2..=reach + 2 * (size / step) + 2 {
            let boundary = offset + n * step;
            match kind {
                WindowKind::Tumble | WindowKind::Hop => found.push((boundary, boundary + size)),
                WindowKind::Cumulate => {
                    if (boundary - offset) % size == 0 {
                        found.extend((1..=size / step).map(|k| (boundary, boundary + k * step)));
                    }
                }
            }
        }
        found.retain(|(start, end)| *start <= tick && tick < *end);
        found.sort_unstable();
        found
    }

    #[test]
    fn negative_ticks_are_floored() {
        let tumble = AlignedWindows::try_new(WindowKind::Tumble, 10, 10, 0).unwrap();
        assert_eq!(windows(&tumble, -1), [(-10, 0)]);
        assert_eq!(windows(&tumble, -10), [(-10, 0)]);
        assert_eq!(windows(&tumble, 0), [(0, 10)]);
    }

    proptest! {
        #[test]
        fn windows_are_those_of_the_definition(
            step in 1_i64..50, count in 1_i64..8, offset in -1000_i64..1000, tick in -100_000_i64..100_000,
            kind in prop::sample::select(vec![WindowKind::Tumble, WindowKind::Hop, WindowKind::Cumulate]),
        ) {
            let size = step * count;
            let step = if kind == WindowKind::Tumble { size } else { step };
            let aligned = AlignedWindows::try_new(kind, size, step, offset).unwrap();
            prop_assert_eq!(windows(&aligned, tick), by_definition(kind, size, step, offset, tick));
        }

        #[test]
        fn windows_of_a_range_are_found_by_their_last_ticks(
            step in 1_i64..20, count in 1_i64..6, offset in -100_i64..100, from in -500_i64..500, length in 1_i64..200,
            kind in prop::sample::select(vec![WindowKind::Tumble, WindowKind::Hop, WindowKind::Cumulate]),
        ) {
            let size = step * count;
            let step = if kind == WindowKind::Tumble { size } else { step };
            let aligned = AlignedWindows::try_new(kind, size, step, offset).unwrap();
            let mut expected: Vec<_> = (from..from + length).flat_map(|tick| windows(&aligned, tick)).collect();
            expected.sort_unstable();
            expected.dedup();
            let (a, b) = aligned.last_ticks_of(from, from + length).unwrap();
            prop_assert_eq!((a - offset).rem_euclid(step), 0);
            prop_assert_eq!((b - offset).rem_euclid(step), 0);
            let mut found: Vec<_> = (a..b).flat_map(|tick| windows(&aligned, tick)).collect();
            found.retain(|(_, end)| a < *end && *end <= b);
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(&found, &expected);
            let first = expected.iter().map(|(start, _)| *start).min();
            prop_assert_eq!(aligned.first_tick_of(a), first);
        }

        #[test]
        fn no_arguments_panic(
            size: i64, step: i64, offset: i64, tick: i64,
            kind in prop::sample::select(vec![WindowKind::Tumble, WindowKind::Hop, WindowKind::Cumulate]),
        ) {
            if let Some(aligned) = AlignedWindows::try_new(kind, size, step, offset)
                && aligned.windows_per_row() < 1000 {
                let _ = aligned.assign(tick, &mut vec![], &mut vec![]);
                let _ = (aligned.last_ticks_of(tick, offset), aligned.first_tick_of(tick));
            }
        }
    }
}
