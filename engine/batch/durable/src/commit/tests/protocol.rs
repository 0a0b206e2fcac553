//! The protocol step by step: stale drivers, refused destinations, wrong parts, losers, damage, plain files.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::bench::*;
use crate::Generation;
use crate::commit::*;

async fn begin(ground: &Ground, request: &WriteRequest) -> CommitPermit {
    match ground.committer().begin(request.clone()).await.unwrap() {
        Begin::Permit(permit) => permit,
        Begin::Committed(record) => panic!("already committed: {record:?}"),
    }
}

async fn write(ground: &Ground, request: &WriteRequest) -> Vec<PartReceipt> {
    write_parts(&*ground.store(), request).await.unwrap()
}

#[tokio::test]
async fn a_stale_driver_can_never_commit_once_its_successor_has_begun() {
    for ground in Ground::both() {
        let [old, new] = [1, 2].map(|generation| request("w", generation, WriteMode::Append));
        let zombie = begin(&ground, &old).await;
        let zombie_parts = write(&ground, &old).await;
        let permit = begin(&ground, &new).await;

        for _ in 0..2 {
            let refused = ground
                .committer()
                .commit(&zombie, schema(), zombie_parts.clone())
                .await
                .unwrap_err();
            assert!(
                matches!(refused, CommitError::Stale { by, .. } if by == Generation::new(2)),
                "{refused:?}"
            );
        }
        let refused = ground.committer().begin(old.clone()).await.unwrap_err();
        assert!(matches!(refused, CommitError::Stale { .. }), "{refused:?}");
        assert_eq!(ground.read().await.0, Vec::<String>::new());

        let parts = write(&ground, &new).await;
        assert!(
            ground
                .committer()
                .commit(&permit, schema(), parts)
                .await
                .unwrap()
                .created
        );
        let refused = ground
            .committer()
            .commit(&zombie, schema(), zombie_parts)
            .await
            .unwrap_err();
        assert!(matches!(refused, CommitError::Stale { .. }), "{refused:?}");
        assert_eq!(ground.read().await.0, result("w"));
    }
}

#[tokio::test]
async fn a_commit_by_the_older_driver_before_its_successor_began_stands() {
    for ground in Ground::both() {
        drive(ground.store(), request("w", 1, WriteMode::Append)).await.unwrap();
        let begun = ground
            .committer()
            .begin(request("w", 2, WriteMode::Append))
            .await
            .unwrap();
        let Begin::Committed(record) = begun else {
            panic!("{begun:?}")
        };
        assert_eq!(
            (record.generation, record.rows(), record.bytes()),
            (Generation::FIRST, 3, 9)
        );
    }
}

#[tokio::test]
async fn committing_again_changes_nothing() {
    for ground in Ground::both() {
        let request = request("w", 1, WriteMode::Append);
        let permit = begin(&ground, &request).await;
        let parts = write(&ground, &request).await;
        let first = ground
            .committer()
            .commit(&permit, schema(), parts.clone())
            .await
            .unwrap();
        let mut doubled = parts.clone();
        doubled.extend(parts);
        let again = ground.committer().commit(&permit, schema(), doubled).await.unwrap();
        assert_eq!((first.created, again.created), (true, false));
        assert_eq!(first.record, again.record);
        assert_eq!(ground.read().await.0, result("w"));
    }
}

#[tokio::test]
async fn a_creation_fails_before_its_tasks_run_where_data_is() {
    for ground in Ground::both() {
        ground.store().put("old.csv", Bytes::from_static(b"1")).await.unwrap();
        let refused = ground
            .committer()
            .begin(request("w", 1, WriteMode::Create))
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, CommitError::Exists { holds, .. } if holds == "old.csv"),
            "{refused:?}"
        );

        ground.store().remove("old.csv").await.unwrap();
        let empty = request("empty", 1, WriteMode::Append);
        let permit = begin(&ground, &empty).await;
        ground.committer().commit(&permit, schema(), Vec::new()).await.unwrap();
        let refused = ground
            .committer()
            .begin(request("w", 1, WriteMode::Create))
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, CommitError::Exists { holds, .. } if holds.contains("job of empty")),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn hidden_files_do_not_make_a_destination_occupied() {
    for ground in Ground::both() {
        ground.store().put("_SUCCESS", Bytes::new()).await.unwrap();
        ground.store().put(".hidden", Bytes::new()).await.unwrap();
        drive(ground.store(), request("w", 1, WriteMode::Create)).await.unwrap();
        assert_eq!(ground.read().await.0, result("w"));
    }
}

