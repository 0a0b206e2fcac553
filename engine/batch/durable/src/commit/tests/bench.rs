//! The test bench: destinations of both kinds, stores that die at a chosen operation, and drivers that write a known
//! result.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use crate::commit::*;
use crate::{Fingerprint, Generation, WriteId};

/// Whether the operation that kills the process took effect before it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    Before,
    After,
}

/// Lets a number of mutating operations through, then kills: the next one dies, and everything after it fails, unless it is
/// a hiccup.
#[derive(Debug)]
pub(super) struct Fuse {
    left: AtomicUsize,
    death: Death,
    is_hiccup: bool,
    blown: AtomicUsize,
}

impl Fuse {
    pub(super) fn after(operations: usize, death: Death) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(operations),
            death,
            is_hiccup: false,
            blown: AtomicUsize::new(0),
        })
    }

    /// One operation fails, and all is well again.
    pub(super) fn hiccup_after(operations: usize, death: Death) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(operations),
            death,
            is_hiccup: true,
            blown: AtomicUsize::new(0),
        })
    }

    pub(super) fn none() -> Arc<Self> {
        Self::after(usize::MAX, Death::Before)
    }

    pub(super) fn is_blown(&self) -> bool {
        self.blown.load(Ordering::SeqCst) > 0
    }

    /// Whether the process is still alive.
    fn alive(&self) -> Result<(), ()> {
        if self.is_blown() { Err(()) } else { Ok(()) }
    }

    /// Runs a mutating operation, or dies of it.
    async fn burn<T, E>(&self, dead: impl Fn() -> E, operation: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.alive().map_err(|()| dead())?;
        if self.left.load(Ordering::SeqCst) > 0 {
            self.left.fetch_sub(1, Ordering::SeqCst);
            return operation.await;
        }
        if self.is_hiccup {
            self.left.store(usize::MAX, Ordering::SeqCst);
        } else {
            self.blown.store(1, Ordering::SeqCst);
        }
        if self.death == Death::After {
            // The process never learns how it went.
            let _ = operation.await;
        }
        Err(dead())
    }
}

/// An object store in memory whose process can die, and whose errors are those of S3.
#[derive(Debug, Clone)]
pub(super) struct MortalObjects {
    inner: InMemory,
    fuse: Arc<Fuse>,
    /// Pieces under way now, and at most so far.
    pub(super) under_way: Arc<(AtomicUsize, AtomicUsize)>,
}

impl MortalObjects {
    pub(super) fn new(inner: InMemory, fuse: Arc<Fuse>) -> Self {
        Self {
            inner,
            fuse,
            under_way: Arc::default(),
        }
    }

    fn check(&self) -> object_store::Result<()> {
        self.fuse.alive().map_err(|()| dead_objects())
    }
}

fn dead_objects() -> object_store::Error {
    object_store::Error::Generic {
        store: "mortal",
        source: "the process died".into(),
    }
}

impl fmt::Display for MortalObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

/// S3 says "not found" for an unknown upload where the store in memory says "generic".
fn as_s3<T>(result: object_store::Result<T>, path: &Path) -> object_store::Result<T> {
    result.map_err(|error| match error {
        object_store::Error::Generic {
            store: "InMemory",
            source,
        } => object_store::Error::NotFound {
            path: path.to_string(),
            source,
        },
        error => error,
    })
}

