//! Conditions that guard: `CASE WHEN b <> 0 THEN 10 / b > 1 ELSE false END` divides only where `b` is not 0.
//!
//! The engine takes an expression for one that cannot fail. So it makes AND and OR of a CASE of BOOLEAN, evaluates all conditions of
//! WHERE over the same rows, and computes a projection below a filter. [`can_fail`] says of which expressions that is wrong, and the
//! rules change nothing else: comparisons of columns with values stay as they are, by which files and offsets are left out.
//!
//! * [`GuardedConditions`] runs before constants are folded. It gives such a CASE the form `CASE true WHEN …`, which the engine does not
//!   rewrite, and does the same for `coalesce`, `nvl` and `nvl2`. It is an optimizer rule: stored state is identified by analyzed plans,
//!   which it does not change. [`guarded`] does the same for one expression that no optimizer sees.
//! * [`with_guards`] runs right before physical planning, when no rule moves conditions any more. It gives each CASE its form back, and
//!   lets each condition of WHERE and ON that can fail see only rows for which the others hold: first those that cannot fail, then the
//!   rest in the order in which they are written.
//! * [`expr_can_fail`] is [`can_fail`] for physical expressions.

mod can_fail;
mod conditions;
mod first_not_null;
mod turns;

pub use can_fail::{can_fail, expr_can_fail};
pub(crate) use conditions::GuardedConditions;
pub use conditions::guarded;
pub use turns::with_guards;
