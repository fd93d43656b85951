//! What lasts: the logs and versions of jobs and the catalog of a server, in a folder or an object store; and how a bucket is opened.
//!
//! The only module that names object_store.

mod catalog;
mod checksum;
mod inventory;
mod jobs;
mod letters;
mod pack;
mod place;
mod profile;
mod s3;
#[cfg(test)]
pub(crate) mod simulated;
mod wire;

pub use catalog::{CatalogEntry, CatalogList, CatalogStore};
pub use checksum::{check_crc32, crc32, crc32_of};
pub use inventory::{Inventory, Problem};
pub use jobs::{FoundJob, JobId, JobStore};
pub use pack::{Pack, Packed};
pub use place::{DataDir, Opened};
pub use s3::open_s3;
#[cfg(test)]
pub(crate) use wire::version_as_stored;
