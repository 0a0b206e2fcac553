//! The workers of a local cluster.

use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::role::RoleProcess;

/// Workers have this long to leave after the job has ended; then they are killed, because nobody needs them.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

/// The workers that run, each watched by a task.
#[derive(Default)]
pub struct Crew {
    watched: JoinSet<u32>,
    stop: CancellationToken,
}

impl Crew {
    /// Watches over `worker` until it ends.
    pub fn watch(&mut self, number: u32, worker: RoleProcess) {
        let stop = self.stop.clone();
        self.watched.spawn(async move {
            // All of it moves in here: its lifeline must last as long as the process.
            let mut worker = worker;
            tokio::select! {
                status = worker.child.wait() => {
                    if let Ok(status) = status && !status.success() {
                        tracing::warn!(worker = number, %status, "a worker process ended; starting another");
                    }
                }
                () = stop.cancelled() => {
                    // One that the driver sent home is on its way; one that came too late does not know yet.
                    worker.signal(Signal::TERM);
                    if tokio::time::timeout(LEAVE_PATIENCE, worker.child.wait()).await.is_err() {
                        // Dropping the child kills it.
                        tracing::warn!(worker = number, "a worker did not leave in time; killing it");
                    }
                }
            }
            number
        });
    }

    /// The next worker that ends.
    pub async fn lost(&mut self) -> Option<u32> {
        self.watched.join_next().await?.ok()
    }

    /// Waits for all to leave.
    pub async fn end(mut self) {
        self.stop.cancel();
        while self.watched.join_next().await.is_some() {}
    }
}
