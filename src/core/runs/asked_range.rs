//! The range that a statement asks to reprocess, and the mistakes that one may have.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::offset_set::OffsetSet;
use super::time_range::TimeRange;
use crate::core::jobs::named_offsets::{NamedOffset, NamedOffsets};
use crate::error::{Error, Result};

/// The most ranges of offsets that a query of `FOR` may select.
pub const MOST_SELECTED_RANGES: usize = 100_000;

/// The most ranges of offsets that a run leaves out because their rows were late.
pub const MOST_LEFT_OUT_RANGES: usize = 1_000_000;

/// `OFFSETS FROM … TO …`, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetBounds {
    /// The first offsets.
    pub from: NamedOffsets,
    /// The offsets after the last ones.
    pub to: NamedOffsets,
}

/// `FOR (SELECT …)`: the rows with these coordinates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedRows {
    /// The query, as it was written.
    pub query: String,
    /// What it gave.
    pub offsets: OffsetSet,
}

/// What a statement asks to reprocess: the rows that are in each of the ranges that it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AskedRange {
    /// `FROM … TO …`: by event time.
    pub time: Option<TimeRange>,
    /// By offsets.
    pub offsets: Option<OffsetBounds>,
    /// By the keys of rows.
    pub rows: Option<SelectedRows>,
}

impl AskedRange {
    /// Refuses the mistakes that show without reading a table. `sources` are the tables that the job reads and that have an archive.
    ///
    /// # Errors
    ///
    /// No range at all; a table that the job does not read; bounds that leave nothing, or that no partition has; more rows than a
    /// query of `FOR` may select.
    pub fn check(&self, sources: &[&str]) -> Result<()> {
        if self.time.is_none() && self.offsets.is_none() && self.rows.is_none() {
            return Err(Error::invalid("the run has no range")
                .with_help("write FROM … TO …, OFFSETS FROM … TO …, or FOR (SELECT …)"));
        }
        let offsets = self.offsets.iter();
        let named = offsets.flat_map(|bounds| bounds.from.keys().chain(bounds.to.keys()));
        let selected = self.rows.iter().flat_map(|rows| rows.offsets.tables());
        let unknown = named
            .map(String::as_str)
            .chain(selected)
            .find(|table| !sources.contains(table));
        if let Some(table) = unknown {
            return Err(Error::invalid(format!(
                "offsets of '{table}', which is not a source of the job with an archive"
            ))
            .with_help(format!(
                "its sources with an archive: {}",
                sources.join(", ")
            )));
        }
        if let Some(bounds) = &self.offsets {
            bounds.check()?;
        }
        if let Some(rows) = &self.rows
            && rows.offsets.range_count() > MOST_SELECTED_RANGES
        {
            return Err(Error::invalid(format!(
                "FOR selects rows in {} ranges of offsets, and a run has at most {MOST_SELECTED_RANGES}",
                rows.offsets.range_count()
            ))
            .with_help("name them by FROM … TO … or OFFSETS, or run twice"));
        }
        Ok(())
    }

    /// The offsets to which the run is restricted, with `ends` of all partitions: `start..end` by table and partition. None if only
    /// event time restricts it.
    ///
    /// # Errors
    ///
    /// Bounds beyond the partitions that there are.
    pub fn selection(&self, ends: &PartitionRanges) -> Result<Option<OffsetSet>> {
        let bounds = self.offsets.as_ref();
        let bounds = bounds.map(|bounds| bounds.resolve(ends)).transpose()?;
        Ok(match (bounds, &self.rows) {
            (Some(bounds), Some(rows)) => Some(bounds.intersection(&rows.offsets)),
            (Some(bounds), None) => Some(bounds),
            (None, rows) => rows.as_ref().map(|rows| rows.offsets.clone()),
        })
    }

    /// Whether another statement asks for the same. Two queries of `FOR` are the same by their text: what the first one gave stands,
    /// although it might give other rows now.
    pub fn is_same(&self, other: &Self) -> bool {
        let query = |of: &Self| of.rows.as_ref().map(|rows| rows.query.clone());
        self.time == other.time && self.offsets == other.offsets && query(self) == query(other)
    }
}

