//! The files that one partition of a write has open: one, or one for each value of the columns that name folders.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{cast, take_record_batch};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::execution::TaskContext;
use trireme_batch_durable::commit::{PartName, PartReceipt, PartStore, PartWriter, StoreError};

use super::encode::{Encoder, FileStyle};
use super::exec::SinkOrder;

/// Files that one partition has open at a time. Beyond it the largest is closed, and its folder gets another file when
/// more rows come.
const FILES_OPEN_MAX: usize = 64;

/// Encoded bytes handed to the store at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The folder that a NULL goes into, as in Hive.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

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
    files: u32,
    receipts: Vec<PartReceipt>,
    /// An empty result still says what its columns are: the first partition writes a file without rows.
    keeps_empty: bool,
}

struct OpenFile {
    encoder: Encoder,
    writer: Box<dyn PartWriter>,
    pending: Vec<u8>,
    rows: u64,
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
        // Tasks on workers carry their attempt as id; in one process there is one attempt.
        let attempt = context.task_id().and_then(|id| id.parse().ok()).unwrap_or(0);
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
        Ok(Self {
            store,
            style,
            name,
            folder_columns,
            file_columns,
            schema,
            open,
            files: 0,
            receipts,
            keeps_empty,
        })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// A value that the format cannot hold, a store that fails.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let rows = batch.project(&self.file_columns)?;
        if self.folder_columns.is_empty() {
            return self.write_into(String::new(), &rows).await;
        }
        for (folder, indices) in self.rows_by_folder(batch)? {
            let part = take_record_batch(&rows, &UInt32Array::from(indices))?;
            self.write_into(folder, &part).await?;
        }
        Ok(())
    }

    /// Ends all files.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(mut self) -> Result<Vec<PartReceipt>> {
        if self.open.is_empty() && self.receipts.is_empty() && self.keeps_empty {
            self.open_file(String::new()).await?;
        }
        let folders: Vec<String> = self.open.keys().cloned().collect();
        for folder in folders {
            self.close(&folder).await?;
        }
        Ok(self.receipts)
    }

    async fn write_into(&mut self, folder: String, rows: &RecordBatch) -> Result<()> {
        if !self.open.contains_key(&folder) {
            if self.open.len() >= FILES_OPEN_MAX {
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
        file.pending.extend(file.encoder.take());
        if file.pending.len() >= CHUNK_BYTES {
            let chunk = std::mem::take(&mut file.pending);
            file.writer.write(Bytes::from(chunk)).await.map_err(store_failed)?;
        }
        Ok(())
    }

    async fn open_file(&mut self, folder: String) -> Result<()> {
        let mut name = self.name.clone().with_file(self.files);
        if !folder.is_empty() {
            name = name
                .in_folder(&folder)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
        }
        self.files += 1;
        let writer = self.store.open(&name).await.map_err(store_failed)?;
        let encoder = Encoder::new(&self.style, Arc::clone(&self.schema))?;
        self.open.insert(
            folder,
            OpenFile {
                encoder,
                writer,
                pending: Vec::new(),
                rows: 0,
            },
        );
        Ok(())
    }

    async fn close(&mut self, folder: &str) -> Result<()> {
        let Some(file) = self.open.remove(folder) else {
            return Ok(());
        };
        let OpenFile {
            encoder,
            mut writer,
            mut pending,
            rows,
        } = file;
        pending.extend(encoder.finish()?);
        writer.write(Bytes::from(pending)).await.map_err(store_failed)?;
        self.receipts.push(writer.finish(rows).await.map_err(store_failed)?);
        Ok(())
    }

    /// Row numbers by the folder they belong into.
    fn rows_by_folder(&self, batch: &RecordBatch) -> Result<HashMap<String, Vec<u32>>> {
        let columns = self.folder_columns.iter().map(|&index| {
            let text: ArrayRef = cast(batch.column(index), &DataType::Utf8)?;
            Ok((escape(batch.schema().field(index).name()), text))
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
                    escape(values.value(row))
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

/// A name as it may stand in a path: what is not plain goes as `%XX`, as in Hive.
fn escape(text: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b' ' | b'+' | b',' | b'@');
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
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

fn store_failed(error: StoreError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_hold_nothing_that_leaves_them() {
        assert_eq!(escape("2024-01-31"), "2024-01-31");
        assert_eq!(escape("a/b=c%"), "a%2Fb%3Dc%25");
        assert_eq!(escape("é"), "%C3%A9");
    }
}
