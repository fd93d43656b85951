//! Which results the rows of a sink are, by the columns that have the window's start and end: which of them a chunk of a run would have
//! given again, and which are gone if it has not.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use anabranch_udfs::WindowKind;
use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array, RecordBatch};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

use super::chunks::Chunk;
use super::finality::Finality;
use super::grouping::Grouping;
use super::time_range::{TimeRange, TimeRanges};

/// How much later than the sessions of a chunk one may end that was published in their place, in microseconds.
const LATER: i64 = 3_600_000_000;

/// The columns of a sink that say which result a row is, by their places.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultColumns {
    /// Those of the key.
    pub keys: Vec<usize>,
    /// The start of the window or session, or the event time of a job that groups no rows; none if no column is just that.
    pub start: Option<usize>,
    /// The end of the window or session.
    pub end: Option<usize>,
}

/// The times of results, in microseconds since 1970 UTC, as far as the columns of the sink say them.
#[derive(Debug, Clone)]
pub struct ResultTimes {
    grouping: Grouping,
    start: Option<Int64Array>,
    end: Option<Int64Array>,
}

impl ResultColumns {
    /// The columns of these names among those of a sink.
    pub fn named(
        schema: &SchemaRef,
        keys: Vec<usize>,
        start: Option<&str>,
        end: Option<&str>,
    ) -> Self {
        let place = |name: Option<&str>| schema.index_of(name?).ok();
        Self {
            keys,
            start: place(start),
            end: place(end),
        }
    }

    /// The columns of the key that do not say the window.
    fn groups(&self) -> Vec<usize> {
        let keys = self.keys.iter().copied();
        keys.filter(|at| Some(*at) != self.start && Some(*at) != self.end)
            .collect()
    }

    /// The column of the time by which an index of published rows knows a result, and how much later than the column says that is; none if
    /// no column tells it ([`ResultTimes::known_by`]).
    pub fn known_by(&self, grouping: Grouping) -> Option<(usize, i64)> {
        match (grouping, self.start, self.end) {
            (Grouping::Rows, start, _) => start.map(|start| (start, 0)),
            (Grouping::Aligned(_) | Grouping::Sessions { .. }, _, Some(end)) => Some((end, 0)),
            (Grouping::Aligned(windows), Some(start), None)
                if windows.kind() != WindowKind::Cumulate =>
            {
                Some((start, windows.size()))
            }
            _ => None,
        }
    }

    /// The times of rows of the sink.
    ///
    /// # Errors
    ///
    /// A time that is out of range.
    pub fn times(&self, rows: &RecordBatch, grouping: Grouping) -> Result<ResultTimes, ArrowError> {
        let column = |at: Option<usize>| {
            let column = at.and_then(|at| rows.columns().get(at));
            column.map_or(Ok(None), instants)
        };
        let (start, end) = (column(self.start)?, column(self.end)?);
        let by_start = |start: &Int64Array| match grouping {
            Grouping::Aligned(windows) if windows.kind() != WindowKind::Cumulate => {
                let end = |start: i64| start.checked_add(windows.size());
                Some(start.unary_opt::<_, Int64Type>(end))
            }
            _ => None,
        };
        let end = end.or_else(|| start.as_ref().and_then(by_start));
        Ok(ResultTimes {
            grouping,
            start,
            end,
        })
    }
}

/// A column of times in microseconds; none if it has no times.
fn instants(column: &ArrayRef) -> Result<Option<Int64Array>, ArrowError> {
    let DataType::Timestamp(_, zone) = column.data_type() else {
        return Ok(None);
    };
    let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
    let micros = cast(&cast(column, &micros)?, &DataType::Int64)?;
    Ok(Some(micros.as_primitive::<Int64Type>().clone()))
}

fn value(of: Option<&Int64Array>, row: usize) -> Option<i64> {
    let of = of.filter(|of| of.is_valid(row))?;
    Some(of.value(row))
}

