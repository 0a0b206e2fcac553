//! What a loss costs, and what it never costs.

use trireme_batch_schedule::{CloseCause, Effect, Event, LossReason, Millis, RunError, RunId, TaskId, WorkerId};

use crate::bench::{Bench, RUN, chain};

#[test]
fn a_lost_map_output_re_runs_only_the_lost_partitions() {
    let mut bench = Bench::with_workers(&[2, 2]);
    bench.submit_chain(&[4, 1]);
    let maps = bench.launches();
    for map in &maps {
        bench.finish(map);
    }
    let lost: Vec<u32> = maps
        .iter()
        .filter(|map| map.worker.0 == 2)
        .map(|map| map.partition)
        .collect();
    let reader = bench.launches().pop().unwrap();
    assert_eq!((reader.stage, reader.worker.0), (1, 1));

    bench.die(2);
    assert!(matches!(
        bench.others()[..],
        [Effect::Fence {
            worker: WorkerId(2),
            reason: LossReason::Died { .. }
        }]
    ));
    bench.fail_fetch(&reader, maps.iter().find(|map| map.worker.0 == 2).unwrap());

    // Both slots of the survivor are free by now: it got offers with nobody joining.
    let rerun = bench.launches();
    assert_eq!(
        rerun
            .iter()
            .map(|launch| (launch.stage, launch.partition))
            .collect::<Vec<_>>(),
        [(0, lost[0]), (0, lost[1])]
    );
    rerun.iter().for_each(|launch| bench.finish(launch));
    assert_eq!(bench.launched(), [(1, 0, 1)]);
    assert_eq!(bench.schedule.progress(RUN).unwrap().reruns(), 3);
}

#[test]
fn finished_readers_on_survivors_keep_their_work() {
    let mut bench = Bench::with_workers(&[1, 2]);
    bench.submit_chain(&[1, 3]);
    let map = bench.launches().pop().unwrap();
    assert_eq!(map.worker.0, 2, "the most free slots");
    bench.finish(&map);
    let readers = bench.launches();
    assert_eq!(readers.len(), 3);
    let survivor = readers.iter().find(|reader| reader.worker.0 == 1).unwrap();
    bench.finish(survivor);
    bench.effects.clear();

    bench.die(2);
    bench.others();
    let map_again = bench.launches().pop().unwrap();
    assert_eq!((map_again.stage, map_again.worker.0), (0, 1));
    bench.finish(&map_again);
    let mut again = Vec::new();
    while let Some(reader) = bench.launches().pop() {
        again.push(reader.partition);
        bench.finish(&reader);
        bench.others();
    }
    let lost: Vec<u32> = readers
        .iter()
        .filter(|reader| reader.worker.0 == 2)
        .map(|reader| reader.partition)
        .collect();
    assert_eq!(again, lost);
}

#[test]
fn an_output_whose_readers_are_done_is_not_made_again() {
    let mut bench = Bench::with_workers(&[1, 1]);
    // An earlier run fills worker 1 for a while, so that the map runs on 2 and its readers on 1.
    bench.submit(RunId(0), chain(&[1]));
    let earlier = bench.launches().pop().unwrap();
    bench.submit_chain(&[1, 1, 1]);
    let map = bench.launches().pop().unwrap();
    bench.finish(&earlier);
    bench.effects.clear();
    bench.finish_with_bytes(&map, &[0]);
    let reader = bench.launches().pop().unwrap();
    assert_eq!((map.worker.0, reader.worker.0), (2, 1));
    bench.finish(&reader);
    assert_eq!(bench.launched(), [(2, 0, 1)]);

    bench.die(2);
    assert_eq!(bench.others().len(), 1, "the fence");
    assert_eq!(bench.launched(), []);
    assert_eq!(
        bench.schedule.progress(RUN).unwrap().tasks(),
        (2, 3),
        "it counts as done"
    );
}

#[test]
fn a_result_lost_between_its_task_and_the_fetch_costs_a_re_run_and_re_opens_its_inputs() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1, 1, 1]);
    for _ in 0..3 {
        let launch = bench.launches().pop().unwrap();
        bench.finish(&launch);
    }
    assert!(matches!(
        bench.others()[..],
        [Effect::ReadyToFetch {
            partition: 0,
            worker: WorkerId(1),
            ..
        }]
    ));

    bench.join(2, 1);
    bench.die(1);
    bench.others();

    let mut again = Vec::new();
    for stage in 0..3 {
        let launch = bench.launches().pop().unwrap();
        assert_eq!((launch.stage, launch.worker.0), (stage, 2));
        bench.finish(&launch);
        again.push(launch);
    }
    let task = again[2].task;
    assert!(matches!(
        bench.others()[..],
        [Effect::ReadyToFetch {
            partition: 0,
            worker: WorkerId(2),
            ..
        }]
    ));
    bench.fetched(&again[2]);
    let hand_on = Effect::HandOn {
        run: RUN,
        partition: 0,
        task,
    };
    assert_eq!(bench.others()[..2], [hand_on, Effect::RunSucceeded { run: RUN }]);
}

