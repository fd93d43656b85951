//! How far two floating-point numbers may differ that count as the same: a sum depends on the order of its summands in the last digits.

use std::fmt;

/// Two numbers are the same if they differ by at most this part of the greater one, or by at most this much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloatTolerance {
    /// A part of the greater one.
    pub relative: f64,
    /// So much, for numbers near 0.
    pub absolute: f64,
}

impl Default for FloatTolerance {
    fn default() -> Self {
        Self {
            relative: 1e-9,
            absolute: 1e-12,
        }
    }
}

impl FloatTolerance {
    /// The same for numbers of half or a quarter of the width, which have fewer digits.
    pub(super) fn of_narrow(self) -> Self {
        Self {
            relative: self.relative.max(1e-5),
            ..self
        }
    }

    /// Whether two numbers are the same. NaN is the same as NaN, and 0 as -0.
    pub(super) fn is_same(self, one: f64, two: f64) -> bool {
        if one == two || (one.is_nan() && two.is_nan()) {
            return true;
        }
        let greater = one.abs().max(two.abs());
        greater.is_finite() && (one - two).abs() <= self.absolute.max(self.relative * greater)
    }
}

impl fmt::Display for FloatTolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { relative, absolute } = self;
        write!(
            f,
            "floating-point numbers are the same within {relative:e} of the greater one, or {absolute:e}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_digits_may_differ() {
        let tolerance = FloatTolerance::default();
        for (one, two, is_same) in [
            (0.1 + 0.2, 0.3, true),
            (1e300, 1e300 * (1.0 + 1e-12), true),
            (1.0, 1.000_001, false),
            (0.0, -0.0, true),
            (1e-17, 0.0, true),
            (f64::NAN, f64::NAN, true),
            (f64::NAN, 0.0, false),
            (f64::INFINITY, f64::INFINITY, true),
            (f64::INFINITY, f64::MAX, false),
            (f64::INFINITY, f64::NEG_INFINITY, false),
        ] {
            assert_eq!(tolerance.is_same(one, two), is_same, "{one} {two}");
            assert_eq!(tolerance.is_same(two, one), is_same, "{two} {one}");
        }
        assert!(tolerance.of_narrow().is_same(1.0, 1.000_001));
    }
}
