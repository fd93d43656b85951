//! Connections: admission, the choice of the one that is closed for another, TLS, and shutdown.

pub(crate) mod admission;
pub(crate) mod connection;
pub(crate) mod ending;
pub(crate) mod files;
pub(crate) mod holders;
pub(crate) mod tls;
