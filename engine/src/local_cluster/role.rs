//! One process of a local cluster.

use std::io;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

/// A process of ours. Its lifeline is its standard input: the process ends when that closes.
pub struct RoleProcess {
    pub child: Child,
    /// Held apart, because waiting for a child closes the input that it still has.
    _lifeline: Option<ChildStdin>,
}

impl RoleProcess {
    /// Starts it.
    ///
    /// # Errors
    /// A system that starts no process.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        Ok(Self {
            _lifeline: child.stdin.take(),
            child,
        })
    }

    /// Sends a signal; one to a process that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::debug!(%error, "the process is gone already");
        }
    }
}
