//! A journal in an object store: one immutable object per record, `0000000000.rec`, `0000000001.rec`, ...
//!
//! Objects appear whole or not at all, so there is no torn tail here: an object that does not check out is damage. The
//! conditional create of the next number is lock and fence in one.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;
use object_store::path::Path;

use super::frame::{self, Scan};
use super::{Appended, Contents, Entry, JOURNAL_BYTES_MAX, JournalError, JournalStore};
use crate::objects::{CREATE_AGAIN, Created, create, read};

/// Reads under way at a time when a journal is opened: enough to hide a round trip of 50 ms, too few to be throttled.
const READS_MAX: usize = 16;

/// A journal in a folder of an object store. The store must honour `PutMode::Create`.
#[derive(Clone)]
pub struct ObjectJournal {
    store: Arc<dyn ObjectStore>,
    folder: Path,
}

impl fmt::Debug for ObjectJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectJournal({}/{})", self.store, self.folder)
    }
}

impl ObjectJournal {
    /// The journal in this folder, which must hold nothing else.
    pub fn new(store: Arc<dyn ObjectStore>, folder: Path) -> Self {
        Self { store, folder }
    }

    fn path(&self, number: u64) -> Path {
        self.folder.clone().join(format!("{number:010}.rec"))
    }

    /// The numbers of the records there are, which must be 0, 1, 2 and so on.
    async fn count(&self) -> Result<u64, JournalError> {
        let listed: Vec<_> = self
            .store
            .list(Some(&self.folder))
            .try_collect()
            .await
            .map_err(failed("list", &self.folder))?;
        let bytes = listed.iter().map(|object| object.size).sum();
        if bytes > JOURNAL_BYTES_MAX {
            return Err(JournalError::TooLarge {
                place: self.folder.to_string(),
                bytes,
                bytes_max: JOURNAL_BYTES_MAX,
            });
        }
        let mut numbers: Vec<u64> = listed
            .iter()
            .filter_map(|object| object.location.filename()?.strip_suffix(".rec")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        match numbers.iter().zip(0..).find(|(found, expected)| *found != expected) {
            Some((found, missing)) => Err(damaged(
                &self.path(missing),
                format!("the record is missing, while record {found} exists"),
            )),
            None => Ok(numbers.len() as u64),
        }
    }

    async fn entry(&self, number: u64) -> Result<Entry, JournalError> {
        let path = self.path(number);
        let body = read(&*self.store, &path).await.map_err(failed("read", &path))?;
        let body = body.ok_or_else(|| damaged(&path, "the record was listed and is gone".to_owned()))?;
        Ok(Entry {
            place: path.to_string().into(),
            offset: 0,
            payload: payload(&path, &body)?,
        })
    }
}

#[async_trait]
impl JournalStore for ObjectJournal {
    async fn read(&self) -> Result<Contents, JournalError> {
        let tail = self.count().await?;
        let entries = stream::iter(0..tail)
            .map(|number| self.entry(number))
            .buffered(READS_MAX)
            .try_collect()
            .await?;
        Ok(Contents {
            entries,
            tail,
            torn_bytes: 0,
        })
    }

    async fn append(&self, tail: u64, frame: Bytes) -> Result<Appended, JournalError> {
        let path = self.path(tail);
        match create(&*self.store, &path, &frame, CREATE_AGAIN)
            .await
            .map_err(failed("append to", &path))?
        {
            Created::Ours => Ok(Appended::At(tail + 1)),
            Created::Theirs(found) => Ok(Appended::Taken(payload(&path, &found)?)),
        }
    }
}

/// The one record that an object holds.
fn payload(path: &Path, body: &Bytes) -> Result<Bytes, JournalError> {
    match frame::scan(body) {
        Ok(Scan {
            payloads,
            end: _,
            torn_bytes: 0,
        }) if payloads.len() == 1 => Ok(body.slice(payloads[0].clone())),
        Ok(_) | Err(_) => Err(damaged(path, "the object is not one whole record".to_owned())),
    }
}

fn damaged(path: &Path, detail: String) -> JournalError {
    JournalError::Corrupt {
        place: path.to_string(),
        offset: 0,
        detail,
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(object_store::Error) -> JournalError {
    let place = path.to_string();
    move |source| JournalError::Objects { action, place, source }
}
