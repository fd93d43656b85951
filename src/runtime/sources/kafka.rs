//! A topic as the source of a job: its partitions are read by ranges of offsets, which the runner chooses.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::core::jobs::{Identity, RecordMark};
use crate::error::Result;
use crate::runtime::source::{JobSource, PlanReader, Read, SourcePlan, SourcePoll};
use crate::streaming::BatchSource;
use crate::tables::kafka::{
    EarlierParts, KafkaJobSource, KafkaTable, KafkaTableProvider, OffsetRange, Startup,
};

/// A topic that a job reads.
#[derive(Debug)]
pub(super) struct TopicSource {
    source: KafkaJobSource,
    starts_at_end: bool,
}

impl TopicSource {
    /// The topic of a table; a job begins where the table's options say, unless `starts_at_end` is set.
    ///
    /// # Errors
    ///
    /// Settings that the client refuses.
    pub(super) fn try_new(table: Arc<KafkaTable>, starts_at_end: Option<bool>) -> Result<Self> {
        let is_latest = table.startup() == Startup::Latest;
        Ok(Self {
            starts_at_end: starts_at_end.unwrap_or(is_latest),
            source: KafkaJobSource::try_new(table)?,
        })
    }

    /// The topic itself.
    pub(super) fn source(&self) -> &KafkaJobSource {
        &self.source
    }
}

#[async_trait]
impl JobSource for TopicSource {
    async fn identity(&self) -> Result<Identity> {
        self.source.identity().await
    }

    async fn other_records(&self, marks: &BTreeMap<i32, RecordMark>) -> Result<Vec<i32>> {
        let others = self.source.other_records(marks.clone()).await?;
        Ok(others.into_keys().collect())
    }

    async fn plan(&self, _: SourcePoll<'_>) -> Result<SourcePlan> {
        Ok(SourcePlan {
            ends: self.source.ends().await?,
            chosen: None,
            starts_at_end: self.starts_at_end,
            checks_marks: false,
            reader: Arc::new(self.source.clone()),
        })
    }

    fn topic(&self) -> Option<&str> {
        Some(self.source.table().topic())
    }
}

impl PlanReader for KafkaJobSource {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        Ok(batch_of(self, read, None))
    }
}

/// The table as a batch sees it that reads these ranges. What they begin with may come from elsewhere than the topic.
pub(super) fn batch_of(
    source: &KafkaJobSource,
    read: Read<'_>,
    earlier: Option<EarlierParts>,
) -> BatchSource {
    let reported = read.reported();
    let ranges = read.ranges.iter().map(|range| OffsetRange {
        partition: range.partition,
        start: range.start,
        end: range.end,
    });
    let (table, pool) = (Arc::clone(source.table()), Some(Arc::clone(source.pool())));
    let provider = KafkaTableProvider::for_batch(table, ranges.collect(), pool);
    let provider = provider
        .with_name(read.table)
        .without_records(read.aside.unwrap_or_default());
    let provider = match read.time {
        Some(time) => provider.with_time(time),
        None => provider,
    };
    let provider = match earlier {
        Some(earlier) => provider.with_earlier(earlier),
        None => provider,
    };
    BatchSource {
        provider: Arc::new(provider),
        ranges: reported,
        last_records: BTreeMap::new(),
    }
}
