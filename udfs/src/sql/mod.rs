//! Preparation of SQL text before DataFusion plans it: the `TABLE t PARTITION BY k` argument, the rewriting of a window
//! function's first argument to a subquery, the walk over a syntax tree that all visitors share, and texts of expressions.

mod rewrite;
mod table_argument;
mod text;
mod walk;

pub use rewrite::rewrite_window_calls;
pub use table_argument::parse_table_argument;
pub use text::expr_text;
pub use walk::{Walk, WalkMut};

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, Query, SetExpr, TableFactor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// The call that represents `TABLE t PARTITION BY k…` between parsing and planning.
pub(crate) const TABLE_ARGUMENT: &str = "__table_arg";

/// The table functions of this crate, in lower case.
pub(crate) const WINDOW_FUNCTIONS: [&str; 5] =
    ["tumble", "hop", "cumulate", "session", "complete_sessions"];

/// `(SELECT * FROM name)`, with `name` and its spans kept.
pub(crate) fn select_all(name: ObjectName) -> Result<Expr, ParserError> {
    // Parsed rather than built by hand: the syntax tree has many fields that mean "absent".
    let mut query: Box<Query> = Parser::new(&GenericDialect {})
        .try_with_sql("SELECT * FROM t")?
        .parse_query()?;
    if let SetExpr::Select(select) = query.body.as_mut()
        && let Some(from) = select.from.first_mut()
        && let TableFactor::Table {
            name: placeholder, ..
        } = &mut from.relation
    {
        *placeholder = name;
    }
    Ok(Expr::Subquery(query))
}

/// Whether an unquoted name is one of [`WINDOW_FUNCTIONS`].
pub(crate) fn is_window_function(name: &Ident) -> bool {
    name.quote_style.is_none()
        && WINDOW_FUNCTIONS
            .iter()
            .any(|known| name.value.eq_ignore_ascii_case(known))
}
