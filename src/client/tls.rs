//! Certificates of the client: the authorities that it trusts, and its own certificate.

use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::client::address::Address;
use crate::error::{Error, Result};

/// Files in PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Authorities that may have signed the server's certificate; `None`: those that the machine trusts.
    pub authority: Option<PathBuf>,
    /// The client's own certificate, with the intermediate ones up to an authority of the server's.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// The TLS configuration of a connection; `None` for one without TLS.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or holds something else, a certificate without its key, or files for a connection
    /// without TLS.
    pub(super) fn config(&self, address: &Address) -> Result<Option<ClientTlsConfig>> {
        let files = [&self.authority, &self.certificate, &self.key];
        if !address.has_tls() {
            return match files.into_iter().flatten().next() {
                Some(file) => Err(Error::invalid(format!(
                    "{} is given, and {address} does not use TLS",
                    file.display()
                ))
                .with_help("write the address as grpc+tls://HOST:PORT")),
                None => Ok(None),
            };
        }
        let mut config = ClientTlsConfig::new().domain_name(address.name());
        config = match &self.authority {
            Some(file) => config.ca_certificate(Certificate::from_pem(read(file, "CERTIFICATE")?)),
            None => config.with_native_roots(),
        };
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let identity = Identity::from_pem(
                    read(certificate, "CERTIFICATE")?,
                    read(key, "PRIVATE KEY")?,
                );
                Ok(Some(config.identity(identity)))
            }
            (None, None) => Ok(Some(config)),
            _ => Err(Error::invalid("a client certificate needs its private key")
                .with_help("give both --tls-cert FILE and --tls-key FILE")),
        }
    }
}

fn read(file: &Path, what: &str) -> Result<String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::invalid(format!("{shown} cannot be read: {error}")))?;
    if !text.contains(&format!("{what}-----")) {
        return Err(
            Error::invalid(format!("{shown} holds no {} in PEM", what.to_lowercase()))
                .with_help(format!("it has a line such as -----BEGIN {what}-----")),
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, files: &TlsFiles) -> String {
        let address = Address::parse(address).unwrap();
        files.config(&address).unwrap_err().message().to_owned()
    }

    #[test]
    fn tls_files_must_match_the_address_and_each_other() {
        let plain = Address::parse("grpc://h:7").unwrap();
        assert!(TlsFiles::default().config(&plain).unwrap().is_none());
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let certificate = file("c.pem", "-----BEGIN CERTIFICATE-----\n");
        let mut files = TlsFiles {
            authority: certificate.clone(),
            ..TlsFiles::default()
        };
        assert!(
            refused("grpc://h:7", &files)
                .ends_with("c.pem is given, and grpc://h:7 does not use TLS")
        );
        let secure = Address::parse("grpc+tls://h:7").unwrap();
        assert!(files.config(&secure).unwrap().is_some());
        files.certificate = certificate;
        assert_eq!(
            refused("grpc+tls://h:7", &files),
            "a client certificate needs its private key"
        );
        files.key = file("k.pem", "no key");
        assert!(refused("grpc+tls://h:7", &files).ends_with("k.pem holds no private key in PEM"));
        files.key = file("k.pem", "-----BEGIN EC PRIVATE KEY-----\n");
        assert!(files.config(&secure).unwrap().is_some());
        files.authority = Some(PathBuf::from("/nowhere/ca.pem"));
        assert!(refused("grpc+tls://h:7", &files).contains("cannot be read"));
    }
}
