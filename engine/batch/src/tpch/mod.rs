//! The built-in catalog `tpch`: the eight TPC-H tables at any scale factor, generated while they are read.
//!
//! `SELECT count(*) FROM tpch.sf1.lineitem` needs no files. A schema's name is its scale factor: `tiny` is 0.01, `sf10`
//! is 10, `sf0_1` is 0.1 (an underscore stands for the decimal point, so that the name needs no quotes). Rows are those of
//! the TPC-H specification, made by `tpchgen`; the same row comes out however a table is split into parts.
//!
//! It owns names, parts and statistics. It never writes files.

mod codec;
mod scan;
mod text;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::{CatalogProvider, SchemaProvider, Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{Result, Statistics};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tpchgen::generators::{CustomerGenerator, OrderGenerator, PartGenerator, PartSuppGenerator, SupplierGenerator};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

pub use codec::{decode_scan, encode_scan};
pub use scan::TpchScan;

/// The catalog's name in SQL.
pub const CATALOG: &str = "tpch";

/// Rows that one generated part holds at most. A part is the unit that a task generates: at about two million rows of
/// `lineitem` a second it is a fraction of a second, so that parts even out between tasks.
const PART_ROWS_MAX: u64 = 500_000;

/// Scale factors outside this range are refused: below, tables are empty; above, `tpchgen`'s keys overflow.
const SCALE_RANGE: std::ops::RangeInclusive<f64> = 0.001..=100_000.0;

/// One of the eight tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    Nation,
    Region,
    Part,
    Supplier,
    PartSupp,
    Customer,
    Orders,
    LineItem,
}

impl Table {
    pub const ALL: [Self; 8] = [
        Self::Nation,
        Self::Region,
        Self::Part,
        Self::Supplier,
        Self::PartSupp,
        Self::Customer,
        Self::Orders,
        Self::LineItem,
    ];

    /// The table's name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nation => "nation",
            Self::Region => "region",
            Self::Part => "part",
            Self::Supplier => "supplier",
            Self::PartSupp => "partsupp",
            Self::Customer => "customer",
            Self::Orders => "orders",
            Self::LineItem => "lineitem",
        }
    }

    /// The table of that name, or `None`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Columns and types. Text is `Utf8`: a batch of string views keeps every buffer that it was cut from alive, which a
    /// shuffle would then write and send.
    pub fn schema(self) -> SchemaRef {
        let generated = self.generated_schema();
        let fields = generated.fields().iter().map(|field| match field.data_type() {
            DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
            _ => Arc::clone(field),
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Columns and types as `tpchgen-arrow` makes them.
    fn generated_schema(self) -> SchemaRef {
        match self {
            Self::Nation => NationArrow::schema_ref(),
            Self::Region => RegionArrow::schema_ref(),
            Self::Part => PartArrow::schema_ref(),
            Self::Supplier => SupplierArrow::schema_ref(),
            Self::PartSupp => PartSuppArrow::schema_ref(),
            Self::Customer => CustomerArrow::schema_ref(),
            Self::Orders => OrderArrow::schema_ref(),
            Self::LineItem => LineItemArrow::schema_ref(),
        }
    }

    /// Rows at `scale`. For `lineitem` an estimate: an order has one to seven lines, drawn by chance.
    pub fn rows(self, scale: f64) -> Precision<usize> {
        let exact = |rows: i64| Precision::Exact(rows.unsigned_abs() as usize);
        match self {
            Self::Nation => Precision::Exact(25),
            Self::Region => Precision::Exact(5),
            Self::Part => exact(PartGenerator::calculate_row_count(scale, 1, 1)),
            Self::Supplier => exact(SupplierGenerator::calculate_row_count(scale, 1, 1)),
            Self::PartSupp => exact(PartSuppGenerator::calculate_row_count(scale, 1, 1)),
            Self::Customer => exact(CustomerGenerator::calculate_row_count(scale, 1, 1)),
            Self::Orders => exact(OrderGenerator::calculate_row_count(scale, 1, 1)),
            Self::LineItem => {
                Precision::Inexact(OrderGenerator::calculate_row_count(scale, 1, 1).unsigned_abs() as usize * 4)
            }
        }
    }

    /// How many parts the table is generated in at `scale`.
    pub fn parts(self, scale: f64) -> u32 {
        let rows = self.rows(scale).get_value().copied().unwrap_or(0) as u64;
        u32::try_from(rows.div_ceil(PART_ROWS_MAX).max(1)).unwrap_or(u32::MAX)
    }
}

/// The catalog `tpch`. Its schemas come into being when they are named.
#[derive(Debug, Default)]
pub struct TpchCatalog;

impl CatalogProvider for TpchCatalog {
    fn schema_names(&self) -> Vec<String> {
        ["tiny", "sf1", "sf10", "sf100"].map(String::from).to_vec()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        scale_of(name).map(|scale| Arc::new(TpchSchema { scale }) as Arc<dyn SchemaProvider>)
    }
}

/// The scale factor that a schema's name stands for, or `None` where it stands for none.
fn scale_of(name: &str) -> Option<f64> {
    if name == "tiny" {
        return Some(0.01);
    }
    let digits = name.strip_prefix("sf")?;
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.contains(['e', 'E', '+', '-']) {
        return None;
    }
    let scale: f64 = digits.replacen('_', ".", 1).parse().ok()?;
    SCALE_RANGE.contains(&scale).then_some(scale)
}

#[derive(Debug)]
struct TpchSchema {
    scale: f64,
}

#[async_trait]
impl SchemaProvider for TpchSchema {
    fn table_names(&self) -> Vec<String> {
        Table::ALL.map(|table| table.name().to_owned()).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Ok(Table::from_name(name).map(|table| {
            Arc::new(TpchTable {
                table,
                scale: self.scale,
            }) as Arc<dyn TableProvider>
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        Table::from_name(name).is_some()
    }
}

/// One table at one scale factor.
struct TpchTable {
    table: Table,
    scale: f64,
}

impl fmt::Debug for TpchTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TpchTable({} at scale {})", self.table.name(), self.scale)
    }
}

#[async_trait]
impl TableProvider for TpchTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let groups = scan::spread(self.table.parts(self.scale), state.config().target_partitions());
        Ok(Arc::new(TpchScan::try_new(
            self.table,
            self.scale,
            groups,
            projection.cloned(),
            limit,
        )?))
    }

    fn statistics(&self) -> Option<Statistics> {
        let mut statistics = Statistics::new_unknown(&self.table.schema());
        statistics.num_rows = self.table.rows(self.scale);
        Some(statistics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_names_are_scale_factors() {
        let table = [
            ("tiny", Some(0.01)),
            ("sf1", Some(1.0)),
            ("sf0_1", Some(0.1)),
            ("sf100", Some(100.0)),
            ("sf", None),
            ("sf0", None),
            ("sf-1", None),
            ("sf1e9", None),
            ("sf1_0_0", None),
            ("sfinf", None),
            ("public", None),
        ];
        for (name, scale) in table {
            assert_eq!(scale_of(name), scale, "{name}");
        }
    }

    #[test]
    fn a_small_table_is_one_part_and_a_large_one_is_many() {
        assert_eq!(Table::Nation.parts(100.0), 1);
        assert_eq!(Table::LineItem.parts(0.01), 1);
        assert_eq!(Table::LineItem.parts(1.0), 12);
        assert_eq!(Table::Orders.parts(10.0), 30);
    }
}
