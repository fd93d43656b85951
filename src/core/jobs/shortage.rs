//! What becomes of a batch that does not fit into memory (SAFE-1): it waits for what others hold, or is made smaller, and only one
//! that can be no smaller, and does not fit alone, fails.

/// Bytes that a batch asked for and did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// What it asked for.
    pub asked: usize,
    /// What it held by then.
    pub held: usize,
    /// What others held by then.
    pub others: usize,
    /// What there is for all of them.
    pub limit: usize,
}

impl Shortage {
    /// Whether it would have got them, had others held nothing.
    fn is_of_others(&self) -> bool {
        let wanted = self.held.saturating_add(self.asked);
        self.others > 0 && wanted <= self.limit
    }
}

/// What is done about a batch that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It is tried again when others have given back what they hold.
    Wait,
    /// It is tried again with fewer records.
    Fewer,
    /// Nothing helps but a change by people.
    Fail,
}

/// Decides it. There is a shortage where a pool had no more, and none where a bound of its own was passed, as of what a function
/// may make. `has_fewer` says that the next batch can have fewer records.
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
            // It fails only if it cannot be smaller, and would not fit either if there were no others.
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
