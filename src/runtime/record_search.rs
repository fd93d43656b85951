//! The records that are to blame for a batch that has failed: the parts of the batch that the search asks for run here, and none of
//! their results is kept.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::batch::BatchRanges;
use crate::runtime::halving_search::{SearchResult, search};
use crate::runtime::job::ReadyJob;
use crate::runtime::options::OnExpressionError;
use crate::runtime::set_aside_records::{RecordPosition, SetAsideRecords};
use crate::runtime::sink::JobSink;
use crate::runtime::source::{JobSources, SourcePlans};
use crate::runtime::window_state::WindowState;

/// A search that has found a record ends after this time: the runner sets the records found aside, runs the batch again, and searches
/// for the others when it fails again.
const LONGEST: Duration = Duration::from_secs(60);

/// The outcome of the search in a batch that has failed.
#[derive(Debug)]
pub(super) enum SearchOutcome {
    /// The batch can succeed without these records.
    SetAside(SetAsideRecords),
    /// No record is known to fail alone, but a batch of fewer records may succeed.
    Together(Error),
}

/// A batch that has failed, with all that is needed to run parts of it again.
pub(super) struct FailedBatch<'a> {
    pub(super) job: &'a ReadyJob,
    pub(super) sources: &'a JobSources,
    /// What the batch was chosen from.
    pub(super) plans: &'a SourcePlans,
    /// As they were before the batch.
    pub(super) windows: &'a WindowState,
    pub(super) sink: &'a dyn JobSink,
}

impl FailedBatch<'_> {
    /// Finds the records to set aside, if the job's options let it continue without records that fail.
    ///
    /// # Errors
    ///
    /// The batch's own error, with the failing record if there is one.
    pub(super) async fn blame(&self, error: Error, ranges: &BatchRanges) -> Result<SearchOutcome> {
        let has_places = self.sources.values().all(|source| source.topic().is_some());
        if !has_places {
            return together(error);
        }
        let job = self.job;
        tracing::info!(job = job.name, %error, "looking for a record that makes the batch fail");
        let sets_aside = job.options.on_expression_error == OnExpressionError::DeadLetter;
        let run = move |part: BatchRanges| async move { self.rehearse(&part).await };
        let clock = &job.environment.clock;
        let began = clock.instant();
        let is_enough = || clock.since(began) >= LONGEST;
        let from_start = self.windows.keep_state();
        match search(ranges, from_start, sets_aside, is_enough, run).await? {
            SearchResult::NoRecord => Err(error),
            SearchResult::OnlyTogether => together(error),
            SearchResult::TooMany(place, error) => {
                let many = "too many records fail, and none is set aside; the first is";
                let record = self.record(&place);
                Err(error.context(format!("{many} {record}")).mark_record())
            }
            SearchResult::Records(records) if !sets_aside => match records.into_iter().next() {
                Some((place, error)) => Err(error
                    .with_help(
                        "change the expression with CREATE OR REPLACE JOB, or add WITH ('on_expression_error' \
                         'dead_letter') to the job; then RESUME JOB",
                    )
                    .context(self.record(&place))
                    .mark_record()),
                None => Err(error),
            },
            SearchResult::Records(records) => {
                let mut chosen = ranges.clone();
                for (place, error) in records {
                    let record = self.record(&place);
                    tracing::warn!(job = job.name, record, %error, "a dead letter");
                    chosen.set_aside(&place, error.message().to_owned());
                }
                Ok(SearchOutcome::SetAside(chosen.aside))
            }
        }
    }

    /// Runs the steps of a part of the batch that process records; keeps nothing.
    async fn rehearse(&self, part: &BatchRanges) -> Result<()> {
        self.windows
            .rehearse(self.job, self.plans, part, self.sink)
            .await
    }

    fn record(&self, place: &RecordPosition) -> String {
        let source = self.sources.get(&place.table);
        let topic = source.and_then(|source| source.topic()).unwrap_or_default();
        format!("record {topic}/{}@{}", place.partition, place.offset)
    }
}

/// The outcome if no record is known to fail alone: values that are too large together may fit with fewer records.
fn together(error: Error) -> Result<SearchOutcome> {
    match error.kind() {
        ErrorKind::Exhausted => Ok(SearchOutcome::Together(error)),
        _ => Err(error.with_help(
            "no single record makes the batch fail, which may be due to a sum that is too large: change the expression with CREATE OR \
             REPLACE JOB, then RESUME JOB",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that are too large together are tried with fewer records; any other error that is not caused by a record ends the
    /// job.
    #[test]
    fn a_batch_too_large_in_total_is_retried_with_fewer_records() {
        let size = together(Error::new(ErrorKind::Exhausted, "too much"));
        assert!(matches!(size, Ok(SearchOutcome::Together(_))), "{size:?}");
        let sum = together(Error::data("too much")).unwrap_err();
        assert!(
            sum.help()
                .unwrap()
                .contains("no single record makes the batch fail"),
            "{sum:?}"
        );
    }
}
