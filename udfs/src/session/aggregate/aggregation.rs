//! Aggregation of one partition's rows, batch by batch, to intervals of event time per key with partial states.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::accumulators::{Accumulators, SessionAggregateExpr};
use super::intervals::Intervals;
use crate::diagnostic::refuse_null_event_times;
use crate::window::{column_name, ticks};

/// The keys, the event time and the aggregates of a partial aggregation by session.
#[derive(Debug, Clone)]
pub(crate) struct PartialRule {
    pub(crate) keys: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) event_time: Arc<dyn PhysicalExpr>,
    pub(crate) gap: i64,
    pub(crate) aggregates: Vec<SessionAggregateExpr>,
}

/// Which rows count, and which bounds no interval crosses.
#[derive(Debug, Clone)]
pub(crate) struct IntervalBounds {
    /// Rows of other event times are ignored.
    pub(crate) rows: Range<i64>,
    /// The rows of an interval are all before it, in it or after it.
    pub(crate) range: Range<i64>,
}

/// The number of parts into which [`IntervalBounds::range`] splits time.
const ZONES: usize = 3;

impl IntervalBounds {
    fn zone(&self, tick: i64) -> usize {
        usize::from(tick >= self.range.start) + usize::from(tick >= self.range.end)
    }
}

/// Intervals and their states. Intervals of one key may touch.
pub(crate) struct AggregatedIntervals {
    /// The values of the keys: a column per key column.
    pub(crate) key_values: Vec<ArrayRef>,
    /// For each interval: the index of its key in `key_values`, first and last event time.
    pub(crate) keys: Vec<u32>,
    pub(crate) starts: Vec<i64>,
    pub(crate) lasts: Vec<i64>,
    /// The state columns of all aggregates, a row per interval.
    pub(crate) states: Vec<ArrayRef>,
}

/// The intervals of rows and the accumulators over them.
pub(crate) struct IntervalAggregation {
    rule: PartialRule,
    bounds: Option<IntervalBounds>,
    key_schema: SchemaRef,
    keys: Option<Box<dyn GroupValues>>,
    intervals: Intervals,
    accumulators: Accumulators,
    key_ids: Vec<usize>,
    groups: Vec<usize>,
}

impl IntervalAggregation {
    pub(crate) fn try_new(
        rule: PartialRule,
        input: &Schema,
        bounds: Option<IntervalBounds>,
    ) -> Result<Self> {
        let key_schema = key_schema(&rule.keys, input)?;
        Ok(Self {
            bounds,
            keys: new_keys(&key_schema)?,
            key_schema,
            intervals: Intervals::new(rule.gap),
            accumulators: Accumulators::try_new(&rule.aggregates)?,
            rule,
            key_ids: vec![],
            groups: vec![],
        })
    }

    /// Bytes held.
    pub(crate) fn size(&self) -> usize {
        self.intervals.size()
            + self.accumulators.size()
            + self.keys.as_ref().map_or(0, |keys| keys.size())
    }

    /// Adds a batch.
    ///
    /// # Errors
    ///
    /// NULL-1: on a NULL event time.
    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let times = self
            .rule
            .event_time
            .evaluate(batch)?
            .into_array(batch.num_rows())?;
        refuse_null_event_times(&times, &column_name(&self.rule.event_time.to_string()))?;
        let times = ticks(&times)?;
        let Some(bounds) = &self.bounds else {
            return self.push_rows(batch, &times);
        };
        let rows = bounds.rows.clone();
        if times.iter().all(|tick| rows.contains(tick)) {
            return self.push_rows(batch, &times);
        }
        let is_wanted: BooleanArray = times.iter().map(|tick| Some(rows.contains(tick))).collect();
        let wanted: Vec<i64> = times
            .iter()
            .copied()
            .filter(|tick| rows.contains(tick))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.push_rows(&filter_record_batch(batch, &is_wanted)?, &wanted)
    }

    fn push_rows(&mut self, batch: &RecordBatch, times: &[i64]) -> Result<()> {
        let key_count = match &mut self.keys {
            Some(keys) => {
                let columns = self
                    .rule
                    .keys
                    .iter()
                    .map(|key| key.evaluate(batch)?.into_array(batch.num_rows()))
                    .collect::<Result<Vec<_>>>()?;
                keys.intern(&columns, &mut self.key_ids)?;
                keys.len()
            }
            None => {
                self.key_ids.clear();
                self.key_ids.resize(batch.num_rows(), 0);
                1
            }
        };
        let places = self.key_ids.iter().zip(times);
        self.groups.clear();
        let intervals = &mut self.intervals;
        match &self.bounds {
            None => {
                intervals.grow_keys(key_count);
                let placed = places.map_while(|(key, tick)| intervals.place(*key, *tick));
                self.groups.extend(placed);
            }
            // The rows of a key are kept apart by zone, as if they had different keys.
            Some(bounds) => {
                intervals.grow_keys(key_count * ZONES);
                let placed = places.map_while(|(key, tick)| {
                    intervals.place(*key * ZONES + bounds.zone(*tick), *tick)
                });
                self.groups.extend(placed);
            }
        }
        if self.groups.len() < times.len() {
            return Err(exec_datafusion_err!("too many sessions"));
        }
        self.accumulators
            .update(batch, &self.groups, self.intervals.len())
    }

    /// Returns and drops the intervals so far; `None` if there are none.
    pub(crate) fn take(&mut self) -> Result<Option<AggregatedIntervals>> {
        let intervals = std::mem::replace(&mut self.intervals, Intervals::new(self.rule.gap));
        if intervals.len() == 0 {
            return Ok(None);
        }
        let (mut keys, starts, lasts) = intervals.into_parts();
        if self.bounds.is_some() {
            for key in &mut keys {
                *key /= ZONES as u32;
            }
        }
        let key_values = match &mut self.keys {
            Some(values) => values
                .emit(EmitTo::All)?
                .iter()
                .zip(self.key_schema.fields())
                .map(|(values, field)| Ok(cast(values, field.data_type())?))
                .collect::<Result<Vec<_>>>()?,
            None => vec![],
        };
        let states = self.accumulators.states()?;
        self.keys = new_keys(&self.key_schema)?;
        self.accumulators = Accumulators::try_new(&self.rule.aggregates)?;
        Ok(Some(AggregatedIntervals {
            key_values,
            keys,
            starts,
            lasts,
            states,
        }))
    }
}

/// A column per key, `key0` and so on.
pub(crate) fn key_schema(keys: &[Arc<dyn PhysicalExpr>], input: &Schema) -> Result<SchemaRef> {
    let fields = keys
        .iter()
        .enumerate()
        .map(|(number, key)| {
            Ok(Field::new(
                format!("key{number}"),
                key.data_type(input)?,
                true,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// Numbers the values of key columns; `None` if there are no keys.
pub(crate) fn new_keys(schema: &SchemaRef) -> Result<Option<Box<dyn GroupValues>>> {
    if schema.fields().is_empty() {
        return Ok(None);
    }
    new_group_values(Arc::clone(schema), &GroupOrdering::None).map(Some)
}
