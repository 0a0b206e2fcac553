//! Writes to destinations that fail at the worst moments, and by tasks that do not end in time.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, AsArray, StringArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::execution::TaskContext;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, TryStreamExt, stream};
use tempfile::TempDir;
use trireme_batch_durable::commit::{
    Completion, Create, Listed, LocalParts, PartName, PartReceipt, PartStore, PartWriter, StoreError, Visible,
    WriteMode,
};
use trireme_core::store::{Credentials, S3Options, StoreFactory};
use trireme_spec::problem::ErrorCode;

use super::*;
use crate::engine::BatchEngine;
use crate::local::LocalEngine;

/// So many tries more, without a wait.
fn at_once(times: usize) -> ExponentialBuilder {
    SETTLE_AGAIN.with_min_delay(Duration::ZERO).with_max_times(times)
}

/// What fails, and how often before all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A log entry that is not created.
    CreateBefore,
    /// A log entry that is created, which nobody is told.
    CreateAfter,
    /// Parts that cannot be completed.
    Complete,
    /// Parts that cannot be freed.
    Abort,
}

#[derive(Debug)]
struct Faulty {
    inner: LocalParts,
    fault: Fault,
    left: AtomicUsize,
}

impl Faulty {
    fn strikes(&self, fault: Fault) -> bool {
        let strike = |left: usize| left.checked_sub(1);
        self.fault == fault
            && self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, strike)
                .is_ok()
    }
}

fn down() -> StoreError {
    StoreError::Objects {
        action: "reach",
        path: "t".to_owned(),
        source: object_store::Error::Generic {
            store: "faulty",
            source: "it does not answer".into(),
        },
    }
}

#[async_trait]
impl PartStore for Faulty {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(folder).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.inner.read(name).await
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Create, StoreError> {
        if self.strikes(Fault::CreateBefore) {
            return Err(down());
        }
        let created = self.inner.create(name, body).await?;
        if self.strikes(Fault::CreateAfter) {
            Err(down())
        } else {
            Ok(created)
        }
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        self.inner.put(name, body).await
    }

    async fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.inner.remove(name).await
    }

    async fn open(&self, part: &PartName) -> Result<Box<dyn PartWriter>, StoreError> {
        self.inner.open(part).await
    }

    async fn complete(&self, part: &PartReceipt) -> Result<Completion, StoreError> {
        if self.strikes(Fault::Complete) {
            return Err(down());
        }
        self.inner.complete(part).await
    }

    async fn abort(&self, part: &PartName) -> Result<(), StoreError> {
        if self.strikes(Fault::Abort) {
            return Err(down());
        }
        self.inner.abort(part).await
    }
}

fn writer() -> Writer {
    Writer {
        job: "job".to_owned(),
        run: "run".to_owned(),
        generation: Generation::FIRST,
    }
}

struct Ground {
    folder: TempDir,
    session: SessionContext,
}

impl Ground {
    fn new() -> Self {
        let stores = StoreFactory::with_environment(Credentials::Environment, S3Options::default(), []);
        let config = SessionConfig::new()
            .with_extension(Arc::new(stores))
            .with_target_partitions(2);
        Self {
            folder: TempDir::new().unwrap(),
            session: SessionContext::new_with_config(config),
        }
    }

    fn destination(&self, partition_by: &[&str]) -> Destination {
        Destination {
            location: self.folder.path().display().to_string(),
            format: "parquet".to_owned(),
            options: Default::default(),
            partition_by: partition_by.iter().map(|&name| name.to_owned()).collect(),
            keep_partition_by: false,
            mode: WriteMode::Append,
            creates: None,
        }
    }

    async fn look(&self, attempt: u64, destination: &Destination) -> Begun {
        begin(&self.session, &writer(), 0, attempt, destination).await.unwrap()
    }

    async fn begin(&self, attempt: u64, destination: &Destination) -> Box<Write> {
        match self.look(attempt, destination).await {
            Begun::Run(write) => write,
            Begun::Already(committed) => panic!("{committed:?}"),
        }
    }

    async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> datafusion::common::Result<Vec<RecordBatch>> {
        execute_stream(plan, self.session.task_ctx())?.try_collect().await
    }

    async fn query(&self, sql: &str) -> Arc<dyn ExecutionPlan> {
        self.session
            .sql(sql)
            .await
            .unwrap()
            .create_physical_plan()
            .await
            .unwrap()
    }