#[tokio::test]
async fn parts_that_are_not_one_result_are_refused() {
    let ground = Ground::local();
    let mine = request("w", 2, WriteMode::Append);
    let permit = begin(&ground, &mine).await;
    let good = write(&ground, &mine).await;
    let store = ground.store();
    let wrong = [
        (
            "it belongs to another write",
            write_part(&*store, &request("v", 2, WriteMode::Append), 7, 0)
                .await
                .unwrap(),
        ),
        (
            "it was written for another driver",
            write_part(&*store, &request("w", 1, WriteMode::Append), 7, 0)
                .await
                .unwrap(),
        ),
        (
            "another attempt wrote the same partition",
            write_part(&*store, &mine, 0, 1).await.unwrap(),
        ),
        (
            "there are two different receipts for it",
            PartReceipt {
                rows: 99,
                ..good[0].clone()
            },
        ),
    ];
    for (expected, part) in wrong {
        let mut parts = good.clone();
        parts.push(part);
        let refused = ground.committer().commit(&permit, schema(), parts).await.unwrap_err();
        assert!(
            matches!(refused, CommitError::WrongPart { detail, .. } if detail == expected),
            "{refused:?}"
        );
    }
    assert_eq!(ground.read().await.0, Vec::<String>::new());
}

#[tokio::test]
async fn a_reader_does_not_see_a_recorded_write_before_all_its_parts_are_there() {
    for ground in Ground::both() {
        drive(ground.store(), request("old", 1, WriteMode::Append))
            .await
            .unwrap();
        let request = request("w", 1, WriteMode::Append);
        let parts = write(&ground, &request).await;
        let store = ground.store();
        let WriteRequest {
            write_id,
            job,
            generation,
            mode,
        } = request.clone();
        let record = CommitRecord {
            write_id,
            job,
            generation,
            mode,
            schema: schema(),
            parts: parts.clone(),
            replaced_files: vec![],
        };
        let entry = LogEntry::Commit(record).encode();
        assert_eq!(
            store.create(&layout::entry_name(1), entry.into()).await.unwrap(),
            Create::Ours
        );
        for (completed, part) in parts.iter().enumerate() {
            assert_eq!(
                ground.read().await,
                (result("old"), vec![request.write_id.clone()]),
                "{completed} parts complete"
            );
            assert_eq!(ground.read_as_a_stranger().await.len(), result("old").len() + completed);
            assert_eq!(store.complete(part).await.unwrap(), Completion::Complete);
        }
        assert_eq!(ground.read().await, (together(&["old", "w"]), vec![]));
    }
}

#[tokio::test]
async fn a_plain_folder_is_left_to_plain_readers() {
    for ground in Ground::both() {
        assert_eq!(ground.committer().visible().await.unwrap(), Visible::NotTrireme);
        ground.store().put("a.csv", Bytes::from_static(b"1")).await.unwrap();
        assert_eq!(ground.committer().visible().await.unwrap(), Visible::NotTrireme);
        assert_eq!(ground.committer().recover().await.unwrap().rolled_forward, []);
        assert_eq!(ground.names().await, ["a.csv"]);
    }
}

#[tokio::test]
async fn plain_files_stay_visible_until_an_overwrite_and_new_ones_after_it_do_too() {
    for ground in Ground::both() {
        let store = ground.store();
        store.put("old.txt", Bytes::from_static(b"plain")).await.unwrap();
        drive(ground.store(), request("a", 1, WriteMode::Append)).await.unwrap();
        let mut expected = result("a");
        expected.push("plain".to_owned());
        assert_eq!(ground.read().await.0, expected);

        drive(ground.store(), request("b", 1, WriteMode::Overwrite))
            .await
            .unwrap();
        assert_eq!(ground.read().await.0, result("b"));
        assert_eq!(ground.read_as_a_stranger().await, result("b"));

        // Under the same name: another file, which nobody replaced.
        store.put("old.txt", Bytes::from_static(b"new plain")).await.unwrap();
        ground.committer().recover().await.unwrap();
        let mut expected = result("b");
        expected.push("new plain".to_owned());
        assert_eq!(ground.read().await.0, expected);
    }
}

