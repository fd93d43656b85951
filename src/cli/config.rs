//! Settings: flags win over `ANABRANCH_…` variables, these over the file, and the file over defaults.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use figment::value::magic::RelativePathBuf;

use crate::cli::args::{Format, Global, LogFormat};
use crate::error::{Error, Result};
use crate::server::QUERY_LOG;
use crate::session::{JobMemory, SessionOptions};
use crate::tables::options;

const DEFAULT_LOG: &str = "warn";

/// The log filter for libraries unless the user gives another one: one library warns at every write of a binary column,
/// another logs whole tables each time that it reads them.
const QUIET: &str = "deltalake_core::writer::stats=error,buoyant_kernel=warn";

/// Variables that are no settings: a fail point is for tests of a crash, the others describe a server.
const OTHER_VARIABLES: [&str; 17] = [
    "fail_point",
    "password",
    "profile",
    "serve_jwt_audience",
    "serve_jwt_issuer",
    "serve_jwt_jwks",
    "serve_tls_cert",
    "serve_tls_client_ca",
    "serve_tls_key",
    "serve_users",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "token",
    "token_file",
    "url",
    "user",
];

/// The keys that the file and the environment may set.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LayeredSettings {
    format: Option<Format>,
    memory_limit: Option<String>,
    target_partitions: Option<usize>,
    data_dir: Option<String>,
    log: Option<String>,
    log_format: Option<LogFormat>,
    metrics: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
    /// Names the file itself; read by the command line.
    #[serde(rename = "config")]
    _config: Option<PathBuf>,
}

/// A server that the file knows by name. Its paths are relative to the file.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    pub(crate) url: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) token_file: Option<RelativePathBuf>,
    pub(crate) tls_ca: Option<RelativePathBuf>,
    pub(crate) tls_cert: Option<RelativePathBuf>,
    pub(crate) tls_key: Option<RelativePathBuf>,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) format: Format,
    pub(crate) session: SessionOptions,
    /// The data directory of the jobs.
    pub(crate) data_dir: String,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    /// Where `run` serves metrics, unless its flag says so.
    pub(crate) metrics: Option<String>,
    /// Servers by name.
    pub(crate) profiles: BTreeMap<String, Profile>,
}

impl Settings {
    /// The same with jobs in another folder.
    pub(crate) fn with_data_dir(mut self, data_dir: String) -> Self {
        self.session.data_dir = Some(data_dir.clone());
        self.data_dir = data_dir;
        self
    }

    pub(crate) fn resolve(flags: &Global) -> Result<Self> {
        let mut figment = Figment::new();
        if let Some(file) = &flags.config {
            if !file.is_file() {
                return Err(Error::not_found(format!(
                    "configuration file {} does not exist",
                    file.display()
                )));
            }
            figment = figment.merge(Toml::file_exact(file));
        } else if let Some(file) = default_file() {
            figment = figment.merge(Toml::file_exact(file));
        }
        let layered: LayeredSettings = figment
            .merge(Env::prefixed("ANABRANCH_").ignore(&OTHER_VARIABLES))
            .extract()
            .map_err(|error| Error::invalid(format!("configuration: {error}")))?;
        let memory_limit = flags
            .memory_limit
            .as_ref()
            .or(layered.memory_limit.as_ref());
        let memory_limit = memory_limit.map(|text| parse_size(text)).transpose()?;
        let target_partitions = flags.target_partitions.or(layered.target_partitions);
        if target_partitions == Some(0) {
            return Err(Error::invalid("--target-partitions takes a number from 1"));
        }
        let terminal = std::io::stdout().is_terminal();
        let default_format = if terminal { Format::Table } else { Format::Csv };
        let log = flags
            .log
            .clone()
            .or_else(|| std::env::var("RUST_LOG").ok())
            .or(layered.log);
        let data_dir = flags
            .data_dir
            .clone()
            .or(layered.data_dir)
            .unwrap_or_else(|| "anabranch-data".to_owned());
        Ok(Self {
            format: flags.format.or(layered.format).unwrap_or(default_format),
            session: SessionOptions {
                memory_limit,
                job_memory: JobMemory::Shared,
                target_partitions,
                data_dir: Some(data_dir.clone()),
                spill_dir: None,
            },
            data_dir,
            log: quiet(&log.unwrap_or_else(|| DEFAULT_LOG.to_owned())),
            log_format: flags
                .log_format
                .or(layered.log_format)
                .unwrap_or(LogFormat::Text),
            metrics: layered.metrics,
            profiles: layered.profiles,
        })
    }
}

/// A plain level is about this program; a filter with targets is taken as it is.
fn quiet(filter: &str) -> String {
    let is_level = filter.trim().chars().all(|c| c.is_ascii_alphanumeric());
    if is_level {
        format!("{filter},{QUIET},{QUERY_LOG}=info")
    } else {
        filter.to_owned()
    }
}

fn default_file() -> Option<PathBuf> {
    let here = Path::new("anabranch.toml").to_owned();
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))
        .map(|dir| dir.join("anabranch/config.toml"));
    [Some(here), home]
        .into_iter()
        .flatten()
        .find(|file| file.is_file())
}

/// Bytes from text such as `512MiB`, `4 GB` or `1000000`.
pub(crate) fn parse_size(text: &str) -> Result<usize> {
    options::parse_size(text)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| {
            Error::invalid(format!("invalid size '{text}'")).with_help("write it as 512MiB or 4GiB")
        })
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(parse_size("4GiB").unwrap(), 4 << 30);
        assert_eq!(parse_size("1 kb").unwrap(), 1_000);
        assert_eq!(parse_size("17").unwrap(), 17);
        for bad in ["", "x", "0", "4 apples", "99999999999999999999"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
