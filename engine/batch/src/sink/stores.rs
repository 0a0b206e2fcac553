//! From a destination's URL to the store that its parts and its log live in.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::prelude::SessionConfig;
use trireme_batch_durable::commit::{LocalParts, MultipartOptions, MultipartParts, PartStore};
use trireme_core::store::{ConcreteStore, StoreFactory};

/// The destination at `location`, with the credentials of the session that `context` is of.
///
/// # Errors
/// A location that leads to no store.
pub fn part_store(context: &TaskContext, location: &str) -> Result<Arc<dyn PartStore>> {
    store_at(context.session_config(), location)
}

/// As [`part_store`], from the settings alone.
///
/// # Errors
/// As [`part_store`].
pub fn store_at(config: &SessionConfig, location: &str) -> Result<Arc<dyn PartStore>> {
    let Some(factory) = config.get_extension::<StoreFactory>() else {
        return internal_err!("the session has no stores");
    };
    let place = factory
        .locate(location)
        .map_err(|error| DataFusionError::External(Box::new(error)))?;
    let options = MultipartOptions::default();
    Ok(match place.store {
        ConcreteStore::Local(_) => Arc::new(LocalParts::new(format!("/{}", place.path))),
        ConcreteStore::S3(store) => Arc::new(MultipartParts::new(store, place.path, options)),
        ConcreteStore::Memory(store) => Arc::new(MultipartParts::new(store, place.path, options)),
    })
}
