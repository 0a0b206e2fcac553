//! Deaths of workers as evidence: for a task that kills its workers, or for machines that die by themselves.
//!
//! Three deaths of its worker make a task guilty only where nothing else dies. Where somebody kills workers at random, or a
//! node takes them down one after the other, a long task meets three deaths sooner or later. What tells the two apart is the
//! deaths without the task: each that no suspect explains is an **accident**, and for each accident of the last ten minutes
//! as many more deaths are necessary as without any. Kills at random hit the other workers as often as this one, so that an
//! innocent task falls behind; one that kills its workers gets there whatever the others do, or uses up its infrastructure
//! budget. What remains in doubt is a task that meets three kills before any worker dies without it, as on a single worker:
//! nothing is there to compare with, and it is blamed.
//!
//! Two things are no evidence here. How long the task ran: when a process runs out of memory depends on what runs beside it.
//! And whether it had begun when the worker died: the message that says so may be what the death cut off, so that an attempt
//! counts from its launch.

use std::collections::VecDeque;

use crate::event::Millis;
use crate::workers::TaskKey;

/// Ten minutes: about what a node's or a zone's failure takes to be over.
const REMEMBERED_MS: u64 = 600_000;
/// More would change nothing: seven accidents protect a task for as long as its infrastructure budget lasts.
const REMEMBERED_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Deaths {
    /// In the order in which they came.
    recent: VecDeque<Death>,
}

#[derive(Debug)]
struct Death {
    at: Millis,
    on_board: Vec<TaskKey>,
}

impl Deaths {
    pub(crate) fn record(&mut self, at: Millis, on_board: Vec<TaskKey>) {
        if self.recent.len() == REMEMBERED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Death { at, on_board });
    }

    /// Deaths of late that happened without the task and that no suspect explains.
    pub(crate) fn accidents(&self, task: TaskKey, now: Millis, is_suspect: impl Fn(TaskKey) -> bool) -> u32 {
        let explains = |other: &TaskKey| *other == task || is_suspect(*other);
        let recent = self.recent.iter().filter(|death| now.since(death.at) <= REMEMBERED_MS);
        let accidents = recent.filter(|death| !death.on_board.iter().any(explains));
        accidents.count() as u32
    }
}
