//! Endpoints of the console's page: JSON over statements.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
use chrono::{DateTime, SecondsFormat, Utc};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind, Result as EngineResult};
use crate::planner::script::{identifier, quoted};
use crate::runtime::JobStatus;
use crate::server::auth::access::Caller;
use crate::server::auth::login::{Login, cookie};
use crate::server::console::access::{self, TOKEN};
use crate::server::console::problem::{Problem, json_text, with_json};
use crate::server::console::rows::ResultLimits;
use crate::server::console::statements::{ConsoleStatements, RowDelivery, StatementAnswer};

/// The most bytes of a request's body.
const MAX_BODY: usize = 1 << 20;
/// The body of a request comes within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most rows of a result.
const MAX_ROWS: usize = 10_000;
/// The rows of a result, unless the page asks for another number.
const DEFAULT_ROWS: usize = 1_000;
/// The most bytes of a result's JSON.
const MAX_BYTES: usize = 16 << 20;
/// Batches that are shown.
const BATCHES: u64 = 100;
/// Late rows and dead letters that are shown.
const SET_ASIDE: usize = 50;
/// Batches on the time axis of a job: it keeps about as many.
const HISTORY: usize = 2_000;
/// Groups of late rows on the time axis of a job.
const LATE_GROUPS: usize = 1_000;
/// An answer about all jobs is used for every viewer for so long.
const FRESH: Duration = Duration::from_secs(1);

const OWN: ResultLimits = ResultLimits {
    rows: MAX_ROWS,
    bytes: MAX_BYTES,
};

type ApiResult = Result<Response, Problem>;

/// All routes below `/api`.
pub(super) fn routes(
    statements: Arc<ConsoleStatements>,
    login: Arc<Login>,
    is_secure: bool,
) -> Router {
    let console = Arc::new(Console {
        statements,
        login: Arc::clone(&login),
        is_secure,
        jobs: tokio::sync::Mutex::default(),
    });
    Router::new()
        .route("/about", get(about))
        .route("/jobs", get(jobs))
        .route("/jobs/{job}/batches", get(batches))
        .route("/jobs/{job}/partitions", get(partitions))
        .route("/jobs/{job}/late-rows", get(late_rows))
        .route("/jobs/{job}/dead-letters", get(dead_letters))
        .route("/jobs/{job}/definition", get(job_definition))
        .route("/jobs/{job}/history", get(history))
        .route("/jobs/{job}/late-times", get(late_times))
        .route("/jobs/{job}/pause", post(pause))
        .route("/jobs/{job}/resume", post(resume))
        .route("/jobs/{job}/rewind", post(rewind))
        .route("/runs", get(runs))
        .route("/runs/{run}", get(run_description))
        .route("/runs/{run}/changes/{kind}", get(run_changes))
        .route("/functions", get(functions))
        .route("/system/{table}/columns", get(system_columns))
        .route("/tables", get(tables))
        .route("/tables/{table}/columns", get(columns))
        .route("/tables/{table}/definition", get(table_definition))
        .route("/tables/{table}/coverage", get(coverage))
        .route("/query", post(query))
        .route("/query/cancel", post(cancel))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(login, access::check_caller))
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(console)
}

struct Console {
    statements: Arc<ConsoleStatements>,
    login: Arc<Login>,
    /// Whether the connection is encrypted.
    is_secure: bool,
    /// The last answer about all jobs, and its time.
    jobs: tokio::sync::Mutex<Option<(Instant, Value)>>,
}

type ConsoleState = State<Arc<Console>>;

/// A body of JSON.
struct JsonBody<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = tokio::time::timeout(PATIENCE, Bytes::from_request(request, state)).await;
        let body = body.map_err(|_| {
            Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                Error::new(ErrorKind::Timeout, "the request is incomplete"),
            )
        })?;
        let body = body.map_err(|error: BytesRejection| {
            Problem::new(
                error.status(),
                Error::invalid(error.body_text().to_lowercase()),
            )
        })?;
        let sent = serde_json::from_slice(&body);
        let sent = sent.map_err(|error| Error::invalid(format!("the request: {error}")))?;
        Ok(Self(sent))
    }
}

/// The name in a path.
struct PathName(String);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for PathName {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Problem> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        let name = name.map_err(|error: PathRejection| Error::invalid(error.body_text()))?;
        Ok(Self(name.0))
    }
}

async fn unknown() -> Problem {
    Error::not_found("there is nothing at this address").into()
}

