//! The subcommands that are more than running statements.

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod serve;