#[tokio::test]
async fn an_overwrite_of_an_overwrite_leaves_only_the_last() {
    for ground in Ground::both() {
        for write in ["a", "b", "c"] {
            drive(ground.store(), request(write, 1, WriteMode::Overwrite))
                .await
                .unwrap();
            assert_eq!(ground.read().await.0, result(write));
        }
        // A driver that slept through it all finds its write done, and brings nothing back.
        assert!(
            !drive(ground.store(), request("a", 2, WriteMode::Overwrite))
                .await
                .unwrap()
                .created
        );
        ground.committer().recover().await.unwrap();
        assert_eq!(ground.read_as_a_stranger().await, result("c"));
        ground.assert_tidy().await;
    }
}

#[tokio::test]
async fn a_driver_that_gives_up_frees_its_parts_and_can_never_commit_them() {
    for ground in Ground::both() {
        let mine = request("w", 2, WriteMode::Append);
        let permit = begin(&ground, &mine).await;
        let again = begin(&ground, &mine).await;
        let parts = write(&ground, &mine).await;
        write(&ground, &request("w", 1, WriteMode::Append)).await;
        let successors = write(&ground, &request("w", 3, WriteMode::Append)).await;
        let freed = Discarded::Freed(parts.len() * 2);
        assert_eq!(ground.committer().discard(permit).await.unwrap(), freed);
        let left = ground
            .names()
            .await
            .into_iter()
            .filter_map(|name| layout::pending_part(&name));
        assert_eq!(
            left.map(|part| part.generation()).collect::<Vec<_>>(),
            [Generation::new(3); 3]
        );
        assert_eq!(successors.len(), 3);

        // It may begin anew, with new attempts; the freed ones are gone.
        let lost = ground.committer().commit(&again, schema(), parts).await.unwrap_err();
        assert!(matches!(lost, CommitError::PartLost { .. }), "{lost:?}");
        assert_eq!(ground.read().await.0, Vec::<String>::new());
    }
}

/// A commit whose answer was lost may reach the store after the driver gave up and freed the parts.
#[tokio::test]
async fn a_commit_that_was_under_way_cannot_land_after_its_parts_were_freed() {
    for ground in Ground::both() {
        let permit = begin(&ground, &request("w", 2, WriteMode::Append)).await;
        let store = ground.store();
        let next = layout::entry_name(1);
        assert_eq!(store.read(&next).await.unwrap(), None, "the claim is entry 0");
        ground.committer().discard(permit).await.unwrap();
        assert_eq!(
            store.create(&next, Bytes::from_static(b"{}")).await.unwrap(),
            Create::Theirs
        );
    }
}

#[tokio::test]
async fn discarding_a_committed_write_takes_only_the_losers() {
    for ground in Ground::both() {
        let mine = request("w", 1, WriteMode::Append);
        let permit = begin(&ground, &mine).await;
        let parts = write(&ground, &mine).await;
        let fuse = Fuse::after(1, Death::Before);
        let dying = Committer::new(ground.mortal(fuse));
        dying.commit(&permit, schema(), parts).await.unwrap_err();
        write_part(&*ground.store(), &mine, 0, 9).await.unwrap();

        let discarded = ground.committer().discard(permit).await.unwrap();
        assert!(matches!(discarded, Discarded::Committed(_)), "{discarded:?}");
        let pending = ground
            .names()
            .await
            .into_iter()
            .filter_map(|name| layout::pending_part(&name));
        assert!(pending.map(|part| part.attempt()).all(|attempt| attempt != 9));
        assert_eq!(
            ground.committer().recover().await.unwrap().rolled_forward,
            [mine.write_id]
        );
        assert_eq!(ground.read().await.0, result("w"));
        ground.assert_tidy().await;
    }
}

