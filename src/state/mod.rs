//! Keyed state of a job in memory: its table, the change that a batch makes to it, and its files.
//!
//! A batch never changes the state: it returns a [`StateChange`], which is applied when the batch is committed.

mod compare;
mod file;
mod index;
mod late;
mod pending_chunks;
mod slices;
mod step;
mod table;

pub use file::{count_rows, decode_states, encode_states, read_state_file, read_states, replay};
pub(crate) use late::{late_rows, late_schema};
pub use step::{StepResult, StepRule, step};
pub use table::{StateChange, StateTable};
