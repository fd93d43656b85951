//! Statements that the session itself runs: definitions and declared tables, descriptions, parameters, bulk ingest.

pub(crate) mod bulk_ingest;
pub(crate) mod constants;
pub(crate) mod create;
pub(crate) mod declaration;
pub(crate) mod describe;
pub(crate) mod dml;
pub(crate) mod parameters;
pub(crate) mod summarize;
