//! Settings of scans of text that DataFusion's wire form leaves out: compression, and what ends a line.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{CsvSource, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use serde::{Deserialize, Serialize};

use crate::tables::file_scan;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Settings {
    /// As in `OPTIONS (format.compression ...)`; empty for none.
    compression: String,
    /// Of CSV, where it is not a line feed.
    terminator: Option<u8>,
}

impl Settings {
    fn of(scan: &FileScanConfig) -> Self {
        let csv = scan.file_source().downcast_ref::<CsvSource>();
        Self {
            compression: scan.file_compression_type.get_variant().to_string(),
            terminator: csv.and_then(CsvSource::terminator),
        }
    }

    fn put_into(&self, scan: &FileScanConfig) -> Result<FileScanConfig> {
        let compression = CompressionTypeVariant::from_str(&self.compression)
            .map_err(|error| DataFusionError::Internal(error.to_string()))?;
        let mut with_settings = FileScanConfigBuilder::from(scan.clone())
            .with_file_compression_type(FileCompressionType::from(compression));
        if let Some(csv) = scan.file_source().downcast_ref::<CsvSource>() {
            with_settings = with_settings.with_source(Arc::new(csv.with_terminator(self.terminator)));
        }
        Ok(with_settings.build())
    }
}

/// A scan on its way to workers, with what its wire form lacks. [`decode_scan_settings`] yields the scan itself.
#[derive(Debug)]
pub struct ScanSettingsExec {
    scan: Arc<dyn ExecutionPlan>,
    settings: Settings,
}

/// `plan` with the settings of its scans beside them, for who encodes it.
///
/// # Errors
/// None of its own; those of plan nodes that do not take other children.
pub fn with_scan_settings(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = plan.transform_up(|node| {
        let settings = file_scan(node.as_ref()).map(Settings::of);
        let is_plain = |settings: &Settings| settings.compression.is_empty() && settings.terminator.is_none();
        match settings.filter(|settings| !is_plain(settings)) {
            Some(settings) => Ok(Transformed::yes(
                Arc::new(ScanSettingsExec { scan: node, settings }) as _
            )),
            None => Ok(Transformed::no(node)),
        }
    })?;
    Ok(plan.data)
}

/// Appends what [`decode_scan_settings`] needs, but for the scan.
///
/// # Errors
/// None that is known of.
pub fn encode_scan_settings(scan: &ScanSettingsExec, buffer: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(buffer, &scan.settings).map_err(|error| DataFusionError::External(Box::new(error)))
}

/// The scan that `scan` was before it was encoded.
///
/// # Errors
/// Bytes of another shape; something that is no scan.
pub fn decode_scan_settings(bytes: &[u8], scan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let settings: Settings =
        serde_json::from_slice(bytes).map_err(|error| DataFusionError::External(Box::new(error)))?;
    match file_scan(scan.as_ref()) {
        Some(scan) => Ok(DataSourceExec::from_data_source(settings.put_into(scan)?)),
        None => internal_err!("settings of a scan came with a {}", scan.name()),
    }
}

impl DisplayAs for ScanSettingsExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScanSettingsExec")
    }
}

impl ExecutionPlan for ScanSettingsExec {
    fn name(&self) -> &str {
        "ScanSettingsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.scan]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([scan]) => Ok(Arc::new(Self {
                scan,
                settings: self.settings.clone(),
            })),
            Err(_) => internal_err!("ScanSettingsExec has one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.scan.execute(partition, context)
    }
}
