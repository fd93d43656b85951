//! The archive of a source as it is now, beside the version that a run has pinned.

use crate::core::runs::{ArchiveNow, Pin, PinnedAt, SourcePin};
use crate::error::{Error, Result};
use crate::runtime::sources::pinned_past::RunSource;
use crate::streaming::JobQuery;

/// The archive of a source now. Rows that were appended since are not in what the run reads; rows that were changed or deleted may be.
///
/// # Errors
///
/// The source has no archive any more, or it cannot be read.
pub(in crate::runtime) async fn archive_now(
    query: &JobQuery,
    table: &str,
    pin: &SourcePin,
) -> Result<ArchiveNow> {
    let PinnedAt::Version(version) = pin.archive.at else {
        return Err(Error::internal("an archive is pinned by its version"));
    };
    let source = RunSource::of(query, table)?;
    let identity = source.archive.identity().await?;
    let (newest, has_other_rows) = source.archive.since(version).await?;
    Ok(ArchiveNow {
        pin: Pin {
            identity,
            at: PinnedAt::Version(newest),
        },
        has_other_rows,
    })
}
