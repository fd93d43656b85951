//! Statements that the session itself runs: definitions and declared tables, descriptions, parameters, bulk ingest.

pub(crate) mod changes;
pub(crate) mod constants;
pub(crate) mod create;
pub(crate) mod declaration;
pub(crate) mod describe;
pub(crate) mod ingest;
pub(crate) mod parameters;
pub(crate) mod summarize;
