//! Rows of an archive by ranges of offsets, in the order of the topic's log.

use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::{Column, ScalarValue, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use datafusion::physical_plan::ExecutionPlan;

use crate::tables::archive::mapped_column::MappedColumn;
use crate::tables::archive::pinned::PinnedArchive;
use crate::tables::kafka::OffsetRange;

/// The name of the archive in plans, which no table of a session has.
const NAME: &str = "archive of a topic";

/// More ranges than this of one partition are read as one.
const RANGES: usize = 16;

impl PinnedArchive {
    /// The rows of these ranges, sorted by partition and offset, in one partition of the plan. `indices` are those of the columns to
    /// read.
    ///
    /// # Errors
    ///
    /// Errors of the engine.
    pub(super) async fn log_rows(
        &self,
        session: &dyn Session,
        indices: &[usize],
        ranges: &[OffsetRange],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (partition, offset) = (self.mapping().partition(), self.mapping().offset());
        let source = provider_as_source(Arc::clone(self.delta()));
        let name = TableReference::bare(NAME);
        let indices = Some(indices.to_vec());
        let plan = LogicalPlanBuilder::scan(name, source, indices)?
            .filter(within(partition, offset, ranges)?)?
            .sort([
                column(partition).sort(true, false),
                column(offset).sort(true, false),
            ])?
            .build()?;
        session.create_physical_plan(&plan).await
    }
}

fn column(column: &MappedColumn) -> Expr {
    let name = TableReference::bare(NAME);
    Expr::Column(Column::new(Some(name), &column.name))
}

/// Whether a row lies in one of these ranges. Files are left out by it.
fn within(partition: &MappedColumn, offset: &MappedColumn, ranges: &[OffsetRange]) -> Result<Expr> {
    // In the types of the columns: the library compares no others with its statistics.
    let of = |column: &MappedColumn, number: i64| -> Result<Expr> {
        let number = ScalarValue::Int64(Some(number)).cast_to(&column.data_type)?;
        Ok(lit(number))
    };
    let mut any: Option<Expr> = None;
    for range in few(ranges) {
        let is_of = column(partition).eq(of(partition, i64::from(range.partition))?);
        let is_in = is_of
            .and(column(offset).gt_eq(of(offset, range.start)?))
            .and(column(offset).lt(of(offset, range.end)?));
        any = Some(match any {
            Some(any) => any.or(is_in),
            None => is_in,
        });
    }
    Ok(any.unwrap_or_else(|| lit(false)))
}

/// The same ranges, or for each partition one around all of them if there are many.
fn few(ranges: &[OffsetRange]) -> Vec<OffsetRange> {
    if ranges.len() <= RANGES {
        return ranges.to_vec();
    }
    let mut few: Vec<OffsetRange> = Vec::new();
    for range in ranges {
        match few.iter_mut().find(|one| one.partition == range.partition) {
            Some(one) => {
                one.start = one.start.min(range.start);
                one.end = one.end.max(range.end);
            }
            None => few.push(*range),
        }
    }
    few
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_ranges_of_a_partition_are_read_as_one() {
        let range = |partition, start, end| OffsetRange {
            partition,
            start,
            end,
        };
        let some = [range(0, 3, 5), range(1, 0, 9), range(0, 7, 8)];
        assert_eq!(few(&some), some);
        let mut many: Vec<OffsetRange> = (0..20).map(|n| range(0, 5 * n, 5 * n + 2)).collect();
        many.push(range(1, 4, 6));
        assert_eq!(few(&many), [range(0, 0, 97), range(1, 4, 6)]);
    }
}