#[async_trait]
impl ObjectStore for MortalObjects {
    async fn put_opts(&self, path: &Path, body: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.fuse
            .burn(dead_objects, self.inner.put_opts(path, body, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.check()?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.check()?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let store = self.clone();
        paths
            .then(move |path| {
                let store = store.clone();
                async move {
                    let path = path?;
                    let one = futures::stream::once(futures::future::ready(Ok(path.clone()))).boxed();
                    let mut deleted = store.inner.delete_stream(one);
                    store
                        .fuse
                        .burn(dead_objects, async { deleted.next().await.unwrap_or(Ok(path)) })
                        .await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.check() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(futures::future::ready(Err(error))).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.check()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.fuse
            .burn(dead_objects, self.inner.copy_opts(from, to, options))
            .await
    }
}

#[async_trait]
impl MultipartStore for MortalObjects {
    async fn create_multipart(&self, path: &Path) -> object_store::Result<MultipartId> {
        self.fuse.burn(dead_objects, self.inner.create_multipart(path)).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        index: usize,
        data: PutPayload,
    ) -> object_store::Result<PartId> {
        let (now, most) = &*self.under_way;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        YieldOnce::default().await;
        let sent = self
            .fuse
            .burn(dead_objects, self.inner.put_part(path, id, index, data))
            .await;
        now.fetch_sub(1, Ordering::SeqCst);
        as_s3(sent, path)
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        pieces: Vec<PartId>,
    ) -> object_store::Result<PutResult> {
        as_s3(
            self.fuse
                .burn(dead_objects, self.inner.complete_multipart(path, id, pieces))
                .await,
            path,
        )
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> object_store::Result<()> {
        as_s3(
            self.fuse.burn(dead_objects, self.inner.abort_multipart(path, id)).await,
            path,
        )
    }
}

/// Any destination whose process can die at an operation of the protocol; and which lets others act before each one.
#[derive(Debug)]
pub(super) struct MortalParts {
    inner: Arc<dyn PartStore>,
    fuse: Arc<Fuse>,
}

impl MortalParts {
    pub(super) fn new(inner: Arc<dyn PartStore>, fuse: Arc<Fuse>) -> Arc<Self> {
        Arc::new(Self { inner, fuse })
    }

    async fn look(&self) -> Result<(), StoreError> {
        YieldOnce::default().await;
        self.fuse.alive().map_err(|()| dead_parts())
    }

    async fn change<T>(&self, operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        YieldOnce::default().await;
        self.fuse.burn(dead_parts, operation).await
    }
}

fn dead_parts() -> StoreError {
    StoreError::File {
        action: "live",
        path: String::new(),
        source: std::io::Error::other("the process died"),
    }
}

#[async_trait]
impl PartStore for MortalParts {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        // In two pages, as an object store lists: others may act between them.
        self.look().await?;
        let mut files = self.inner.list(folder).await?;
        self.look().await?;
        let later = self.inner.list(folder).await?;
        files.sort_unstable();
        if let Some(start) = files.get(files.len() / 2).map(|file| file.name.clone()) {
            files.retain(|file| file.name < start);
            files.extend(later.into_iter().filter(|file| file.name >= start));
        }
        Ok(files)
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.look().await?;
        self.inner.read(name).await
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Create, StoreError> {
        self.change(self.inner.create(name, body)).await
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        self.change(self.inner.put(name, body)).await
    }

    async fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.change(self.inner.remove(name)).await
    }

    async fn open(&self, part: &PartName) -> Result<Box<dyn PartWriter>, StoreError> {
        self.change(self.inner.open(part)).await
    }

    async fn complete(&self, part: &PartReceipt) -> Result<Completion, StoreError> {
        self.change(self.inner.complete(part)).await
    }

    async fn abort(&self, part: &PartName) -> Result<(), StoreError> {
        self.change(self.inner.abort(part)).await
    }
}

/// Lets another task run.
#[derive(Debug, Default)]
pub(super) struct YieldOnce {
    yielded: bool,
}

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A destination that can be opened again after its process died.
pub(super) enum Ground {
    Local(tempfile::TempDir),
    Objects(InMemory),
}

impl Ground {
    pub(super) fn both() -> Vec<Self> {
        vec![Self::local(), Self::objects()]
    }

    pub(super) fn local() -> Self {
        Self::Local(tempfile::tempdir().unwrap())
    }

    pub(super) fn objects() -> Self {
        Self::Objects(InMemory::new())
    }

    /// The destination, through a process that dies when its fuse burns down.
    pub(super) fn mortal(&self, fuse: Arc<Fuse>) -> Arc<dyn PartStore> {
        match self {
            Self::Local(folder) => MortalParts::new(Arc::new(LocalParts::new(folder.path().join("out"))), fuse),
            Self::Objects(memory) => {
                let store = Arc::new(MortalObjects::new(memory.clone(), fuse));
                Arc::new(MultipartParts::new(
                    store,
                    Path::from("lake/out"),
                    MultipartOptions::default().without_waits(),
                ))
            }
        }
    }

    pub(super) fn store(&self) -> Arc<dyn PartStore> {
        self.mortal(Fuse::none())
    }

    pub(super) fn committer(&self) -> Committer {
        Committer::new(self.store())
    }

    /// The contents of all visible files, ordered, and the writes that are not finished.
    pub(super) async fn read(&self) -> (Vec<String>, Vec<WriteId>) {
        match self.committer().visible().await.unwrap() {
            Visible::NotTrireme => (self.read_as_a_stranger().await, Vec::new()),
            Visible::Files { files, unfinished } => {
                (self.contents(files.into_iter().map(|file| file.name)).await, unfinished)
            }
        }
    }

    /// What a reader sees that knows nothing of the log: the contents of all files that are not hidden, ordered.
    pub(super) async fn read_as_a_stranger(&self) -> Vec<String> {
        let names = self.names().await.into_iter().filter(|name| !layout::is_hidden(name));
        self.contents(names).await
    }

    /// The names of all files, hidden ones too.
    pub(super) async fn names(&self) -> Vec<String> {
        self.store()
            .list("")
            .await
            .unwrap()
            .into_iter()
            .map(|file| file.name)
            .collect()
    }

    async fn contents(&self, names: impl Iterator<Item = String>) -> Vec<String> {
        let store = self.store();
        let mut contents = Vec::new();
        for name in names {
            let body = store.read(&name).await.unwrap().unwrap();
            contents.push(String::from_utf8(body.to_vec()).unwrap());
        }
        contents.sort_unstable();
        contents
    }

    /// No write is half completed and nothing was left lying about.
    pub(super) async fn assert_tidy(&self) {
        let names = self.names().await;
        assert!(names.iter().any(|name| name == layout::SUCCESS), "{names:?}");
        let untidy: Vec<_> = names
            .iter()
            .filter(|name| name.starts_with("_trireme/tmp") || name.contains("/."))
            .collect();
        assert!(untidy.is_empty(), "{untidy:?}");
    }
}

pub(super) const PARTITIONS: u32 = 3;

pub(super) fn schema() -> Fingerprint {
    Fingerprint::of(["x: int64"])
}

pub(super) fn request(write: &str, generation: u64, mode: WriteMode) -> WriteRequest {
    let generation = Generation::new(generation);
    WriteRequest {
        write_id: write.parse().unwrap(),
        job: format!("job of {write}"),
        generation,
        mode,
    }
}

/// What a write leaves behind: one file for each partition, the same whichever driver wrote it.
pub(super) fn result(write: &str) -> Vec<String> {
    (0..PARTITIONS)
        .map(|partition| format!("{write}/{partition}"))
        .collect()
}

/// Several results together, ordered.
pub(super) fn together(results: &[&str]) -> Vec<String> {
    let mut all: Vec<_> = results.iter().flat_map(|write| result(write)).collect();
    all.sort_unstable();
    all
}

pub(super) async fn write_part(
    store: &dyn PartStore,
    request: &WriteRequest,
    partition: u32,
    attempt: u64,
) -> Result<PartReceipt, StoreError> {
    let name = PartName::new(request.write_id.clone(), request.generation, partition, attempt, "txt").unwrap();
    let mut writer = store.open(&name).await?;
    let body = format!("{}/{partition}", request.write_id);
    writer.write(body.into()).await?;
    let receipt = writer.finish(1).await?;
    // As on its way from task to driver.
    Ok(PartReceipt::from_token(&receipt.to_token()).unwrap())
}

pub(super) async fn write_parts(store: &dyn PartStore, request: &WriteRequest) -> Result<Vec<PartReceipt>, StoreError> {
    let mut parts = Vec::new();
    for partition in 0..PARTITIONS {
        parts.push(write_part(store, request, partition, 0).await?);
    }
    Ok(parts)
}

/// A driver from begin to commit. The first partition has a second attempt, whose part loses.
pub(super) async fn drive(store: Arc<dyn PartStore>, request: WriteRequest) -> Result<Committed, CommitError> {
    let committer = Committer::new(Arc::clone(&store));
    match committer.begin(request.clone()).await? {
        Begin::Committed(record) => Ok(Committed { record, created: false }),
        Begin::Permit(permit) => {
            write_part(&*store, &request, 0, 1).await?;
            let parts = write_parts(&*store, &request).await?;
            committer.commit(&permit, schema(), parts).await
        }
    }
}
