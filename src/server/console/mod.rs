//! The console: a page in the browser, and the JSON it lives on.
//!
//! Every request passes [`access`]; every statement goes through [`statements`].

mod access;
mod api;
mod connections;
mod problem;
mod rows;
mod statements;
mod tls;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::error::Result;
use crate::server::console::access::Origins;
use crate::server::console::statements::Statements;
use crate::server::engine::Engine;
use crate::server::login::Login;

/// Nothing but the page's own files, no text as markup or code, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_FRAME_OPTIONS, "DENY"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// A file of the page, by its name below `/assets/`.
macro_rules! asset {
    ($name:literal, $of:expr) => {
        ($name, $of, include_str!(concat!("assets/", $name)))
    };
}

const INDEX: &str = include_str!("assets/index.html");
const ASSETS: [(&str, &str, &str); 14] = [
    asset!("style.css", CSS),
    asset!("icon.svg", "image/svg+xml"),
    asset!("app.js", SCRIPT),
    asset!("api.js", SCRIPT),
    asset!("chart.js", SCRIPT),
    asset!("dialog.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("format.js", SCRIPT),
    asset!("grid.js", SCRIPT),
    asset!("job.js", SCRIPT),
    asset!("jobs.js", SCRIPT),
    asset!("live.js", SCRIPT),
    asset!("query.js", SCRIPT),
    asset!("tables.js", SCRIPT),
];

/// How browsers see the console from the other side of a proxy.
#[derive(Debug, Clone)]
pub(super) struct SeenAs {
    /// The names by which it is asked; none: any.
    pub(super) hosts: Arc<[String]>,
    /// Over TLS.
    pub(super) is_secure: bool,
}

/// Answers at `listener` until `stop` is done; then answers in the making may end.
///
/// # Errors
///
/// The socket fails.
pub(super) async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    login: Arc<Login>,
    tls: Option<ServerConfig>,
    seen_as: SeenAs,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let origins = Origins {
        only_loopback: listener.local_addr()?.ip().is_loopback(),
        hosts: seen_as.hosts,
    };
    let statements = Arc::new(Statements::new(engine));
    let api = api::routes(statements, login, tls.is_some() || seen_as.is_secure);
    let routes = router(api, origins);
    let places = connections::places();
    match tls {
        Some(config) => {
            let incoming = tls::secured(listener, config, places);
            connections::serve(incoming, routes, stop).await;
        }
        None => connections::serve(connections::plain(listener, places), routes, stop).await,
    }
    Ok(())
}

fn router(api: Router, origins: Origins) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/assets/{name}", get(asset))
        .nest("/api", api)
        .fallback(nothing)
        .layer(middleware::from_fn_with_state(
            origins,
            access::check_origin,
        ))
        .layer(middleware::from_fn(with_headers))
}

async fn index() -> Response {
    file(HTML, INDEX)
}

async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, of, text)) => file(of, text),
        None => nothing().await,
    }
}

async fn nothing() -> Response {
    let text = "there is nothing at this address\n";
    (StatusCode::NOT_FOUND, [(CONTENT_TYPE, TEXT)], text).into_response()
}

/// A file of this program: another one may have others.
fn file(of: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, of), (CACHE_CONTROL, "no-cache")], text).into_response()
}

async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
