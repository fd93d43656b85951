//! The beginning of a run's past: earlier records are neither in the archive nor in the topic any more. Results that may have had some of
//! them are not whole, and what was published of those times cannot be given again.

use std::collections::BTreeSet;

use super::grouping::Grouping;
use super::spec::RunSpec;
use super::time_range::time_text;
use crate::core::jobs::watermark::JobTime;
use crate::error::{Error, Result};

/// Of which times records are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LostTimes {
    /// The first instant from which on none is missing, in microseconds since 1970 UTC; none if none is missing.
    pub until: Option<i64>,
    /// Of some of them no time is known.
    pub has_unknown: bool,
}

impl LostTimes {
    /// Of records that are gone from these partitions of a table, and of which no record that is left tells a time: those that the job has
    /// read. Its time after its last batch tells how late they were, and it has published nothing of others. `delay` is that of the table's
    /// watermark. None tells it of a job that keeps no time.
    pub fn read_by_job(
        time: Option<&JobTime>,
        (table, partitions): (&str, &BTreeSet<i32>),
        delay: i64,
    ) -> Self {
        let Some(time) = time else {
            return Self {
                until: None,
                has_unknown: !partitions.is_empty(),
            };
        };
        // The watermark is the highest event time less the delay. Without one, no row had a time.
        let until = |partition: &i32| {
            let watermark = time.partition(table, *partition)?.watermark?;
            Some(watermark.saturating_add(delay.max(0)).saturating_add(1))
        };
        Self {
            until: partitions.iter().filter_map(until).max(),
            has_unknown: false,
        }
    }

    /// These and others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            until: self.until.max(other.until),
            has_unknown: self.has_unknown || other.has_unknown,
        }
    }
}

/// How a run removes published rows of its range that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// `'withdraw'` says so.
    pub withdraws: bool,
    /// `'overwrite'` of a table says so.
    pub overwrites: bool,
    /// Without `'overwrite'` the run could only add its rows: the table has no key by which they take the place of others.
    pub needs_overwrite: bool,
}

impl Removal {
    /// The options, for the user.
    fn options(self) -> &'static str {
        match (self.withdraws, self.overwrites) {
            (true, true) => "'withdraw' and 'overwrite'",
            (false, true) => "'overwrite'",
            (_, false) => "'withdraw'",
        }
    }

    /// What to do so that the run removes nothing.
    fn instead(self) -> &'static str {
        match (self.withdraws, self.overwrites, self.needs_overwrite) {
            (true, true, true) => {
                "leave 'withdraw' out and write 'write' 'append', which adds the rows and removes none"
            }
            (false, true, true) => "add 'write' 'append', which adds the rows and removes none",
            (true, true, false) => "leave both out",
            (_, _, _) => "leave it out",
        }
    }
}