impl ResultTimes {
    fn start(&self, row: usize) -> Option<i64> {
        value(self.start.as_ref(), row)
    }

    /// The time by which an index of published rows knows a result: its end, or the event time of a row without a group.
    pub fn known_by(&self, row: usize) -> Option<i64> {
        match self.grouping {
            Grouping::Rows => self.start(row),
            Grouping::Aligned(_) | Grouping::Sessions { .. } => value(self.end.as_ref(), row),
        }
    }

    /// The times by which an index of published rows knows the results of a chunk over `range`, and those that were published in their
    /// place; all times of a chunk of offsets. These are the computed results.
    pub fn ends_of(&self, range: Option<TimeRange>) -> RangeInclusive<i64> {
        let Some(range) = range else {
            return i64::MIN..=i64::MAX;
        };
        let (from, to) = (range.from(), range.to());
        match self.grouping {
            Grouping::Rows => from..=to,
            Grouping::Aligned(_) => from.saturating_add(1)..=to,
            Grouping::Sessions { gap } => {
                let Some(ends) = &self.end else {
                    return from..=i64::MAX;
                };
                let first = self
                    .start
                    .as_ref()
                    .and_then(min)
                    .map_or(from, |at| at.min(from));
                let last = max(ends).map_or(to, |end| end.max(to));
                first..=last.saturating_add(gap.max(LATER))
            }
        }
    }

    /// Whether the chunk gives the result of this row, if the job gives it at all. False if the row does not tell.
    fn is_of(&self, row: usize, chunk: &Chunk, finality: Finality) -> bool {
        let range = chunk.range;
        let end = value(self.end.as_ref(), row);
        match self.grouping {
            Grouping::Rows => self.start(row).is_some_and(|time| range.contains(time)),
            Grouping::Aligned(_) => end.is_some_and(|end| {
                range.from() < end && end <= range.to() && finality.is_final(end)
            }),
            Grouping::Sessions { gap } => {
                let (Some(start), Some(end)) = (self.start(row), end) else {
                    return false;
                };
                let last = end.saturating_sub(gap);
                if !finality.is_final(end) || start >= range.to() || last < range.from() {
                    return false;
                }
                // A session that began before the range and goes on behind it has a row in it if the range is as long as a gap.
                let has_row = range.contains(start)
                    || range.contains(last)
                    || range.to().saturating_sub(range.from()) >= gap;
                has_row && chunk.begun_from.is_none_or(|from| start >= from)
            }
        }
    }
}

/// Published rows and computed rows of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct BothRows<'a> {
    /// Rows of the sink, one by key.
    pub published: &'a RecordBatch,
    /// Rows that the chunk gives.
    pub computed: &'a RecordBatch,
}

/// What a chunk gives again.
#[derive(Debug, Clone, Copy)]
pub struct GivenAgain<'a> {
    /// The chunk; none of offsets.
    pub chunk: Option<&'a Chunk>,
    /// The instants whose results all chunks together give.
    pub emission: &'a TimeRanges,
    /// Which windows and sessions are final.
    pub finality: Finality,
    /// The run gives only the results of selected rows.
    pub is_selection: bool,
    /// The chunk has left sessions out that it would have given: what was published of them is not gone.
    pub has_left: bool,
}

