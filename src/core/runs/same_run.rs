//! Whether a statement with a run id that exists means the run that exists.

use super::asked_range::AskedRange;
use super::spec::{RunOptions, RunSpec};
use super::state::RunState;

/// What a statement asks for that names a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRequest {
    /// The id of the job.
    pub job_id: String,
    /// The range.
    pub asked: AskedRange,
    /// The options.
    pub options: RunOptions,
}

/// How a statement relates to the run of its run id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunMatch {
    /// It means this run, which goes on where it stands.
    Continues,
    /// It means this run, which is complete: there is nothing to do.
    Complete,
    /// It means this run, which was aborted: a run that goes over the range again needs another run id.
    Aborted,
    /// It means another run: one of this run id exists already. What differs, for the user.
    Exists(Vec<&'static str>),
}

/// Decides what a statement means by the run id of a run that has this spec and state. A job that was replaced since is the same job:
/// the run goes on with the text that it began with.
pub fn same_run(spec: &RunSpec, state: &RunState, request: &RunRequest) -> RunMatch {
    let mut differences = Vec::new();
    if spec.job_id != request.job_id {
        differences.push("the job");
    }
    if !spec.asked.is_same(&request.asked) {
        differences.push("the range");
    }
    differences.extend(spec.options.differences(&request.options));
    match state {
        _ if !differences.is_empty() => RunMatch::Exists(differences),
        RunState::Complete => RunMatch::Complete,
        RunState::Aborted => RunMatch::Aborted,
        RunState::Planning | RunState::Planned | RunState::Running | RunState::Failed { .. } => {
            RunMatch::Continues
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::runs::spec::{LateRows, fixture};
    use crate::core::runs::time_range::TimeRange;

    #[test]
    fn one_run_id_is_one_run() {
        let spec = fixture::spec("r");
        let request = RunRequest {
            job_id: spec.job_id.clone(),
            asked: spec.asked.clone(),
            options: RunOptions {
                chunk: Some(1),
                ..spec.options
            },
        };
        for (state, expected) in [
            (RunState::Running, RunMatch::Continues),
            (RunState::Planned, RunMatch::Continues),
            (RunState::Complete, RunMatch::Complete),
            (RunState::Aborted, RunMatch::Aborted),
        ] {
            assert_eq!(same_run(&spec, &state, &request), expected, "{state}");
        }
        let other_job = RunRequest {
            job_id: "ffff".into(),
            ..request.clone()
        };
        let other_range = RunRequest {
            asked: AskedRange {
                time: TimeRange::try_new(0, 1),
                ..AskedRange::default()
            },
            options: RunOptions {
                late: LateRows::Exclude,
                ..spec.options
            },
            ..request
        };
        for state in [RunState::Running, RunState::Complete] {
            let found = same_run(&spec, &state, &other_job);
            assert_eq!(found, RunMatch::Exists(vec!["the job"]));
            let found = same_run(&spec, &state, &other_range);
            assert_eq!(found, RunMatch::Exists(vec!["the range", "'late'"]));
        }
    }
}
