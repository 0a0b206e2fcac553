//! A table over files: one location, one format.
//!
//! Reading goes through DataFusion's listing table. What is added: where writes of ours have left a log, the files are those
//! that it makes visible ([`Snapshot`]), so that no reader of ours sees a part of a write; columns in the names of folders mean
//! what their writers meant ([`Partitions`]); and the table remembers enough for the sink to write into it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::stats::Precision;
use datafusion::common::{Constraints, DataFusionError, Result, Statistics, plan_err, project_schema};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion_datasource::compute_all_files_statistics;
use futures::TryStreamExt;
use object_store::path::Path;

use trireme_spec::problem::{ErrorCode, Problem};

use super::location::place;
use super::partitions::{Partitions, Place};
use super::scans::looking_into;
use super::snapshot::Snapshot;
use crate::engine::is_for_workers;
use crate::problems::told;

/// The option for the compression of text.
const COMPRESSION: &str = "format.compression";

/// Where a table's files are and how they are read and written.
#[derive(Debug, Clone)]
pub struct FilesDefinition {
    /// A path or URL; a folder, a file or a pattern.
    pub location: String,
    /// `parquet`, `csv`, `json` or `arrow`.
    pub format: String,
    /// DataFusion's format options, keys with their prefix.
    pub options: HashMap<String, String>,
    /// Columns in the names of folders, outermost first. Without a type, text.
    pub partition_columns: Vec<(String, Option<DataType>)>,
    /// Columns of the files; read from the files where it is `None`.
    pub schema: Option<SchemaRef>,
}

/// A table over files.
pub struct FilesTable {
    definition: FilesDefinition,
    /// Has the columns in the names of folders as text.
    listing: ListingTable,
    partitions: Partitions,
    /// Columns of the files, and then those in the names of folders.
    columns: TableSchema,
    constraints: Constraints,
}

impl fmt::Debug for FilesTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesTable")
            .field("definition", &self.definition)
            .finish_non_exhaustive()
    }
}

impl FilesTable {
    /// Opens the table: finds its files and their compression, reads its columns.
    ///
    /// # Errors
    /// No files and no columns declared, files that cannot be read, files that disagree.
    pub async fn open(session: &SessionState, definition: FilesDefinition) -> Result<Self> {
        let url = place(session, &definition.location).await?;
        loop {
            let snapshot = Snapshot::of(session, &url).await?;
            let opened = Self::open_at(snapshot.session(), &url, &definition).await;
            if snapshot.lasts().await? {
                return opened;
            }
        }
    }

    async fn open_at(state: &SessionState, url: &ListingTableUrl, definition: &FilesDefinition) -> Result<Self> {
        let partitions = Partitions::new(&definition.partition_columns);
        let sample = first_file(state, url, definition, &partitions).await?;
        if sample.is_none() && definition.schema.is_none() {
            return Err(DataFusionError::ObjectStore(Box::new(object_store::Error::NotFound {
                path: definition.location.clone(),
                source: "no file is there, so there are no columns to read".into(),
            })));
        }
        let mut definition = definition.clone();
        if tells_compression(&definition) {
            // What is written into the table later is compressed alike.
            let compression = compression_of(sample.as_deref().unwrap_or(&definition.location));
            let option = compression.map(|name| (COMPRESSION.to_owned(), name.to_owned()));
            definition.options.extend(option);
        }
        let format = file_format(state, &definition)?;
        let options = ListingOptions::new(Arc::clone(&format))
            .with_file_extension(extension(format.as_ref(), url)?)
            .with_table_partition_cols(partitions.as_text());
        let schema = match &definition.schema {
            Some(schema) => Arc::clone(schema),
            None => looking_into("", options.infer_schema(state, url)).await?,
        };
        if schema.fields().is_empty() && definition.partition_columns.is_empty() {
            let text = format!(
                "no columns could be read from {}: the files are empty",
                definition.location
            );
            return Err(told(Problem::new(ErrorCode::DataMalformed, text).remedy(
                "remove empty files, or declare the columns with CREATE EXTERNAL TABLE",
            )));
        }
        let config = ListingTableConfig::new(url.clone())
            .with_listing_options(options)
            .with_schema(Arc::clone(&schema));
        let cache = state.runtime_env().cache_manager.get_file_statistic_cache();
        Ok(Self {
            definition,
            listing: ListingTable::try_new(config)?.with_cache(cache),
            columns: TableSchema::builder(schema)
                .with_table_partition_cols(partitions.fields().to_vec())
                .build(),
            partitions,
            constraints: Constraints::default(),
        })
    }

