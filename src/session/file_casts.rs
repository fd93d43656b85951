//! Files of Parquet whose columns have other types than their table: casts that round or may fail are not undone in predicates.

use std::sync::Arc;

use anabranch_udfs::CastsInFiles;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

/// Gives scans of Parquet files the casts of [`CastsInFiles`].
#[derive(Debug)]
pub(super) struct CheckedFileCasts;

impl PhysicalOptimizerRule for CheckedFileCasts {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let checked = plan.transform_up(|plan| {
            let source = plan.downcast_ref::<DataSourceExec>();
            let scan = source.and_then(|of| of.data_source().downcast_ref::<FileScanConfig>());
            let Some(scan) = scan.filter(|of| of.file_source.is::<ParquetSource>()) else {
                return Ok(Transformed::no(plan));
            };
            let casts = CastsInFiles::over(scan.expr_adapter_factory.clone());
            let scan = FileScanConfigBuilder::from(scan.clone())
                .with_expr_adapter(Some(Arc::new(casts)))
                .build();
            let plan = DataSourceExec::from_data_source(scan);
            Ok(Transformed::yes(plan as Arc<dyn ExecutionPlan>))
        })?;
        Ok(checked.data)
    }

    fn name(&self) -> &'static str {
        "checked_file_casts"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
