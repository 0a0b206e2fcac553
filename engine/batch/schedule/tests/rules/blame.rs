//! Whose fault it was.

use trireme_batch_schedule::{CloseCause, Failure, Millis, RunError, RunId, StageId};

use crate::bench::{Bench, RUN, chain};

fn cast_error(retryable: bool) -> Failure {
    Failure::Application {
        message: "cannot cast".into(),
        retryable,
    }
}

#[test]
fn the_fourth_application_failure_ends_the_run() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1]);
    for _ in 0..3 {
        let launch = bench.launches().pop().unwrap();
        bench.fail(&launch, cast_error(true));
    }
    let launch = bench.launches().pop().unwrap();
    bench.fail(&launch, cast_error(true));
    let error = bench.error().unwrap();
    assert_eq!(
        error.to_string(),
        "stage 0 partition 0 (task 4) failed in attempt 4: cannot cast"
    );
}

#[test]
fn a_failure_that_cannot_be_retried_ends_the_run_at_once() {
    let mut bench = Bench::with_workers(&[1]);
    bench.submit_chain(&[1]);
    let launch = bench.launches().pop().unwrap();
    bench.fail(&launch, cast_error(false));
    assert!(matches!(bench.error(), Some(RunError::Application { attempts: 1, .. })));
}

#[test]
fn losses_are_never_charged_to_the_application() {
    let mut bench = Bench::new();
    bench.submit_chain(&[1]);
    for worker in 1..=6 {
        bench.join(worker, 1);
        let launch = bench.launches().pop().unwrap();
        bench.fail(
            &launch,
            if worker % 2 == 0 {
                cast_error(true)
            } else {
                Failure::Cancelled
            },
        );
        bench.close(worker, CloseCause::Drained);
        assert_eq!(bench.error(), None, "three failures, and any number of losses");
        bench.effects.clear();
        bench.now = bench.now.plus(10_000);
    }
}

#[test]
fn a_refused_task_waits_and_goes_elsewhere() {
    let mut bench = Bench::with_workers(&[1, 1]);
    bench.submit_chain(&[1]);
    let launch = bench.launches().pop().unwrap();
    assert_eq!(launch.worker.0, 1);
    bench.fail(
        &launch,
        Failure::Infrastructure {
            message: "no space left on device".into(),
        },
    );
    assert_eq!(bench.launched(), []);
    bench.tick_after(250);
    assert_eq!(bench.launched(), [(0, 0, 2)]);
}

#[test]
fn the_third_death_is_blamed_on_a_task_that_ran_alone() {
    let mut bench = Bench::new();
    bench.submit_chain(&[2]);
    for worker in 1..=2 {
        bench.join(worker, 2);
        assert_eq!(bench.launched(), [(0, 0, worker), (0, 1, worker)]);
        bench.die(worker);
        assert_eq!(bench.error(), None);
    }
    // Both are suspects now, so they take turns; the innocent one clears itself.
    bench.join(3, 2);
    let innocent = bench.launches();
    assert_eq!(innocent.len(), 1);
    bench.finish(&innocent[0]);
    bench.others();
    bench.fetched(&innocent[0]);
    bench.others();
    assert_eq!(bench.launched(), [(0, 1, 3)]);
    bench.die(3);
    let error = bench.error().unwrap();
    let cause = "worker 3 died: connection reset".to_owned();
    assert_eq!(
        error,
        RunError::Poison {
            stage: StageId(0),
            partition: 1,
            deaths: 3,
            cause
        }
    );
    assert!(bench.schedule.progress(RUN).is_none());
}

/// A worker of two slots that joins, gets these partitions, and dies.
fn die_with(bench: &mut Bench, worker: u64, partitions: &[u32]) {
    bench.join(worker, 2);
    let launched: Vec<u32> = bench.launches().iter().map(|launch| launch.partition).collect();
    assert_eq!(launched, partitions);
    bench.die(worker);
}

#[test]
fn workers_that_die_without_the_task_speak_for_it() {
    let mut bench = Bench::with_workers(&[1]);
    bench.die(1);
    bench.submit_chain(&[1]);
    bench.others();
    for worker in 2..=6 {
        die_with(&mut bench, worker, &[0]);
        assert_eq!(bench.error(), None, "as many more as without the first death");
    }
    die_with(&mut bench, 7, &[0]);
    assert!(matches!(bench.error(), Some(RunError::Poison { deaths: 6, .. })));
}

#[test]
fn they_speak_for_ten_minutes() {
    let mut bench = Bench::with_workers(&[1]);
    bench.die(1);
    bench.effects.clear();
    bench.now = Millis(600_001);
    bench.submit_chain(&[1]);
    for worker in 2..=4 {
        assert_eq!(bench.error(), None);
        die_with(&mut bench, worker, &[0]);
    }
    assert!(matches!(bench.error(), Some(RunError::Poison { deaths: 3, .. })));
}

#[test]
fn a_death_that_another_suspect_explains_speaks_for_nobody() {
    let mut bench = Bench::new();
    bench.submit_chain(&[2]);
    for worker in [1, 3] {
        bench.join(worker, 1);
        bench.join(worker + 1, 1);
        bench.effects.clear();
        bench.die(worker);
        bench.die(worker + 1);
        bench.others();
    }
    die_with(&mut bench, 5, &[0]);
    assert!(matches!(
        bench.error(),
        Some(RunError::Poison {
            partition: 0,
            deaths: 3,
            ..
        })
    ));
}

#[test]
fn silence_and_drain_are_no_deaths() {
    let mut bench = Bench::new();
    bench.submit_chain(&[2]);
    for worker in 1..=6 {
        bench.join(worker, 2);
        assert_eq!(bench.launched(), [(0, 0, worker), (0, 1, worker)], "never isolated");
        if worker % 2 == 0 {
            bench.close(worker, CloseCause::Drained);
        } else {
            bench.pass(10, &[]);
        }
        assert_eq!(bench.error(), None);
    }
}

#[test]
fn suspects_have_a_worker_each_and_the_others_come_after() {
    let mut bench = Bench::with_workers(&[2]);
    bench.submit_chain(&[4]);
    bench.die(1);
    bench.join(2, 2);
    bench.die(2);
    bench.effects.clear();
    // Partitions 0 and 1 are suspects, 2 and 3 have never run; 0 goes first and alone.
    bench.join(3, 2);
    let alone = bench.launches();
    assert_eq!(alone.len(), 1);
    // Another worker joins: the next suspect has it alone too, and only then come the others.
    bench.join(4, 2);
    assert_eq!(bench.launched(), [(0, 1, 4)]);
    bench.finish(&alone[0]);
    bench.others();
    assert_eq!(bench.launched(), [(0, 2, 3), (0, 3, 3)]);
}

#[test]
fn a_busy_worker_is_emptied_for_a_suspect() {
    let mut bench = Bench::new();
    bench.submit_chain(&[1]);
    for worker in 1..=2 {
        bench.join(worker, 1);
        bench.die(worker);
    }
    bench.submit(RunId(0), chain(&[2]));
    bench.effects.clear();
    bench.join(3, 2);
    let earlier = bench.launches();
    assert_eq!(earlier.len(), 2);
    bench.submit(RunId(2), chain(&[1]));

    bench.finish(&earlier[0]);
    bench.others();
    assert_eq!(bench.launched(), [], "the free slot stays free");
    bench.finish(&earlier[1]);
    bench.others();
    let suspect = bench.launches();
    assert_eq!(suspect.len(), 1, "and so does the one beside the suspect");
    bench.finish(&suspect[0]);
    bench.others();
    assert_eq!(bench.launched(), [(0, 0, 3)]);
}
