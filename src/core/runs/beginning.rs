//! The beginning of a run's past: earlier records are neither in the archive nor in the topic any more. Results that may have had some of
//! them are not whole, and what was published of those times cannot be given again.

use super::grouping::Grouping;
use super::spec::RunSpec;
use super::time_range::time_text;
use crate::error::{Error, Result};

/// Refuses a run that would remove published rows of before its past. Gives a warning if it leaves results of then out.
///
/// `removes` says that it removes published rows of its range that it does not have; `has_lost_times` that records are gone of which no time
/// is known.
///
/// # Errors
///
/// The refusal, with its reason.
pub fn check_beginning(
    spec: &RunSpec,
    removes: bool,
    has_lost_times: bool,
) -> Result<Option<String>> {
    let Some(first) = spec.emission.first_instant(spec.grouping) else {
        return Ok(None);
    };
    let begins = spec.begins.filter(|begins| first < *begins);
    let why = match begins {
        Some(begins) => format!(
            "records of before {} are gone, from the topic and from the archive",
            time_text(begins)
        ),
        None if has_lost_times => {
            "a partition has lost records, and no later one tells of which times they were"
                .to_owned()
        }
        None => return Ok(None),
    };
    // Of selected rows nothing is removed but sessions of which the run has all rows.
    if removes && spec.selection.is_none() {
        let option = match spec.options.withdraw {
            true => "withdraw",
            false => "overwrite",
        };
        return Err(Error::invalid(format!(
            "'{option}' would remove published rows that the run cannot give again: {why}"
        ))
        .with_help(match begins {
            Some(begins) => format!(
                "leave it out, or ask for what begins at {} or later",
                time_text(begins)
            ),
            None => "leave it out".to_owned(),
        }));
    }
    Ok(begins.map(|_| match spec.grouping {
        Grouping::Rows => format!("{why}: their rows are not written"),
        Grouping::Aligned(_) | Grouping::Sessions { .. } => {
            format!("{why}: windows and sessions that may have had some of them are left out")
        }
    }))
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::{AlignedWindows, WindowKind};

    use super::*;
    use crate::core::runs::offset_set::OffsetSet;
    use crate::core::runs::spec::fixture;
    use crate::core::runs::{Emission, TimeRange};

    /// A run from second 25 on, whose past begins then.
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
    fn what_lies_before_the_past_is_left_and_not_removed() {
        let hop = AlignedWindows::try_new(WindowKind::Hop, 20, 10, 0).unwrap();
        let hop = Grouping::Aligned(hop);
        let sessions = Grouping::Sessions { gap: 5 };
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
            let warning = check_beginning(&spec, false, false).unwrap();
            assert_eq!(warning.is_some(), reaches_back, "{grouping:?} {begins:?}");
            let removing = check_beginning(&spec, true, false);
            assert_eq!(removing.is_err(), reaches_back, "{grouping:?} {begins:?}");
        }
        let mut removing = spec(sessions, Some(26));
        for (withdraw, option) in [(true, "'withdraw'"), (false, "'overwrite'")] {
            removing.options.withdraw = withdraw;
            let error = check_beginning(&removing, true, false).unwrap_err();
            let says = "would remove published rows that the run cannot give again";
            assert!(
                error.message().starts_with(&format!("{option} {says}")),
                "{error}"
            );
        }
        let unknown = |removes| check_beginning(&spec(hop, None), removes, true);
        assert!(unknown(true).is_err() && unknown(false).unwrap().is_none());
        let selected = RunSpec {
            selection: Some(OffsetSet::default()),
            ..spec(sessions, Some(26))
        };
        assert!(check_beginning(&selected, true, false).unwrap().is_some());
        let by_offsets = RunSpec {
            emission: Emission::Offsets(OffsetSet::default()),
            ..spec(Grouping::Rows, Some(26))
        };
        assert_eq!(check_beginning(&by_offsets, true, true).unwrap(), None);
    }
}
