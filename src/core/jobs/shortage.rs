//! Handling of a batch that does not fit into memory (SAFE-1): it waits for memory that others hold, or is retried with fewer
//! records. It fails only if it cannot be smaller and would not fit alone.

/// Bytes that a batch asked for and did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that the batch asked for.
    pub asked: usize,
    /// Bytes that it held by then.
    pub held: usize,
    /// Bytes that others held by then.
    pub others: usize,
    /// The size of the pool for all of them.
    pub limit: usize,
}

impl Shortage {
    /// Whether the batch would have got the memory if others had held none.
    fn is_of_others(&self) -> bool {
        let wanted = self.held.saturating_add(self.asked);
        self.others > 0 && wanted <= self.limit
    }
}

/// How the runner reacts to a batch that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Retry the batch when others have released memory.
    Wait,
    /// Retry it with fewer records.
    Fewer,
    /// Fail: a person has to change the job or the limits.
    Fail,
}

/// Decides how to react. `shortage` is set if a memory pool was exhausted, and not if a separate limit was exceeded, such as
/// the one on the output of a function. `has_fewer` is true if the next batch can have fewer records.
pub fn remedy(shortage: Option<Shortage>, has_fewer: bool) -> Remedy {
    match shortage {
        Some(shortage) if shortage.is_of_others() => Remedy::Wait,
        _ if has_fewer => Remedy::Fewer,
        _ => Remedy::Fail,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn safe_1_what_others_hold_ends_no_job(
            held in 0_usize..1_000,
            asked in 1_usize..1_000,
            others in 0_usize..1_000,
            has_fewer: bool,
        ) {
            let shortage = Shortage { asked, held, others, limit: 1_000 };
            let done = remedy(Some(shortage), has_fewer);
            let fits_alone = held + asked <= 1_000;
            prop_assert_eq!(done == Remedy::Wait, others > 0 && fits_alone);
            // It fails only if it cannot be smaller and would not fit without others either.
            prop_assert!(done != Remedy::Fail || (!has_fewer && (others == 0 || !fits_alone)));
        }
    }

    #[test]
    fn what_is_no_matter_of_others_is_made_smaller_until_it_fits() {
        assert_eq!(remedy(None, true), Remedy::Fewer);
        assert_eq!(remedy(None, false), Remedy::Fail);
        let alone = Shortage {
            asked: usize::MAX,
            held: 1,
            others: 5,
            limit: 10,
        };
        assert_eq!(remedy(Some(alone), true), Remedy::Fewer);
        assert_eq!(remedy(Some(alone), false), Remedy::Fail);
    }
}
