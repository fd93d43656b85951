//! `anabranch serve`, and the commands that make entries for its file of users.

use std::io::{IsTerminal as _, Write as _};

use crate::cli::args::ServeArguments;
use crate::cli::bound_statements::{parameters, read_scripts};
use crate::cli::config::Settings;
use crate::cli::metrics::MetricsServer;
use crate::cli::terminal::interrupt::Interrupt;
use crate::cli::terminal::messages::{eprint, report};
use crate::error::{Error, Result};
use crate::server::{
    Limits, LoginOptions, ServeOptions, Server, TlsOptions, hash_password, new_token,
};
use crate::session::{JobMemory, SessionOptions};

/// Serves until it is interrupted.
pub(crate) async fn serve(settings: &Settings, arguments: &ServeArguments) -> Result<u8> {
    let scripts = read_scripts(&arguments.files)?;
    let metrics = MetricsServer::start_if_configured(arguments.metrics.as_ref(), settings).await?;
    let pair = arguments.tls_cert.clone().zip(arguments.tls_key.clone());
    let options = ServeOptions {
        listen: arguments.listen.clone(),
        http: arguments.http.clone(),
        http_hosts: arguments.http_hosts.clone(),
        http_behind_tls: arguments.http_behind_tls,
        insecure: arguments.insecure,
        data_dir: settings.data_dir.clone(),
        session: SessionOptions {
            job_memory: arguments
                .job_memory
                .map_or(JobMemory::Half, JobMemory::Bytes),
            ..settings.session.clone()
        },
        login: LoginOptions {
            users: arguments.users.clone(),
            jwks: arguments.jwt_jwks.clone(),
            jwt_issuer: arguments.jwt_issuer.clone(),
            jwt_audience: arguments.jwt_audience.clone(),
        },
        tls: pair.map(|(cert, key)| TlsOptions {
            cert,
            key,
            client_ca: arguments.tls_client_ca.clone(),
        }),
        limits: Limits {
            statements: arguments.max_statements,
            queue: arguments.max_queued,
            subscriptions: arguments.max_subscriptions,
            timeout: arguments.statement_timeout,
            memory: arguments.statement_memory,
            result_bytes: arguments.max_result.map(|bytes| bytes as u64),
            statement_bytes: arguments.max_statement,
            sessions: arguments.max_sessions,
            idle: arguments.idle_timeout,
            keep_alive: arguments.keep_alive,
            ..Limits::default()
        },
        roots: arguments.location_roots.clone(),
        scripts,
        parameters: parameters(&arguments.params),
        metrics: metrics.as_ref().map(|served| served.metrics().clone()),
    };
    let server = match Server::start(options).await {
        Ok(server) => server,
        Err((error, Some(script))) => return Ok(report(&error, &script)),
        Err((error, None)) => return Err(error),
    };
    let (flight, web) = match server.has_tls() {
        true => ("grpc+tls", "https"),
        false => ("grpc", "http"),
    };
    if let Some(address) = server.http_address()? {
        eprint(&format!("console at {web}://{address}\n"));
    }
    eprint(&format!("listening at {flight}://{}\n", server.address()?));
    let interrupt = Interrupt::new();
    server
        .serve(async {
            interrupt.wait().await;
            eprint("stopping: running results may finish\n");
        })
        .await?;
    Ok(0)
}

/// `anabranch password`: the hash of a password that is typed or comes through a pipe.
pub(crate) fn password() -> Result<u8> {
    let typed = match std::io::stdin().is_terminal() {
        true => rpassword::prompt_password("password: "),
        false => std::io::read_to_string(std::io::stdin()),
    };
    let typed =
        typed.map_err(|error| Error::invalid(format!("the password cannot be read: {error}")))?;
    let typed = typed.trim_end_matches(['\r', '\n']);
    if typed.is_empty() {
        return Err(
            Error::invalid("the password is empty").with_help("type it, or give it through a pipe")
        );
    }
    print(&format!("{}\n", hash_password(typed)?))
}

/// `anabranch token`: a token, and the hash of it for the file of users.
pub(crate) fn token() -> Result<u8> {
    let (token, hash) = new_token();
    print(&format!("token: {token}\nhash:  {hash}\n"))
}

fn print(text: &str) -> Result<u8> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}
