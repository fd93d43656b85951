//! What stands in the JSON files of jobs, and how formats are told apart. These types are written and read and nothing else: the
//! structs that the code works with may change without a file that changes with them.
//!
//! Each file names its format in the member `format`. This program writes [`FORMAT`] and reads all formats from 1 on. A file of a
//! newer format is refused by its number, and so is a member that the format does not have: it may say what must not be ignored.
//! Entries of format 1 did not name their format.

mod checkpoint;
mod entry;
mod format;
mod parts;
mod published;
mod run_event;
mod run_spec;
mod version;

pub(super) use checkpoint::{checkpoint_bytes, read_checkpoint};
pub(super) use entry::{StoredEntry, entry_bytes, read_entry};
pub(super) use format::{FORMAT, UnreadableFile, not_of_format};
pub(super) use parts::DeadLetterFile;
pub(super) use published::{published_bytes, read_published};
pub(super) use run_spec::{read_run_spec, run_spec_bytes};
pub(super) use version::{read_version, version_bytes};

#[cfg(test)]
pub(super) use published::tests::batches as published_fixture;

/// A version after it was written and read.
#[cfg(test)]
pub(crate) fn version_as_stored(
    version: &crate::core::jobs::BatchVersion,
) -> crate::core::jobs::BatchVersion {
    read_version(&version_bytes(version).unwrap()).unwrap()
}

/// The files of `tests/fixtures/jobs-format-2` are those of `jobs-format-1`, written in format 2, with a checkpoint and a dead letter.
#[cfg(test)]
mod fixture {
    use std::path::PathBuf;

    use super::*;

    /// The files in the folders of this name of all jobs.
    fn files(fixture: &str, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let jobs = format!(
            "{}/tests/fixtures/{fixture}/jobs",
            env!("CARGO_MANIFEST_DIR")
        );
        let mut found = Vec::new();
        for job in std::fs::read_dir(jobs).unwrap() {
            let Ok(files) = std::fs::read_dir(job.unwrap().path().join(folder)) else {
                continue;
            };
            let paths = files.map(|file| file.unwrap().path());
            found.extend(paths.map(|path| (path.clone(), std::fs::read(path).unwrap())));
        }
        found.sort_unstable();
        assert!(!found.is_empty(), "{fixture}: {folder}");
        found
    }

    /// Byte for byte: what this program writes is what the first program of format 2 wrote.
    #[test]
    fn format_2_is_byte_stable() {
        for (path, bytes) in files("jobs-format-2", "log") {
            let StoredEntry { entry, id } = read_entry(&bytes).unwrap();
            let again = entry_bytes(&entry, &id.unwrap()).unwrap();
            assert_eq!(again, bytes, "{}", path.display());
        }
        for (path, bytes) in files("jobs-format-2", "versions") {
            let again = version_bytes(&read_version(&bytes).unwrap()).unwrap();
            assert_eq!(again, bytes, "{}", path.display());
        }
        for (path, bytes) in files("jobs-format-2", "checkpoint") {
            let again = checkpoint_bytes(&read_checkpoint(&bytes, 9).unwrap()).unwrap();
            assert_eq!(again, bytes, "{}", path.display());
        }
    }

    #[test]
    fn both_formats_have_the_same_content() {
        let first = files("jobs-format-1", "log");
        for ((_, first), (_, second)) in first.iter().zip(files("jobs-format-2", "log")) {
            let (first, second) = (read_entry(first).unwrap(), read_entry(&second).unwrap());
            assert_eq!((first.id, first.entry), (None, second.entry));
        }
        let first = files("jobs-format-1", "versions");
        for ((_, first), (_, second)) in first.iter().zip(files("jobs-format-2", "versions")) {
            let (first, second) = (read_version(first).unwrap(), read_version(&second).unwrap());
            let names = |version: &crate::core::jobs::BatchVersion| -> Vec<String> {
                version
                    .state_files()
                    .map(|file| file.name.clone())
                    .collect()
            };
            assert_eq!(names(&first), names(&second));
            assert_eq!(first.operators.len(), 1);
            assert!(first.operators.keys().eq(second.operators.keys()));
            assert_eq!(
                (first.time, first.late_rows),
                (second.time, second.late_rows)
            );
        }
    }
}