/// Refuses a run that would remove published rows of times of which records are gone. Gives a warning if it leaves results out that began
/// before its past.
///
/// `removal` says how it removes published rows of its range that it does not have, if it does.
///
/// # Errors
///
/// The refusal, with its reason.
pub fn check_beginning(
    spec: &RunSpec,
    removal: Option<Removal>,
    lost: LostTimes,
) -> Result<Option<String>> {
    let Some(first) = spec.emission.first_instant(spec.grouping) else {
        return Ok(None);
    };
    let reached = |time: Option<i64>| time.filter(|time| first < *time);
    let gone = |until: i64| {
        let until = time_text(until);
        format!("records of before {until} are gone, from the topic and from the archive")
    };
    // Of selected rows nothing is removed but sessions of which the run has all rows.
    if let Some(removal) = removal.filter(|_| spec.selection.is_none()) {
        let options = removal.options();
        let refused = |why: &str| {
            Error::invalid(format!(
                "{options} would remove published rows that the run cannot give again: {why}"
            ))
        };
        if let Some(until) = reached(spec.begins.max(lost.until)) {
            let later = format!(
                "{}, or ask for what begins at {} or later",
                removal.instead(),
                time_text(until)
            );
            return Err(refused(&gone(until)).with_help(later));
        }
        if lost.has_unknown {
            let why = "records are gone of which no time is known";
            return Err(refused(why).with_help(removal.instead()));
        }
    }
    Ok(reached(spec.begins).map(|begins| {
        let gone = gone(begins);
        match spec.grouping {
            Grouping::Rows => format!("{gone}: their rows are not written"),
            Grouping::Aligned(_) | Grouping::Sessions { .. } => {
                format!("{gone}: windows and sessions that may have had some of them are left out")
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::{AlignedWindows, WindowKind};

    use super::*;
    use crate::core::jobs::watermark::PartitionTime;
    use crate::core::runs::offset_set::OffsetSet;
    use crate::core::runs::spec::fixture;
    use crate::core::runs::{Emission, TimeRange};

    const WITHDRAWS: Option<Removal> = Some(Removal {
        withdraws: true,
        overwrites: false,
        needs_overwrite: false,
    });

    /// A run from instant 25 on, whose past begins at `begins`.
    fn spec(grouping: Grouping, begins: Option<i64>) -> RunSpec {
        let range = TimeRange::try_new(25, 60).unwrap();
        RunSpec {
            grouping,
            begins,
            emission: Emission::Time(grouping.emission(range).unwrap().into()),
            ..fixture::spec("r")
        }
    }

    #[test]
    fn an_empty_partition_has_lost_what_the_job_has_read_of_it() {
        let watermark = |watermark| PartitionTime {
            watermark,
            ..PartitionTime::default()
        };
        let partitions = [(0, watermark(Some(80))), (1, watermark(Some(20)))];
        let partitions = partitions.into_iter().chain([(2, watermark(None))]);
        let time = JobTime {
            partitions: [("t".to_owned(), partitions.collect())].into(),
            ..JobTime::default()
        };
        let lost = |time, partitions: &[i32]| {
            let partitions: BTreeSet<i32> = partitions.iter().copied().collect();
            LostTimes::read_by_job(time, ("t", &partitions), 5)
        };
        let until = |until| LostTimes {
            until,
            has_unknown: false,
        };
        assert_eq!(lost(Some(&time), &[1]), until(Some(26)));
        assert_eq!(lost(Some(&time), &[0, 1, 2]), until(Some(86)));
        // The job has read no row of these.
        assert_eq!(lost(Some(&time), &[2, 3]), until(None));
        assert_eq!(lost(Some(&time), &[]), until(None));
        assert_eq!(lost(None, &[]), until(None));
        assert!(lost(None, &[3]).has_unknown);
        // A run of later results may remove rows.
        let sessions = Grouping::Sessions { gap: 5 };
        let check = |partition| {
            let lost = lost(Some(&time), &[partition]);
            check_beginning(&spec(sessions, None), WITHDRAWS, lost)
        };
        assert!(check(0).is_err() && check(2).is_ok() && check(3).is_ok());
    }

    #[test]
    fn what_lies_before_the_past_is_left_and_not_removed() {
        let hop = AlignedWindows::try_new(WindowKind::Hop, 20, 10, 0).unwrap();
        let hop = Grouping::Aligned(hop);
        let sessions = Grouping::Sessions { gap: 5 };
        let none = LostTimes::default();
        // Of the windows, the first one begins at 10.
        for (grouping, begins, reaches_back) in [
            (Grouping::Rows, None, false),
            (Grouping::Rows, Some(25), false),
            (Grouping::Rows, Some(26), true),
            (hop, Some(10), false),
            (hop, Some(11), true),
            (sessions, Some(25), false),
            (sessions, Some(26), true),
        ] {
            let spec = spec(grouping, begins);
            let warning = check_beginning(&spec, None, none).unwrap();
            assert_eq!(warning.is_some(), reaches_back, "{grouping:?} {begins:?}");
            let removing = check_beginning(&spec, WITHDRAWS, none);
            assert_eq!(removing.is_err(), reaches_back, "{grouping:?} {begins:?}");
        }
        let removing = spec(sessions, Some(26));
        let unknown = LostTimes {
            has_unknown: true,
            ..none
        };
        for (withdraws, overwrites, needs_overwrite, options, instead) in [
            (true, false, false, "'withdraw'", "leave it out"),
            (false, true, false, "'overwrite'", "leave it out"),
            (false, true, true, "'overwrite'", "add 'write' 'append'"),
            (
                true,
                true,
                false,
                "'withdraw' and 'overwrite'",
                "leave both out",
            ),
            (
                true,
                true,
                true,
                "'withdraw' and 'overwrite'",
                "leave 'withdraw' out and write",
            ),
        ] {
            let removal = Removal {
                withdraws,
                overwrites,
                needs_overwrite,
            };
            let by_time = check_beginning(&removing, Some(removal), none).unwrap_err();
            assert!(by_time.help().unwrap().ends_with(" or later"), "{by_time}");
            let by_none = check_beginning(&spec(sessions, None), Some(removal), unknown);
            for error in [by_time, by_none.unwrap_err()] {
                let says = "would remove published rows that the run cannot give again";
                let begins = format!("{options} {says}");
                assert!(error.message().starts_with(&begins), "{error}");
                assert!(error.help().unwrap().starts_with(instead), "{error}");
            }
        }
        // Records that are gone from between others take no window out, and keep what was published of them.
        for (until, has_unknown, is_refused) in [
            (Some(25), false, false),
            (Some(26), false, true),
            (None, true, true),
        ] {
            let lost = LostTimes { until, has_unknown };
            let lost = lost.and(none);
            let check = |removal| check_beginning(&spec(sessions, None), removal, lost);
            assert_eq!(check(WITHDRAWS).is_err(), is_refused, "{lost:?}");
            assert_eq!(check(None).unwrap(), None, "{lost:?}");
        }
        let selected = RunSpec {
            selection: Some(OffsetSet::default()),
            ..spec(sessions, Some(26))
        };
        assert!(
            check_beginning(&selected, WITHDRAWS, none)
                .unwrap()
                .is_some()
        );
        let by_offsets = RunSpec {
            emission: Emission::Offsets(OffsetSet::default()),
            ..spec(Grouping::Rows, Some(26))
        };
        assert_eq!(
            check_beginning(&by_offsets, WITHDRAWS, unknown).unwrap(),
            None
        );
    }
}