#[test]
fn a_fetch_that_ends_after_the_loss_counts_and_stops_the_re_run() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[2]);
    let first = bench.launches().pop().unwrap();
    bench.finish(&first);
    bench.join(2, 1);
    bench.die(1);
    bench.others();
    let again = bench.launches().pop().unwrap();
    assert_eq!(again.partition, 0);

    bench.fetched(&first);
    assert_eq!(
        bench.others(),
        [
            Effect::HandOn {
                run: RUN,
                partition: 0,
                task: first.task
            },
            Effect::CancelTask {
                worker: WorkerId(2),
                task: again.task
            }
        ]
    );
    // Its late finish is not offered: the driver has that partition. Told so twice, it hears nothing; a second copy is
    // not to be seen.
    bench.fetched(&first);
    bench.finish(&again);
    assert_eq!(bench.launched(), [(0, 1, 2)]);
    bench.fetched(&again);
    assert_eq!(
        bench.others(),
        [Effect::Discard {
            run: RUN,
            task: again.task
        }]
    );
}

#[test]
fn an_unreadable_result_is_offered_again_and_then_made_again() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1]);
    let task = bench.launches().pop().unwrap();
    bench.finish(&task);
    let ready = bench.others();
    let failed = |task| Event::ResultFetchFailed {
        run: RUN,
        partition: 0,
        task,
    };

    bench.step(failed(task.task));
    assert_eq!(bench.others(), [], "nothing while the worker is in doubt");
    bench.beat(1);
    assert_eq!(bench.others(), ready);
    bench.step(failed(TaskId(99)));
    assert_eq!(bench.others(), [], "a failure of another attempt says nothing");
    bench.step(failed(task.task));
    bench.beat(1);
    assert_eq!(bench.launched(), [(0, 0, 1)]);
}

#[test]
fn silence_is_a_loss_and_a_zombie_changes_nothing() {
    let mut bench = Bench::with_workers(&[1, 1]);
    bench.submit_chain(&[1]);
    let launch = bench.launches().pop().unwrap();
    let (zombie, other) = (launch.worker.0, 3 - launch.worker.0);

    bench.pass(9, &[other]);
    assert_eq!(bench.others(), []);
    bench.pass(1, &[other]);
    let reason = LossReason::Silent { silent_ms: 10_000 };
    assert_eq!(
        bench.others(),
        [Effect::Fence {
            worker: launch.worker,
            reason
        }]
    );
    let again = bench.launches().pop().unwrap();
    assert_eq!(again.worker.0, other);

    bench.beat(zombie);
    bench.finish(&launch);
    bench.join(zombie, 4);
    bench.drain(zombie);
    bench.die(zombie);
    assert_eq!(bench.effects, []);
    bench.finish(&again);
    assert!(matches!(bench.effects[..], [Effect::ReadyToFetch { task, .. }] if task == again.task));
}

#[test]
fn a_driver_that_overslept_accuses_nobody() {
    let mut bench = Bench::with_workers(&[1]);
    bench.tick_after(1_000);

    bench.tick_after(60_000);
    assert_eq!(bench.effects, []);
    bench.pass(10, &[]);
    assert!(
        matches!(bench.effects[..], [Effect::Fence { .. }]),
        "the next silence counts"
    );
}

#[test]
fn repeated_and_unknown_reports_change_nothing() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1]);
    let launch = bench.launches().pop().unwrap();
    bench.finish(&launch);
    bench.effects.clear();

    bench.finish(&launch);
    bench.join(1, 8);
    bench.submit_chain(&[5]);
    bench.step(Event::TaskFinished {
        worker: WorkerId(1),
        task: TaskId(77),
        output: vec![],
    });
    bench.beat(42);
    assert_eq!(bench.effects, []);
}

#[test]
fn a_replacement_takes_over_when_nobody_is_left() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1]);
    bench.effects.clear();
    bench.die(1);
    bench.others();
    bench.pass(299, &[]);
    assert_eq!(
        bench.schedule.progress(RUN).unwrap().waiting_for_workers_since,
        Some(Millis(0))
    );

    bench.join(2, 1);
    assert_eq!(bench.launched(), [(0, 0, 2)]);
    assert_eq!(bench.schedule.progress(RUN).unwrap().waiting_for_workers_since, None);
}

