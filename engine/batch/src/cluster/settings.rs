//! Session settings on the way from the driver that plans to the workers that run.

use std::collections::BTreeMap;

use ballista_core::extension::{EndpointOverrideFn, SessionConfigExt};
use datafusion::prelude::SessionConfig;

/// Retries of one shuffle block before the task reports it as unreadable. The scheduler knows sooner than a reader whether
/// the worker is gone, so a reader only rides out a dropped connection.
const FETCH_RETRIES: &str = "2";
const FETCH_RETRY_WAIT_MS: &str = "200";

/// Largest gRPC message on the data plane: one block of a shuffle file is 8 MiB, one row may be larger.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The driver's planning settings for `slots` tasks at a time.
pub fn planning(config: SessionConfig, slots: usize) -> SessionConfig {
    // Two waves of tasks: half as much to do again when one is lost, and the slower half evens out.
    let partitions = (slots * 2).max(2);
    config
        .upgrade_for_ballista()
        .with_target_partitions(partitions)
        // A hash join beats a sort-merge join wherever its build side fits, which the planner's thresholds judge.
        .set_bool("datafusion.optimizer.prefer_hash_join", true)
        .with_ballista_adaptive_query_planner(false)
}

/// What of `config` a worker must share: the values that are not the defaults.
pub fn changed_settings(config: &SessionConfig) -> BTreeMap<String, String> {
    let defaults: BTreeMap<String, Option<String>> = SessionConfig::new_with_ballista()
        .options()
        .entries()
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect();
    let entries = config.options().entries().into_iter();
    entries
        .filter(|entry| defaults.get(&entry.key) != Some(&entry.value))
        .filter_map(|entry| Some((entry.key, entry.value?)))
        .collect()
}

/// A worker's settings: the driver's, and this worker's own way to the others.
///
/// # Errors
/// A setting that this version does not know.
pub fn worker_settings(
    settings: &BTreeMap<String, String>,
    tls: EndpointOverrideFn,
) -> datafusion::common::Result<SessionConfig> {
    let mut config = SessionConfig::new_with_ballista();
    for (key, value) in settings {
        config.options_mut().set(key, value)?;
    }
    fetch_settings(config, tls)
}

/// Settings of whoever fetches shuffle blocks: a task, or the driver for the result.
///
/// # Errors
/// None while the keys exist.
pub fn fetch_settings(mut config: SessionConfig, tls: EndpointOverrideFn) -> datafusion::common::Result<SessionConfig> {
    config
        .options_mut()
        .set("ballista.client.io_retries_times", FETCH_RETRIES)?;
    config
        .options_mut()
        .set("ballista.client.io_retry_wait_time_ms", FETCH_RETRY_WAIT_MS)?;
    Ok(config
        .with_ballista_use_tls(true)
        .with_ballista_grpc_client_max_message_size(MESSAGE_BYTES_MAX)
        .with_ballista_override_create_grpc_client_endpoint(tls))
}
