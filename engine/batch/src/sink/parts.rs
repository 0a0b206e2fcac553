//! The files that one partition of a write has open: one, or one for each value of the columns that name folders.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{cast, take_record_batch};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use trireme_batch_durable::commit::{InvalidPartName, PartName, PartReceipt, PartStore, PartWriter, StoreError};
use trireme_spec::problem::{ErrorCode, Problem};

use super::encode::{Encoder, FileStyle};
use super::exec::SinkOrder;
use super::failures::store_problem;
use crate::problems::told;
use crate::tables::{NULL_FOLDER, folder_text};

/// Files that one partition has open at a time, while its rows come in any order.
const FILES_OPEN_MAX: usize = 64;

/// What the files of one partition may hold even where operators leave nothing of the pool; the headroom beside it bears
/// that. With less, row groups would become too small to be read fast.
const HELD_BYTES_MIN: usize = 8 << 20;

/// Writes one partition's rows.
pub struct PartFiles {
    store: Arc<dyn PartStore>,
    style: FileStyle,
    name: PartName,
    /// Indices of the columns that name folders, and of those that go into the files.
    folder_columns: Vec<usize>,
    file_columns: Vec<usize>,
    schema: SchemaRef,
    open: HashMap<String, OpenFile>,
    /// Files that may be open at a time. Beyond it the largest is closed, and its folder gets another file when more rows
    /// come.
    open_max: usize,
    /// Rows come folder by folder.
    sorted: bool,
    files: u32,
    receipts: Vec<PartReceipt>,
    /// An empty result still says what its columns are: the first partition writes a file without rows.
    keeps_empty: bool,
    /// What operators share, and what the open files hold of it.
    pool: Arc<dyn MemoryPool>,
    memory: MemoryReservation,
}

struct OpenFile {
    encoder: Encoder,
    writer: Box<dyn PartWriter>,
    rows: u64,
}

impl OpenFile {
    fn held_bytes(&self) -> usize {
        self.encoder.held_bytes() + self.writer.held_bytes()
    }

    /// Hands what is encoded to the store.
    async fn hand_over(&mut self) -> Result<()> {
        while let Some(chunk) = self.encoder.take() {
            self.writer.write(chunk).await.map_err(store_failed)?;
        }
        Ok(())
    }

    /// Hands all that can be handed over to the store, and waits for it.
    async fn release(&mut self) -> Result<()> {
        self.encoder.end_group()?;
        self.hand_over().await?;
        self.writer.settle().await.map_err(store_failed)
    }
}

impl PartFiles {
    /// Files of partition `number`, of rows of `schema`.
    ///
    /// # Errors
    /// Settings or columns that do not exist.
    pub fn new(
        store: Arc<dyn PartStore>,
        order: &SinkOrder,
        number: u32,
        context: &TaskContext,
        schema: SchemaRef,
    ) -> Result<Self> {
        let style = style_of(order, context)?;
        // Tasks on workers carry their attempt as id; in one process each try of the driver is one.
        let attempt = context.task_id().and_then(|id| id.parse().ok());
        let attempt = attempt.unwrap_or(order.attempt);
        let name = PartName::new(
            order.write_id.clone(),
            order.generation,
            number,
            attempt,
            &style.extension()?,
        )
        .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let folder_columns = order
            .partition_by
            .iter()
            .map(|column| Ok(schema.index_of(column)?))
            .collect::<Result<Vec<_>>>()?;
        let keep = |index: &usize| order.keep_partition_by || !folder_columns.contains(index);
        let file_columns: Vec<usize> = (0..schema.fields().len()).filter(keep).collect();
        if file_columns.is_empty() {
            return plan_err!("every column names a folder, so nothing is left for the files");
        }
        let schema = Arc::new(schema.project(&file_columns)?);
        let keeps_empty = number == 0 && folder_columns.is_empty();
        let (open, receipts) = (HashMap::new(), Vec::new());
        let memory = MemoryConsumer::new(format!("files of partition {number}")).register(context.memory_pool());
        let pool = Arc::clone(context.memory_pool());
        Ok(Self {
            store,
            style,
            name,
            folder_columns,
            file_columns,
            schema,
            open,
            open_max: FILES_OPEN_MAX,
            sorted: false,
            files: 0,
            receipts,
            keeps_empty,
            pool,
            memory,
        })
    }

