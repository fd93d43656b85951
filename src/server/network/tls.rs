//! TLS: certificates from files, for the Flight service and for the console.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::error::{Error, Result};

/// A client has this long for its TLS handshake; then the server closes the connection.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Files of PEM that secure the network.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The server's certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that signs the certificates of clients; `None`: clients need none.
    pub client_ca: Option<PathBuf>,
}

/// As the Flight service takes it.
///
/// # Errors
///
/// A file that cannot be read.
pub(crate) fn flight(options: &TlsOptions) -> Result<ServerTlsConfig> {
    // Two providers are linked in, and the library chooses none by itself. An error means that a provider is installed
    // already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let identity = Identity::from_pem(read(&options.cert)?, read(&options.key)?);
    let config = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE);
    Ok(match &options.client_ca {
        Some(path) => config.client_ca_root(Certificate::from_pem(read(path)?)),
        None => config,
    })
}

/// The TLS configuration of the console.
///
/// # Errors
///
/// A file that cannot be read, or that is no certificate or key.
pub(crate) fn web(options: &TlsOptions) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&options.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&options.key)?)
        .map_err(|error| unfit(&options.key, "a key", &error))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(error.to_string()))?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| unfit(path, "a certificate", &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = verifier
                .build()
                .map_err(|error| unfit(path, "an authority", &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    builder.with_single_cert(chain, key).map_err(|error| {
        let why = format!("the certificate and the key do not belong together: {error}");
        Error::invalid(why).with_help("give a certificate and its own key")
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| unfit(path, "a certificate", &error))?;
    match found.is_empty() {
        true => Err(unfit(path, "a certificate", &"there is none in it")),
        false => Ok(found),
    }
}

fn unfit(path: &Path, what: &str, why: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("{} is not {what}: {why}", path.display()))
        .with_help("give files of PEM: -----BEGIN …")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    std::fs::read(path).map_err(|error| Error::invalid(format!("{shown} cannot be read: {error}")))
}
