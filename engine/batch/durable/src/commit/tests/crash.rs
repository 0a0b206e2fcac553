//! A driver dies at every operation, before it took effect and after; so does the driver that follows. Whatever
//! happens, a reader sees the old data or the new, and the last driver leaves the new data, once.

use std::sync::Arc;

use bytes::Bytes;

use super::bench::*;
use crate::commit::*;

const DEATHS: [Death; 2] = [Death::Before, Death::After];

/// What the destination held before: nothing, or another job's write and a file that somebody put there.
#[derive(Debug, Clone, Copy)]
struct Story {
    mode: WriteMode,
    occupied: bool,
}

const STORIES: [Story; 4] = [
    Story {
        mode: WriteMode::Append,
        occupied: false,
    },
    Story {
        mode: WriteMode::Append,
        occupied: true,
    },
    Story {
        mode: WriteMode::Create,
        occupied: false,
    },
    Story {
        mode: WriteMode::Overwrite,
        occupied: true,
    },
];

impl Story {
    async fn prepare(self, ground: &Ground) {
        if self.occupied {
            let store = ground.store();
            store.put("old.txt", Bytes::from_static(b"plain")).await.unwrap();
            drive(store, request("old", 1, WriteMode::Append)).await.unwrap();
        }
    }

    fn before(self) -> Vec<String> {
        let mut contents = if self.occupied { result("old") } else { Vec::new() };
        contents.extend(self.occupied.then(|| "plain".to_owned()));
        contents
    }

    fn after(self) -> Vec<String> {
        let mut contents = result("new");
        if self.mode != WriteMode::Overwrite {
            contents.extend(self.before());
        }
        contents.sort_unstable();
        contents
    }

    /// All or nothing; and the old data in full as long as the new is not there.
    async fn assert_whole(self, ground: &Ground, when: &str) -> bool {
        let (contents, unfinished) = ground.read().await;
        let done = contents == self.after();
        assert!(done || contents == self.before(), "{self:?} {when}: {contents:?}");
        assert!(!done || unfinished.is_empty(), "{self:?} {when}: {unfinished:?}");
        done
    }

    async fn assert_done(self, ground: &Ground, when: &str) {
        assert!(self.assert_whole(ground, when).await, "{self:?} {when}");
        assert_eq!(ground.read_as_a_stranger().await, self.after(), "{self:?} {when}");
        ground.assert_tidy().await;
    }
}

/// One driver that dies at operation `at`, on ground that is prepared. Whether it lived to the end.
async fn live_until(ground: &Ground, story: Story, generation: u64, at: usize, death: Death) -> bool {
    let fuse = Fuse::after(at, death);
    let outcome = drive(ground.mortal(Arc::clone(&fuse)), request("new", generation, story.mode)).await;
    assert!(outcome.is_ok() || fuse.is_blown(), "{story:?}: {outcome:?}");
    !fuse.is_blown()
}

async fn crash_everywhere(ground: fn() -> Ground, story: Story) -> usize {
    for at in 0.. {
        for death in DEATHS {
            let ground = ground();
            story.prepare(&ground).await;
            let lived = live_until(&ground, story, 1, at, death).await;
            let when = format!("{death:?} operation {at}");
            let done = story.assert_whole(&ground, &when).await;
            if lived {
                story.assert_done(&ground, &when).await;
                return at;
            }
            let second = drive(ground.store(), request("new", 2, story.mode)).await.unwrap();
            assert!(!(done && second.created), "{story:?} {when}: committed twice");
            story.assert_done_by_successor(&ground, &when).await;
        }
    }
    unreachable!("a driver with operations enough lives")
}

impl Story {
    /// As `assert_done`, once somebody also swept up what the dead driver's tasks left.
    async fn assert_done_by_successor(self, ground: &Ground, when: &str) {
        assert_eq!(
            ground.committer().recover().await.unwrap().rolled_forward,
            [],
            "{self:?} {when}"
        );
        self.assert_done(ground, when).await;
        let third = drive(ground.store(), request("new", 3, self.mode)).await.unwrap();
        assert!(!third.created);
        self.assert_done(ground, when).await;
    }
}

#[tokio::test]
async fn a_driver_may_die_at_any_operation_on_a_local_destination() {
    for story in STORIES {
        let operations = crash_everywhere(Ground::local, story).await;
        assert!(operations >= 10, "{story:?} has only {operations} operations");
    }
}

#[tokio::test]
async fn a_driver_may_die_at_any_operation_on_an_object_store() {
    for story in STORIES {
        let operations = crash_everywhere(Ground::objects, story).await;
        assert!(operations >= 15, "{story:?} has only {operations} operations");
    }
}

#[tokio::test]
async fn the_next_driver_may_die_at_any_operation_too() {
    for story in STORIES {
        for (first, death) in (0..).flat_map(|at| DEATHS.map(|death| (at, death))) {
            let ground = Ground::objects();
            story.prepare(&ground).await;
            if live_until(&ground, story, 1, first, death).await {
                break;
            }
            let Ground::Objects(memory) = &ground else {
                unreachable!("made so above")
            };
            for (second, death) in (0..).flat_map(|at| DEATHS.map(|death| (at, death))) {
                let fork = Ground::Objects(memory.fork());
                let lived = live_until(&fork, story, 2, second, death).await;
                let when = format!("first at {first}, second {death:?} {second}");
                story.assert_whole(&fork, &when).await;
                if lived {
                    break;
                }
                drive(fork.store(), request("new", 3, story.mode)).await.unwrap();
                story.assert_done_by_successor(&fork, &when).await;
            }
        }
    }
}

/// Recovery without a driver, as a reader with the right to write would do it: finishes what is recorded, decides
/// nothing.
#[tokio::test]
async fn anyone_can_finish_a_recorded_write_and_nobody_an_unrecorded_one() {
    for story in STORIES {
        let mut recorded = 0;
        for (at, death) in (0..).flat_map(|at| DEATHS.map(|death| (at, death))) {
            let ground = Ground::objects();
            story.prepare(&ground).await;
            if live_until(&ground, story, 1, at, death).await {
                break;
            }
            let is_recorded = ground.committer().begin(request("new", 1, WriteMode::Append)).await;
            let Ground::Objects(memory) = &ground else {
                unreachable!("made so above")
            };
            let fork = Ground::Objects(memory.fork());
            for again in 0..2 {
                let recovered = fork.committer().recover().await.unwrap().rolled_forward;
                assert!(again == 0 || recovered.is_empty());
            }
            let done = story.assert_whole(&fork, &format!("{death:?} operation {at}")).await;
            assert_eq!(done, matches!(is_recorded.unwrap(), Begin::Committed(_)));
            if done {
                recorded += 1;
                story.assert_done(&fork, &format!("{death:?} operation {at}")).await;
            }
        }
        assert!(recorded >= 8, "{story:?}: {recorded}");
    }
}
