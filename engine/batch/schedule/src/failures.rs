//! Budgets and blame: what each partition has been through, and when enough is enough.
//!
//! Three things can go wrong with a task, and they never share a counter: the application's own failures, losses to
//! infrastructure, and deaths of the worker under it. Only the first and the last can be the query's fault. A death counts
//! against every task that was on board; before the last death allowed the suspect runs alone (see `placement`), so the one
//! that is blamed had no company. How many are allowed depends on whether workers die without it too (see `deaths`).

use crate::event::{Millis, RunError, StageId, TaskId, WorkerId};

/// The bounds of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A worker that was not heard from for this long is lost. Five heartbeats of 2 s.
    pub silence_ms: u64,
    /// Attempts at one partition that may fail by the application's own fault; the last one fails the run.
    pub application_attempts: u32,
    /// Times that one partition may be lost to infrastructure: with it, nothing loops for ever.
    pub infrastructure_losses: u32,
    /// Deaths of its worker after which a task is blamed, if no workers die without it; as many more for each one that
    /// did. Before the last one it runs alone.
    pub poison_deaths: u32,
    /// How long a run waits when there is no worker that takes work.
    pub no_workers_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            silence_ms: 10_000,
            application_attempts: 4,
            infrastructure_losses: 20,
            poison_deaths: 3,
            no_workers_ms: 300_000,
        }
    }
}

/// First pause after a reported infrastructure failure, doubled with each loss of the partition. A full disk or a lack of
/// memory needs other tasks to end first; an immediate retry would only burn the budget.
const PAUSE_FIRST_MS: u64 = 250;
/// 20 losses at this ceiling give a condition some two and a half minutes to pass.
const PAUSE_MS_MAX: u64 = 8_000;

/// A partition by the name that people know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) stage: StageId,
    pub(crate) partition: u32,
}

/// What one partition has been through.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) launches: u32,
    pub(crate) application_failures: u32,
    pub(crate) infrastructure_losses: u32,
    /// Deaths since it last finished: what has finished once is no poison.
    pub(crate) deaths: u32,
    /// Deaths of other workers that spoke for it at the last of its own.
    pub(crate) accidents: u32,
    /// Not to be launched before this time.
    pub(crate) not_before: Millis,
    /// The worker on which it failed for infrastructure's sake: another one is preferred.
    pub(crate) avoid: Option<WorkerId>,
}

/// Each method records one mishap; the error it returns ends the run.
impl History {
    pub(crate) fn application_failed(
        &mut self,
        limits: &Limits,
        place: Place,
        task: TaskId,
        message: String,
        retryable: bool,
    ) -> Result<(), RunError> {
        self.application_failures += 1;
        if retryable && self.application_failures < limits.application_attempts {
            return Ok(());
        }
        let Place { stage, partition } = place;
        Err(RunError::Application {
            stage,
            partition,
            task,
            attempts: self.application_failures,
            message,
        })
    }

    /// The task, or the output it had left, is gone through no fault of its own.
    pub(crate) fn lost(&mut self, limits: &Limits, place: Place, cause: &str) -> Result<(), RunError> {
        self.infrastructure_losses += 1;
        if self.infrastructure_losses <= limits.infrastructure_losses {
            return Ok(());
        }
        let Place { stage, partition } = place;
        let (losses, cause) = (self.infrastructure_losses, cause.to_owned());
        Err(RunError::InfrastructureBudget {
            stage,
            partition,
            losses,
            cause,
        })
    }

    /// The machine refused: try elsewhere, and not at once.
    pub(crate) fn refused(
        &mut self,
        limits: &Limits,
        place: Place,
        worker: WorkerId,
        now: Millis,
        cause: &str,
    ) -> Result<(), RunError> {
        self.lost(limits, place, cause)?;
        let doublings = (self.infrastructure_losses - 1).min(16);
        self.not_before = now.plus((PAUSE_FIRST_MS << doublings).min(PAUSE_MS_MAX));
        self.avoid = Some(worker);
        Ok(())
    }

    /// The worker died with this task on board. The death is counted already.
    pub(crate) fn died(&mut self, limits: &Limits, place: Place, cause: &str) -> Result<(), RunError> {
        if self.deaths < limits.poison_deaths.saturating_mul(self.accidents.saturating_add(1)) {
            return self.lost(limits, place, cause);
        }
        let Place { stage, partition } = place;
        Err(RunError::Poison {
            stage,
            partition,
            deaths: self.deaths,
            cause: cause.to_owned(),
        })
    }

    /// One more death and it would be blamed: it must run alone.
    pub(crate) fn is_suspect(&self, limits: &Limits) -> bool {
        self.deaths > 0 && self.deaths + 1 >= limits.poison_deaths
    }
}
