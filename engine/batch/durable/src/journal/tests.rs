//! The journal under knives: cut at every byte, flipped at every byte, opened twice. Then what [`resume`] makes of it.

use std::fs;
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::*;
use crate::WriteId;

fn job() -> Fingerprint {
    Fingerprint::of(["job"])
}

fn text(index: u32) -> Fingerprint {
    Fingerprint::of([format!("statement {index}")])
}

fn texts(count: u32) -> Vec<Fingerprint> {
    (0..count).map(text).collect()
}

fn write_id(index: u32) -> WriteId {
    WriteId::for_statement("run", index)
}

fn opened(generation: u64) -> Record {
    Record::Opened {
        generation: Generation::new(generation),
        job: job(),
        driver: format!("driver-{generation}"),
    }
}

fn started(index: u32) -> Record {
    Record::StatementStarted {
        index,
        statement: text(index),
    }
}

fn intended(index: u32) -> Record {
    Record::WriteIntended {
        index,
        write_id: write_id(index),
        location: "s3://lake/out".to_owned(),
    }
}

fn done(index: u32, outcome: StatementOutcome) -> Record {
    Record::StatementDone { index, outcome }
}

fn wrote(index: u32) -> WriteDone {
    WriteDone {
        write_id: write_id(index),
        location: "s3://lake/out".to_owned(),
        rows: 10,
        files: 2,
        bytes: 512,
    }
}

/// A query of which one row was kept as text.
fn queried(rows: u64, location: Option<&str>) -> QueryDone {
    QueryDone {
        preview: Some("| 1 |".to_owned()),
        truncated: rows > 1,
        rows,
        location: location.map(str::to_owned),
    }
}

/// A DDL statement, a committed write, and a write that was interrupted.
fn story() -> Vec<Record> {
    vec![
        started(0),
        done(0, StatementOutcome::Replay),
        started(1),
        intended(1),
        done(1, StatementOutcome::Write(wrote(1))),
        started(2),
        intended(2),
    ]
}

fn stores(folder: &tempfile::TempDir) -> Vec<Arc<dyn JournalStore>> {
    vec![
        Arc::new(FileJournal::new(folder.path().join("journal"))),
        Arc::new(ObjectJournal::new(
            Arc::new(InMemory::new()),
            Path::from("jobs/a/journal"),
        )),
    ]
}

async fn write_story(store: &Arc<dyn JournalStore>) {
    let mut journal = Journal::open(Arc::clone(store), job(), Generation::FIRST, "driver-1")
        .await
        .unwrap()
        .journal;
    for record in story() {
        journal.append(&record).await.unwrap();
    }
}

#[tokio::test]
async fn a_driver_that_was_given_a_number_has_it_unless_the_journal_is_further() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        let mut generations = Vec::new();
        for least in [1, 3, 3, 2, 9] {
            let opening = Journal::open(Arc::clone(&store), job(), Generation::new(least), "driver").await;
            generations.push(opening.unwrap().journal.generation().get());
        }
        assert_eq!(generations, [1, 3, 4, 5, 9], "{store:?}");
    }
}

#[tokio::test]
async fn a_second_driver_reads_what_the_first_wrote() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        write_story(&store).await;
        let opening = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-2")
            .await
            .unwrap();
        let expected: Vec<_> = [opened(1)].into_iter().chain(story()).collect();
        assert_eq!(opening.records, expected, "{store:?}");
        assert_eq!(
            (opening.torn_bytes, opening.journal.generation()),
            (0, Generation::new(2))
        );
    }
}

#[tokio::test]
async fn the_older_driver_is_fenced_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        let mut first = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-1")
            .await
            .unwrap()
            .journal;
        let mut second = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-2")
            .await
            .unwrap()
            .journal;
        for _ in 0..2 {
            let refused = first.append(&started(0)).await;
            assert!(
                matches!(refused, Err(JournalError::Fenced { by: Some(by) }) if by == Generation::new(2)),
                "{refused:?}"
            );
        }
        second.append(&started(0)).await.unwrap();
        assert!(matches!(
            first.append(&started(0)).await,
            Err(JournalError::Fenced { .. })
        ));
        let records = Journal::open(store, job(), Generation::FIRST, "driver-3")
            .await
            .unwrap()
            .records;
        assert_eq!(records, [opened(1), opened(2), started(0)]);
    }
}

