//! What each destination owes to the protocol.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::bench::*;
use crate::commit::*;

const MIB: usize = 1 << 20;

fn name(attempt: u64) -> PartName {
    PartName::new("w".parse().unwrap(), crate::Generation::FIRST, 0, attempt, "bin").unwrap()
}

#[tokio::test]
async fn of_many_creators_one_wins_and_may_ask_again() {
    for ground in Ground::both() {
        let bodies: Vec<_> = (0..12).map(|number| Bytes::from(format!("creator {number}"))).collect();
        let store = ground.store();
        let outcomes =
            futures::future::join_all(bodies.iter().map(|body| store.create("a/b/entry", body.clone()))).await;
        let winners: Vec<_> = (0..12)
            .filter(|at| *outcomes[*at].as_ref().unwrap() == Create::Ours)
            .collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(
            store.read("a/b/entry").await.unwrap().as_ref(),
            Some(&bodies[winners[0]])
        );
        assert_eq!(
            store.create("a/b/entry", bodies[winners[0]].clone()).await.unwrap(),
            Create::Ours
        );
        assert_eq!(ground.names().await, ["a/b/entry"], "no half-made file is left");
    }
}

/// No answer comes, be it that the object was created or not: what is there tells.
#[tokio::test]
async fn a_create_whose_answer_is_lost_is_settled() {
    for death in [Death::Before, Death::After] {
        let ground = Ground::objects();
        let store = ground.mortal(Fuse::hiccup_after(0, death));
        assert_eq!(store.create("a", Bytes::from_static(b"1")).await.unwrap(), Create::Ours);
        assert_eq!(store.read("a").await.unwrap().unwrap(), Bytes::from_static(b"1"));
        let other = ground.mortal(Fuse::hiccup_after(0, death));
        let created = other.create("a", Bytes::from_static(b"2")).await.unwrap();
        assert_eq!(created, Create::Theirs, "{death:?}");
        let dead = ground.mortal(Fuse::after(0, death));
        assert!(dead.create("b", Bytes::from_static(b"1")).await.is_err(), "{death:?}");
    }
}

#[tokio::test]
async fn files_are_listed_read_replaced_and_removed() {
    for ground in Ground::both() {
        let store = ground.store();
        assert_eq!(store.list("").await.unwrap(), []);
        assert_eq!(store.read("a").await.unwrap(), None);
        store.remove("a").await.unwrap();
        for name in ["a", "b/c", "b/d/e"] {
            store.put(name, Bytes::from_static(b"12")).await.unwrap();
        }
        store.put("a", Bytes::from_static(b"345")).await.unwrap();
        let mut listed: Vec<_> = store
            .list("")
            .await
            .unwrap()
            .into_iter()
            .map(|file| (file.name, file.bytes))
            .collect();
        listed.sort_unstable();
        assert_eq!(
            listed,
            [("a".to_owned(), 3), ("b/c".to_owned(), 2), ("b/d/e".to_owned(), 2)]
        );
        assert_eq!(store.list("b/d").await.unwrap()[0].name, "b/d/e");
        store.remove("a").await.unwrap();
        assert_eq!(store.read("a").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_part_is_invisible_until_completed_and_completing_again_is_well() {
    for ground in Ground::both() {
        let store = ground.store();
        let mut writer = store.open(&name(0)).await.unwrap();
        writer.write(Bytes::from_static(b"hello ")).await.unwrap();
        writer.write(Bytes::from_static(b"world")).await.unwrap();
        let receipt = writer.finish(2).await.unwrap();
        assert_eq!((receipt.rows, receipt.bytes), (2, 11));
        assert_eq!(ground.read_as_a_stranger().await, Vec::<String>::new());
        for _ in 0..2 {
            assert_eq!(store.complete(&receipt).await.unwrap(), Completion::Complete);
            assert_eq!(ground.read_as_a_stranger().await, ["hello world"]);
        }
        store.remove(&name(0).to_string()).await.unwrap();
        assert_eq!(store.complete(&receipt).await.unwrap(), Completion::Lost);
    }
}

#[tokio::test]
async fn an_aborted_part_leaves_nothing_whoever_aborts_it() {
    for ground in Ground::both() {
        let store = ground.store();
        let mut writer = store.open(&name(0)).await.unwrap();
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        writer.abort().await.unwrap();

        let finished = store.open(&name(1)).await.unwrap().finish(0).await.unwrap();
        drop(store.open(&name(2)).await.unwrap());
        for attempt in [1, 2, 2, 3] {
            store.abort(&name(attempt)).await.unwrap();
        }
        assert_eq!(ground.names().await, Vec::<String>::new());
        assert_eq!(store.complete(&finished).await.unwrap(), Completion::Lost);
    }
}

#[tokio::test]
async fn an_empty_part_is_an_empty_file() {
    for ground in Ground::both() {
        let store = ground.store();
        let receipt = store.open(&name(0)).await.unwrap().finish(0).await.unwrap();
        assert_eq!(store.complete(&receipt).await.unwrap(), Completion::Complete);
        assert_eq!(ground.read_as_a_stranger().await, [""]);
    }
}

#[tokio::test]
async fn two_tasks_cannot_write_one_local_attempt() {
    let ground = Ground::local();
    let _first = ground.store().open(&name(0)).await.unwrap();
    let refused = ground.store().open(&name(0)).await;
    assert!(matches!(refused, Err(StoreError::File { action: "create", .. })));
}

/// A crash between the link and the removal of the first name leaves both.
#[tokio::test]
async fn a_local_completion_cut_in_the_middle_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalParts::new(folder.path());
    let mut writer = store.open(&name(0)).await.unwrap();
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    let receipt = writer.finish(1).await.unwrap();
    let (pending, path) = (
        folder.path().join(layout::pending_name(&name(0))),
        folder.path().join(name(0).to_string()),
    );
    fs::hard_link(&pending, &path).unwrap();
    assert_eq!(store.complete(&receipt).await.unwrap(), Completion::Complete);
    assert!(path.exists() && !pending.exists());
}

#[tokio::test]
async fn a_local_completion_never_replaces_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalParts::new(folder.path());
    let receipt = store.open(&name(0)).await.unwrap().finish(0).await.unwrap();
    let path = folder.path().join(name(0).to_string());
    fs::write(&path, b"precious").unwrap();
    store.complete(&receipt).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_local_listing_follows_files_and_not_folders() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"12").unwrap();
    std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("b")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    let mut listed = LocalParts::new(folder.path()).list("").await.unwrap();
    listed.sort_unstable();
    assert_eq!(
        listed
            .iter()
            .map(|file| (file.name.as_str(), file.bytes))
            .collect::<Vec<_>>(),
        [("a", 2), ("b", 2)]
    );
}

