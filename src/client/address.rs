//! Addresses of servers: host, port, and whether the connection uses TLS.

use std::fmt;

use url::Url;

use crate::error::{Error, Result};

/// The port of `anabranch serve` unless a flag gives another one.
const PORT: u16 = 32010;

/// Host and port of a server, and whether it speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// With brackets if it is an IPv6 address.
    host: String,
    port: u16,
    tls: bool,
}

impl Address {
    /// The address in `grpc://HOST:PORT` or `grpc+tls://HOST:PORT`.
    ///
    /// # Errors
    ///
    /// Any other text.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::invalid(format!("invalid server address '{text}': {why}"))
                .with_help("write it as grpc://HOST:PORT, or grpc+tls://HOST:PORT with TLS")
        };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let tls = match url.scheme() {
            "grpc" | "grpc+tcp" => false,
            "grpc+tls" => true,
            _ => return Err(wrong("it does not begin with grpc:// or grpc+tls://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            // Not to be shown again.
            return Err(Error::invalid("a server address has no user name")
                .with_help("give the user as --user NAME and the password as ANABRANCH_PASSWORD"));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("it has no host"))?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it has text after the port"));
        }
        Ok(Self {
            host: host.to_owned(),
            port: url.port().unwrap_or(PORT),
            tls,
        })
    }

    /// Whether it speaks TLS.
    pub fn has_tls(&self) -> bool {
        self.tls
    }

    /// Whether requests to it stay on this machine.
    pub fn is_local(&self) -> bool {
        let address = self.name().parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// The name that the server's certificate must have.
    pub(super) fn name(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// The same for HTTP/2.
    pub(super) fn http(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "grpc+tls" } else { "grpc" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown, local) in [
            ("grpc://127.0.0.1:7", "grpc://127.0.0.1:7", true),
            ("grpc+tcp://example.com/", "grpc://example.com:32010", false),
            ("grpc+tls://[::1]:7", "grpc+tls://[::1]:7", true),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.is_local(), local);
        }
        let six = Address::parse("grpc+tls://[::1]:7").unwrap();
        assert_eq!(
            (six.name(), six.http().as_str()),
            ("::1", "https://[::1]:7")
        );
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for text in [
            "",
            "localhost:32010",
            "http://localhost:32010",
            "grpc://",
            "grpc://:7",
            "grpc://h:99999",
            "grpc://h:7/path",
            "grpc://h:7?database=x",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.help().unwrap().contains("grpc://HOST:PORT"), "{text}");
        }
        let error = Address::parse("grpc://me:hidden@h:7").unwrap_err();
        assert!(!error.message().contains("hidden"));
    }
}
