//! A [`TpchScan`] as bytes, so that a worker can run it.

use datafusion::common::{DataFusionError, Result};
use serde::{Deserialize, Serialize};

use super::{Table, TpchScan};

#[derive(Serialize, Deserialize)]
struct ScanMessage {
    table: String,
    scale: f64,
    groups: Vec<Vec<u32>>,
    projection: Option<Vec<usize>>,
    limit: Option<usize>,
}

/// Appends `scan` to `buffer`.
///
/// # Errors
/// None for a scan that [`TpchScan::try_new`] made.
pub fn encode_scan(scan: &TpchScan, buffer: &mut Vec<u8>) -> Result<()> {
    let (table, scale, groups, projection, limit) = scan.parts();
    let message = ScanMessage {
        table: table.name().to_owned(),
        scale,
        groups: groups.to_vec(),
        projection: projection.map(<[usize]>::to_vec),
        limit,
    };
    serde_json::to_writer(buffer, &message).map_err(|error| DataFusionError::External(Box::new(error)))
}

/// Reads back what [`encode_scan`] wrote.
///
/// # Errors
/// Bytes of another shape, a table that does not exist, a column out of range.
pub fn decode_scan(bytes: &[u8]) -> Result<TpchScan> {
    let message: ScanMessage =
        serde_json::from_slice(bytes).map_err(|error| DataFusionError::External(Box::new(error)))?;
    let table = Table::from_name(&message.table)
        .ok_or_else(|| DataFusionError::Plan(format!("tpch has no table {:?}", message.table)))?;
    TpchScan::try_new(table, message.scale, message.groups, message.projection, message.limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_survives_the_wire() {
        let scan = TpchScan::try_new(Table::Part, 0.1, vec![vec![0, 2], vec![1]], Some(vec![3, 1]), Some(9)).unwrap();
        let mut bytes = Vec::new();
        encode_scan(&scan, &mut bytes).unwrap();
        assert_eq!(decode_scan(&bytes).unwrap().parts(), scan.parts());
        assert!(decode_scan(b"{}").is_err());
    }
}
