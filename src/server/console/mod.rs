//! The console: a page in the browser, and the JSON endpoints that it calls.
//!
//! Every request passes [`access`]; every statement goes through [`statements`].

mod access;
mod api;
mod assets;
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
use crate::server::auth::login::Login;
use crate::server::console::access::AllowedOrigins;
use crate::server::console::assets::{Asset, INDEX};
use crate::server::console::statements::ConsoleStatements;
use crate::server::engine::Engine;

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

const TEXT: &str = "text/plain; charset=utf-8";

/// How browsers see the console from the other side of a proxy.
#[derive(Debug, Clone)]
pub(super) struct PublicAddress {
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
    seen_as: PublicAddress,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let origins = AllowedOrigins {
        only_loopback: listener.local_addr()?.ip().is_loopback(),
        hosts: seen_as.hosts,
    };
    let statements = Arc::new(ConsoleStatements::new(engine));
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

fn router(api: Router, origins: AllowedOrigins) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/assets/{*name}", get(asset))
        .nest("/api", api)
        .fallback(nothing)
        .layer(middleware::from_fn_with_state(
            origins,
            access::check_origin,
        ))
        .layer(middleware::from_fn(with_headers))
}

async fn index() -> Response {
    file(&INDEX)
}

async fn asset(Path(name): Path<String>) -> Response {
    match assets::find(&name) {
        Some(asset) => file(asset),
        None => nothing().await,
    }
}

async fn nothing() -> Response {
    let text = "there is nothing at this address\n";
    (StatusCode::NOT_FOUND, [(CONTENT_TYPE, TEXT)], text).into_response()
}

/// A file of this program. Browsers ask for it again each time: another version may have another one.
fn file(asset: &'static Asset) -> Response {
    let headers = [
        (CONTENT_TYPE, asset.content_type),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, asset.text).into_response()
}

async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::Service as _;

    use super::*;
    use crate::server::console::assets::ASSETS;

    async fn get(path: &str) -> Response {
        let origins = AllowedOrigins {
            only_loopback: true,
            hosts: Arc::default(),
        };
        let request = axum::http::Request::get(path).header("Host", "localhost");
        let request = request.body(Body::empty()).unwrap();
        let mut routes = router(Router::new(), origins);
        routes.call(request).await.unwrap()
    }

    #[track_caller]
    fn assert_header(response: &Response, name: HeaderName, value: &str) {
        let found = response.headers().get(&name);
        assert_eq!(found.unwrap().to_str().unwrap(), value, "{name}");
    }

    #[tokio::test]
    async fn the_page_and_its_files_are_answered() {
        let files = ASSETS
            .iter()
            .map(|asset| (format!("/assets/{}", asset.name), asset));
        for (path, asset) in files.chain([("/".to_owned(), &INDEX)]) {
            let response = get(&path).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_header(&response, CONTENT_TYPE, asset.content_type);
            assert_header(&response, CACHE_CONTROL, "no-cache");
            for (name, value) in HEADERS {
                assert_header(&response, name, value);
            }
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            assert_eq!(body, asset.text, "{path}");
        }
    }

    #[tokio::test]
    async fn other_paths_are_not_found() {
        for path in [
            "/index.html",
            "/assets/",
            "/assets/index.html",
            "/assets/format.js",
            "/assets/pure",
            "/assets/pure/none.js",
            "/assets/pure/../app.js",
            "/assets/../mod.rs",
            "/assets/%2E%2E/mod.rs",
        ] {
            assert_eq!(get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
}
