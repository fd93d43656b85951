//! VALUE-1: arithmetic that fails where DataFusion's wraps.
//!
//! [`CheckedArithmetic`] is an analyzer rule: it replaces operators over integers and decimals by functions that compute the
//! same and refuse a result that has no place in its type. [`checked`] does the same to one expression, and [`plain`] undoes
//! it. [`DecimalDivision`] plans divisions of decimals with enough digits behind the point. [`sum`], [`avg`], [`min`] and [`max`]
//! do not depend on the order of their rows.

mod average;
mod average_integers;
mod division;
mod extreme;
mod frame;
mod nan;
mod negate;
mod operator;
mod overflow;
mod rewrite;
mod shift;
mod sum;
mod sum_groups;
mod sum_rows;
mod wide;

pub(crate) use average::avg;
pub use division::DecimalDivision;
pub(crate) use extreme::{max, min};
pub use rewrite::{CheckedArithmetic, as_kept, checked, plain};
pub(crate) use sum::sum;

pub(crate) use overflow::out_of_range;
