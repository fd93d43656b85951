//! From text to statements: the dialect, scripts, parameters and the statements of our own.
//!
//! Nothing here touches a table: a [`Statement`] is the text as the user wrote it, with the place of every part, ready for the
//! session to resolve.

pub mod ast;
pub mod bind;
pub mod bound;
mod bound_rows;
mod chains;
mod cursor;
mod derivation;
pub mod dialect;
pub mod effect;
mod error_spans;
mod gate;
mod jobs;
mod numbers;
pub mod parse;
pub mod script;
mod statement_class;
mod tables;
pub mod types;
mod value;

pub use crate::planner::error_spans::Places;
pub use ast::{
    Column, ColumnKind, CreateTable, CreateView, JobStatement, ParsedStatement, Statement,
    TableKind, TableOption, Text,
};
pub use bind::Parameters;
pub use bound::BoundText;
pub use bound_rows::{BOUND_ROWS, inserts_one_row, read_bound_rows};
pub use parse::parse_statement;
pub use script::{RawStatement, Script};
pub use statement_class::{Change, Class, Effect, Object, Role, Writes};
pub(crate) use tables::normalize;
pub use value::{BoundValue, bound_column, bound_value};
