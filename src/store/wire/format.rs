//! The formats of files: the one that a file names, and why a file is not read.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::store::checksum::unsealed;

/// The format this program writes and the newest it reads.
pub(in crate::store) const FORMAT: u32 = 2;

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum UnreadableFile {
    /// Its format is newer than [`FORMAT`].
    Newer(u32),
    /// Its bytes are not those of any format, for this reason.
    Damaged(String),
}

impl UnreadableFile {
    /// The same of the file at `path`, for the user.
    pub(in crate::store) fn of_file(self, path: &str, shown: &str) -> Error {
        match self {
            Self::Newer(_) => Error::unsupported(format!("{path} {self}"))
                .with_help("run the job with that program, or a newer one"),
            Self::Damaged(reason) => Error::data(format!(
                "{path} in the data directory '{shown}' cannot be read: {reason}"
            ))
            .with_help("restore the file from a backup of the data directory, or drop the job and create it again"),
        }
    }
}

impl std::fmt::Display for UnreadableFile {
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
pub(super) fn opened(bytes: &[u8]) -> Result<(Cow<'_, [u8]>, u32), UnreadableFile> {
    let json = unsealed(bytes).map_err(UnreadableFile::Damaged)?;
    let named: Named = serde_json::from_slice(&json).map_err(damaged)?;
    match named.format.unwrap_or(1) {
        0 => Err(UnreadableFile::Damaged("it names format 0".to_owned())),
        newer if newer > FORMAT => Err(UnreadableFile::Newer(newer)),
        format => Ok((json, format)),
    }
}

/// A value of this format.
pub(super) fn parsed<T: DeserializeOwned>(json: &[u8], format: u32) -> Result<T, UnreadableFile> {
    serde_json::from_slice(json).map_err(|error| not_of_format(format, &error))
}

fn damaged(error: serde_json::Error) -> UnreadableFile {
    UnreadableFile::Damaged(error.to_string())
}

/// The error for a file that names this format and is not of it, for this reason.
pub(in crate::store) fn not_of_format(
    format: u32,
    reason: &dyn std::fmt::Display,
) -> UnreadableFile {
    UnreadableFile::Damaged(format!("it is not of format {format}: {reason}"))
}