async fn wrong_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Error::invalid("this method is not allowed for this address"),
    )
}

async fn about(State(console): ConsoleState, Extension(caller): Extension<Caller>) -> Response {
    let user = console.login.is_closed().then_some(&*caller.name);
    let about = json!({"version": env!("CARGO_PKG_VERSION"), "user": user});
    with_json(StatusCode::OK, &about)
}

#[derive(Deserialize)]
struct Credentials {
    user: String,
    password: String,
}

async fn log_in(State(console): ConsoleState, JsonBody(given): JsonBody<Credentials>) -> ApiResult {
    let token = access::log_in(&console.login, &given.user, &given.password).await?;
    Ok(with_cookie(&token, console.more(), &given.user))
}

async fn log_out(
    State(console): ConsoleState,
    headers: HeaderMap,
    JsonBody(_): JsonBody<Value>,
) -> Response {
    if let Some(token) = cookie(&headers, TOKEN) {
        console.login.log_out(token);
    }
    with_cookie("", &format!("; Max-Age=0{}", console.more()), "")
}

impl Console {
    fn more(&self) -> &'static str {
        match self.is_secure {
            true => "; Secure",
            false => "",
        }
    }
}

/// The token as a cookie that scripts cannot read and other sites cannot send.
fn with_cookie(token: &str, more: &str, user: &str) -> Response {
    let cookie = format!("{TOKEN}={token}; Path=/api; HttpOnly; SameSite=Strict{more}");
    let answer = with_json(StatusCode::OK, &json!({"user": user}));
    (AppendHeaders([(SET_COOKIE, cookie)]), answer).into_response()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the page shows the time of the server"
)]
async fn jobs(State(console): ConsoleState, Extension(caller): Extension<Caller>) -> ApiResult {
    // The others wait for the first one.
    let mut known = console.jobs.lock().await;
    // A caller who may see only some tables does not get the answer for other callers.
    let is_for_all = caller.tables.is_none();
    if let Some((at, said)) = known.as_ref().filter(|_| is_for_all)
        && at.elapsed() < FRESH
    {
        return Ok(with_json(StatusCode::OK, said));
    }
    let sql = "SELECT job, state, reason, batch, generation, committed_at, owner \
               FROM system.jobs ORDER BY job";
    let found = console.statements.ask(&caller, sql, &[], OWN).await?;
    let statuses = console.statements.statuses();
    let jobs = found.objects()?.into_iter().map(|mut job| {
        let here = job.get("job").and_then(Value::as_str);
        let here = here.and_then(|name| statuses.get(name)).map(job_status);
        job.insert("here".to_owned(), here.unwrap_or(Value::Null));
        Value::Object(job)
    });
    let jobs: Vec<Value> = jobs.collect();
    let said = json!({"now": iso(Utc::now()), "jobs": jobs});
    if is_for_all {
        *known = Some((Instant::now(), said.clone()));
    }
    Ok(with_json(StatusCode::OK, &said))
}

/// The live status of a job that runs in this process.
fn job_status(status: &JobStatus) -> Value {
    let watermark = status.watermark.and_then(DateTime::from_timestamp_micros);
    json!({
        "lag": status.lag,
        "batches": status.report.batches,
        "rows_in": status.report.rows_in,
        "rows_out": status.report.rows_out,
        "batch_milliseconds": u64::try_from(status.last_batch.as_millis()).unwrap_or(u64::MAX),
        "watermark": watermark.map(iso),
        "state_rows": status.state_rows,
    })
}

fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

async fn batches(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
) -> ApiResult {
    let (statements, values) = (&console.statements, [("job", &*job)]);
    let sql = "SELECT batch FROM system.jobs WHERE job = $job";
    let found = statements.ask(&caller, sql, &values, OWN).await?;
    let found = found.objects()?.into_iter().next();
    let found = found.ok_or_else(|| Error::not_found(format!("no job is named {job}")))?;
    let last = found.get("batch").and_then(Value::as_u64).unwrap_or(0);
    // Only those that are shown are read.
    let sql = format!(
        "SELECT batch, generation, rows_in, rows_out, dead_letters, late_rows, watermark, offsets, published, committed_at, milliseconds \
         FROM system.batches WHERE job = $job AND batch > {} ORDER BY batch",
        last.saturating_sub(BATCHES)
    );
    as_json(&statements.ask(&caller, &sql, &values, OWN).await?)
}

