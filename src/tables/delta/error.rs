//! Conversion of the library's errors into the crate's: the kind tells who must act, the message names the table or
//! file.

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::object_store::Error as StoreError;

use super::features::unsupported;
use crate::error::{Error, ErrorKind, Subject, quoted_store};

/// The error of an operation on the table at `location`.
pub(super) fn delta_error(location: &str, error: DeltaTableError) -> Error {
    let of_table = |kind: ErrorKind, what: String| {
        Error::new(
            kind,
            format!("Delta table '{location}': {}", lower_first(what.trim())),
        )
        .about(Subject::location(location))
    };
    // The store's failure comes first, in every operation of the library.
    if let Some(source) = store_error_in(&error) {
        let failed = store_error(location, source);
        if failed.may_pass() {
            return failed;
        }
    }
    match error {
        DeltaTableError::NotATable(_) => not_a_table(location),
        DeltaTableError::InvalidTableLocation(what) => Error::invalid(lower_first(&what)),
        DeltaTableError::ObjectStore { source } => store_error(location, &source),
        DeltaTableError::Transaction { source } => transaction_error(location, source),
        DeltaTableError::Io { source } => {
            of_table(Error::from(source).kind(), "cannot be read".into())
        }
        DeltaTableError::UnsupportedColumnMapping { .. }
        | DeltaTableError::MissingFeature { .. } => {
            of_table(ErrorKind::Unsupported, error.to_string())
        }
        DeltaTableError::InvalidVersion(version) => of_table(
            ErrorKind::NotFound,
            format!("version {version} does not exist"),
        ),
        DeltaTableError::KernelError(_) | DeltaTableError::InvalidJsonLog { .. } => {
            let text = error.to_string();
            if let Some(source) = store_error_in(&error) {
                return store_error(location, source);
            }
            if text.contains("Unsupported") || text.contains("not supported") {
                return of_table(ErrorKind::Unsupported, text);
            }
            if let Some((before, after)) = gap(&text) {
                return of_table(
                    ErrorKind::Data,
                    format!("its log has version {before} and then version {after}"),
                )
                .with_help("commit files were deleted: restore them, or open a copy of the table");
            }
            let said = text.strip_prefix("Kernel error: ").unwrap_or(&text);
            of_table(ErrorKind::Data, format!("the log cannot be read: {said}"))
        }
        DeltaTableError::MetadataError(_)
        | DeltaTableError::Kernel { .. }
        | DeltaTableError::Parquet { .. }
        | DeltaTableError::InvalidStatsJson { .. }
        | DeltaTableError::SchemaMismatch { .. } => {
            let text = error.to_string();
            match quoted_store(&text) {
                Some(kind) => store_answer_error(location, kind, &text),
                None => of_table(ErrorKind::Data, text),
            }
        }
        DeltaTableError::Arrow { source } => Error::from(
            datafusion::error::DataFusionError::ArrowError(Box::new(source), None),
        ),
        DeltaTableError::Generic(text) => match quoted_store(&text) {
            Some(kind) => store_answer_error(location, kind, &text),
            None => of_table(ErrorKind::Data, text),
        },
        DeltaTableError::GenericError { source } => match source.downcast::<Error>() {
            Ok(own) => own.context(format!("Delta table '{location}'")),
            Err(source) => of_table(ErrorKind::Data, source.to_string()),
        },
        other => of_table(ErrorKind::Internal, other.to_string()),
    }
}

/// No log at the location.
pub(super) fn not_a_table(location: &str) -> Error {
    Error::not_found(format!("there is no Delta table at '{location}'"))
        .about(Subject::location(location))
        .with_help("check the location, or give a column list to create the table")
}

fn transaction_error(location: &str, error: TransactionError) -> Error {
    match error {
        TransactionError::CommitConflict(conflict) => Error::unavailable(format!(
            "Delta table '{location}': another writer's commit conflicts with this one: {conflict}"
        ))
        .about(Subject::location(location))
        .with_help("nothing was written; run the statement again"),
        TransactionError::MaxCommitAttempts(attempts) => Error::unavailable(format!(
            "Delta table '{location}': other writers were faster in {attempts} attempts to commit"
        ))
        .about(Subject::location(location))
        .with_help("nothing was written; run the statement again"),
        TransactionError::DeltaTableAppendOnly => Error::unsupported(format!(
            "Delta table '{location}' is append-only: its rows cannot be replaced or deleted"
        ))
        .about(Subject::location(location)),
        TransactionError::UnsupportedTableFeatures(features) => {
            let names = features.iter().map(|feature| feature.to_string());
            unsupported(location, &names.collect::<Vec<_>>())
        }
        TransactionError::ObjectStore { source } => store_error(location, &source),
        TransactionError::LogStoreError { msg, .. } => {
            Error::unavailable(format!("Delta table '{location}': {msg}"))
                .about(Subject::location(location))
        }
        other => Error::unavailable(format!("Delta table '{location}': {other}"))
            .about(Subject::location(location)),
    }
}

fn store_error(location: &str, error: &StoreError) -> Error {
    let text = error.to_string();
    let kind = match error {
        StoreError::NotFound { .. } => ErrorKind::NotFound,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            ErrorKind::Permission
        }
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => {
            ErrorKind::Unsupported
        }
        StoreError::InvalidPath { .. } | StoreError::UnknownConfigurationKey { .. } => {
            ErrorKind::Invalid
        }
        _ if text.contains("Permission denied") => ErrorKind::Permission,
        // A file that is shorter than it should be stays so.
        _ if text.contains("Requested range was invalid") => ErrorKind::Data,
        _ => ErrorKind::Unavailable,
    };
    store_answer_error(location, kind, &text)
}

