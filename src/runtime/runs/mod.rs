//! Reprocessing runs: a job that ends runs a part of the past again.

pub mod chunk_comparison;
pub mod comparison;
pub mod published;
