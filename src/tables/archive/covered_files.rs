//! The offsets of the files of archives that were read for them: files never change, so the sessions of a process keep what they have.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::archive::{OffsetRanges, add_rows};

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
    of_archive: HashMap<String, HashMap<String, Arc<FileOffsets>>>,
    /// How many files and ranges they are.
    size: usize,
}

impl CoveredFiles {
    /// What the file of an archive at this path has, if it was read.
    pub(super) fn get(&self, archive: &str, path: &str) -> Option<Arc<FileOffsets>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.of_archive.get(archive)?.get(path).cloned()
    }

    /// Keeps what files of an archive have.
    pub(super) fn put(&self, archive: &str, files: ReadFiles) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.size.saturating_add(files.size) > MOST {
            *kept = KeptFiles::default();
        }
        kept.size = kept.size.saturating_add(files.size);
        let of_archive = kept.of_archive.entry(archive.to_owned()).or_default();
        let files = files.by_path.into_iter();
        of_archive.extend(files.map(|(path, offsets)| (path, Arc::new(offsets))));
    }
}

/// The offsets of files that are being read.
#[derive(Debug, Default)]
pub(super) struct ReadFiles {
    by_path: HashMap<String, FileOffsets>,
    /// How many files and ranges they are.
    size: usize,
}

impl ReadFiles {
    /// Begins with a file, of which no row may be a record of the topic.
    pub(super) fn begin(&mut self, path: &str) {
        self.by_path.insert(path.to_owned(), FileOffsets::new());
        self.size += 1;
    }

    /// Adds rows of a file. Nothing is added to one that was not begun, or if all together are more than can be kept.
    pub(super) fn add(&mut self, path: &str, partitions: &[i32], offsets: &[i64]) {
        let Some(file) = self.by_path.get_mut(path) else {
            return;
        };
        let before = ranges(file);
        add_rows(file, partitions, offsets);
        self.size = (self.size + ranges(file)).saturating_sub(before);
        if self.size > MOST {
            *self = Self::default();
        }
    }

    /// How many files and ranges they are.
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

fn ranges(file: &FileOffsets) -> usize {
    file.values().map(OffsetRanges::len).sum()
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
            read.add(path, &[*partition], &[*offset]);
        }
        read
    }

    #[test]
    fn files_are_kept_by_archive_and_path_until_they_are_too_many() {
        let kept = CoveredFiles::default();
        let read = file("f", &[(0, 3), (1, 7), (0, 4), (0, 9)], 0);
        assert_eq!(read.size(), 4);
        kept.put("a", read);
        kept.put("a", file("none", &[], 0));
        let found = kept.get("a", "f").unwrap();
        let of_first: Vec<OffsetRange> = found[&0].ranges().collect();
        assert_eq!(of_first, [OffsetRange::new(3, 5), OffsetRange::new(9, 10)]);
        assert_eq!(found[&1].count(), 1);
        assert!(kept.get("a", "none").unwrap().is_empty());
        assert!(kept.get("b", "f").is_none() && kept.get("a", "g").is_none());

        kept.put("b", file("g", &[(0, 1)], MOST - 2));
        assert!(kept.get("a", "f").is_none(), "all were forgotten");
        assert!(kept.get("b", "g").is_some());
        // More in one read than can be kept.
        let too_many = file("h", &[(0, 1), (0, 3), (0, 5)], MOST - 3);
        assert_eq!(too_many.size(), 0);
        kept.put("b", too_many);
        assert!(kept.get("b", "h").is_none() && kept.get("b", "g").is_some());
    }
}
