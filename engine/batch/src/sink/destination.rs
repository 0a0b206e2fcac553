//! Where the rows of a statement go, and how their files look.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{DdlStatement, LogicalPlan, WriteOp};
use datafusion::prelude::SessionContext;
use trireme_batch_durable::commit::WriteMode;
use trireme_spec::batch_job::{FileFormat, ResultCompression, ResultSink};
use trireme_spec::problem::{ErrorCode, Problem};

use crate::statements::statement_problem;
use crate::tables::{FilesDefinition, FilesTable, format_name};

/// Where rows go.
#[derive(Debug, Clone)]
pub struct Destination {
    /// A folder, as a path or URL.
    pub location: String,
    /// `parquet`, `csv`, `json` or `arrow`.
    pub format: String,
    /// Settings of the format, keys with their prefix.
    pub options: BTreeMap<String, String>,
    /// Columns that become names of folders.
    pub partition_by: Vec<String>,
    /// Keep those columns in the files too.
    pub keep_partition_by: bool,
    pub mode: WriteMode,
    /// The table that comes into being with the write.
    pub creates: Option<Created>,
}

/// A table that a write creates.
#[derive(Debug, Clone)]
pub struct Created {
    pub name: TableReference,
    /// Nothing is done if there is one already.
    pub if_not_exists: bool,
    /// One that is there is replaced.
    pub or_replace: bool,
}

impl Destination {
    /// The destination that a manifest's `result` names.
    pub fn of_result(result: &ResultSink) -> Self {
        let mut options = BTreeMap::new();
        if let Some(compression) = result.compression {
            options.insert(
                "format.compression".to_owned(),
                result_compression(compression, result.format).to_owned(),
            );
        }
        Self {
            location: result.location.clone(),
            format: format_name(result.format).to_owned(),
            options,
            partition_by: Vec::new(),
            keep_partition_by: false,
            mode: WriteMode::Create,
            creates: None,
        }
    }
}

/// DataFusion's name of a compression. Parquet's come with a level: the libraries' usual ones.
fn result_compression(compression: ResultCompression, format: FileFormat) -> &'static str {
    match (compression, format) {
        (ResultCompression::Gzip, FileFormat::Parquet) => "gzip(6)",
        (ResultCompression::Zstd, FileFormat::Parquet) => "zstd(3)",
        (ResultCompression::None, _) => "uncompressed",
        (ResultCompression::Snappy, _) => "snappy",
        (ResultCompression::Lz4, _) => "lz4",
        (ResultCompression::Gzip, _) => "gzip",
        (ResultCompression::Bzip2, _) => "bzip2",
        (ResultCompression::Xz, _) => "xz",
        (ResultCompression::Zstd, _) => "zstd",
    }
}

