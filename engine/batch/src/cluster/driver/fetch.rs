//! Brings the partitions of a result from the workers that made them to the driver.
//!
//! A partition counts only when all of it is here: until then its worker may die and the task run again. So it is kept
//! whole first, small ones in memory, others in a file, and only then handed on.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;
use std::sync::Arc;

use ballista_core::client_pool::BallistaClientPool;
use ballista_core::extension::{BallistaConfigGrpcEndpoint, SessionConfigExt};
use ballista_core::utils::GrpcClientConfig;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::common::{DataFusionError, Result};
use datafusion::prelude::SessionConfig;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use trireme_core::tls::TlsFiles;

use super::super::clients::{ClientPool, endpoint_tls};
use super::super::settings::fetch_settings;
use super::super::task::{MapOutput, WrittenPartition, location};

/// Results up to this many bytes on the wire wait in memory.
const IN_MEMORY_BYTES_MAX: u64 = 1 << 20;

/// Fetches result partitions.
#[derive(Debug)]
pub struct Fetcher {
    pool: ClientPool,
    grpc: GrpcClientConfig,
    tls: TlsFiles,
    scratch: PathBuf,
}

impl Fetcher {
    /// Fetches over connections with the certificate in `tls`; large partitions wait in `scratch`.
    ///
    /// # Errors
    /// Settings that this version does not know.
    pub fn new(tls: TlsFiles, scratch: PathBuf) -> Result<Self> {
        let config = fetch_settings(SessionConfig::new_with_ballista(), endpoint_tls(tls.clone()))?;
        let grpc = GrpcClientConfig::from(&config.ballista_config());
        Ok(Self {
            pool: ClientPool::default(),
            grpc,
            tls,
            scratch,
        })
    }

    /// All of a task's output, whole.
    ///
    /// # Errors
    /// A worker that does not answer, files that are gone; the task's output is lost then. A full disk of the driver.
    pub async fn fetch(&self, run: &str, stage: u32, output: &MapOutput) -> Result<Spool> {
        let bytes: u64 = output.partitions.iter().map(|written| written.bytes).sum();
        let mut spool = match bytes <= IN_MEMORY_BYTES_MAX {
            true => Spooling::Memory(Vec::new()),
            false => Spooling::File {
                folder: self.scratch.clone(),
                writer: None,
            },
        };
        for written in &output.partitions {
            let mut rows = self.open(run, stage, output, *written).await?;
            while let Some(batch) = rows.try_next().await? {
                spool.push(batch)?;
            }
        }
        spool.finish()
    }

    async fn open(
        &self,
        run: &str,
        stage: u32,
        output: &MapOutput,
        written: WrittenPartition,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let place = location(run, stage, output, written);
        let failed = |error| DataFusionError::External(Box::new(error));
        let endpoint = Arc::new(BallistaConfigGrpcEndpoint::new(endpoint_tls(self.tls.clone())));
        let worker = &place.executor_meta;
        let client = self
            .pool
            .acquire(&worker.host, worker.port, &self.grpc, Some(endpoint))
            .await;
        let mut client = client.map_err(failed)?;
        let rows = client
            .fetch_partition(&worker.id, &place.partition_id, place.file_id, place.layout(), false)
            .await;
        match rows {
            Ok(rows) => Ok(rows.boxed()),
            Err(error) => {
                client.discard();
                Err(failed(error))
            }
        }
    }
}

/// One partition of a result, complete and at the driver.
#[derive(Debug)]
pub enum Spool {
    Memory(Vec<RecordBatch>),
    /// An Arrow IPC stream; the file goes with the value.
    File(tempfile::NamedTempFile),
}

enum Spooling {
    Memory(Vec<RecordBatch>),
    File {
        folder: PathBuf,
        writer: Option<Box<(StreamWriter<BufWriter<File>>, tempfile::NamedTempFile)>>,
    },
}

impl Spooling {
    fn push(&mut self, batch: RecordBatch) -> Result<()> {
        match self {
            Self::Memory(batches) => batches.push(batch),
            Self::File { folder, writer } => {
                if writer.is_none() {
                    let file = tempfile::Builder::new().prefix("result-").tempfile_in(folder)?;
                    let stream = StreamWriter::try_new_buffered(file.reopen()?, &batch.schema())?;
                    *writer = Some(Box::new((stream, file)));
                }
                if let Some(writer) = writer {
                    writer.0.write(&batch)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Spool> {
        match self {
            Self::Memory(batches) => Ok(Spool::Memory(batches)),
            Self::File { writer: None, .. } => Ok(Spool::Memory(Vec::new())),
            Self::File {
                writer: Some(writer), ..
            } => {
                let (mut stream, file) = *writer;
                stream.finish()?;
                Ok(Spool::File(file))
            }
        }
    }
}

impl Spool {
    /// The rows.
    ///
    /// # Errors
    /// A file that cannot be read back.
    pub fn open(self) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        Ok(match self {
            Self::Memory(batches) => stream::iter(batches.into_iter().map(Ok)).boxed(),
            Self::File(file) => {
                let reader = StreamReader::try_new(BufReader::new(file.reopen()?), None)?;
                // The file lives as long as the stream that reads it.
                let rows = reader.map(move |batch| {
                    let _file = &file;
                    batch.map_err(Into::into)
                });
                stream::iter(rows).boxed()
            }
        })
    }
}
