//! S3 stores: bucket, settings and credentials of a store, from its URL, the options of a table and the environment.
//!
//! Options take precedence over variables of the environment. A key, its secret and its session token come from one source:
//! parts of two sources are never combined. Credentials are searched in this order, and the first ones found are used:
//!
//! 1. keys among the options, or the profile that they name;
//! 2. `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` of the environment;
//! 3. the keys of the profile that `AWS_PROFILE` names, in the files of the AWS command line;
//! 4. a web identity, or the container's service of credentials, if variables name them;
//! 5. the keys of the profile `default`;
//! 6. the metadata service of the machine.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::{Arc, Once};
use std::time::Duration;

use async_trait::async_trait;
use object_store::aws::{
    AmazonS3Builder, AmazonS3ConfigKey as Key, AwsCredential, AwsCredentialProvider,
};
use object_store::path::Path;
use object_store::{
    ClientConfigKey, CredentialProvider, Error as StoreError, ObjectStore, ObjectStoreScheme,
    RetryConfig, StaticCredentialProvider,
};
use url::Url;

use super::profile::{self, ProfileFiles};
use crate::error::{Error, Result};

/// Settings that hold the credentials.
const SECRETS: [Key; 3] = [Key::AccessKeyId, Key::SecretAccessKey, Key::Token];

/// If two variables of the environment mean the same, these are used: they are those of the AWS command line.
const PREFERRED: [&str; 2] = ["aws_endpoint_url", "aws_session_token"];

/// Variables that name a role to be assumed with other credentials.
const ASSUMED_ROLES: [&str; 2] = ["aws_iam_role_arn", "aws_s3_assume_role_arn"];

/// Timeout and retries for the metadata service of the machine. On a machine without one, requests get no answer.
const METADATA_TIME: Duration = Duration::from_secs(10);
const METADATA_RETRIES: usize = 3;

/// Whether a URL is the URL of a bucket: `s3://`, `s3a://`, or the `https://` URL of a bucket at AWS.
pub(super) fn is_s3(url: &Url) -> bool {
    matches!(
        ObjectStoreScheme::parse(url),
        Ok((ObjectStoreScheme::AmazonS3, _))
    )
}

/// Opens the bucket that `url` names and returns it with the path of `url` in it. `options` are those of a table, spelled like
/// `aws_region`; settings that they leave out are taken from the environment. Sends no request before the store is used.
///
/// # Errors
///
/// An option or a variable has an invalid value, or the credentials are incomplete or missing.
pub fn open_s3(
    url: &Url,
    options: &HashMap<String, String>,
) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let (builder, path) = builder(url, options)?;
    Ok((Arc::new(builder.build().map_err(wrong)?), path))
}

/// A bucket by two clients that share their credentials.
pub(super) struct Bucket {
    /// Repeats requests that fail.
    pub(super) store: Arc<dyn ObjectStore>,
    /// Sends each request once.
    pub(super) once: Arc<dyn ObjectStore>,
    /// The path of the URL in the bucket.
    pub(super) path: Path,
}

impl Bucket {
    /// Opens a bucket as [`open_s3`] does.
    pub(super) fn open(url: &Url, options: &HashMap<String, String>) -> Result<Self> {
        let (builder, path) = builder(url, options)?;
        let store = builder.clone().build().map_err(wrong)?;
        let once = builder
            .with_credentials(Arc::clone(store.credentials()))
            .with_retry(RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            });
        Ok(Self {
            once: Arc::new(once.build().map_err(wrong)?),
            store: Arc::new(store),
            path,
        })
    }
}

fn wrong(error: StoreError) -> Error {
    Error::invalid(format!("the options of the store do not fit: {error}"))
        .with_help("check the options 'aws.…' and the variables AWS_… of the environment")
}

/// The settings of the client of a bucket, and the path of the URL in it.
fn builder(url: &Url, options: &HashMap<String, String>) -> Result<(AmazonS3Builder, Path)> {
    let (_, path) = ObjectStoreScheme::parse(url).map_err(|error| {
        Error::invalid(format!("'{url}' is not a location in a bucket: {error}"))
    })?;
    let ClientSettings { keys, source } =
        ClientSettings::find(options, &S3Environment::of_process())?;
    let mut builder = AmazonS3Builder::new().with_url(url.as_str());
    for (key, value) in keys {
        builder = builder.with_config(key, value);
    }
    builder = match source {
        CredentialSource::Keys(credential) => {
            builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)))
        }
        CredentialSource::Machine => {
            let asked = builder.clone().with_retry(RetryConfig {
                max_retries: METADATA_RETRIES,
                retry_timeout: METADATA_TIME,
                ..RetryConfig::default()
            });
            let inner = Arc::clone(asked.build().map_err(wrong)?.credentials());
            builder.with_credentials(Arc::new(MachineCredentials { inner }))
        }
        CredentialSource::Unsigned | CredentialSource::Service => builder,
    };
    Ok((builder, path))
}