    /// What the table was opened with.
    pub fn definition(&self) -> &FilesDefinition {
        &self.definition
    }

    /// Whether its location is a folder, as which it can be written to.
    pub fn is_folder(&self) -> bool {
        self.place().is_collection() && self.place().get_glob().is_none()
    }

    /// Whether its files are JSON arrays and not lines, which the wire form of plans does not tell.
    fn has_arrays(&self) -> bool {
        let is_lines = self.definition.options.get("format.newline_delimited");
        self.definition.format == "json" && is_lines.is_some_and(|is_lines| is_lines == "false")
    }

    fn place(&self) -> &ListingTableUrl {
        &self.listing.table_paths()[0]
    }

    async fn scan_at(
        &self,
        session: &SessionState,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.partitions.fields().is_empty() {
            return self.listing.scan(session, projection, filters, limit).await;
        }
        let (groups, statistics) = self.files_in_folders(session, filters, limit).await?;
        if groups.is_empty() {
            let columns = project_schema(self.columns.table_schema(), projection)?;
            return Ok(Arc::new(EmptyExec::new(columns)));
        }
        let format = &self.listing.options().format;
        let ordering = self
            .listing
            .try_create_output_ordering(session.execution_props(), &groups)?;
        let source = format.file_source(self.columns.clone());
        let scan = FileScanConfigBuilder::new(self.place().object_store(), source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .with_output_ordering(ordering);
        format.create_physical_plan(session, scan.build()).await
    }

    /// The files in folders for which `filters` may hold, with the values of their folders. `limit` is that of the rows.
    async fn files_in_folders(
        &self,
        session: &SessionState,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<(Vec<FileGroup>, Statistics)> {
        let (of_folders, of_rows): (Vec<_>, Vec<_>) = filters.iter().partition(|filter| self.partitions.decide(filter));
        let of_folders = of_folders.into_iter().map(|filter| self.partitions.over_text(filter));
        let of_folders = of_folders.collect::<Result<Vec<_>>>()?.concat();
        // How many rows are enough is known where all of a file's count.
        let enough = limit.filter(|_| of_rows.is_empty());
        let listed = self.listing.list_files_for_scan(session, &of_folders, enough).await?;
        let with_values = |group: FileGroup| {
            let files = group.into_inner().into_iter();
            let files = files.map(|file| self.partitions.with_values(file));
            Ok(FileGroup::new(files.collect::<Result<_>>()?))
        };
        let groups = listed.file_groups.into_iter().map(with_values).collect::<Result<_>>()?;
        compute_all_files_statistics(
            groups,
            self.schema(),
            session.config().collect_statistics(),
            matches!(listed.statistics.num_rows, Precision::Inexact(_)),
        )
    }
}

/// The name of some file of the table, for telling compression and emptiness: one with rows, if there is one. In a table with
/// columns in the names of folders, files in no folder have none.
async fn first_file(
    state: &SessionState,
    url: &ListingTableUrl,
    definition: &FilesDefinition,
    partitions: &Partitions,
) -> Result<Option<String>> {
    let store = state.runtime_env().object_store(url)?;
    let mut files = url.list_all_files(state, store.as_ref(), "").await?;
    let (mut first, mut without_rows, mut elsewhere) = (None::<Path>, None, None);
    while let Some(file) = files.try_next().await? {
        // Markers such as `_SUCCESS` are no data.
        if file.location.filename().unwrap_or_default().starts_with(['_', '.']) {
            continue;
        }
        match (partitions.place(url, &file.location), &first) {
            (Place::Inside, Some(first)) => alike(definition, first, &file.location)?,
            (Place::Inside, None) => first = Some(file.location),
            (Place::Elsewhere, _) => drop(elsewhere.get_or_insert(file.location)),
            (Place::Beside, _) => drop(without_rows.get_or_insert(file.location)),
        }
        if first.is_some() && !tells_compression(definition) {
            break;
        }
    }
    match (first.or(without_rows), elsewhere) {
        (None, Some(file)) => Err(told(partitions.without(&file))),
        (first, _) => Ok(first.map(String::from)),
    }
}

/// Whether names of files say how they are compressed, and nothing else does.
fn tells_compression(definition: &FilesDefinition) -> bool {
    matches!(definition.format.as_str(), "csv" | "json") && !definition.options.contains_key(COMPRESSION)
}

/// Files of one table are read alike: those that are compressed otherwise would be passed over, or taken for damaged.
fn alike(definition: &FilesDefinition, first: &Path, other: &Path) -> Result<()> {
    let ending = format!(".{}", definition.format);
    let is_of_format = |file: &Path| file.filename().is_some_and(|name| name.contains(&ending));
    let [of_first, of_other] = [first, other].map(|file| compression_of(file.as_ref()));
    if !is_of_format(first) || !is_of_format(other) || of_first == of_other {
        return Ok(());
    }
    let text = format!(
        "files of {} are compressed in several ways: {first}, {other}",
        definition.location
    );
    Err(told(Problem::new(ErrorCode::DataMalformed, text).remedy(
        "compress all alike, or declare a table for each kind by a pattern such as data/*.csv.gz",
    )))
}

/// The compression that the ending of a file's name tells.
fn compression_of(file: &str) -> Option<&'static str> {
    match file.rsplit('.').next().unwrap_or_default() {
        "gz" => Some("gzip"),
        "bz2" => Some("bzip2"),
        "xz" => Some("xz"),
        "zst" => Some("zstd"),
        _ => None,
    }
}

/// In a folder, only files with the ending of the format and its compression belong to the table; a file or pattern that was
/// named is taken as it is.
fn extension(format: &dyn FileFormat, url: &ListingTableUrl) -> Result<String> {
    match (
        url.is_collection() && url.get_glob().is_none(),
        format.compression_type(),
    ) {
        (false, _) => Ok(String::new()),
        (true, Some(compression)) => format.get_ext_with_compression(&compression),
        (true, None) => Ok(format.get_ext()),
    }
}

fn file_format(state: &SessionState, definition: &FilesDefinition) -> Result<Arc<dyn FileFormat>> {
    match state.get_file_format_factory(&definition.format) {
        Some(factory) => factory.create(state, &definition.options),
        None => plan_err!(
            "there is no file format {:?}; there are parquet, csv, json and arrow",
            definition.format
        ),
    }
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.columns.table_schema())
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let session = session_of(state)?;
        if self.has_arrays() && is_for_workers(session.config_options()) {
            let text = format!("workers cannot read arrays of JSON, as in {}", self.definition.location);
            return Err(told(Problem::new(ErrorCode::SqlUnsupported, text).remedy(
                "run the job in one process (trireme run without --workers), or write one object per line",
            )));
        }
        loop {
            let snapshot = Snapshot::of(session, self.place()).await?;
            let planning = self.scan_at(snapshot.session(), projection, filters, limit);
            let scan = looking_into(&self.definition.location, planning).await;
            if snapshot.lasts().await? {
                return scan;
            }
        }
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.listing.supports_filters_pushdown(filters)
    }

    fn statistics(&self) -> Option<Statistics> {
        self.listing.statistics()
    }
}