async fn partitions(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
) -> ApiResult {
    let sql = "SELECT \"table\", \"partition\", \"offset\", watermark, idle, holds_back \
               FROM system.partitions WHERE job = $job ORDER BY \"table\", \"partition\"";
    as_json(
        &console
            .statements
            .ask(&caller, sql, &[("job", &job)], OWN)
            .await?,
    )
}

async fn late_rows(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
) -> ApiResult {
    let sql = "SELECT batch, topic, \"partition\", \"offset\", value, watermark, window_start, window_end, \
               count(*) OVER () AS total FROM system.late_rows";
    set_aside(&console, &caller, sql, &job).await
}

async fn dead_letters(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
) -> ApiResult {
    let sql = "SELECT batch, \"table\", topic, \"partition\", \"offset\", \"timestamp\", key, value, reason, \
               count(*) OVER () AS total FROM system.dead_letters";
    set_aside(&console, &caller, sql, &job).await
}

/// The newest rows of those that a job has set aside, each with the number of all.
async fn set_aside(console: &Console, caller: &Caller, sql: &str, job: &str) -> ApiResult {
    let sql = format!(
        "{sql} WHERE job = $job ORDER BY batch DESC, \"partition\", \"offset\" DESC LIMIT {SET_ASIDE}"
    );
    let values = [("job", job)];
    let found = console.statements.ask(caller, &sql, &values, OWN).await?;
    as_json(&found)
}

async fn job_definition(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
) -> ApiResult {
    let sql = format!("SHOW CREATE JOB {}", identifier(&job));
    let found = console.statements.ask(&caller, &sql, &[], OWN).await?;
    first(found.objects()?)
}

async fn pause(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
    JsonBody(_): JsonBody<Value>,
) -> ApiResult {
    change(
        &console,
        &caller,
        &format!("PAUSE JOB {}", identifier(&job)),
    )
    .await
}

async fn resume(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
    JsonBody(_): JsonBody<Value>,
) -> ApiResult {
    change(
        &console,
        &caller,
        &format!("RESUME JOB {}", identifier(&job)),
    )
    .await
}

#[derive(Deserialize)]
struct Rewind {
    batch: u64,
}

async fn rewind(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
    JsonBody(Rewind { batch }): JsonBody<Rewind>,
) -> ApiResult {
    let sql = format!("REWIND JOB {} TO BATCH {batch}", identifier(&job));
    change(&console, &caller, &sql).await
}

async fn change(console: &Console, caller: &Caller, sql: &str) -> ApiResult {
    let said = console.statements.change(caller, sql).await?;
    // The next request must see the change.
    *console.jobs.lock().await = None;
    Ok(with_json(StatusCode::OK, &json!({"said": said})))
}

/// All batches that a job keeps, with what the time axis has of them.
async fn history(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
) -> ApiResult {
    let sql = format!(
        "SELECT batch, rows_in, rows_out, late_rows, watermark, offsets, committed_at FROM system.batches \
         WHERE job = $job ORDER BY batch DESC LIMIT {HISTORY}"
    );
    let found = console
        .statements
        .ask(&caller, &sql, &[("job", &job)], OWN)
        .await?;
    as_json(&found)
}

/// The late rows of a job by the windows that they missed.
async fn late_times(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(job): PathName,
) -> ApiResult {
    let sql = format!(
        "SELECT window_start, window_end, count(*) AS late_rows FROM system.late_rows WHERE job = $job \
         GROUP BY window_start, window_end ORDER BY window_start DESC LIMIT {LATE_GROUPS}"
    );
    let found = console
        .statements
        .ask(&caller, &sql, &[("job", &job)], OWN)
        .await?;
    as_json(&found)
}

async fn runs(State(console): ConsoleState, Extension(caller): Extension<Caller>) -> ApiResult {
    let sql = "SELECT * FROM system.runs";
    as_json(&console.statements.ask(&caller, sql, &[], OWN).await?)
}

async fn run_description(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(run): PathName,
) -> ApiResult {
    let sql = format!("DESCRIBE RUN {}", quoted(&run));
    as_json(&console.statements.ask(&caller, &sql, &[], OWN).await?)
}

