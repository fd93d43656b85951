//! Names for computed join keys that would otherwise have the name of their input column.
//!
//! The engine adds such a key to the columns of its input, where a function that is named like its argument, as a cast is,
//! would be a second column of that name. The engine renames its own casts; this module renames functions.

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::top_down::changes_top_down;

/// Gives computed keys unique names. It runs after the rules that turn conditions into keys.
#[derive(Debug)]
pub(crate) struct NamedKeys;

changes_top_down!(NamedKeys, "named_keys", named_keys);

fn named_keys(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Join(mut join) = plan else {
        return Ok(Transformed::no(plan));
    };
    let mut is_changed = false;
    for (left, right) in &mut join.on {
        for key in [left, right] {
            if matches!(key, Expr::ScalarFunction(_)) {
                let name = key.to_string();
                *key = std::mem::take(key).alias(name);
                is_changed = true;
            }
        }
    }
    let plan = LogicalPlan::Join(join);
    Ok(Transformed::new_transformed(plan, is_changed))
}