/// Every piece but the last has the same size, pieces overlap within their bound, and the bytes come out as they went
/// in.
#[tokio::test]
async fn a_large_part_goes_up_in_equal_pieces_and_bounded_flight() {
    let objects = Arc::new(MortalObjects::new(InMemory::new(), Fuse::none()));
    let options = MultipartOptions::new(5 * MIB, 2);
    let store = MultipartParts::new(Arc::clone(&objects), Path::from("out"), options);
    let mut writer = store.open(&name(0)).await.unwrap();
    let body: Vec<u8> = (0..27 * MIB + 11).map(|at| (at % 251) as u8).collect();
    for piece in body.chunks(3 * MIB + 7) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    let receipt = writer.finish(5).await.unwrap();
    let Pending::Upload { etags, .. } = &receipt.pending else {
        panic!("{receipt:?}")
    };
    assert_eq!((etags.len(), receipt.bytes), (6, body.len() as u64));
    assert_eq!(objects.under_way.1.load(Ordering::SeqCst), 2);
    assert_eq!(options.writer_bytes_max(), 15 * MIB);
    store.complete(&receipt).await.unwrap();
    assert!(store.read(&name(0).to_string()).await.unwrap().unwrap() == body);
}

#[tokio::test]
async fn a_failed_piece_fails_the_part() {
    // create_multipart and its note pass; the first piece does not.
    let objects = Arc::new(MortalObjects::new(InMemory::new(), Fuse::after(2, Death::Before)));
    let store = MultipartParts::new(objects, Path::from("out"), MultipartOptions::default());
    let mut writer = store.open(&name(0)).await.unwrap();
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    let failed = writer.finish(1).await;
    assert!(
        matches!(failed, Err(StoreError::Objects { action: "upload", .. })),
        "{failed:?}"
    );
}

#[test]
fn a_token_that_is_no_receipt_is_refused() {
    for token in [
        "",
        "{}",
        r#"{"name":"../x","rows":1,"bytes":1,"pending":{"kind":"file"}}"#,
    ] {
        assert!(PartReceipt::from_token(token).is_err(), "{token}");
    }
}