/// Makes a [`FilesTable`] of `CREATE EXTERNAL TABLE`.
#[derive(Debug, Default)]
pub struct FilesTableFactory;

#[async_trait]
impl TableProviderFactory for FilesTableFactory {
    async fn create(&self, state: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let [location] = command.locations.as_slice() else {
            return plan_err!("a table has one location; a pattern such as 'data/*.parquet' names several files");
        };
        let declared = command.schema.inner();
        let is_partition = |name: &String| command.table_partition_cols.contains(name);
        let columns: Vec<_> = declared
            .fields()
            .iter()
            .filter(|field| !is_partition(field.name()))
            .cloned()
            .collect();
        let partition_columns = command.table_partition_cols.iter().map(|name| {
            let declared = declared.field_with_name(name).ok();
            (name.clone(), declared.map(|field| field.data_type().clone()))
        });
        let definition = FilesDefinition {
            location: location.clone(),
            format: command.file_type.to_lowercase(),
            options: command.options.clone(),
            partition_columns: partition_columns.collect(),
            schema: (!columns.is_empty()).then(|| Arc::new(datafusion::arrow::datatypes::Schema::new(columns))),
        };
        Ok(Arc::new(FilesTable::open(session_of(state)?, definition).await?))
    }
}

fn session_of(state: &dyn Session) -> Result<&SessionState> {
    match state.as_any().downcast_ref() {
        Some(session) => Ok(session),
        None => plan_err!("tables over files belong to a session"),
    }
}
