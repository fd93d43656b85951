//! Size of a statement after its views and common table expressions are expanded.
//!
//! The planner copies the query behind a name at each mention. A common table expression that names the previous one twice
//! doubles the plan with each step, and so do views over views: the plan would be too large to count. So this module counts the
//! mentions in the syntax tree, where each query is visited once.
//!
//! When the engine looks for the tables of a statement, it reads each common table expression twice, so that WITH within WITH
//! doubles too: this module also counts that work.

use std::collections::HashMap;
use std::ops::ControlFlow;

use anabranch_udfs::Walk;
use datafusion::sql::sqlparser::ast::{Expr, ObjectName, ObjectNamePart, Query, Visitor};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::core::stack::with_stack;
use crate::error::{Error, Result};
use crate::planner::normalize;
use crate::session::catalog::{Catalog, TableEntry, VIEWS, split_time_travel, too_many_views};
use crate::session::limits::plan_limits::OPERATORS;
use crate::session::limits::refusal::too_large;
use crate::session::options::SCHEMA;

/// Limit for the weight of all mentions of a statement: the planner walks the named query at each of them.
const MENTIONED: u64 = 100_000;
/// Queries, names and parts of expressions that the engine reads again while it looks for tables.
const READ_AGAIN: u64 = 5_000_000;

/// Refuses a statement that is too large for planning.
///
/// # Errors
///
/// [`crate::error::ErrorKind::Exhausted`], at the name that makes it too large.
pub(crate) fn check(catalog: &Catalog, node: &impl Walk) -> Result<()> {
    let mut weigher = QueryWeigher {
        catalog,
        frames: vec![QueryFrame::default()],
        views: HashMap::new(),
        within: 0,
        mentioned: 0,
        read_again: 0,
        place: None,
    };
    match with_stack(|| node.walk(&mut weigher)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// A query that is being walked.
#[derive(Default)]
struct QueryFrame {
    /// Queries and tables so far.
    weight: u64,
    /// Its common table expressions that were not walked yet.
    pending: HashMap<*const Query, String>,
    /// The weights of those that were.
    known: HashMap<String, u64>,
    /// Enclosing common table expressions, each of which the engine reads twice.
    doubled: u32,
}

struct QueryWeigher<'a> {
    catalog: &'a Catalog,
    /// Nested queries, innermost last; below the first one is the statement, or the view.
    frames: Vec<QueryFrame>,
    /// The weight of each view; a view that is being walked weighs 1, because the planner refuses recursion.
    views: HashMap<String, u64>,
    /// Depth of nested views.
    within: usize,
    mentioned: u64,
    read_again: u64,
    /// The last name in the statement's own text. A place in a view's text is not a place in the statement's.
    place: Option<(String, Span)>,
}

impl QueryWeigher<'_> {
    fn placed(&self, error: Error) -> Error {
        match &self.place {
            Some((_, span)) => error.at(*span),
            None => error,
        }
    }

    /// Adds to the innermost query.
    fn add(&mut self, weight: u64) -> ControlFlow<Error> {
        let Some(frame) = self.frames.last_mut() else {
            return ControlFlow::Continue(());
        };
        frame.weight = frame.weight.saturating_add(weight);
        if frame.weight > OPERATORS as u64 {
            return ControlFlow::Break(self.placed(too_large(format!(
                "the statement has more than {OPERATORS} operators once its views and common table expressions are put in"
            ))));
        }
        ControlFlow::Continue(())
    }

    /// Counts the repeated reads, which double with each enclosing common table expression.
    fn read(&mut self) -> ControlFlow<Error> {
        let doubled = self.frames.last().map_or(0, |frame| frame.doubled);
        let times = 1_u64.checked_shl(doubled).unwrap_or(u64::MAX);
        self.read_again = self.read_again.saturating_add(times - 1);
        if self.read_again <= READ_AGAIN {
            return ControlFlow::Continue(());
        }
        let error = Error::invalid("WITH is nested too deep within WITH here")
            .with_help("write them side by side: WITH a AS (…), b AS (SELECT … FROM a) SELECT …");
        ControlFlow::Break(self.placed(error))
    }

    /// The weight of a view; 1 if there is no view of this name.
    fn view(&mut self, name: &str) -> ControlFlow<Error, u64> {
        if let Some(known) = self.views.get(name) {
            return ControlFlow::Continue(*known);
        }
        // A view may use tables that the statement may not.
        let entry = match self.within {
            0 => self.catalog.entry(name),
            _ => self.catalog.entry_of_plan(name),
        };
        let Some(TableEntry::View(view)) = entry else {
            return ControlFlow::Continue(1);
        };
        if self.within >= VIEWS {
            // The error names the view that the statement itself names.
            let outer = self.place.as_ref().map_or(name, |(outer, _)| outer);
            return ControlFlow::Break(self.placed(too_many_views(outer)));
        }
        self.views.insert(name.to_owned(), 1);
        let frames = std::mem::replace(&mut self.frames, vec![QueryFrame::default()]);
        self.within += 1;
        let read = view.query.walk(self);
        self.within -= 1;
        let own = std::mem::replace(&mut self.frames, frames);
        read?;
        let weight = own.first().map_or(1, |frame| frame.weight);
        self.views.insert(name.to_owned(), weight);
        ControlFlow::Continue(weight)
    }
}