    /// A write of one row whose commit meets `fault`, so many times.
    async fn commit(&self, fault: Fault, times: usize) -> Result<Committed, Problem> {
        let mut write = self.begin(0, &self.destination(&[])).await;
        let plan = write.plan(self.query("SELECT 1 AS a").await);
        let receipts = self.run(plan).await.unwrap();
        write.settle_again = at_once(2);
        write.committer = self.faulty(fault, times);
        write.commit(&receipts).await
    }

    fn faulty(&self, fault: Fault, times: usize) -> Committer {
        Committer::new(Arc::new(Faulty {
            inner: LocalParts::new(self.folder.path()),
            fault,
            left: AtomicUsize::new(times),
        }))
    }

    async fn files(&self) -> usize {
        let committer = Committer::new(Arc::new(LocalParts::new(self.folder.path())));
        match committer.visible().await.unwrap() {
            Visible::Files { files, unfinished: _ } => files.len(),
            Visible::NotTrireme => 0,
        }
    }

    fn pending(&self) -> Vec<String> {
        let Ok(writes) = std::fs::read_dir(self.folder.path().join("_trireme/tmp")) else {
            return Vec::new();
        };
        let files = writes.flat_map(|write| std::fs::read_dir(write.unwrap().path()).unwrap());
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

#[tokio::test]
async fn a_commit_is_settled_when_the_store_answers_again() {
    for fault in [Fault::CreateBefore, Fault::CreateAfter, Fault::Complete] {
        let ground = Ground::new();
        let committed = ground.commit(fault, 2).await.unwrap();
        assert!(committed.unfinished.is_none(), "{fault:?}: {committed:?}");
        assert_eq!((committed.written.rows, ground.files().await), (1, 1), "{fault:?}");
    }
}

/// The entry exists, so to call the write failed would have it written again.
#[tokio::test]
async fn a_commit_that_cannot_be_completed_is_one_still() {
    let ground = Ground::new();
    let committed = ground.commit(Fault::Complete, usize::MAX).await.unwrap();
    let problem = committed.unfinished.unwrap();
    assert!(problem.message.contains("is committed, and not complete"), "{problem}");
    assert_eq!((committed.written.rows, ground.files().await), (1, 0));
    // The next driver cannot complete it either, and does not call it failed.
    let next = WriteRequest {
        write_id: WriteId::for_statement("run", 0),
        job: "job".to_owned(),
        generation: Generation::new(2),
        mode: WriteMode::Append,
    };
    for (times, is_complete) in [(usize::MAX, false), (1, true)] {
        let store = ground.faulty(Fault::Complete, times);
        let looked = look(&store, "t", next.clone(), at_once(1)).await.unwrap();
        let Looked::Committed(committed) = looked else {
            panic!("the write was begun again")
        };
        assert_eq!(committed.unfinished.is_none(), is_complete, "{committed:?}");
        assert!(committed.written.recovered);
    }
    assert_eq!(ground.files().await, 1);
}

#[tokio::test]
async fn a_write_that_nobody_can_tell_about_is_not_called_failed() {
    let ground = Ground::new();
    let problem = ground.commit(Fault::CreateBefore, usize::MAX).await.unwrap_err();
    assert!(problem.message.contains("it cannot be told"), "{problem}");
    let ground = Ground::new();
    // The tries to commit fail, and what gives the write up does not.
    let problem = ground.commit(Fault::CreateBefore, 3).await.unwrap_err();
    assert!(!problem.message.contains("it cannot be told"), "{problem}");
    assert_eq!((ground.files().await, ground.pending().len()), (0, 0));
}

/// A write that is given up for certain is not in doubt because its parts stay.
#[tokio::test]
async fn parts_that_cannot_be_freed_leave_no_doubt() {
    let ground = Ground::new();
    let mut write = ground.begin(0, &ground.destination(&[])).await;
    let plan = write.plan(ground.query("SELECT 1 AS a").await);
    ground.run(plan).await.unwrap();
    let discarded = ground.faulty(Fault::Abort, 1).discard(write.permit).await.unwrap();
    assert_eq!((discarded, ground.pending().len()), (Discarded::Freed(0), 1));
}

/// An overwrite may read what it replaces: what is committed there has to be readable before it is planned.
#[tokio::test]
async fn an_earlier_write_is_completed_before_rows_are_planned() {
    let ground = Ground::new();
    assert!(
        ground
            .commit(Fault::Complete, usize::MAX)
            .await
            .unwrap()
            .unfinished
            .is_some()
    );
    let overwrite = WriteRequest {
        write_id: WriteId::for_statement("run", 1),
        job: "job".to_owned(),
        generation: Generation::FIRST,
        mode: WriteMode::Overwrite,
    };
    let store = ground.faulty(Fault::Complete, usize::MAX);
    let refused = look(&store, "t", overwrite.clone(), at_once(0)).await.err().unwrap();
    assert!(refused.message.contains("it does not answer"), "{refused}");
    let append = WriteRequest {
        mode: WriteMode::Append,
        ..overwrite.clone()
    };
    assert!(look(&store, "t", append, at_once(0)).await.is_ok(), "it loses nothing");
    assert_eq!(ground.files().await, 0);
    assert!(
        look(&ground.faulty(Fault::Complete, 0), "t", overwrite, at_once(0))
            .await
            .is_ok()
    );
    assert_eq!(ground.files().await, 1);
}

#[tokio::test]
async fn a_write_that_is_not_planned_leaves_nothing() {
    let ground = Ground::new();
    let write = ground.begin(0, &ground.destination(&[])).await;
    write.abandon().await;
    assert_eq!(std::fs::read_dir(ground.folder.path()).unwrap().count(), 0);
}

/// What the next driver asks before it plans a statement whose input may be gone.
#[tokio::test]
async fn what_an_earlier_driver_committed_is_found_by_its_place() {
    let ground = Ground::new();
    let place = ground.destination(&[]).location;
    let next = Writer {
        generation: Generation::new(2),
        ..writer()
    };
    assert!(
        committed_earlier(&ground.session, &next, 0, &place)
            .await
            .unwrap()
            .is_none()
    );
    let ground = Ground::new();
    let place = ground.destination(&[]).location;
    ground.commit(Fault::Abort, 0).await.unwrap();
    let found = committed_earlier(&ground.session, &next, 0, &place)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found.written.rows, found.written.recovered), (1, true));
}

