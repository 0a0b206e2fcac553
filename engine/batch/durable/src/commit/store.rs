//! The edge: what the protocol needs of a destination. A store keeps bytes and decides nothing.

mod local;
mod multipart;

use std::fmt;
use std::io;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

use super::layout::PartName;
use super::record::PartReceipt;

pub use local::LocalParts;
pub use multipart::{MultipartOptions, MultipartParts};

/// Files that one destination may hold: a listing of a million names takes 200 MB and, on S3, a thousand requests.
pub const FILES_MAX: usize = 1_000_000;

/// A destination folder. Names are relative to it, with `/` between segments.
///
/// Every operation may be repeated after an error. `create` must be linearizable, and `read` and `list` must see what
/// was written before them.
#[async_trait]
pub trait PartStore: fmt::Debug + Send + Sync {
    /// The destination, for people. No credentials.
    fn place(&self) -> String;

    /// All files under a folder (`""` for all of the destination), at any depth; none where there is no such folder.
    async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError>;

    /// The bytes of a file, or `None` where there is no such file.
    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError>;

    /// Creates a file unless it exists, durably and whole.
    async fn create(&self, name: &str, body: Bytes) -> Result<Create, StoreError>;

    /// Creates or replaces a file, durably and whole.
    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError>;

    /// Removes a file; it is well if there is none.
    async fn remove(&self, name: &str) -> Result<(), StoreError>;

    /// Begins a part that nobody sees until it is completed.
    async fn open(&self, part: &PartName) -> Result<Box<dyn PartWriter>, StoreError>;

    /// Makes a finished part visible under its name. It is well if it is so already.
    async fn complete(&self, part: &PartReceipt) -> Result<Completion, StoreError>;

    /// Gives up a part that is not complete, finished or not, and frees what it holds. It is well if there is none.
    async fn abort(&self, part: &PartName) -> Result<(), StoreError>;
}

/// One part being written by one task.
///
/// Dropped without `finish`, it leaves bytes that nobody sees, for [`super::Committer::discard`] or a later sweep.
#[async_trait]
pub trait PartWriter: Send {
    /// Adds bytes. Waits while too many are under way.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Bytes in memory that have been added and are not with the store yet.
    fn held_bytes(&self) -> usize;

    /// Waits until no bytes are under way. What is too little to be sent by itself stays.
    async fn settle(&mut self) -> Result<(), StoreError>;

    /// Makes the bytes durable, but not visible. `rows` is for the record.
    async fn finish(self: Box<Self>, rows: u64) -> Result<PartReceipt, StoreError>;

    /// Gives the part up.
    async fn abort(self: Box<Self>) -> Result<(), StoreError>;
}

/// One file in a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name under the destination.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last written, by the store's clock.
    pub modified: SystemTime,
    /// Differs between two files that have borne the name one after the other.
    pub tag: String,
}

/// What a create-if-absent found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Create {
    /// There was none, or it held these very bytes, as after an attempt of ours whose answer was lost.
    Ours,
    /// There is one with other bytes.
    Theirs,
}

/// What became of a part to complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// It is visible under its name.
    Complete,
    /// It is neither pending nor visible: it was replaced since, or somebody removed it.
    Lost,
}

/// A destination failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The object store failed.
    #[error("cannot {action} {path}")]
    Objects {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: String,
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// A file whose name is not UTF-8.
    #[error("the name of {path} is not UTF-8")]
    Name {
        /// The file, as well as it can be shown.
        path: String,
    },
    /// More files than [`FILES_MAX`].
    #[error("{place} holds more than {FILES_MAX} files")]
    TooManyFiles {
        /// The destination.
        place: String,
    },
    /// A part larger than the store takes.
    #[error("part {part} is larger than the store's limit of {bytes_max} bytes")]
    PartTooLarge {
        /// The part.
        part: String,
        /// The limit.
        bytes_max: u64,
    },
}
