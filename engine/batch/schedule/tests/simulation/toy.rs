//! A toy worker: it holds what its tasks left, can be stopped and killed, and keeps the order of what it sends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trireme_batch_schedule::{StageOutputs, TaskId};

use crate::scenario::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    Up,
    /// SIGSTOPped until this time: whatever happens to it happens then.
    Stopped {
        until_ms: u64,
    },
    Dead,
}

pub(crate) struct Toy {
    pub(crate) slots: u32,
    pub(crate) power: Power,
    /// Nobody can read from it before this time.
    pub(crate) unreachable_until_ms: u64,
    pub(crate) disk_full_once: bool,
    pub(crate) running: BTreeMap<TaskId, Job>,
    /// What finished tasks left.
    pub(crate) store: BTreeMap<TaskId, (Key, Value)>,
    /// When its latest message reaches the driver, and when the latest order reaches it: a stream keeps its order.
    pub(crate) last_up_ms: u64,
    pub(crate) last_down_ms: u64,
}

pub(crate) struct Job {
    pub(crate) key: Key,
    pub(crate) inputs: Vec<Arc<StageOutputs>>,
    /// Known once the inputs were read.
    pub(crate) value: Option<Value>,
}

/// What a task computed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Value {
    pub(crate) number: u64,
    /// The attempts at partitions of stages that are not repeatable which it derives from: two at one of them make it wrong.
    pub(crate) versions: BTreeSet<(Key, TaskId)>,
}

impl Toy {
    pub(crate) fn new(slots: u32) -> Toy {
        Toy {
            slots,
            power: Power::Up,
            unreachable_until_ms: 0,
            disk_full_once: false,
            running: BTreeMap::new(),
            store: BTreeMap::new(),
            last_up_ms: 0,
            last_down_ms: 0,
        }
    }

    pub(crate) fn is_up(&self, now_ms: u64) -> bool {
        match self.power {
            Power::Up => true,
            Power::Stopped { until_ms } => now_ms >= until_ms,
            Power::Dead => false,
        }
    }

    /// The value that `task` left here, if it can be read now.
    pub(crate) fn read(&self, task: TaskId, now_ms: u64) -> Option<&Value> {
        let reachable = self.is_up(now_ms) && now_ms >= self.unreachable_until_ms;
        let (_, value) = self.store.get(&task).filter(|_| reachable)?;
        Some(value)
    }
}
