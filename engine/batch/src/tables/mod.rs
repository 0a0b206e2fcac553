//! The manifest's `tables` as tables of the session, so that SQL need not repeat where data lies.

mod arrow_files;
mod files;
mod location;
mod partitions;
mod scans;
mod snapshot;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use trireme_spec::batch_job::{ColumnType, FileCompression, FileFormat, Table};
use trireme_spec::problem::Problem;

use crate::panics;
use crate::problems::problem_of;

pub use files::{FilesDefinition, FilesTable, FilesTableFactory};
pub use partitions::{NULL_FOLDER, folder_text};
pub use scans::{file_scan, guard_scans};

/// Registers `table`. Its columns are read from its files.
///
/// # Errors
/// A location without files, files that cannot be read or that disagree with each other.
pub async fn register(context: &SessionContext, table: &Table) -> Result<(), Problem> {
    let source = format!("table {:?} at {}", table.name, table.location);
    let named = |mut problem: Problem| {
        problem.message = format!("{source}: {}", problem.message);
        problem
    };
    let opening = async {
        let opened = FilesTable::open(&context.state(), definition(table)).await;
        opened.map_err(|error| problem_of(&error, &source))
    };
    let opened = panics::caught(opening).await.map_err(named)?;
    let registered = context.register_table(TableReference::bare(table.name.as_str()), Arc::new(opened));
    registered.map(drop).map_err(|error| named(problem_of(&error, &source)))
}

fn definition(table: &Table) -> FilesDefinition {
    let mut options: HashMap<String, String> = table
        .options
        .iter()
        .map(|(key, value)| (option_key(key), value.clone()))
        .collect();
    if let Some(compression) = table.compression {
        options.insert(
            "format.compression".to_owned(),
            compression_name(compression).to_owned(),
        );
    }
    let columns = table
        .partitioned_by
        .iter()
        .map(|column| (column.name.clone(), Some(data_type(column.column_type))));
    FilesDefinition {
        location: table.location.clone(),
        format: format_name(table.format).to_owned(),
        options,
        partition_columns: columns.collect(),
        schema: None,
    }
}

/// Options may leave out the prefix that DataFusion wants: `delimiter` is `format.delimiter`.
fn option_key(key: &str) -> String {
    if key.contains('.') {
        key.to_owned()
    } else {
        format!("format.{key}")
    }
}

/// DataFusion's name of a file format.
pub fn format_name(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Parquet => "parquet",
        FileFormat::Csv => "csv",
        FileFormat::Json => "json",
        FileFormat::Arrow => "arrow",
    }
}

fn compression_name(compression: FileCompression) -> &'static str {
    match compression {
        FileCompression::None => "uncompressed",
        FileCompression::Gzip => "gzip",
        FileCompression::Bzip2 => "bzip2",
        FileCompression::Xz => "xz",
        FileCompression::Zstd => "zstd",
    }
}

fn data_type(column: ColumnType) -> DataType {
    match column {
        ColumnType::String => DataType::Utf8,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int => DataType::Int32,
        ColumnType::Bigint => DataType::Int64,
        ColumnType::Double => DataType::Float64,
        ColumnType::Date => DataType::Date32,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
    }
}
