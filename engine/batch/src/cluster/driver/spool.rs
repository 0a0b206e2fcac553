//! A partition of a result on its way from the worker that made it to whoever reads it.
//!
//! It is kept whole: in memory while the pool that operators share has room for it, else in a file. What all partitions of a
//! run hold is one consumer of that pool, because they wait beside each other, and not one of them spills for another. Files
//! are written and read on threads that may block; those of the runtime also serve the workers.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::common::utils::memory::RecordBatchMemoryCounter;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;

/// Where the partitions of one run wait.
#[derive(Debug, Clone)]
pub struct SpoolSpace {
    memory: Arc<MemoryReservation>,
    folder: Arc<Path>,
}

impl SpoolSpace {
    /// In memory of `pool`, and in files in `folder`.
    pub fn new(pool: &Arc<dyn MemoryPool>, folder: PathBuf) -> Self {
        let memory = MemoryConsumer::new("rows of the result").with_can_spill(true);
        Self {
            memory: Arc::new(memory.register(pool)),
            folder: folder.into(),
        }
    }
}

/// One partition of a result, complete and at the driver.
#[derive(Debug)]
pub enum Spool {
    Memory(Held),
    /// An Arrow IPC stream; the file goes with the value.
    File(NamedTempFile),
}

/// Rows in memory, counted for as long as they are there.
#[derive(Debug)]
pub struct Held {
    batches: Vec<RecordBatch>,
    bytes: usize,
    memory: Arc<MemoryReservation>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.shrink(self.bytes);
    }
}

/// One that is arriving.
pub struct Spooling {
    space: SpoolSpace,
    rows: Rows,
}

enum Rows {
    Memory {
        held: Held,
        counter: RecordBatchMemoryCounter,
    },
    File(Box<Writing>),
}

struct Writing {
    writer: StreamWriter<BufWriter<File>>,
    file: NamedTempFile,
}

impl Spooling {
    /// Nothing yet.
    pub fn new(space: &SpoolSpace) -> Self {
        let held = Held {
            batches: Vec::new(),
            bytes: 0,
            memory: Arc::clone(&space.memory),
        };
        Self {
            space: space.clone(),
            rows: Rows::Memory {
                held,
                counter: RecordBatchMemoryCounter::new(),
            },
        }
    }

    /// With `batch` at the end.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub async fn push(self, batch: RecordBatch) -> Result<Self> {
        let Self { space, rows } = self;
        let rows = match rows {
            Rows::Memory { mut held, mut counter } => {
                let bytes = counter.count_batch(&batch);
                held.batches.push(batch);
                if space.memory.try_grow(bytes).is_ok() {
                    held.bytes += bytes;
                    Rows::Memory { held, counter }
                } else {
                    let folder = Arc::clone(&space.folder);
                    Rows::File(blocking(move || Writing::begin(&folder, &held)).await?)
                }
            }
            Rows::File(mut writing) => Rows::File(
                blocking(move || {
                    writing.writer.write(&batch)?;
                    Ok(writing)
                })
                .await?,
            ),
        };
        Ok(Self { space, rows })
    }

    /// All of it is here.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub async fn finish(self) -> Result<Spool> {
        match self.rows {
            Rows::Memory { held, counter: _ } => Ok(Spool::Memory(held)),
            Rows::File(writing) => {
                let Writing { mut writer, file } = *writing;
                blocking(move || {
                    writer.finish()?;
                    Ok(Spool::File(file))
                })
                .await
            }
        }
    }
}

impl Writing {
    fn begin(folder: &Path, held: &Held) -> Result<Box<Self>> {
        let [first, ..] = held.batches.as_slice() else {
            return Err(DataFusionError::Internal("a file for no rows".to_owned()));
        };
        let file = tempfile::Builder::new().prefix("result-").tempfile_in(folder)?;
        let mut writer = StreamWriter::try_new_buffered(file.reopen()?, &first.schema())?;
        for batch in &held.batches {
            writer.write(batch)?;
        }
        Ok(Box::new(Self { writer, file }))
    }
}

