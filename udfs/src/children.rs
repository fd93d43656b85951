//! Operators that have one input: how they take another one, and the methods of those that pass its rows on.

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

/// The methods of an operator that passes on the rows of its field `input`, in the same columns, partitions and order, and has
/// no expressions. They stand in its `impl ExecutionPlan`; the macro takes the operator's name.
#[macro_export]
macro_rules! passes_rows_on {
    ($name:literal) => {
        fn name(&self) -> &'static str {
            $name
        }

        fn properties(&self) -> &::std::sync::Arc<::datafusion::physical_plan::PlanProperties> {
            self.input.properties()
        }

        fn children(
            &self,
        ) -> ::std::vec::Vec<&::std::sync::Arc<dyn ::datafusion::physical_plan::ExecutionPlan>> {
            ::std::vec![&self.input]
        }

        fn maintains_input_order(&self) -> ::std::vec::Vec<bool> {
            ::std::vec![true]
        }

        fn benefits_from_input_partitioning(&self) -> ::std::vec::Vec<bool> {
            ::std::vec![false]
        }

        fn apply_expressions(
            &self,
            _: &mut dyn FnMut(
                &::std::sync::Arc<dyn ::datafusion::physical_plan::PhysicalExpr>,
            ) -> ::datafusion::error::Result<
                ::datafusion::common::tree_node::TreeNodeRecursion,
            >,
        ) -> ::datafusion::error::Result<::datafusion::common::tree_node::TreeNodeRecursion> {
            ::std::result::Result::Ok(::datafusion::common::tree_node::TreeNodeRecursion::Continue)
        }
    };
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
