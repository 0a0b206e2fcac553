//! Draining: what a leaving worker waits for.

use trireme_batch_schedule::{CloseCause, DrainWait, Effect, LossReason, WorkerId};

use crate::bench::Bench;

const LEAVER: WorkerId = WorkerId(1);

#[test]
fn an_idle_worker_leaves_at_once_for_ever() {
    let mut bench = Bench::with_workers(&[1]);
    bench.drain(1);
    assert_eq!(bench.others(), [Effect::ReleaseWorker { worker: LEAVER }]);
    bench.join(1, 1);
    bench.submit_chain(&[1]);
    assert_eq!(bench.launched(), []);
}

#[test]
fn a_draining_worker_finishes_its_tasks_and_stays_while_its_outputs_are_read() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1, 1, 1]);
    let map = bench.launches().pop().unwrap();
    bench.drain(1);
    assert_eq!(
        bench.schedule.drain_wait(LEAVER),
        Some(DrainWait {
            running: 1,
            outputs_needed: 0
        })
    );
    bench.finish(&map);
    assert_eq!(
        bench.schedule.drain_wait(LEAVER),
        Some(DrainWait {
            running: 0,
            outputs_needed: 1
        })
    );

    bench.join(2, 1);
    let reader = bench.launches().pop().unwrap();
    assert_eq!(reader.worker.0, 2);
    assert_eq!(bench.others(), []);
    bench.finish(&reader);
    assert_eq!(bench.others(), [Effect::ReleaseWorker { worker: LEAVER }]);
    assert_eq!(bench.launched(), [(2, 0, 2)]);
    assert_eq!(bench.schedule.drain_wait(LEAVER), None);
}

#[test]
fn a_draining_worker_stays_until_its_result_is_fetched() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1]);
    let result = bench.launches().pop().unwrap();
    bench.drain(1);
    bench.finish(&result);
    assert!(matches!(bench.others()[..], [Effect::ReadyToFetch { .. }]));
    bench.fetched(&result);
    assert_eq!(bench.others().last(), Some(&Effect::ReleaseWorker { worker: LEAVER }));
}

#[test]
fn a_drain_cut_short_costs_a_re_run_and_blames_nobody() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1]);
    bench.effects.clear();
    bench.drain(1);
    bench.close(1, CloseCause::Drained);
    bench.join(2, 1);
    assert_eq!(
        bench.others(),
        [Effect::Fence {
            worker: LEAVER,
            reason: LossReason::Drained
        }]
    );
    assert_eq!(bench.launched(), [(0, 0, 2)]);
}
