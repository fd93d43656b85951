//! Files of a Delta table that a batch reads (LOSS-1), when the table is read as a stream of added files.
//!
//! A place in the stream is a version of the table and a file in it, encoded as one offset. So a source of files is continued,
//! rewound and shown in the same way as a partition of a topic.

/// More files than a version has.
const FILES: i64 = 1_000_000_000;
/// Offset of the first file in the version that a job begins with: there the files are all that the table has at that version.
const FIRST_OF_ALL: i64 = FILES / 2;

/// A place in a table's stream: before a file of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePosition {
    /// The version.
    pub version: u64,
    /// True if `file` counts all files that the table had at the version; false if it counts those that the version added.
    pub of_all: bool,
    /// How many files of the version lie before this place.
    pub file: u64,
}

impl FilePosition {
    /// Before the first file that a version adds.
    pub fn start_of(version: u64) -> Self {
        Self {
            version,
            of_all: false,
            file: 0,
        }
    }

    /// Before all that the table has at a version.
    pub fn start_of_all(version: u64) -> Self {
        Self {
            of_all: true,
            ..Self::start_of(version)
        }
    }

    /// The place of a later file of the same version.
    #[must_use]
    pub fn after(self, files: u64) -> Self {
        Self {
            file: self.file + files,
            ..self
        }
    }

    /// The place as an offset: the version times 1,000,000,000, plus the file; of the files that there were at the start, plus
    /// 500,000,000.
    pub fn offset(self) -> i64 {
        let version = i64::try_from(self.version).unwrap_or(i64::MAX);
        let file = i64::try_from(self.file).unwrap_or(i64::MAX);
        let first = if self.of_all { FIRST_OF_ALL } else { 0 };
        version
            .saturating_mul(FILES)
            .saturating_add(first)
            .saturating_add(file.min(FIRST_OF_ALL - 1))
    }

    /// The place that an offset is.
    pub fn of_offset(offset: i64) -> Self {
        let (version, file) = (offset.div_euclid(FILES), offset.rem_euclid(FILES));
        let of_all = file >= FIRST_OF_ALL;
        let file = if of_all { file - FIRST_OF_ALL } else { file };
        Self {
            version: version.unsigned_abs(),
            of_all,
            file: file.unsigned_abs(),
        }
    }
}

/// How many of the next files a batch of about `max_rows` rows reads, by the row counts in their metadata: at least one, if
/// there is one.
pub fn choose_files(rows: impl IntoIterator<Item = Option<u64>>, max_rows: u64) -> usize {
    /// Assumed for a file without a row count.
    const ROWS: u64 = 100_000;
    let mut total = 0_u64;
    let fits = rows.into_iter().enumerate().take_while(|(index, rows)| {
        total = total.saturating_add(rows.unwrap_or(ROWS));
        *index == 0 || total <= max_rows
    });
    fits.count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_has_at_least_one_file() {
        let rows = [Some(10), Some(20), None, Some(1)];
        assert_eq!(choose_files(rows, 1), 1);
        assert_eq!(choose_files(rows, 30), 2);
        assert_eq!(choose_files(rows, 99_999), 2);
        assert_eq!(choose_files(rows, 200_000), 4);
        assert_eq!(choose_files([], 5), 0);
    }

    fn places() -> impl Strategy<Value = FilePosition> {
        (0_u64..5_000_000_000, any::<bool>(), 0_u64..499_999_999).prop_map(
            |(version, of_all, file)| FilePosition {
                version,
                of_all,
                file,
            },
        )
    }

    proptest! {
        #[test]
        fn offsets_and_file_positions_have_the_same_order(a in places(), b in places()) {
            prop_assert_eq!(FilePosition::of_offset(a.offset()), a);
            prop_assert_eq!(a.cmp(&b), a.offset().cmp(&b.offset()));
        }
    }
}
