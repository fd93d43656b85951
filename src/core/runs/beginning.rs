//! The beginning of a run's past: earlier records are neither in the archive nor in the topic any more. Results that may have had some of
//! them are not whole, and what was published of those times cannot be given again.

use super::grouping::Grouping;
use super::spec::RunSpec;
use super::time_range::time_text;
use crate::error::{Error, Result};

/// Refuses a run that would remove published rows of before its past. Gives a warning if it leaves results of then out.
///
/// `replaces` says that its chunks take the place of all rows of their times; `has_lost_times` that records are gone of which no time is
/// known.
///
/// # Errors
///
/// The refusal, with its reason.
pub fn check_beginning(
    spec: &RunSpec,
    replaces: bool,
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
    // Of selected rows nothing is withdrawn but sessions of which the run has all rows.
    let withdraws = spec.options.withdraw && spec.selection.is_none();
    if replaces || withdraws {
        let option = if replaces { "overwrite" } else { "withdraw" };
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
    fn spec(grouping: Grouping, begins: Option<i64>, withdraw: bool) -> RunSpec {
        let range = TimeRange::try_new(25, 60).unwrap();
        let mut spec = RunSpec {
            grouping,
            begins,
            emission: Emission::Time(grouping.emission(range).unwrap().into()),
            ..fixture::spec("r")
        };
        spec.options.withdraw = withdraw;
        spec
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
            let check = |withdraw, replaces| {
                check_beginning(&spec(grouping, begins, withdraw), replaces, false)
            };
            let said = format!("{grouping:?} {begins:?}");
            assert_eq!(
                check(false, false).unwrap().is_some(),
                reaches_back,
                "{said}"
            );
            assert_eq!(check(true, false).is_err(), reaches_back, "{said}");
            assert_eq!(check(false, true).is_err(), reaches_back, "{said}");
        }
        let error = check_beginning(&spec(sessions, Some(26), true), false, false).unwrap_err();
        let says = "'withdraw' would remove published rows that the run cannot give again";
        assert!(error.message().starts_with(says), "{error}");
        let unknown = |withdraw| check_beginning(&spec(hop, None, withdraw), false, true);
        assert!(unknown(true).is_err() && unknown(false).unwrap().is_none());
        let selected = RunSpec {
            selection: Some(OffsetSet::default()),
            ..spec(sessions, Some(26), true)
        };
        assert!(check_beginning(&selected, false, false).unwrap().is_some());
        let by_offsets = RunSpec {
            emission: Emission::Offsets(OffsetSet::default()),
            ..spec(Grouping::Rows, Some(26), true)
        };
        assert_eq!(check_beginning(&by_offsets, false, true).unwrap(), None);
    }
}
