//! Locations of tables: from the text of `LOCATION` to the URL that the library opens.

use std::path::{Path, PathBuf};

use url::Url;

use crate::error::{Error, Result, Subject};

/// A checked location. A local folder need not exist.
#[derive(Debug, Clone)]
pub(super) struct Location {
    /// As shown to people: without credentials.
    pub(super) shown: String,
    /// The URL that the library opens; ends with a slash.
    pub(super) url: Url,
    /// The folder, if it is a local one.
    pub(super) folder: Option<PathBuf>,
}

impl Location {
    /// Reads the text of `LOCATION`.
    ///
    /// # Errors
    ///
    /// An empty text, an unknown scheme, a path below a file, or a path that begins with `~`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::invalid("the location of a Delta table is empty")
                .with_help("give a folder or a URL such as s3://bucket/path"));
        }
        match text.split_once("://") {
            None => Self::local(text, Path::new(text)),
            Some(("file", _)) => {
                let url = Url::parse(text).map_err(|error| bad_url(text, error))?;
                let path = url.to_file_path().map_err(|()| {
                    Error::invalid(format!("'{text}' is not the URL of a local folder"))
                        .about(Subject::location(text))
                })?;
                Self::local(text, &path)
            }
            Some(("s3" | "s3a", _)) => Self::remote(text),
            Some((scheme, _)) => Err(Error::unsupported(format!(
                "Delta tables cannot be stored at '{scheme}://' locations"
            ))
            .about(Subject::location(text))
            .with_help("use a folder, file:// or s3://")),
        }
    }

    fn local(text: &str, path: &Path) -> Result<Self> {
        if text == "~" || text.starts_with("~/") {
            return Err(
                Error::invalid(format!("'~' is not expanded in the location '{text}'"))
                    .about(Subject::location(text))
                    .with_help("write the whole path, or one relative to the current directory"),
            );
        }
        let absolute = std::path::absolute(path).map_err(|error| {
            Error::invalid(format!("the location '{text}' is not a path: {error}"))
                .about(Subject::location(text))
        })?;
        // The log names files relative to the root, so a link and its target are one table.
        let folder = std::fs::canonicalize(&absolute).unwrap_or(absolute);
        if folder.is_file() {
            return Err(
                Error::invalid(format!("the location '{text}' is a file, not a folder"))
                    .about(Subject::location(text))
                    .with_help("a Delta table is a folder with a _delta_log folder in it"),
            );
        }
        if let Some(file) = folder.ancestors().skip(1).find(|parent| parent.is_file()) {
            return Err(Error::invalid(format!(
                "the location '{text}' lies below '{}', which is a file",
                file.display()
            ))
            .about(Subject::location(text)));
        }
        let url = Url::from_directory_path(&folder).map_err(|()| {
            Error::invalid(format!("the location '{text}' cannot be written as a URL"))
                .about(Subject::location(text))
        })?;
        Ok(Self {
            shown: text.to_owned(),
            url,
            folder: Some(folder),
        })
    }

    fn remote(text: &str) -> Result<Self> {
        let mut url = Url::parse(text).map_err(|error| bad_url(text, error))?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(
                Error::invalid(format!("the location '{text}' names no bucket"))
                    .about(Subject::location(text)),
            );
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::invalid("a location must not hold credentials")
                .with_help("give them as OPTIONS or in the environment"));
        }
        let path = url.path().trim_end_matches('/').to_owned() + "/";
        url.set_path(&path);
        Ok(Self {
            shown: text.to_owned(),
            url,
            folder: None,
        })
    }
}

fn bad_url(text: &str, error: url::ParseError) -> Error {
    Error::invalid(format!("the location '{text}' is not a URL: {error}"))
        .about(Subject::location(text))
}

/// A URL as far as it may be shown.
pub(super) fn without_credentials(url: &Url) -> String {
    let mut url = url.clone();
    // A URL that takes none has none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_resolved_and_quoted() {
        let location = Location::parse("./some table/100%").unwrap();
        let folder = location.folder.unwrap();
        assert!(folder.is_absolute());
        assert_eq!(location.url.to_file_path().unwrap(), folder);
        assert!(
            location.url.as_str().ends_with("/some%20table/100%25/"),
            "{}",
            location.url
        );
    }

    #[test]
    fn a_bucket_keeps_its_path() {
        let location = Location::parse("s3://bucket/a/b//").unwrap();
        assert_eq!(location.url.as_str(), "s3://bucket/a/b/");
        assert!(location.folder.is_none());
    }

    #[test]
    fn invalid_table_locations_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let below = file.path().join("table");
        for (text, part) in [
            ("", "is empty"),
            ("~/table", "'~' is not expanded"),
            ("gopher://x/y", "cannot be stored at 'gopher://'"),
            ("s3:///path", "names no bucket"),
            ("s3://key:secret@bucket/path", "must not hold credentials"),
            (file.path().to_str().unwrap(), "is a file, not a folder"),
            (below.to_str().unwrap(), "which is a file"),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(
                error.message().contains(part),
                "{text}: {}",
                error.message()
            );
        }
    }
}
