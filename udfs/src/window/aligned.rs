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
        fn no_arguments_panic(
            size: i64, step: i64, offset: i64, tick: i64,
            kind in prop::sample::select(vec![WindowKind::Tumble, WindowKind::Hop, WindowKind::Cumulate]),
        ) {
            if let Some(aligned) = AlignedWindows::try_new(kind, size, step, offset)
                && aligned.windows_per_row() < 1000 {
                let _ = aligned.assign(tick, &mut vec![], &mut vec![]);
            }
        }
    }
}
