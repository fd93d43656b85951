//! Memory checks of a statement's steps: whether there is room for the result of the next step, or of the last one (SAFE-1).
//!
//! One function call has a budget, which is a part of the statement's memory. For all calls of one evaluation together, the
//! memory is checked that the allocator counts for the statement (`core::heap`).

use anabranch_udfs::Budget;
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};

use crate::core::heap::{self, HeapRefusal};
use crate::error::{Error, ErrorKind, Subject};
use crate::session::limits::array_bytes::{counted, of_value};

/// Bytes that one call may produce.
pub(crate) fn budget(options: &ConfigOptions) -> usize {
    let budget = options.extensions.get::<Budget>();
    budget.map_or(usize::MAX, |Budget(most)| *most)
}

/// Refuses a result larger than one call may produce.
///
/// # Errors
///
/// [`ErrorKind::Exhausted`], with the function and the number of rows.
pub(crate) fn check(who: &str, bytes: usize, rows: usize, budget: usize) -> Result<()> {
    if bytes <= budget {
        return go_on(0);
    }
    Err(DataFusionError::from(
        Error::new(
            ErrorKind::Exhausted,
            format!(
                "{who} would make {bytes} bytes of {rows} rows, and the statement may hold {budget}"
            ),
        )
        .about(Subject::function(who))
        .with_help("produce less for each row, or read fewer rows"),
    ))
}

/// Refuses a value whose copies for all rows would be larger than one call may produce.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_spread(
    who: &str,
    value: &ScalarValue,
    rows: usize,
    budget: usize,
) -> Result<()> {
    let bytes = of_value(value).saturating_mul(rows);
    // An array counts the bytes of its texts, and the elements of its lists, in 32 bits.
    let count = counted(value).unwrap_or(0).saturating_mul(rows);
    if i32::try_from(count).is_err() {
        let what = format!(
            "{who} would make {bytes} bytes of {rows} rows, and one column has no room for them"
        );
        return Err(DataFusionError::from(
            Error::new(ErrorKind::Exhausted, what)
                .with_help("produce less for each row, or read fewer rows"),
        ));
    }
    check(who, bytes, rows, budget)?;
    go_on(bytes)
}

/// Whether the statement may continue, and allocate this many more bytes at once.
///
/// # Errors
///
/// [`ErrorKind::Exhausted`]; [`ErrorKind::Cancelled`] if the statement was ended.
pub(crate) fn go_on(more: usize) -> Result<()> {
    heap::check(more).map_err(|refusal| {
        DataFusionError::from(match refusal {
            HeapRefusal::Ended => Error::new(ErrorKind::Cancelled, "the statement was ended"),
            HeapRefusal::TooMuch { taken, most } => Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the statement would hold {taken} bytes of one step, and may hold {most} of it"
                ),
            )
            .with_help("produce less for each row, or read fewer rows or columns"),
            HeapRefusal::NoRoom { taken } => Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the statement would hold {taken} bytes of one step, and the server has no room for them"
                ),
            )
            .with_help("try again later, produce less for each row, or read fewer rows or columns"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_of(refused: Result<()>) -> String {
        Error::from(refused.unwrap_err()).message().to_owned()
    }

    #[test]
    fn a_value_for_many_rows_is_limited_by_the_call_budget() {
        let text = |bytes: usize| ScalarValue::Utf8(Some("x".repeat(bytes)));
        check_spread("a constant", &text(1_000), 1_000, 1_000_000).unwrap();
        let said_of = message_of(check_spread("a constant", &text(1_001), 1_000, 1_000_000));
        assert_eq!(
            said_of,
            "a constant would make 1001000 bytes of 1000 rows, and the statement may hold 1000000"
        );
        // The most that the offsets of an array can count.
        let most = usize::MAX;
        check_spread("a constant", &text(1_000), 2_147_483, most).unwrap();
        assert!(check_spread("a constant", &text(1_000), 2_147_484, most).is_err());
        let large = ScalarValue::LargeUtf8(Some("x".repeat(1_000)));
        check_spread("a constant", &large, 2_147_484, most).unwrap();
    }

    #[test]
    fn a_step_that_holds_too_much_is_refused() {
        let owner = std::sync::Arc::new(heap::MemoryOwner::default());
        heap::during(&owner, 1_000, || {
            go_on(900).unwrap();
            let said = message_of(go_on(2_000));
            assert!(
                said.contains("bytes of one step, and may hold 1000"),
                "{said}"
            );
        });
        owner.end();
        heap::during(&owner, 1_000, || {
            let ended = Error::from(go_on(0).unwrap_err());
            assert_eq!(ended.kind(), ErrorKind::Cancelled);
        });
    }
}