impl Visitor for QueryWeigher<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let around = self.frames.last();
        let is_doubled =
            around.is_some_and(|frame| frame.pending.contains_key(&std::ptr::from_ref(query)));
        let doubled = around.map_or(0, |frame| frame.doubled) + u32::from(is_doubled);
        let tables = query.with.as_ref().map(|with| with.cte_tables.as_slice());
        let tables = tables.unwrap_or_default();
        if let (0, Some(first)) = (self.within, tables.first()) {
            let name = &first.alias.name;
            self.place = Some((normalize(name), name.span));
        }
        let pending = tables.iter().map(|table| {
            let of = std::ptr::from_ref(table.query.as_ref());
            (of, normalize(&table.alias.name))
        });
        self.frames.push(QueryFrame {
            weight: 1,
            pending: pending.collect(),
            known: HashMap::new(),
            doubled,
        });
        self.read()
    }

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<Error> {
        self.read()
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let Some(done) = self.frames.pop() else {
            return ControlFlow::Continue(());
        };
        // A common table expression counts where it is named.
        if let Some(above) = self.frames.last_mut()
            && let Some(name) = above.pending.remove(&std::ptr::from_ref(query))
        {
            above.known.insert(name, done.weight);
            return ControlFlow::Continue(());
        }
        self.add(done.weight)
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Error> {
        self.read()?;
        let parts = relation.0.iter().filter_map(ObjectNamePart::as_ident);
        let parts: Vec<String> = parts.map(normalize).collect();
        let ident = relation.0.last().and_then(ObjectNamePart::as_ident);
        let (Some(name), Some(ident)) = (parts.last(), ident) else {
            return self.add(1);
        };
        if self.within == 0 {
            self.place = Some((name.clone(), ident.span));
        }
        // The planner looks up the whole name among the common table expressions.
        let whole = parts.join(".");
        let mut frames = self.frames.iter().rev();
        let table = frames.find_map(|frame| frame.known.get(&whole).copied());
        let schema = parts.iter().rev().nth(1);
        let weight = match table {
            Some(weight) => weight,
            None if schema.is_none_or(|schema| schema == SCHEMA) => {
                self.view(split_time_travel(name).0)?
            }
            None => 1,
        };
        self.mentioned = self.mentioned.saturating_add(weight);
        if self.mentioned > MENTIONED {
            return ControlFlow::Break(self.placed(too_large(format!(
                "the views and common table expressions that the statement names have more than {MENTIONED} operators in all"
            ))));
        }
        self.add(weight)
    }
}

