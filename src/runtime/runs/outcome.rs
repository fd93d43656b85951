//! What statements about runs answer with: values, which others show.

use crate::store::RunRow;

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPreview {
    /// Names and values, in the order to show them.
    pub items: Vec<(&'static str, String)>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The answer to a statement that makes or moves a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutcome {
    /// The run.
    pub run: RunRow,
    /// What the statement has done, for the user.
    pub said: String,
    /// What the user should know.
    pub warnings: Vec<String>,
}
