//! Writes to destinations that fail at the worst moments, and by tasks that do not end in time.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, StringArray};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, TryStreamExt, stream};
use tempfile::TempDir;
use trireme_batch_durable::commit::{
    Completion, Create, Listed, LocalParts, PartName, PartReceipt, PartStore, PartWriter, Visible, WriteMode,
};
use trireme_core::store::{Credentials, S3Options, StoreFactory};

use super::*;
use crate::engine::BatchEngine;
use crate::local::LocalEngine;

/// What fails, and how often before all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A log entry that is not created.
    CreateBefore,
    /// A log entry that is created, which nobody is told.
    CreateAfter,
    /// Parts that cannot be completed.
    Complete,
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
        self.inner.abort(part).await
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

    async fn look(&self, attempt: u64, destination: &Destination, input: Arc<dyn ExecutionPlan>) -> Begun {
        let writer = Writer {
            job: "job".to_owned(),
            run: "run".to_owned(),
            generation: Generation::FIRST,
        };
        let begun = begin(&self.session, &writer, 0, attempt, destination, input);
        begun.await.unwrap()
    }

    async fn begin(&self, attempt: u64, destination: &Destination, input: Arc<dyn ExecutionPlan>) -> Box<Write> {
        match self.look(attempt, destination, input).await {
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
        let mut write = self
            .begin(0, &self.destination(&[]), self.query("SELECT 1 AS a").await)
            .await;
        let receipts = self.run(write.plan()).await.unwrap();
        write.settle_again = &[Duration::ZERO; 2];
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
        let looked = look(&store, "t", next.clone(), &[Duration::ZERO]).await.unwrap();
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

/// A job that is stopped while it waits for its commit.
#[tokio::test]
async fn a_commit_goes_on_when_nobody_waits_for_it() {
    let ground = Ground::new();
    let write = ground
        .begin(0, &ground.destination(&[]), ground.query("SELECT 1 AS a").await)
        .await;
    let receipts = ground.run(write.plan()).await.unwrap();
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
    let write = ground.begin(0, &ground.destination(&[]), Arc::new(input)).await;
    let decisions = Decisions::default();
    let pending = PendingWrite::new(write, &decisions);
    let context = ground.session.task_ctx();
    let mut running = LocalEngine.submit(pending.plan(), context).await.unwrap();
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
    let first = ground.begin(0, &destination, ground.query("SELECT 1 AS a").await).await;
    let straggler = first.plan();
    first.abandon().await;
    let late = ground.run(straggler).await.unwrap();
    assert_eq!((late.len(), ground.pending().len()), (1, 1));
    let second = ground.begin(1, &destination, ground.query("SELECT 1 AS a").await).await;
    let receipts = ground.run(second.plan()).await.unwrap();
    let committed = second.commit(&receipts).await.unwrap();
    assert_eq!((committed.written.rows, ground.files().await), (1, 1));
}

#[tokio::test]
async fn a_value_that_cannot_name_a_folder_is_no_bug_of_ours() {
    let ground = Ground::new();
    let input = ground.query("SELECT 1 AS a, repeat('x', 600) AS folder").await;
    let write = ground.begin(0, &ground.destination(&["folder"]), input).await;
    let error = ground.run(write.plan()).await.unwrap_err();
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