#[tokio::test]
async fn a_lost_part_is_an_error_that_an_overwrite_can_cure() {
    for ground in Ground::both() {
        let mine = request("w", 1, WriteMode::Append);
        let permit = begin(&ground, &mine).await;
        let parts = write(&ground, &mine).await;
        ground.store().abort(&parts[1].name).await.unwrap();
        let lost = ground
            .committer()
            .commit(&permit, schema(), parts.clone())
            .await
            .unwrap_err();
        assert!(
            matches!(&lost, CommitError::PartLost { part, .. } if *part == parts[1].name.to_string()),
            "{lost:?}"
        );
        assert!(matches!(
            ground.committer().recover().await,
            Err(CommitError::PartLost { .. })
        ));
        assert_eq!(ground.read().await, (vec![], vec![mine.write_id]));

        drive(ground.store(), request("v", 1, WriteMode::Overwrite))
            .await
            .unwrap();
        assert_eq!(ground.read().await, (result("v"), vec![]));
        assert_eq!(ground.read_as_a_stranger().await, result("v"));
        ground.committer().recover().await.unwrap();
    }
}

/// Otherwise its parts could still be completed, and come back beside what replaced them.
#[tokio::test]
async fn an_overwrite_first_finishes_what_it_replaces() {
    for ground in Ground::both() {
        let mine = request("w", 1, WriteMode::Append);
        let permit = begin(&ground, &mine).await;
        let parts = write(&ground, &mine).await;
        let dying = Committer::new(ground.mortal(Fuse::after(1, Death::Before)));
        dying.commit(&permit, schema(), parts.clone()).await.unwrap_err();
        assert_eq!(ground.read().await, (vec![], vec![mine.write_id]));

        drive(ground.store(), request("v", 1, WriteMode::Overwrite))
            .await
            .unwrap();
        assert_eq!(ground.read().await, (result("v"), vec![]));
        for part in &parts {
            assert_eq!(ground.store().complete(part).await.unwrap(), Completion::Lost);
        }
        assert_eq!(ground.read_as_a_stranger().await, result("v"));
        ground.assert_tidy().await;

        // The sleeper wakes up in the middle of its commit: its write took place, and was replaced.
        let late = ground.committer().commit(&permit, schema(), parts).await.unwrap();
        assert!(!late.created);
        assert_eq!(ground.read_as_a_stranger().await, result("v"));
    }
}

/// A local completion that was cut in the middle leaves both names; its repetition must not bring the part back.
#[tokio::test]
async fn an_overwrite_removes_both_names_of_a_part() {
    let ground = Ground::local();
    let Ground::Local(folder) = &ground else {
        unreachable!("made so above")
    };
    let done = drive(ground.store(), request("w", 1, WriteMode::Append)).await.unwrap();
    let part = &done.record.parts[0];
    let root = folder.path().join("out");
    let pending = root.join(layout::pending_name(&part.name));
    std::fs::hard_link(root.join(part.name.to_string()), &pending).unwrap();
    drive(ground.store(), request("v", 1, WriteMode::Overwrite))
        .await
        .unwrap();
    assert_eq!(ground.store().complete(part).await.unwrap(), Completion::Lost);
    assert_eq!(ground.read_as_a_stranger().await, result("v"));
}

fn listed(names: &[&str]) -> Vec<Listed> {
    let file = |name: &&str| Listed {
        name: (*name).to_owned(),
        bytes: 1,
        modified: SystemTime::UNIX_EPOCH,
        tag: "t".to_owned(),
    };
    names.iter().map(file).collect()
}

