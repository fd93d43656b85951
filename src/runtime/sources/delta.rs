//! A Delta table as the source of a job: the files that are added to it, in one partition. The table chooses the files of a batch;
//! they are part of its plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::core::jobs::{Identity, PartitionEnds, PlannedRange, RecordMark};
use crate::error::{Error, Result, Subject};
use crate::runtime::source::{JobSource, PlanReader, Read, SourcePlan, SourcePoll};
use crate::streaming::BatchSource;
use crate::tables::delta::{
    DeltaJobSource, DeltaStreamProvider, DeltaTableHandle, FileRange, StreamPoll,
};

/// A Delta table that a job reads.
#[derive(Debug)]
pub(super) struct FileSource {
    source: DeltaJobSource,
}

/// The files of a batch.
#[derive(Debug)]
struct FilesOfBatch {
    table: DeltaTableHandle,
    range: FileRange,
}

impl FileSource {
    /// A Delta table that is read as a stream.
    pub(super) fn new(source: DeltaJobSource) -> Self {
        Self { source }
    }
}

#[async_trait]
impl JobSource for FileSource {
    async fn identity(&self) -> Result<Identity> {
        self.source.handle().identity().await
    }

    async fn other_records(&self, marks: &BTreeMap<i32, RecordMark>) -> Result<Vec<i32>> {
        let mut others = Vec::new();
        for (partition, mark) in marks {
            if self.source.is_other(*mark).await? {
                others.push(*partition);
            }
        }
        Ok(others)
    }

    /// The log of the table shows its versions before the files that are read next, too.
    fn still_has_record(&self, offset: i64, ends: &PartitionEnds) -> bool {
        offset < ends.high
    }

    async fn plan(&self, look: SourcePoll<'_>) -> Result<SourcePlan> {
        let starts_at_end = self.source.stream().starts_at_end;
        let position = look.last.and_then(|last| last.next_offset(look.table, 0));
        // A job that began at the end of the table begins again where the end was then.
        let began_at = look
            .began_at
            .filter(|_| starts_at_end && position.is_none());
        let position = position.or_else(|| began_at.and_then(|began| began.get(&0).copied()));
        let gap = look.skipping.and_then(|gaps| gaps.get(&0));
        let gap = gap.filter(|gap| Some(gap.start) == position);
        let range = self
            .source
            .next(StreamPoll {
                table: look.table,
                position,
                max_rows: look.max_rows,
                skip_to: gap.map(|gap| gap.end),
            })
            .await
            .map_err(|error| {
                error
                    .context(look.table.to_owned())
                    .within(Subject::table(look.table))
            })?;
        Ok(SourcePlan {
            ends: vec![PartitionEnds {
                partition: 0,
                low: range.start,
                high: range.high,
                latest: range.high,
                unread: Some(range.rows),
                behind_hole: None,
            }],
            chosen: Some(vec![PlannedRange {
                partition: 0,
                start: range.start,
                end: range.end,
            }]),
            begins_at: starts_at_end
                .then(|| BTreeMap::from([(0, position.unwrap_or(range.start))])),
            checks_marks: range.end > range.start,
            reader: Arc::new(FilesOfBatch {
                table: self.source.handle().clone(),
                range,
            }),
        })
    }
}

impl FilesOfBatch {
    /// The files of a range: all, or none if the partition waits.
    fn of(&self, range: PlannedRange) -> Result<FileRange> {
        let all = self.range.clone();
        match (range.start == all.start, range.end) {
            (true, end) if end == all.end => Ok(all),
            (true, end) if end == all.start => Ok(all.waiting()),
            _ => Err(Error::internal(
                "a range of files that the plan does not have",
            )),
        }
    }
}

impl PlanReader for FilesOfBatch {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        let reported = read.reported();
        let [range] = read.ranges else {
            return Err(Error::internal("a table of files has one partition"));
        };
        let range = self.of(*range)?;
        let mark = range.mark.filter(|_| range.end > range.start);
        // Without time there is nothing to say of versions that have no files.
        let is_scanned = range.has_files() || read.time.is_some();
        let provider = DeltaStreamProvider::try_new(range, read.table)?;
        let provider = match read.time {
            Some(time) => provider.with_time(time, &self.table),
            None => provider,
        };
        Ok(BatchSource {
            provider: Arc::new(provider),
            ranges: if is_scanned { reported } else { Vec::new() },
            last_records: mark.map(|mark| (0, mark)).into_iter().collect(),
            chunk: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, RecordBatch};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::core::jobs::{BatchVersion, SourceProgress};
    use crate::tables::delta::{DeltaColumn, DeltaSpec, DeltaStream};

    async fn append(handle: &DeltaTableHandle) {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let ids = Arc::new(Int64Array::from_iter_values(0..3));
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![ids]).unwrap();
        let rows = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None).unwrap();
        let context = SessionContext::new().task_ctx();
        handle.append(rows, context, None).await.unwrap();
    }

    fn look(last: Option<&BatchVersion>) -> SourcePoll<'_> {
        SourcePoll {
            table: "t",
            last,
            max_rows: 100,
            skipping: None,
            began_at: None,
            is_replacement: false,
        }
    }

    fn batch(plan: &SourcePlan, range: PlannedRange) -> Result<BTreeMap<i32, RecordMark>> {
        let read = Read {
            table: "t",
            ranges: &[range],
            time: None,
            aside: None,
        };
        Ok(plan.reader.batch(read)?.last_records)
    }

    #[tokio::test]
    async fn a_batch_is_made_of_its_plan_also_when_the_table_was_looked_at_since() {
        let folder = tempfile::tempdir().unwrap();
        let column = DeltaColumn {
            name: "id".into(),
            data_type: DataType::Int64,
            nullable: true,
            generated: None,
            comment: None,
        };
        let spec = DeltaSpec {
            location: folder.path().join("t").display().to_string(),
            columns: Some(vec![column]),
            ..DeltaSpec::default()
        };
        let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
        append(&handle).await;
        let source = FileSource::new(DeltaJobSource::new(handle.clone(), DeltaStream::default()));
        let first = source.plan(look(None)).await.unwrap();
        let of_first = first.chosen.as_ref().unwrap()[0];
        assert!(of_first.end > of_first.start && first.checks_marks);
        let read = batch(&first, of_first).unwrap();

        append(&handle).await;
        let progress = SourceProgress {
            start: of_first.start,
            end: of_first.end,
        };
        let version = BatchVersion {
            sources: BTreeMap::from([("t".to_owned(), [(0, progress)].into())]),
            ..BatchVersion::default()
        };
        let second = source.plan(look(Some(&version))).await.unwrap();
        let of_second = second.chosen.as_ref().unwrap()[0];
        assert_eq!(of_second.start, of_first.end);
        assert_ne!(batch(&second, of_second).unwrap(), read);
        assert_eq!(batch(&first, of_first).unwrap(), read);
        // A partition that waits is not read.
        let waits = PlannedRange {
            end: of_first.start,
            ..of_first
        };
        assert_eq!(batch(&first, waits).unwrap(), BTreeMap::new());
        assert!(batch(&first, of_second).is_err());
    }
}