    /// Indices of the columns that name folders.
    pub fn folder_columns(&self) -> &[usize] {
        &self.folder_columns
    }

    /// Rows by the folder they belong into, in the order in which folders first come up.
    ///
    /// # Errors
    /// A column that cannot be told as text.
    pub fn divide(&self, batch: &RecordBatch) -> Result<Vec<(String, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let rows = batch.project(&self.file_columns)?;
        if self.folder_columns.is_empty() {
            return Ok(vec![(String::new(), rows)]);
        }
        let mut folders: Vec<_> = self.rows_by_folder(batch)?.into_iter().collect();
        folders.sort_unstable_by_key(|(_, indices)| indices.first().copied());
        let parts = folders.into_iter().map(|(folder, indices)| {
            let part = take_record_batch(&rows, &UInt32Array::from(indices))?;
            Ok((folder, part))
        });
        parts.collect()
    }

    /// Whether `divided` rows can be written with no file closed for it that more rows may come for. Where they cannot, the
    /// rows should be sorted: see [`Self::expect_sorted`].
    pub fn have_room_for(&self, divided: &[(String, RecordBatch)]) -> bool {
        let new = divided.iter().filter(|(folder, _)| !self.open.contains_key(folder));
        self.sorted || self.open.len() + new.count() <= self.open_max
    }

