//! Brings the partitions of a result from the workers that made them to the driver.
//!
//! A partition counts only when all of it is here: until then its worker may die and the task run again. So it is kept
//! whole first ([`Spool`]), and only then handed on.

use std::sync::Arc;

use ballista_core::client_pool::BallistaClientPool;
use ballista_core::extension::{BallistaConfigGrpcEndpoint, SessionConfigExt};
use ballista_core::utils::GrpcClientConfig;
use datafusion::arrow::array::RecordBatch;
use datafusion::common::{DataFusionError, Result};
use datafusion::prelude::SessionConfig;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;
use trireme_core::tls::TlsFiles;

use super::super::clients::{ClientPool, endpoint_tls};
use super::super::settings::fetch_settings;
use super::super::task::{MapOutput, WrittenPartition, location};
use super::spool::{Spool, SpoolSpace, Spooling};
use crate::memory::FETCH_WINDOW_BYTES;

/// Why a part of a result is not here.
#[derive(Debug)]
pub enum FetchError {
    /// It could not be had from the worker that made it.
    Worker(DataFusionError),
    /// It could not be kept: this driver's disk, for one.
    Here(DataFusionError),
}

/// Partitions fetched at a time where memory permits: enough to keep the driver's link busy.
const FETCHES_MAX: u64 = 16;

/// What one that is under way takes: a message, of which a block of a shuffle file fills 8 MiB, and what is on its way.
const FETCH_BYTES: u64 = (8 << 20) + FETCH_WINDOW_BYTES as u64;

/// Fetches result partitions.
#[derive(Debug)]
pub struct Fetcher {
    pool: ClientPool,
    grpc: GrpcClientConfig,
    tls: TlsFiles,
    /// One for each partition under way. Others wait, for there may be thousands.
    fetches: Semaphore,
}

impl Fetcher {
    /// Fetches over connections with the certificate in `tls`, in `bytes` of memory.
    ///
    /// # Errors
    /// Settings that this version does not know.
    pub fn new(tls: TlsFiles, bytes: u64) -> Result<Self> {
        let config = fetch_settings(SessionConfig::new_with_ballista(), endpoint_tls(tls.clone()))?;
        let grpc = GrpcClientConfig::from(&config.ballista_config());
        Ok(Self {
            pool: ClientPool::default(),
            grpc,
            tls,
            fetches: Semaphore::new(fetches_max(bytes)),
        })
    }

    /// All of a task's output, whole, in `space`.
    ///
    /// # Errors
    /// A worker that does not answer, files that are gone; the task's output is lost then. A full disk of the driver.
    pub async fn fetch(
        &self,
        run: &str,
        stage: u32,
        output: &MapOutput,
        space: &SpoolSpace,
    ) -> Result<Spool, FetchError> {
        let closed = |error| FetchError::Here(DataFusionError::External(Box::new(error)));
        let _permit = self.fetches.acquire().await.map_err(closed)?;
        let mut spooling = Spooling::new(space);
        for written in &output.partitions {
            let rows = self.open(run, stage, output, *written).await;
            let mut rows = rows.map_err(FetchError::Worker)?;
            while let Some(batch) = rows.try_next().await.map_err(FetchError::Worker)? {
                spooling = spooling.push(batch).await.map_err(FetchError::Here)?;
            }
        }
        spooling.finish().await.map_err(FetchError::Here)
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

fn fetches_max(bytes: u64) -> usize {
    (bytes / FETCH_BYTES).clamp(1, FETCHES_MAX) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
    use futures::FutureExt;

    #[tokio::test]
    async fn more_fetches_than_memory_is_for_wait() {
        assert_eq!([1, 60 << 20, u64::MAX].map(fetches_max), [1, 5, 16]);
        let fetcher = Fetcher::new(TlsFiles::in_dir("nowhere".as_ref()), u64::MAX).unwrap();
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let space = SpoolSpace::new(&pool, "nowhere".into());
        // Nothing of it is anywhere, so that it is here as soon as it may be.
        let empty = MapOutput::default();
        let fetch = || fetcher.fetch("run", 1, &empty, &space).now_or_never();
        let others = fetcher.fetches.acquire_many(16).await.unwrap();
        assert!(fetch().is_none());
        drop(others);
        assert!(fetch().is_some_and(|fetched| fetched.is_ok()));
    }
}
