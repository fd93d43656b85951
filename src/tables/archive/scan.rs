//! Scan of an archive by a query: rows of the Delta table become rows of the Kafka table, in any order, each once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_udfs::{has_no_expressions, only_child};
use datafusion::arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::StreamExt as _;

use crate::error::{Error, Result, Subject};
use crate::tables::archive::reading::{ArchiveRead, ReadMetrics};
use crate::tables::archive::seen_offsets::SeenOffsets;
use crate::tables::kafka::{ArchivedReader, OffsetRange, OnError};
use crate::tables::read_metrics::RECORDS_PLANNED;
use crate::tables::side_output::ScanOutlet;

const NAME: &str = "ArchiveScanExec";

/// What EXPLAIN shows of a scan besides its columns and its mapping.
#[derive(Debug, Clone)]
pub(super) struct ShownScan {
    /// The version of the archive.
    pub(super) version: u64,
    /// For each partition, the offset at which the topic goes on.
    pub(super) border: BTreeMap<i32, i64>,
    /// The predicates by which files are left out.
    pub(super) pruned_by: Vec<Expr>,
    /// Whether it is a part of a run, which rests on this version.
    pub(super) is_of_run: bool,
}

/// Gives the records in rows of an archive.
#[derive(Debug)]
pub struct ArchiveScanExec {
    read: Arc<ArchiveRead>,
    /// The rows of the Delta table.
    input: Arc<dyn ExecutionPlan>,
    ranges: Vec<OffsetRange>,
    outlet: ScanOutlet,
    shown: Arc<ShownScan>,
    rounds: Rounds,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ArchiveScanExec {
    pub(super) fn new(
        read: Arc<ArchiveRead>,
        input: Arc<dyn ExecutionPlan>,
        ranges: Vec<OffsetRange>,
        outlet: ScanOutlet,
        shown: Arc<ShownScan>,
    ) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&read.schema)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        let planned: u64 = ranges.iter().map(OffsetRange::len).sum();
        MetricBuilder::new(&metrics)
            .global_counter(RECORDS_PLANNED)
            .add(usize::try_from(planned).unwrap_or(usize::MAX));
        Self {
            read,
            input,
            ranges,
            outlet,
            shown,
            rounds: Rounds::default(),
            properties: Arc::new(properties),
            metrics,
        }
    }

    /// Whether records that it cannot decode are set aside.
    pub(crate) fn sets_aside(&self) -> bool {
        self.read.on_error == OnError::DeadLetter
    }
}

/// The coordinates that were given, for each time that the plan is executed.
#[derive(Debug, Default)]
struct Rounds(Mutex<Vec<Round>>);

#[derive(Debug, Default)]
struct Round {
    /// The partitions of the plan that have begun.
    begun: Vec<usize>,
    seen: Arc<SeenOffsets>,
}

impl Rounds {
    /// The coordinates of the execution that this partition of the plan belongs to: each begins once in an execution.
    fn begin(&self, partition: usize) -> Arc<SeenOffsets> {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = rounds
            .iter()
            .position(|round| !round.begun.contains(&partition));
        let round = open.unwrap_or_else(|| {
            rounds.push(Round::default());
            rounds.len() - 1
        });
        let round = &mut rounds[round];
        round.begun.push(partition);
        Arc::clone(&round.seen)
    }
}

/// One stream of a scan.
struct Reading {
    read: Arc<ArchiveRead>,
    reader: ArchivedReader,
    seen: Arc<SeenOffsets>,
    metrics: ReadMetrics,
}

impl Reading {
    fn read(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        let records = self.read.records(rows)?;
        if let Some(row) = self.seen.add(&records.partitions, &records.offsets) {
            let (partition, offset) = (records.partitions.value(row), records.offsets.value(row));
            return Err(self.read.duplicate(partition, offset));
        }
        let (read, reader) = (&self.read, &mut self.reader);
        self.metrics
            .counted(&records, || read.read(reader, rows, &records))
    }
}

/// The error of a read of the version that a run rests on.
fn of_version(archive: &str, version: u64, error: DataFusionError) -> Error {
    let error = Error::from(error);
    if !error.is_of_missing_file() {
        return error;
    }
    Error::not_found(format!(
        "a file of version {version} of archive {archive}, on which the run rests, is gone: {}",
        error.message()
    ))
    .about(Subject::table(archive))
    .with_help("VACUUM has deleted it: restore the file, or begin another run, which reads the newest version")
}

impl DisplayAs for ArchiveScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&str> = self
            .read
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        let border: Vec<String> = self
            .shown
            .border
            .iter()
            .map(|(partition, next)| format!("{partition}:{next}"))
            .collect();
        let mapping = &self.read.mapping;
        write!(
            f,
            "{NAME}: archive={}, version={}, mapping={mapping}, columns=[{}], offsets=[{}], topic_from=[{}]",
            mapping.archive(),
            self.shown.version,
            columns.join(", "),
            ranges.join(", "),
            border.join(", ")
        )?;
        let pruned_by = self.shown.pruned_by.iter().map(ToString::to_string);
        let pruned_by: Vec<String> = pruned_by.collect();
        if !pruned_by.is_empty() {
            write!(f, ", pruned_by=[{}]", pruned_by.join(", "))?;
        }
        match mapping.proposal() {
            Some(columns) => write!(
                f,
                ", hint=['archive.event_time' '{columns}' would leave files out]"
            ),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for ArchiveScanExec {
    fn name(&self) -> &'static str {
        NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    has_no_expressions!();

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input = only_child(NAME, children)?;
        Ok(Arc::new(Self::new(
            Arc::clone(&self.read),
            input,
            self.ranges.clone(),
            self.outlet.clone(),
            Arc::clone(&self.shown),
        )))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let outlet = self.outlet.open(&context)?;
        let mut reading = Reading {
            reader: ArchivedReader::of_query(self.read.output(outlet))?,
            read: Arc::clone(&self.read),
            seen: self.rounds.begin(partition),
            metrics: ReadMetrics::new(&self.metrics, partition),
        };
        let rows = self.input.execute(partition, context)?;
        let shown = Arc::clone(&self.shown);
        let records = rows.map(move |rows| -> DataFusionResult<RecordBatch> {
            let rows = match rows {
                Err(error) if shown.is_of_run => {
                    let archive = reading.read.mapping.archive();
                    return Err(of_version(archive, shown.version, error).into());
                }
                rows => rows?,
            };
            Ok(reading.read(&rows)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            records,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int32Array, Int64Array};

    use super::*;

    #[test]
    fn executions_do_not_see_each_other() {
        let rounds = Rounds::default();
        let row = |offset: i64| (Int32Array::from(vec![0]), Int64Array::from(vec![offset]));
        let add = |seen: &SeenOffsets, offset: i64| {
            let (partitions, offsets) = row(offset);
            seen.add(&partitions, &offsets)
        };
        let first = [0, 1].map(|partition| rounds.begin(partition));
        assert_eq!(add(&first[0], 7), None);
        assert_eq!(add(&first[1], 7), Some(0), "one execution");
        let second = rounds.begin(1);
        assert_eq!(add(&second, 7), None, "another execution");
        assert!(Arc::ptr_eq(&second, &rounds.begin(0)));
    }
}
