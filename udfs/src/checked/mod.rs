//! Checked arithmetic (VALUE-1): it returns an error where DataFusion's wraps.
//!
//! [`CheckedArithmetic`] is an analyzer rule. It replaces operators over integers and decimals by functions that compute the
//! same and refuse a result that does not fit its type, and operators over DOUBLE by functions with a single NaN value; `||` by
//! a function that refuses a result beyond the budget of its statement; casts to types with fewer digits by functions that
//! round, and casts that may fail by functions that the engine does not undo.
//! [`checked`] rewrites one expression in the same way, [`checked_cast`] one cast, [`checked_of_table`] an expression that a
//! Delta table stores, and [`plain`] reverses the rewrite; [`CastsInFiles`] rewrites the casts of file columns.
//! [`DecimalOperators`] plans products and quotients of decimals with enough digits after the point, and [`WidenDecimalComparisons`]
//! compares decimals with all their digits; [`EqualZeros`] compares numbers of DOUBLE by their value. [`sum`], [`avg`], [`min`]
//! and [`max`] do not depend on the order of their rows, except for the last digits of DOUBLE, and unless partial sums of decimals
//! need more than 128 bits.

mod array_aggregates;
mod average;
mod average_decimals;
mod average_integers;
mod cast;
mod compare;
mod decimals;
mod distinct;
mod division;
mod equal_zeros;
mod file_casts;
mod frame_doubles;
mod min_max;
mod nan;
mod nan_aggregates;
mod negate;
mod operator;
mod overflow;
mod rewrite;
mod rounding;
mod shift;
mod sum;
mod sum_groups;
mod sum_rows;
mod wide_sums;
mod zero;

pub(crate) use array_aggregates::array_functions;
pub(crate) use average::avg;
pub use compare::WidenDecimalComparisons;
pub(crate) use compare::{wide, with_room_to_compare};
pub use decimals::DecimalOperators;
pub use equal_zeros::equal_zeros;
pub(crate) use equal_zeros::{EqualZeroGroups, EqualZeros, key_with_one_zero, null_if};
pub use file_casts::CastsInFiles;
pub(crate) use min_max::{max, min};
pub(crate) use nan::functions as nan_functions;
pub use nan::with_one_nan_within;
pub(crate) use nan_aggregates::nan_aggregates;
pub use rewrite::{CheckedArithmetic, as_kept, checked, checked_cast, checked_of_table, plain};
pub(crate) use rewrite::{cast_differs, cast_value, type_of};
pub(crate) use rounding::rounded;
pub(crate) use sum::sum;
pub(crate) use zero::{ONE_ZERO, with_one_zero};

pub(crate) use overflow::{out_of_range, sql_name};