impl ResultColumns {
    /// Those of the published rows at `without`, which no computed row has the key of, that are gone. So are those that the chunk would
    /// have given again, and the sessions whose rows a computed session of the same group has; a session that begins within the run is
    /// left to the chunk where it does.
    ///
    /// # Errors
    ///
    /// A type of a key that Arrow cannot compare; a time that is out of range.
    pub fn gone(
        &self,
        rows: BothRows<'_>,
        again: GivenAgain<'_>,
        grouping: Grouping,
        without: &[u64],
    ) -> Result<Vec<u64>, ArrowError> {
        let Some(chunk) = again.chunk else {
            return Ok(Vec::new());
        };
        let times = self.times(rows.published, grouping)?;
        let row = |at: u64| usize::try_from(at).ok();
        let is_there = |row: &usize| *row < rows.published.num_rows();
        let leaves_sessions = again.has_left && grouping.is_sessions();
        let is_whole = !again.is_selection && !leaves_sessions;
        let is_of = |at: u64| {
            let row = row(at).filter(is_there);
            is_whole && row.is_some_and(|row| times.is_of(row, chunk, again.finality))
        };
        let merged = match grouping {
            Grouping::Sessions { .. } => self.merged(rows, &times, without)?,
            Grouping::Rows | Grouping::Aligned(_) => HashSet::new(),
        };
        let is_left_to_other = |at: u64| {
            let start = row(at).and_then(|row| times.start(row));
            is_whole && start.is_some_and(|start| has(again.emission, start))
        };
        let is_gone = |at: &u64| is_of(*at) || (merged.contains(at) && !is_left_to_other(*at));
        Ok(without.iter().copied().filter(is_gone).collect())
    }

    /// The sessions at `without` whose rows a computed session of the same group has.
    fn merged(
        &self,
        rows: BothRows<'_>,
        published: &ResultTimes,
        without: &[u64],
    ) -> Result<HashSet<u64>, ArrowError> {
        let computed = self.times(rows.computed, published.grouping)?;
        let converter = self.converter(&rows.published.schema())?;
        let groups = self.group_keys(converter.as_ref(), rows.computed)?;
        let mut sessions: HashMap<Vec<u8>, Vec<(i64, i64)>> = HashMap::new();
        for row in 0..rows.computed.num_rows() {
            if let (Some(start), Some(end)) = (computed.start(row), computed.known_by(row)) {
                let of_group = sessions.entry(group_of(groups.as_ref(), row)).or_default();
                of_group.push((start, end));
            }
        }
        let groups = self.group_keys(converter.as_ref(), rows.published)?;
        let is_within = |at: &u64| {
            let row = usize::try_from(*at).unwrap_or(usize::MAX);
            if row >= rows.published.num_rows() {
                return false;
            }
            let (Some(start), Some(end)) = (published.start(row), published.known_by(row)) else {
                return false;
            };
            let of_group = sessions.get(&group_of(groups.as_ref(), row));
            let mut of_group = of_group.into_iter().flatten();
            of_group.any(|(from, to)| *from <= start && end <= *to)
        };
        Ok(without.iter().copied().filter(is_within).collect())
    }

    fn converter(&self, schema: &SchemaRef) -> Result<Option<RowConverter>, ArrowError> {
        let groups = self.groups();
        if groups.is_empty() {
            return Ok(None);
        }
        let fields = groups.iter().map(|at| {
            let field = schema.fields().get(*at);
            let field = field.ok_or_else(|| {
                ArrowError::SchemaError(format!("the key has column {at}, and the rows have not"))
            })?;
            Ok(SortField::new(field.data_type().clone()))
        });
        let fields: Result<Vec<SortField>, ArrowError> = fields.collect();
        RowConverter::new(fields?).map(Some)
    }

    fn group_keys(
        &self,
        converter: Option<&RowConverter>,
        rows: &RecordBatch,
    ) -> Result<Option<Rows>, ArrowError> {
        let Some(converter) = converter else {
            return Ok(None);
        };
        let columns = self.groups().into_iter();
        let columns: Vec<ArrayRef> = columns
            .filter_map(|at| rows.columns().get(at).map(Arc::clone))
            .collect();
        converter.convert_columns(&columns).map(Some)
    }
}

fn has(ranges: &TimeRanges, time: i64) -> bool {
    let ranges = ranges.as_slice();
    let at = ranges.partition_point(|range| range.to() <= time);
    ranges
        .get(at)
        .is_some_and(|range: &TimeRange| range.contains(time))
}

