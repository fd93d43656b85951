//! Limit for the size of a plan before it is optimized (SAFE-1).
//!
//! A short text can give a huge plan: a common table expression that names the previous one twice doubles the plan with each
//! step, and so does a condition that moves down through columns each of which uses another one twice. The parts are shared
//! until the optimizer walks them as a tree. So this module counts them as a tree, and counting stops at the limit.
//!
//! Nested subqueries double the work as well: the engine checks each of them by itself and again with its outer query.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::{Expr, LogicalPlan};

use anabranch_udfs::is_json_type;

use crate::core::stack::with_stack;
use crate::error::Result;
use crate::session::limits::expansion::ColumnExpansion;
use crate::session::limits::refusal::too_large;
use crate::session::limits::{expansion, function_bounds, type_fields};

/// Operators of a plan, counted as often as the optimizer visits them.
pub(crate) const OPERATORS: usize = 20_000;
/// Depth of the plan.
const DEPTH: usize = 500;
/// Subqueries in the expressions of one operator.
const QUERIES: usize = 200;
/// Depth of operators that a subquery adds: a join, and its input.
const OF_QUERY: usize = 2;
/// Parts of all expressions, counted as often as the optimizer visits them.
const PARTS: u64 = 2_000_000;
/// Parts of one expression after expansion, if the expansion makes it larger.
const GROWN: u64 = 500_000;
/// Calls of functions that compare each element with each: all of them may run for one batch without a pause.
const COMPARING: usize = 64;
/// Parts of one condition once it is pushed down to the tables.
const EXPANDED: u64 = 200_000;

/// Refuses a plan that the optimizer could not finish.
///
/// # Errors
///
/// [`crate::error::ErrorKind::Exhausted`], with the limit that the plan exceeds.
pub(crate) fn check(plan: &LogicalPlan) -> Result<()> {
    with_stack(|| {
        let mut count = PlanCounters::default();
        count.walk(plan, OperatorPosition::default())?;
        // Each projection can double a condition: a few projections cannot make it large.
        if count.projections > 3 {
            weigh(plan, &mut HashMap::new())?;
        }
        Ok(())
    })
}

fn too_many_parts() -> DataFusionError {
    let what = format!("the expressions of the statement have more than {PARTS} parts");
    too_large(what).into()
}

/// The position of an operator.
#[derive(Debug, Default, Clone, Copy)]
struct OperatorPosition {
    /// Operators above it.
    depth: usize,
    /// Subqueries that enclose it.
    within: u32,
}

impl OperatorPosition {
    /// The position this number of operators further down.
    fn below(self, operators: usize) -> Self {
        Self {
            depth: self.depth + operators,
            ..self
        }
    }
}

/// Counters for the operators and expressions that the optimizer walks.
#[derive(Default)]
struct PlanCounters {
    operators: u64,
    parts: u64,
    projections: usize,
    comparing: usize,
    /// Types that are within the limits: operators share them.
    types: HashSet<usize>,
}

