//! The options of a Delta table: their names, and the check of their values.
//!
//! Three kinds: *table properties* (`delta.*`) are stored in a table that is created, *storage
//! options* (`aws.*`, or the `AWS_*` spelling of the environment) go to the object store, and
//! *write options* hold for this session's writes.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::time::Duration;

use deltalake::parquet::basic::{Compression, GzipLevel, ZstdLevel};

use super::spec::DeltaStream;
use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};
use crate::tables::options::{self, parse_size};

/// Every option a Delta table takes.
///
/// Names are compared without regard to case; storage options may also be written as in the
/// environment, `AWS_REGION` for `aws.region`.
pub const OPTION_NAMES: [&str; 41] = [
    "aws.access_key_id",
    "aws.allow_http",
    "aws.conditional_put",
    "aws.endpoint",
    "aws.profile",
    "aws.region",
    "aws.secret_access_key",
    "aws.session_token",
    "aws.skip_signature",
    "aws.virtual_hosted_style_request",
    "delta.appendOnly",
    "delta.autoOptimize.autoCompact",
    "delta.autoOptimize.optimizeWrite",
    "delta.checkpoint.writeStatsAsJson",
    "delta.checkpoint.writeStatsAsStruct",
    "delta.checkpointInterval",
    "delta.checkpointPolicy",
    "delta.columnMapping.mode",
    "delta.dataSkippingNumIndexedCols",
    "delta.dataSkippingStatsColumns",
    "delta.deletedFileRetentionDuration",
    "delta.enableChangeDataFeed",
    "delta.enableDeletionVectors",
    "delta.enableExpiredLogCleanup",
    "delta.isolationLevel",
    "delta.logRetentionDuration",
    "delta.minReaderVersion",
    "delta.minWriterVersion",
    "delta.randomPrefixLength",
    "delta.randomizeFilePrefixes",
    "delta.setTransactionRetentionDuration",
    "delta.targetFileSize",
    "delta.target_file_size",
    "delta.tuneFileSizesForRewrites",
    "scan.mode",
    "scan.on_change",
    "scan.startup",
    "watermark.idle_after",
    "watermark.max_ahead",
    "write.compression",
    "write.max_memory",
];

/// Files are rolled at about this size unless the table or the session says otherwise.
const DEFAULT_TARGET_FILE_SIZE: u64 = 128 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The most memory that the open files of one INSERT may hold together.
const DEFAULT_WRITE_MEMORY: u64 = 768 << 20;

/// The options of one table, checked.
#[derive(Debug, Clone)]
pub(super) struct DeltaOptions {
    /// For a table that is created: canonical name and value.
    pub(super) properties: BTreeMap<String, String>,
    /// For the object store.
    pub(super) storage: HashMap<String, String>,
    /// For this session's writes.
    pub(super) write: WriteOptions,
    /// How jobs read it, if they read it as a stream.
    pub(super) stream: Option<DeltaStream>,
    /// After this long without a row a stream no longer holds the watermark of the job back.
    pub(super) idle_after: Duration,
    /// Rows of a stream further past the time their file was written than this are dead letters.
    pub(super) max_ahead: Duration,
}

/// How files are written.
#[derive(Debug, Clone)]
pub(super) struct WriteOptions {
    pub(super) compression: Compression,
    /// As said by the statement; else the table's property, else the default.
    target_file_size: Option<NonZeroU64>,
    /// Bytes the open files of one INSERT may hold in memory together.
    pub(super) max_memory: u64,
}

impl WriteOptions {
    /// The size at which a file is rolled: the session's, the table's, or the default.
    pub(super) fn target_file_size(&self, of_table: Option<NonZeroU64>) -> NonZeroU64 {
        let default = NonZeroU64::MIN.saturating_add(DEFAULT_TARGET_FILE_SIZE - 1);
        self.target_file_size.or(of_table).unwrap_or(default)
    }
}