/// Takes a writing statement apart: the rows to write, and where to. `warehouse` is the folder for tables that a statement
/// creates without saying where.
///
/// # Errors
/// A table that cannot be written to, or that exists already.
pub fn destination_of(
    session: &SessionContext,
    plan: LogicalPlan,
    warehouse: &str,
) -> Result<(LogicalPlan, Destination), Problem> {
    match plan {
        LogicalPlan::Copy(copy) => {
            let mut options: BTreeMap<String, String> = copy.options.into_iter().collect();
            let mode = write_mode(options.remove("format.mode").or_else(|| options.remove("mode")))?;
            let keep = options
                .remove("execution.keep_partition_by_columns")
                .is_some_and(|value| value == "true");
            let destination = Destination {
                location: copy.output_url,
                format: copy.file_type.get_ext().to_lowercase(),
                options,
                partition_by: copy.partition_by,
                keep_partition_by: keep,
                mode,
                creates: None,
            };
            Ok((Arc::unwrap_or_clone(copy.input), destination))
        }
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) => {
            let exists = session
                .table_exist(create.name.clone())
                .map_err(|error| statement_problem(&error))?;
            if exists && !create.or_replace && !create.if_not_exists {
                let text = format!("table {} exists already", create.name);
                return Err(Problem::new(ErrorCode::DataDestinationExists, text)
                    .remedy("CREATE OR REPLACE TABLE replaces it, CREATE TABLE IF NOT EXISTS keeps it"));
            }
            let folder = format!(
                "{}/{}",
                warehouse.trim_end_matches('/'),
                folder_name(create.name.table())
            );
            let created = Created {
                name: create.name,
                if_not_exists: create.if_not_exists,
                or_replace: create.or_replace,
            };
            let destination = Destination {
                location: folder,
                format: "parquet".to_owned(),
                options: BTreeMap::new(),
                partition_by: Vec::new(),
                keep_partition_by: false,
                mode: WriteMode::Overwrite,
                creates: Some(created),
            };
            Ok((Arc::unwrap_or_clone(create.input), destination))
        }
        LogicalPlan::Dml(insert) => {
            let mode = match insert.op {
                WriteOp::Insert(InsertOp::Overwrite) => WriteMode::Overwrite,
                _ => WriteMode::Append,
            };
            let provider = source_as_provider(&insert.target).map_err(|error| statement_problem(&error))?;
            let Some(table) = provider.downcast_ref::<FilesTable>() else {
                let text = format!("table {} cannot be written to", insert.table_name);
                return Err(Problem::new(ErrorCode::SqlUnsupported, text)
                    .remedy("a table with a location can: CREATE EXTERNAL TABLE, or spec.tables"));
            };
            if !table.is_folder() {
                let location = &table.definition().location;
                let text = format!(
                    "table {} cannot be written to: {location} is no folder",
                    insert.table_name
                );
                return Err(Problem::new(ErrorCode::SqlUnsupported, text)
                    .remedy("declare the table over the folder; files are added to it"));
            }
            Ok((Arc::unwrap_or_clone(insert.input), of_table(table.definition(), mode)))
        }
        other => Err(Problem::new(
            ErrorCode::Internal,
            format!("{} is not a write", other.display()),
        )),
    }
}

fn of_table(definition: &FilesDefinition, mode: WriteMode) -> Destination {
    Destination {
        location: definition.location.clone(),
        format: definition.format.clone(),
        options: definition.options.clone().into_iter().collect(),
        partition_by: definition
            .partition_columns
            .iter()
            .map(|(name, _)| name.clone())
            .collect(),
        keep_partition_by: false,
        mode,
        creates: None,
    }
}

fn write_mode(text: Option<String>) -> Result<WriteMode, Problem> {
    match text.as_deref().map(str::to_lowercase).as_deref() {
        None | Some("create" | "error") => Ok(WriteMode::Create),
        Some("append") => Ok(WriteMode::Append),
        Some("overwrite") => Ok(WriteMode::Overwrite),
        Some(other) => Err(
            Problem::new(ErrorCode::SqlUnsupported, format!("there is no write mode {other:?}"))
                .allowed("create, append, overwrite"),
        ),
    }
}

/// A table's name as a folder's: what could leave the folder is replaced.
fn folder_name(table: &str) -> String {
    table
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || c == '_' || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// Makes the table that the write created known to the session.
///
/// # Errors
/// Files that cannot be read back.
pub async fn register_created(session: &SessionContext, destination: &Destination) -> Result<(), Problem> {
    let Some(created) = &destination.creates else {
        return Ok(());
    };
    let definition = FilesDefinition {
        location: format!("{}/", destination.location.trim_end_matches('/')),
        format: destination.format.clone(),
        options: destination.options.clone().into_iter().collect(),
        partition_columns: Vec::new(),
        schema: None,
    };
    let told = |error| statement_problem(&error);
    if created.or_replace {
        session.deregister_table(created.name.clone()).map_err(told)?;
    }
    let table = FilesTable::open(&session.state(), definition).await.map_err(told)?;
    session
        .register_table(created.name.clone(), Arc::new(table))
        .map_err(told)?;
    Ok(())
}
