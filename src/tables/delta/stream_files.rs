//! The files of a batch while a table is read as a stream: the file of a row, and its place.

use std::collections::HashMap;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::UInt16Type;
use deltalake::logstore::object_store::path::Path;

use super::stream::FileRange;
use crate::core::jobs::FilePosition;
use crate::error::{Error, Result};

/// Names the file of a row while it is read.
pub(super) const FILE_COLUMN: &str = "__file";

/// Place and times of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileFacts {
    /// The offset of its place.
    pub(super) offset: i64,
    pub(super) version: u64,
    /// In milliseconds since 1970 UTC.
    pub(super) written: i64,
}

/// The files of a batch, found by the path that a scan gives.
#[derive(Debug)]
pub(super) struct FilesOfBatch {
    root: String,
    by_path: HashMap<String, FileFacts>,
    /// Versions before this one are read to their end.
    pub(super) end: u64,
}

impl FilesOfBatch {
    pub(super) fn try_new(range: &FileRange) -> Result<Self> {
        let mut by_path = HashMap::new();
        for file in range.groups.iter().flat_map(|group| &group.files) {
            let facts = FileFacts {
                offset: file.place.offset(),
                version: file.place.version,
                written: file.file.modified_at,
            };
            by_path.insert(file.file.path.clone(), facts);
        }
        let files: usize = range.groups.iter().map(|group| group.files.len()).sum();
        if by_path.len() != files {
            return Err(Error::internal("a batch reads a file twice"));
        }
        let mut root = range.newest.log_store().root_url().to_string();
        if !root.ends_with('/') {
            root.push('/');
        }
        Ok(Self {
            root,
            by_path,
            end: FilePosition::of_offset(range.end).version,
        })
    }

    /// The file of all rows of a batch.
    pub(super) fn of(&self, rows: &RecordBatch) -> Result<FileFacts> {
        let name = file_of(rows)?;
        self.find(name).ok_or_else(|| {
            Error::internal(format!("rows of a file that is not in the batch: {name}"))
        })
    }

    fn find(&self, url: &str) -> Option<FileFacts> {
        let facts = match url.strip_prefix(&self.root) {
            // As in the log: paths are encoded as parts of a URL.
            Some(path) => self
                .by_path
                .get(Path::from_url_path(path).ok()?.as_ref())
                .or_else(|| self.by_path.get(path)),
            None => self.by_path.get(url),
        };
        facts.copied()
    }

    /// The versions of its files.
    pub(super) fn versions(&self) -> impl Iterator<Item = u64> {
        self.by_path.values().map(|file| file.version)
    }
}

/// The URL of the file of all rows of a batch.
///
/// # Errors
///
/// Rows of several files, or without the column [`FILE_COLUMN`].
pub(super) fn file_of(rows: &RecordBatch) -> Result<&str> {
    let column = rows.column_by_name(FILE_COLUMN);
    let column = column.and_then(|column| column.as_dictionary_opt::<UInt16Type>());
    let column = column.ok_or_else(|| Error::internal("rows without their file"))?;
    let keys = column.keys().values();
    let first = keys.first().copied().unwrap_or_default();
    if keys.iter().any(|key| *key != first) {
        return Err(Error::internal("rows of several files in one batch"));
    }
    let names = column.values().as_string_opt::<i32>();
    let names = names.ok_or_else(|| Error::internal("files without their names"))?;
    Ok(names.value(usize::from(first)))
}
