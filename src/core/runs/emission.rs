//! What a run emits, decided once and kept in its spec: a part of the axis of event time, or offsets.

use super::asked_range::AskedRange;
use super::grouping::Grouping;
use super::offset_set::OffsetSet;
use super::time_range::TimeRanges;
use crate::error::{Error, Result};

/// The part of the past whose results a run emits. Its chunks are cuts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emission {
    /// The results that belong to these instants ([`Grouping::emission`]).
    Time(TimeRanges),
    /// The rows at these offsets, of a job that groups none.
    Offsets(OffsetSet),
}

impl Emission {
    /// Decides what a run emits that asks for `asked`. `selection` are the offsets to which `asked` restricts it, `times` the event
    /// times of the rows there. They are not needed where the job groups no rows.
    ///
    /// # Errors
    ///
    /// A range beyond the times that windows can have.
    pub fn of(
        asked: &AskedRange,
        grouping: Grouping,
        selection: Option<&OffsetSet>,
        times: &[i64],
    ) -> Result<Self> {
        let too_far = || {
            Error::invalid("the range is beyond the event times that windows can have")
                .with_help("ask for a range of event times that there are")
        };
        match (asked.time, selection, grouping) {
            (None, Some(selection), Grouping::Rows) => Ok(Self::Offsets(selection.clone())),
            // The groups of these rows are whole, so rows outside of the selection count as well.
            (time, Some(_), Grouping::Aligned(_) | Grouping::Sessions { .. }) => {
                let is_asked = |at: &&i64| time.is_none_or(|time| time.contains(**at));
                let times: Vec<i64> = times.iter().filter(is_asked).copied().collect();
                let ranges = grouping.emission_of_rows(&times).ok_or_else(too_far)?;
                Ok(Self::Time(ranges))
            }
            (Some(time), _, _) => {
                let range = grouping.emission(time).ok_or_else(too_far)?;
                Ok(Self::Time(range.into()))
            }
            (None, None, _) => Err(Error::internal("a run without a range was not refused")),
        }
    }

    /// Whether it is empty: there is nothing to reprocess.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Time(ranges) => ranges.is_empty(),
            Self::Offsets(offsets) => offsets.is_empty(),
        }
    }

    /// The earliest event time of a row in the results that it emits, but for sessions, which may begin earlier. None of offsets.
    pub fn first_instant(&self, grouping: Grouping) -> Option<i64> {
        let Self::Time(ranges) = self else {
            return None;
        };
        let first = *ranges.as_slice().first()?;
        match grouping {
            Grouping::Sessions { .. } => Some(first.from()),
            Grouping::Rows | Grouping::Aligned(_) => Some(grouping.read_range(first)?.from()),
        }
    }

    /// The event times or offsets that the run reads, for the user; of sessions at least these.
    pub fn read_text(&self, grouping: Grouping) -> String {
        match self {
            Self::Offsets(offsets) => format!("offsets {offsets}"),
            Self::Time(ranges) => {
                let read = ranges.as_slice().iter();
                let read = read.filter_map(|range| grouping.read_range(*range));
                let read = TimeRanges::joined(read.collect(), 0);
                let more = match grouping.is_sessions() {
                    true => ", and further while a session goes on",
                    false => "",
                };
                format!("event time {read}{more}")
            }
        }
    }

    /// The results that the run emits, for the user.
    pub fn emitted_text(&self, grouping: Grouping) -> String {
        match (self, grouping) {
            (Self::Offsets(offsets), _) => format!("rows at offsets {offsets}"),
            (Self::Time(ranges), Grouping::Rows) => format!("rows of {ranges}"),
            (Self::Time(ranges), Grouping::Aligned(_)) => {
                format!("windows that end after the first instant of {ranges}, and by the last")
            }
            (Self::Time(ranges), Grouping::Sessions { .. }) => {
                format!("sessions with a row in {ranges}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::runs::asked_range::SelectedRows;
    use crate::core::runs::time_range::TimeRange;

    fn range(from: i64, to: i64) -> TimeRange {
        TimeRange::try_new(from, to).unwrap()
    }

    const SESSIONS: Grouping = Grouping::Sessions { gap: 10 };

    #[test]
    fn what_is_emitted_follows_from_the_range_and_the_job() {
        let selection = OffsetSet::of([("t".to_owned(), 0, 3..5)]);
        let rows = SelectedRows {
            query: "q".to_owned(),
            offsets: selection.clone(),
        };
        let by_rows = AskedRange {
            rows: Some(rows),
            ..AskedRange::default()
        };
        let by_time = AskedRange {
            time: Some(range(0, 50)),
            ..AskedRange::default()
        };
        let by_both = AskedRange {
            time: by_time.time,
            ..by_rows.clone()
        };
        let offsets = Emission::of(&by_rows, Grouping::Rows, Some(&selection), &[]);
        assert_eq!(offsets.unwrap(), Emission::Offsets(selection.clone()));
        let time = Emission::of(&by_both, Grouping::Rows, Some(&selection), &[]);
        assert_eq!(time.unwrap(), Emission::Time(range(0, 50).into()));
        let time = Emission::of(&by_time, SESSIONS, None, &[]).unwrap();
        assert_eq!(time, Emission::Time(range(0, 50).into()));
        // A late row at 70 is not in the range of time that is asked for as well.
        let groups = Emission::of(&by_both, SESSIONS, Some(&selection), &[20, 70]).unwrap();
        assert_eq!(groups, Emission::Time(range(20, 31).into()));
        let none = Emission::of(&by_both, SESSIONS, Some(&selection), &[70]).unwrap();
        assert!(none.is_empty());
        assert!(Emission::of(&AskedRange::default(), SESSIONS, None, &[]).is_err());
    }

    #[test]
    fn ranges_are_shown_as_read_and_as_emitted() {
        let emission = Emission::Time(range(0, 20_000_000).into());
        let sessions = Grouping::Sessions { gap: 10_000_000 };
        let read = emission.read_text(sessions);
        assert_eq!(
            read,
            "event time 1969-12-31T23:59:50Z to 1970-01-01T00:00:30Z, and further while a session goes on"
        );
        assert_eq!(
            emission.emitted_text(sessions),
            "sessions with a row in 1970-01-01T00:00:00Z to 1970-01-01T00:00:20Z"
        );
    }
}
