//! What a task is told of its inputs: where the partitions lie that it reads, and nothing of the others.
//!
//! A stage of a thousand tasks that reads one of as many has a million entries. Sent whole to each task, they would fill every
//! launch's message to its limit, and take the driver more time than the work.

use trireme_batch_schedule::{StageOutputs, TaskId, WorkerId};

use super::super::super::restrict::Reads;
use super::super::super::task::{MapOutput, StageInput, TaskReport, WrittenPartition};

/// Where a finished task's output is.
pub struct Held<'a> {
    pub host: &'a str,
    pub port: u32,
    pub report: &'a TaskReport,
}

/// What `task`, a partition of its stage, is told of `input`, which it `reads`. Outputs that are held nowhere are left out: the
/// end of their worker is on its way as an event.
pub fn stage_input<'a>(
    input: &StageOutputs,
    reads: &Reads,
    task: u32,
    held: impl Fn(WorkerId, TaskId) -> Option<Held<'a>>,
) -> StageInput {
    let wanted = reads.partitions(task);
    let outputs = input.outputs.iter().filter_map(|output| {
        let held = held(output.worker, output.task)?;
        let partitions = match &wanted {
            Some(wanted) => share(&held.report.partitions, wanted),
            None => held.report.partitions.clone(),
        };
        (!partitions.is_empty()).then(|| map_output(output.worker, output.task, &held, partitions))
    });
    StageInput {
        stage: input.stage.0,
        outputs: outputs.collect(),
    }
}

/// The whole output of `task`.
pub fn whole_output(worker: WorkerId, task: TaskId, held: &Held<'_>) -> MapOutput {
    map_output(worker, task, held, held.report.partitions.clone())
}

fn map_output(worker: WorkerId, task: TaskId, held: &Held<'_>, partitions: Vec<WrittenPartition>) -> MapOutput {
    MapOutput {
        worker: worker.0,
        host: held.host.to_owned(),
        port: held.port,
        task: task.0,
        partitions,
    }
}

/// What of `written`, which is in ascending order, is `wanted`.
fn share(written: &[WrittenPartition], wanted: &[u32]) -> Vec<WrittenPartition> {
    let of = |wanted: u32| {
        let from = written.partition_point(|written| written.partition < wanted);
        let found = written[from..].iter();
        found.take_while(move |written| written.partition == wanted).copied()
    };
    wanted.iter().copied().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message;
    use trireme_batch_schedule::{StageId, TaskOutput};

    use super::super::super::super::task::TaskOrder;
    use super::*;

    const TASKS: u32 = 1024;

    /// A stage of as many tasks as partitions in the output of each, but for a few that got no rows.
    fn outputs() -> StageOutputs {
        let output = |task: u32| {
            Arc::new(TaskOutput {
                worker: WorkerId(u64::from(task / 8)),
                task: TaskId(u64::from(task)),
                partitions: Vec::new(),
            })
        };
        StageOutputs {
            stage: StageId(1),
            output_partitions: TASKS,
            outputs: (0..TASKS).map(output).collect(),
        }
    }

    fn order(reads: &Reads, task: u32) -> TaskOrder {
        let report = TaskReport {
            partitions: (0..TASKS)
                .filter(|partition| *partition != 7)
                .map(|partition| WrittenPartition {
                    partition,
                    rows: 100_000,
                    bytes: 8_000_000,
                    sorted: true,
                })
                .collect(),
            ..TaskReport::default()
        };
        let held = |worker: WorkerId, _| {
            (worker != WorkerId(3)).then_some(Held {
                host: "worker-7.revenue.some-namespace.svc",
                port: 7071,
                report: &report,
            })
        };
        TaskOrder {
            inputs: vec![stage_input(&outputs(), reads, task, held)],
            ..TaskOrder::default()
        }
    }

    #[test]
    fn a_task_of_a_wide_stage_is_told_of_its_partition_only() {
        let own = Reads::Own { first_tasks: vec![0] };
        let told = order(&own, 1023);
        let [input] = told.inputs.as_slice() else {
            panic!("{:?}", told.inputs)
        };
        // All but the eight of the worker that is gone.
        assert_eq!(input.outputs.len(), 1016);
        assert!(input.outputs.iter().all(|output| output.partitions.len() == 1));
        assert!(
            input
                .outputs
                .iter()
                .all(|output| output.partitions[0].partition == 1023)
        );
        assert!(told.encoded_len() < 100 << 10, "{} bytes", told.encoded_len());
        // Nobody wrote any rows of it; the stage is named all the same.
        assert_eq!(
            order(&own, 7).inputs,
            [StageInput {
                stage: 1,
                outputs: vec![]
            }]
        );
        // What is broadcast is told whole.
        let whole = order(&Reads::Whole, 1023);
        assert_eq!(whole.inputs[0].outputs[0].partitions.len(), 1023);
    }
}
