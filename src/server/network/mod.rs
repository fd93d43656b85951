//! Connections: admission, the choice of the one that is closed for another, TLS, and shutdown.

pub(crate) mod admission;
pub(crate) mod connection;
pub(crate) mod connection_shares;
pub(crate) mod file_limit;
pub(crate) mod shutdown;
pub(crate) mod tls;