/// What is read back from the files of a write that goes to 100 folders: of each, its rows in their order.
async fn divided(sql: &str) -> Vec<Vec<i64>> {
    let ground = Ground::new();
    let mut write = ground.begin(0, &ground.destination(&["folder"])).await;
    let plan = write.plan(ground.query(sql).await);
    let receipts = ground.run(plan).await.unwrap();
    write.commit(&receipts).await.unwrap();
    let mut files = Vec::new();
    for folder in std::fs::read_dir(ground.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap())
    {
        if !folder.file_name().to_str().unwrap().starts_with("folder=") {
            continue;
        }
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = std::fs::File::open(file.unwrap().path()).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            let numbers =
                reader.flat_map(|batch| batch.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec());
            files.push(numbers.collect());
        }
    }
    files
}

#[tokio::test]
async fn rows_stay_in_their_order_within_each_of_many_folders() {
    let rows = "SELECT value AS n, value * 7919 % 100 AS folder FROM generate_series(1, 60000)";
    // Below what would come by itself, and none that the source has.
    for order in ["n DESC", "folder, n DESC", "folder DESC, n DESC"] {
        let files = divided(&format!("{rows} ORDER BY {order}")).await;
        assert_eq!(files.len(), 100, "{order}");
        assert!(
            files
                .iter()
                .all(|rows| rows.len() == 600 && rows.is_sorted_by(|a, b| a > b)),
            "{order}"
        );
    }
}

/// A job that is stopped while it waits for its commit.
#[tokio::test]
async fn a_commit_goes_on_when_nobody_waits_for_it() {
    let ground = Ground::new();
    let mut write = ground.begin(0, &ground.destination(&[])).await;
    let plan = write.plan(ground.query("SELECT 1 AS a").await);
    let receipts = ground.run(plan).await.unwrap();
    let decisions = Decisions::default();
    let mut commit = Box::pin(PendingWrite::new(write, &decisions).commit(receipts));
    assert!(futures::poll!(&mut commit).is_pending());
    drop(commit);
    let said = decisions.settle().await.unwrap();
    assert!(said.contains("is committed"), "{said}");
    assert_eq!(ground.files().await, 1);
}

