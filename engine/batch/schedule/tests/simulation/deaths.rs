//! The checker's books on deaths of workers: under which tasks they came, and whom one may blame.

use std::collections::{BTreeMap, BTreeSet};

use trireme_batch_schedule::RunId;

use crate::check::Met;
use crate::scenario::Key;

#[derive(Default)]
pub(crate) struct Deaths {
    /// For each death under a task since it last finished, whether it was alone.
    under: BTreeMap<Key, Vec<bool>>,
    /// When a worker died, and under which tasks.
    all: Vec<(u64, Vec<Key>)>,
    /// Deaths under a task that it takes to blame it, as of the last one.
    enough: BTreeMap<Key, usize>,
    /// Runs with a task that has to be blamed by now.
    pub(crate) due: BTreeSet<RunId>,
}

impl Deaths {
    pub(crate) fn clear(&mut self, task: Key) {
        self.under.remove(&task);
    }

    pub(crate) fn is_suspect(&self, task: Key) -> bool {
        self.under.get(&task).is_some_and(|deaths| deaths.len() >= 2)
    }

    /// What there is against the task, and how much it takes.
    pub(crate) fn against(&self, task: Key) -> (&[bool], usize) {
        (
            self.under.get(&task).map_or(&[], Vec::as_slice),
            self.enough.get(&task).copied().unwrap_or(3),
        )
    }

    /// Cancelled tasks fill slots too. One of them may have been the cause.
    pub(crate) fn record(
        &mut self,
        now_ms: u64,
        on_board: Vec<Key>,
        filled_slots: usize,
        is_live: impl Fn(RunId) -> bool,
        met: &mut Met,
    ) {
        for key in &on_board {
            self.under.entry(*key).or_default().push(filled_slots == 1);
        }
        if on_board.len() == filled_slots {
            self.all.push((now_ms, on_board.clone()));
        }
        for key in on_board {
            // Those in the last ten minutes without the task, but for those under others that are suspects.
            let explains = |other: &Key| *other == key || is_live(other.0) && self.is_suspect(*other);
            let recent = self.all.iter().filter(|(at_ms, _)| now_ms - at_ms <= 600_000);
            let accidents = recent.filter(|(_, on_board)| !on_board.iter().any(explains)).count();
            let (deaths, enough) = (self.under[&key].len(), 3 * (1 + accidents));
            self.enough.insert(key, enough);
            if deaths >= enough {
                self.due.insert(key.0);
            } else if deaths == 3 {
                *met.entry("third death not blamed").or_default() += 1;
            }
        }
    }
}
