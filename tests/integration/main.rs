//! Integration tests: one binary, one link step.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and waits for processes"
)]

mod archive;
mod check;
mod delta;
mod differential;
mod errors;
mod jobs;
mod kafka;
mod layers;
mod live;
mod pages;
mod plans;
mod proxy;
mod server;
mod shell;
mod signals;
mod slt;
mod support;
mod topics;
mod walkthroughs;
mod words;
