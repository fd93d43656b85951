//! SQL over the crate's functions, end to end: parsed with the dialect's hook, rewritten, planned,
//! optimized and run by DataFusion.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub
)]

mod functions;
mod oracle;
mod pruning;
mod sessions;
mod support;
mod values;
mod windows;
