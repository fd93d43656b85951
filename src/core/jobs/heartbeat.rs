//! Heartbeat of the process that runs a job, and the state of the job that other processes derive from it.

use serde::{Deserialize, Serialize};

use crate::core::jobs::log::{JobHistory, JobPhase};

/// Milliseconds between two heartbeats.
pub const HEARTBEAT_EVERY: i64 = 10_000;
/// A process is taken for dead when so many heartbeats are missing.
const MISSED: i64 = 3;

/// A heartbeat: a process runs the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The runner, as the job's log names it.
    pub owner: String,
    /// The fault that it waits out, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// The process cannot open a source or the sink of the job and retries; it does not own the job yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opening: bool,
    /// How many records its batch leaves in the sources; none before its first look at them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u64>,
    /// Milliseconds since 1970 UTC, by the clock of that process.
    pub at: i64,
}

/// State of a job as other processes see it, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedState {
    /// `RUNNING`, `WAITING`, `ACTIVE` (to be run, and no process does), `PAUSED`, `FAILED`, `DROPPED`.
    pub name: &'static str,
    /// The fault that the job waits out, or the reason why it failed.
    pub reason: Option<String>,
}

/// Whether the process that wrote this heartbeat is taken for alive at `now`, in milliseconds since 1970 UTC.
pub fn is_fresh(beat: &Heartbeat, now: i64) -> bool {
    is_recent(beat.at, now)
}

/// The same for a heartbeat that was written `at` this time.
pub fn is_recent(at: i64, now: i64) -> bool {
    // Clocks of other machines may be ahead.
    now.saturating_sub(at) < MISSED * HEARTBEAT_EVERY
}

/// The state of a job at `now`, in milliseconds since 1970 UTC, by its log and its last heartbeat.
pub fn observed_state(
    history: &JobHistory,
    heartbeat: Option<&Heartbeat>,
    now: i64,
) -> ObservedState {
    let (name, reason) = match &history.phase {
        JobPhase::Dropped => ("DROPPED", None),
        JobPhase::Paused(None) => ("PAUSED", None),
        JobPhase::Paused(Some(reason)) => ("FAILED", Some(reason.clone())),
        JobPhase::Active => {
            let alive = heartbeat.filter(|beat| {
                is_fresh(beat, now) && (beat.opening || history.owner.as_ref() == Some(&beat.owner))
            });
            match alive.map(|beat| &beat.waiting) {
                None => ("ACTIVE", None),
                Some(None) => ("RUNNING", None),
                Some(Some(fault)) => ("WAITING", Some(fault.clone())),
            }
        }
    };
    ObservedState { name, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::LogEntry;

    fn history(entries: Vec<LogEntry>) -> JobHistory {
        let created = LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: Vec::new(),
            at: 0,
        };
        let owner = "a".to_owned();
        let all: Vec<LogEntry> = [created, LogEntry::Takeover { owner, at: 0 }]
            .into_iter()
            .chain(entries)
            .collect();
        JobHistory::of(&all).unwrap()
    }

    fn beat(owner: &str, waiting: Option<&str>) -> Heartbeat {
        Heartbeat {
            owner: owner.into(),
            waiting: waiting.map(Into::into),
            opening: false,
            backlog: None,
            at: 100_000,
        }
    }

    fn name(history: &JobHistory, beat: Option<&Heartbeat>, now: i64) -> &'static str {
        observed_state(history, beat, now).name
    }

    #[test]
    fn only_a_fresh_heartbeat_of_the_owner_counts() {
        let running = history(Vec::new());
        assert_eq!(name(&running, None, 100_000), "ACTIVE");
        assert_eq!(name(&running, Some(&beat("a", None)), 129_999), "RUNNING");
        assert_eq!(name(&running, Some(&beat("a", None)), 130_000), "ACTIVE");
        assert_eq!(name(&running, Some(&beat("b", None)), 100_000), "ACTIVE");
        // The other machine's clock is ahead.
        assert_eq!(name(&running, Some(&beat("a", None)), 0), "RUNNING");
        let waiting = observed_state(&running, Some(&beat("a", Some("no broker"))), 100_001);
        assert_eq!(waiting.name, "WAITING");
        assert_eq!(waiting.reason.as_deref(), Some("no broker"));
    }

    #[test]
    fn a_process_that_cannot_start_the_job_reports_why_and_does_not_own_it() {
        let running = history(Vec::new());
        let opening = Heartbeat {
            opening: true,
            ..beat("b", Some("table t cannot be opened"))
        };
        let waiting = observed_state(&running, Some(&opening), 100_001);
        assert_eq!(waiting.name, "WAITING");
        assert_eq!(waiting.reason.as_deref(), Some("table t cannot be opened"));
        assert_eq!(name(&running, Some(&opening), 130_000), "ACTIVE");
        let text = serde_json::to_string(&beat("a", None)).unwrap();
        let before = r#"{"owner":"a","waiting":null,"at":100000}"#;
        assert_eq!(
            serde_json::from_str::<Heartbeat>(before).unwrap(),
            beat("a", None)
        );
        assert_eq!(text, r#"{"owner":"a","at":100000}"#, "as it was before");
    }

    #[test]
    fn the_log_takes_precedence_over_heartbeats() {
        let paused = |reason: Option<&str>| {
            history(vec![LogEntry::Paused {
                reason: reason.map(Into::into),
                reported: None,
                at: 0,
            }])
        };
        let alive = beat("a", Some("no broker"));
        assert_eq!(name(&paused(None), Some(&alive), 100_000), "PAUSED");
        let failed = observed_state(&paused(Some("lost")), Some(&alive), 100_000);
        assert_eq!(failed.name, "FAILED");
        assert_eq!(failed.reason.as_deref(), Some("lost"));
    }
}
