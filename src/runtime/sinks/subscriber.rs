//! The client of a subscription as the sink of its job. It reads the rows of each batch when the batch is committed, and stores
//! nothing that could be read later.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::collect;
use tokio::sync::mpsc;

use crate::core::jobs::{BatchVersion, Identity, JobHistory, SourceProgress};
use crate::error::{Error, Result};
use crate::runtime::sink::{JobLog, JobSink, OpenSink, PendingRows, SinkReport, Witness, own};
use crate::runtime::sinks::numbered;
use crate::streaming::BatchPlan;

/// The client that reads the rows of each batch when it is committed.
#[derive(Debug, Clone)]
pub(in crate::runtime) struct Subscriber {
    /// The columns of its rows, any of which may be NULL.
    pub(in crate::runtime) schema: SchemaRef,
    pub(in crate::runtime) rows: mpsc::Sender<datafusion::error::Result<RecordBatch>>,
}

impl Subscriber {
    async fn send(&self, batch: &RecordBatch) -> Result<()> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec());
        let batch = batch.map_err(|error| Error::internal(error.to_string()))?;
        let sent = self.rows.send(Ok(batch)).await;
        sent.map_err(|_| Error::internal("the client has stopped reading"))
    }
}

#[async_trait]
impl OpenSink for Subscriber {
    async fn identity_before(&self) -> Result<Option<Identity>> {
        Ok(None)
    }

    async fn witness(&self, log: JobLog<'_>) -> Result<Witness> {
        Ok(numbered::witness_of(None, log))
    }

    async fn take_over(self: Box<Self>, _: u64) -> Result<Box<dyn JobSink>> {
        Ok(self)
    }
}

#[async_trait]
impl JobSink for Subscriber {
    async fn identity(&self) -> Result<Option<Identity>> {
        Ok(None)
    }

    /// It has the batches that the log names: no other runner writes to the client.
    async fn witness(&self, log: JobLog<'_>) -> Result<Witness> {
        Ok(numbered::witness_of(None, log))
    }

    async fn mark(&self, _: &JobHistory) -> Result<()> {
        Ok(())
    }

    fn abandoned_rows(&self, _: &BTreeMap<i32, SourceProgress>) -> String {
        "the client has read them".to_owned()
    }

    async fn write(
        &self,
        _: Option<&RecordBatch>,
        batch: &BatchPlan,
    ) -> Result<Box<dyn PendingRows>> {
        let rows = collect(Arc::clone(&batch.plan), Arc::clone(&batch.context));
        Ok(Box::new(Unsent(rows.await?)))
    }

    async fn commit(
        &mut self,
        pending: Box<dyn PendingRows>,
        _: &str,
        _: &BatchVersion,
    ) -> Result<()> {
        let Unsent(batches) = own(pending)?;
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            self.send(batch).await?;
        }
        Ok(())
    }

    async fn abort(&self, _: Option<Box<dyn PendingRows>>) {}

    fn abandon(&self, _: Option<Box<dyn PendingRows>>) {}
}

/// Rows that the client has not got yet.
struct Unsent(Vec<RecordBatch>);

impl PendingRows for Unsent {
    fn written(&self) -> SinkReport {
        SinkReport {
            rows: self.0.iter().map(|batch| batch.num_rows() as u64).sum(),
            ..SinkReport::default()
        }
    }
}
