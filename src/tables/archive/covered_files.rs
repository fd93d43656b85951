//! The offsets of the files of archives that were read for them: files never change, so the sessions of a process keep what they have.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::catalog::TableProvider;

use crate::core::archive::{FileSpans, OffsetRanges, OffsetSpan, add_rows};
use crate::error::Result;
use crate::tables::archive::mapping::ArchiveMapping;
use crate::tables::delta::table_key;

/// The most files and ranges of offsets that are kept; beyond them all are forgotten, and files are read again.
const MOST: usize = 500_000;

/// The offsets of a file, by partition.
pub(super) type FileOffsets = BTreeMap<i32, OffsetRanges>;

/// What is kept: an extension of the configuration of sessions.
#[derive(Debug, Default)]
pub struct CoveredFiles(Mutex<KeptFiles>);

#[derive(Debug, Default)]
struct KeptFiles {
    /// By archive, and by path.
    of_archive: HashMap<String, HashMap<String, KeptFile>>,
    /// How many files and ranges they are.
    size: usize,
}

/// What is kept of a file that was read.
#[derive(Debug, Clone)]
pub(super) struct KeptFile {
    /// What it has of each partition; none if a row lacks partition or offset.
    pub(super) spans: Option<Arc<FileSpans>>,
    /// All of its offsets; none if they are too many.
    pub(super) offsets: Option<Arc<FileOffsets>>,
}

impl KeptFile {
    fn size(&self) -> usize {
        let spans = self.spans.as_ref().map_or(0, |spans| spans.len());
        let offsets = self.offsets.as_ref().map(|offsets| ranges(offsets));
        1 + offsets.unwrap_or(spans)
    }
}

impl CoveredFiles {
    /// What the file of an archive at this path has, if it was read.
    pub(super) fn get(&self, archive: &str, path: &str) -> Option<KeptFile> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.of_archive.get(archive)?.get(path).cloned()
    }

    /// Keeps what files of an archive have, in the place of what was kept of them.
    pub(super) fn put(&self, archive: &str, files: ReadFiles) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced: usize = match kept.of_archive.get(archive) {
            Some(known) => {
                let paths = files.by_path.keys();
                let known = paths.filter_map(|path| known.get(path));
                known.map(KeptFile::size).sum()
            }
            None => 0,
        };
        if (kept.size + files.size).saturating_sub(replaced) > MOST {
            *kept = KeptFiles::default();
        }
        let KeptFiles { of_archive, size } = &mut *kept;
        let of_archive = of_archive.entry(archive.to_owned()).or_default();
        for (path, file) in files.by_path {
            let file = KeptFile {
                spans: file.is_complete.then(|| Arc::new(file.rows.spans)),
                offsets: file.has_offsets.then(|| Arc::new(file.rows.offsets)),
            };
            *size += file.size();
            if let Some(before) = of_archive.insert(path, file) {
                *size = size.saturating_sub(before.size());
            }
        }
    }
}

/// Names an archive and how its rows are records, for what is kept of its files.
///
/// # Errors
///
/// Another provider than that of a Delta table.
pub(super) fn archive_key(rows: &dyn TableProvider, mapping: &ArchiveMapping) -> Result<String> {
    let table = table_key(rows)?;
    let (partition, offset) = (&mapping.partition().name, &mapping.offset().name);
    let topic = mapping.topic();
    let topic = topic.map(|topic| (&topic.column.name, &topic.topic));
    Ok(format!("{table} {partition:?} {offset:?} {topic:?}"))
}

/// Rows of a file, by partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PlacedRows {
    /// Their first and last offsets, and how many they are.
    pub(super) spans: FileSpans,
    /// Their offsets.
    pub(super) offsets: FileOffsets,
}

impl PlacedRows {
    /// Row `i` has `offsets[i]` of `partitions[i]`.
    pub(super) fn of(partitions: &[i32], offsets: &[i64]) -> Self {
        let mut placed = Self::default();
        add_rows(&mut placed.offsets, partitions, offsets);
        let mut rows = partitions.iter().zip(offsets).peekable();
        while let Some((partition, offset)) = rows.next() {
            let mut run = OffsetSpan {
                first: *offset,
                last: *offset,
                rows: 1,
            };
            while let Some((_, offset)) = rows.next_if(|(next, _)| *next == partition) {
                run.first = run.first.min(*offset);
                run.last = run.last.max(*offset);
                run.rows += 1;
            }
            add_span(&mut placed.spans, *partition, run);
        }
        placed
    }
}

/// Adds what other rows have of each partition.
pub(super) fn add_spans(spans: &mut FileSpans, more: &FileSpans) {
    for (partition, span) in more {
        add_span(spans, *partition, *span);
    }
}

fn add_span(spans: &mut FileSpans, partition: i32, more: OffsetSpan) {
    spans
        .entry(partition)
        .and_modify(|known| *known = known.and(more))
        .or_insert(more);
}

/// Adds the offsets of other rows.
pub(super) fn add_offsets(offsets: &mut FileOffsets, more: &FileOffsets) {
    for (partition, ranges) in more {
        let of_partition = offsets.entry(*partition).or_default();
        of_partition.extend(ranges.ranges());
    }
}

fn ranges(offsets: &FileOffsets) -> usize {
    offsets.values().map(OffsetRanges::len).sum()
}

/// The offsets of files that are being read.
#[derive(Debug, Default)]
pub(super) struct ReadFiles {
    by_path: HashMap<String, ReadFile>,
    /// How many files and ranges they are.
    size: usize,
}