/// What a listing in pages can show while an overwrite takes place, and what a reader must make of it.
#[test]
fn a_listing_torn_by_an_overwrite_is_refused() {
    let part =
        |write: &str, partition| PartName::new(write.parse().unwrap(), Generation::FIRST, partition, 0, "txt").unwrap();
    let record = |write: &str, mode, replaced: &[&str]| {
        let receipt = |partition| PartReceipt {
            name: part(write, partition),
            rows: 1,
            bytes: 1,
            pending: Pending::File,
        };
        let WriteRequest {
            write_id,
            job,
            generation,
            mode,
        } = request(write, 1, mode);
        let replaced_file = |name: &&str| ReplacedFile {
            name: (*name).to_owned(),
            tag: "t".to_owned(),
        };
        let replaced_files = replaced.iter().map(replaced_file).collect();
        let parts = vec![receipt(0), receipt(1)];
        LogEntry::Commit(CommitRecord {
            write_id,
            job,
            generation,
            mode,
            schema: schema(),
            parts,
            replaced_files,
        })
    };
    let mut log = Log::default();
    log.push(record("a", WriteMode::Append, &[]));
    log.push(record("b", WriteMode::Overwrite, &["old"]));
    let [a0, a1, b0, b1] = [part("a", 0), part("a", 1), part("b", 0), part("b", 1)].map(|part| part.to_string());
    let (a0, a1, b0, b1) = (a0.as_str(), a1.as_str(), b0.as_str(), b1.as_str());

    let names = |files: &[&str]| match visible(&listed(files), &log) {
        Ok(Visible::Files { files, unfinished }) => {
            Ok((files.into_iter().map(|file| file.name).collect::<Vec<_>>(), unfinished))
        }
        Ok(Visible::NotTrireme) => panic!("there is a log"),
        Err(error) => Err(error),
    };
    let unfinished = vec!["b".parse().unwrap()];
    let old = [a0, a1, "old"].map(str::to_owned);
    let mut old = old.to_vec();
    old.sort_unstable();
    assert_eq!(names(&[a0, a1, "old"]), Ok((old.clone(), unfinished.clone())));
    assert_eq!(names(&[a0, a1, "old", b0]), Ok((old, unfinished)));
    let new = vec![b0.to_owned(), b1.to_owned()];
    for all_new in [&[b0, b1][..], &[a0, b0, b1], &[a0, a1, b0, b1, "old"], &["old", b0, b1]] {
        assert_eq!(names(all_new), Ok((new.clone(), vec![])));
    }
    let torn = Err(VisibleError::Unsettled {
        by: "b".parse().unwrap(),
    });
    for torn_listing in [&[a0, "old", b0][..], &[a0, a1, b0], &[a0, a1], &["old", b1], &[]] {
        assert_eq!(names(torn_listing), torn, "{torn_listing:?}");
    }
}