/// The error for a store's answer; the code of an answer of S3 is more precise than `kind`.
fn store_answer_error(location: &str, kind: ErrorKind, text: &str) -> Error {
    let Some((code, message)) = s3_answer(text) else {
        let text = format!("Delta table '{location}': {}", lower_first(text.trim_end()));
        return Error::new(kind, text).by_store();
    };
    let kind = match code {
        "NoSuchBucket" | "NoSuchKey" => ErrorKind::NotFound,
        "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "AllAccessDisabled"
        | "AccountProblem" => ErrorKind::Permission,
        "InvalidBucketName"
        | "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "InvalidRequest"
        | "InvalidArgument"
        | "MethodNotAllowed"
        | "EntityTooLarge" => ErrorKind::Invalid,
        "InvalidRange" => ErrorKind::Data,
        _ => ErrorKind::Unavailable,
    };
    let text = format!("Delta table '{location}': the store answers {code}: {message}");
    Error::new(kind, text).by_store()
}

/// Code and message of an error document of S3.
fn s3_answer(text: &str) -> Option<(&str, &str)> {
    let (_, document) = text.split_once("<Error>")?;
    let element = |name: &str| {
        let (_, rest) = document.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>"))
            .map(|(content, _)| content)
    };
    Some((element("Code")?, element("Message").unwrap_or_default()))
}

/// The object store's error below another one, if that is the cause.
fn store_error_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a StoreError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(store) = error.downcast_ref::<StoreError>() {
            return Some(store);
        }
        // The kernel does not name it as its source.
        if let Some(delta_kernel::Error::ObjectStore(store)) = error.downcast_ref() {
            return Some(store);
        }
        next = error.source();
    }
    None
}

/// The versions on both sides of commits that are missing, in the kernel's words for it.
fn gap(text: &str) -> Option<(u64, u64)> {
    let (_, found) = text.split_once("found gap: ")?;
    let mut versions = found.split("version: ").skip(1).map(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        rest[..digits].parse().ok()
    });
    Some((versions.next()??, versions.next()??))
}

/// Messages of the libraries begin with a capital; ours do not.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use deltalake::parquet::errors::ParquetError;

    use super::*;

    fn refused() -> StoreError {
        StoreError::PermissionDenied {
            path: "t/a.parquet".into(),
            source: "403".into(),
        }
    }

    fn away() -> StoreError {
        StoreError::Generic {
            store: "S3",
            source: "500".into(),
        }
    }

    /// A failure of a store in each form in which the library passes it on.
    fn passed_on(store: fn() -> StoreError) -> Vec<DeltaTableError> {
        vec![
            DeltaTableError::ObjectStore { source: store() },
            DeltaTableError::KernelError(delta_kernel::Error::ObjectStore(store())),
            DeltaTableError::Parquet {
                source: ParquetError::External(Box::new(store())),
            },
            DeltaTableError::GenericError {
                source: Box::new(store()),
            },
            DeltaTableError::Generic(delta_kernel::Error::ObjectStore(store()).to_string()),
            DeltaTableError::Transaction {
                source: TransactionError::ObjectStore { source: store() },
            },
            DeltaTableError::Transaction {
                source: TransactionError::LogStoreError {
                    msg: "an entry cannot be read".into(),
                    source: Box::new(DeltaTableError::ObjectStore { source: store() }),
                },
            },
        ]
    }

    #[test]
    fn store_errors_are_not_data_errors() {
        for (store, kind) in [
            (refused as fn() -> StoreError, ErrorKind::Permission),
            (away, ErrorKind::Unavailable),
        ] {
            for error in passed_on(store) {
                let text = format!("{error:?}");
                let error = delta_error("s3://bucket/t", error);
                assert_eq!(error.kind(), kind, "{text}: {error}");
                assert!(error.may_pass(), "{text}");
            }
        }
    }

    #[tokio::test]
    async fn missing_log_versions_are_recognized() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("_delta_log");
        std::fs::create_dir(&log).unwrap();
        let schema = serde_json::json!({
            "type": "struct",
            "fields": [{"name": "v", "type": "integer", "nullable": true, "metadata": {}}]
        });
        let protocol = serde_json::json!({
            "protocol": {"minReaderVersion": 1, "minWriterVersion": 2}
        });
        let metadata = serde_json::json!({"metaData": {
            "id": "1",
            "format": {"provider": "parquet", "options": {}},
            "schemaString": schema.to_string(),
            "partitionColumns": [],
            "configuration": {},
            "createdTime": 0
        }});
        let begin = format!("{protocol}\n{metadata}\n");
        let later = "{\"commitInfo\":{\"timestamp\":1,\"operation\":\"WRITE\"}}\n";
        std::fs::write(log.join("00000000000000000000.json"), begin).unwrap();
        std::fs::write(log.join("00000000000000000002.json"), later).unwrap();
        let url = url::Url::from_directory_path(folder.path()).unwrap();
        let error = deltalake::open_table(url).await.unwrap_err();
        let error = delta_error("t", error);
        assert_eq!(
            error.message(),
            "Delta table 't': its log has version 0 and then version 2"
        );
        assert_eq!(error.subjects(), [Subject::location("t")]);
    }

    #[test]
    fn data_errors_of_the_log_are_not_transient() {
        let error = delta_error("t", DeltaTableError::Generic("no such column".into()));
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert!(!error.may_pass());
    }
}
