//! A topic as the sink of a job: one transaction per batch, whose witness is the name of the batch's version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::execute_stream;

use crate::core::jobs::recovery::BEGINNING;
use crate::core::jobs::{BatchVersion, Identity, JobHistory, SourceProgress};
use crate::error::Result;
use crate::runtime::sink::{JobLog, JobSink, OpenSink, PendingRows, SinkReport, Witness};
use crate::store::JobId;
use crate::streaming::{BatchPlan, StreamTable};
use crate::tables::kafka::{
    AddedHeaders, KafkaJobSink, KafkaTable, PublishedRows, TopicOffset, job_witness,
};

/// The topic before a takeover.
#[derive(Debug)]
pub(super) struct OpenTopic {
    table: Arc<KafkaTable>,
    /// The transactional id of the job, which is also the name of its group.
    group: String,
    /// By table, the topics on the brokers of the sink that the job reads: the brokers can store its offsets.
    beside: BTreeMap<String, String>,
    /// Headers that each record gets.
    added: AddedHeaders,
}

impl OpenTopic {
    /// The topic of `table`, for a job that reads `sources`.
    pub(super) fn new(
        table: Arc<KafkaTable>,
        id: JobId,
        sources: &BTreeMap<String, StreamTable>,
    ) -> Self {
        let is_beside = |(name, source): (&String, &StreamTable)| match source {
            StreamTable::Kafka(source) => source
                .shares_cluster(&table)
                .then(|| (name.clone(), source.topic().to_owned())),
            StreamTable::Delta(_) => None,
        };
        Self {
            beside: sources.iter().filter_map(is_beside).collect(),
            group: format!("anabranch-{id}"),
            table,
            added: AddedHeaders::default(),
        }
    }

    /// The topic of `table`, for a run with this id whose records get these headers. A run has no offsets of a group.
    pub(super) fn of_run(table: Arc<KafkaTable>, id: JobId, added: AddedHeaders) -> Self {
        Self {
            added,
            ..Self::new(table, id, &BTreeMap::new())
        }
    }
}

#[async_trait]
impl OpenSink for OpenTopic {
    /// A takeover fences earlier owners off, and writes no row.
    async fn identity_before(&self) -> Result<Option<Identity>> {
        Ok(None)
    }

    async fn witness(&self, _: JobLog<'_>) -> Result<Witness> {
        let version = job_witness(Arc::clone(&self.table), &self.group).await?;
        Ok(named(version))
    }

    async fn take_over(self: Box<Self>, _: u64) -> Result<Box<dyn JobSink>> {
        let Self {
            table,
            group,
            beside,
            added,
        } = *self;
        let sink = KafkaJobSink::take_over(table, &group, added).await?;
        Ok(Box::new(TopicSink { sink, beside }))
    }
}

/// The topic of a runner that owns it.
#[derive(Debug)]
struct TopicSink {
    sink: KafkaJobSink,
    beside: BTreeMap<String, String>,
}

impl TopicSink {
    /// The offsets of a version as commits for the group of the job.
    fn offsets(&self, version: &BatchVersion) -> Vec<TopicOffset> {
        let mut offsets = Vec::new();
        for (table, partitions) in &version.sources {
            let Some(topic) = self.beside.get(table) else {
                continue;
            };
            for (partition, progress) in partitions {
                offsets.push(TopicOffset {
                    topic: topic.clone(),
                    partition: *partition,
                    offset: progress.end,
                });
            }
        }
        offsets
    }
}

#[async_trait]
impl JobSink for TopicSink {
    async fn identity(&self) -> Result<Option<Identity>> {
        self.sink.identity().await.map(Some)
    }

    async fn witness(&self, _: JobLog<'_>) -> Result<Witness> {
        self.sink.witness().await.map(named)
    }

    async fn mark(&self, history: &JobHistory) -> Result<()> {
        let (batch, witness) = match history.last() {
            Some(last) => (last.batch, last.version.as_str()),
            None => (0, BEGINNING),
        };
        self.sink.begin().await?;
        self.sink.commit(&[], batch, witness).await
    }

    /// Brokers forget the offsets of a group, by default after a week.
    fn loses_old_witness(&self) -> bool {
        true
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.sink.timeout())
    }

    fn abandoned_rows(&self, published: &BTreeMap<i32, SourceProgress>) -> String {
        if published.is_empty() {
            return "they published nothing".to_owned();
        }
        let ranges: Vec<String> = published
            .iter()
            .map(|(partition, at)| format!("{partition} from {} to {}", at.start, at.end - 1))
            .collect();
        format!(
            "what they published stays in the topic '{}': partition {}",
            self.sink.topic(),
            ranges.join(", ")
        )
    }

    /// Withdrawn rows become tombstones.
    async fn write(
        &self,
        withdrawn: Option<&RecordBatch>,
        batch: &BatchPlan,
    ) -> Result<Box<dyn PendingRows>> {
        let rows = execute_stream(Arc::clone(&batch.plan), Arc::clone(&batch.context))?;
        Ok(Box::new(self.sink.write(withdrawn, rows).await?))
    }

    async fn rehearse(&self, batch: &BatchPlan) -> Result<()> {
        let rows = execute_stream(Arc::clone(&batch.plan), Arc::clone(&batch.context))?;
        self.sink.rehearse(rows).await
    }

    /// The rows are in the transaction.
    async fn commit(
        &mut self,
        _: Box<dyn PendingRows>,
        name: &str,
        version: &BatchVersion,
    ) -> Result<()> {
        let offsets = self.offsets(version);
        self.sink.commit(&offsets, version.batch, name).await
    }

    async fn abort(&self, _: Option<Box<dyn PendingRows>>) {
        if let Err(error) = self.sink.abort().await {
            tracing::debug!(%error, "the transaction was not aborted; the broker aborts it");
        }
    }

    fn abandon(&self, _: Option<Box<dyn PendingRows>>) {
        self.sink.abandon();
    }
}

impl PendingRows for PublishedRows {
    fn written(&self) -> SinkReport {
        let of_partition = |(partition, (start, end)): (&i32, &(i64, i64))| {
            let (start, end) = (*start, *end);
            (*partition, SourceProgress { start, end })
        };
        SinkReport {
            rows: self.rows,
            published: self.offsets.iter().map(of_partition).collect(),
            ..SinkReport::default()
        }
    }
}

/// The witness of a topic, which stores the name of every version.
fn named(version: Option<String>) -> Witness {
    Witness {
        version,
        ..Witness::default()
    }
}
