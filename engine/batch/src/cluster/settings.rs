//! Session settings on the way from the driver that plans to the workers that run.

use std::collections::BTreeMap;
use std::time::Duration;

use ballista_core::extension::{EndpointOverrideFn, SessionConfigExt};
use datafusion::prelude::SessionConfig;

use super::waves::one_wave;
use crate::joins::PlanningOptions;
use crate::memory::{FETCH_WINDOW_BYTES, SlotMemory};

/// Retries of one shuffle block before the task reports it as unreadable. The scheduler knows sooner than a reader whether
/// the worker is gone, so a reader only rides out a dropped connection.
pub const FETCH_RETRIES: u32 = 2;
pub const FETCH_RETRY_WAIT: Duration = Duration::from_millis(200);

/// Largest gRPC message on the data plane: one block of a shuffle file is 8 MiB, one row may be larger.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The driver's planning settings for `slots` tasks at a time, each with `memory`.
pub fn planning(config: SessionConfig, slots: usize, memory: SlotMemory) -> SessionConfig {
    config
        .upgrade_for_ballista()
        .with_target_partitions(one_wave(slots))
        // A hash join beats a sort-merge join wherever its build side fits, which a rule of ours judges.
        .set_bool("datafusion.optimizer.prefer_hash_join", true)
        .with_option_extension(PlanningOptions::within(memory))
        .with_ballista_adaptive_query_planner(false)
}

/// `config` for shuffles that cross no wire. Compression takes a tenth of the processor time of TPC-H on workers, and what it
/// saves is room in the page cache.
pub fn without_compression(config: SessionConfig) -> SessionConfig {
    config.set_str("ballista.shuffle.compression.codec", "none")
}

/// Settings that a worker has. Ours end with the plan.
const WORKERS_KNOW: [&str; 2] = ["datafusion.", "ballista."];

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
        .filter(|entry| WORKERS_KNOW.iter().any(|prefix| entry.key.starts_with(prefix)))
        .filter_map(|entry| Some((entry.key, entry.value?)))
        .collect()
}

/// A worker's settings: the driver's, this worker's memory, and its own way to the others.
///
/// # Errors
/// A setting that this version does not know.
pub fn worker_settings(
    settings: &BTreeMap<String, String>,
    memory: SlotMemory,
    tls: EndpointOverrideFn,
) -> datafusion::common::Result<SessionConfig> {
    let mut config = SessionConfig::new_with_ballista();
    for (key, value) in settings {
        config.options_mut().set(key, value)?;
    }
    let reserve = usize::try_from(memory.sort_reserve_bytes()).unwrap_or(usize::MAX);
    fetch_settings(config.with_sort_spill_reservation_bytes(reserve), tls)
}

/// Settings of whoever fetches shuffle blocks: a task, or the driver for the result.
///
/// # Errors
/// None while the keys exist.
pub fn fetch_settings(mut config: SessionConfig, tls: EndpointOverrideFn) -> datafusion::common::Result<SessionConfig> {
    let wait = FETCH_RETRY_WAIT.as_millis().to_string();
    let window = FETCH_WINDOW_BYTES.to_string();
    for (key, value) in [
        ("ballista.client.io_retries_times", &FETCH_RETRIES.to_string()),
        ("ballista.client.io_retry_wait_time_ms", &wait),
        // A connection carries one block at a time.
        ("ballista.client.initial_connection_window_size", &window),
        ("ballista.client.initial_stream_window_size", &window),
    ] {
        config.options_mut().set(key, value)?;
    }
    Ok(config
        .with_ballista_use_tls(true)
        .with_ballista_grpc_client_max_message_size(MESSAGE_BYTES_MAX)
        .with_ballista_override_create_grpc_client_endpoint(tls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_worker_takes_every_setting_that_it_is_told() {
        let memory = SlotMemory {
            operators: 1 << 30,
            reads: 1 << 20,
        };
        let config = SessionConfig::new().set_u64("datafusion.execution.batch_size", 1000);
        let told = changed_settings(&planning(config, 3, memory));
        assert_eq!(
            told.get("datafusion.execution.target_partitions").map(String::as_str),
            Some("3")
        );
        let config = worker_settings(&told, memory, Arc::new(Ok)).unwrap();
        assert_eq!((config.batch_size(), config.target_partitions()), (1000, 3));
        assert_eq!(config.options().execution.sort_spill_reservation_bytes, 10 << 20);
    }
}
