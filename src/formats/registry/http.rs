//! Client of a schema registry with Confluent's REST interface. The only module that names `reqwest`.
//!
//! Secrets are sent to the registry only, and are never displayed or logged.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::{Runtime, RuntimeFlavor};
use url::Url;

use crate::error::{Error, ErrorKind, Result, Subject};
use crate::formats::registry::SchemaRegistry;

/// The address of a registry and its credentials.
#[derive(Clone, Default)]
pub struct HttpRegistryOptions {
    /// The base URL; a user and password in it count as those below.
    pub url: String,
    /// The user of basic authentication.
    pub user: Option<String>,
    /// The password of basic authentication.
    pub password: Option<String>,
    /// A file with PEM certificates to trust, in addition to those that the system trusts.
    pub ca: Option<String>,
    /// How long one request may take; 10 seconds if not given.
    pub timeout: Option<Duration>,
}

/// A client of Confluent's REST interface with a cache of the registry's answers.
pub struct HttpSchemaRegistry {
    base: Url,
    credentials: Option<(String, String)>,
    client: Client,
    schemas: Mutex<HashMap<u32, String>>,
    ids: Mutex<HashMap<(String, String), u32>>,
}

impl HttpSchemaRegistry {
    /// Creates a client; it sends no request yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for an invalid URL, or for certificates that cannot be read.
    pub fn try_new(options: &HttpRegistryOptions) -> Result<Self> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        // The text may hold a password: the error does not repeat it.
        let invalid = || {
            Error::invalid("option 'avro.registry.url' is not an http or https URL")
                .about(Subject::option("avro.registry.url"))
        };
        let mut base = Url::parse(&options.url).map_err(|_| invalid())?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(invalid());
        }
        let user = options
            .user
            .clone()
            .or_else(|| percent_decoded(base.username()));
        let password = options
            .password
            .clone()
            .or_else(|| base.password().and_then(percent_decoded));
        base.set_password(None)
            .and_then(|()| base.set_username(""))
            .map_err(|()| invalid())?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut builder = Client::builder()
            .timeout(options.timeout.unwrap_or(TIMEOUT))
            // Answers are cached, so the next request comes so late that the registry has closed a kept connection.
            .pool_max_idle_per_host(0);
        if let Some(path) = &options.ca {
            builder = builder.tls_certs_merge(read_certificates(path)?);
        }
        let client = builder.build().map_err(|error| {
            Error::invalid(format!("the registry client: {}", error.without_url()))
        })?;
        Ok(Self {
            base,
            credentials: user.map(|user| (user, password.unwrap_or_default())),
            client,
            schemas: Mutex::default(),
            ids: Mutex::default(),
        })
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Error::internal("the registry's URL takes no path"))?
            .pop_if_empty()
            .extend(path);
        let request = self.client.request(method, url).header(
            "Accept",
            "application/vnd.schemaregistry.v1+json, application/json",
        );
        Ok(match &self.credentials {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        })
    }

    /// Sends a request; `what` names the requested object in errors.
    fn send<T: for<'de> Deserialize<'de> + Send + 'static>(
        &self,
        request: RequestBuilder,
        what: &str,
    ) -> Result<T> {
        let place = self.base.origin().ascii_serialization();
        let what = what.to_owned();
        wait(async move {
            let response = request.send().await;
            let response = response.map_err(|error| no_answer(&place, &error))?;
            let status = response.status();
            if !status.is_success() {
                return Err(refusal(&place, &what, status, response).await);
            }
            response.json::<T>().await.map_err(|error| {
                if error.is_decode() {
                    Error::unavailable(format!(
                        "the schema registry at {place} gave an invalid answer for {what}"
                    ))
                } else {
                    no_answer(&place, &error)
                }
            })
        })?
    }
}

/// The error for a request without an answer.
fn no_answer(place: &str, error: &reqwest::Error) -> Error {
    let mut message = format!("the schema registry at {place} did not answer");
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(next) = cause.and_then(std::error::Error::source) {
        cause = Some(next);
    }
    if error.is_timeout() {
        message.push_str(" in time");
    } else if let Some(root) = cause.filter(|root| !root.is::<reqwest::Error>()) {
        message.push_str(&format!(": {root}"));
    }
    Error::unavailable(message)
}

impl SchemaRegistry for HttpSchemaRegistry {
    fn schema_by_id(&self, id: u32) -> Result<String> {
        if let Some(schema) = lock(&self.schemas).get(&id) {
            return Ok(schema.clone());
        }
        let what = format!("schema id {id}");
        let request = self.request(Method::GET, &["schemas", "ids", &id.to_string()])?;
        let found: SchemaAnswer = self.send(request, &what)?;
        if let Some(kind) = found.schema_type.filter(|kind| kind != "AVRO") {
            return Err(Error::data(format!(
                "{what} is a {kind} schema, not an Avro one"
            )));
        }
        if !found.references.is_empty() {
            return Err(Error::unsupported(format!(
                "{what} refers to other schemas"
            )));
        }
        lock(&self.schemas).insert(id, found.schema.clone());
        Ok(found.schema)
    }

    fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let key = (subject.to_owned(), schema.to_owned());
        if let Some(id) = lock(&self.ids).get(&key) {
            return Ok(*id);
        }
        let request = self
            .request(Method::POST, &["subjects", subject, "versions"])?
            .header("Content-Type", "application/vnd.schemaregistry.v1+json")
            .body(json!({ "schema": schema }).to_string());
        let answer: IdAnswer = self.send(request, &format!("subject '{subject}'"))?;
        lock(&self.ids).insert(key, answer.id);
        Ok(answer.id)
    }
}

/// Without the credentials.
impl fmt::Debug for HttpSchemaRegistry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HttpSchemaRegistry")
            .field("url", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// Without the credentials, and without the URL, which may hold some.
impl fmt::Debug for HttpRegistryOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HttpRegistryOptions")
            .field("ca", &self.ca)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct SchemaAnswer {
    schema: String,
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct IdAnswer {
    id: u32,
}

#[derive(Deserialize)]
struct RegistryRefusal {
    message: String,
}

/// The error for a status other than success; its kind says who must act.
async fn refusal(place: &str, what: &str, status: StatusCode, response: Response) -> Error {
    let said = response
        .json::<RegistryRefusal>()
        .await
        .map(|refusal| refusal.message)
        .unwrap_or_default();
    let said = if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    };
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::new(
            ErrorKind::Permission,
            format!("the schema registry at {place} refused access to {what}{said}"),
        )
        .with_help("check options 'avro.registry.user' and 'avro.registry.password'"),
        StatusCode::NOT_FOUND => Error::not_found(format!(
            "{what} is not in the schema registry at {place}{said}"
        )),
        // A retry may help after 425 and 429; any other refusal of the request is permanent.
        status
            if status.is_client_error()
                && !matches!(
                    status,
                    StatusCode::REQUEST_TIMEOUT
                        | StatusCode::TOO_EARLY
                        | StatusCode::TOO_MANY_REQUESTS
                ) =>
        {
            Error::invalid(format!(
                "the schema registry at {place} refused {what}{said}"
            ))
            .without_row()
        }
        status => Error::unavailable(format!(
            "the schema registry at {place} answered {} for {what}{said}",
            status.as_u16()
        )),
    }
}

/// Runs one request to its end on the runtime of all requests, so that it can be waited for from anywhere, a worker of another
/// runtime included.
fn wait<T: Send + 'static>(request: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let (sender, answer) = std::sync::mpsc::sync_channel(1);
    requests()?.spawn(async move {
        // The receiver is waiting until it has an answer.
        let _ = sender.send(request.await);
    });
    let receive = || answer.recv();
    let is_worker = tokio::runtime::Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    let answer = match is_worker {
        // Other tasks of the worker go on meanwhile: a registry that does not answer stops nothing but its own readers (SAFE-1).
        true => tokio::task::block_in_place(receive),
        false => receive(),
    };
    answer.map_err(|_| Error::internal("a request to the schema registry panicked"))
}

/// The runtime of requests to all registries. Its only thread begins with the first of them and ends with the process.
fn requests() -> Result<Arc<Runtime>> {
    static REQUESTS: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);
    let mut begun = lock(&REQUESTS);
    if let Some(runtime) = &*begun {
        return Ok(Arc::clone(runtime));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("schema-registry")
        .enable_all()
        .build()?;
    let runtime = begun.insert(Arc::new(runtime));
    Ok(Arc::clone(runtime))
}

fn read_certificates(path: &str) -> Result<Vec<Certificate>> {
    let pem = std::fs::read(path).map_err(|error| {
        Error::invalid(format!("option 'avro.registry.ca', {path}: {error}"))
            .about(Subject::option("avro.registry.ca"))
    })?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::invalid(format!(
            "option 'avro.registry.ca': {path} holds no certificates"
        ))
        .about(Subject::option("avro.registry.ca"))),
    }
}

/// A user or password as it stands in a URL; `None` if it is empty.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after
            .get(..2)
            .and_then(|code| std::str::from_utf8(code).ok());
        match code
            .and_then(|code| u8::from_str_radix(code, 16).ok())
            .filter(|_| *first == b'%')
        {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.is_empty())
}

/// A value that a panicking thread held is still whole: a map is only inserted into, and the runtime is set as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
