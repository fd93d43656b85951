//! The public error of the crate: its kind, a message, its subjects, its place in the SQL text, and a help text for the user.
//!
//! An [`Error`] says *who must act* by its [`ErrorKind`]; one table maps kinds to exit codes here
//! and to wire codes in a server. Its [`Subject`]s determine its place in a statement. It crosses DataFusion as
//! [`External`](datafusion::error::DataFusionError::External) and comes back out whole through `From`. Only `engine` reads messages:
//! those of the engine.

mod base;
pub(crate) mod engine;
mod kind;
mod render;
mod subject;

pub use base::{Error, Result};
pub(crate) use engine::{APART, equal_names, quoted_store};
pub use kind::ErrorKind;
pub use subject::Subject;
