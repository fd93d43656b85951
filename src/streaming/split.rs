//! Split of a job's query at its aggregate: the part below runs on the rows of a batch, the part above on the emitted rows.

use std::sync::Arc;

use anabranch_udfs::{
    EventWindow, IS_FINAL, PushDownFilters, SessionWindow, WindowKind, plain, session_groups_of,
};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable as _, Extension, LogicalPlan, LogicalPlanBuilder,
};
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::{Optimizer, OptimizerContext};

use crate::error::{Error, Result, Subject};
use crate::streaming::fingerprint::{Fingerprints, Stateful};
use crate::streaming::hidden_columns::{StateColumns, find, with_hidden};
use crate::streaming::lineage::{ColumnOrigin, origins, unaliased, window_below};
use crate::streaming::slices::{UnslicedReason, sliced};
use crate::streaming::stream_inputs::{StreamSources, StreamTable, reads_stream, stream_inputs};
use crate::streaming::windowing::Windowing;
use crate::tables::time::{HIDDEN_END, HIDDEN_START};
use crate::tables::time::{ROW_COLUMN, ROW_IN_FILE};

/// The table of emitted rows in the upper part.
const EMITTED: &str = "__emitted";

/// The query, cut.
#[derive(Debug, Clone)]
pub(super) struct QuerySplit {
    /// Rows below the aggregate, with just the columns that it and late rows need.
    pub(super) front: LogicalPlan,
    pub(super) windowing: Windowing,
    pub(super) aggregates: Vec<Expr>,
    /// The columns of the aggregate.
    pub(super) schema: DFSchemaRef,
    /// How many of these columns, from the first on, identify a group.
    pub(super) groups: usize,
    /// What the window is, for people and earlier fingerprints.
    pub(super) window: String,
    /// How long a window is, or the gap of sessions, in microseconds.
    pub(super) window_length: Option<i64>,
    /// What the state depends on.
    pub(super) fingerprints: Fingerprints,
    /// What asks for the window of each row, so that the state of HOP or CUMULATE is not by slice.
    pub(super) unsliced: Option<String>,
    /// Whether HAVING or another filter stands above the aggregate.
    pub(super) has_filter_above: bool,
    whole: LogicalPlan,
    sources: StreamSources,
}

/// The first aggregate of the stream's rows in a plan, from the top.
pub(super) fn aggregate_of<'a>(
    plan: &'a LogicalPlan,
    sources: &StreamSources,
) -> Option<&'a Aggregate> {
    match plan {
        LogicalPlan::Aggregate(aggregate) if reads_stream(plan, sources) => Some(aggregate),
        _ => stream_inputs(plan, sources).find_map(|input| aggregate_of(input, sources)),
    }
}

impl QuerySplit {
    /// Cuts an analyzed plan.
    pub(super) fn try_new(whole: LogicalPlan, sources: &StreamSources) -> Result<Self> {
        let Some(aggregate) = aggregate_of(&whole, sources) else {
            return Err(Error::internal("the job has no aggregate"));
        };
        let has_filter_above = has_filter_above(&whole, sources);
        let below = without_subqueries(aggregate.input.as_ref().clone())?;
        check_functions(&aggregate.aggr_expr)?;
        let window = window_below(&below, sources);
        let window_text = match window {
            Some(window) => {
                check_event_time(window, sources)?;
                window.display().to_string()
            }
            None => {
                check_keyed(aggregate)?;
                let keys = aggregate.group_expr.iter();
                let keys: Vec<String> = keys
                    .map(|key| Ok(plain(key.clone())?.to_string()))
                    .collect::<Result<_>>()?;
                format!("GROUP BY without a window: keys=[{}]", keys.join(", "))
            }
        };
        let input = with_hidden(&below, sources, &StateColumns(sources))?;
        let aggregate = Aggregate::try_new_with_schema(
            Arc::new(input),
            aggregate.group_expr.clone(),
            tie_broken(&aggregate.aggr_expr, sources),
            Arc::clone(&aggregate.schema),
        )?;
        let (windowing, rows, unsliced) = windowing(&aggregate, sources)?;
        let aggregates = match &windowing {
            Windowing::Session(session) => session.aggregates().to_vec(),
            _ => aggregate.aggr_expr.clone(),
        };
        let fingerprints = Fingerprints::of(&Stateful {
            window,
            window_text: &window_text,
            windowing: &windowing,
            groups: &aggregate.group_expr,
            aggregates: &aggregates,
            rows: rows.schema(),
        })?;
        let front = reduced(&rows, &windowing, &aggregates)?;
        let columns = aggregate.schema.fields().len();
        let window_length = window.map(length_of).transpose()?.flatten();
        Ok(Self {
            window_length,
            front,
            windowing,
            aggregates,
            schema: Arc::clone(&aggregate.schema),
            groups: columns.saturating_sub(aggregate.aggr_expr.len()),
            window: window_text,
            fingerprints,
            unsliced,
            has_filter_above,
            whole,
            sources: sources.clone(),
        })
    }