#[tokio::test]
async fn racing_openers_get_generations_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        let names: Vec<_> = (0..6).map(|number| format!("driver-{number}")).collect();
        let openings = futures::future::join_all(
            names
                .iter()
                .map(|name| Journal::open(Arc::clone(&store), job(), Generation::FIRST, name)),
        )
        .await;
        let mut generations: Vec<_> = openings
            .into_iter()
            .map(|opening| opening.unwrap().journal.generation().get())
            .collect();
        generations.sort_unstable();
        assert_eq!(generations, [1, 2, 3, 4, 5, 6]);
    }
}

#[tokio::test]
async fn the_same_record_may_be_appended_again_when_its_answer_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        let mut journal = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-1")
            .await
            .unwrap()
            .journal;
        let tail = journal.tail;
        journal.append(&started(0)).await.unwrap();
        let reached = journal.tail;
        journal.tail = tail;
        journal.append(&started(0)).await.unwrap();
        assert_eq!(journal.tail, reached);
        assert_eq!(store.read().await.unwrap().entries.len(), 2);
    }
}

#[tokio::test]
async fn a_driver_in_doubt_goes_on_at_the_end_unless_it_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        let opening = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-1")
            .await
            .unwrap();
        let mut journal = opening.journal;
        let before = journal.tail;
        journal.append(&started(0)).await.unwrap();
        // As if the append had been dropped before it returned.
        journal.tail = before;
        journal
            .append_in_doubt(&done(0, StatementOutcome::Replay))
            .await
            .unwrap();
        journal.append(&started(1)).await.unwrap();
        let second = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-2")
            .await
            .unwrap();
        let expected = [opened(1), started(0), done(0, StatementOutcome::Replay), started(1)];
        assert_eq!(second.records, expected, "{store:?}");
        let refused = journal.append_in_doubt(&started(1)).await;
        assert!(
            matches!(refused, Err(JournalError::Fenced { by: Some(by) }) if by == Generation::new(2)),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn another_job_is_refused_and_the_journal_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        write_story(&store).await;
        let other = Fingerprint::of(["edited"]);
        let refused = Journal::open(Arc::clone(&store), other, Generation::FIRST, "driver-2")
            .await
            .unwrap_err();
        assert!(matches!(refused, JournalError::JobChanged { given, .. } if given == other));
        assert_eq!(store.read().await.unwrap().entries.len(), 1 + story().len());
    }
}

#[tokio::test]
async fn a_file_cut_at_any_byte_keeps_its_whole_records_and_takes_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let store: Arc<dyn JournalStore> = Arc::new(FileJournal::new(&path));
    write_story(&store).await;
    let bytes = fs::read(&path).unwrap();
    let all: Vec<_> = [opened(1)].into_iter().chain(story()).collect();
    let ends: Vec<_> = all
        .iter()
        .scan(0, |end, record| {
            *end += record::encode(record).unwrap().len();
            Some(*end)
        })
        .collect();
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let end = ends[..whole].last().copied().unwrap_or(0);

        let mut opening = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-2")
            .await
            .unwrap();
        assert_eq!(opening.records, all[..whole], "cut at {cut}");
        assert_eq!(opening.torn_bytes as usize, cut - end, "cut at {cut}");
        opening.journal.append(&started(9)).await.unwrap();

        let after = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-3")
            .await
            .unwrap();
        assert_eq!(after.torn_bytes, 0, "cut at {cut}");
        assert_eq!(after.records[..whole], all[..whole], "cut at {cut}");
        assert_eq!(after.records[whole + 1..], [started(9)], "cut at {cut}");
    }
}

