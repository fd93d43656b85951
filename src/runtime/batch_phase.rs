//! The phases of a batch, by which its time is measured.

/// One phase of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchPhase {
    /// Find where the topics end and choose the ranges to read.
    Choose,
    /// Read the records, compute the rows and write them to the sink, which does not show them yet.
    Run,
    /// Write state and version.
    Stage,
    /// The sink makes the rows visible.
    Commit,
    /// Append the commit to the job's log.
    Log,
}

impl BatchPhase {
    pub(super) const ALL: [Self; 5] = [
        Self::Choose,
        Self::Run,
        Self::Stage,
        Self::Commit,
        Self::Log,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Choose => "choose",
            Self::Run => "run",
            Self::Stage => "stage",
            Self::Commit => "commit",
            Self::Log => "log",
        }
    }
}
