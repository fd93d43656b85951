//! Anabranch: SQL over event streams and their history.
//!
//! Kafka topics and Delta Lake tables stand in one [DataFusion](datafusion) session. The layers,
//! from the top: `cli`, `session`, `tables`, `planner`, `exec`, `core` and `error`; imports go
//! down only.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
pub mod core;
pub mod error;
pub mod exec;
pub mod planner;
pub mod session;
pub mod tables;
