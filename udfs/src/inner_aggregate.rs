//! Aggregate functions made of another one: the methods that ask that one.

/// The methods of an aggregate function whose name, arguments, types and state are those of its field `inner`, an
/// `Arc<AggregateUDF>`. They stand in its `impl AggregateUDFImpl`; what the function does otherwise, its accumulators and their order,
/// stands beside them.
macro_rules! of_inner_aggregate {
    () => {
        fn name(&self) -> &str {
            self.inner.name()
        }

        fn aliases(&self) -> &[String] {
            self.inner.aliases()
        }

        fn signature(&self) -> &::datafusion::logical_expr::Signature {
            self.inner.signature()
        }

        fn coerce_types(
            &self,
            types: &[::arrow::datatypes::DataType],
        ) -> ::datafusion::common::Result<Vec<::arrow::datatypes::DataType>> {
            self.inner.coerce_types(types)
        }

        fn return_type(
            &self,
            types: &[::arrow::datatypes::DataType],
        ) -> ::datafusion::common::Result<::arrow::datatypes::DataType> {
            self.inner.inner().return_type(types)
        }

        fn return_field(
            &self,
            fields: &[::arrow::datatypes::FieldRef],
        ) -> ::datafusion::common::Result<::arrow::datatypes::FieldRef> {
            self.inner.return_field(fields)
        }

        fn is_nullable(&self) -> bool {
            self.inner.is_nullable()
        }

        fn default_value(
            &self,
            data_type: &::arrow::datatypes::DataType,
        ) -> ::datafusion::common::Result<::datafusion::common::ScalarValue> {
            self.inner.default_value(data_type)
        }

        fn state_fields(
            &self,
            args: ::datafusion::logical_expr::function::StateFieldsArgs,
        ) -> ::datafusion::common::Result<Vec<::arrow::datatypes::FieldRef>> {
            self.inner.state_fields(args)
        }

        fn groups_accumulator_supported(
            &self,
            args: ::datafusion::logical_expr::function::AccumulatorArgs,
        ) -> bool {
            self.inner.groups_accumulator_supported(args)
        }

        fn simplify(
            &self,
        ) -> Option<::datafusion::logical_expr::function::AggregateFunctionSimplification> {
            self.inner.simplify()
        }

        fn documentation(&self) -> Option<&::datafusion::logical_expr::Documentation> {
            self.inner.documentation()
        }
    };
}

pub(crate) use of_inner_aggregate;
