//! Arithmetic of slices, the pieces of overlapping windows: pure integers, in the unit of the event time.

use std::ops::Range;

use super::{AlignedWindows, WindowKind};

/// The slices of HOP or CUMULATE windows: adjacent, as wide as the windows' step, so that each window consists of whole slices.
/// Since the size is a multiple of the step, narrower ones are not needed.
///
/// Slices are numbered in the order of time. A window has the number of the slice that begins at its end, so windows of the
/// same number end at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slices {
    windows: AlignedWindows,
}

impl AlignedWindows {
    /// The slices of these windows; `None` if a row is in one window only.
    pub fn slices(&self) -> Option<Slices> {
        (self.kind() != WindowKind::Tumble && self.windows_per_row() > 1)
            .then_some(Slices { windows: *self })
    }
}

impl Slices {
    /// The length of a slice, in ticks.
    pub fn width(&self) -> i64 {
        self.windows.step()
    }

    /// The windows that consist of them.
    pub fn windows(&self) -> &AlignedWindows {
        &self.windows
    }

    /// The slices as tumbling windows.
    pub fn tumbling(&self) -> Option<AlignedWindows> {
        let width = self.width();
        AlignedWindows::try_new(WindowKind::Tumble, width, width, self.windows.offset())
    }

    /// The number of the slice that contains `tick`. `None` if that is too far in the past.
    pub fn number(&self, tick: i64) -> Option<i64> {
        let since = tick.checked_sub(self.windows.offset())?;
        Some(since.div_euclid(self.width()))
    }

    /// The start of a slice. `None` if that is out of range.
    pub fn start(&self, slice: i64) -> Option<i64> {
        slice
            .checked_mul(self.width())?
            .checked_add(self.windows.offset())
    }

    /// The windows that contain a slice, by their numbers. `None` if one of them begins or ends out of range.
    pub fn windows_of(&self, slice: i64) -> Option<Range<i64>> {
        let first = slice.checked_add(1)?;
        let last = self.last_window(slice)?;
        self.start(self.first_slice(first)?)?;
        self.start(last)?;
        Some(first..last.checked_add(1)?)
    }

    /// The last window that contains a slice.
    pub fn last_window(&self, slice: i64) -> Option<i64> {
        let count = self.windows.windows_per_row();
        match self.windows.kind() {
            WindowKind::Cumulate => slice.div_euclid(count).checked_add(1)?.checked_mul(count),
            WindowKind::Hop | WindowKind::Tumble => slice.checked_add(count),
        }
    }

    /// The first slice of a window; the last one is that before the window's number.
    pub fn first_slice(&self, window: i64) -> Option<i64> {
        let count = self.windows.windows_per_row();
        match self.windows.kind() {
            WindowKind::Cumulate => window.checked_sub(1)?.div_euclid(count).checked_mul(count),
            WindowKind::Hop | WindowKind::Tumble => window.checked_sub(count),
        }
    }

    /// The windows that end after `after` and at or before `by`, by their numbers; the range always begins after `after`, and
    /// is empty if `by` is before it. `None` stands for a time before all others.
    pub fn ended(&self, after: Option<i64>, by: Option<i64>) -> Range<i64> {
        // Ticks closer to the lowest one than the offset are before all windows.
        let behind = |tick: Option<i64>| match tick.and_then(|tick| self.number(tick)) {
            Some(number) => number.saturating_add(1),
            None => i64::MIN,
        };
        let start = behind(after);
        start..behind(by).max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn overlapping() -> impl Strategy<Value = AlignedWindows> {
        let kind = prop::sample::select(vec![WindowKind::Hop, WindowKind::Cumulate]);
        (kind, 1_i64..50, 2_i64..8, -1000_i64..1000).prop_map(|(kind, step, count, offset)| {
            AlignedWindows::try_new(kind, step * count, step, offset).unwrap()
        })
    }

    fn all_windows(windows: &AlignedWindows, tick: i64) -> Vec<(i64, i64)> {
        let (mut starts, mut ends) = (vec![], vec![]);
        windows.assign(tick, &mut starts, &mut ends).unwrap();
        starts.into_iter().zip(ends).collect()
    }

    #[test]
    fn a_row_in_one_window_needs_no_slices() {
        for kind in [WindowKind::Tumble, WindowKind::Hop, WindowKind::Cumulate] {
            assert_eq!(
                AlignedWindows::try_new(kind, 10, 10, 3).unwrap().slices(),
                None
            );
        }
    }

    proptest! {
        #[test]
        fn the_windows_of_a_slice_are_those_of_each_of_its_ticks(
            windows in overlapping(), tick in -100_000_i64..100_000,
        ) {
            let slices = windows.slices().unwrap();
            let slice = slices.number(tick).unwrap();
            let start = slices.start(slice).unwrap();
            prop_assert!(start <= tick && tick < start + slices.width());
            let tumbling = all_windows(&slices.tumbling().unwrap(), tick);
            prop_assert_eq!(tumbling, [(start, start + slices.width())]);
            let found: Vec<(i64, i64)> = slices
                .windows_of(slice)
                .unwrap()
                .map(|window| {
                    let first = slices.first_slice(window).unwrap();
                    (slices.start(first).unwrap(), slices.start(window).unwrap())
                })
                .collect();
            prop_assert_eq!(found, all_windows(&windows, tick));
        }

        #[test]
        fn windows_end_once(windows in overlapping(), after in -1000_i64..1000, more in 0_i64..500) {
            let slices = windows.slices().unwrap();
            let by = after + more;
            let ended: Vec<i64> = slices
                .ended(Some(after), Some(by))
                .map(|window| slices.start(window).unwrap())
                .collect();
            let ends = (after + 1..=by)
                .filter(|tick| (tick - windows.offset()).rem_euclid(slices.width()) == 0);
            prop_assert_eq!(ended, ends.collect::<Vec<_>>());
            prop_assert!(slices.ended(Some(by), Some(after)).is_empty() || more == 0);
            prop_assert!(slices.ended(None, None).is_empty());
        }

        #[test]
        fn no_ticks_panic(
            size in 2_i64.., step: i64, offset: i64, tick: i64,
            kind in prop::sample::select(vec![WindowKind::Hop, WindowKind::Cumulate]),
        ) {
            let step = step.rem_euclid(size).max(1);
            if let Some(slices) = AlignedWindows::try_new(kind, size - size % step, step, offset)
                .and_then(|windows| windows.slices())
            {
                if let Some(slice) = slices.number(tick) {
                    let _ = slices.windows_of(slice);
                }
                let _ = (slices.ended(Some(tick), Some(i64::MAX)), slices.ended(None, Some(tick)));
            }
        }
    }
}
