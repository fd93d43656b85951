//! Optimizer rules that change the operators of a plan one by one, each before its inputs.

/// Makes a type an optimizer rule of this name, which calls the function with each operator.
macro_rules! changes_top_down {
    ($rule:ty, $name:literal, $change:path) => {
        impl ::datafusion::optimizer::OptimizerRule for $rule {
            fn name(&self) -> &str {
                $name
            }

            fn apply_order(&self) -> ::std::option::Option<::datafusion::optimizer::ApplyOrder> {
                ::std::option::Option::Some(::datafusion::optimizer::ApplyOrder::TopDown)
            }

            fn rewrite(
                &self,
                plan: ::datafusion::logical_expr::LogicalPlan,
                _: &dyn ::datafusion::optimizer::OptimizerConfig,
            ) -> ::datafusion::error::Result<
                ::datafusion::common::tree_node::Transformed<
                    ::datafusion::logical_expr::LogicalPlan,
                >,
            > {
                $change(plan)
            }
        }
    };
}

pub(crate) use changes_top_down;
