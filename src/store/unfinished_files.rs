//! Unfinished local files, left by a writer that was ended: their names and places.
//!
//! The data directory and the writer of local Delta tables write each file first beside its place, under its name with `#` and
//! a number appended, and give it its own name when it is whole. Such files appear in no listing of a store.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// After so long an unfinished file has no writer any more.
pub(crate) const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// The unfinished files in a folder and its subfolders that were not written to for `age`. Links are not followed, and folders
/// that cannot be read are skipped. Blocks.
pub(crate) fn unfinished_files(folder: &Path, age: Duration) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let written = metadata.modified().ok().and_then(|at| at.elapsed().ok());
            let is_old = written.is_some_and(|written| written >= age);
            if is_old && entry.file_name().to_str().is_some_and(is_unfinished) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Whether a file has the name of an unfinished one.
fn is_unfinished(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}
