//! What lasts of a job: its log and its versions, in a folder or an object store.
//!
//! The only module that names object_store.

mod catalog;
mod jobs;
mod pack;
mod place;
#[cfg(test)]
pub(crate) mod simulated;

pub use catalog::{CatalogEntry, CatalogStore};
pub use jobs::{JobId, JobStore};
pub use pack::{Pack, Packed};
pub use place::{DataDir, Opened};