#[cfg(test)]
mod tests {
    use crate::error::{ErrorKind, Result};
    use crate::planner::{Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    async fn run(session: &Session, sql: &str) -> Result<usize> {
        let raw = Script::new("test", sql).split()?.remove(0);
        let rows = session.collect(parse_statement(&raw)?).await?;
        Ok(rows.iter().map(|batch| batch.num_rows()).sum())
    }

    /// `steps` common table expressions, each over the previous one.
    fn chain(steps: usize, step: impl Fn(&str) -> String) -> String {
        let steps: Vec<String> = (1..=steps)
            .map(|n| format!("t{n} AS ({})", step(&format!("t{}", n - 1))))
            .collect();
        format!("WITH t0 AS (SELECT 1 AS c), {}", steps.join(", "))
    }

    #[tokio::test]
    async fn doubling_texts_are_refused_before_planning() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        for sql in [
            chain(30, |from| {
                format!("SELECT c FROM {from} UNION ALL SELECT c FROM {from}")
            }),
            chain(60, |from| {
                format!("SELECT c FROM {from} WHERE c IN (SELECT c FROM {from})")
            }),
            chain(60, |from| {
                format!("SELECT c, (SELECT max(c) FROM {from}) AS d FROM {from}")
            }),
            chain(60, |from| {
                format!("WITH u AS (SELECT c FROM {from}) SELECT u.c FROM u, u AS v")
            }),
            chain(60, |from| format!("SELECT x.c FROM {from} x, {from} y")),
        ] {
            let last = sql.matches(" AS (SELECT").count().min(30);
            for sql in [
                format!("{sql} SELECT * FROM t{last}"),
                format!("EXPLAIN {sql} SELECT * FROM t{last}"),
                format!("CREATE VIEW v AS {sql} SELECT * FROM t{last}"),
                // The planner also plans those that the statement does not use.
                format!("{sql} SELECT 1"),
            ] {
                let error = run(&session, &sql).await.expect_err(&sql[..120]);
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
                assert!(error.span().is_some(), "{error}");
            }
        }
        let dotted: Vec<String> = (1..=30)
            .map(|n| {
                let from = n - 1;
                format!("\"a.t{n}\" AS (SELECT c FROM a.t{from} UNION ALL SELECT c FROM a.t{from})")
            })
            .collect();
        let sql = format!(
            "WITH \"a.t0\" AS (SELECT 1 AS c), {} SELECT * FROM a.t30",
            dotted.join(", ")
        );
        let error = run(&session, &sql).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    }

    #[tokio::test]
    async fn deeply_nested_with_is_refused_before_parsing() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let nested = |levels: usize| {
            format!(
                "{}SELECT 1 AS x{}",
                "WITH a AS (".repeat(levels),
                ") SELECT * FROM a".repeat(levels)
            )
        };
        for levels in [1, 4, 12] {
            assert_eq!(run(&session, &nested(levels)).await.unwrap(), 1);
        }
        let deep = nested(45);
        for sql in [
            deep.clone(),
            format!("EXPLAIN {deep}"),
            format!("CREATE VIEW deep AS {deep}"),
            format!("SELECT (SELECT max(x) FROM ({deep}))"),
            format!("INSERT INTO t {deep}"),
        ] {
            let error = run(&session, &sql).await.expect_err(&sql[..40]);
            let is_told = error
                .message()
                .contains("WITH is nested too deep within WITH");
            assert!(is_told, "{error}");
            assert!(error.span().is_some());
        }
        // Siblings do not enclose each other.
        let beside = chain(60, |from| {
            format!("WITH u AS (SELECT c FROM {from}) SELECT c FROM u")
        });
        let sql = format!("{beside} SELECT * FROM t60");
        assert_eq!(run(&session, &sql).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn views_are_counted_at_each_mention() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        run(&session, "CREATE VIEW v0 AS SELECT 1 AS c")
            .await
            .unwrap();
        let mut refused = None;
        for n in 1..=40 {
            let from = n - 1;
            let sql = format!("CREATE VIEW v{n} AS SELECT x.c FROM v{from} x, public.v{from} y");
            if let Err(error) = run(&session, &sql).await {
                refused = Some((n, error));
                break;
            }
        }
        let (n, error) = refused.expect("views that double are refused");
        assert!((8..20).contains(&n), "{n}");
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        let named = vec![format!("v{}", n - 1); 40].join(", ");
        let error = run(&session, &format!("SELECT 1 FROM {named}"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert_eq!(run(&session, "SELECT * FROM v3").await.unwrap(), 1);
    }

    #[tokio::test]
    async fn linearly_growing_statements_are_planned() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        let plain = chain(60, |from| format!("SELECT c + 1 AS c FROM {from}"));
        assert_eq!(
            run(&session, &format!("{plain} SELECT * FROM t60"))
                .await
                .unwrap(),
            1
        );
        let often = vec!["SELECT c FROM t0"; 1_000].join(" UNION ALL ");
        assert_eq!(
            run(&session, &format!("WITH t0 AS (SELECT 1 AS c) {often}"))
                .await
                .unwrap(),
            1_000
        );
        let recursive = "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t";
        assert_eq!(run(&session, recursive).await.unwrap(), 5);
    }
}
