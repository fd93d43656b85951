//! Anabranch: SQL over event streams and their history.
//!
//! Kafka topics and Delta Lake tables stand in one [DataFusion](datafusion) session. The layers,
//! from the top: `cli`, `server` and `client`, `runtime`, `streaming`, `session`, `tables`, `planner`, `state`, `formats`, `store`,
//! `core` and `error`; imports go down only.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::disallowed_methods
    )
)]

pub mod cli;
pub mod client;
pub mod core;
pub mod error;
pub mod formats;
pub mod planner;
pub mod runtime;
pub mod server;
pub mod session;
pub mod state;
pub mod store;
pub mod streaming;
pub mod tables;

/// Tests count as the program does.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: crate::core::heap::CountingAllocator<mimalloc::MiMalloc> =
    crate::core::heap::CountingAllocator::new(mimalloc::MiMalloc);
