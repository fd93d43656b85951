//! Children of operators that have one input.

use std::sync::Arc;

use datafusion::common::{Result, internal_err};
use datafusion::physical_plan::ExecutionPlan;

/// The new input of the operator of this name, which has one.
///
/// # Errors
///
/// There are none or several.
pub fn only_child(
    operator: &str,
    mut children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    match (children.pop(), children.is_empty()) {
        (Some(input), true) => Ok(input),
        _ => internal_err!("{operator} takes one child"),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;

    #[test]
    fn an_operator_with_one_input_takes_one_child() {
        let empty =
            || -> Arc<dyn ExecutionPlan> { Arc::new(EmptyExec::new(Arc::new(Schema::empty()))) };
        only_child("AnyExec", vec![empty()]).unwrap();
        for children in [vec![], vec![empty(), empty()]] {
            let error = only_child("AnyExec", children).unwrap_err();
            let says = "AnyExec takes one child";
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
