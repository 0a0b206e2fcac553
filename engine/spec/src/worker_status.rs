//! What a worker says about itself: facts, for whoever asks its http port. What the job makes of it is told by the driver.

use serde::{Deserialize, Serialize};

/// The state of a worker, as it knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// Its name in reports and logs.
    pub name: String,
    /// The driver's control port, as it was told.
    pub driver: String,
    /// How it stands with that driver.
    pub phase: WorkerPhase,
    /// What the driver calls this attachment; 0 while there is none.
    pub id: u64,
    /// When it was let in, milliseconds since 1970; 0 while it is not.
    pub attached_since_unix_ms: u64,
    /// Tasks that run now.
    pub tasks_running: u32,
    /// Written to disk because memory was short, by tasks of this attachment that have ended.
    pub spilled_bytes: u64,
    /// Sent from the data port since the process started.
    pub shuffle_bytes_sent: u64,
    /// Memory that operators hold now.
    pub memory_used_bytes: u64,
    /// What a drain waits for, once the driver has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_waits_for: Option<DrainWait>,
}

/// How a worker stands with its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkerPhase {
    /// Tries to reach it.
    Attaching,
    /// Takes tasks.
    Attached,
    /// Was told to end: takes no more tasks, and leaves when nothing on it is needed.
    Draining,
}

/// What the driver still needs of a worker that wants to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainWait {
    /// Tasks that run on it.
    pub tasks_running: u32,
    /// Outputs on it that other tasks read or that the driver has yet to fetch.
    pub outputs_needed: u32,
}

impl WorkerStatus {
    /// A worker that has reached no driver yet.
    pub fn attaching(name: &str, driver: &str) -> Self {
        Self {
            name: name.to_owned(),
            driver: driver.to_owned(),
            phase: WorkerPhase::Attaching,
            id: 0,
            attached_since_unix_ms: 0,
            tasks_running: 0,
            spilled_bytes: 0,
            shuffle_bytes_sent: 0,
            memory_used_bytes: 0,
            drain_waits_for: None,
        }
    }

    /// Whether a driver has let it in.
    pub fn is_attached(&self) -> bool {
        match self.phase {
            WorkerPhase::Attaching => false,
            WorkerPhase::Attached | WorkerPhase::Draining => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn travels_as_json() {
        let mut status = WorkerStatus::attaching("worker-1", "driver:7070");
        assert!(!status.is_attached());
        status.phase = WorkerPhase::Draining;
        status.drain_waits_for = Some(DrainWait {
            tasks_running: 1,
            outputs_needed: 3,
        });
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(
            json,
            r#"{"name":"worker-1","driver":"driver:7070","phase":"Draining","id":0,"attachedSinceUnixMs":0,"tasksRunning":0,"spilledBytes":0,"shuffleBytesSent":0,"memoryUsedBytes":0,"drainWaitsFor":{"tasksRunning":1,"outputsNeeded":3}}"#
        );
        assert_eq!(serde_json::from_str::<WorkerStatus>(&json).unwrap(), status);
        assert!(status.is_attached());
    }
}
