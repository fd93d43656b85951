//! The first records of an archive by their timestamps: a job that is told a time begins there.

use std::collections::BTreeMap;

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt as _;

use crate::error::{Error, Result};
use crate::tables::archive::filters::in_timestamps;
use crate::tables::archive::pinned_archive::PinnedArchive;
use crate::tables::kafka::{MetadataKey, OffsetRange};

impl PinnedArchive {
    /// For each partition the first offset in these ranges whose record has this timestamp or a later one, in milliseconds since 1970 UTC.
    /// Files with earlier timestamps alone are left out.
    ///
    /// # Errors
    ///
    /// Errors of the engine; the archive has no timestamps.
    pub(super) async fn first_since(
        &self,
        session: &SessionState,
        millis: i64,
        ranges: &[OffsetRange],
    ) -> Result<BTreeMap<i32, i64>> {
        let mapping = self.mapping();
        let timestamp = mapping.metadata(MetadataKey::Timestamp);
        let is_late_enough = timestamp.and_then(|column| {
            let micros = millis.saturating_mul(1_000);
            Some((column.index, in_timestamps(column, (micros, i64::MAX))?))
        });
        let (timestamp, is_late_enough) =
            is_late_enough.ok_or_else(|| Error::internal("an archive without timestamps"))?;
        let indices = [mapping.partition().index, mapping.offset().index, timestamp];
        let plan = self.rows_in(session, &indices, ranges, vec![is_late_enough]);
        let mut rows = execute_stream(plan.await?, session.task_ctx())?;
        let mut first: BTreeMap<i32, i64> = BTreeMap::new();
        while let Some(rows) = rows.try_next().await? {
            let of = |column: usize, to: &DataType| {
                cast(rows.column(column), to).map_err(DataFusionError::from)
            };
            let (partitions, offsets) = (of(0, &DataType::Int32)?, of(1, &DataType::Int64)?);
            let partitions = partitions.as_primitive::<Int32Type>().values().iter();
            let offsets = offsets.as_primitive::<Int64Type>().values().iter();
            for (partition, offset) in partitions.zip(offsets) {
                let known = first.entry(*partition).or_insert(*offset);
                *known = (*known).min(*offset);
            }
        }
        Ok(first)
    }
}
