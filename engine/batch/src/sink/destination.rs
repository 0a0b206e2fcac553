//! Where the rows of a statement go, and how their files look.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{DdlStatement, LogicalPlan, WriteOp};
use datafusion::prelude::SessionContext;
use trireme_batch_durable::commit::WriteMode;
use trireme_spec::batch_job::{FileFormat, ResultCompression, ResultSink};
use trireme_spec::problem::{ErrorCode, Problem};

use super::created::{self, Created, Existing, Home};
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

/// Takes a writing statement apart: the rows to write, and where to. `home` is for a table that it creates.
///
/// # Errors
/// A table that cannot be written to, or that exists already.
pub fn destination_of(
    session: &SessionContext,
    plan: LogicalPlan,
    home: Home<'_>,
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
            let created = Created {
                name: create.name,
                existing: Existing::of(create.if_not_exists, create.or_replace)?,
            };
            if created.existing == Existing::Refuse && created.exists(session)? {
                let text = format!("table {} exists already", created.name);
                return Err(Problem::new(ErrorCode::DataDestinationExists, text)
                    .remedy("CREATE OR REPLACE TABLE replaces it, CREATE TABLE IF NOT EXISTS keeps it"));
            }
            let destination = Destination {
                location: home.of(&created.name),
                format: created::FORMAT.to_owned(),
                options: BTreeMap::new(),
                partition_by: Vec::new(),
                keep_partition_by: false,
                mode: WriteMode::Overwrite,
                creates: Some(created),
            };
            Ok((Arc::unwrap_or_clone(create.input), destination))
        }
        LogicalPlan::Dml(insert) => {
            let mode = insert_mode(&insert.op)?;
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

/// What a statement does to the rows of its table.
///
/// # Errors
/// One that changes rows: files are only ever added and replaced as a whole.
pub fn insert_mode(op: &WriteOp) -> Result<WriteMode, Problem> {
    let WriteOp::Insert(insert) = op else {
        let text = format!("{op} of a table of files");
        return Err(Problem::new(ErrorCode::SqlUnsupported, text)
            .remedy("write the rows that should stay into a new table with CREATE TABLE ... AS SELECT"));
    };
    match insert {
        InsertOp::Append => Ok(WriteMode::Append),
        InsertOp::Overwrite => Ok(WriteMode::Overwrite),
        InsertOp::Replace => {
            let text = "REPLACE INTO a table of files, which has no key to replace rows by";
            Err(Problem::new(ErrorCode::SqlUnsupported, text)
                .remedy("INSERT INTO adds rows, INSERT OVERWRITE replaces all of them"))
        }
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
