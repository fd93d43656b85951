//! Window, session, offset and JSON functions for Apache DataFusion.
//!
//! * `TUMBLE`, `HOP`, `CUMULATE`: aligned windows ([`EventWindow`]);
//! * `SESSION`: sessions of a key's rows, split where neighbours are further apart than a gap ([`SessionWindow`], law SESS-1);
//! * `COMPLETE_SESSIONS`: every session with a row in a range, completed in both directions
//!   ([`CompleteSessions`], law SESS-2);
//! * arithmetic and sums that refuse a result which does not fit its type ([`CheckedArithmetic`], law VALUE-1), and `||` that
//!   refuses a result beyond the memory budget of its statement ([`Budget`]);
//! * `offsets_in`, `is_final`, `header` and its kin, `to_json`, and the functions of
//!   `datafusion-functions-json`.
//!
//! A window function is used in FROM, over a table, view, CTE or subquery, in the long form
//! `SESSION(TABLE visits PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 minutes')` or the short one
//! `SESSION(visits, user_id, event_time, INTERVAL '10 minutes')`. It returns the input's columns, then `window_start` and
//! `window_end` of the event time's type. A NULL event time is an error (law NULL-1).
//!
//! # Wiring
//!
//! 1. The SQL dialect's `parse_prefix` calls [`parse_table_argument`].
//! 2. Each parsed statement goes through [`rewrite_window_calls`] before it is planned.
//! 3. [`register`] adds functions, planners and optimizer rules to a session state's builder, and
//!    [`register_json`] the JSON operators to the state that was built.
//! 4. The session's query planner plans with [`extension_planners`]; [`query_planner`] is one without any others. It may first
//!    call [`seal_completions`], which saves planning whole tables, and on each operator [`with_guards`], by which conditions
//!    guard the ones after them, and [`with_one_parse`], which saves parsing a JSON text for each of its values.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::disallowed_methods
    )
)]

mod bool_aggregates;
mod budget;
mod checked;
mod children;
mod comparison_casts;
mod complete;
mod computed_keys;
mod correlated;
mod diagnostic;
mod doubles;
mod empty_subqueries;
mod equalities;
mod filtered_arguments;
mod guards;
mod incremental;
mod inner_aggregate;
mod is_final;
mod join_conditions;
mod join_keys;
mod membership;
mod offsets;
mod one_parse;
mod operands;
mod ordered_aggregates;
mod outer_scopes;
mod planner;
mod projection_names;
mod push_down_filters;
mod ranges;
mod register;
mod session;
mod side_output;
mod single_value;
mod sql;
mod times;
mod top_down;
mod unjoinable;
mod values;
mod window;
mod window_calls;

pub use budget::{Budget, is_over_budget};
pub use checked::{
    CastsInFiles, CheckedArithmetic, DecimalOperators, WidenDecimalComparisons, as_kept, checked,
    checked_cast, checked_of_table, equal_zeros, plain, with_one_nan_within,
};
pub use children::{no_children, only_child};
pub use complete::{
    AggregateByCompletedSession, CompleteSessions, CompleteSessionsAggregate, CompleteSessionsExec,
    CompletionNotices, CompletionRange, NullFreeColumns, SessionsCapped, seal_completions,
};
pub use computed_keys::ComputedKeys;
pub use doubles::{DoubleBeforeDecimal, element_functions, with_one_element};
pub use filtered_arguments::FilteredArguments;
pub use guards::{can_fail, expr_can_fail, guarded, with_guards};
pub use incremental::{
    FIRST_WINDOW_END, IncrementalAggregate, LateRowsExec, LateRule, MergedRows, STATE_CLOSES,
    STATE_CLOSES_AFTER, STATE_KEYS, SliceRowsExec, SliceRule, StateShape,
};
pub use is_final::{IS_FINAL, IsFinalPlanner, is_final};
pub use membership::NullAwareMembership;
pub use offsets::{
    NamedOffset, NamedOffsets, next_offsets, offsets_from, offsets_in, parse_named_offsets,
};
pub use one_parse::with_one_parse;
pub use operands::{map_named_expressions, only_argument};
pub use planner::{WindowExtensionPlanner, WindowRelationPlanner};
pub use push_down_filters::PushDownFilters;
pub use ranges::EventTimeRanges;
pub use register::{
    aggregate_functions, before_types, before_types_of_table, expr_planners, extension_planners,
    optimizer_rules, query_planner, register, register_json, relation_planners, scalar_functions,
};
pub use session::{
    AggregateBySession, SessionAggregate, SessionColumn, SessionExec, SessionMergeExec,
    SessionPartialExec, SessionWindow, session_aggregate_of, session_groups_of,
};
pub use side_output::{DISPOSITION, Disposition, LateColumns, SideOutput, side_rows, side_schema};
pub use sql::{Walk, WalkMut, expr_text, parse_table_argument, rewrite_window_calls};
pub use times::{MicrosecondTime, calendar, with_microseconds};
pub use unjoinable::ROWS_OF_QUERY;
pub use values::{
    IntervalPlanner, JSON_VALUES, header, headers_list, headers_map, interval_times, is_json_type,
    times_json_is_read, to_json,
};
pub use window::{
    AlignedWindows, EventWindow, EventWindowExec, Slices, WINDOW_END, WINDOW_START, WindowKind,
};
