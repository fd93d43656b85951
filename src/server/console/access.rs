//! Authentication and origin checks of the console. A page of another site can make a browser send requests here, and a
//! name of another site can be made to lead here. Both are refused before anything else of the request is read.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::error::{Error, Result};
use crate::server::auth::access::Caller;
use crate::server::auth::login::{Login, cookie};
use crate::server::console::problem::Problem;
use crate::server::network::admission::FirstCall;

/// The cookie with the token of a logged-in user.
pub(super) const TOKEN: &str = "anabranch_token";

/// Where requests may come from.
#[derive(Debug, Clone)]
pub(super) struct AllowedOrigins {
    /// Accept only names of this machine in `Host`: a console that listens on a loopback address has no other name.
    pub(super) only_loopback: bool,
    /// Other names that `Host` may have. Empty: a console that listens for other machines accepts every name.
    pub(super) hosts: Arc<[String]>,
}

/// Identifies the caller: every request for data or a change passes through here.
///
/// # Errors
///
/// The caller has to log in first.
async fn authorize(login: &Login, headers: &HeaderMap) -> Result<Caller> {
    let token = cookie(headers, TOKEN).filter(|_| !headers.contains_key(AUTHORIZATION));
    match token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok()) {
        Some(token) => {
            login
                .caller(&HeaderMap::from_iter([(AUTHORIZATION, token)]))
                .await
        }
        None => login.caller(headers).await,
    }
}

/// Gives a token for a name and a password.
///
/// # Errors
///
/// The two do not belong together, or there are no users.
pub(super) async fn log_in(login: &Login, user: &str, password: &str) -> Result<String> {
    if !login.is_closed() {
        return Err(Error::not_found("this server has no users").with_help("no login is required"));
    }
    let basic = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let basic = HeaderValue::from_str(&format!("Basic {basic}"));
    let basic = basic.map_err(|error| Error::internal(error.to_string()))?;
    let headers = HeaderMap::from_iter([(AUTHORIZATION, basic)]);
    login.token(&headers).await
}

/// Lets a request through that this page or a program of the user has sent.
pub(super) async fn check_origin(
    State(origins): State<AllowedOrigins>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    origins.check(request.method(), request.headers())?;
    Ok(next.run(request).await)
}

/// Knows the caller from here on.
pub(super) async fn check_caller(
    State(login): State<Arc<Login>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = authorize(&login, request.headers()).await?;
    FirstCall::of(request.extensions()).identify_caller(&caller)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

impl AllowedOrigins {
    fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        let host = text(headers, HOST.as_str()).and_then(|host| host.parse::<Authority>().ok());
        let Some(host) = host else {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                Error::invalid("the request names no host"),
            ));
        };
        let is_known = is_loopback(host.host())
            || self
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(host.host()))
            || (!self.only_loopback && self.hosts.is_empty());
        if !is_known {
            return Err(Problem::forbidden(
                format!("the console is not served as '{}'", host.host()),
                "open it as localhost or 127.0.0.1, or by a name that --http-host gives",
            ));
        }
        if matches!(*method, Method::GET | Method::HEAD) {
            return Ok(());
        }
        // A form of another site can send no JSON, and nothing of it comes without its origin.
        if !is_json(headers) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Error::invalid("the request body is not declared as JSON")
                    .with_help("send it with Content-Type: application/json"),
            ));
        }
        let from_elsewhere = match headers.get(ORIGIN) {
            Some(origin) => !origin.to_str().is_ok_and(|origin| is_of(origin, &host)),
            None => text(headers, "sec-fetch-site")
                .is_some_and(|site| !matches!(site, "same-origin" | "none")),
        };
        if from_elsewhere {
            return Err(Problem::forbidden(
                "the request comes from another site",
                "only the console's own page and programs may send it",
            ));
        }
        Ok(())
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    let of = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    let of = of.split(';').next().unwrap_or_default();
    of.trim().eq_ignore_ascii_case("application/json")
}

/// Whether an origin is that of the host asked; the scheme is that of a proxy, if there is one.
fn is_of(origin: &str, host: &Authority) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &Method, headers: &[(&'static str, &'static str)]) -> Option<StatusCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let origins = AllowedOrigins {
            only_loopback: true,
            hosts: Arc::default(),
        };
        origins.check(method, &map).err().map(Problem::status)
    }

    #[test]
    fn only_local_host_names_are_served() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "127.8.9.1",
            "[::1]:80",
        ] {
            assert_eq!(status(&Method::GET, &[("host", host)]), None, "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1:80",
            "0.0.0.0",
        ] {
            let found = status(&Method::GET, &[("host", host)]);
            assert_eq!(found, Some(StatusCode::FORBIDDEN), "{host}");
        }
        for host in [&[][..], &[("host", "a b")], &[("host", "")]] {
            let found = status(&Method::GET, host);
            assert_eq!(found, Some(StatusCode::BAD_REQUEST), "{host:?}");
        }
    }

    #[test]
    fn a_public_console_serves_its_configured_names_only() {
        let asked = |only_loopback: bool, hosts: &[&str], host: &'static str| {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            let origins = AllowedOrigins {
                only_loopback,
                hosts: hosts.into(),
            };
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            origins.check(&Method::GET, &headers).is_ok()
        };
        assert!(asked(false, &[], "anything.example"));
        for only_loopback in [true, false] {
            assert!(asked(
                only_loopback,
                &["sql.example.com"],
                "SQL.example.com:443"
            ));
            assert!(asked(only_loopback, &["sql.example.com"], "localhost:1"));
            assert!(!asked(only_loopback, &["sql.example.com"], "evil.example"));
            assert!(!asked(
                only_loopback,
                &["sql.example.com"],
                "sql.example.com.evil.example"
            ));
        }
    }

    #[test]
    fn changes_are_accepted_from_the_page_or_a_program_only() {
        let host = ("host", "localhost:1");
        let json = ("content-type", "application/json; charset=utf-8");
        let post = |more: &[(&'static str, &'static str)]| {
            let headers: Vec<_> = [host].iter().chain(more).copied().collect();
            status(&Method::POST, &headers)
        };
        assert_eq!(post(&[json]), None);
        assert_eq!(post(&[json, ("origin", "http://localhost:1")]), None);
        assert_eq!(post(&[json, ("sec-fetch-site", "same-origin")]), None);
        for form in ["text/plain", "application/x-www-form-urlencoded", ""] {
            let found = post(&[("content-type", form)]);
            assert_eq!(found, Some(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{form}");
        }
        for origin in [
            "null",
            "http://localhost:2",
            "http://example.com",
            "localhost:1",
        ] {
            let found = post(&[json, ("origin", origin)]);
            assert_eq!(found, Some(StatusCode::FORBIDDEN), "{origin}");
        }
        let found = post(&[json, ("sec-fetch-site", "cross-site")]);
        assert_eq!(found, Some(StatusCode::FORBIDDEN));
    }
}
