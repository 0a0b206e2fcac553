//! The driver of a local cluster: one life of it, and what it says.

use std::fs;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use trireme_spec::problem::{ErrorCode, Problem};

use super::failed;
use super::role::RoleProcess;
use crate::output;
use crate::output::blocks::Shown;

/// The driver has this long to bind its ports.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How often the file is looked for in which the driver tells them.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A driver's process.
pub struct Driver {
    process: RoleProcess,
    /// Its results, block by block.
    blocks: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    /// Starts one.
    ///
    /// # Errors
    /// A system that starts no process.
    pub fn start(mut command: Command) -> Result<Self, Problem> {
        command.stdout(Stdio::piped());
        let mut process =
            RoleProcess::start(command).map_err(|error| failed("the driver cannot be started", &error))?;
        let stdout = process.child.stdout.take().expect("the pipe was asked for");
        Ok(Self {
            process,
            blocks: BufReader::new(stdout).lines(),
        })
    }

    /// Where its control port is, which it writes into the file `announced`; `None` when it ended first.
    ///
    /// # Errors
    /// A driver that does neither in time.
    pub async fn address(&mut self, announced: &Path) -> Result<Option<String>, Problem> {
        let looking = async {
            loop {
                if let Ok(text) = fs::read(announced) {
                    let facts: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
                    break facts["control"].as_str().map(str::to_owned);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            address = tokio::time::timeout(START_PATIENCE, looking) => match address {
                Ok(address) => Ok(address),
                Err(_) => Err(Problem::new(ErrorCode::Internal, "the driver did not bind its ports in time")),
            },
            _ = self.process.child.wait() => Ok(None),
        }
    }

    /// Shows its results until it ends. May be dropped and called again.
    ///
    /// # Errors
    /// Standard output that cannot be written to.
    pub async fn run(&mut self, shown: &mut Shown) -> Result<ExitStatus, Problem> {
        // The pipe ends with the process: nothing of what it said is missed.
        while let Ok(Some(block)) = self.blocks.next_line().await {
            if let Some(text) = shown.admit(&block) {
                output::text(text.as_bytes())?;
            }
        }
        let ended = self.process.child.wait().await;
        ended.map_err(|error| failed("the driver's end was missed", &error))
    }

    /// The exit code of a driver that ended at its start, and has said why.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn explained(&mut self, shown: &mut Shown) -> Result<ExitCode, Problem> {
        code(self.run(shown).await?)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.child.try_wait(), Ok(None))
    }

    /// Tells it to end.
    pub fn end(&self) {
        self.process.signal(Signal::TERM);
    }
}

/// The driver's exit code as ours.
pub fn code(ended: ExitStatus) -> Result<ExitCode, Problem> {
    match ended.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(ExitCode::from(code)),
        None => Err(
            Problem::new(ErrorCode::Internal, format!("the driver was killed: {ended}"))
                .remedy("look at the system's log: the kernel kills what uses too much memory"),
        ),
    }
}