/// The offsets that there are, in archive and topic together: by table and partition.
pub type PartitionRanges = BTreeMap<String, BTreeMap<i32, Range<i64>>>;

impl OffsetBounds {
    /// Table, partition, start and end of each partition that is in both bounds.
    fn common(&self) -> impl Iterator<Item = (&str, i32, NamedOffset, NamedOffset)> {
        self.from.iter().flat_map(move |(table, starts)| {
            let ends = self.to.get(table);
            starts.iter().filter_map(move |(partition, start)| {
                let end = ends?.get(partition)?;
                Some((table.as_str(), *partition, *start, *end))
            })
        })
    }

    /// Refuses bounds that leave nothing, which shows without knowing the partitions.
    ///
    /// # Errors
    ///
    /// No partition is in both bounds; one of them ends where it begins, or before.
    pub fn check(&self) -> Result<()> {
        let mut has_common = false;
        for (table, partition, start, end) in self.common() {
            has_common = true;
            let place = format!("partition {partition} of '{table}'");
            if end == NamedOffset::First {
                return Err(Error::invalid(format!(
                    "TO is {} (earliest) for {place}, where nothing ends",
                    end.number()
                ))
                .with_help("-1 is the end of the partition"));
            }
            if let (NamedOffset::At(start), NamedOffset::At(end)) = (start, end)
                && start >= end
            {
                return Err(Error::invalid(format!(
                    "FROM ({start}) is not before TO ({end}) for {place}"
                ))
                .with_help("the offsets begin with FROM and end before TO"));
            }
        }
        match has_common {
            true => Ok(()),
            false => Err(
                Error::invalid("no partition is in both FROM and TO of OFFSETS")
                    .with_help(r#"write {"table":{"0":23}} and {"table":{"0":99}}"#),
            ),
        }
    }

    /// The offsets between the bounds; a partition that is not in both has none.
    fn resolve(&self, ends: &PartitionRanges) -> Result<OffsetSet> {
        let mut ranges = Vec::new();
        for (table, partition, start, end) in self.common() {
            let Some(found) = ends.get(table).and_then(|of| of.get(&partition)) else {
                return Err(Error::invalid(format!(
                    "'{table}' has no partition {partition}"
                )));
            };
            let resolved = |bound: NamedOffset| match bound {
                NamedOffset::First => found.start,
                NamedOffset::End => found.end,
                NamedOffset::At(offset) => offset,
            };
            let (start, end) = (resolved(start), resolved(end));
            if start < found.start || end > found.end {
                return Err(Error::invalid(format!(
                    "offsets {start} to {end} of partition {partition} of '{table}' are not all there: it has {} to {}",
                    found.start, found.end
                ))
                .with_help("-2 is the earliest offset that there is, -1 the end"));
            }
            ranges.push((table.to_owned(), partition, start..end));
        }
        Ok(OffsetSet::of(ranges))
    }
}

impl fmt::Display for AskedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(time) = self.time {
            parts.push(format!("event time {time}"));
        }
        if let Some(bounds) = &self.offsets {
            parts.push(format!("offsets {bounds}"));
        }
        if let Some(rows) = &self.rows {
            let (count, tables) = (rows.offsets.len(), rows.offsets.tables());
            let tables: Vec<&str> = tables.collect();
            parts.push(format!("{count} rows of {}", tables.join(", ")));
        }
        f.write_str(&parts.join("; "))
    }
}

impl fmt::Display for OffsetBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |(table, partition, start, end): (&str, i32, NamedOffset, NamedOffset)| {
            let (start, end) = (offset_text(start), offset_text(end));
            format!("{table} {partition}: {start} to {end}")
        };
        let parts: Vec<String> = self.common().map(part).collect();
        f.write_str(&parts.join(", "))
    }
}

