//! A destination in an object store with multipart uploads.
//!
//! A part is an upload that was left open; completing it is one request. Object stores do not tell through this
//! interface which uploads are open, so each is noted under `_trireme/tmp` as soon as it exists; an upload whose task
//! died between the two is empty, and falls to the bucket's rule for incomplete uploads.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::ExponentialBuilder;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use super::{Completion, Create, FILES_MAX, Listed, PartStore, PartWriter, StoreError};
use crate::commit::layout::{PartName, pending_name};
use crate::commit::record::{PartReceipt, Pending};
use crate::objects::{CREATE_AGAIN, Created, create, read};

/// S3's limit on the pieces of one upload.
const CHUNKS_MAX: u64 = 10_000;

/// S3's least size of a piece, but for the last.
const CHUNK_BYTES_MIN: usize = 5 << 20;

/// Between two requests to abort an upload. A piece that was on its way while the first was answered lands within them.
const ABORT_AGAIN: &[Duration] = &[
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// How a part is cut into requests.
#[derive(Debug, Clone, Copy)]
pub struct MultipartOptions {
    chunk_bytes: usize,
    in_flight_max: usize,
    abort_again: &'static [Duration],
    create_again: ExponentialBuilder,
}

impl Default for MultipartOptions {
    /// 8 MiB: an upload of 10,000 pieces then holds 78 GiB. Three requests at a time hide their latency.
    fn default() -> Self {
        Self::new(8 << 20, 3)
    }
}

impl MultipartOptions {
    /// Pieces of `chunk_bytes` (at least 5 MiB), at most `in_flight_max` (at least 1) under way at a time. All pieces
    /// of a part but the last have the same size, which R2 demands.
    pub fn new(chunk_bytes: usize, in_flight_max: usize) -> Self {
        Self {
            chunk_bytes: chunk_bytes.max(CHUNK_BYTES_MIN),
            in_flight_max: in_flight_max.max(1),
            abort_again: ABORT_AGAIN,
            create_again: CREATE_AGAIN,
        }
    }

    /// For stores on which no piece lands after an abort, and that are no better a moment later.
    #[cfg(test)]
    pub(crate) fn without_waits(self) -> Self {
        Self {
            abort_again: &[],
            create_again: CREATE_AGAIN.with_min_delay(Duration::ZERO).with_max_times(1),
            ..self
        }
    }

    /// Memory that one writer may hold, to be reserved by whoever runs it: the pieces under way and the one being
    /// filled.
    pub fn writer_bytes_max(&self) -> usize {
        self.chunk_bytes * (self.in_flight_max + 1)
    }
}

/// A destination folder in an object store. The store must honour `PutMode::Create`.
#[derive(Clone)]
pub struct MultipartParts {
    objects: Arc<dyn ObjectStore>,
    uploads: Arc<dyn MultipartStore>,
    folder: Path,
    options: MultipartOptions,
}

impl fmt::Debug for MultipartParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MultipartParts({})", self.place())
    }
}

impl MultipartParts {
    /// The destination in this folder of `store`, which is the concrete store: a `dyn ObjectStore` cannot leave an
    /// upload open.
    pub fn new<S: ObjectStore + MultipartStore>(store: Arc<S>, folder: Path, options: MultipartOptions) -> Self {
        Self {
            objects: Arc::clone(&store) as Arc<dyn ObjectStore>,
            uploads: store,
            folder,
            options,
        }
    }

