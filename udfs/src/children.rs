//! How operators take other inputs, and the methods that operators of one kind have in common: those that pass the rows of their input
//! on, and those without an input.

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

/// Checks the new inputs of the operator of this name, which has none.
///
/// # Errors
///
/// There are some.
pub fn no_children(operator: &str, children: &[Arc<dyn ExecutionPlan>]) -> Result<()> {
    match children.is_empty() {
        true => Ok(()),
        false => internal_err!("{operator} takes no children"),
    }
}

/// The method of an operator that has no expressions. It stands in its `impl ExecutionPlan`.
#[macro_export]
macro_rules! has_no_expressions {
    () => {
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

/// The methods of an operator that has no input and no expressions, and its properties in its field `properties`. They stand in its
/// `impl ExecutionPlan`; the macro takes the operator's name.
#[macro_export]
macro_rules! has_no_children {
    ($name:literal) => {
        fn name(&self) -> &'static str {
            $name
        }

        fn properties(&self) -> &::std::sync::Arc<::datafusion::physical_plan::PlanProperties> {
            &self.properties
        }

        fn children(
            &self,
        ) -> ::std::vec::Vec<&::std::sync::Arc<dyn ::datafusion::physical_plan::ExecutionPlan>> {
            ::std::vec::Vec::new()
        }

        fn with_new_children(
            self: ::std::sync::Arc<Self>,
            children: ::std::vec::Vec<
                ::std::sync::Arc<dyn ::datafusion::physical_plan::ExecutionPlan>,
            >,
        ) -> ::datafusion::error::Result<
            ::std::sync::Arc<dyn ::datafusion::physical_plan::ExecutionPlan>,
        > {
            $crate::no_children($name, &children)?;
            ::std::result::Result::Ok(self)
        }

        $crate::has_no_expressions!();
    };
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

        $crate::has_no_expressions!();
    };
}

/// The deprecated method of an operator that has `replace_children`. It stands in its `impl ExecutionPlan`.
macro_rules! replaces_children {
    () => {
        fn with_new_children(
            self: ::std::sync::Arc<Self>,
            children: ::std::vec::Vec<
                ::std::sync::Arc<dyn ::datafusion::physical_plan::ExecutionPlan>,
            >,
        ) -> ::datafusion::error::Result<
            ::std::sync::Arc<dyn ::datafusion::physical_plan::ExecutionPlan>,
        > {
            self.replace_children(
                children,
                ::datafusion::physical_plan::execution_plan::ReplaceChildrenOptions::new(
                    ::datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute,
                ),
            )
        }
    };
}

pub(crate) use replaces_children;

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;

    #[test]
    fn operators_take_as_many_children_as_they_have() {
        let empty =
            || -> Arc<dyn ExecutionPlan> { Arc::new(EmptyExec::new(Arc::new(Schema::empty()))) };
        only_child("AnyExec", vec![empty()]).unwrap();
        for children in [vec![], vec![empty(), empty()]] {
            let error = only_child("AnyExec", children).unwrap_err();
            let says = "AnyExec takes one child";
            assert!(error.to_string().contains(says), "{error}");
        }
        no_children("AnyExec", &[]).unwrap();
        let error = no_children("AnyExec", &[empty()]).unwrap_err();
        let says = "AnyExec takes no children";
        assert!(error.to_string().contains(says), "{error}");
    }
}
