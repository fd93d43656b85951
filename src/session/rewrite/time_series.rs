//! Rewrite of `FROM generate_series(a, b, INTERVAL '1 day')`: a series of times, as rows.
//!
//! The engine's table function supports only times in nanoseconds without a zone. Its scalar function, in a select list,
//! supports the times of this program: here the rows are the elements of its result. Series of numbers are not rewritten, as
//! they need no memory.

use std::ops::ControlFlow;

use anabranch_udfs::Walk;
use datafusion::sql::sqlparser::ast::{
    DataType as SqlType, Expr, Function, FunctionArg, FunctionArgumentList, FunctionArguments,
    Ident, TableAlias, TableAliasColumnDef, TableFactor, Visitor,
};

use crate::planner::normalize;

/// The name of the column of a series.
const VALUE: &str = "value";

/// Replaces a series of times by the elements of an array.
pub(crate) fn of_times(factor: &mut TableFactor) {
    let TableFactor::Table {
        name,
        alias,
        args: Some(args),
        with_ordinality: false,
        ..
    } = factor
    else {
        return;
    };
    let function = match name.0.as_slice() {
        [part] => part.as_ident().map(normalize),
        _ => None,
    };
    let is_series =
        function.is_some_and(|name| ["generate_series", "range"].contains(&name.as_str()));
    let [_, _, step] = args.args.as_slice() else {
        return;
    };
    if !is_series || !has_interval(step) {
        return;
    }
    let call = Function {
        name: name.clone(),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: std::mem::take(&mut args.args),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    };
    let unnamed = || TableAlias {
        explicit: true,
        name: Ident::new("generate_series"),
        columns: Vec::new(),
        at: None,
    };
    let mut alias = alias.take().unwrap_or_else(unnamed);
    if alias.columns.is_empty() {
        alias.columns.push(TableAliasColumnDef::from_name(VALUE));
    }
    *factor = TableFactor::UNNEST {
        alias: Some(alias),
        array_exprs: vec![Expr::Function(call)],
        with_offset: false,
        with_offset_alias: None,
        with_ordinality: false,
    };
}

/// Whether a step is by a part of time.
fn has_interval(step: &FunctionArg) -> bool {
    struct Intervals;

    impl Visitor for Intervals {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Interval(_)
                | Expr::Cast {
                    data_type: SqlType::Interval { .. },
                    ..
                } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }

    step.walk(&mut Intervals).is_break()
}
