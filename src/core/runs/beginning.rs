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

/// Refuses a run that would remove published rows of times of which records are gone. Gives a warning if it leaves results out that began
/// before its past.
///
/// `removes` says that it removes published rows of its range that it does not have.
///
/// # Errors
///
/// The refusal, with its reason.
pub fn check_beginning(spec: &RunSpec, removes: bool, lost: LostTimes) -> Result<Option<String>> {
    let Some(first) = spec.emission.first_instant(spec.grouping) else {
        return Ok(None);
    };
    let reached = |time: Option<i64>| time.filter(|time| first < *time);
    let gone = |until: i64| {
        let until = time_text(until);
        format!("records of before {until} are gone, from the topic and from the archive")
    };
    // Of selected rows nothing is removed but sessions of which the run has all rows.
    if removes && spec.selection.is_none() {
        let option = match spec.options.withdraw {
            true => "withdraw",
            false => "overwrite",
        };
        let refused = |why: &str| {
            Error::invalid(format!(
                "'{option}' would remove published rows that the run cannot give again: {why}"
            ))
        };
        if let Some(until) = reached(spec.begins.max(lost.until)) {
            let later = format!(
                "leave it out, or ask for what begins at {} or later",
                time_text(until)
            );
            return Err(refused(&gone(until)).with_help(later));
        }
        if lost.has_unknown {
            let why = "records are gone of which no time is known";
            return Err(refused(why).with_help("leave it out"));
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
            check_beginning(&spec(sessions, None), true, lost)
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
            let warning = check_beginning(&spec, false, none).unwrap();
            assert_eq!(warning.is_some(), reaches_back, "{grouping:?} {begins:?}");
            let removing = check_beginning(&spec, true, none);
            assert_eq!(removing.is_err(), reaches_back, "{grouping:?} {begins:?}");
        }
        let mut removing = spec(sessions, Some(26));
        for (withdraw, option) in [(true, "'withdraw'"), (false, "'overwrite'")] {
            removing.options.withdraw = withdraw;
            let error = check_beginning(&removing, true, none).unwrap_err();
            let says = "would remove published rows that the run cannot give again";
            assert!(
                error.message().starts_with(&format!("{option} {says}")),
                "{error}"
            );
        }
        // Records that are gone from between others take no window out, and keep what was published of them.
        for (until, has_unknown, is_refused) in [
            (Some(25), false, false),
            (Some(26), false, true),
            (None, true, true),
        ] {
            let lost = LostTimes { until, has_unknown };
            let lost = lost.and(none);
            let check = |removes| check_beginning(&spec(sessions, None), removes, lost);
            assert_eq!(check(true).is_err(), is_refused, "{lost:?}");
            assert_eq!(check(false).unwrap(), None, "{lost:?}");
        }
        let selected = RunSpec {
            selection: Some(OffsetSet::default()),
            ..spec(sessions, Some(26))
        };
        assert!(check_beginning(&selected, true, none).unwrap().is_some());
        let by_offsets = RunSpec {
            emission: Emission::Offsets(OffsetSet::default()),
            ..spec(Grouping::Rows, Some(26))
        };
        let unknown = LostTimes {
            has_unknown: true,
            ..none
        };
        assert_eq!(check_beginning(&by_offsets, true, unknown).unwrap(), None);
    }
}
