//! Anabranch: SQL over event streams and their history.
//!
//! Kafka topics and Delta Lake tables stand in one [DataFusion](datafusion) session. The layers,
//! from the top: `cli`, `session`, `tables`, `planner` and `functions`, `exec`, `core` and `error`;
//! imports go down only.

pub mod core;
pub mod error;
pub mod exec;
pub mod tables;
