//! Handling of a batch that does not fit into memory (SAFE-1): it waits for memory that others hold, or is retried with fewer
//! records. It fails only if it cannot be smaller and would not fit alone.

/// Bytes that a batch asked for and did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShortage {
    /// Bytes that the batch asked for.
    pub asked: usize,
    /// Bytes that it held by then.
    pub held: usize,
    /// Bytes that others held by then.
    pub others: usize,
    /// The size of the pool for all of them.
    pub limit: usize,
}

impl MemoryShortage {
    /// Whether the batch would have got the memory if others had held none.
    fn is_caused_by_others(&self) -> bool {
        let wanted = self.held.saturating_add(self.asked);
        self.others > 0 && wanted <= self.limit
    }
}

/// How the runner reacts to a batch that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortageRemedy {
    /// Retry the batch when others have released memory.
    Wait,
    /// Retry it with fewer records.
    FewerRecords,
    /// Fail: a person has to change the job or the limits.
    Fail,
}

/// Decides how to react. `shortage` is set if a memory pool was exhausted, and not if a separate limit was exceeded, such as
/// the one on the output of a function. `has_fewer` is true if the next batch can have fewer records.
pub fn remedy(shortage: Option<MemoryShortage>, has_fewer: bool) -> ShortageRemedy {
    match shortage {
        Some(shortage) if shortage.is_caused_by_others() => ShortageRemedy::Wait,
        _ if has_fewer => ShortageRemedy::FewerRecords,
        _ => ShortageRemedy::Fail,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn safe_1_memory_held_by_others_fails_no_job(
            held in 0_usize..1_000,
            asked in 1_usize..1_000,
            others in 0_usize..1_000,
            has_fewer: bool,
        ) {
            let shortage = MemoryShortage { asked, held, others, limit: 1_000 };
            let done = remedy(Some(shortage), has_fewer);
            let fits_alone = held + asked <= 1_000;
            prop_assert_eq!(done == ShortageRemedy::Wait, others > 0 && fits_alone);
            // It fails only if it cannot be smaller and would not fit without others either.
            prop_assert!(done != ShortageRemedy::Fail || (!has_fewer && (others == 0 || !fits_alone)));
        }
    }

    #[test]
    fn a_batch_too_large_by_itself_is_halved_until_it_fits() {
        assert_eq!(remedy(None, true), ShortageRemedy::FewerRecords);
        assert_eq!(remedy(None, false), ShortageRemedy::Fail);
        let alone = MemoryShortage {
            asked: usize::MAX,
            held: 1,
            others: 5,
            limit: 10,
        };
        assert_eq!(remedy(Some(alone), true), ShortageRemedy::FewerRecords);
        assert_eq!(remedy(Some(alone), false), ShortageRemedy::Fail);
    }
}
