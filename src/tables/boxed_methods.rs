//! The methods of a table provider that read and write it, written out instead of `async fn`.
//!
//! Among the bounds that async_trait adds, rustc proves for each function again that plans are Send, which takes it many seconds each
//! time. A function with one lifetime has no such bounds: the macros here name all lifetimes of the trait's methods, and pass the call on
//! to an expression, such as a method of the provider that gives a boxed future.

/// `TableProvider::scan`. The names before the expression stand for the provider, the session, the projection, the filters and the limit.
macro_rules! boxed_scan {
    (|$table:ident, $session:pat_param, $projection:pat_param, $filters:pat_param, $limit:pat_param| $scan:expr) => {
        fn scan<'life0, 'life1, 'life2, 'life3, 'async_trait>(
            &'life0 self,
            session: &'life1 dyn ::datafusion::catalog::Session,
            projection: ::std::option::Option<&'life2 ::std::vec::Vec<usize>>,
            filters: &'life3 [::datafusion::logical_expr::Expr],
            limit: ::std::option::Option<usize>,
        ) -> ::futures::future::BoxFuture<
            'async_trait,
            ::datafusion::error::Result<
                ::std::sync::Arc<dyn ::datafusion::physical_plan::ExecutionPlan>,
            >,
        >
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            'life2: 'async_trait,
            'life3: 'async_trait,
            Self: 'async_trait,
        {
            let ($table, $session, $projection, $filters, $limit) =
                (self, session, projection, filters, limit);
            $scan
        }
    };
}

/// `TableProvider::insert_into`. The names before the expression stand for the provider, the session, the input and the kind of insert.
macro_rules! boxed_insert_into {
    (|$table:ident, $session:pat_param, $input:ident, $op:pat_param| $insert:expr) => {
        fn insert_into<'life0, 'life1, 'async_trait>(
            &'life0 self,
            session: &'life1 dyn ::datafusion::catalog::Session,
            input: ::std::sync::Arc<dyn ::datafusion::physical_plan::ExecutionPlan>,
            op: ::datafusion::logical_expr::dml::InsertOp,
        ) -> ::futures::future::BoxFuture<
            'async_trait,
            ::datafusion::error::Result<
                ::std::sync::Arc<dyn ::datafusion::physical_plan::ExecutionPlan>,
            >,
        >
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            let ($table, $session, $input, $op) = (self, session, input, op);
            $insert
        }
    };
}

pub(crate) use {boxed_insert_into, boxed_scan};
