//! Who gets what.

use std::sync::Arc;

use trireme_batch_schedule::{Effect, Event, Failure, PlanError, RunId, RunPlan, StageId, StageSpec, WorkerId};

use crate::bench::{Bench, RUN, chain};

#[test]
fn tasks_spread_over_free_slots() {
    let mut bench = Bench::with_workers(&[2, 4]);
    bench.submit_chain(&[6]);
    let workers: Vec<u64> = bench.launched().into_iter().map(|(_, _, worker)| worker).collect();
    assert_eq!(workers, [2, 2, 1, 2, 1, 2]);
}

#[test]
fn a_stage_starts_when_all_of_its_inputs_are_there() {
    let mut bench = Bench::with_workers(&[4]);
    bench.submit_chain(&[2, 2]);
    let maps = bench.launches();
    bench.finish(&maps[1]);
    assert_eq!(bench.launched(), []);
    bench.finish(&maps[0]);
    let readers = bench.launches();
    assert_eq!(readers.len(), 2);
    let read: Vec<_> = readers[1].inputs[0].outputs.iter().map(|output| output.task).collect();
    assert_eq!(read, [maps[0].task, maps[1].task], "in the order of the partitions");
    assert!(
        Arc::ptr_eq(&readers[0].inputs[0], &readers[1].inputs[0]),
        "one snapshot for all readers"
    );
}

#[test]
fn a_task_goes_where_most_of_its_bytes_are() {
    let mut bench = Bench::with_workers(&[1, 1]);
    let mut stages = chain(&[2, 2]);
    stages[0].output_partitions = 2;
    bench.submit(RUN, stages);
    let maps = bench.launches();
    // Reader 0 finds its bytes on the second worker, reader 1 on the first.
    bench.finish_with_bytes(&maps[0], &[10, 90]);
    bench.finish_with_bytes(&maps[1], &[90, 10]);
    assert_eq!(bench.launched(), [(1, 0, maps[1].worker.0), (1, 1, maps[0].worker.0)]);
}

#[test]
fn runs_are_served_in_order() {
    let mut bench = Bench::new();
    bench.submit(RunId(2), chain(&[1]));
    bench.submit(RunId(1), chain(&[1]));
    bench.join(1, 1);
    assert!(matches!(bench.effects[..], [Effect::Launch { run: RunId(1), .. }]));
}

#[test]
fn a_draining_worker_gets_nothing() {
    let mut bench = Bench::with_workers(&[4, 1]);
    bench.submit(RunId(9), chain(&[1]));
    bench.effects.clear();
    bench.drain(1);
    bench.submit_chain(&[3]);
    assert_eq!(bench.launched(), [(0, 0, 2)]);
}

#[test]
fn a_cancelled_run_frees_a_slot_only_when_its_task_has_stopped() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1]);
    let launch = bench.launches().pop().unwrap();
    bench.submit(RunId(2), chain(&[1]));

    bench.step(Event::RunCancelled { run: RUN });
    let effects = bench.others();
    assert_eq!(
        effects[0],
        Effect::CancelTask {
            worker: WorkerId(1),
            task: launch.task
        }
    );
    assert!(matches!(
        effects[1..],
        [Effect::RunFailed { run: RUN, .. }, Effect::ReleaseRun { run: RUN }]
    ));
    assert_eq!(bench.launched(), []);
    bench.fail(&launch, Failure::Cancelled);
    assert_eq!(bench.launched(), [(0, 0, 1)]);
}

#[test]
fn a_result_without_partitions_is_there_at_once() {
    let mut bench = Bench::new();
    bench.submit_chain(&[3, 0]);
    assert_eq!(
        bench.others(),
        [Effect::RunSucceeded { run: RUN }, Effect::ReleaseRun { run: RUN }]
    );
}

#[test]
fn progress_counts_what_people_see() {
    let mut bench = Bench::with_workers(&[2]);
    bench.submit_chain(&[3, 2]);
    let maps = bench.launches();
    bench.finish(&maps[0]);
    let progress = bench.schedule.progress(RUN).unwrap();
    let counts: Vec<_> = progress
        .stages
        .iter()
        .map(|s| (s.total, s.blocked, s.ready, s.running, s.done))
        .collect();
    assert_eq!(counts, [(3, 0, 0, 2, 1), (2, 2, 0, 0, 0)]);
    assert_eq!(progress.tasks(), (1, 5));
}

#[test]
fn malformed_plans_are_refused() {
    let stage = |id, inputs: &[u32]| StageSpec {
        id: StageId(id),
        partitions: 1,
        inputs: inputs.iter().copied().map(StageId).collect(),
        output_partitions: 1,
        repeatable: true,
    };
    let refusal = |stages| RunPlan::new(stages).unwrap_err();
    assert_eq!(refusal(vec![]), PlanError::Empty);
    assert_eq!(
        refusal(vec![stage(1, &[]), stage(1, &[1])]),
        PlanError::DuplicateStage { stage: StageId(1) }
    );
    let not_before = PlanError::InputNotBefore {
        stage: StageId(1),
        input: StageId(2),
    };
    assert_eq!(refusal(vec![stage(1, &[2]), stage(2, &[1])]), not_before);
    assert_eq!(
        refusal(vec![stage(1, &[]), stage(2, &[])]),
        PlanError::Unread { stage: StageId(1) }
    );
}