    /// The columns of emitted rows.
    pub(super) fn output(&self) -> SchemaRef {
        Arc::clone(self.schema.inner())
    }

    /// The plan above the aggregate, over `emitted` rows in the aggregate's columns.
    pub(super) fn back(&self, emitted: &RecordBatch) -> Result<LogicalPlan> {
        let schema = emitted_schema(&self.schema);
        let renamed = RecordBatch::try_new(Arc::clone(&schema), emitted.columns().to_vec())
            .map_err(|error| Error::internal(error.to_string()))?;
        let table = MemTable::try_new(schema, vec![vec![renamed]])?;
        above(
            self.whole.clone(),
            &self.schema,
            &self.sources,
            Arc::new(table),
        )
    }
}

/// The columns of a table of emitted rows, for an aggregate with these columns. They get new names: an aggregate may have the same
/// name twice, under different qualifiers.
pub(super) fn emitted_schema(aggregate: &DFSchema) -> SchemaRef {
    let fields = aggregate.fields().iter().enumerate();
    let fields = fields.map(|(index, field)| field.as_ref().clone().with_name(format!("c{index}")));
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

/// The plan with a table of emitted rows in the place of its aggregate, which has the columns `schema`.
pub(super) fn above(
    whole: LogicalPlan,
    schema: &DFSchema,
    sources: &StreamSources,
    emitted: Arc<dyn TableProvider>,
) -> Result<LogicalPlan> {
    let exprs: Vec<Expr> = schema
        .iter()
        .enumerate()
        .map(|(index, (qualifier, field))| {
            let column = Expr::Column(Column::new(Some(EMITTED), format!("c{index}")));
            column.alias_qualified(qualifier.cloned(), field.name())
        })
        .collect();
    let rows = LogicalPlanBuilder::scan(EMITTED, provider_as_source(emitted), None)?
        .project(exprs)?
        .build()?;
    let above = whole.transform_down(|plan| {
        if !reads_stream(&plan, sources) {
            return Ok(Transformed::new(plan, false, TreeNodeRecursion::Jump));
        }
        Ok(match plan {
            LogicalPlan::Aggregate(_) => {
                Transformed::new(rows.clone(), true, TreeNodeRecursion::Jump)
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(above.data)
}

/// A plan below an aggregate in the form that the checks of windows need: first subqueries become joins, and filters on keys move below
/// a session.
pub(super) fn without_subqueries(below: LogicalPlan) -> Result<LogicalPlan> {
    let optimizer = Optimizer::with_rules(vec![
        Arc::new(RewriteSetComparison::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
        Arc::new(PushDownFilters::default()),
    ]);
    Ok(optimizer.optimize(below, &OptimizerContext::new(), |_, _| {})?)
}

/// How long a window is, or the gap of sessions, in microseconds; none if that is out of range.
fn length_of(window: &LogicalPlan) -> Result<Option<i64>> {
    let LogicalPlan::Extension(Extension { node }) = window else {
        return Ok(None);
    };
    let node = node.as_any();
    let (length, time) = if let Some(window) = node.downcast_ref::<EventWindow>() {
        let time = window
            .event_time()
            .get_type(window.input().schema().as_ref())?;
        (window.windows().size(), time)
    } else if let Some(window) = node.downcast_ref::<SessionWindow>() {
        let time = window
            .event_time()
            .get_type(window.input().schema().as_ref())?;
        (window.gap(), time)
    } else {
        return Ok(None);
    };
    Ok(match time {
        DataType::Timestamp(TimeUnit::Second, _) => length.checked_mul(1_000_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) => length.checked_mul(1_000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Some(length.div_euclid(1_000) + 1),
        _ => Some(length),
    })
}

/// Whether what stands above the aggregate may leave groups out: a filter, or a join.
fn has_filter_above(plan: &LogicalPlan, sources: &StreamSources) -> bool {
    match plan {
        LogicalPlan::Aggregate(_) => false,
        LogicalPlan::Filter(_) | LogicalPlan::Join(_) => true,
        _ => stream_inputs(plan, sources).any(|input| has_filter_above(input, sources)),
    }
}

/// Checks that the window is over the column whose watermark closes it.
fn check_event_time(window: &LogicalPlan, sources: &StreamSources) -> Result<()> {
    let LogicalPlan::Extension(Extension { node }) = window else {
        return Ok(());
    };
    let node = node.as_any();
    let (event_time, input) = if let Some(window) = node.downcast_ref::<EventWindow>() {
        (window.event_time(), window.input())
    } else if let Some(window) = node.downcast_ref::<SessionWindow>() {
        (window.event_time(), window.input())
    } else {
        return Ok(());
    };
    for origin in origins(input, event_time, sources) {
        if origin == ColumnOrigin::Static {
            return Err(Error::invalid(format!(
                "a job's window is by {event_time}, which is a column of a static table"
            ))
            .with_help("window by the column that the stream's WATERMARK FOR names"));
        }
        let ColumnOrigin::Table { table, column } = &origin else {
            return Err(Error::invalid(format!(
                "a job's window is by {event_time}, which is computed: its watermark is not known"
            ))
            .with_help("window by the column that the table's WATERMARK FOR names"));
        };
        let declared = sources.get(table).and_then(StreamTable::event_time);
        match declared {
            Some(time) if time.column == *column => {}
            Some(time) => {
                return Err(Error::invalid(format!(
                    "a job's window is by {column}, and the watermark of {table} is for {}",
                    time.column
                )));
            }
            None => {
                return Err(Error::invalid(format!(
                    "{table} declares no watermark, so a job cannot know when a window is complete"
                ))
                .about(Subject::table(table))
                .with_help(format!(
                    "declare it with the table: WATERMARK FOR {column} AS {column} - INTERVAL '15 minutes'"
                )));
            }
        }
    }
    Ok(())
}

/// Refuses functions that have no meaning without a window.
fn check_keyed(aggregate: &Aggregate) -> Result<()> {
    let is_final = |expr: &Expr| match unaliased(expr) {
        Expr::AggregateFunction(call) => call.func.name() == IS_FINAL,
        _ => false,
    };
    if aggregate.aggr_expr.iter().any(is_final) {
        return Err(Error::invalid(
            "is_final() has no meaning without a window: another row may come",
        )
        .with_help("leave it out, or group by a window"));
    }
    let sets = |expr: &Expr| matches!(expr, Expr::GroupingSet(_));
    if aggregate.group_expr.iter().any(sets) {
        return Err(Error::unsupported(
            "GROUPING SETS, ROLLUP and CUBE do not run in a job",
        ));
    }
    Ok(())
}

/// TIME-3: refuses aggregates whose result depends on the order in which rows arrive.
fn check_functions(aggregates: &[Expr]) -> Result<()> {
    const BY_ARRIVAL: [&str; 7] = [
        "first_value",
        "last_value",
        "nth_value",
        "any_value",
        "array_agg",
        "string_agg",
        "next_offsets",
    ];
    for expr in aggregates {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = unaliased(expr) else {
            continue;
        };
        if !params.order_by.is_empty() && func.order_sensitivity().hard_requires() {
            return Err(Error::unsupported(format!(
                "{}(… ORDER BY …) does not run in a job",
                func.name()
            ))
            .about(Subject::function(func.name())));
        }
        if params.order_by.is_empty() && BY_ARRIVAL.contains(&func.name()) {
            return Err(Error::unsupported(format!(
                "{}() without ORDER BY depends on the order in which rows arrive, which a job does not keep",
                func.name()
            ))
            .about(Subject::function(func.name()))
            .with_help(format!("write {}(… ORDER BY …)", func.name())));
        }
    }
    Ok(())
}

/// Adds partition and offset to each ORDER BY, so that ties have a fixed order; ties of rows in a file are in the order of the
/// file.
fn tie_broken(aggregates: &[Expr], sources: &StreamSources) -> Vec<Expr> {
    let row = Column::new_unqualified(ROW_COLUMN);
    let with_ties = |expr: &Expr| match tie_broken_call(expr, sources, &row) {
        Some(call) => Expr::AggregateFunction(call),
        None => unaliased(expr).clone(),
    };
    aggregates.iter().map(with_ties).collect()
}

/// The same of one aggregate; none if it has no ORDER BY. `row` is the hidden column with the places of rows.
pub(super) fn tie_broken_call(
    expr: &Expr,
    sources: &StreamSources,
    row: &Column,
) -> Option<AggregateFunction> {
    let Expr::AggregateFunction(call) = unaliased(expr) else {
        return None;
    };
    if call.params.order_by.is_empty() || call.params.distinct {
        return None;
    }
    let row = || Expr::Column(row.clone());
    let place = |name: &str| Sort::new(get_field(row(), name), true, false);
    let has_files = sources
        .values()
        .any(|source| matches!(source, StreamTable::Delta(_)));
    let mut call = call.clone();
    call.params
        .order_by
        .extend([place("partition"), place("offset")]);
    call.params
        .order_by
        .extend(has_files.then(|| place(ROW_IN_FILE)));
    Some(call)
}

/// How the rows of an aggregate are grouped, and the plan below it.
fn windowing(
    aggregate: &Aggregate,
    sources: &StreamSources,
) -> Result<(Windowing, LogicalPlan, Option<String>)> {
    if let Some(session) = session_groups_of(aggregate)? {
        let rows = session.input().clone();
        return Ok((Windowing::Session(Box::new(session)), rows, None));
    }
    let Some(LogicalPlan::Extension(Extension { node })) = window_below(&aggregate.input, sources)
    else {
        let windowing = Windowing::Keys {
            groups: aggregate.group_expr.clone(),
        };
        return Ok((windowing, aggregate.input.as_ref().clone(), None));
    };
    let Some(window) = node.as_any().downcast_ref::<EventWindow>() else {
        if has_join_above_window(&aggregate.input, sources) {
            return Err(Error::unsupported(
                "a join between SESSION and a job's aggregate does not run",
            )
            .with_help(
                "join below the window, WITH v AS (SELECT … JOIN …) SELECT … FROM SESSION(TABLE v …), or above the aggregate",
            ));
        }
        return Err(Error::unsupported(
            "a job over SESSION groups by all keys of the session and window_start, and besides by what the window does not tell",
        )
        .with_help(
            "add the missing keys to GROUP BY; select from window_start and window_end what is computed of them",
        ));
    };
    let grouped = |wanted: &ColumnOrigin| {
        aggregate
            .group_expr
            .iter()
            .any(|expr| origins(&aggregate.input, expr, sources).contains(wanted))
    };
    let is_cumulative = window.windows().kind() == WindowKind::Cumulate;
    if !grouped(&ColumnOrigin::WindowStart) || (is_cumulative && !grouped(&ColumnOrigin::WindowEnd))
    {
        let columns = if is_cumulative {
            "window_start and window_end"
        } else {
            "window_start"
        };
        return Err(Error::invalid(format!(
            "a job over {} groups by {columns}",
            window.windows().kind()
        ))
        .with_help("without it a group is never complete"));
    }
    let unsliced = match sliced(aggregate, window, sources)? {
        Ok(sliced) => {
            let windowing = Windowing::Sliced {
                keys: sliced.keys,
                groups: sliced.groups,
                slices: sliced.slices,
            };
            return Ok((windowing, sliced.rows, None));
        }
        Err(UnslicedReason::OneWindow) => None,
        Err(UnslicedReason::WindowUsed(asking)) => Some(asking),
    };
    let rows = aggregate.input.as_ref().clone();
    let window_end = find(rows.schema(), HIDDEN_END)
        .map(Expr::Column)
        .ok_or_else(|| Error::internal("the window's end is gone"))?;
    let windowing = Windowing::Aligned {
        groups: aggregate.group_expr.clone(),
        window_end,
    };
    Ok((windowing, rows, unsliced))
}

fn has_join_above_window(plan: &LogicalPlan, sources: &StreamSources) -> bool {
    match plan {
        LogicalPlan::Join(_) => true,
        LogicalPlan::Extension(_) => false,
        _ => stream_inputs(plan, sources).any(|input| has_join_above_window(input, sources)),
    }
}

/// Keeps only the columns of the rows that are used.
fn reduced(rows: &LogicalPlan, windowing: &Windowing, aggregates: &[Expr]) -> Result<LogicalPlan> {
    let schema = rows.schema();
    let mut used: Vec<&Expr> = aggregates.iter().collect();
    match windowing {
        Windowing::Keys { groups } | Windowing::Aligned { groups, .. } => used.extend(groups),
        Windowing::Sliced { keys, .. } => used.extend(keys),
        Windowing::Session(session) => {
            used.extend(session.keys().iter().chain(session.others()));
            used.push(session.event_time());
        }
    }
    let mut indices: Vec<usize> = used
        .iter()
        .flat_map(|expr| expr.column_refs())
        .filter_map(|column| schema.maybe_index_of_column(column))
        .collect();
    // Without a window no row is late: then only an ORDER BY may need a row's place.
    let hidden: &[&str] = match windowing {
        Windowing::Keys { .. } => &[],
        _ => &[ROW_COLUMN, HIDDEN_START, HIDDEN_END],
    };
    for hidden in hidden {
        indices
            .extend(find(schema, hidden).and_then(|column| schema.maybe_index_of_column(&column)));
    }
    indices.sort_unstable();
    indices.dedup();
    let columns = schema.columns();
    let exprs = indices
        .into_iter()
        .filter_map(|index| columns.get(index).cloned())
        .map(Expr::Column);
    Ok(LogicalPlanBuilder::from(rows.clone())
        .project(exprs)?
        .build()?)
}
