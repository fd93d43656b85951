//! The tables of a run: its sources are the job's, read by event time or by the offsets that the run emits, and its sink is the job's,
//! owned by the run.

use std::sync::Arc;

use async_trait::async_trait;

use crate::core::jobs::Startup;
use crate::core::runs::RunSpec;
use crate::error::Result;
use crate::runtime::clock::Clock;
use crate::runtime::environment::JobTables;
use crate::runtime::runs::chunk_comparison::ChunkComparison;
use crate::runtime::runs::job_watch::JobWatch;
use crate::runtime::runs::sink::OpenRunSink;
use crate::runtime::sink::OpenSink;
use crate::runtime::sinks;
use crate::runtime::source::{JobSource, JobSources};
use crate::runtime::sources::{Pasts, ReprocessedSource};
use crate::store::JobId;
use crate::streaming::JobQuery;

/// The value of the header `source` of each record that a run writes.
const SOURCE: &str = "reprocessing";

/// The tables of a run.
#[derive(Debug)]
pub(super) struct RunTables {
    pub(super) spec: Arc<RunSpec>,
    /// Decides which rows are written, if the run writes by what its sink has.
    pub(super) comparison: Option<Arc<ChunkComparison>>,
    pub(super) clock: Arc<dyn Clock>,
    /// The job that chunks give way to, if they do.
    pub(super) watch: Option<JobWatch>,
    /// The pasts that need not be opened again.
    pub(super) pasts: Pasts,
}

#[async_trait]
impl JobTables for RunTables {
    fn sources(&self, query: &JobQuery, _: Option<&Startup>) -> Result<JobSources> {
        let open = |name: &String| -> Result<(String, Box<dyn JobSource>)> {
            let spec = Arc::clone(&self.spec);
            let source = ReprocessedSource::new(query, name, spec, &self.spec.left_out)?;
            let source = source.with_past(self.pasts.get(name).cloned());
            Ok((name.clone(), Box::new(source)))
        };
        query.sources().keys().map(open).collect()
    }

    fn are_of_run(&self) -> bool {
        true
    }

    fn sink(&self, query: &JobQuery, id: JobId, _: &str) -> Result<Box<dyn OpenSink>> {
        let added = [
            ("source", SOURCE.to_owned()),
            ("run_id", self.spec.run_id.clone()),
            ("sql_version", self.spec.text_version()),
        ];
        Ok(Box::new(OpenRunSink {
            inner: sinks::open_for_run(query, id, &self.spec, added)?,
            key: query.sink().primary_key().to_vec(),
            spec: Arc::clone(&self.spec),
            comparison: self.comparison.clone(),
            clock: Arc::clone(&self.clock),
        }))
    }

    async fn wait_reason(&self) -> Option<String> {
        self.watch.as_ref()?.wait_reason().await
    }
}
