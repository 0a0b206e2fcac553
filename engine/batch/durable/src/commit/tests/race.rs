//! Drivers and readers that run at once, interleaved operation by operation in random turns.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;

use super::bench::*;
use crate::commit::*;

/// Who goes next, and for how many operations. Long turns matter: a driver that stands still while others do a great
/// deal is what breaks protocols.
type Turn = (prop::sample::Index, usize);

/// Polls one or the other, as the turns say, until all are done.
fn interleave<T>(mut futures: Vec<BoxFuture<'_, T>>, turns: &[Turn]) -> Vec<T> {
    let mut outputs: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut context = Context::from_waker(futures::task::noop_waker_ref());
    for (who, operations) in turns.iter().cycle() {
        let open: Vec<_> = (0..outputs.len()).filter(|index| outputs[*index].is_none()).collect();
        let Some(&index) = open.get(who.index(open.len().max(1))) else {
            break;
        };
        for _ in 0..*operations {
            if let Poll::Ready(output) = Pin::new(&mut futures[index]).poll(&mut context) {
                outputs[index] = Some(output);
                break;
            }
        }
    }
    outputs.into_iter().map(Option::unwrap).collect()
}

/// A destination whose every operation lets others go first.
fn shared(ground: &Ground) -> Arc<dyn PartStore> {
    MortalParts::new(ground.store(), Fuse::none())
}

async fn prepared(ground: &Ground, request: &WriteRequest) -> Vec<PartReceipt> {
    write_parts(&*ground.store(), request).await.unwrap()
}

async fn race(store: Arc<dyn PartStore>, request: WriteRequest, parts: Vec<PartReceipt>) -> Result<bool, CommitError> {
    let committer = Committer::new(store);
    match committer.begin(request).await? {
        Begin::Committed(_) => Ok(false),
        Begin::Permit(permit) => Ok(committer.commit(&permit, schema(), parts).await?.created),
    }
}

/// The writes that a reader sees, each with the number of its files; plain files under their name.
async fn look(store: Arc<dyn PartStore>) -> Look {
    let files = match Committer::new(store).visible().await {
        Ok(Visible::Files { files, .. }) => files,
        Ok(Visible::NotTrireme) => return Vec::new(),
        // It says so rather than show a mixture.
        Err(CommitError::Visible {
            source: VisibleError::Unsettled { .. },
            ..
        }) => return Vec::new(),
        Err(error) => panic!("{error:?}"),
    };
    let mut seen: Vec<(String, u32)> = Vec::new();
    for file in files {
        let label = PartName::try_from(file.name.clone()).map_or(file.name, |part| part.write_id().to_string());
        match seen.iter_mut().find(|(known, _)| *known == label) {
            Some((_, count)) => *count += 1,
            None => seen.push((label, 1)),
        }
    }
    seen.sort_unstable();
    seen
}

async fn look_often(store: Arc<dyn PartStore>) -> Vec<Look> {
    let mut looks = Vec::new();
    for _ in 0..6 {
        looks.push(look(Arc::clone(&store)).await);
    }
    looks
}

fn whole(writes: &[&str]) -> Look {
    writes.iter().map(|write| ((*write).to_owned(), PARTITIONS)).collect()
}

enum Outcome {
    Wrote(Result<bool, CommitError>),
    Saw(Vec<Look>),
}

/// What a reader saw: writes, each with the number of its files.
type Look = Vec<(String, u32)>;

/// Runs writers and one reader at once; returns what became of each writer, what was seen on the way, and what is there
/// in the end.
fn run(
    ground: &Ground,
    requests: &[WriteRequest],
    turns: &[Turn],
) -> (Vec<Result<bool, CommitError>>, Vec<Look>, Look) {
    // Pieces of an upload are sent by tasks of their own, which need a runtime; the race itself is polled by hand.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _inside = runtime.enter();
    let mut futures: Vec<BoxFuture<'_, Outcome>> = Vec::new();
    for request in requests {
        let parts = runtime.block_on(prepared(ground, request));
        futures.push(race(shared(ground), request.clone(), parts).map(Outcome::Wrote).boxed());
    }
    futures.push(look_often(shared(ground)).map(Outcome::Saw).boxed());
    let (mut wrote, mut saw) = (Vec::new(), Vec::new());
    for outcome in interleave(futures, turns) {
        match outcome {
            Outcome::Wrote(outcome) => wrote.push(outcome),
            Outcome::Saw(looks) => saw.extend(looks),
        }
    }
    let end = runtime.block_on(look(ground.store()));
    assert!(
        runtime
            .block_on(ground.names())
            .iter()
            .any(|name| name == layout::SUCCESS)
    );
    (wrote, saw, end)
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    prop::collection::vec(
        (any::<prop::sample::Index>(), prop_oneof![1..4usize, 4..80usize]),
        1..80,
    )
}