/// The settings of S3 in the environment.
struct S3Environment {
    /// Variables that begin with `AWS_`, by their names in lower case; those without a value are left out.
    variables: BTreeMap<String, String>,
    home: Option<PathBuf>,
}

impl S3Environment {
    fn of_process() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.to_str()?.to_ascii_lowercase();
            let value = value.to_str().filter(|value| !value.is_empty())?;
            name.starts_with("aws_").then(|| (name, value.to_owned()))
        });
        Self {
            variables: variables.collect(),
            home: std::env::home_dir(),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }

    fn profile_files(&self) -> ProfileFiles {
        let file = |variable: &str, name: &str| {
            let named = self.get(variable).map(PathBuf::from);
            named.or_else(|| Some(self.home.as_ref()?.join(".aws").join(name)))
        };
        ProfileFiles {
            credentials: file("aws_shared_credentials_file", "credentials"),
            config: file("aws_config_file", "config"),
        }
    }
}

/// Source of the credentials of a store.
enum CredentialSource {
    /// Requests are not signed.
    Unsigned,
    Keys(AwsCredential),
    /// A web identity, or the credentials service of a container: the client decides by the variables.
    Service,
    /// The metadata service of the machine.
    Machine,
}

/// Settings of the client of a store.
struct ClientSettings {
    /// All but the keys.
    keys: HashMap<Key, String>,
    source: CredentialSource,
}

impl ClientSettings {
    fn find(options: &HashMap<String, String>, environment: &S3Environment) -> Result<Self> {
        let sorted: BTreeMap<_, _> = options.iter().collect();
        let given = read_keys(sorted);
        let mut keys = read_keys(&environment.variables);
        let source = source(options, &given, &keys, environment)?;
        // An endpoint for S3 only, from the environment, would override the endpoint in the table's options.
        if given.contains_key(&Key::Endpoint) {
            keys.remove(&Key::S3Endpoint);
        }
        keys.extend(given);
        keys.retain(|key, _| !SECRETS.contains(key));
        for key in [Key::Endpoint, Key::S3Endpoint] {
            let Some(endpoint) = keys.get_mut(&key) else {
                continue;
            };
            check_endpoint(endpoint)?;
            endpoint.truncate(endpoint.trim_end_matches('/').len());
        }
        // A user who names an endpoint without TLS allows plain HTTP.
        let endpoint = keys
            .get(&Key::S3Endpoint)
            .or_else(|| keys.get(&Key::Endpoint));
        if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
            keys.entry(Key::Client(ClientConfigKey::AllowHttp))
                .or_insert_with(|| "true".to_owned());
        }
        Ok(Self { keys, source })
    }
}

/// The settings that the client of the store supports; others are left out.
fn read_keys<N: AsRef<str>, V: AsRef<str>>(
    named: impl IntoIterator<Item = (N, V)>,
) -> HashMap<Key, String> {
    let mut keys = HashMap::new();
    for (name, value) in named {
        let name = name.as_ref();
        let Ok(key) = Key::from_str(name) else {
            continue;
        };
        if PREFERRED.contains(&name) || !keys.contains_key(&key) {
            keys.insert(key, value.as_ref().to_owned());
        }
    }
    keys
}

