//! Scan of one version of a table: the library's scan, and the parts that the library lacks.
//!
//! Predicates on bounds of floating-point columns and on BINARY partition values are not given to the library, VARIANT is shown
//! as JSON text, and tables with features that the library refuses are read.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{Session, TableProvider as _};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use deltalake::delta_datafusion::{DeltaScanConfig, DeltaScanNext, FileSelection};
use deltalake::kernel::Add;
use deltalake::{DeltaTable, DeltaTableError};

use super::features::for_scans;
use super::log_scan::LogScanExec;
use super::variant::VariantTexts;
use crate::tables::parquet::holds_floats;

/// A scan of the table's version, with text as views and partition values as plain columns.
#[derive(Debug)]
pub(super) struct TableScan {
    scan: DeltaScanNext,
    variants: Option<VariantTexts>,
    /// Partition columns of type BINARY.
    binary_partitions: Vec<String>,
}

/// The columns among `partition_by` that are of type BINARY.
pub(super) fn binary_partitions(schema: &SchemaRef, partition_by: &[String]) -> Vec<String> {
    let is_binary = |name: &&String| {
        let field = schema.field_with_name(name);
        field.is_ok_and(|field| {
            matches!(
                field.data_type(),
                DataType::Binary | DataType::LargeBinary | DataType::BinaryView
            )
        })
    };
    partition_by.iter().filter(is_binary).cloned().collect()
}

impl TableScan {
    /// The scan of the version that `table` has loaded.
    pub(super) fn of(table: &DeltaTable) -> std::result::Result<Self, DeltaTableError> {
        Self::as_configured(table, DeltaScanConfig::new())
    }

    /// The same with a last column of this name: the URL of the file that a row is in.
    pub(super) fn with_files(
        table: &DeltaTable,
        column: &str,
    ) -> std::result::Result<Self, DeltaTableError> {
        let config = DeltaScanConfig::new().with_file_column_name(column);
        Self::as_configured(table, config)
    }

    fn as_configured(
        table: &DeltaTable,
        config: DeltaScanConfig,
    ) -> std::result::Result<Self, DeltaTableError> {
        let snapshot = table.snapshot()?.snapshot();
        let config = config.with_wrap_partition_values(false);
        let scan = match for_scans(snapshot)? {
            Some(for_scans) => DeltaScanNext::new(for_scans, config),
            None => DeltaScanNext::new(snapshot.clone(), config),
        };
        let scan = scan.map_err(of_library)?;
        let variants = VariantTexts::of(snapshot.schema().as_ref(), &scan.schema());
        let partition_by = snapshot.metadata().partition_columns();
        let binary_partitions = binary_partitions(&scan.schema(), partition_by);
        Ok(Self {
            scan,
            variants,
            binary_partitions,
        })
    }

    /// Reads the files with these paths alone, as the log has them.
    pub(super) fn of_paths(mut self, paths: impl IntoIterator<Item = String>) -> Self {
        let adds = paths.into_iter().map(|path| Add {
            path,
            ..Add::default()
        });
        let files = FileSelection::from_adds(adds);
        self.scan = self.scan.with_file_selection(files);
        self
    }

    /// The columns that it gives.
    pub(super) fn schema(&self) -> SchemaRef {
        match &self.variants {
            Some(variants) => Arc::clone(variants.schema()),
            None => self.scan.schema(),
        }
    }

    /// The columns that hold VARIANT.
    pub(super) fn variants(&self) -> Option<&VariantTexts> {
        self.variants.as_ref()
    }

    /// How far the scan applies predicates: all of them must be applied to its rows again.
    pub(super) fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let one = |filter: &&Expr| -> Result<TableProviderFilterPushDown> {
            if self.reads_variant(filter) {
                return Ok(TableProviderFilterPushDown::Unsupported);
            }
            // The library calls predicates on partition values exact; a filter above the scan costs little and does not rest
            // on how it treats null.
            let support = self.scan.supports_filters_pushdown(&[*filter])?;
            Ok(match support.first() {
                Some(TableProviderFilterPushDown::Unsupported) | None => {
                    TableProviderFilterPushDown::Unsupported
                }
                Some(_) => TableProviderFilterPushDown::Inexact,
            })
        };
        filters.iter().map(one).collect()
    }

    /// The plan of a scan; rows that do not fulfil `filters` may be left out.
    pub(super) async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // The library takes files and pages by their bounds and partition values.
        let pushed = filters.iter().filter(|filter| self.may_prune_by(filter));
        let pushed: Vec<Expr> = pushed.cloned().collect();
        let plan = self.scan.scan(session, projection, &pushed, limit).await?;
        let plan = LogScanExec::over(plan);
        match &self.variants {
            Some(variants) => variants.over(plan),
            None => Ok(plan),
        }
    }

    /// Whether files may be left out by their statistics and partition values for this predicate. Bounds say nothing of NaN;
    /// the library compares BINARY partition values in a spelling that other writers do not use.
    pub(super) fn may_prune_by(&self, filter: &Expr) -> bool {
        !self.reads_floats(filter)
            && !self.reads_variant(filter)
            && !self.reads_binary_partition(filter)
    }

    fn reads_binary_partition(&self, filter: &Expr) -> bool {
        let columns = filter.column_refs();
        let partitions = &self.binary_partitions;
        columns
            .iter()
            .any(|column| partitions.iter().any(|name| name == column.name()))
    }

    fn reads_floats(&self, filter: &Expr) -> bool {
        let schema = self.scan.schema();
        filter.column_refs().iter().any(|column| {
            let field = schema.field_with_name(column.name());
            field.is_ok_and(|field| holds_floats(field.data_type()))
        })
    }

    fn reads_variant(&self, filter: &Expr) -> bool {
        self.variants.as_ref().is_some_and(|variants| {
            let columns = filter.column_refs();
            columns.iter().any(|column| variants.has(column.name()))
        })
    }
}

/// The library's own error out of the engine's.
fn of_library(error: DataFusionError) -> DeltaTableError {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<DeltaTableError>() {
            Ok(own) => *own,
            Err(source) => DeltaTableError::GenericError { source },
        },
        other => DeltaTableError::GenericError {
            source: Box::new(other),
        },
    }
}