/// The first rows of one kind that differ from the published ones, each with the number of all.
async fn run_changes(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> ApiResult {
    let Path((run, kind)) = path.map_err(|error| Error::invalid(error.body_text()))?;
    // The run has counted the rows of each kind: only the files of the first ones are read.
    let total = match kind.as_str() {
        kind @ ("changed" | "new" | "gone" | "unknown") => {
            format!(
                "(SELECT {} FROM system.runs WHERE run_id = $run)",
                identifier(kind)
            )
        }
        _ => "0".to_owned(),
    };
    let sql = format!(
        "SELECT *, {total} AS total FROM (SELECT * FROM system.run_changes WHERE run_id = $run AND kind = $kind LIMIT {SET_ASIDE}) \
         ORDER BY chunk"
    );
    let values = [("run", &*run), ("kind", &*kind)];
    let found = console.statements.ask(&caller, &sql, &values, OWN).await?;
    as_json(&found)
}

/// The names of all functions, for completion.
async fn functions(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
) -> ApiResult {
    let sql = "SELECT DISTINCT routine_name FROM information_schema.routines ORDER BY routine_name";
    as_json(&console.statements.ask(&caller, sql, &[], OWN).await?)
}

async fn system_columns(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(table): PathName,
) -> ApiResult {
    let sql = format!("DESCRIBE SELECT * FROM system.{}", identifier(&table));
    as_json(&console.statements.ask(&caller, &sql, &[], OWN).await?)
}

/// Which offsets of a topic its archive has.
async fn coverage(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(table): PathName,
) -> ApiResult {
    let sql = format!("SELECT * FROM archive_coverage({})", quoted(&table));
    as_json(&console.statements.ask(&caller, &sql, &[], OWN).await?)
}

async fn tables(State(console): ConsoleState, Extension(caller): Extension<Caller>) -> ApiResult {
    as_json(
        &console
            .statements
            .ask(&caller, "SHOW TABLES", &[], OWN)
            .await?,
    )
}

async fn columns(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(table): PathName,
) -> ApiResult {
    let sql = format!("DESCRIBE {}", identifier(&table));
    as_json(&console.statements.ask(&caller, &sql, &[], OWN).await?)
}

async fn table_definition(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    PathName(table): PathName,
) -> ApiResult {
    let sql = format!("SHOW CREATE TABLE {}", identifier(&table));
    let found = console.statements.ask(&caller, &sql, &[], OWN).await?;
    first(found.objects()?)
}

#[derive(Deserialize)]
struct Query {
    sql: String,
    /// The name by which the statement can be stopped. The sender chooses it, so that no other user can guess it.
    id: String,
    /// How many rows are wanted at most.
    rows: Option<usize>,
    /// Whether rows without an end are taken as they come, each batch as lines of JSON.
    #[serde(default)]
    live: bool,
}

async fn query(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    JsonBody(asked): JsonBody<Query>,
) -> ApiResult {
    let limits = ResultLimits {
        rows: asked.rows.unwrap_or(DEFAULT_ROWS).min(MAX_ROWS),
        bytes: MAX_BYTES,
    };
    let delivery = RowDelivery {
        limits,
        is_live: asked.live,
    };
    let running = console
        .statements
        .run(&caller, asked.id, &asked.sql, delivery);
    match running.await? {
        StatementAnswer::Whole(answer) => as_json(&answer),
        StatementAnswer::Live(lines) => Ok(as_lines(lines)),
    }
}

/// Lines as they come. The status is sent before the first of them: an error is the last one.
fn as_lines(lines: BoxStream<'static, EngineResult<Bytes>>) -> Response {
    let lines = lines.map(|line| {
        Ok::<_, Infallible>(line.unwrap_or_else(|error| {
            let body = Problem::from(error).body();
            format!("{body}\n").into()
        }))
    });
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(lines)).into_response()
}

#[derive(Deserialize)]
struct Cancel {
    id: String,
}

async fn cancel(
    State(console): ConsoleState,
    Extension(caller): Extension<Caller>,
    JsonBody(Cancel { id }): JsonBody<Cancel>,
) -> Response {
    let stopped = console.statements.stop(&caller, &id);
    with_json(StatusCode::OK, &json!({"stopped": stopped}))
}

fn as_json(answer: &impl Serialize) -> ApiResult {
    let text = serde_json::to_string(answer);
    let text = text.map_err(|error| Error::internal(error.to_string()))?;
    Ok(json_text(StatusCode::OK, text))
}

fn first(rows: Vec<serde_json::Map<String, Value>>) -> ApiResult {
    let row = rows.into_iter().next();
    let row = row.ok_or_else(|| Error::internal("a definition without rows"))?;
    Ok(with_json(StatusCode::OK, &Value::Object(row)))
}
