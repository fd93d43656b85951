//! Table features that the library refuses, although its lower layers can read or write such tables.
//!
//! *Type widening* lets a column take a wider type while old files keep the narrow one: a scan casts. *VACUUM protocol
//! check* binds writers that delete files. Neither changes how the log is read. Some features require nothing of a
//! writer that adds files; the requirements of others are met where an entry is written ([`duties`](super::feature_actions)).
//!
//! A snapshot whose protocol leaves these features out is used by scans and commits only: the log keeps the table's own
//! protocol. Checkpoints are therefore left to other writers.

use std::io::Write;

use deltalake::DeltaTableError;
use deltalake::kernel::{EagerSnapshot, Snapshot};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Subject};

/// Features that change nothing for scans.
const SCANNED: [&str; 3] = [
    "typeWidening",
    "typeWidening-preview",
    "vacuumProtocolCheck",
];

/// Features that require nothing of a writer that adds files, or only entries that [`duties`](super::feature_actions) writes.
const WRITTEN: [&str; 7] = [
    "clustering",
    "domainMetadata",
    "inCommitTimestamp",
    "rowTracking",
    "typeWidening",
    "typeWidening-preview",
    "vacuumProtocolCheck",
];

/// The parts of a written snapshot before the list of its files; the third of them is the protocol.
const PARTS: usize = 9;
const PROTOCOL: usize = 2;

type RewrittenLog<T> = std::result::Result<Option<T>, DeltaTableError>;

/// The snapshot without features that scans need not know; `None` if it has none of them.
///
/// # Errors
///
/// The snapshot is not written as expected: the library has changed.
pub(super) fn for_scans(snapshot: &EagerSnapshot) -> RewrittenLog<Snapshot> {
    let features = snapshot.protocol().reader_features().unwrap_or_default();
    if !has_one(features, &SCANNED) {
        return Ok(None);
    }
    // Without the list of files: the scan finds them in the log.
    Ok(Some(read(rewrite(snapshot, &SCANNED)?)?))
}

/// The snapshot without features that commits of new files need not know; `None` if it has none of them. It says of no file
/// that it is in the table.
///
/// # Errors
///
/// As [`for_scans`].
pub(super) fn for_commits(snapshot: &EagerSnapshot) -> RewrittenLog<EagerSnapshot> {
    let features = snapshot.protocol().writer_features().unwrap_or_default();
    if !has_one(features, &WRITTEN) {
        return Ok(None);
    }
    let no_files = Value::Array(Vec::new());
    let written = Value::Array(vec![rewrite(snapshot, &WRITTEN)?, no_files]);
    Ok(Some(read(written)?))
}

fn has_one<F: AsRef<str>>(features: &[F], names: &[&str]) -> bool {
    let mut features = features.iter();
    features.any(|feature| names.contains(&feature.as_ref()))
}

fn rewrite(
    snapshot: &EagerSnapshot,
    left_out: &[&str],
) -> std::result::Result<Value, DeltaTableError> {
    let mut written = LeadingParts::default();
    serde_json::to_writer(&mut written, snapshot)
        .map_err(|json_err| DeltaTableError::SerializeLogJson { json_err })?;
    without_features(&written.bytes, left_out)
        .ok_or_else(|| DeltaTableError::generic("a snapshot of the log is not written as expected"))
}

fn read<T: DeserializeOwned>(written: Value) -> std::result::Result<T, DeltaTableError> {
    serde_json::from_value(written)
        .map_err(|json_err| DeltaTableError::SerializeLogJson { json_err })
}

/// `written` is `[[version, place, protocol, …]]`.
fn without_features(written: &[u8], left_out: &[&str]) -> Option<Value> {
    let mut parts: Vec<Value> = serde_json::from_slice(written).ok()?;
    let protocol = parts.get_mut(PROTOCOL)?.as_object_mut()?;
    for features in ["readerFeatures", "writerFeatures"] {
        // Before version 3 of the protocol, and 7, there are no lists.
        let Some(named) = protocol.get_mut(features).and_then(Value::as_array_mut) else {
            continue;
        };
        named.retain(|name| name.as_str().is_none_or(|name| !left_out.contains(&name)));
    }
    parts.push(Value::Null);
    Some(Value::Array(parts))
}

/// Keeps the first parts of the inner list as a list of its own, and throws the rest away.
#[derive(Default)]
struct LeadingParts {
    bytes: Vec<u8>,
    depth: u32,
    parts: usize,
    in_text: bool,
    escaped: bool,
}

impl Write for LeadingParts {
    fn write(&mut self, written: &[u8]) -> std::io::Result<usize> {
        for byte in written {
            if self.parts == PARTS {
                break;
            }
            if self.in_text {
                self.in_text = self.escaped || *byte != b'"';
                self.escaped = !self.escaped && *byte == b'\\';
            } else {
                match byte {
                    b'"' => self.in_text = true,
                    b'[' | b'{' => self.depth += 1,
                    b']' | b'}' => self.depth -= 1,
                    b',' if self.depth == 2 => self.parts += 1,
                    _ => {}
                }
            }
            // The outer bracket is left out.
            match self.parts {
                PARTS => self.bytes.push(b']'),
                _ if self.depth == 1 && self.bytes.is_empty() => {}
                _ => self.bytes.push(*byte),
            }
        }
        Ok(written.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The error of a table that needs features which are not supported, by the names that the protocol gives them.
pub(super) fn unsupported(location: &str, names: &[String]) -> Error {
    let (word, names, are) = match names {
        [name] => ("feature", name.clone(), "is"),
        names => ("features", names.join(", "), "are"),
    };
    Error::unsupported(format!(
        "Delta table '{location}' has the table {word} {names}, which {are} not supported"
    ))
    .about(Subject::location(location))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_snapshot_are_not_kept() {
        let written = r#"[[7,"file:///a,\"]\\",{"readerFeatures":["typeWidening","x"],"writerFeatures":["x"]},{"a":[1,2]},[],[{"b":","}],[],null,null,{"batches":[1,2,3]}]]"#;
        let mut beginning = LeadingParts::default();
        // In pieces, as a serializer writes.
        for piece in written.as_bytes().chunks(3) {
            beginning.write_all(piece).unwrap();
        }
        let parts = without_features(&beginning.bytes, &SCANNED).unwrap();
        let expected = serde_json::json!([
            7, "file:///a,\"]\\", {"readerFeatures": ["x"], "writerFeatures": ["x"]}, {"a": [1, 2]}, [], [{"b": ","}], [], null,
            null, null
        ]);
        assert_eq!(parts, expected);
    }
}