    fn path(&self, name: &str) -> Result<Path, StoreError> {
        let whole = if self.folder.is_root() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.folder)
        };
        Path::parse(&whole).map_err(|source| failed("name", name)(source.into()))
    }

    /// Whether a part is there under its name.
    async fn exists(&self, path: &Path) -> object_store::Result<bool> {
        match self.objects.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Aborts an upload until the store knows it no more: a piece whose sender has been told to stop may still land, and bring
    /// the upload's storage back ("it might be necessary to abort a given multipart upload multiple times",
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html>). Some stores never say that they do
    /// not know it, so that there is an end to it.
    async fn give_up(&self, path: &Path, upload_id: &String) -> Result<(), StoreError> {
        let mut waits = self.options.abort_again.iter();
        loop {
            match self.uploads.abort_multipart(path, upload_id).await {
                Ok(()) => {}
                Err(object_store::Error::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(failed("abort the upload of", path.as_ref())(error)),
            }
            let Some(wait) = waits.next() else { return Ok(()) };
            tokio::time::sleep(*wait).await;
        }
    }

    fn relative(&self, path: &Path) -> Option<String> {
        let segments: Vec<_> = path.prefix_match(&self.folder)?.collect();
        Some(segments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/"))
    }
}

#[async_trait]
impl PartStore for MultipartParts {
    fn place(&self) -> String {
        format!("{}/{}", self.objects, self.folder)
    }

    async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let top = if folder.is_empty() {
            self.folder.clone()
        } else {
            self.path(folder)?
        };
        let mut listing = self.objects.list(Some(&top));
        let mut files = Vec::new();
        while let Some(object) = listing.try_next().await.map_err(failed("list", top.as_ref()))? {
            if files.len() == FILES_MAX {
                return Err(StoreError::TooManyFiles { place: self.place() });
            }
            // A name that ends in a slash stands for a folder in some tools.
            if let Some(name) = self.relative(&object.location).filter(|name| !name.is_empty()) {
                let tag = format!(
                    "{}@{}",
                    object.e_tag.unwrap_or_default(),
                    object.last_modified.timestamp_millis()
                );
                files.push(Listed {
                    name,
                    bytes: object.size,
                    modified: object.last_modified.into(),
                    tag,
                });
            }
        }
        Ok(files)
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        read(&*self.objects, &self.path(name)?)
            .await
            .map_err(failed("read", name))
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Create, StoreError> {
        let created = create(&*self.objects, &self.path(name)?, &body, self.options.create_again)
            .await
            .map_err(failed("create", name))?;
        Ok(match created {
            Created::Ours => Create::Ours,
            Created::Theirs(_) => Create::Theirs,
        })
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        self.objects
            .put(&self.path(name)?, PutPayload::from(body))
            .await
            .map_err(failed("write", name))?;
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), StoreError> {
        match self.objects.delete(&self.path(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("remove", name)(error)),
        }
    }

    async fn open(&self, part: &PartName) -> Result<Box<dyn PartWriter>, StoreError> {
        let name = part.to_string();
        let path = self.path(&name)?;
        let upload_id = self
            .uploads
            .create_multipart(&path)
            .await
            .map_err(failed("begin the upload of", &name))?;
        let writer = MultipartPart {
            store: self.clone(),
            part: part.clone(),
            path,
            upload_id: upload_id.clone(),
            buffer: VecDeque::new(),
            buffered_bytes: 0,
            bytes: 0,
            in_flight: JoinSet::new(),
            etags: Vec::new(),
        };
        if let Err(error) = self.put(&pending_name(part), upload_id.into()).await {
            // The first error tells more; what this one leaves behind is an empty upload.
            let _ = Box::new(writer).abort().await;
            return Err(error);
        }
        Ok(Box::new(writer))
    }

    async fn complete(&self, part: &PartReceipt) -> Result<Completion, StoreError> {
        let name = part.name.to_string();
        let path = self.path(&name)?;
        let Pending::Upload { upload_id, etags } = &part.pending else {
            // A receipt of a local destination, which cannot be completed here.
            return Ok(Completion::Lost);
        };
        let pieces = etags
            .iter()
            .map(|etag| PartId {
                content_id: etag.clone(),
            })
            .collect();
        let Err(refused) = self.uploads.complete_multipart(&path, upload_id, pieces).await else {
            return Ok(Completion::Complete);
        };
        // An upload that was completed before is no longer there; its object is. Stores differ in the error they give.
        if self.exists(&path).await.map_err(failed("inspect", &name))? {
            return Ok(Completion::Complete);
        }
        match refused {
            object_store::Error::NotFound { .. } => Ok(Completion::Lost),
            error => Err(failed("complete", &name)(error)),
        }
    }

    async fn abort(&self, part: &PartName) -> Result<(), StoreError> {
        let note = pending_name(part);
        let Some(upload_id) = self.read(&note).await? else {
            return Ok(());
        };
        let upload_id = String::from_utf8_lossy(&upload_id).into_owned();
        self.give_up(&self.path(&part.to_string())?, &upload_id).await?;
        self.remove(&note).await
    }
}

/// A part being uploaded.
struct MultipartPart {
    store: MultipartParts,
    part: PartName,
    path: Path,
    upload_id: String,
    buffer: VecDeque<Bytes>,
    buffered_bytes: usize,
    bytes: u64,
    /// Dropped with the writer, which cancels what is under way.
    in_flight: JoinSet<(usize, object_store::Result<PartId>)>,
    /// One for each piece sent; `None` while it is under way.
    etags: Vec<Option<String>>,
}

impl MultipartPart {
    /// Takes the first bytes out of the buffer, which holds at least as many. Copies none.
    fn take(&mut self, bytes: usize) -> PutPayload {
        let mut pieces = Vec::new();
        let mut missing = bytes;
        while missing > 0 {
            let Some(mut piece) = self.buffer.pop_front() else {
                break;
            };
            if piece.len() > missing {
                self.buffer.push_front(piece.split_off(missing));
            }
            missing -= piece.len();
            pieces.push(piece);
        }
        self.buffered_bytes -= bytes - missing;
        PutPayload::from_iter(pieces)
    }

    async fn send(&mut self, payload: PutPayload) -> Result<(), StoreError> {
        let index = self.etags.len();
        if index as u64 == CHUNKS_MAX {
            let bytes_max = CHUNKS_MAX * self.store.options.chunk_bytes as u64;
            return Err(StoreError::PartTooLarge {
                part: self.part.to_string(),
                bytes_max,
            });
        }
        while self.in_flight.len() >= self.store.options.in_flight_max {
            self.join_one().await?;
        }
        self.etags.push(None);
        let (uploads, path, upload_id) = (
            Arc::clone(&self.store.uploads),
            self.path.clone(),
            self.upload_id.clone(),
        );
        self.in_flight
            .spawn(async move { (index, uploads.put_part(&path, &upload_id, index, payload).await) });
        Ok(())
    }

    async fn join_one(&mut self) -> Result<(), StoreError> {
        let Some(joined) = self.in_flight.join_next().await else {
            return Ok(());
        };
        let name = self.path.as_ref();
        let (index, sent) = joined.map_err(|source| failed("upload", name)(source.into()))?;
        let piece = sent.map_err(failed("upload", name))?;
        self.etags[index] = Some(piece.content_id);
        Ok(())
    }
}

#[async_trait]
impl PartWriter for MultipartPart {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.buffered_bytes += bytes.len();
        self.bytes += bytes.len() as u64;
        self.buffer.push_back(bytes);
        let chunk_bytes = self.store.options.chunk_bytes;
        while self.buffered_bytes >= chunk_bytes {
            let payload = self.take(chunk_bytes);
            self.send(payload).await?;
        }
        Ok(())
    }

    fn held_bytes(&self) -> usize {
        self.buffered_bytes + self.in_flight.len() * self.store.options.chunk_bytes
    }

    async fn settle(&mut self) -> Result<(), StoreError> {
        while !self.in_flight.is_empty() {
            self.join_one().await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>, rows: u64) -> Result<PartReceipt, StoreError> {
        // An upload without pieces cannot be completed everywhere: an empty part has one empty piece.
        if self.buffered_bytes > 0 || self.etags.is_empty() {
            let payload = self.take(self.buffered_bytes);
            self.send(payload).await?;
        }
        self.settle().await?;
        let Self {
            part,
            upload_id,
            bytes,
            etags,
            ..
        } = *self;
        let etags = etags
            .into_iter()
            .map(|etag| etag.expect("every piece was joined, and a failed one returned"))
            .collect();
        Ok(PartReceipt {
            name: part,
            rows,
            bytes,
            pending: Pending::Upload { upload_id, etags },
        })
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StoreError> {
        self.in_flight.shutdown().await;
        self.store.give_up(&self.path, &self.upload_id).await?;
        self.store.remove(&pending_name(&self.part)).await
    }
}

fn failed(action: &'static str, path: &str) -> impl FnOnce(object_store::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Objects { action, path, source }
}