fn created(outcomes: &[Result<bool, CommitError>]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, Ok(true))).count()
}

proptest! {
    /// Two drivers of one job: one record, and the older may learn that it is stale, never that it won later.
    #[test]
    fn of_two_drivers_exactly_one_commits(turns in turns()) {
        let ground = Ground::objects();
        let requests = [1, 2].map(|generation| request("new", generation, WriteMode::Append));
        let (outcomes, saw, end) = run(&ground, &requests, &turns);
        prop_assert_eq!(created(&outcomes), 1, "{:?}", outcomes);
        prop_assert!(outcomes[1].is_ok(), "{:?}", outcomes);
        let stale = matches!(&outcomes[0], Err(CommitError::Stale { by, .. }) if *by == crate::Generation::new(2));
        prop_assert!(outcomes[0].is_ok() || stale, "{:?}", outcomes);
        prop_assert_eq!(&end, &whole(&["new"]));
        for look in saw {
            prop_assert!(look.is_empty() || look == whole(&["new"]), "{:?}", look);
        }
    }

    /// Two jobs that create one table: one succeeds, the other is told.
    #[test]
    fn of_two_creations_exactly_one_succeeds(turns in turns()) {
        let ground = Ground::objects();
        let requests = ["a", "b"].map(|write| request(write, 1, WriteMode::Create));
        let (outcomes, saw, end) = run(&ground, &requests, &turns);
        prop_assert_eq!(created(&outcomes), 1, "{:?}", outcomes);
        let told = outcomes.iter().filter(|outcome| matches!(outcome, Err(CommitError::Exists { .. }))).count();
        prop_assert_eq!(told, 1, "{:?}", outcomes);
        let winner = if matches!(outcomes[0], Ok(true)) { "a" } else { "b" };
        prop_assert_eq!(end, whole(&[winner]));
        for look in saw {
            prop_assert!(look.is_empty() || look == whole(&[winner]), "{:?}", look);
        }
    }

    /// Appends and overwrites of different jobs end as if one had come after the other, and no reader sees a mixture.
    #[test]
    fn writes_of_different_jobs_are_serial(
        modes in prop::collection::vec(prop_oneof![Just(WriteMode::Append), Just(WriteMode::Overwrite)], 3),
        turns in turns(),
    ) {
        let ground = Ground::objects();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(ground.store().put("old.txt", Bytes::from_static(b"plain"))).unwrap();
        runtime.block_on(drive(ground.store(), request("old", 1, WriteMode::Append))).unwrap();

        let writes = ["a", "b", "c"];
        let requests: Vec<_> = writes.iter().zip(&modes).map(|(write, mode)| request(write, 1, *mode)).collect();
        let (outcomes, saw, end) = run(&ground, &requests, &turns);
        prop_assert_eq!(created(&outcomes), 3, "{:?}", outcomes);
        let order = runtime.block_on(order_of_commits(&ground));
        let mut states = vec![vec![("old".to_owned(), PARTITIONS), ("old.txt".to_owned(), 1)]];
        for write in &order {
            let mode = modes[writes.iter().position(|known| known == write).unwrap()];
            let mut state = if mode == WriteMode::Overwrite { Vec::new() } else { states.last().unwrap().clone() };
            state.push((write.clone(), PARTITIONS));
            state.sort_unstable();
            states.push(state);
        }
        prop_assert_eq!(&end, states.last().unwrap());
        let strangers_files = runtime.block_on(ground.read_as_a_stranger()).len() as u32;
        let files = end.iter().map(|(_, files)| files).sum::<u32>();
        prop_assert_eq!(strangers_files, files, "an overwritten part came back");
        for look in saw {
            // Appends that overlap may be completed in another order than they were recorded in; but each is all there,
            // and old data goes only when an overwrite takes its place.
            let whole = |(write, files): &(String, u32)| *files == if write == "old.txt" { 1 } else { PARTITIONS };
            prop_assert!(look.iter().all(whole));
            let overwritten = !look.iter().any(|(write, _)| write == "old");
            let overwrites = look.iter().any(|(write, _)| {
                writes.iter().position(|known| known == write).is_some_and(|at| modes[at] == WriteMode::Overwrite)
            });
            prop_assert!(look.is_empty() || overwritten == overwrites, "{:?}", look);
            prop_assert_eq!(look.iter().any(|(write, _)| write == "old.txt"), !look.is_empty() && !overwritten);
        }
    }
}

async fn order_of_commits(ground: &Ground) -> Vec<String> {
    let store = ground.store();
    let mut order = Vec::new();
    for number in 1.. {
        let Some(body) = store.read(&layout::entry_name(number)).await.unwrap() else {
            break;
        };
        if let LogEntry::Commit(record) = LogEntry::decode(&body).unwrap() {
            order.push(record.write_id.to_string());
        }
    }
    order
}
