//! The DataFusion session of one job: settings, memory, spill folder, object stores, catalogs.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::TrackConsumersPool;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use object_store::ObjectStore;
use trireme_core::store::StoreFactory;
use url::Url;

use crate::engine::BatchEngine;
use crate::joins::{PlanningOptions, physical_optimizer_rules};
use crate::memory::MemoryBudget;
use crate::pool::SharedPool;
use crate::tables::FilesTableFactory;
use crate::tpch::{self, TpchCatalog};

/// What a process gives to the plans that it runs.
#[derive(Debug, Clone)]
pub struct Resources {
    pub memory: MemoryBudget,
    /// Threads that run plans.
    pub cores: usize,
    /// Where operators spill; the folder is made when first needed.
    pub spill_dir: PathBuf,
    /// Bytes that may be spilled at a time.
    pub spill_bytes_max: u64,
    pub stores: Arc<StoreFactory>,
}

/// How many of the largest consumers an out-of-memory error names.
const CONSUMERS_NAMED: std::num::NonZeroUsize = std::num::NonZeroUsize::new(3).expect("three is not zero");

/// The runtime that plans of one process share.
///
/// # Errors
/// A spill folder that cannot be used.
pub fn runtime(resources: &Resources) -> Result<Arc<RuntimeEnv>> {
    let pool = SharedPool::new(usize::try_from(resources.memory.pool).unwrap_or(usize::MAX));
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(TrackConsumersPool::new(pool, CONSUMERS_NAMED)))
        .with_temp_file_path(resources.spill_dir.clone())
        .with_max_temp_directory_size(resources.spill_bytes_max)
        // A listing must show what an earlier statement wrote.
        .with_object_list_cache_limit(0)
        .with_object_store_registry(Arc::new(Stores::new(Arc::clone(&resources.stores))))
        .build_arc()
}

/// A new session for one job, planned for `engine`.
///
/// # Errors
/// As [`runtime`].
pub fn session(resources: &Resources, engine: &dyn BatchEngine) -> Result<SessionContext> {
    let memory = resources.memory.per_slot(resources.cores);
    let reserve = usize::try_from(memory.sort_reserve_bytes()).unwrap_or(usize::MAX);
    let config = SessionConfig::new()
        .with_extension(Arc::clone(&resources.stores))
        .with_option_extension(PlanningOptions::within(memory))
        .with_sort_spill_reservation_bytes(reserve)
        .with_information_schema(true)
        .with_target_partitions(resources.cores)
        // Users of the other engines write `SELECT name FROM People` and mean what is stored as `name` in `people`.
        .set_bool("datafusion.sql_parser.enable_ident_normalization", true)
        // Positions in error messages.
        .set_bool("datafusion.sql_parser.collect_spans", true)
        // Row counts let joins start with the smaller side.
        .set_bool("datafusion.execution.collect_statistics", true);
    let state = SessionStateBuilder::new()
        .with_config(engine.configure(config))
        .with_runtime_env(runtime(resources)?)
        .with_default_features()
        .with_physical_optimizer_rules(physical_optimizer_rules())
        .build();
    let context = SessionContext::new_with_state(state);
    for format in ["PARQUET", "CSV", "JSON", "NDJSON", "ARROW"] {
        context
            .state_ref()
            .write()
            .table_factories_mut()
            .insert(format.to_owned(), Arc::new(FilesTableFactory));
    }
    context.register_catalog(tpch::CATALOG, Arc::new(TpchCatalog));
    Ok(context)
}

/// Opens an object store when a query first names its URL.
#[derive(Debug)]
struct Stores {
    factory: Arc<StoreFactory>,
}

impl Stores {
    fn new(factory: Arc<StoreFactory>) -> Self {
        Self { factory }
    }
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, _url: &Url, _store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        // Stores are opened by URL, with the job's credentials; nothing registers one by hand.
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.factory
            .store_for(url)
            .map(|location| location.store.as_object_store())
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }
}