#[tokio::test]
async fn a_flipped_byte_is_a_torn_end_or_an_error_and_never_a_wrong_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let store: Arc<dyn JournalStore> = Arc::new(FileJournal::new(&path));
    write_story(&store).await;
    let bytes = fs::read(&path).unwrap();
    let all: Vec<_> = [opened(1)].into_iter().chain(story()).collect();
    let last_start = bytes.len() - record::encode(all.last().unwrap()).unwrap().len();
    for position in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut flipped = bytes.clone();
            flipped[position] ^= mask;
            fs::write(&path, &flipped).unwrap();
            let outcome = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-2").await;
            if position >= last_start {
                let opening = outcome.unwrap();
                assert_eq!(opening.records, all[..all.len() - 1], "byte {position}");
                assert_eq!(opening.torn_bytes as usize, bytes.len() - last_start, "byte {position}");
            } else {
                let error = outcome.unwrap_err();
                let JournalError::Corrupt {
                    place,
                    offset,
                    detail: _,
                } = &error
                else {
                    panic!("{position}: {error:?}")
                };
                assert_eq!(place, &path.display().to_string());
                assert!(*offset as usize <= position, "byte {position} blamed on {offset}");
                assert_eq!(
                    fs::read(&path).unwrap(),
                    flipped,
                    "a damaged journal is evidence and stays as it is"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_or_a_missing_object_is_an_error_in_an_object_store() {
    let objects = Arc::new(InMemory::new());
    let store: Arc<dyn JournalStore> = Arc::new(ObjectJournal::new(objects.clone(), Path::from("j")));
    write_story(&store).await;
    let path = Path::from("j/0000000003.rec");
    let body = objects.get(&path).await.unwrap().bytes().await.unwrap();
    for position in 0..body.len() {
        let mut flipped = body.to_vec();
        flipped[position] ^= 0x10;
        objects.put(&path, flipped.into()).await.unwrap();
        let error = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-2")
            .await
            .unwrap_err();
        assert!(
            matches!(&error, JournalError::Corrupt { place, .. } if place == path.as_ref()),
            "{error:?}"
        );
    }
    objects.delete(&path).await.unwrap();
    let error = Journal::open(store, job(), Generation::FIRST, "driver-2")
        .await
        .unwrap_err();
    assert!(
        matches!(&error, JournalError::Corrupt { place, .. } if place == path.as_ref()),
        "{error:?}"
    );
    assert_eq!(objects.list(None).count_objects().await, story().len());
}

#[tokio::test]
async fn a_shrunken_file_and_a_newer_format_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let store: Arc<dyn JournalStore> = Arc::new(FileJournal::new(&path));
    let mut journal = Journal::open(Arc::clone(&store), job(), Generation::FIRST, "driver-1")
        .await
        .unwrap()
        .journal;
    fs::write(&path, b"").unwrap();
    assert!(matches!(
        journal.append(&started(0)).await,
        Err(JournalError::Corrupt { offset: 0, .. })
    ));

    fs::write(&path, frame::encode(br#"{"v":2,"record":"paused"}"#)).unwrap();
    let error = Journal::open(store, job(), Generation::FIRST, "driver-2")
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            JournalError::Version {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_record_over_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(&folder) {
        let mut journal = Journal::open(store, job(), Generation::FIRST, "driver-1")
            .await
            .unwrap()
            .journal;
        let preview = Some("x".repeat(RECORD_BYTES_MAX));
        let huge = done(
            0,
            StatementOutcome::Query(QueryDone {
                preview,
                truncated: false,
                rows: 1,
                location: None,
            }),
        );
        assert!(matches!(
            journal.append(&huge).await,
            Err(JournalError::TooLarge { .. })
        ));
        journal.append(&started(0)).await.unwrap();
    }
}

#[test]
fn a_record_reads_as_it_always_did() {
    // The format on disk: a change here needs a new version.
    let frame = record::encode(&done(1, StatementOutcome::Write(wrote(1)))).unwrap();
    let json = std::str::from_utf8(&frame[frame::HEADER_BYTES..]).unwrap();
    let id = write_id(1);
    assert_eq!(
        json,
        format!(
            r#"{{"v":1,"record":"statementDone","index":1,"outcome":{{"kind":"write","writeId":"{id}","location":"s3://lake/out","rows":10,"files":2,"bytes":512}}}}"#
        )
    );
}

fn any_record() -> impl Strategy<Value = Record> {
    let location = "[a-z0-9:/ \\\\\"é]{0,30}";
    let outcome = prop_oneof![
        Just(StatementOutcome::Replay),
        (prop::option::of(".{0,40}"), any::<u64>(), prop::option::of(location)).prop_map(
            |(preview, rows, location)| StatementOutcome::Query(QueryDone {
                preview,
                truncated: rows % 2 == 1,
                rows,
                location
            })
        ),
        (any::<u32>(), location, any::<u64>(), any::<u64>()).prop_map(|(index, location, rows, files)| {
            StatementOutcome::Write(WriteDone {
                write_id: write_id(index),
                location,
                rows,
                files,
                bytes: rows / 2,
            })
        }),
    ];
    let finished = prop_oneof![
        Just(JobOutcome::Succeeded),
        (".{0,9}", ".{0,40}").prop_map(|(code, message)| JobOutcome::Failed {
            problem: serde_json::json!({ "code": code, "message": message }),
        }),
    ];
    prop_oneof![
        (1..u64::MAX, ".{0,20}", ".{0,20}").prop_map(|(generation, job, driver)| Record::Opened {
            generation: Generation::new(generation),
            job: Fingerprint::of([job]),
            driver
        }),
        (any::<u32>(), ".{0,20}").prop_map(|(index, sql)| Record::StatementStarted {
            index,
            statement: Fingerprint::of([sql])
        }),
        (any::<u32>(), location).prop_map(|(index, location)| Record::WriteIntended {
            index,
            write_id: write_id(index),
            location
        }),
        (any::<u32>(), outcome).prop_map(|(index, outcome)| Record::StatementDone { index, outcome }),
        finished.prop_map(|outcome| Record::Finished { outcome }),
    ]
}

proptest! {
    #[test]
    fn every_record_survives_its_bytes(record in any_record()) {
        let frame = record::encode(&record).unwrap();
        let payload = frame.slice(frame::HEADER_BYTES..);
        let entry = Entry { place: "test".into(), offset: 0, payload };
        prop_assert_eq!(record::decode(&entry).unwrap(), record);
    }

    /// Whatever a journal says, a plan or an error comes out, and the plan never runs a committed write.
    #[test]
    fn no_journal_makes_a_committed_write_run(records in prop::collection::vec(any_story_record(), 0..24)) {
        let records: Vec<_> = [opened(1)].into_iter().chain(records).collect();
        let Ok(plan) = resume(&records, &texts(3)) else { return Ok(()) };
        for record in &records {
            if let Record::StatementDone { index, outcome: StatementOutcome::Write(done) } = record {
                prop_assert_eq!(&plan.actions[*index as usize], &Action::SkipWrite(done.clone()));
            }
        }
        let first_run = plan.actions.iter().position(|action| *action == Action::Run);
        prop_assert_eq!(first_run.map(|index| index as u32), plan.first_unfinished);
    }
}

fn any_story_record() -> impl Strategy<Value = Record> {
    (0..6u32, 0..3u32).prop_map(|(kind, index)| match kind {
        0 | 1 => started(index),
        2 => intended(index),
        3 => done(index, StatementOutcome::Write(wrote(index))),
        4 => done(index, StatementOutcome::Query(queried(1, None))),
        _ => done(index, StatementOutcome::Replay),
    })
}

#[test]
fn a_new_job_runs_everything() {
    let plan = resume(&[], &texts(2)).unwrap();
    assert_eq!(plan.actions, [Action::Run, Action::Run]);
    assert_eq!(
        (plan.first_unfinished, plan.undecided, plan.finished),
        (Some(0), None, None)
    );
}

#[test]
fn a_resumed_job_replays_skips_and_looks_up_the_write_in_doubt() {
    let records: Vec<_> = [opened(1)].into_iter().chain(story()).collect();
    let plan = resume(&records, &texts(4)).unwrap();
    assert_eq!(
        plan.actions,
        [Action::Replay, Action::SkipWrite(wrote(1)), Action::Run, Action::Run]
    );
    assert_eq!(plan.first_unfinished, Some(2));
    let location = "s3://lake/out".to_owned();
    assert_eq!(
        plan.undecided,
        Some(WriteIntent {
            index: 2,
            write_id: write_id(2),
            location
        })
    );
}

#[test]
fn only_the_last_querys_rows_are_shown_again_and_only_if_they_were_not_kept() {
    let ended = |query: QueryDone| {
        let outcome = |_: u32| StatementOutcome::Query(query.clone());
        vec![
            opened(1),
            started(0),
            done(0, outcome(0)),
            started(1),
            done(1, outcome(1)),
        ]
    };
    let (large, small, written) = (queried(2, None), queried(1, None), queried(2, Some("s3://lake/result")));
    let plan = resume(&ended(large.clone()), &texts(2)).unwrap();
    assert_eq!(
        plan.actions,
        [Action::SkipQuery(large.clone()), Action::ShowAgain(large.clone())]
    );
    assert_eq!(plan.first_unfinished, None);
    for kept in [small, written] {
        assert_eq!(
            resume(&ended(kept.clone()), &texts(2)).unwrap().actions[1],
            Action::SkipQuery(kept)
        );
    }
    assert_eq!(
        resume(&ended(large.clone()), &texts(3)).unwrap().actions[1],
        Action::SkipQuery(large.clone())
    );

    // The driver that showed it again journals it again.
    let mut again = ended(large.clone());
    again.extend([opened(2), started(1), done(1, StatementOutcome::Query(large.clone()))]);
    assert_eq!(resume(&again, &texts(2)).unwrap().actions[1], Action::ShowAgain(large));
}

#[test]
fn a_finished_job_says_so() {
    let records = [
        opened(1),
        started(0),
        done(0, StatementOutcome::Replay),
        Record::Finished {
            outcome: JobOutcome::Succeeded,
        },
    ];
    assert_eq!(
        resume(&records, &texts(1)).unwrap().finished,
        Some(JobOutcome::Succeeded)
    );
}

#[test]
fn an_edited_job_is_refused_in_words_that_name_the_statement() {
    let records: Vec<_> = [opened(1)].into_iter().chain(story()).collect();
    let mut edited = texts(3);
    edited[1] = Fingerprint::of(["edited"]);
    let error = resume(&records, &edited).unwrap_err();
    assert!(
        error.to_string().starts_with("statement 2 was edited after it ran"),
        "{error}"
    );
    assert_eq!(
        resume(&records, &texts(2)).unwrap_err(),
        ResumeError::StatementRemoved {
            index: 2,
            statements: 2
        }
    );
}

#[test]
fn two_ids_for_one_write_are_refused() {
    let other = Record::WriteIntended {
        index: 0,
        write_id: write_id(7),
        location: "s3://lake/out".to_owned(),
    };
    let records = [opened(1), started(0), intended(0), opened(2), started(0), other];
    assert!(matches!(
        resume(&records, &texts(1)),
        Err(ResumeError::TwoWrites { index: 0, .. })
    ));
}

#[test]
fn records_that_no_driver_writes_are_refused() {
    let ddl = |index| done(index, StatementOutcome::Replay);
    let write = |index| done(index, StatementOutcome::Write(wrote(index)));
    let finished = Record::Finished {
        outcome: JobOutcome::Succeeded,
    };
    let cases: Vec<(Vec<Record>, usize)> = vec![
        (vec![started(0)], 0),
        (vec![opened(1), opened(1)], 1),
        (vec![opened(1), started(1)], 1),
        (vec![opened(1), ddl(0)], 1),
        (vec![opened(1), started(0), opened(2), ddl(0)], 3),
        (vec![opened(1), started(0), write(0)], 2),
        (vec![opened(1), intended(0)], 1),
        (vec![opened(1), started(0), intended(0), write(0), started(0)], 4),
        (vec![opened(1), finished, started(0)], 2),
    ];
    for (records, position) in cases {
        let error = resume(&records, &texts(2)).unwrap_err();
        assert!(
            matches!(error, ResumeError::OutOfOrder { position: found, .. } if found == position),
            "{error:?}"
        );
    }
}

/// Counts what a listing holds, to see that a refused opener added nothing.
trait CountObjects {
    async fn count_objects(self) -> usize;
}

impl<S: futures::Stream<Item = object_store::Result<object_store::ObjectMeta>> + Unpin> CountObjects for S {
    async fn count_objects(self) -> usize {
        futures::StreamExt::count(self).await
    }
}
