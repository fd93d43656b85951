//! The windows and sessions that a chunk of a reprocessing run has left out.

use std::fmt;

/// Why a run leaves a window or session out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftReason {
    /// Rows of it may still come.
    NotFinal,
    /// It begins where records may be missing: neither archive nor topic has them any more.
    NotWhole,
    /// The search for its rows ended at `max_extension`.
    Capped,
}

impl fmt::Display for LeftReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFinal => "not final",
            Self::NotWhole => "its first records may be gone",
            Self::Capped => "longer than the search for its rows",
        })
    }
}

/// A window or session that was left out. Times are microseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftGroup {
    /// Where it begins.
    pub start: i64,
    /// Where it ends.
    pub end: i64,
    /// Its key, for the user.
    pub key: String,
    /// Why.
    pub reason: LeftReason,
}

/// The windows and sessions that a run leaves out: how many, and the first ones by their start. The sum over chunks does not
/// depend on how the run was cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftGroups {
    count: u64,
    first: Vec<LeftGroup>,
}

impl LeftGroups {
    /// How many are named.
    pub const NAMED: usize = 5;

    /// So many, of which these are the first ones.
    pub fn of(count: u64, first: impl IntoIterator<Item = LeftGroup>) -> Self {
        let mut left = Self::default();
        first.into_iter().for_each(|group| left.insert(group));
        left.count = count;
        left
    }

    /// Adds the group of a key from `start` to `end`.
    pub fn add(&mut self, start: i64, end: i64, key: &str, reason: LeftReason) {
        self.count += 1;
        self.insert(LeftGroup {
            start,
            end,
            key: key.to_owned(),
            reason,
        });
    }

    /// Adds more groups, none of which is among the first ones.
    pub fn add_later(&mut self, count: u64) {
        self.count += count;
    }

    /// Adds those of another chunk.
    pub fn add_all(&mut self, other: Self) {
        self.count += other.count;
        other.first.into_iter().for_each(|group| self.insert(group));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first ones.
    pub fn first(&self) -> &[LeftGroup] {
        &self.first
    }

    fn insert(&mut self, group: LeftGroup) {
        let at = self.first.partition_point(|known| *known <= group);
        if at < Self::NAMED {
            self.first.insert(at, group);
            self.first.truncate(Self::NAMED);
        }
    }
}
