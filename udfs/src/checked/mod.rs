//! VALUE-1: arithmetic that fails where DataFusion's wraps.
//!
//! [`CheckedArithmetic`] is an analyzer rule: it replaces operators over integers and decimals by functions that compute the
//! same and refuse a result that has no place in its type; and `||` by one that refuses a result beyond the budget of its
//! statement. [`checked`] does the same to one expression, and [`plain`] undoes it. [`DecimalDivision`] plans divisions of
//! decimals with enough digits behind the point. [`sum`] is a SUM that does not depend on the order of its rows.

mod average;
mod division;
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
pub use rewrite::{CheckedArithmetic, checked, plain};
pub(crate) use sum::sum;

pub(crate) use overflow::out_of_range;
