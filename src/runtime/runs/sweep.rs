//! Retention of runs: some time after a run has ended, which the options of its job say, its files are deleted.

use crate::core::runs::RunSpec;
use crate::error::Result;
use crate::runtime::definitions::job_definition;
use crate::runtime::options::JobOptions;
use crate::store::{JobStore, RunStore, StoredRun};

/// Sweeps the runs of a data directory that have ended long enough before `now`, in milliseconds since 1970 UTC. A fault is logged, and
/// the next sweep does the rest.
pub(in crate::runtime) async fn sweep_runs(jobs: &JobStore, now: i64) {
    let runs = RunStore::beside(jobs);
    let found = match runs.all().await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "old runs are not swept; trying again later");
            return;
        }
    };
    for run in found {
        // One that cannot be read is left for the consistency check.
        let Ok(mut stored) = run.found else {
            continue;
        };
        if let Err(error) = sweep_run(jobs, &runs, &mut stored, now).await {
            tracing::warn!(run = run.run_id, %error, "a run is not swept; trying again later");
        }
    }
}

async fn sweep_run(jobs: &JobStore, runs: &RunStore, run: &mut StoredRun, now: i64) -> Result<()> {
    if !run.history.is_over() {
        return Ok(());
    }
    let ended_at = run.history.run.as_ref().map(|run| run.since);
    let kept_until = ended_at.map(|at| at.saturating_add(kept_for(&run.spec)));
    if kept_until.is_none_or(|until| now < until) {
        return Ok(());
    }
    // Later runs of the job are compared with the rows of this one.
    let job = jobs.id_of(&run.spec.job).await?;
    let needs_rows = job.is_some_and(|id| id.to_string() == run.spec.job_id);
    runs.sweep(run, needs_rows, now).await
}

/// How long a run is kept after its end, in milliseconds.
fn kept_for(spec: &RunSpec) -> i64 {
    let options = job_definition(&spec.text).and_then(|job| JobOptions::parse(&job.options));
    let kept = options.unwrap_or_default().retention_of_runs;
    i64::try_from(kept.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{LogEntry, RunEvent};
    use crate::core::runs::RunState;
    use crate::core::runs::spec::fixture::spec;
    use crate::session::system::run_rows::tests::{commit, compare};
    use crate::store::{DataDir, RunCreation};

    const DAY: i64 = 24 * 60 * 60 * 1_000;
    const HOUR: i64 = 3_600_000_000;

    async fn created(store: &RunStore, run_id: &str, job_id: &str, options: &str) -> StoredRun {
        let spec = RunSpec {
            job_id: job_id.to_owned(),
            text: format!("CREATE JOB sessions {options} AS INSERT INTO counts SELECT 1 AS n"),
            ..spec(run_id)
        };
        match store.create(spec, 0).await.unwrap() {
            RunCreation::Created(run) => run,
            RunCreation::Exists(run) => panic!("{} exists", run.spec.run_id),
        }
    }

    /// Compares a chunk; writes it as well if the run `is_written`, and ends at the time 0.
    async fn end(store: &RunStore, run: &mut StoredRun, is_written: bool) {
        compare(store, run, (0, HOUR), &[], &[("x", 1.0)]).await;
        let mut last = RunEvent::Aborted;
        if is_written {
            assert!(store.append(run, RunEvent::Approved, 0).await.unwrap());
            commit(store, run, 1, (0, HOUR)).await;
            last = RunEvent::Completed;
        }
        assert!(store.append(run, last, 0).await.unwrap());
    }

    #[tokio::test]
    async fn runs_that_have_ended_are_kept_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&folder.path().display().to_string()).unwrap();
        let (jobs, runs) = (JobStore::new(dir.clone()), RunStore::new(&dir));
        let job = LogEntry::Created {
            name: "sessions".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let id = jobs.create(&job, "sessions").await.unwrap().unwrap();
        let own = id.to_string();
        let mut written = created(&runs, "written", &own, "").await;
        end(&runs, &mut written, true).await;
        let mut unwritten = created(&runs, "unwritten", &own, "").await;
        end(&runs, &mut unwritten, false).await;
        let mut of_another = created(&runs, "of another", "0b7e", "").await;
        end(&runs, &mut of_another, true).await;
        let short = "WITH ('retention.runs' '1 day')";
        let mut shorter = created(&runs, "shorter", &own, short).await;
        end(&runs, &mut shorter, false).await;
        // It has not ended.
        let mut planned = created(&runs, "planned", &own, short).await;
        compare(&runs, &mut planned, (0, HOUR), &[], &[("x", 1.0)]).await;

        sweep_runs(&jobs, DAY - 1).await;
        assert_eq!(runs.run_ids().await.unwrap().len(), 5);
        sweep_runs(&jobs, 2 * DAY).await;
        let ids = ["of another", "planned", "unwritten", "written"];
        assert_eq!(runs.run_ids().await.unwrap(), ids);
        assert!(runs.find("written").await.unwrap().unwrap().history == written.history);
        sweep_runs(&jobs, 31 * DAY).await;
        assert_eq!(runs.run_ids().await.unwrap(), ["planned", "written"]);
        // It says which rows of the sink are its own, and no longer which ones differed.
        let swept = runs.find("written").await.unwrap().unwrap();
        assert_eq!(swept.state(), RunState::Complete);
        assert_eq!(runs.chunks(&swept).await.unwrap().len(), 1);
        let compared = &swept.history.run.as_ref().unwrap().compared;
        assert_eq!((compared.len(), compared[0].counts.new), (1, 1));
        assert_eq!(compared[0].changes, None);
        let changes = |run: &StoredRun| {
            let of_run = folder.path().join(format!("runs/jobs/{}", run.id));
            let files = std::fs::read_dir(of_run.join("changes"));
            files.map_or(0, Iterator::count)
        };
        assert_eq!((changes(&swept), changes(&planned)), (0, 1));
        assert_eq!((changes(&unwritten), changes(&of_another)), (0, 0));
        // Nothing is left to do.
        sweep_runs(&jobs, 32 * DAY).await;
        assert_eq!(runs.find("written").await.unwrap(), Some(swept));
    }
}
