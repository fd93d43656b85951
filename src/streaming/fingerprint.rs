//! The stateful part of a job as [`StateDescription`] has it: expressions of the engine in a form of our own (`terms`).
//!
//! Parts that a job may change without a new state are left out: the columns selected from groups, filters below and above the
//! aggregate, the delay and the policy of watermarks, `EMIT`, and options. A state row is the same under all of them.

use anabranch_udfs::{EventWindow, SessionColumn, SessionWindow, as_kept};
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::logical_expr::{Expr, ExprSchemable as _, Extension, LogicalPlan};

use crate::core::jobs::fingerprint::{
    GroupColumn, StateDescription, Term, TypedTerm, Window, is_versioned,
};
use crate::error::{Error, Result};
use crate::streaming::literals::type_name;
use crate::streaming::terms::term;
use crate::streaming::windowing::Windowing;

/// In the fingerprint of format 1 of state by slice. State of the same windows that was kept by window has the same one without it.
const BY_SLICE: &str = "; by slice";

/// What the state of a job is known by.
#[derive(Debug, Clone)]
pub(super) struct Fingerprints {
    /// As it is written.
    pub(super) now: String,
    /// Of the same state by window, if this is by slice.
    by_window: Option<String>,
    /// As format 1 had it: what the engine prints.
    pub(super) earlier: String,
}

/// The stateful part of a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stateful<'a> {
    pub(super) window: Option<&'a LogicalPlan>,
    /// The window as the engine prints it.
    pub(super) window_text: &'a str,
    pub(super) windowing: &'a Windowing,
    pub(super) groups: &'a [Expr],
    pub(super) aggregates: &'a [Expr],
    /// The columns of the rows that are aggregated.
    pub(super) rows: &'a DFSchemaRef,
}

impl Fingerprints {
    pub(super) fn of(part: &Stateful<'_>) -> Result<Self> {
        let mut description = described(part)?;
        let now = description.fingerprint();
        let by_window = match &mut description.window {
            Window::Aligned { is_by_slice, .. } if *is_by_slice => {
                *is_by_slice = false;
                Some(description.fingerprint())
            }
            _ => None,
        };
        Ok(Self {
            now,
            by_window,
            earlier: earlier(part)?,
        })
    }

    /// Whether a fingerprint that was kept is one of these.
    pub(super) fn are_of(&self, kept: &str) -> bool {
        match is_versioned(kept) {
            true => kept == self.now,
            false => kept == self.earlier,
        }
    }

    /// Whether it is of the same state by window, where this is by slice.
    pub(super) fn are_by_window(&self, kept: &str) -> bool {
        match &self.by_window {
            None => false,
            Some(by_window) if is_versioned(kept) => kept == by_window,
            Some(_) => self.earlier.strip_suffix(BY_SLICE) == Some(kept),
        }
    }
}

/// The expressions that a row of state has for its group.
fn groups<'a>(part: &Stateful<'a>) -> Vec<&'a Expr> {
    match part.windowing {
        Windowing::Keys { groups } | Windowing::Aligned { groups, .. } => groups.iter().collect(),
        Windowing::Sliced { .. } => part.groups.iter().collect(),
        Windowing::Session(session) => session.keys().iter().chain(session.others()).collect(),
    }
}

/// The fingerprint of format 1. It stays as it was: state that was kept with it is still there.
fn earlier(part: &Stateful<'_>) -> Result<String> {
    use std::fmt::Write as _;
    let mut text = part.window_text.to_owned();
    for expr in groups(part).into_iter().chain(part.aggregates) {
        let data_type = expr.get_type(part.rows.as_ref())?;
        // As it was before operators were checked and averages of integers were exact: state that was kept then is read.
        let expr = as_kept(expr.clone(), part.rows)?;
        let _ = write!(text, "; {expr}: {data_type}");
    }
    match part.windowing {
        Windowing::Sliced { .. } => text += BY_SLICE,
        Windowing::Session(session) => {
            let _ = write!(text, "{:?}", session.groups());
        }
        Windowing::Keys { .. } | Windowing::Aligned { .. } => {}
    }
    Ok(text)
}

fn described(part: &Stateful<'_>) -> Result<StateDescription> {
    let all = |exprs: Vec<&Expr>| {
        let typed = exprs.into_iter().map(|expr| typed(expr, part.rows));
        typed.collect::<Result<Vec<_>>>()
    };
    Ok(StateDescription {
        window: window(part)?,
        groups: all(groups(part))?,
        aggregates: all(part.aggregates.iter().collect())?,
    })
}

fn window(part: &Stateful<'_>) -> Result<Window> {
    let Some(LogicalPlan::Extension(Extension { node })) = part.window else {
        return Ok(Window::None);
    };
    let node = node.as_any();
    if let Some(window) = node.downcast_ref::<EventWindow>() {
        let windows = window.windows();
        return Ok(Window::Aligned {
            // The name of the function in SQL.
            function: windows.kind().to_string(),
            event_time: typed(window.event_time(), window.input().schema())?,
            size: windows.size(),
            step: windows.step(),
            offset: windows.offset(),
            is_by_slice: matches!(part.windowing, Windowing::Sliced { .. }),
        });
    }
    let (Some(window), Windowing::Session(session)) =
        (node.downcast_ref::<SessionWindow>(), part.windowing)
    else {
        return Err(Error::internal("a window of a kind that is not known"));
    };
    let schema = window.input().schema();
    let keys = window.keys().iter().map(|key| kept_term(key, schema));
    let columns = session.groups().iter().map(|column| match column {
        SessionColumn::Key(number) => {
            GroupColumn::Group(i64::try_from(*number).unwrap_or(i64::MAX))
        }
        SessionColumn::WindowStart => GroupColumn::Start,
        SessionColumn::WindowEnd => GroupColumn::End,
    });
    Ok(Window::Session {
        keys: keys.collect::<Result<_>>()?,
        event_time: typed(window.event_time(), schema)?,
        gap: window.gap(),
        columns: columns.collect(),
    })
}

fn typed(expr: &Expr, schema: &DFSchema) -> Result<TypedTerm> {
    Ok(TypedTerm {
        data_type: type_name(&expr.get_type(schema)?),
        term: kept_term(expr, schema)?,
    })
}

/// The term of an expression as it was written, with plain operators.
fn kept_term(expr: &Expr, schema: &DFSchema) -> Result<Term> {
    Ok(term(&as_kept(expr.clone(), schema)?, schema))
}