fn offset_text(offset: NamedOffset) -> String {
    match offset {
        NamedOffset::First => "earliest".to_owned(),
        NamedOffset::End => "end".to_owned(),
        NamedOffset::At(offset) => offset.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn offsets(table: &str, of: &[(i32, i64)]) -> NamedOffsets {
        let named = of.iter().map(|(partition, number)| {
            let offset = NamedOffset::of_number(*number).unwrap();
            (*partition, offset)
        });
        [(table.to_owned(), named.collect())].into()
    }

    fn by_offsets(from: NamedOffsets, to: NamedOffsets) -> AskedRange {
        AskedRange {
            offsets: Some(OffsetBounds { from, to }),
            ..AskedRange::default()
        }
    }

    fn rows(query: &str, ranges: &[(i32, i64, i64)]) -> SelectedRows {
        let ranges = ranges.iter().copied();
        let ranges = ranges.map(|(partition, from, to)| ("t".to_owned(), partition, from..to));
        SelectedRows {
            query: query.to_owned(),
            offsets: OffsetSet::of(ranges),
        }
    }

    #[test]
    fn mistakes_are_named() {
        let t = |of: &[(i32, i64)]| offsets("t", of);
        for (asked, expected) in [
            (AskedRange::default(), "no range"),
            (
                by_offsets(offsets("u", &[(0, 1)]), offsets("u", &[(0, 2)])),
                "offsets of 'u'",
            ),
            (by_offsets(t(&[(0, 1)]), t(&[(1, 2)])), "no partition"),
            (by_offsets(t(&[(0, 2)]), t(&[(0, 2)])), "FROM (2) is not"),
            (by_offsets(t(&[(0, 2)]), t(&[(0, -2)])), "nothing ends"),
        ] {
            let error = asked.check(&["t"]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(expected), "{error}");
        }
        let many = (0..=MOST_SELECTED_RANGES as i64).map(|at| (0, at * 2, at * 2 + 1));
        let asked = AskedRange {
            rows: Some(rows("q", &many.collect::<Vec<_>>())),
            ..AskedRange::default()
        };
        let error = asked.check(&["t"]).unwrap_err();
        assert!(error.message().contains("100001 ranges"), "{error}");
    }

    #[test]
    fn offsets_are_those_that_there_are() {
        let ends: PartitionRanges = [("t".to_owned(), [(0, 10..90), (1, 0..5)].into())].into();
        let all = by_offsets(
            offsets("t", &[(0, -2), (1, 2)]),
            offsets("t", &[(0, -1), (1, -1)]),
        );
        assert!(all.check(&["t"]).is_ok());
        let found = all.selection(&ends).unwrap().unwrap();
        assert_eq!(found.to_string(), "t 0: 10 to 90, t 1: 2 to 5");
        // All ranges of a statement restrict it.
        let both = AskedRange {
            rows: Some(rows("q", &[(0, 5, 12), (1, 4, 9)])),
            ..all.clone()
        };
        let found = both.selection(&ends).unwrap().unwrap();
        assert_eq!(found.to_string(), "t 0: 10 to 12, t 1: 4 to 5");
        for (from, to) in [
            (&[(0, 9)], &[(0, 20)]),
            (&[(0, 10)], &[(0, 91)]),
            (&[(7, 0)], &[(7, 1)]),
        ] {
            let wrong = by_offsets(offsets("t", from), offsets("t", to));
            let error = wrong.selection(&ends).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{from:?} {to:?}");
        }
        assert_eq!(AskedRange::default().selection(&ends).unwrap(), None);
    }

    #[test]
    fn the_same_query_asks_for_the_rows_that_it_gave_first() {
        let asked = |rows| AskedRange {
            time: TimeRange::try_new(0, 10),
            rows: Some(rows),
            ..AskedRange::default()
        };
        let first = asked(rows("q", &[(0, 5, 12)]));
        assert!(first.is_same(&asked(rows("q", &[(0, 5, 20)]))));
        assert!(!first.is_same(&asked(rows("p", &[(0, 5, 12)]))));
        let other = AskedRange {
            time: TimeRange::try_new(0, 11),
            ..first.clone()
        };
        assert!(!first.is_same(&other));
    }

    #[test]
    fn a_range_is_shown_as_it_was_asked() {
        let asked = AskedRange {
            time: TimeRange::try_new(0, 1_000_000),
            rows: Some(rows("q", &[(0, 5, 12)])),
            ..by_offsets(offsets("t", &[(0, -2)]), offsets("t", &[(0, 99)]))
        };
        assert_eq!(
            asked.to_string(),
            "event time 1970-01-01T00:00:00Z to 1970-01-01T00:00:01Z; offsets t 0: earliest to 99; 7 rows of t"
        );
    }
}
