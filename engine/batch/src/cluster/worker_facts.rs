//! What a worker knows of itself while it is attached: told in heartbeats, and shown to whoever asks its http port.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use datafusion::execution::memory_pool::MemoryPool;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trireme_exchange::bytes_count::ByteCounters;
use trireme_exchange::wire::Heartbeat;
use trireme_spec::worker_status::{DrainWait, WorkerPhase, WorkerStatus};

/// The facts of one attachment.
pub struct WorkerFacts {
    /// What the driver calls it.
    id: u64,
    /// Attempts that run, and what stops each.
    tasks: Mutex<HashMap<u64, CancellationToken>>,
    spilled: AtomicU64,
    data_bytes: Arc<ByteCounters>,
    memory: Arc<dyn MemoryPool>,
    status: watch::Sender<WorkerStatus>,
}

impl WorkerFacts {
    /// The driver has let the worker in, and calls it `id`.
    pub fn attached(
        id: u64,
        data_bytes: Arc<ByteCounters>,
        memory: Arc<dyn MemoryPool>,
        status: watch::Sender<WorkerStatus>,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        status.send_modify(|status| {
            status.phase = WorkerPhase::Attached;
            status.id = id;
            status.attached_since_unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        });
        Self {
            id,
            tasks: Mutex::default(),
            spilled: AtomicU64::new(0),
            data_bytes,
            memory,
            status,
        }
    }

    /// Attempt `task` begins; `cancel` stops it.
    pub fn started(&self, task: u64, cancel: CancellationToken) {
        self.tasks.lock().insert(task, cancel);
        self.publish();
    }

    /// It has ended, and spilled so much.
    pub fn ended(&self, task: u64, spilled_bytes: u64) {
        self.tasks.lock().remove(&task);
        self.spilled.fetch_add(spilled_bytes, Ordering::Relaxed);
        self.publish();
    }

    /// Stops `task`, if it runs.
    pub fn cancel(&self, task: u64) {
        if let Some(token) = self.tasks.lock().get(&task) {
            token.cancel();
        }
    }

    /// The worker was told to end.
    pub fn draining(&self) {
        self.show(|status| status.phase = WorkerPhase::Draining);
    }

    /// The driver says what it still needs. Logged whenever it changes.
    pub fn drain_waits_for(&self, wait: DrainWait) {
        let mut before = None;
        self.show(|status| before = status.drain_waits_for.replace(wait));
        if before != Some(wait) {
            let DrainWait {
                tasks_running,
                outputs_needed,
            } = wait;
            tracing::info!(tasks_running, outputs_needed, "draining; this is waited for");
        }
    }

    /// The sign of life, with the counts as they are now.
    pub fn heartbeat(&self) -> Heartbeat {
        self.publish();
        Heartbeat {
            spilled_bytes: self.spilled.load(Ordering::Relaxed),
            shuffle_bytes_sent: self.data_bytes.sent(),
            memory_used_bytes: self.memory.reserved() as u64,
        }
    }

    fn publish(&self) {
        let running = u32::try_from(self.tasks.lock().len()).unwrap_or(u32::MAX);
        self.show(|status| {
            status.tasks_running = running;
            status.spilled_bytes = self.spilled.load(Ordering::Relaxed);
            status.shuffle_bytes_sent = self.data_bytes.sent();
            status.memory_used_bytes = self.memory.reserved() as u64;
        });
    }

    /// The attachment has ended.
    pub fn detached(&self) {
        self.show(|status| *status = WorkerStatus::attaching(&status.name, &status.driver));
    }

    /// A task that ends late must not speak for the next attachment.
    fn show(&self, change: impl FnOnce(&mut WorkerStatus)) {
        self.status.send_if_modified(|status| {
            let ours = status.id == self.id;
            if ours {
                change(status);
            }
            ours
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::memory_pool::UnboundedMemoryPool;

    #[test]
    fn the_status_follows() {
        let (status, shown) = watch::channel(WorkerStatus::attaching("worker-1", "driver:7070"));
        let facts = WorkerFacts::attached(7, Arc::default(), Arc::new(UnboundedMemoryPool::default()), status);
        assert_eq!((shown.borrow().id, shown.borrow().phase), (7, WorkerPhase::Attached));
        let cancel = CancellationToken::new();
        facts.started(1, cancel.clone());
        facts.started(2, CancellationToken::new());
        facts.ended(2, 10);
        assert_eq!((shown.borrow().tasks_running, shown.borrow().spilled_bytes), (1, 10));
        facts.cancel(1);
        facts.cancel(2);
        assert!(cancel.is_cancelled());
        facts.draining();
        let wait = DrainWait {
            tasks_running: 1,
            outputs_needed: 2,
        };
        facts.drain_waits_for(wait);
        assert_eq!(shown.borrow().drain_waits_for, Some(wait));
        assert_eq!(facts.heartbeat().spilled_bytes, 10);
        facts.detached();
        facts.ended(1, 0);
        assert_eq!(*shown.borrow(), WorkerStatus::attaching("worker-1", "driver:7070"));
    }
}
