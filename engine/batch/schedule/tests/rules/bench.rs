//! The test bench: sends events, keeps the effects until they are asked for, and checks the core's books after each step.

use std::sync::Arc;

use trireme_batch_schedule::{
    CloseCause, Effect, Event, Failure, Limits, Millis, PartitionSize, RunError, RunId, RunPlan, Schedule, StageId,
    StageOutputs, StageSpec, TaskId, WorkerId,
};

pub(crate) const RUN: RunId = RunId(1);

pub(crate) struct Bench {
    pub(crate) schedule: Schedule,
    pub(crate) now: Millis,
    pub(crate) effects: Vec<Effect>,
}

/// A launch that the bench took from the effects.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) worker: WorkerId,
    pub(crate) stage: u32,
    pub(crate) partition: u32,
    pub(crate) task: TaskId,
    pub(crate) inputs: Vec<Arc<StageOutputs>>,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench {
            schedule: Schedule::new(Limits::default()),
            now: Millis(0),
            effects: Vec::new(),
        }
    }

    /// Workers 1, 2, ... with these slots.
    pub(crate) fn with_workers(slots: &[u32]) -> Bench {
        let mut bench = Bench::new();
        for (worker, slots) in (1..).zip(slots) {
            bench.join(worker, *slots);
        }
        bench
    }

    pub(crate) fn step(&mut self, event: Event) {
        self.schedule.step(self.now, event, &mut self.effects);
        self.schedule.assert_consistent();
    }

    pub(crate) fn join(&mut self, worker: u64, slots: u32) {
        self.step(Event::WorkerJoined {
            worker: WorkerId(worker),
            slots,
        });
    }

    /// Stages 0, 1, ... in a chain with so many partitions each.
    pub(crate) fn submit_chain(&mut self, partitions: &[u32]) {
        self.submit(RUN, chain(partitions));
    }

    pub(crate) fn submit(&mut self, run: RunId, stages: Vec<StageSpec>) {
        self.step(Event::RunSubmitted {
            run,
            plan: RunPlan::new(stages).unwrap(),
        });
    }

    /// Takes the launches out of the effects and asserts that there was nothing else.
    pub(crate) fn launches(&mut self) -> Vec<Launch> {
        std::mem::take(&mut self.effects).into_iter().map(launch).collect()
    }

    /// The same, as (stage, partition, worker).
    pub(crate) fn launched(&mut self) -> Vec<(u32, u32, u64)> {
        self.launches()
            .iter()
            .map(|launch| (launch.stage, launch.partition, launch.worker.0))
            .collect()
    }

    pub(crate) fn finish(&mut self, launch: &Launch) {
        self.finish_with_bytes(launch, &[10]);
    }

    /// `bytes` by output partition.
    pub(crate) fn finish_with_bytes(&mut self, launch: &Launch, bytes: &[u64]) {
        let size = |(partition, bytes): (u32, &u64)| PartitionSize {
            partition,
            rows: 1,
            bytes: *bytes,
        };
        let output = (0..).zip(bytes).map(size).collect();
        self.step(Event::TaskFinished {
            worker: launch.worker,
            task: launch.task,
            output,
        });
    }

    pub(crate) fn fail(&mut self, launch: &Launch, failure: Failure) {
        self.step(Event::TaskFailed {
            worker: launch.worker,
            task: launch.task,
            failure,
        });
    }

    pub(crate) fn fail_fetch(&mut self, reader: &Launch, lost: &Launch) {
        self.fail(
            reader,
            Failure::FetchFailed {
                from_worker: lost.worker,
                lost_task: lost.task,
            },
        );
    }

    /// The driver has what `launch` left.
    pub(crate) fn fetched(&mut self, launch: &Launch) {
        self.step(Event::ResultFetched {
            run: RUN,
            partition: launch.partition,
            task: launch.task,
        });
    }

    pub(crate) fn die(&mut self, worker: u64) {
        self.close(
            worker,
            CloseCause::Died {
                detail: "connection reset".into(),
            },
        );
    }

    pub(crate) fn close(&mut self, worker: u64, cause: CloseCause) {
        self.step(Event::WorkerClosed {
            worker: WorkerId(worker),
            cause,
        });
    }

    pub(crate) fn drain(&mut self, worker: u64) {
        self.step(Event::WorkerDraining {
            worker: WorkerId(worker),
        });
    }

    pub(crate) fn beat(&mut self, worker: u64) {
        self.step(Event::Heartbeat {
            worker: WorkerId(worker),
        });
    }

    pub(crate) fn tick_after(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        self.step(Event::Tick);
    }

    /// Ticks as often as the shell must, with heartbeats of these workers.
    pub(crate) fn pass(&mut self, seconds: u64, beating: &[u64]) {
        for _ in 0..seconds {
            self.tick_after(1_000);
            beating.iter().for_each(|worker| self.beat(*worker));
        }
    }

    /// Takes all effects but the launches.
    pub(crate) fn others(&mut self) -> Vec<Effect> {
        let all = std::mem::take(&mut self.effects);
        let (launches, others) = all
            .into_iter()
            .partition(|effect| matches!(effect, Effect::Launch { .. }));
        self.effects = launches;
        others
    }

    pub(crate) fn error(&mut self) -> Option<RunError> {
        self.others().into_iter().find_map(|effect| match effect {
            Effect::RunFailed { error, .. } => Some(error),
            _ => None,
        })
    }
}

pub(crate) fn chain(partitions: &[u32]) -> Vec<StageSpec> {
    let stage = |(id, partitions): (u32, &u32)| {
        let inputs = id.checked_sub(1).map(StageId).into_iter().collect();
        StageSpec {
            id: StageId(id),
            partitions: *partitions,
            inputs,
            output_partitions: 1,
            repeatable: true,
        }
    };
    (0..).zip(partitions).map(stage).collect()
}

fn launch(effect: Effect) -> Launch {
    match effect {
        Effect::Launch {
            worker,
            run: _,
            stage,
            partition,
            task,
            inputs,
        } => Launch {
            worker,
            stage: stage.0,
            partition,
            task,
            inputs,
        },
        other => panic!("only launches were expected, not {other:?}"),
    }
}
