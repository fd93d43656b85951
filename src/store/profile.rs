//! AWS profiles: the access keys of a profile in the files of the AWS command line.
//!
//! Only keys that are written in these files are used. A profile that gets its credentials by single sign-on, a role or a
//! program is refused and not skipped: the next source of credentials might belong to another account.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use object_store::aws::AwsCredential;

use crate::error::{Error, Result};

/// Advice for profiles without keys.
pub(super) const EXPORT: &str =
    "keys in the environment, as `aws configure export-credentials --format env` writes them";

/// Settings of a profile that gets its credentials in another way.
const ELSEWHERE: [&str; 7] = [
    "role_arn",
    "web_identity_token_file",
    "sso_session",
    "sso_start_url",
    "credential_process",
    "credential_source",
    "login_session",
];

/// The two files; `None` if the user's home folder is unknown.
pub(super) struct ProfileFiles {
    /// `~/.aws/credentials`, or `AWS_SHARED_CREDENTIALS_FILE`.
    pub(super) credentials: Option<PathBuf>,
    /// `~/.aws/config`, or `AWS_CONFIG_FILE`.
    pub(super) config: Option<PathBuf>,
}

/// The keys of the named profile.
///
/// # Errors
///
/// The profile does not exist, has no keys or gets its credentials in another way, or a file cannot be read.
pub(super) fn named(files: &ProfileFiles, name: &str) -> Result<AwsCredential> {
    let Some(settings) = find(files, name)? else {
        let shown = |file: &Option<PathBuf>| match file {
            Some(file) => format!("'{}'", file.display()),
            None => "the folder of the user, which is not known".to_owned(),
        };
        return Err(Error::invalid(format!(
            "there is no profile '{name}' in {} or {}",
            shown(&files.credentials),
            shown(&files.config)
        ))
        .with_help("AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE name other files"));
    };
    keys(name, &settings)?.ok_or_else(|| {
        Error::invalid(format!(
            "profile '{name}' has no aws_access_key_id with an aws_secret_access_key"
        ))
        .with_help(format!("write both into the profile, or give {EXPORT}"))
    })
}

/// The keys of the profile `default`, for users who name no profile: `None` if it has none.
///
/// # Errors
///
/// It gets its credentials in another way, or a file cannot be read.
pub(super) fn default(files: &ProfileFiles) -> Result<Option<AwsCredential>> {
    match find(files, "default")? {
        Some(settings) => keys("default", &settings),
        None => Ok(None),
    }
}

fn keys(name: &str, settings: &HashMap<String, String>) -> Result<Option<AwsCredential>> {
    if let Some(way) = ELSEWHERE.iter().find(|way| settings.contains_key(**way)) {
        return Err(Error::unsupported(format!(
            "profile '{name}' gets its credentials by '{way}', and only keys that stand in a profile are read"
        ))
        .with_help(format!("give {EXPORT}, or choose another profile by AWS_PROFILE")));
    }
    let get = |name: &str| {
        settings
            .get(name)
            .filter(|value| !value.is_empty())
            .cloned()
    };
    let key_id = get("aws_access_key_id");
    let secret_key = get("aws_secret_access_key");
    Ok(key_id
        .zip(secret_key)
        .map(|(key_id, secret_key)| AwsCredential {
            key_id,
            secret_key,
            token: get("aws_session_token"),
        }))
}

/// The settings of a profile in both files; if both have a setting, the one in the credentials file is used.
fn find(files: &ProfileFiles, name: &str) -> Result<Option<HashMap<String, String>>> {
    let mut found = None;
    let config = read(files.config.as_deref())?;
    let is_of_config = |header: &str| match header.strip_prefix("profile") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim() == name,
        _ => header == "default" && name == "default",
    };
    add_section(&config, is_of_config, &mut found);
    let credentials = read(files.credentials.as_deref())?;
    add_section(&credentials, |header| header == name, &mut found);
    Ok(found)
}

/// The text of a file; empty if the file does not exist.
fn read(file: Option<&Path>) -> Result<String> {
    let Some(file) = file else {
        return Ok(String::new());
    };
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(String::new())
        }
        Err(error) => {
            let file = format!("the credentials of AWS in '{}'", file.display());
            Err(Error::from(error).context(file))
        }
    }
}

/// Adds the settings of the wanted sections. Indented lines belong to the setting above them.
fn add_section(
    text: &str,
    is_meant: impl Fn(&str) -> bool,
    found: &mut Option<HashMap<String, String>>,
) {
    let mut is_inside = false;
    for line in text.lines() {
        if line.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            is_inside = is_meant(header.trim());
            if is_inside {
                found.get_or_insert_with(HashMap::new);
            }
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| is_inside) else {
            continue;
        };
        // A comment begins behind a space.
        let comments = [" #", " ;", "\t#", "\t;"];
        let end = comments.iter().filter_map(|mark| value.find(mark)).min();
        let value = &value[..end.unwrap_or(value.len())];
        found
            .get_or_insert_with(HashMap::new)
            .insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
}
