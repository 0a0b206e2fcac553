//! Physical plans as bytes: DataFusion's own protobuf, Ballista's nodes, and ours.
//!
//! A node of ours starts with a tag that no protobuf message starts with (field number 0 is invalid), so that the two
//! kinds cannot be taken for each other.

use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use bytes::Bytes;
use datafusion::common::{Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

use super::gather::GatherExec;
use super::scan_settings::{ScanSettingsExec, decode_scan_settings, encode_scan_settings, with_scan_settings};
use crate::sink::{PartSinkExec, decode_sink, encode_sink};
use crate::tpch::{self, TpchScan};

const TAG_TPCH_SCAN: u8 = 0x01;
const TAG_PART_SINK: u8 = 0x02;
const TAG_GATHER: u8 = 0x03;
const TAG_SCAN_SETTINGS: u8 = 0x04;

/// The codec that driver and workers share.
#[derive(Debug, Default)]
pub struct PlanCodec {
    ballista: BallistaPhysicalExtensionCodec,
}

impl PlanCodec {
    /// `plan` as bytes.
    ///
    /// # Errors
    /// A node or an expression that has no wire form (for instance a recursive CTE).
    pub fn encode(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Bytes> {
        physical_plan_to_bytes_with_extension_codec(with_scan_settings(plan)?, self)
    }

    /// The plan that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Bytes of another shape or of another engine version.
    pub fn decode(&self, bytes: &[u8], context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        physical_plan_from_bytes_with_extension_codec(bytes, context, self)
    }
}

impl PhysicalExtensionCodec for PlanCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (buf.split_first(), inputs) {
            (Some((&TAG_TPCH_SCAN, rest)), []) => Ok(Arc::new(tpch::decode_scan(rest)?)),
            (Some((&TAG_PART_SINK, rest)), [input]) => Ok(Arc::new(decode_sink(rest, Arc::clone(input))?)),
            (Some((&TAG_GATHER, _)), [input]) => Ok(Arc::new(GatherExec::new(Arc::clone(input)))),
            (Some((&TAG_SCAN_SETTINGS, rest)), [scan]) => decode_scan_settings(rest, scan),
            (Some((&(TAG_TPCH_SCAN | TAG_PART_SINK | TAG_GATHER | TAG_SCAN_SETTINGS), _)), inputs) => {
                internal_err!("a plan node of ours came with {} inputs", inputs.len())
            }
            _ => self.ballista.try_decode(buf, inputs, ctx, converter),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if let Some(scan) = node.downcast_ref::<TpchScan>() {
            buf.push(TAG_TPCH_SCAN);
            return tpch::encode_scan(scan, buf);
        }
        if let Some(sink) = node.downcast_ref::<PartSinkExec>() {
            buf.push(TAG_PART_SINK);
            return encode_sink(sink, buf);
        }
        if node.is::<GatherExec>() {
            buf.push(TAG_GATHER);
            return Ok(());
        }
        if let Some(scan) = node.downcast_ref::<ScanSettingsExec>() {
            buf.push(TAG_SCAN_SETTINGS);
            return encode_scan_settings(scan, buf);
        }
        self.ballista.try_encode(node, buf, converter)
    }
}