impl PlanCounters {
    fn walk(&mut self, plan: &LogicalPlan, place: OperatorPosition) -> Result<(), DataFusionError> {
        let times = 1_u64.checked_shl(place.within).unwrap_or(u64::MAX);
        self.operators = self.operators.saturating_add(times);
        if self.operators > OPERATORS as u64 {
            return Err(too_large(match place.within {
                0..4 => format!(
                    "the statement has more than {OPERATORS} operators once its views and common table expressions are put in"
                ),
                within => format!("the statement has {within} nested subqueries"),
            })
            .into());
        }
        if place.depth >= DEPTH {
            return Err(too_large(format!(
                "the statement has more than {DEPTH} levels of operators"
            ))
            .into());
        }
        self.weigh_types(plan)?;
        self.projections += usize::from(matches!(plan, LogicalPlan::Projection(_)));
        let mut queries = 0;
        plan.apply_expressions(|expr| {
            let mut parts = 0;
            expr.apply(|part| {
                parts += 1;
                self.parts += 1;
                if self.parts > PARTS {
                    return Err(too_many_parts());
                }
                if let Expr::ScalarFunction(call) = part
                    && function_bounds::may_compare_much(call)
                {
                    self.comparing += 1;
                    if self.comparing > COMPARING {
                        return Err(too_large(format!(
                            "the statement calls {} and its like more than {COMPARING} times",
                            call.name()
                        ))
                        .into());
                    }
                }
                let cast = match part {
                    Expr::Cast(cast) => Some(&cast.field),
                    Expr::TryCast(cast) => Some(&cast.field),
                    _ => None,
                };
                if let Some(what) = cast.and_then(|of| type_fields::too_large(of.data_type())) {
                    return Err(too_large(format!("the type of a cast has {what}")).into());
                }
                let subquery = match part {
                    Expr::ScalarSubquery(subquery) => Some(subquery),
                    Expr::InSubquery(of) => Some(&of.subquery),
                    Expr::Exists(of) => Some(&of.subquery),
                    Expr::SetComparison(of) => Some(&of.subquery),
                    _ => None,
                };
                if let Some(subquery) = subquery {
                    queries += 1;
                    if queries > QUERIES {
                        return Err(too_large(format!(
                            "one query of the statement has more than {QUERIES} subqueries in its expressions"
                        ))
                        .into());
                    }
                    let below = place.below(1);
                    self.walk(
                        &subquery.subquery,
                        OperatorPosition {
                            within: place.within + 1,
                            ..below
                        },
                    )?;
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
            self.grow(expr, parts)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        let below = place.below(1 + OF_QUERY * queries);
        let mut inputs = plan.inputs().into_iter();
        inputs.try_for_each(|input| self.walk(input, below))
    }

    /// Counts the parts that the expansion of an expression with `parts` parts adds.
    fn grow(&mut self, expr: &Expr, parts: u64) -> Result<(), DataFusionError> {
        let grown = expansion::weight(expr, &|_| ColumnExpansion::PLAIN);
        if grown > GROWN && grown / 2 > parts {
            return Err(too_large(format!(
                "an expression of the statement has more than {GROWN} parts once BETWEEN, CASE and coalesce are written out"
            ))
            .into());
        }
        self.parts = self.parts.saturating_add(grown.saturating_sub(parts));
        match self.parts > PARTS {
            true => Err(too_many_parts()),
            false => Ok(()),
        }
    }

    /// A struct of two columns of the same type doubles that type.
    fn weigh_types(&mut self, plan: &LogicalPlan) -> Result<(), DataFusionError> {
        let makes_types = matches!(
            plan,
            LogicalPlan::Projection(_)
                | LogicalPlan::Aggregate(_)
                | LogicalPlan::Window(_)
                | LogicalPlan::Unnest(_)
                | LogicalPlan::Values(_)
        );
        if !makes_types {
            return Ok(());
        }
        for field in plan.schema().fields() {
            let identity = type_fields::identity(field.data_type());
            if identity.is_some_and(|identity| !self.types.insert(identity)) {
                continue;
            }
            if let Some(what) = type_fields::too_large(field.data_type()) {
                return Err(
                    too_large(format!("the type of column {} has {what}", field.name())).into(),
                );
            }
        }
        Ok(())
    }
}

/// The number of parts of each column of a plan, once it is expressed by columns of tables.
fn weigh(
    plan: &LogicalPlan,
    known: &mut HashMap<*const LogicalPlan, Arc<[u64]>>,
) -> Result<Arc<[u64]>> {
    if let Some(found) = known.get(&std::ptr::from_ref(plan)) {
        return Ok(Arc::clone(found));
    }
    let mut below: Vec<u64> = Vec::new();
    let mut inputs = Vec::new();
    for input in plan.inputs() {
        let weights = weigh(input, known)?;
        inputs.push((input.schema(), Arc::clone(&weights)));
        below.extend(weights.iter());
    }
    weigh_subqueries(plan, known)?;
    let width = plan.schema().fields().len();
    let of = |expr: &Expr| weight(expr, &inputs);
    let weights: Vec<u64> = match plan {
        LogicalPlan::Projection(projection) => projection.expr.iter().map(of).collect(),
        LogicalPlan::Aggregate(aggregate) => {
            let groups = aggregate.group_expr.iter().map(of);
            groups.chain(std::iter::repeat(1)).take(width).collect()
        }
        LogicalPlan::Union(_) => {
            let mut most = vec![1; width];
            for (_, weights) in &inputs {
                most.iter_mut()
                    .zip(weights.iter())
                    .for_each(|(most, weight)| *most = (*most).max(*weight));
            }
            most
        }
        LogicalPlan::Window(_) => {
            below.resize(width, 1);
            below
        }
        _ if below.len() == width => below,
        _ => vec![1; width],
    };
    for condition in conditions(plan) {
        check_expanded(of(condition))?;
    }
    let weights: Arc<[u64]> = weights.into();
    known.insert(std::ptr::from_ref(plan), Arc::clone(&weights));
    Ok(weights)
}

/// The expressions that move down to the tables: conditions, and the dynamic filters that a join by its keys, ORDER BY with
/// LIMIT, `min` and `max` derive while rows are read.
fn conditions(plan: &LogicalPlan) -> Vec<&Expr> {
    match plan {
        LogicalPlan::Filter(filter) => vec![&filter.predicate],
        LogicalPlan::Join(join) => {
            let keys = join.on.iter().flat_map(|(left, right)| [left, right]);
            keys.chain(&join.filter).collect()
        }
        LogicalPlan::Sort(sort) => sort.expr.iter().map(|sort| &sort.expr).collect(),
        LogicalPlan::Aggregate(aggregate) => aggregate
            .aggr_expr
            .iter()
            .map(|expr| match expr {
                Expr::Alias(alias) => alias.expr.as_ref(),
                other => other,
            })
            .filter_map(|expr| match expr {
                Expr::AggregateFunction(call) if matches!(call.func.name(), "min" | "max") => {
                    call.params.args.first()
                }
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The same for the subqueries within a plan's expressions. The right side of IN becomes the key of a join.
fn weigh_subqueries(
    plan: &LogicalPlan,
    known: &mut HashMap<*const LogicalPlan, Arc<[u64]>>,
) -> Result<()> {
    let mut failed = Ok(());
    let _ = plan.apply_expressions(|expr| {
        expr.apply(|part| {
            let (subquery, is_key) = match part {
                Expr::ScalarSubquery(subquery) => (subquery, false),
                Expr::InSubquery(of) => (&of.subquery, true),
                Expr::Exists(of) => (&of.subquery, false),
                Expr::SetComparison(of) => (&of.subquery, true),
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            failed = weigh(&subquery.subquery, known).and_then(|weights| match is_key {
                true => check_expanded(weights.first().copied().unwrap_or(1)),
                false => Ok(()),
            });
            Ok(match failed {
                Ok(()) => TreeNodeRecursion::Continue,
                Err(_) => TreeNodeRecursion::Stop,
            })
        })
    });
    failed
}

fn check_expanded(parts: u64) -> Result<()> {
    match parts > EXPANDED {
        true => Err(too_large(format!(
            "a condition or an order of the statement has more than {EXPANDED} parts once it is written by the columns of the tables"
        ))),
        false => Ok(()),
    }
}

fn weight(expr: &Expr, inputs: &[(&Arc<DFSchema>, Arc<[u64]>)]) -> u64 {
    expansion::weight(expr, &|column| {
        let mut inputs = inputs.iter();
        let of = inputs.find_map(|(schema, weights)| {
            let at = schema.maybe_index_of_column(column)?;
            Some(ColumnExpansion {
                parts: weights.get(at).copied()?,
                is_json: is_json_type(schema.field(at).data_type()),
            })
        });
        of.unwrap_or(ColumnExpansion::PLAIN)
    })
}

#[cfg(test)]
mod tests {
    use crate::error::{ErrorKind, Result};
    use crate::planner::{Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    async fn run(sql: &str) -> Result<usize> {
        let session = Session::try_new(&SessionOptions::default())?;
        let raw = Script::new("test", sql).split()?.remove(0);
        let rows = session.collect(parse_statement(&raw)?).await?;
        Ok(rows.iter().map(|batch| batch.num_rows()).sum())
    }

    /// `steps` common table expressions, each over the previous one.
    fn chain(steps: usize, step: impl Fn(&str) -> String) -> String {
        let steps: Vec<String> = (1..=steps)
            .map(|n| format!("t{n} AS ({})", step(&format!("t{}", n - 1))))
            .collect();
        format!(
            "WITH t0 AS (SELECT value AS c FROM generate_series(1, 3)), {}",
            steps.join(", ")
        )
    }

    #[tokio::test]
    async fn json_values_are_counted_per_read() {
        for cast in [
            "CAST('[1]' -> @ AS BIGINT)",
            "TRY_CAST('[1]' -> @ AS BIGINT)",
            "arrow_cast('[1]' -> @, 'Int64')",
            "CAST(CAST('[1]' -> @ AS DECIMAL(10, 2)) AS BIGINT)",
            "CAST(CAST('[1]' -> @ AS DOUBLE) AS BIGINT)",
            "CAST(CAST('[1]' -> @ AS BOOLEAN) AS BIGINT)",
            "CAST(coalesce('[1]' -> @, '[2]' -> @) AS BIGINT)",
        ] {
            let within = (0..14).fold("c".to_owned(), |inner, _| cast.replace('@', &inner));
            let steps = chain(14, |from| {
                format!("SELECT {} AS c FROM {from}", cast.replace('@', "c"))
            });
            for sql in [
                format!("SELECT {within} FROM (SELECT value AS c FROM generate_series(1, 3))"),
                format!("{steps} SELECT * FROM t14 WHERE c > 0"),
            ] {
                let error = run(&sql).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{cast}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn doubling_expressions_are_refused() {
        let joined = chain(40, |from| {
            format!("SELECT a.c FROM {from} a JOIN {from} b ON a.c = b.c")
        });
        let queries = chain(40, |from| {
            format!("SELECT c FROM {from} WHERE c IN (SELECT c FROM {from})")
        });
        let scalar = chain(40, |from| {
            format!("SELECT c + (SELECT max(c) FROM {from}) AS c FROM {from}")
        });
        let sums = chain(40, |from| format!("SELECT c + c AS c FROM {from}"));
        let read = chain(20, |from| {
            format!("SELECT CAST(j AS BIGINT) AS c FROM (SELECT '[1]' -> c AS j FROM {from})")
        });
        for sql in [
            format!("{joined} SELECT * FROM t40"),
            format!("{queries} SELECT * FROM t40"),
            format!("{scalar} SELECT * FROM t40"),
            format!("{sums} SELECT * FROM t40 WHERE c > 0"),
            format!("{read} SELECT * FROM t20 WHERE c > 0"),
            format!("{sums} SELECT * FROM t40 ORDER BY c LIMIT 1"),
            format!("{sums} SELECT max(c) FROM t40"),
            format!("{sums} SELECT (SELECT max(c) FROM t40 WHERE c > 0)"),
            format!("{sums} SELECT * FROM t40 JOIN t0 ON t40.c = t0.c"),
            format!("{sums} SELECT * FROM t0 WHERE c IN (SELECT c FROM t40)"),
        ] {
            let error = run(&sql).await.expect_err(&sql[..120]);
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        }
    }

    #[tokio::test]
    async fn doubling_types_are_refused_at_their_origin() {
        for step in [
            "named_struct('a', c, 'b', c)",
            "struct(c, c)",
            "row(c, c)",
            "{'a': c, 'b': c}",
            "[{'a': c, 'b': c}]",
            "arrays_zip([c], [c])",
        ] {
            let types = chain(30, |from| format!("SELECT {step} AS c FROM {from}"));
            let error = run(&format!("{types} SELECT * FROM t30"))
                .await
                .expect_err(step);
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{step}: {error}");
            assert!(error.message().contains("nested fields"), "{error}");
        }
        let deep = chain(40, |from| {
            let (open, close) = ("[".repeat(30), "]".repeat(30));
            format!("SELECT {open}c{close} AS c FROM {from}")
        });
        let error = run(&format!("{deep} SELECT * FROM t40")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        // A field that is read from a struct is replaced by the expression that made it.
        let few = chain(5, |from| {
            format!("SELECT {{'a': c, 'b': c}} AS c FROM {from}")
        });
        let read = format!("{few} SELECT * FROM t5 WHERE c['a']['b']['a']['b']['a'] > 1");
        assert_eq!(run(&read).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn declared_types_have_bounded_sizes() {
        let deep = format!("{}Int64{}", "List(".repeat(1_000), ")".repeat(1_000));
        for expr in [
            "arrow_cast(NULL, 'FixedSizeList(2147483647, FixedSizeList(1000000, Int64))')",
            "arrow_cast(nullif(value, value), 'FixedSizeList(2147483647 x Int64)')",
            "arrow_try_cast('a', 'FixedSizeBinary(2000000000)')",
            "cast_to_type(NULL, arrow_cast(NULL, 'FixedSizeBinary(2000000000)'))",
            "CAST(NULL AS BIGINT[2147483647])",
            "TRY_CAST(NULL AS BIGINT[30000][30000])",
            &format!("arrow_cast(NULL, '{deep}')"),
        ] {
            for sql in [
                format!("SELECT {expr}"),
                format!("SELECT {expr} FROM generate_series(1, 3)"),
                format!("SELECT 1 FROM generate_series(1, 3) WHERE {expr} IS NULL"),
            ] {
                let sql = match sql.contains("generate_series") {
                    true => sql,
                    false => sql.replace("value", "1"),
                };
                let error = run(&sql).await.expect_err(&sql);
                let kind = error.kind();
                let is_clear = matches!(kind, ErrorKind::Exhausted | ErrorKind::Invalid);
                assert!(is_clear, "{sql}: {kind:?}: {error}");
            }
        }
        for expr in [
            "arrow_cast([1.5, 2.5], 'FixedSizeList(2, Float32)')",
            "CAST([1, 2, 3] AS BIGINT[3])",
            "arrow_cast(X'616263', 'FixedSizeBinary(3)')",
            "arrow_cast(1, 'Dictionary(Int32, Int64)')",
        ] {
            let sql = format!("SELECT {expr} FROM generate_series(1, 3)");
            assert_eq!(run(&sql).await.expect(&sql), 3, "{sql}");
        }
    }

    #[tokio::test]
    async fn nested_and_sibling_subqueries_are_limited() {
        let within = |open: &str, inner: &str, levels: usize| {
            format!("{}{inner}{}", open.repeat(levels), ")".repeat(levels))
        };
        let beside = |what: &str, count: usize| {
            let all: Vec<String> = (0..count)
                .map(|n| what.replace('#', &n.to_string()))
                .collect();
            all.join(" AND ")
        };
        let scalar = |levels| format!("SELECT {}", within("(SELECT ", "1", levels));
        let exists = |levels| {
            let condition = within("EXISTS (SELECT 1 WHERE ", "true", levels);
            format!("SELECT 1 WHERE {condition}")
        };
        let members = |levels| {
            let condition = within("1 IN (SELECT 1 AS x WHERE ", "true", levels);
            format!("SELECT 1 WHERE {condition}")
        };
        let many = |what: &str, count| {
            let conditions = beside(what, count);
            format!("SELECT value FROM generate_series(1, 3) WHERE {conditions}")
        };
        for (few, much) in [
            (scalar(5), scalar(45)),
            (exists(5), exists(45)),
            (members(5), members(45)),
            (
                many("value < (SELECT # + 4)", 20),
                many("value < (SELECT # + 4)", 600),
            ),
            (
                many("value NOT IN (SELECT # + 4)", 20),
                many("value NOT IN (SELECT # + 4)", 600),
            ),
        ] {
            assert!(run(&few).await.unwrap() > 0, "{few}");
            let error = run(&much).await.expect_err(&much[..60]);
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        }
    }

    #[tokio::test]
    async fn expressions_that_double_by_expansion_are_refused() {
        let nested = |what: &str, levels: usize| {
            let expr =
                (0..levels).fold("value > 1".to_owned(), |inner, _| what.replace('X', &inner));
            format!("SELECT {expr} AS c FROM generate_series(1, 3)")
        };
        for what in [
            "X BETWEEN false AND true",
            "coalesce(X, false)",
            "nvl(X, false)",
            "CASE WHEN X THEN true ELSE false END",
        ] {
            assert_eq!(run(&nested(what, 5)).await.unwrap(), 3, "{what}");
            let error = run(&nested(what, 40)).await.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        }
        let json = |levels: usize| {
            let number = (0..levels).fold("'{}'".to_owned(), |inner, _| {
                format!("(({inner}) -> 'a')::DECIMAL(10, 2)::VARCHAR")
            });
            format!("SELECT {number}")
        };
        assert_eq!(run(&json(3)).await.unwrap(), 1);
        assert_eq!(
            run(&json(20)).await.unwrap_err().kind(),
            ErrorKind::Exhausted
        );
        let branches = |count: usize, value: &str| {
            let all: Vec<String> = (0..count)
                .map(|n| format!("WHEN value = {n} THEN {value}"))
                .collect();
            format!(
                "SELECT CASE {} ELSE false END FROM generate_series(1, 3)",
                all.join(" ")
            )
        };
        assert_eq!(run(&branches(30, "true")).await.unwrap(), 3);
        let error = run(&branches(2_000, "true")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        // A value with many branches does not expand.
        assert_eq!(run(&branches(300, "value > 2")).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn calls_of_comparing_functions_are_limited() {
        let calls = |count: usize| {
            let calls: Vec<String> = (0..count)
                .map(|n| format!("levenshtein('{n}', CAST(value AS VARCHAR)) AS c{n}"))
                .collect();
            format!("SELECT {} FROM generate_series(1, 3)", calls.join(", "))
        };
        assert_eq!(run(&calls(64)).await.unwrap(), 3);
        let error = run(&calls(65)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    }

    #[tokio::test]
    async fn long_chains_that_do_not_double_run() {
        let plain = chain(60, |from| {
            format!("SELECT c + 1 AS c FROM {from} WHERE c > 0")
        });
        assert_eq!(
            run(&format!("{plain} SELECT * FROM t60 WHERE c > 0"))
                .await
                .unwrap(),
            3
        );
        let sums = chain(40, |from| format!("SELECT c + c AS c FROM {from}"));
        for read in ["SELECT * FROM t40", "SELECT sum(c) FROM t40 GROUP BY c"] {
            assert_eq!(run(&format!("{sums} {read}")).await.unwrap(), 3, "{read}");
        }
        let few = chain(6, |from| format!("SELECT c + c AS c FROM {from}"));
        assert_eq!(
            run(&format!("{few} SELECT * FROM t6 WHERE c > 0"))
                .await
                .unwrap(),
            3
        );
    }
}
