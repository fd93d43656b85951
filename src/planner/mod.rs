//! From text to statements: the dialect, scripts, parameters and the statements of our own.
//!
//! Nothing here touches a table: a [`Statement`] is the text as the user wrote it, with the place of every part, ready for the
//! session to resolve.

pub mod ast;
pub mod bind;
mod bound_rows;
pub mod bound_text;
mod chains;
mod cursor;
mod derivation_limit;
pub mod dialect;
pub mod effect;
mod error_spans;
mod jobs;
mod numbers;
pub mod parse;
mod runs;
pub mod script;
mod statement_class;
mod tables;
mod token_limits;
pub mod types;
mod value;

pub use crate::planner::error_spans::WordSpans;
pub use ast::{
    Column, ColumnKind, CreateTable, CreateView, JobStatement, ParsedStatement, Reprocess,
    RunStatement, Statement, TableKind, TableOption, TextRange, TextValue,
};
pub use bind::Parameters;
pub use bound_rows::{BOUND_ROWS, inserts_one_row, read_bound_rows};
pub use bound_text::BoundText;
pub use parse::parse_statement;
pub use script::{RawStatement, Script};
pub use statement_class::{ChangeKind, Effect, ObjectKind, Role, StatementClass, Writes};
pub(crate) use tables::normalize;
pub use value::{BoundValue, bound_column, bound_value};
