//! Durable storage: the logs and versions of jobs and of reprocessing runs, and the catalog of a server, in a folder or an object
//! store; also opens S3 buckets.
//!
//! The only module that names object_store.

mod catalog;
mod checksum;
mod data_dir;
mod dead_letters;
mod inventory;
mod job_store;
mod pack;
mod profile;
mod repairs;
mod run_row;
mod run_store;
mod s3;
#[cfg(test)]
pub(crate) mod simulated;
mod unfinished_files;
mod wire;

pub use crate::store::data_dir::{DataDir, OpenObject};
pub use crate::store::job_store::{FoundJob, JobId, JobStore};
pub use catalog::{CatalogEntry, CatalogList, CatalogStore};
pub use checksum::{check_crc32, crc32, crc32_of};
pub use inventory::{FileProblem, Inventory};
pub use pack::{Pack, PackedBatch};
pub use repairs::{readable_runs, repairing_runs};
pub use run_row::{RunPosition, RunRow, run_position, run_row};
pub use run_store::{CommittedChunk, FoundRun, RunCreation, RunStore, StoredRun};
pub use s3::open_s3;
pub(crate) use unfinished_files::{ABANDONED, unfinished_files};
#[cfg(test)]
pub(crate) use wire::version_as_stored;
