//! How far a run has come by its log, and what the statements about it do then.

use std::fmt;

use crate::core::jobs::log::{JobHistory, JobPhase};
use crate::core::jobs::run_event::RunStage;

/// State of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// Its rows are compared with the published ones, and none is written.
    Planning,
    /// All rows are compared; it waits for `APPLY RUN`.
    Planned,
    /// Its chunks are written.
    Running,
    /// The sink has all of it.
    Complete,
    /// It was given up. The sink has the chunks that were committed before.
    Aborted,
    /// It stopped.
    Failed {
        /// Why.
        reason: String,
        /// Whether it was being written, and not planned.
        was_running: bool,
    },
}

impl RunState {
    /// In one word, as `system.runs` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planning => "PLANNING",
            Self::Planned => "PLANNED",
            Self::Running => "RUNNING",
            Self::Complete => "COMPLETE",
            Self::Aborted => "ABORTED",
            Self::Failed { .. } => "FAILED",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { reason, .. } => write!(f, "FAILED: {reason}"),
            other => f.write_str(other.name()),
        }
    }
}

/// The state of a run that has this log.
pub fn run_state(history: &JobHistory) -> RunState {
    let stage = history
        .run
        .as_ref()
        .map_or(RunStage::Planning, |run| run.stage);
    match (stage, &history.phase) {
        (RunStage::Completed, _) => RunState::Complete,
        (RunStage::Aborted, _) | (_, JobPhase::Dropped) => RunState::Aborted,
        (stage, JobPhase::Paused(reason)) => RunState::Failed {
            reason: reason.clone().unwrap_or_default(),
            was_running: stage == RunStage::Approved,
        },
        (RunStage::Planning, JobPhase::Active) => RunState::Planning,
        (RunStage::Planned, JobPhase::Active) => RunState::Planned,
        (RunStage::Approved, JobPhase::Active) => RunState::Running,
    }
}

/// What `APPLY RUN` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyDecision {
    /// It approves the plan, if what that rests on has not moved, and writes.
    Approve,
    /// It resumes a run that has stopped while it was written, and writes on.
    Resume,
    /// The run is approved already: it writes on, unless another process does.
    Continue,
    /// The sink has all of the run.
    Complete,
    /// It does nothing, for this reason.
    Refuse(&'static str),
}

/// Decides what `APPLY RUN` does. A statement that plans and applies at once (`is_at_once`) needs no complete plan.
pub fn decide_apply(state: &RunState, is_at_once: bool) -> ApplyDecision {
    match state {
        RunState::Planning if is_at_once => ApplyDecision::Approve,
        RunState::Planned => ApplyDecision::Approve,
        RunState::Running => ApplyDecision::Continue,
        RunState::Failed {
            was_running: true, ..
        } => ApplyDecision::Resume,
        RunState::Complete => ApplyDecision::Complete,
        RunState::Planning => ApplyDecision::Refuse("its plan is not complete"),
        RunState::Failed { .. } => ApplyDecision::Refuse("its plan has failed"),
        RunState::Aborted => ApplyDecision::Refuse("it was aborted"),
    }
}

/// What `ABORT RUN` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortDecision {
    /// It ends the run.
    Abort,
    /// The run was aborted before.
    Aborted,
    /// The sink has all of the run: there is nothing to end.
    Complete,
}

/// Decides what `ABORT RUN` does.
pub fn decide_abort(state: &RunState) -> AbortDecision {
    match state {
        RunState::Complete => AbortDecision::Complete,
        RunState::Aborted => AbortDecision::Aborted,
        RunState::Planning | RunState::Planned | RunState::Running | RunState::Failed { .. } => {
            AbortDecision::Abort
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{LogEntry, RunEvent};

    fn state(entries: &[LogEntry]) -> RunState {
        let created = LogEntry::Created {
            name: "r".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let log: Vec<LogEntry> = std::iter::once(created)
            .chain(entries.iter().cloned())
            .collect();
        run_state(&JobHistory::of(&log).unwrap())
    }

    fn event(event: RunEvent) -> LogEntry {
        LogEntry::Run { event, at: 1 }
    }

    fn failed() -> LogEntry {
        LogEntry::Paused {
            reason: Some("no disk".into()),
            reported: None,
            at: 1,
        }
    }

    fn resumed() -> LogEntry {
        LogEntry::Resumed {
            skipping_lost: false,
            lost: Default::default(),
            accepting: Default::default(),
            assuming: None,
            at: 1,
        }
    }

    #[test]
    fn states_follow_from_the_log() {
        use RunEvent::{Aborted, Approved, Completed, Planned};
        let takeover = LogEntry::Takeover {
            owner: "me".into(),
            at: 1,
        };
        let (planned, approved) = (event(Planned), event(Approved));
        let stopped = |was_running| RunState::Failed {
            reason: "no disk".into(),
            was_running,
        };
        for (log, expected) in [
            (vec![], RunState::Planning),
            (vec![takeover.clone()], RunState::Planning),
            (vec![failed()], stopped(false)),
            (vec![failed(), resumed()], RunState::Planning),
            (vec![planned.clone()], RunState::Planned),
            (
                vec![planned.clone(), approved.clone(), takeover],
                RunState::Running,
            ),
            (vec![approved.clone(), failed()], stopped(true)),
            (
                vec![approved.clone(), failed(), resumed()],
                RunState::Running,
            ),
            (
                vec![approved.clone(), failed(), event(Aborted)],
                RunState::Aborted,
            ),
            (
                vec![approved, event(Completed), event(Aborted)],
                RunState::Complete,
            ),
            (vec![planned, event(Completed)], RunState::Planned),
        ] {
            assert_eq!(state(&log), expected, "{log:?}");
        }
    }

    #[test]
    fn only_a_complete_plan_is_applied() {
        let failed = |was_running| RunState::Failed {
            reason: String::new(),
            was_running,
        };
        for (state, applied, at_once) in [
            (
                RunState::Planned,
                ApplyDecision::Approve,
                ApplyDecision::Approve,
            ),
            (
                RunState::Running,
                ApplyDecision::Continue,
                ApplyDecision::Continue,
            ),
            (failed(true), ApplyDecision::Resume, ApplyDecision::Resume),
            (
                RunState::Complete,
                ApplyDecision::Complete,
                ApplyDecision::Complete,
            ),
        ] {
            assert_eq!(decide_apply(&state, false), applied, "{state}");
            assert_eq!(decide_apply(&state, true), at_once, "{state}");
        }
        for state in [RunState::Planning, failed(false), RunState::Aborted] {
            let decision = decide_apply(&state, false);
            assert!(matches!(decision, ApplyDecision::Refuse(_)), "{state}");
        }
        assert_eq!(
            decide_apply(&RunState::Planning, true),
            ApplyDecision::Approve
        );
        assert_eq!(decide_abort(&failed(true)), AbortDecision::Abort);
        assert_eq!(decide_abort(&RunState::Complete), AbortDecision::Complete);
        assert_eq!(decide_abort(&RunState::Aborted), AbortDecision::Aborted);
    }
}
