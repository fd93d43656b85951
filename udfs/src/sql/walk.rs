//! Walks over the syntax tree of a statement.
//!
//! sqlparser's `visit` is generic over the visitor: each type of visitor compiles the walk over the whole tree once more, about a
//! megabyte of code. Here all visitors share one walk, which calls them through a pointer.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Select, Statement, TableFactor, ValueWithSpan, Visit, VisitMut,
    Visitor, VisitorMut,
};

/// A part of a syntax tree that a visitor can read.
pub trait Walk: Visit {
    /// Calls `visitor` for each node, as [`Visit::visit`] does, and ends early where it breaks.
    fn walk<V: Visitor>(&self, visitor: &mut V) -> ControlFlow<V::Break>;
}

/// A part of a syntax tree that a visitor can change.
pub trait WalkMut: VisitMut {
    /// Calls `visitor` for each node, as [`VisitMut::visit`] does, and ends early where it breaks.
    fn walk_mut<V: VisitorMut>(&mut self, visitor: &mut V) -> ControlFlow<V::Break>;
}

impl<T: Visit> Walk for T {
    #[expect(clippy::disallowed_methods, reason = "the one call")]
    fn walk<V: Visitor>(&self, visitor: &mut V) -> ControlFlow<V::Break> {
        let mut kept = KeptBreak {
            visitor,
            broken: None,
        };
        let _ = self.visit(&mut SharedVisitor(&mut kept));
        kept.value()
    }
}

impl<T: VisitMut> WalkMut for T {
    #[expect(clippy::disallowed_methods, reason = "the one call")]
    fn walk_mut<V: VisitorMut>(&mut self, visitor: &mut V) -> ControlFlow<V::Break> {
        let mut kept = KeptBreak {
            visitor,
            broken: None,
        };
        let _ = self.visit(&mut SharedVisitorMut(&mut kept));
        kept.value()
    }
}

/// Keeps a visitor's value aside, so that all visitors break with the same type.
struct KeptBreak<'a, V, B> {
    visitor: &'a mut V,
    broken: Option<B>,
}

impl<V, B> KeptBreak<'_, V, B> {
    /// What the walk gives: it ends early only where the visitor has left a value.
    fn value(self) -> ControlFlow<B> {
        self.broken
            .map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }

    fn keep(&mut self, step: ControlFlow<B>) -> ControlFlow<()> {
        match step {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(value) => {
                self.broken = Some(value);
                ControlFlow::Break(())
            }
        }
    }
}

struct SharedVisitor<'a>(&'a mut dyn Visitor<Break = ()>);

struct SharedVisitorMut<'a>(&'a mut dyn VisitorMut<Break = ()>);

/// Gives the calls of a visitor, each with the reference it gets, to the macro `$then`.
macro_rules! with_calls {
    ($then:ident, $visitor:ident, $shared:ident, $($reference:tt)+) => {
        $then!(
            $visitor,
            $shared,
            pre_visit_query: $($reference)+ Query,
            post_visit_query: $($reference)+ Query,
            pre_visit_select: $($reference)+ Select,
            post_visit_select: $($reference)+ Select,
            pre_visit_relation: $($reference)+ ObjectName,
            post_visit_relation: $($reference)+ ObjectName,
            pre_visit_table_factor: $($reference)+ TableFactor,
            post_visit_table_factor: $($reference)+ TableFactor,
            pre_visit_expr: $($reference)+ Expr,
            post_visit_expr: $($reference)+ Expr,
            pre_visit_statement: $($reference)+ Statement,
            post_visit_statement: $($reference)+ Statement,
            pre_visit_value: $($reference)+ ValueWithSpan,
            post_visit_value: $($reference)+ ValueWithSpan,
        );
    };
}

/// The two implementations that pass each call on: one keeps the visitor's value, one hides its type.
macro_rules! pass_on {
    ($visitor:ident, $shared:ident, $($method:ident: $node:ty),+ $(,)?) => {
        impl<V: $visitor> $visitor for KeptBreak<'_, V, V::Break> {
            type Break = ();
            $(fn $method(&mut self, node: $node) -> ControlFlow<()> {
                let step = self.visitor.$method(node);
                self.keep(step)
            })+
        }

        impl $visitor for $shared<'_> {
            type Break = ();
            $(fn $method(&mut self, node: $node) -> ControlFlow<()> {
                self.0.$method(node)
            })+
        }
    };
}

with_calls!(pass_on, Visitor, SharedVisitor, &);
with_calls!(pass_on, VisitorMut, SharedVisitorMut, &mut);

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    /// Writes down each call that it gets, and breaks at the text it is told.
    #[derive(Default)]
    struct Calls {
        seen: Vec<String>,
        until: Option<&'static str>,
    }

    impl Calls {
        fn note(&mut self, hook: &str, node: &dyn std::fmt::Display) -> ControlFlow<usize> {
            self.seen.push(format!("{hook} {node}"));
            match self.until {
                Some(until) if node.to_string() == until => ControlFlow::Break(self.seen.len()),
                _ => ControlFlow::Continue(()),
            }
        }
    }

    macro_rules! note_all {
        ($visitor:ident, $calls:ident, $($method:ident: $node:ty),+ $(,)?) => {
            impl $visitor for $calls {
                type Break = usize;
                $(fn $method(&mut self, node: $node) -> ControlFlow<usize> {
                    self.note(stringify!($method), node)
                })+
            }
        };
    }

    with_calls!(note_all, Visitor, Calls, &);
    with_calls!(note_all, VisitorMut, Calls, &mut);

    fn statements() -> Vec<Statement> {
        let text = "WITH a AS (SELECT 1 + b FROM t WHERE c IN (SELECT 'x' FROM u)) \
                    SELECT sum(d) FROM a JOIN f(2) ON TRUE ORDER BY 1; DELETE FROM t WHERE e = 3";
        Parser::parse_sql(&GenericDialect {}, text).unwrap()
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "compared with the walk of sqlparser"
    )]
    fn a_walk_makes_the_calls_of_sqlparser() {
        for until in [None, Some("b"), Some("'x'"), Some("u"), Some("f(2)")] {
            let calls = || Calls {
                until,
                ..Calls::default()
            };
            let mut tree = statements();
            let (mut ours, mut theirs) = (calls(), calls());
            assert_eq!(tree.walk(&mut ours), Visit::visit(&tree, &mut theirs));
            assert_eq!(ours.seen, theirs.seen);
            let hooks: std::collections::BTreeSet<_> = ours
                .seen
                .iter()
                .map(|call| call.split(' ').next())
                .collect();
            assert_eq!(hooks.len() == 14, until.is_none(), "{hooks:?}");

            let (mut ours, mut theirs) = (calls(), calls());
            assert_eq!(
                tree.walk_mut(&mut ours),
                VisitMut::visit(&mut tree, &mut theirs)
            );
            assert_eq!(ours.seen, theirs.seen);
        }
    }
}