#[tokio::test]
async fn a_part_of_another_size_is_damage() {
    for ground in Ground::both() {
        let done = drive(ground.store(), request("w", 1, WriteMode::Append)).await.unwrap();
        let name = done.record.parts[0].name.to_string();
        ground.store().put(&name, Bytes::from_static(b"truncat")).await.unwrap();
        let error = ground.committer().visible().await.unwrap_err();
        let CommitError::Visible { source, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(
            source,
            VisibleError::Damaged {
                name,
                expected: 3,
                found: 7
            }
        );
    }
}

#[tokio::test]
async fn a_damaged_log_is_an_error_that_names_the_entry() {
    for ground in Ground::both() {
        drive(ground.store(), request("a", 1, WriteMode::Append)).await.unwrap();
        drive(ground.store(), request("b", 1, WriteMode::Append)).await.unwrap();
        let store = ground.store();
        let first = layout::entry_name(0);
        for body in [&b"{\"v\":1,"[..], b"", br#"{"v":2,"entry":"merge"}"#] {
            store.put(&first, Bytes::from_static(body)).await.unwrap();
            let error = ground.committer().visible().await.unwrap_err();
            assert!(
                matches!(&error, CommitError::DamagedLog { name, .. } if *name == first),
                "{error:?}"
            );
        }
        store.remove(&first).await.unwrap();
        let error = ground
            .committer()
            .begin(request("c", 1, WriteMode::Append))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, CommitError::DamagedLog { name, .. } if *name == first),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn an_entry_reads_as_it_always_did() {
    // The format at the destination: a change here needs a new version.
    let ground = Ground::local();
    let request = request("w", 2, WriteMode::Overwrite);
    let permit = begin(&ground, &request).await;
    let part = write_part(&*ground.store(), &request, 3, 7).await.unwrap();
    ground
        .store()
        .put("old.txt", Bytes::from_static(b"plain"))
        .await
        .unwrap();
    ground.committer().commit(&permit, schema(), vec![part]).await.unwrap();
    let read = async |number| {
        let body = ground.store().read(&layout::entry_name(number)).await.unwrap().unwrap();
        serde_json::from_slice::<serde_json::Value>(&body).unwrap()
    };
    let claim = serde_json::json!({"v": 1, "entry": "claim", "writeId": "w", "job": "job of w", "generation": 2});
    assert_eq!(read(0).await, claim);
    let mut commit = read(1).await;
    assert!(commit["replacedFiles"][0]["tag"].take().is_string());
    let expected = serde_json::json!({
        "v": 1, "entry": "commit", "writeId": "w", "job": "job of w", "generation": 2, "mode": "overwrite",
        "schema": schema().to_string(),
        "parts": [{"name": "part-00003-w-g2a7.txt", "rows": 1, "bytes": 3, "pending": {"kind": "file"}}],
        "replacedFiles": [{"name": "old.txt", "tag": null}],
    });
    assert_eq!(commit, expected);
}

#[tokio::test]
async fn a_log_that_is_full_takes_no_new_write_and_finishes_old_ones() {
    let ground = Ground::objects();
    let store = ground.store();
    let others = LogEntry::Claim(Claim {
        write_id: "other".parse().unwrap(),
        job: "other".to_owned(),
        generation: Generation::FIRST,
    });
    for number in 0..ENTRIES_MAX - 1 {
        let entry = others.encode().into();
        assert_eq!(
            store.create(&layout::entry_name(number), entry).await.unwrap(),
            Create::Ours
        );
    }
    let (first, second) = (request("a", 1, WriteMode::Append), request("b", 1, WriteMode::Append));
    let (a, b) = (begin(&ground, &first).await, begin(&ground, &second).await);
    for (permit, request) in [(a, &first), (b, &second)] {
        let parts = write(&ground, request).await;
        assert!(
            ground
                .committer()
                .commit(&permit, schema(), parts)
                .await
                .unwrap()
                .created
        );
    }
    let third = ground.committer().begin(request("c", 1, WriteMode::Append)).await.err();
    assert!(matches!(third, Some(CommitError::LogFull { .. })), "{third:?}");
    let again = ground.committer().begin(second).await.unwrap();
    assert!(matches!(again, Begin::Committed(_)), "{again:?}");
    // Its first driver may have begun before the log was full, and must not commit any more.
    let taken_over = ground.committer().begin(request("c", 2, WriteMode::Append)).await;
    assert!(matches!(taken_over, Ok(Begin::Permit(_))), "{taken_over:?}");
}

#[tokio::test]
async fn parts_may_lie_in_folders_of_hive_partitions() {
    for ground in Ground::both() {
        let mine = request("w", 1, WriteMode::Append);
        let permit = begin(&ground, &mine).await;
        let mut parts = Vec::new();
        for (file, folder) in ["day=1", "day=2/hour=a%2Fb"].into_iter().enumerate() {
            let name = PartName::new(mine.write_id.clone(), mine.generation, 0, 0, "txt").unwrap();
            let name = name.with_file(file as u32).in_folder(folder).unwrap();
            let mut writer = ground.store().open(&name).await.unwrap();
            writer.write(Bytes::from(folder)).await.unwrap();
            parts.push(writer.finish(1).await.unwrap());
        }
        ground.committer().commit(&permit, schema(), parts).await.unwrap();
        assert_eq!(ground.read().await.0, ["day=1", "day=2/hour=a%2Fb"]);
        ground.assert_tidy().await;
    }
}

#[tokio::test]
async fn many_jobs_append_at_once() {
    for ground in Ground::both() {
        let ground = Arc::new(ground);
        let writes: Vec<_> = (0..8).map(|number| format!("w{number}")).collect();
        let drivers = writes
            .iter()
            .map(|write| drive(ground.store(), request(write, 1, WriteMode::Append)));
        for outcome in futures::future::join_all(drivers).await {
            assert!(outcome.unwrap().created);
        }
        let names: Vec<_> = writes.iter().map(String::as_str).collect();
        assert_eq!(ground.read().await.0, together(&names));
        ground.assert_tidy().await;
    }
}
