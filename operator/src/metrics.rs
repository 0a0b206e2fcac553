//! What the operator counts about itself, and what it tells the kubelet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::{Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// Seconds that a visit takes: from one that only looks, to one that makes a thousand pods.
const VISIT_SECONDS: [f64; 10] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The operator's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    visits: IntCounterVec,
    seconds: Histogram,
    waiting: IntGauge,
    leader: IntGauge,
    /// Whether this replica acts and does not know all that there is yet.
    learning: AtomicBool,
}

impl Metrics {
    /// A registry with all of them.
    ///
    /// # Errors
    /// Two metrics of one name, which would be our mistake.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let metrics = Metrics {
            registry: Registry::new(),
            visits: IntCounterVec::new(
                Opts::new(
                    "trireme_operator_reconciles_total",
                    "Visits to a job, by how they ended.",
                ),
                &["result"],
            )?,
            seconds: Histogram::with_opts(
                HistogramOpts::new("trireme_operator_reconcile_seconds", "How long a visit to a job takes.")
                    .buckets(VISIT_SECONDS.to_vec()),
            )?,
            waiting: IntGauge::new("trireme_operator_queue_length", "Jobs that wait for a visit.")?,
            leader: IntGauge::new("trireme_operator_leader", "1 where this replica is the one that acts.")?,
            learning: AtomicBool::new(false),
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.visits.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.leader.clone()))?;
        Ok(metrics)
    }

    /// A visit has ended.
    pub fn visited(&self, well: bool, took: Duration) {
        let result = if well { "done" } else { "failed" };
        self.visits.with_label_values(&[result]).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// So many jobs wait.
    pub fn waiting(&self, jobs: usize) {
        self.waiting.set(i64::try_from(jobs).unwrap_or(i64::MAX));
    }

    /// This replica acts from now on.
    pub fn leads(&self) {
        self.leader.set(1);
        self.learning.store(true, Ordering::Relaxed);
    }

    /// Every watch of this replica has told everything once.
    pub fn complete(&self) {
        self.learning.store(false, Ordering::Relaxed);
    }

    /// Whether this replica could do its work: one that waits for its turn is as ready as one that acts and knows all there is.
    pub fn is_ready(&self) -> bool {
        !self.learning.load(Ordering::Relaxed)
    }

    /// In Prometheus' text form.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory fails only for a metric without a name.
        drop(TextEncoder::new().encode(&self.registry.gather(), &mut text));
        text
    }
}