fn group_of(groups: Option<&Rows>, row: usize) -> Vec<u8> {
    groups.map_or_else(Vec::new, |groups| groups.row(row).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::AlignedWindows;
    use arrow::array::{StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::core::runs::chunks::Chunks;
    use crate::core::runs::time_range::TimeRange;

    /// Sessions or windows of users.
    type ResultRow = (&'static str, i64, i64);

    const NONE: [ResultRow; 0] = [];

    fn batch(of: &[ResultRow]) -> RecordBatch {
        let time = || DataType::Timestamp(TimeUnit::Microsecond, None);
        let schema = Schema::new(vec![
            Field::new("user", DataType::Utf8, true),
            Field::new("start", time(), true),
            Field::new("end", time(), true),
        ]);
        let times = |of: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(of)) as ArrayRef;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(of.iter().map(|row| row.0))),
            times(of.iter().map(|row| row.1).collect()),
            times(of.iter().map(|row| row.2).collect()),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn columns() -> ResultColumns {
        ResultColumns {
            keys: vec![0, 1],
            start: Some(1),
            end: Some(2),
        }
    }

    fn range(from: i64, to: i64) -> TimeRange {
        TimeRange::try_new(from, to).unwrap()
    }

    /// Those of the published rows that are gone if no computed row has their keys.
    fn gone(
        published: &[ResultRow],
        computed: &[ResultRow],
        (chunk, emission): (&Chunk, &TimeRanges),
        (watermark, is_selection, has_left): (i64, bool, bool),
    ) -> Vec<ResultRow> {
        let keys: Vec<_> = computed.iter().map(|row| (row.0, row.1)).collect();
        let without = (0..published.len()).filter(|at| {
            let row = published[*at];
            !keys.contains(&(row.0, row.1))
        });
        let without: Vec<u64> = without.map(|at| at as u64).collect();
        let again = GivenAgain {
            chunk: Some(chunk),
            emission,
            finality: Finality::new(chunk.grouping, Some(watermark)),
            is_selection,
            has_left,
        };
        let rows = BothRows {
            published: &batch(published),
            computed: &batch(computed),
        };
        let gone = columns().gone(rows, again, chunk.grouping, &without);
        let gone = gone.unwrap().into_iter();
        gone.map(|at| published[usize::try_from(at).unwrap()])
            .collect()
    }

    #[test]
    fn windows_of_the_chunk_are_gone_and_no_others() {
        let windows = AlignedWindows::try_new(WindowKind::Tumble, 10, 10, 0).unwrap();
        let grouping = Grouping::Aligned(windows);
        let emission = TimeRanges::from(range(10, 40));
        let chunks = Chunks::new(grouping, emission.clone());
        let chunk = chunks.next(None, 100).unwrap();
        let published = [
            ("a", 0, 10),
            ("a", 10, 20),
            ("b", 20, 30),
            ("b", 30, 40),
            ("b", 40, 50),
        ];
        let computed = [("a", 10, 20)];
        let of = |how| gone(&published, &computed, (&chunk, &emission), how);
        assert_eq!(of((35, false, false)), [("b", 20, 30)]);
        assert_eq!(of((35, true, false)), NONE);
        assert_eq!(of((99, false, true)), [("b", 20, 30), ("b", 30, 40)]);
        // The end follows from the start.
        let without_end = ResultColumns {
            end: None,
            ..columns()
        };
        let times = without_end.times(&batch(&published), grouping).unwrap();
        assert_eq!(times.known_by(2), Some(30));
        // It is the start, ten microseconds later.
        assert_eq!(without_end.known_by(grouping), Some((1, 10)));
        assert_eq!(columns().known_by(grouping), Some((2, 0)));
        assert_eq!(without_end.known_by(Grouping::Rows), Some((1, 0)));
        assert_eq!(without_end.known_by(Grouping::Sessions { gap: 5 }), None);
        assert_eq!(times.ends_of(Some(chunk.range)), 11..=40);
    }

    #[test]
    fn a_session_that_merged_is_gone() {
        let grouping = Grouping::Sessions { gap: 5 };
        let emission = TimeRanges::from(range(20, 40));
        let chunks = Chunks::new(grouping, emission.clone());
        let chunk = chunks.next(None, 100).unwrap();
        let published = [
            ("a", 10, 27),
            ("a", 28, 50),
            ("b", 30, 45),
            ("b", 50, 60),
            ("c", 0, 22),
            // It begins behind the range, and is a part of the session that is computed.
            ("a", 52, 60),
        ];
        let computed = [("a", 10, 60)];
        let of = |how| gone(&published, &computed, (&chunk, &emission), how);
        // The last row of "c" is before the range.
        let merged = [("a", 28, 50), ("a", 52, 60)];
        let all = [("a", 28, 50), ("b", 30, 45), ("a", 52, 60)];
        assert_eq!(of((99, false, false)), all);
        // Of "b" no row was selected, or its session was left out.
        assert_eq!(of((99, true, false)), merged);
        assert_eq!(of((99, false, true)), merged);
        let times = columns().times(&batch(&computed), grouping).unwrap();
        assert_eq!(times.ends_of(Some(chunk.range)), 10..=60 + LATER);
    }

    /// The oracle: the sessions of these rows, with their rows.
    fn sessions(rows: &[(usize, i64)], gap: i64) -> Vec<(ResultRow, Vec<i64>)> {
        const USERS: [&str; 2] = ["a", "b"];
        let mut found = Vec::new();
        for (number, user) in USERS.iter().enumerate() {
            let mut times: Vec<i64> = rows
                .iter()
                .filter(|row| row.0 == number)
                .map(|row| row.1)
                .collect();
            times.sort_unstable();
            for run in times.chunk_by(|one, next| next - one <= gap) {
                let (first, last) = (run[0], run[run.len() - 1]);
                found.push(((*user, first, last + gap), run.to_vec()));
            }
        }
        found
    }

    proptest! {
        /// A run that computes the published sessions takes none for gone; one that computes none takes each session with a row in
        /// its range for gone once, or not at all where the columns do not tell.
        #[test]
        fn a_published_session_is_given_again_by_one_chunk(
            rows in prop::collection::vec((0_usize..2, 0_i64..120), 0..30),
            (from, length) in (0_i64..100, 1_i64..80),
            step in 1_i64..30,
            gap in 1_i64..8,
        ) {
            let grouping = Grouping::Sessions { gap };
            let emission = TimeRanges::from(range(from, from + length));
            let chunks = Chunks::new(grouping, emission.clone());
            let all = sessions(&rows, gap);
            let published: Vec<ResultRow> = all.iter().map(|of| of.0).collect();
            let is_in = |rows: &[i64], range: TimeRange| rows.iter().any(|at| range.contains(*at));
            let (mut position, mut times_gone) = (None, vec![0; published.len()]);
            while let Some(chunk) = chunks.next(position, step) {
                position = Some(chunk.range.to());
                let given = all.iter().filter(|(session, rows)| {
                    is_in(rows, chunk.range) && chunk.gives(session.1, session.2)
                });
                let given: Vec<ResultRow> = given.map(|of| of.0).collect();
                prop_assert_eq!(gone(&published, &given, (&chunk, &emission), (999, false, false)), NONE);
                for session in gone(&published, &NONE, (&chunk, &emission), (999, false, false)) {
                    times_gone[published.iter().position(|of| *of == session).unwrap()] += 1;
                    prop_assert!(given.contains(&session));
                }
            }
            for ((session, rows), times) in all.iter().zip(times_gone) {
                let is_asked = is_in(rows, range(from, from + length));
                prop_assert!(times <= i32::from(is_asked), "{session:?} {times}");
                let is_clear = length >= gap || session.1 >= from || session.2 - gap < from + length;
                prop_assert!(!is_asked || !is_clear || times == 1, "{session:?} {times}");
            }
        }
    }
}
