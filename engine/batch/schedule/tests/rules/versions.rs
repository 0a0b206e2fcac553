//! What the loss of an output costs that cannot be made again as it was.

use trireme_batch_schedule::{CloseCause, Effect, StageId, StageSpec, WorkerId};

use crate::bench::{Bench, Launch, RUN, chain};

/// A chain whose first stage is not repeatable.
fn unrepeatable(partitions: &[u32]) -> Vec<StageSpec> {
    let mut stages = chain(partitions);
    stages[0].repeatable = false;
    stages
}

fn rolled_back() -> Effect {
    Effect::RolledBack {
        run: RUN,
        stage: StageId(0),
    }
}

fn cancel(launch: &Launch) -> Effect {
    Effect::CancelTask {
        worker: launch.worker,
        task: launch.task,
    }
}

fn hand_on(launch: &Launch) -> Effect {
    Effect::HandOn {
        run: RUN,
        partition: launch.partition,
        task: launch.task,
    }
}

fn discard(launch: &Launch) -> Effect {
    Effect::Discard {
        run: RUN,
        task: launch.task,
    }
}

/// The only task there is to launch, finished.
fn run_one(bench: &mut Bench) -> Launch {
    let launch = bench.launches().pop().unwrap();
    bench.finish(&launch);
    launch
}

/// Finishes all that is launched until nothing is: the stages and partitions.
fn finish_all(bench: &mut Bench) -> Vec<(u32, u32)> {
    let mut finished = Vec::new();
    loop {
        bench.others();
        let launches = bench.launches();
        if launches.is_empty() {
            return finished;
        }
        for launch in launches {
            bench.finish(&launch);
            finished.push((launch.stage, launch.partition));
        }
    }
}

/// The first stage on worker 1, which drains, so that all else runs on worker 2 with these slots.
fn first_stage_on_worker_1(partitions: &[u32], slots: u32) -> Bench {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit(RUN, unrepeatable(partitions));
    bench.drain(1);
    run_one(&mut bench);
    bench.join(2, slots);
    bench
}

#[test]
fn all_readers_of_a_lost_version_start_over() {
    let mut bench = first_stage_on_worker_1(&[1, 3, 1], 2);
    let readers = bench.launches();
    bench.finish(&readers[0]);
    let third = bench.launches().pop().unwrap();

    bench.close(1, CloseCause::Drained);
    assert_eq!(
        bench.others()[1..],
        [cancel(&readers[1]), cancel(&third), rolled_back()],
        "those that run are stopped"
    );
    assert_eq!(bench.launched(), [], "their slots are not free yet");
    bench.finish(&readers[1]);
    bench.finish(&third);
    let again = finish_all(&mut bench);
    assert_eq!(again, [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)], "finished ones too");
}

#[test]
fn a_version_that_nobody_has_read_costs_no_more_than_any_other_output() {
    let mut bench = Bench::with_workers(&[1, 1]);
    bench.submit(RUN, unrepeatable(&[2, 1]));
    let maps = bench.launches();
    bench.finish(&maps[0]);
    bench.die(maps[0].worker.0);
    assert_eq!(bench.others().len(), 1, "the fence");
    bench.finish(&maps[1]);
    assert_eq!(bench.launched(), [(0, maps[0].partition, maps[1].worker.0)]);
}

#[test]
fn a_lost_version_is_left_alone_until_it_is_needed_again() {
    let mut bench = first_stage_on_worker_1(&[1, 2, 1], 2);
    let readers = bench.launches();
    readers.iter().for_each(|reader| bench.finish(reader));
    let released = Effect::ReleaseWorker { worker: WorkerId(1) };
    assert_eq!(bench.others(), [released], "with the version on it");

    for _ in 0..2 {
        let result = bench.launches().pop().unwrap();
        bench.fail_fetch(&result, &readers[1]);
        assert!(bench.others().len() <= 1);
        bench.beat(2);
    }
    bench.others();
    let again = finish_all(&mut bench);
    assert_eq!(again, [(0, 0), (1, 0), (1, 1), (2, 0)], "the other reader too");
}

#[test]
fn what_does_not_derive_from_the_version_keeps_its_work() {
    let mut stages = chain(&[1, 1, 2]);
    stages[0].repeatable = false;
    stages[1].inputs.clear();
    stages[2].inputs = vec![StageId(0), StageId(1)];
    let mut bench = Bench::with_workers(&[1, 1]);
    bench.submit(RUN, stages);
    let inputs = bench.launches();
    inputs.iter().for_each(|input| bench.finish(input));
    let results = bench.launches();
    bench.die(inputs[0].worker.0);
    // What the cancelled one reports frees the slot.
    results.iter().for_each(|result| bench.finish(result));
    assert_eq!(finish_all(&mut bench), [(0, 0), (2, 0), (2, 1)]);
}

#[test]
fn results_are_handed_on_when_none_can_be_void_any_more() {
    let mut bench = first_stage_on_worker_1(&[1, 2], 2);
    let results = bench.launches();
    bench.finish(&results[0]);
    bench.fetched(&results[0]);
    bench.finish(&results[1]);
    bench.others();

    bench.die(2);
    bench.join(3, 2);
    assert_eq!(bench.others()[1..], [discard(&results[0]), rolled_back()]);
    bench.fetched(&results[1]);
    assert_eq!(bench.others(), [discard(&results[1])], "it was on its way");

    run_one(&mut bench);
    let results = bench.launches();
    for result in &results {
        assert_eq!(bench.others(), []);
        bench.finish(result);
        bench.others();
        bench.fetched(result);
    }
    let over = Effect::RunSucceeded { run: RUN };
    assert_eq!(bench.others()[..3], [hand_on(&results[0]), hand_on(&results[1]), over]);
}

#[test]
fn a_result_that_differs_is_fetched_once_and_handed_on_at_once() {
    let mut bench = Bench::with_workers(&[2]);
    bench.submit(RUN, unrepeatable(&[2]));
    let results = bench.launches();
    bench.finish(&results[0]);
    bench.others();
    bench.fetched(&results[0]);
    assert_eq!(bench.others(), [hand_on(&results[0])]);
    bench.join(2, 1);
    bench.die(1);
    assert_eq!(bench.others().len(), 1, "the fence");
    assert_eq!(bench.launched(), [(0, 1, 2)]);
}