#[test]
fn a_run_waits_five_minutes_for_a_worker() {
    let mut bench = Bench::new();
    bench.submit_chain(&[1]);
    bench.pass(299, &[]);
    assert_eq!(bench.effects, []);

    bench.pass(1, &[]);
    assert_eq!(bench.error(), Some(RunError::NoWorkers { waited_ms: 300_000 }));
}

#[test]
fn nothing_loops_for_ever() {
    let mut bench = Bench::new();
    bench.submit_chain(&[1]);
    for worker in 1..=20 {
        bench.join(worker, 1);
        bench.close(worker, CloseCause::Drained);
        assert_eq!(bench.error(), None);
    }
    bench.join(21, 1);
    bench.close(21, CloseCause::Drained);
    assert!(matches!(
        bench.error(),
        Some(RunError::InfrastructureBudget { losses: 21, .. })
    ));
}

#[test]
fn a_reader_that_cannot_read_waits_for_a_sign_of_life_of_the_producer() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1, 1]);
    let map = bench.launches().pop().unwrap();
    bench.finish(&map);
    let reader = bench.launches().pop().unwrap();
    // Worker 1 drains, so that the next attempt goes to 2.
    bench.drain(1);
    bench.join(2, 1);

    bench.fail_fetch(&reader, &map);
    assert_eq!(
        bench.effects,
        [],
        "worker 1 may be dead, and the attempt would be wasted"
    );
    bench.beat(1);
    let second = bench.launches().pop().unwrap();
    assert_eq!((second.stage, second.worker.0), (1, 2));
    assert_eq!(second.inputs[0].outputs[0].task, map.task);

    bench.fail_fetch(&second, &map);
    bench.others();
    assert_eq!(bench.launched(), [(0, 0, 2)], "the second failure condemns the output");
}

#[test]
fn many_failures_of_one_outage_count_once() {
    let mut bench = Bench::with_workers(&[3]);
    bench.submit_chain(&[1, 3]);
    let map = bench.launches().pop().unwrap();
    // The readers run on worker 2, so that no report of theirs is a sign of life of the producer.
    bench.drain(1);
    bench.join(2, 3);
    bench.finish(&map);
    let readers = bench.launches();
    readers.iter().for_each(|reader| bench.fail_fetch(reader, &map));
    bench.beat(1);
    let readers = bench.launches();
    assert_eq!(
        readers
            .iter()
            .map(|reader| (reader.stage, reader.worker.0))
            .collect::<Vec<_>>(),
        [(1, 2); 3]
    );

    bench.finish(&readers[0]);
    bench.others();
    bench.fail_fetch(&readers[1], &map);
    bench.others();
    assert_eq!(bench.launched(), [(0, 0, 2)], "the second outage condemns the output");
}

#[test]
fn a_worker_that_nobody_can_read_from_is_given_up() {
    let mut bench = Bench::with_workers(&[3]);
    bench.submit_chain(&[3]);
    let results = bench.launches();
    results.iter().for_each(|result| bench.finish(result));
    bench.effects.clear();
    for result in &results {
        for _ in 0..2 {
            bench.step(Event::ResultFetchFailed {
                run: RUN,
                partition: result.partition,
                task: result.task,
            });
            let gave_up = bench.others().contains(&Effect::Fence {
                worker: WorkerId(1),
                reason: LossReason::Unreadable { outputs: 3 },
            });
            if gave_up {
                return assert_eq!(result.partition, 2);
            }
            bench.beat(1);
        }
    }
    panic!("six failed fetches from one worker changed nothing");
}

#[test]
fn a_worker_that_is_said_to_be_gone_is_lost_at_once_and_nobody_is_blamed() {
    let mut bench = Bench::new();
    bench.submit_chain(&[1]);
    // More often than a task may be on board of a worker that dies.
    for worker in 1..=6 {
        bench.join(worker, 1);
        let launch = bench.launches().pop().unwrap();
        bench.close(worker, CloseCause::Gone);
        let fence = Effect::Fence {
            worker: launch.worker,
            reason: LossReason::Gone,
        };
        assert_eq!(bench.effects, [fence]);
        bench.effects.clear();
        // The word comes twice, and its stream ends too.
        bench.close(worker, CloseCause::Gone);
        bench.die(worker);
        bench.finish(&launch);
        assert_eq!(bench.effects, []);
    }
    bench.join(7, 1);
    let launch = bench.launches().pop().unwrap();
    bench.finish(&launch);
    bench.fetched(&launch);
    assert!(bench.others().contains(&Effect::RunSucceeded { run: RUN }));
}