impl DeltaOptions {
    /// Checks names and values.
    ///
    /// # Errors
    ///
    /// An unknown name, or a value that its option does not take; both name the option.
    pub(super) fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let mut parsed = Self {
            properties: BTreeMap::new(),
            storage: HashMap::new(),
            write: WriteOptions {
                compression: Compression::SNAPPY,
                target_file_size: None,
                max_memory: DEFAULT_WRITE_MEMORY,
            },
            stream: None,
            idle_after: options::duration(
                options,
                "watermark.idle_after",
                Duration::from_secs(10),
            )?,
            max_ahead: options::duration(options, "watermark.max_ahead", DAY)?,
        };
        let mut is_stream = false;
        let mut stream = None;
        for (given, value) in options {
            let name = canonical_name(given)?;
            let value = value.trim();
            match name {
                "write.compression" => parsed.write.compression = compression(value)?,
                "write.max_memory" => parsed.write.max_memory = byte_size(name, value)?.get(),
                "delta.target_file_size" => {
                    parsed.write.target_file_size = Some(byte_size(name, value)?);
                }
                "scan.mode" => is_stream = choice(name, value, ["static", "stream"])?,
                "scan.startup" => {
                    let starts_at_end = choice(name, value, ["earliest", "latest"])?;
                    stream
                        .get_or_insert_with(DeltaStream::default)
                        .starts_at_end = starts_at_end;
                }
                "scan.on_change" => {
                    let skips_changes = choice(name, value, ["fail", "skip"])?;
                    stream
                        .get_or_insert_with(DeltaStream::default)
                        .skips_changes = skips_changes;
                }
                "watermark.idle_after" | "watermark.max_ahead" => {
                    stream.get_or_insert_with(DeltaStream::default);
                }
                _ if name.starts_with("aws.") => {
                    if matches!(
                        name,
                        "aws.allow_http"
                            | "aws.skip_signature"
                            | "aws.virtual_hosted_style_request"
                    ) {
                        check_bool(name, value)?;
                    }
                    parsed
                        .storage
                        .insert(name.replace('.', "_"), value.to_owned());
                }
                _ => {
                    let value = property_value(name, value)?;
                    parsed.properties.insert(name.to_owned(), value);
                }
            }
        }
        if is_stream {
            parsed.stream = Some(stream.unwrap_or_default());
        } else if stream.is_some() {
            return Err(Error::invalid(
                "options 'scan.startup', 'scan.on_change' and 'watermark.…' are for a table that jobs read as a stream",
            )
            .about(Subject::option("scan.on_change"))
            .about(Subject::option("scan.startup"))
            .with_help("set 'scan.mode' 'stream' as well"));
        }
        Ok(parsed)
    }
}

/// Whether `value` is the second of two.
fn choice(name: &str, value: &str, choices: [&str; 2]) -> Result<bool> {
    let found = choices
        .iter()
        .position(|choice| choice.eq_ignore_ascii_case(value));
    match found {
        Some(at) => Ok(at == 1),
        None => Err(
            Error::invalid(format!("option '{name}' does not accept '{value}'"))
                .about(Subject::option(name))
                .with_help(format!("it takes '{}' or '{}'", choices[0], choices[1])),
        ),
    }
}

/// Reads `128 MiB`, `64MB` or a plain number of bytes.
pub(super) fn byte_size(name: &str, text: &str) -> Result<NonZeroU64> {
    let bytes = parse_size(text).unwrap_or_default();
    NonZeroU64::new(bytes).ok_or_else(|| {
        Error::invalid(format!("option '{name}': invalid size '{text}'"))
            .about(Subject::option(name))
            .with_help("write a number and a unit, such as '128 MiB'")
    })
}