    /// Ends all files. Rows that come from now on are sorted by folder, so one open file is enough.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn expect_sorted(&mut self) -> Result<()> {
        self.close_all().await?;
        (self.sorted, self.open_max) = (true, 1);
        self.stay_within_memory().await
    }

    /// Adds rows that are [divided](Self::divide).
    ///
    /// # Errors
    /// A value that the format cannot hold, a store that fails.
    pub async fn write(&mut self, divided: Vec<(String, RecordBatch)>) -> Result<()> {
        for (folder, rows) in divided {
            self.write_into(folder, &rows).await?;
        }
        self.stay_within_memory().await
    }

    /// Reserves what the open files hold. Where that is more than half of what others leave, the largest let go of theirs,
    /// until it fits or there is nothing to be gained.
    async fn stay_within_memory(&mut self) -> Result<()> {
        loop {
            let held = self.open.values().map(OpenFile::held_bytes).sum();
            if held <= self.may_hold() || !self.release_largest().await? {
                self.memory.resize(held);
                return Ok(());
            }
        }
    }

    /// Half of what others leave of the pool: an operator that cannot spill finds the other half.
    fn may_hold(&self) -> usize {
        let MemoryLimit::Finite(limit) = self.pool.memory_limit() else {
            return usize::MAX;
        };
        let others = self.pool.reserved().saturating_sub(self.memory.size());
        (limit.saturating_sub(others) / 2).max(HELD_BYTES_MIN)
    }

    /// Ends the row group of the file that holds the most, or the file itself if that gains nothing; says whether either did.
    async fn release_largest(&mut self) -> Result<bool> {
        let sizes = self.open.iter().map(|(folder, file)| (file.held_bytes(), folder));
        let Some((held, folder)) = sizes.max().map(|(held, folder)| (held, folder.clone())) else {
            return Ok(false);
        };
        if let Some(file) = self.open.get_mut(&folder) {
            file.release().await?;
            if file.held_bytes() < held {
                return Ok(true);
            }
        }
        let has_others = self.open.len() > 1;
        if has_others {
            self.close(&folder).await?;
            // Memory is too short for more at a time.
            self.open_max = self.open.len();
        }
        Ok(has_others)
    }

    /// Ends all files.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(mut self) -> Result<Vec<PartReceipt>> {
        if self.open.is_empty() && self.receipts.is_empty() && self.keeps_empty {
            self.open_file(String::new()).await?;
        }
        self.close_all().await?;
        Ok(self.receipts)
    }

    async fn write_into(&mut self, folder: String, rows: &RecordBatch) -> Result<()> {
        if !self.open.contains_key(&folder) {
            if self.open.len() >= self.open_max {
                let largest = self
                    .open
                    .iter()
                    .max_by_key(|(_, file)| file.rows)
                    .map(|(folder, _)| folder.clone());
                if let Some(largest) = largest {
                    self.close(&largest).await?;
                }
            }
            self.open_file(folder.clone()).await?;
        }
        let Some(file) = self.open.get_mut(&folder) else {
            return Err(DataFusionError::Internal(format!("no file is open for {folder:?}")));
        };
        file.encoder.write(rows)?;
        file.rows += rows.num_rows() as u64;
        file.hand_over().await
    }

    async fn open_file(&mut self, folder: String) -> Result<()> {
        let mut name = self.name.clone().with_file(self.files);
        if !folder.is_empty() {
            name = name.in_folder(&folder).map_err(|error| told(no_folder(&error)))?;
        }
        self.files += 1;
        let writer = self.store.open(&name).await.map_err(store_failed)?;
        let encoder = Encoder::new(&self.style, Arc::clone(&self.schema))?;
        self.open.insert(
            folder,
            OpenFile {
                encoder,
                writer,
                rows: 0,
            },
        );
        Ok(())
    }

    async fn close_all(&mut self) -> Result<()> {
        let folders: Vec<String> = self.open.keys().cloned().collect();
        for folder in folders {
            self.close(&folder).await?;
        }
        Ok(())
    }

    async fn close(&mut self, folder: &str) -> Result<()> {
        let Some(file) = self.open.remove(folder) else {
            return Ok(());
        };
        let OpenFile {
            encoder,
            mut writer,
            rows,
        } = file;
        for chunk in encoder.finish()? {
            writer.write(chunk).await.map_err(store_failed)?;
        }
        self.receipts.push(writer.finish(rows).await.map_err(store_failed)?);
        Ok(())
    }

    /// Row numbers by the folder they belong into.
    fn rows_by_folder(&self, batch: &RecordBatch) -> Result<HashMap<String, Vec<u32>>> {
        let columns = self.folder_columns.iter().map(|&index| {
            let text: ArrayRef = cast(batch.column(index), &DataType::Utf8)?;
            Ok((folder_text(batch.schema().field(index).name()), text))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let mut folders: HashMap<String, Vec<u32>> = HashMap::new();
        for row in 0..batch.num_rows() {
            let mut folder = String::new();
            for (name, values) in &columns {
                let values = values.as_string::<i32>();
                let value = if datafusion::arrow::array::Array::is_null(values, row) {
                    NULL_FOLDER.to_owned()
                } else {
                    folder_text(values.value(row))
                };
                let separator = if folder.is_empty() { "" } else { "/" };
                // Writing into a String cannot fail.
                let _ = write!(folder, "{separator}{name}={value}");
            }
            folders
                .entry(folder)
                .or_default()
                .push(u32::try_from(row).unwrap_or(u32::MAX));
        }
        Ok(folders)
    }
}

fn style_of(order: &SinkOrder, context: &TaskContext) -> Result<FileStyle> {
    let mut options =
        datafusion::common::config::TableOptions::default_from_session_config(context.session_config().options());
    options.set_config_format(format_type(&order.format)?);
    let pairs = order.options.iter().cloned().collect();
    options.alter_with_string_hash_map(&pairs)?;
    Ok(FileStyle {
        format: order.format.clone(),
        options,
    })
}

fn format_type(format: &str) -> Result<datafusion::common::config::ConfigFileType> {
    use datafusion::common::config::ConfigFileType;
    match format {
        "parquet" => Ok(ConfigFileType::PARQUET),
        "csv" => Ok(ConfigFileType::CSV),
        "json" => Ok(ConfigFileType::JSON),
        // Arrow files have no settings; any type will do.
        "arrow" => Ok(ConfigFileType::PARQUET),
        other => plan_err!("files of format {other:?} cannot be written; parquet, csv, json and arrow can"),
    }
}

/// The values of a row cannot be the name of a folder.
fn no_folder(error: &InvalidPartName) -> Problem {
    let text = format!("values of the columns of PARTITIONED BY cannot name a folder: {error}");
    Problem::new(ErrorCode::SqlExecution, text)
        .remedy("divide the rows by shorter values: other columns, or an expression of them such as left(name, 40)")
}

pub(super) fn store_failed(error: StoreError) -> DataFusionError {
    match error {
        // What is behind these says more.
        StoreError::File { .. } | StoreError::Objects { .. } => DataFusionError::External(Box::new(error)),
        StoreError::Name { .. } | StoreError::TooManyFiles { .. } | StoreError::PartTooLarge { .. } => {
            told(store_problem(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use datafusion::arrow::array::Int64Array;
    use datafusion::arrow::datatypes::{Field, Schema};
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::parquet::file::reader::{FileReader, SerializedFileReader};
    use datafusion::prelude::{SessionConfig, SessionContext};
    use tempfile::TempDir;
    use trireme_batch_durable::commit::LocalParts;
    use trireme_batch_durable::{Generation, WriteId};

    use super::*;
    use crate::pool::SharedPool;

    const POOL_BYTES: usize = 48 << 20;
    const BATCHES: i64 = 400;
    const ROWS: i64 = 8192;

    /// Writes 50 MiB that cannot be compressed. Returns the number of row groups of each file, and the most that was reserved.
    async fn write(partition_by: &[&str], others_hold: usize) -> (Vec<usize>, usize) {
        let folder = TempDir::new().unwrap();
        let pool = Arc::new(SharedPool::new(POOL_BYTES));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().unwrap();
        let context = SessionContext::new_with_config_rt(SessionConfig::new(), runtime).task_ctx();
        let others = MemoryConsumer::new("others").register(context.memory_pool());
        others.resize(others_hold);
        let order = SinkOrder {
            location: String::new(),
            format: "parquet".to_owned(),
            options: Vec::new(),
            partition_by: partition_by.iter().map(|&name| name.to_owned()).collect(),
            keep_partition_by: false,
            write_id: WriteId::for_statement("run", 0),
            generation: Generation::new(1),
            attempt: 0,
        };
        let int = |name: &str| Field::new(name, DataType::Int64, false);
        let schema = Arc::new(Schema::new(vec![int("folder"), int("a"), int("b")]));
        let store: Arc<dyn PartStore> = Arc::new(LocalParts::new(folder.path()));
        let mut files = PartFiles::new(store, &order, 0, &context, Arc::clone(&schema)).unwrap();
        let mut most = 0;
        for batch in 0..BATCHES {
            let rows = batch * ROWS..(batch + 1) * ROWS;
            // Multiplying by an odd number that is large mixes the bits, and is one to one.
            let mixed = |factor: i64| {
                Arc::new(Int64Array::from_iter_values(
                    rows.clone().map(|row| row.wrapping_mul(factor)),
                ))
            };
            let folders = Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| row % 40)));
            let columns: Vec<ArrayRef> = vec![
                folders,
                mixed(0x9E37_79B9_7F4A_7C15_u64 as i64),
                mixed(0x2545_F491_4F6C_DD1D),
            ];
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
            let divided = files.divide(&batch).unwrap();
            assert!(files.have_room_for(&divided));
            files.write(divided).await.unwrap();
            most = most.max(context.memory_pool().reserved() - others_hold);
        }
        files.finish().await.unwrap();
        assert_eq!(context.memory_pool().reserved(), others_hold, "all is given back");
        let mut paths = Vec::new();
        find_parquet(folder.path(), &mut paths);
        let readers = paths
            .iter()
            .map(|path| SerializedFileReader::try_from(path.as_path()).unwrap());
        let (groups, rows): (Vec<_>, Vec<_>) = readers
            .map(|reader| {
                (
                    reader.metadata().num_row_groups(),
                    reader.metadata().file_metadata().num_rows(),
                )
            })
            .unzip();
        assert_eq!(rows.iter().sum::<i64>(), BATCHES * ROWS, "rows");
        (groups, most)
    }

    fn find_parquet(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                find_parquet(&path, found);
            } else if std::fs::read(&path).unwrap().starts_with(b"PAR1") {
                found.push(path);
            }
        }
    }

    #[tokio::test]
    async fn row_groups_are_as_large_as_memory_allows() {
        let (groups, most) = write(&[], 0).await;
        assert!(groups.len() == 1 && (3..=5).contains(&groups[0]), "{groups:?}");
        assert!(most <= POOL_BYTES / 2 && most > POOL_BYTES / 4, "{most}");
    }

    #[tokio::test]
    async fn where_nothing_is_left_row_groups_are_small() {
        let (groups, most) = write(&[], POOL_BYTES).await;
        assert!(groups.len() == 1 && (6..=12).contains(&groups[0]), "{groups:?}");
        assert!(most <= HELD_BYTES_MIN + (1 << 20), "{most}");
    }

    #[tokio::test]
    async fn all_open_files_share_the_memory() {
        let (groups, most) = write(&["folder"], 0).await;
        assert_eq!(groups.len(), 40, "files");
        let groups: usize = groups.iter().sum();
        assert!((41..400).contains(&groups), "{groups}");
        assert!(most <= POOL_BYTES / 2, "{most}");
    }
}
