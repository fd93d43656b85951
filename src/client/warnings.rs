//! Warnings of a server beside rows: `{"warnings": ["…"]}` as the application metadata of its messages.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

/// Warnings as they come. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Warnings {
    said: Arc<Mutex<Vec<String>>>,
}

#[derive(Deserialize)]
struct WarningMetadata {
    warnings: Vec<String>,
}

impl Warnings {
    /// The warnings since the last call.
    pub fn take(&self) -> Vec<String> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *said)
    }

    /// Keeps the warnings of a message. Metadata in another form is ignored: another program has written it.
    pub(super) fn read(&self, metadata: &[u8]) {
        if metadata.is_empty() {
            return;
        }
        if let Ok(found) = serde_json::from_slice::<WarningMetadata>(metadata) {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.extend(found.warnings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_read_once_and_other_metadata_is_ignored() {
        let warnings = Warnings::default();
        for metadata in [
            "",
            "{}",
            "[1]",
            "\u{1}",
            r#"{"warnings": ["a", "b"], "more": 1}"#,
        ] {
            warnings.clone().read(metadata.as_bytes());
        }
        assert_eq!(warnings.take(), ["a", "b"]);
        assert!(warnings.take().is_empty());
    }
}