fn canonical_name(given: &str) -> Result<&'static str> {
    let folded = given.trim().to_ascii_lowercase();
    let dotted = match folded.strip_prefix("aws_") {
        Some(rest) => format!("aws.{rest}"),
        None => folded,
    };
    let dotted = match dotted.as_str() {
        "aws.endpoint_url" | "s3.endpoint" => "aws.endpoint".to_owned(),
        "aws.default_region" | "s3.region" => "aws.region".to_owned(),
        _ => dotted,
    };
    if let Some(name) = OPTION_NAMES
        .into_iter()
        .find(|name| name.eq_ignore_ascii_case(&dotted))
    {
        return Ok(name);
    }
    let error = Error::invalid(format!("a Delta table has no option '{given}'"))
        .about(Subject::UnknownOption(given.to_owned()));
    if dotted == "watermark.partitions" {
        return Err(error.with_help("a table that is read as a stream is one partition"));
    }
    Err(match closest(&dotted, OPTION_NAMES) {
        Some(name) => error.with_help(format!("did you mean '{name}'?")),
        None => error,
    })
}

fn compression(text: &str) -> Result<Compression> {
    let lower = text.to_ascii_lowercase();
    let (codec, level) = match lower.split_once([':', '(', '-']) {
        Some((codec, level)) => (codec.trim(), Some(level.trim_end_matches(')').trim())),
        None => (lower.as_str(), None),
    };
    let bad = || {
        Error::invalid(format!(
            "option 'write.compression': invalid compression '{text}'"
        ))
        .about(Subject::option("write.compression"))
        .with_help("use 'snappy', 'zstd', 'zstd:3', 'gzip', 'lz4_raw' or 'none'")
    };
    match (codec, level) {
        ("snappy", None) => Ok(Compression::SNAPPY),
        ("none" | "uncompressed", None) => Ok(Compression::UNCOMPRESSED),
        ("lz4_raw" | "lz4", None) => Ok(Compression::LZ4_RAW),
        ("gzip", None) => Ok(Compression::GZIP(GzipLevel::default())),
        ("zstd", None) => Ok(Compression::ZSTD(ZstdLevel::default())),
        ("zstd", Some(level)) => level
            .parse()
            .ok()
            .and_then(|level| ZstdLevel::try_new(level).ok())
            .map(Compression::ZSTD)
            .ok_or_else(bad),
        _ => Err(bad()),
    }
}

fn property_value(name: &str, value: &str) -> Result<String> {
    let bad = |help: &str| {
        Err(
            Error::invalid(format!("option '{name}' does not accept '{value}'"))
                .about(Subject::option(name))
                .with_help(help),
        )
    };
    match name {
        "delta.appendOnly"
        | "delta.autoOptimize.autoCompact"
        | "delta.autoOptimize.optimizeWrite"
        | "delta.checkpoint.writeStatsAsJson"
        | "delta.checkpoint.writeStatsAsStruct"
        | "delta.enableChangeDataFeed"
        | "delta.enableDeletionVectors"
        | "delta.enableExpiredLogCleanup"
        | "delta.randomizeFilePrefixes"
        | "delta.tuneFileSizesForRewrites" => check_bool(name, value),
        "delta.checkpointInterval" | "delta.randomPrefixLength" => match value.parse::<u32>() {
            Ok(1..) => Ok(value.to_owned()),
            _ => bad("use a number of at least 1"),
        },
        "delta.minReaderVersion" if !matches!(value, "1" | "2" | "3") => bad("use 1, 2 or 3"),
        "delta.minWriterVersion" if !matches!(value, "2" | "3" | "4" | "5" | "6" | "7") => {
            bad("use a number from 2 to 7")
        }
        "delta.dataSkippingNumIndexedCols" => match value.parse::<i32>() {
            Ok(-1..) => Ok(value.to_owned()),
            _ => bad("use a number of columns, or -1 for all"),
        },
        "delta.columnMapping.mode" => match value.to_ascii_lowercase().as_str() {
            mode @ ("none" | "name" | "id") => Ok(mode.to_owned()),
            _ => bad("use 'none', 'name' or 'id'"),
        },
        "delta.isolationLevel" if !matches!(value, "Serializable" | "WriteSerializable") => {
            bad("use 'Serializable' or 'WriteSerializable'")
        }
        "delta.checkpointPolicy" if !matches!(value, "classic" | "v2") => {
            bad("use 'classic' or 'v2'")
        }
        "delta.targetFileSize" => Ok(byte_size(name, value)?.to_string()),
        "delta.deletedFileRetentionDuration"
        | "delta.logRetentionDuration"
        | "delta.setTransactionRetentionDuration" => match interval(value) {
            Some(interval) => Ok(interval),
            None => bad("use an interval such as '7 days' or 'interval 36 hours'"),
        },
        _ => Ok(value.to_owned()),
    }
}