/// Chooses the source of the credentials; `given` are the settings of the options, `of_process` those of the environment.
fn source(
    options: &HashMap<String, String>,
    given: &HashMap<Key, String>,
    of_process: &HashMap<Key, String>,
    environment: &S3Environment,
) -> Result<CredentialSource> {
    let unsigned = given
        .get(&Key::SkipSignature)
        .or_else(|| of_process.get(&Key::SkipSignature));
    if unsigned.is_some_and(|value| is_true(value)) {
        return Ok(CredentialSource::Unsigned);
    }
    if SECRETS.iter().any(|key| given.contains_key(key)) {
        let credential = whole(given).ok_or_else(|| {
            Error::invalid(
                "options 'aws.access_key_id' and 'aws.secret_access_key' are given together, or neither of them, and \
                 'aws.session_token' only with both",
            )
            .with_help("keys of options are not completed by those of the environment")
        })?;
        return Ok(CredentialSource::Keys(credential));
    }
    let files = environment.profile_files();
    if let Some(name) = options.get("aws_profile") {
        let credential =
            profile::named(&files, name).map_err(|error| error.context("option 'aws.profile'"))?;
        return Ok(CredentialSource::Keys(credential));
    }
    if let Some(name) = ASSUMED_ROLES
        .into_iter()
        .find(|name| environment.get(name).is_some())
    {
        let name = name.to_ascii_uppercase();
        return Err(Error::unsupported(format!(
            "{name} is set, and a role is not assumed with other credentials"
        ))
        .with_help(format!(
            "unset it, and give the process the role itself: that of the machine or the container, a web identity \
             (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN), or {}",
            profile::EXPORT
        )));
    }
    if environment.get("aws_s3_locking_provider").is_some() {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            tracing::warn!(
                "AWS_S3_LOCKING_PROVIDER is set and not used: commits are conditional writes, which writers that lock do not see"
            );
        });
    }
    let has = |key: &Key| of_process.contains_key(key);
    if has(&Key::AccessKeyId) || has(&Key::SecretAccessKey) {
        let credential = whole(of_process).ok_or_else(|| {
            Error::invalid(
                "one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set without the other",
            )
            .with_help("set both, or unset both")
        })?;
        return Ok(CredentialSource::Keys(credential));
    }
    if let Some(name) = environment.get("aws_profile") {
        let credential =
            profile::named(&files, name).map_err(|error| error.context("AWS_PROFILE"))?;
        return Ok(CredentialSource::Keys(credential));
    }
    if has(&Key::WebIdentityTokenFile) {
        if !has(&Key::RoleArn) {
            return Err(
                Error::invalid("AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN")
                    .with_help("set AWS_ROLE_ARN to the role of the web identity"),
            );
        }
        return Ok(CredentialSource::Service);
    }
    if has(&Key::ContainerCredentialsRelativeUri) {
        return Ok(CredentialSource::Service);
    }
    if has(&Key::ContainerCredentialsFullUri) {
        if !has(&Key::ContainerAuthorizationTokenFile) {
            return Err(Error::unsupported(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI is set without AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            )
            .with_help("the credentials service needs a token from a file"));
        }
        return Ok(CredentialSource::Service);
    }
    if let Some(credential) = profile::default(&files)? {
        return Ok(CredentialSource::Keys(credential));
    }
    if environment.is_true("aws_ec2_metadata_disabled") {
        return Err(Error::invalid(
            "there are no credentials for the store: neither options, nor the environment, nor a profile has them, and the \
             metadata service of the machine is switched off (AWS_EC2_METADATA_DISABLED)",
        )
        .with_help(
            "give 'aws.access_key_id' and 'aws.secret_access_key', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ));
    }
    Ok(CredentialSource::Machine)
}

/// A key with its secret, and its session token if there is one; an empty token is none.
fn whole(keys: &HashMap<Key, String>) -> Option<AwsCredential> {
    let get = |key: &Key| keys.get(key).filter(|value| !value.is_empty()).cloned();
    Some(AwsCredential {
        key_id: get(&Key::AccessKeyId)?,
        secret_key: get(&Key::SecretAccessKey)?,
        token: get(&Key::Token),
    })
}

/// Parses a boolean as the client of the store does.
fn is_true(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "true" | "on" | "yes" | "y"
    )
}

/// Checks the endpoint's URL. The error does not show it, since it may hold a password.
fn check_endpoint(endpoint: &str) -> Result<()> {
    let is_url = Url::parse(endpoint)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    if is_url {
        return Ok(());
    }
    Err(
        Error::invalid("the endpoint of the store is not an http:// or https:// URL").with_help(
            "write 'aws.endpoint', or AWS_ENDPOINT_URL, with its scheme: 'http://127.0.0.1:9000'",
        ),
    )
}

/// The credentials of the machine, with an error that explains why they were needed.
#[derive(Debug)]
struct MachineCredentials {
    inner: AwsCredentialProvider,
}

#[async_trait]
impl CredentialProvider for MachineCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let asked = self.inner.get_credential().await;
        asked.map_err(|error| StoreError::Generic {
            store: "S3",
            source: format!(
                "neither options, nor the environment, nor a profile has credentials for the store, and the metadata \
                 service of the machine gives none: {error}"
            )
            .into(),
        })
    }
}

#[cfg(test)]
#[path = "s3_tests.rs"]
mod tests;
