//! Exact conversion of file columns to table columns, where the engine's own conversion changes values: predicates are not
//! rewritten past casts of Parquet columns that round or may fail, and decimals of CSV keep all their digits.

use std::sync::Arc;

use anabranch_udfs::CastsInFiles;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::{
    CsvSource, FileScanConfig, FileScanConfigBuilder, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

use crate::tables::csv::ExactCsvSource;

/// Gives scans of Parquet files the casts of [`CastsInFiles`], and those of CSV the decimals of [`ExactCsvSource`]. It runs
/// after all rules that check the source type of a scan.
#[derive(Debug)]
pub(crate) struct ExactFiles;

impl PhysicalOptimizerRule for ExactFiles {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let exact = plan.transform_up(|plan| {
            let source = plan.downcast_ref::<DataSourceExec>();
            let scan = source.and_then(|of| of.data_source().downcast_ref::<FileScanConfig>());
            let Some(exact) = scan.and_then(exact) else {
                return Ok(Transformed::no(plan));
            };
            let plan = DataSourceExec::from_data_source(exact);
            Ok(Transformed::yes(plan as Arc<dyn ExecutionPlan>))
        })?;
        Ok(exact.data)
    }

    fn name(&self) -> &'static str {
        "exact_files"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The scan with exact values, if the engine's own scan would return other values.
fn exact(scan: &FileScanConfig) -> Option<FileScanConfig> {
    let builder = || FileScanConfigBuilder::from(scan.clone());
    if scan.file_source.is::<ParquetSource>() {
        let casts = CastsInFiles::over(scan.expr_adapter_factory.clone());
        return Some(builder().with_expr_adapter(Some(Arc::new(casts))).build());
    }
    let csv = scan.file_source.downcast_ref::<CsvSource>()?;
    let source = ExactCsvSource::over(csv)?;
    Some(builder().with_source(Arc::new(source)).build())
}