fn check_bool(name: &str, value: &str) -> Result<String> {
    match value.to_ascii_lowercase().as_str() {
        word @ ("true" | "false") => Ok(word.to_owned()),
        _ => Err(
            Error::invalid(format!("option '{name}' does not accept '{value}'"))
                .about(Subject::option(name))
                .with_help("use 'true' or 'false'"),
        ),
    }
}

/// Delta's own spelling of an interval: `interval 7 days`.
fn interval(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let mut words = lower
        .split_whitespace()
        .skip_while(|word| *word == "interval");
    let number: u64 = words.next()?.parse().ok()?;
    let unit = words.next()?.trim_end_matches('s');
    if words.next().is_some() || !matches!(unit, "second" | "minute" | "hour" | "day" | "week") {
        return None;
    }
    Some(format!("interval {number} {unit}s"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<DeltaOptions> {
        DeltaOptions::parse(
            &pairs
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
        )
    }

    #[test]
    fn names_are_found_in_any_case_and_both_spellings() {
        let options = parse(&[
            ("AWS_REGION", "eu-central-1"),
            ("aws.endpoint_url", "http://localhost:9000"),
            ("delta.appendonly", "TRUE"),
            ("delta.deletedFileRetentionDuration", "36 hours"),
            ("delta.target_file_size", "64 MiB"),
            ("write.compression", "zstd:3"),
        ])
        .unwrap();
        assert_eq!(options.storage["aws_region"], "eu-central-1");
        assert_eq!(options.storage["aws_endpoint"], "http://localhost:9000");
        assert_eq!(options.properties["delta.appendOnly"], "true");
        assert_eq!(
            options.properties["delta.deletedFileRetentionDuration"],
            "interval 36 hours"
        );
        assert_eq!(options.write.target_file_size(None).get(), 64 << 20);
        assert!(matches!(options.write.compression, Compression::ZSTD(_)));
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1", 1),
            ("10 kB", 10_000),
            ("1.5 GiB", 3 << 29),
            ("7MiB", 7 << 20),
        ] {
            assert_eq!(byte_size("x", text).unwrap().get(), bytes, "{text}");
        }
        for text in ["", "0", "-1", "MiB", "10 parsecs", "99999999999 GiB"] {
            assert!(byte_size("x", text).is_err(), "{text}");
        }
    }

    #[test]
    fn wrong_values_and_typos_are_named() {
        for (name, value, part) in [
            ("delta.appendOnly", "yes", "delta.appendOnly"),
            (
                "delta.logRetentionDuration",
                "forever",
                "delta.logRetentionDuration",
            ),
            (
                "delta.columnMapping.mode",
                "maybe",
                "delta.columnMapping.mode",
            ),
            ("delta.checkpointInterval", "0", "delta.checkpointInterval"),
            ("write.compression", "rar", "write.compression"),
            ("aws.allow_http", "1", "aws.allow_http"),
            ("delta.appendOnyl", "true", "delta.appendOnyl"),
        ] {
            let error = parse(&[(name, value)]).err().unwrap();
            assert!(error.message().contains(part), "{}", error.message());
            assert!(error.help().is_some());
        }
        let error = parse(&[("aws.regoin", "x")]).err().unwrap();
        assert_eq!(error.help(), Some("did you mean 'aws.region'?"));
    }
}
