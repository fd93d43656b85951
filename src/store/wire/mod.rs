//! What stands in the JSON files of jobs, and how formats are told apart. These types are written and read and nothing else: the
//! structs that the code works with may change without a file that changes with them.
//!
//! Each file names its format in the member `format`. This program writes [`FORMAT`] and reads all formats from 1 on. A file of a
//! newer format is refused by its number, and so is a member that the format does not have: it may say what must not be ignored.
//! Entries of format 1 did not name their format.

mod checkpoint;
mod entry;
mod parts;
mod version;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::checksum::unsealed;
use crate::error::Error;

pub(super) use checkpoint::{checkpoint_bytes, read_checkpoint};
pub(super) use entry::{StoredEntry, entry_bytes, read_entry};
pub(super) use parts::DeadLetterFile;
pub(super) use version::{read_version, version_bytes};

/// The format this program writes and the newest it reads.
pub(super) const FORMAT: u32 = 2;

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Its format is newer than [`FORMAT`].
    Newer(u32),
    /// Its bytes are not those of any format, for this reason.
    Damaged(String),
}

impl Unreadable {
    /// The same of the file at `path`, for the user.
    pub(super) fn of_file(self, path: &str, shown: &str) -> Error {
        match self {
            Self::Newer(_) => Error::unsupported(format!("{path} {self}"))
                .with_help("run the job with that program, or a newer one"),
            Self::Damaged(reason) => Error::data(format!(
                "{path} in the data directory '{shown}' cannot be read: {reason}"
            ))
            .with_help("restore the file from a backup of the data directory, or drop the job and make it anew"),
        }
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newer(format) => write!(
                f,
                "was written by a newer program (format {format}; this program reads formats 1 to {FORMAT})"
            ),
            Self::Damaged(reason) => f.write_str(reason),
        }
    }
}

/// The format that a file names; its other members are not looked at.
#[derive(Debug, Deserialize)]
struct Named {
    #[serde(default)]
    format: Option<u32>,
}

/// The JSON of a file, its checksum checked and taken off, and its format.
fn opened(bytes: &[u8]) -> Result<(std::borrow::Cow<'_, [u8]>, u32), Unreadable> {
    let json = unsealed(bytes).map_err(Unreadable::Damaged)?;
    let named: Named = serde_json::from_slice(&json).map_err(damaged)?;
    match named.format.unwrap_or(1) {
        0 => Err(Unreadable::Damaged("it names format 0".to_owned())),
        newer if newer > FORMAT => Err(Unreadable::Newer(newer)),
        format => Ok((json, format)),
    }
}

/// A value of this format.
fn parsed<T: DeserializeOwned>(json: &[u8], format: u32) -> Result<T, Unreadable> {
    serde_json::from_slice(json).map_err(|error| not_of_format(format, &error))
}

fn damaged(error: serde_json::Error) -> Unreadable {
    Unreadable::Damaged(error.to_string())
}

fn not_of_format(format: u32, error: &serde_json::Error) -> Unreadable {
    Unreadable::Damaged(format!("it is not of format {format}: {error}"))
}

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
    fn format_2_is_written_as_it_always_was() {
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
    fn both_formats_say_the_same() {
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
