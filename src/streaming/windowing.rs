//! Grouping of a stateful job's rows: by key, by window, by slice or by session.

use anabranch_udfs::{SessionAggregate, SessionColumn, Slices};
use datafusion::logical_expr::Expr;

/// How rows are grouped.
#[derive(Debug, Clone)]
pub(super) enum Windowing {
    /// By key, without a window.
    Keys { groups: Vec<Expr> },
    /// By TUMBLE, HOP or CUMULATE.
    Aligned { groups: Vec<Expr>, window_end: Expr },
    /// By HOP or CUMULATE, with state by slice: rows have their slice instead of their window.
    Sliced {
        keys: Vec<Expr>,
        groups: Vec<SessionColumn>,
        slices: Slices,
    },
    /// By SESSION.
    Session(Box<SessionAggregate>),
}
