//! Connections: who may open one, when it is closed for another, TLS, and how a server ends.

pub(crate) mod admission;
pub(crate) mod connection;
pub(crate) mod ending;
pub(crate) mod files;
pub(crate) mod holders;
pub(crate) mod tls;
