//! `anabranch serve`.

use crate::cli::args::ServeArguments;
use crate::cli::config::Settings;
use crate::cli::metrics::MetricsServer;
use crate::cli::runner::{Interrupt, eprint, parameters, read_script, report};
use crate::error::Result;
use crate::server::{ServeOptions, Server};

/// Serves until it is interrupted.
pub(crate) async fn serve(settings: &Settings, arguments: &ServeArguments) -> Result<u8> {
    let mut scripts = Vec::with_capacity(arguments.files.len());
    for file in &arguments.files {
        scripts.push(read_script(file)?);
    }
    let metrics = match arguments.metrics.as_ref().or(settings.metrics.as_ref()) {
        Some(address) => Some(MetricsServer::start(address).await?),
        None => None,
    };
    let options = ServeOptions {
        listen: arguments.listen.clone(),
        http: arguments.http.clone(),
        insecure: arguments.insecure,
        data_dir: settings.data_dir.clone(),
        session: settings.session.clone(),
        scripts,
        parameters: parameters(&arguments.params),
        metrics: metrics.as_ref().map(|served| served.metrics().clone()),
    };
    let server = match Server::start(options).await {
        Ok(server) => server,
        Err((error, Some(script))) => return Ok(report(&error, &script)),
        Err((error, None)) => return Err(error),
    };
    if let Some(address) = server.http_address()? {
        eprint(&format!("console at http://{address}\n"));
    }
    eprint(&format!("listening at grpc://{}\n", server.address()?));
    let interrupt = Interrupt::new();
    server
        .serve(async {
            interrupt.wait().await;
            eprint("stopping: results in flight may end\n");
        })
        .await?;
    Ok(0)
}