#[derive(Debug)]
struct ReadFile {
    rows: PlacedRows,
    /// Each row has partition and offset.
    is_complete: bool,
    /// There is room for all of its offsets.
    has_offsets: bool,
}

impl ReadFile {
    fn size(&self) -> usize {
        1 + match self.has_offsets {
            true => ranges(&self.rows.offsets),
            false => self.rows.spans.len(),
        }
    }
}

impl ReadFiles {
    /// Begins with a file, of which no row may be a record of the topic.
    pub(super) fn begin(&mut self, path: &str) {
        let file = ReadFile {
            rows: PlacedRows::default(),
            is_complete: true,
            has_offsets: true,
        };
        self.size += file.size();
        if let Some(before) = self.by_path.insert(path.to_owned(), file) {
            self.size = self.size.saturating_sub(before.size());
        }
    }

    /// Adds rows of a file; `is_complete` says that all of these have partition and offset. Nothing is added to a file that was not begun. If all
    /// together are more than can be kept, only first and last offsets are.
    pub(super) fn add(&mut self, path: &str, rows: &PlacedRows, is_complete: bool) {
        let Some(file) = self.by_path.get_mut(path) else {
            return;
        };
        let before = file.size();
        add_spans(&mut file.rows.spans, &rows.spans);
        if file.has_offsets {
            add_offsets(&mut file.rows.offsets, &rows.offsets);
        }
        file.is_complete &= is_complete;
        self.size = (self.size + file.size()).saturating_sub(before);
        if self.size > MOST {
            self.forget_offsets();
        }
    }

    fn forget_offsets(&mut self) {
        for file in self.by_path.values_mut() {
            file.rows.offsets = FileOffsets::new();
            file.has_offsets = false;
        }
        self.size = self.by_path.values().map(ReadFile::size).sum();
        if self.size > MOST {
            *self = Self::default();
        }
    }

    /// How many files and ranges they are.
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::archive::OffsetRange;

    /// A file with these rows, read together with files that make it so many.
    fn file(path: &str, rows: &[(i32, i64)], size: usize) -> ReadFiles {
        let mut read = ReadFiles {
            size,
            ..ReadFiles::default()
        };
        read.begin(path);
        for (partition, offset) in rows {
            read.add(path, &PlacedRows::of(&[*partition], &[*offset]), true);
        }
        read
    }

    fn size_of(kept: &CoveredFiles) -> usize {
        kept.0.lock().unwrap().size
    }

    #[test]
    fn files_are_kept_by_archive_and_path_until_they_are_too_many() {
        let kept = CoveredFiles::default();
        let read = file("f", &[(0, 3), (1, 7), (0, 4), (0, 9)], 0);
        assert_eq!(read.size(), 4);
        kept.put("a", read);
        kept.put("a", file("none", &[], 0));
        let found = kept.get("a", "f").unwrap();
        let (offsets, spans) = (found.offsets.unwrap(), found.spans.unwrap());
        let of_first: Vec<OffsetRange> = offsets[&0].ranges().collect();
        assert_eq!(of_first, [OffsetRange::new(3, 5), OffsetRange::new(9, 10)]);
        assert_eq!(offsets[&1].count(), 1);
        let span = |first, last, rows| OffsetSpan { first, last, rows };
        assert_eq!(*spans, [(0, span(3, 9, 3)), (1, span(7, 7, 1))].into());
        let none = kept.get("a", "none").unwrap();
        assert!(none.offsets.unwrap().is_empty() && none.spans.unwrap().is_empty());
        assert!(kept.get("b", "f").is_none() && kept.get("a", "g").is_none());

        kept.put("b", file("g", &[(0, 1)], MOST - 2));
        assert!(kept.get("a", "f").is_none(), "all were forgotten");
        assert!(kept.get("b", "g").is_some());
        // One read has more ranges than the cache takes: the cache keeps only the first and last offsets of its files.
        let too_many = file("h", &[(0, 1), (0, 3), (0, 5)], MOST - 3);
        assert_eq!(too_many.size(), 2);
        kept.put("b", too_many);
        let found = kept.get("b", "h").unwrap();
        assert!(found.offsets.is_none() && kept.get("b", "g").is_some());
        assert_eq!(*found.spans.unwrap(), [(0, span(1, 5, 3))].into());
    }

    #[test]
    fn a_file_that_is_put_again_is_counted_once() {
        let kept = CoveredFiles::default();
        for _ in 0..3 {
            kept.put("a", file("f", &[(0, 3), (0, 9)], 0));
            assert_eq!(size_of(&kept), 3);
        }
        kept.put("a", file("f", &[(0, 3)], 0));
        kept.put("b", file("f", &[(0, 3)], 0));
        assert_eq!(size_of(&kept), 4);
        // Also one that is begun again.
        let mut read = file("f", &[(0, 3), (0, 9)], 0);
        read.begin("f");
        assert_eq!(read.size(), 1);
    }

    /// A reader that needs partition and offset of each row reads the file again, and says what is wrong with it.
    #[test]
    fn a_file_with_rows_that_are_no_records_has_no_spans() {
        let kept = CoveredFiles::default();
        let mut read = file("f", &[(0, 3)], 0);
        read.add("f", &PlacedRows::of(&[0], &[4]), false);
        read.add("f", &PlacedRows::of(&[0], &[5]), true);
        kept.put("a", read);
        let found = kept.get("a", "f").unwrap();
        assert!(found.spans.is_none());
        assert_eq!(found.offsets.unwrap()[&0].count(), 3);
    }
}