/// The first partition fails; the second has a row, and then none for ever.
#[derive(Debug)]
struct Half {
    schema: datafusion::arrow::datatypes::SchemaRef,
    fails: bool,
    /// Held as long as somebody reads the partition.
    reads: Arc<()>,
    /// The second partition has been asked for a second row.
    wrote: Arc<tokio::sync::Notify>,
}

impl PartitionStream for Half {
    fn schema(&self) -> &datafusion::arrow::datatypes::SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> datafusion::execution::SendableRecordBatchStream {
        let (reads, wrote, schema) = (
            Arc::clone(&self.reads),
            Arc::clone(&self.wrote),
            Arc::clone(&self.schema),
        );
        let fails = self.fails;
        let rows = stream::unfold(0, move |row| {
            let (reads, wrote, schema) = (Arc::clone(&reads), Arc::clone(&wrote), Arc::clone(&schema));
            async move {
                let _reads = reads;
                if fails {
                    wrote.notified().await;
                    return Some((datafusion::common::exec_err!("a row that cannot be"), 1));
                }
                if row > 0 {
                    wrote.notify_one();
                    std::future::pending::<()>().await;
                }
                let column: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
                Some((Ok(RecordBatch::try_new(schema, vec![column]).unwrap()), 1))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// What is swept while tasks write is there again when they go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_is_swept_when_its_tasks_have_ended() {
    let ground = Ground::new();
    let (reads, wrote) = (Arc::new(()), Arc::new(tokio::sync::Notify::new()));
    let schema = ground.query("SELECT 'x' AS a").await.schema();
    let halves: Vec<Arc<dyn PartitionStream>> = [true, false]
        .into_iter()
        .map(|fails| {
            Arc::new(Half {
                schema: Arc::clone(&schema),
                fails,
                reads: Arc::clone(&reads),
                wrote: Arc::clone(&wrote),
            }) as Arc<dyn PartitionStream>
        })
        .collect();
    let input = StreamingTableExec::try_new(Arc::clone(&schema), halves, None, [], false, None).unwrap();
    let write = ground.begin(0, &ground.destination(&[])).await;
    let decisions = Decisions::default();
    let mut pending = PendingWrite::new(write, &decisions);
    let (plan, context) = (pending.plan(Arc::new(input)), ground.session.task_ctx());
    let mut running = LocalEngine.submit(plan, context).await.unwrap();
    assert!(running.rows.next().await.unwrap().is_err());
    assert_eq!(ground.pending().len(), 1, "the other task has a file open");
    pending.abandon(Some(running)).await;
    assert_eq!(Arc::strong_count(&reads), 1, "a task goes on");
    assert_eq!(ground.pending(), [""; 0]);
}

/// A task of the first try that opens its file when that has been swept.
#[tokio::test]
async fn a_second_try_has_names_of_its_own() {
    let ground = Ground::new();
    let destination = ground.destination(&[]);
    let mut first = ground.begin(0, &destination).await;
    let straggler = first.plan(ground.query("SELECT 1 AS a").await);
    first.abandon().await;
    let late = ground.run(straggler).await.unwrap();
    assert_eq!((late.len(), ground.pending().len()), (1, 1));
    let mut second = ground.begin(1, &destination).await;
    let plan = second.plan(ground.query("SELECT 1 AS a").await);
    let receipts = ground.run(plan).await.unwrap();
    let committed = second.commit(&receipts).await.unwrap();
    assert_eq!((committed.written.rows, ground.files().await), (1, 1));
}

#[tokio::test]
async fn a_value_that_cannot_name_a_folder_is_no_bug_of_ours() {
    let ground = Ground::new();
    let input = ground.query("SELECT 1 AS a, repeat('x', 600) AS folder").await;
    let mut write = ground.begin(0, &ground.destination(&["folder"])).await;
    let error = ground.run(write.plan(input)).await.unwrap_err();
    let problem = statement_problem(&error);
    assert_eq!(problem.code, ErrorCode::SqlExecution, "{problem}");
    assert!(problem.remedy.is_some() && problem.message.len() < 300, "{problem}");
}

#[test]
fn a_part_that_is_too_large_is_no_bug_of_ours() {
    let too_large = StoreError::PartTooLarge {
        part: "part".to_owned(),
        bytes_max: 1,
    };
    let problem = statement_problem(&parts::store_failed(too_large));
    assert_eq!(problem.code, ErrorCode::SqlUnsupported, "{problem}");
    assert!(problem.remedy.unwrap().contains("target_partitions"));
}