impl Spool {
    /// The rows.
    ///
    /// # Errors
    /// A file that cannot be read back.
    pub async fn open(self) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let file = match self {
            Self::Memory(mut held) => {
                let batches = std::mem::take(&mut held.batches).into_iter();
                // Counted until the last one is read.
                let rows = batches.map(move |batch| {
                    let _held = &held;
                    Ok(batch)
                });
                return Ok(stream::iter(rows).boxed());
            }
            Self::File(file) => file,
        };
        let opened = blocking(move || {
            let reader = StreamReader::try_new(BufReader::new(file.reopen()?), None)?;
            Ok((reader, file))
        });
        // The file lives as long as the stream that reads it.
        let rows = stream::try_unfold(opened.await?, |(mut reader, file)| {
            blocking(move || {
                let batch = reader.next().transpose()?;
                Ok(batch.map(|batch| (batch, (reader, file))))
            })
        });
        Ok(rows.boxed())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = spawn_blocking(work).await;
    done.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::SharedPool;
    use datafusion::arrow::array::{AsArray, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;
    use futures::TryStreamExt;

    /// Of each batch, in bytes.
    const BATCH: usize = 8 << 10;

    fn batch(number: i64) -> RecordBatch {
        let column: Arc<dyn datafusion::arrow::array::Array> = Arc::new(Int64Array::from(vec![number; BATCH / 8]));
        RecordBatch::try_from_iter([("number", column)]).unwrap()
    }

    async fn spool(space: &SpoolSpace, batches: i64) -> Spool {
        let mut spooling = Spooling::new(space);
        for number in 0..batches {
            spooling = spooling.push(batch(number)).await.unwrap();
        }
        spooling.finish().await.unwrap()
    }

    async fn numbers(spool: Spool) -> Vec<i64> {
        let rows = spool.open().await.unwrap();
        let firsts = rows.map_ok(|batch| batch.column(0).as_primitive::<Int64Type>().value(0));
        firsts.try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn what_the_pool_has_no_room_for_goes_to_a_file() {
        let folder = tempfile::tempdir().unwrap();
        // Half of it for one consumer that can spill: ten batches.
        let pool: Arc<dyn MemoryPool> = Arc::new(SharedPool::new(20 * BATCH));
        let space = SpoolSpace::new(&pool, folder.path().to_owned());
        let files = || std::fs::read_dir(folder.path()).unwrap().count();

        let first = spool(&space, 6).await;
        assert!(matches!(&first, Spool::Memory(_)), "{first:?}");
        assert_eq!((pool.reserved(), files()), (6 * BATCH, 0));
        // As large, and there is room for four batches of it.
        let second = spool(&space, 6).await;
        assert!(matches!(&second, Spool::File(_)), "{second:?}");
        assert_eq!((pool.reserved(), files()), (6 * BATCH, 1));

        assert_eq!(numbers(second).await, [0, 1, 2, 3, 4, 5]);
        assert_eq!(files(), 0);
        assert_eq!(numbers(first).await, [0, 1, 2, 3, 4, 5]);
        assert_eq!(pool.reserved(), 0);
        assert_eq!(numbers(spool(&space, 0).await).await, [0; 0]);
    }

    #[tokio::test]
    async fn what_is_not_read_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let pool: Arc<dyn MemoryPool> = Arc::new(SharedPool::new(20 * BATCH));
        let space = SpoolSpace::new(&pool, folder.path().to_owned());
        let mut rows = spool(&space, 3).await.open().await.unwrap();
        let _ = rows.try_next().await.unwrap();
        assert_eq!(pool.reserved(), 3 * BATCH);
        drop((
            rows,
            spool(&space, 3).await,
            Spooling::new(&space).push(batch(1)).await.unwrap(),
        ));
        assert_eq!(pool.reserved(), 0);
    }
}
