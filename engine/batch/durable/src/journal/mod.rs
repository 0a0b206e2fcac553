//! The journal of one job: an append-only, checksummed log that outlives its driver.
//!
//! # What it owns
//! The order of events of one job, and the rule that only the newest driver may add to it. It never interprets them
//! (that is [`resume`]) and never touches a destination (that is [`crate::commit`]).
//!
//! # Fencing
//! Who opens the journal appends `Opened { generation: last + 1 }`. Every append names the tail it follows, and the
//! store appends only if that is still the tail; so the first thing an older driver finds out, when it wakes up, is
//! that its tail is taken, and it gets [`JournalError::Fenced`] instead of a place in the log.
//!
//! ```text
//!   driver 1   Opened 1 ─ Started 0 ─ Done 0 ─ Started 1 ╌╌╌╌ (stopped) ╌╌╌╌ append Done 1 ✗ fenced by 2
//!   driver 2                                               Opened 2 ─ Started 1 ─ Done 1 ─ Finished
//! ```
//!
//! # Damage
//! A record is length, CRC-32 of length and payload, payload. An append cut short by a crash leaves a torn tail, which
//! is reported and overwritten by the next append. Bytes that do not check out with a whole record after them cannot
//! come from a torn append: that is damage, an error which names file and offset. Nothing is ever skipped.
//!
//! The shape (write-ahead log, longest valid prefix) is old; the fence by conditional create of the next number is the
//! one of Delta Lake's log and of SlateDB's manifest.

mod file;
mod frame;
mod objects;
mod record;
mod replay;

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

pub use file::FileJournal;
pub use objects::ObjectJournal;
pub use record::{JobOutcome, QueryDone, Record, StatementOutcome, WriteDone};
pub use replay::{Action, ResumeError, ResumePlan, WriteIntent, resume};

use crate::{Fingerprint, Generation};

/// One record's payload: a preview is at most 8 KiB, a location or an error message a few more.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// A whole journal, which is read into memory: a thousand statements of full previews take 8 MiB.
pub const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// Openers that race take turns; each round lets one of them through, and a job has one driver but for a moment.
const OPEN_ATTEMPTS_MAX: usize = 16;

/// Where a journal's bytes live. The store keeps order and atomicity; it knows nothing of generations.
#[async_trait]
pub trait JournalStore: fmt::Debug + Send + Sync {
    /// Reads every whole record. Changes nothing, not even a torn tail.
    async fn read(&self) -> Result<Contents, JournalError>;

    /// Appends one framed record if the journal still ends at `tail`, durably: it is there after a power cut.
    async fn append(&self, tail: u64, frame: Bytes) -> Result<Appended, JournalError>;
}

/// What a journal holds.
#[derive(Debug)]
pub struct Contents {
    /// The payloads of the whole records, in order.
    pub entries: Vec<Entry>,
    /// Where the next record goes: a length in bytes or a number of objects, as the store likes.
    pub tail: u64,
    /// Bytes after the last whole record, left there by an append that was cut short.
    pub torn_bytes: u64,
}

/// A record's payload and where it was read.
#[derive(Debug)]
pub struct Entry {
    /// The file or object.
    pub place: Arc<str>,
    /// The record's first byte within it.
    pub offset: u64,
    /// The JSON text of a [`Record`].
    pub payload: Bytes,
}

/// What became of an append.
#[derive(Debug, PartialEq, Eq)]
pub enum Appended {
    /// The record is durable; the next one goes to this tail.
    At(u64),
    /// Somebody else's record is at that tail: its payload.
    Taken(Bytes),
}

/// Reading or writing the journal failed.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file system failed.
    #[error("cannot {action} journal {place}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        place: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The object store failed.
    #[error("cannot {action} journal {place}")]
    Objects {
        /// What was attempted.
        action: &'static str,
        /// The object or folder.
        place: String,
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// Bytes that are not what was written, with whole records after them; or a record that is missing.
    #[error("journal {place} is damaged at byte {offset}: {detail}")]
    Corrupt {
        /// The file or object.
        place: String,
        /// The first bad byte within it.
        offset: u64,
        /// What does not check out.
        detail: String,
    },
    /// A record that this version cannot read.
    #[error(
        "journal {place} has a record at byte {offset} of format version {found}; this version reads up to {supported}"
    )]
    Version {
        /// The file or object.
        place: String,
        /// The record's first byte within it.
        offset: u64,
        /// The version it names.
        found: u16,
        /// The newest version that can be read.
        supported: u16,
    },
    /// A record or a journal that is larger than it may be.
    #[error("journal {place} would hold {bytes} bytes where at most {bytes_max} are allowed")]
    TooLarge {
        /// The file, or what is too large.
        place: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Another process kept the journal's file locked for longer than an append can take.
    #[error("journal {place} is locked by another process")]
    Locked {
        /// The file.
        place: String,
    },
    /// A newer driver has opened the journal: this one must stop.
    #[error("this driver was replaced{}", successor(by))]
    Fenced {
        /// The newer driver, where its record tells.
        by: Option<Generation>,
    },
    /// The journal belongs to another job, or to the same job before it was edited.
    #[error(
        "the journal was written by another version of this job (fingerprint {journaled}, now {given}); start a new run"
    )]
    JobChanged {
        /// The fingerprint in the journal.
        journaled: Fingerprint,
        /// The fingerprint of the job that was given.
        given: Fingerprint,
    },
    /// Openers kept replacing one another.
    #[error("other drivers opened the journal again and again")]
    Contended,
}

fn successor(by: &Option<Generation>) -> String {
    by.map_or_else(String::new, |by| format!(" by generation {by}"))
}

/// An open journal: the right to append, until a newer driver opens it.
#[derive(Debug)]
pub struct Journal {
    store: Arc<dyn JournalStore>,
    generation: Generation,
    tail: u64,
}

/// What opening a journal gives.
#[derive(Debug)]
pub struct Opening {
    /// The right to append.
    pub journal: Journal,
    /// Everything that earlier drivers wrote, in order; empty for a new job.
    pub records: Vec<Record>,
    /// Bytes of a record that an earlier driver did not finish writing. They are gone.
    pub torn_bytes: u64,
}

impl Journal {
    /// Opens the journal for a new driver, and so fences every earlier one.
    ///
    /// `job` is the fingerprint of all that decides the job's answer; a journal of another is refused. `driver` names
    /// this process, uniquely: two drivers that open at the same instant are told apart by it. Its generation is newer than
    /// all in the journal, and not below `generation_min`: whoever starts drivers may count them, too.
    pub async fn open(
        store: Arc<dyn JournalStore>,
        job: Fingerprint,
        generation_min: Generation,
        driver: &str,
    ) -> Result<Opening, JournalError> {
        for _ in 0..OPEN_ATTEMPTS_MAX {
            let contents = store.read().await?;
            let records = contents
                .entries
                .iter()
                .map(record::decode)
                .collect::<Result<Vec<_>, _>>()?;
            let generation = next_generation(&records, job)?.max(generation_min);
            let opened = Record::Opened {
                generation,
                job,
                driver: driver.to_owned(),
            };
            if let Appended::At(tail) = store.append(contents.tail, record::encode(&opened)?).await? {
                if contents.torn_bytes > 0 {
                    tracing::warn!(%generation, torn_bytes = contents.torn_bytes, "dropped an unfinished journal record");
                }
                let journal = Self {
                    store,
                    generation,
                    tail,
                };
                return Ok(Opening {
                    journal,
                    records,
                    torn_bytes: contents.torn_bytes,
                });
            }
        }
        Err(JournalError::Contended)
    }

    /// This driver's generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Appends a record; when this returns it is durable.
    ///
    /// After an error of the store, or when this is dropped before it returns, the record may or may not be there.
    /// Appending the same record again is safe and settles it; to go on with another record, [`Self::append_in_doubt`].
    pub async fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        match self.store.append(self.tail, record::encode(record)?).await? {
            Appended::At(tail) => {
                self.tail = tail;
                Ok(())
            }
            Appended::Taken(payload) => Err(JournalError::Fenced {
                by: record::generation_of(&payload),
            }),
        }
    }
}

impl Journal {
    /// As [`Self::append`], for a driver that does not know whether its last record arrived: follows whatever is there,
    /// unless a newer driver has opened the journal.
    pub async fn append_in_doubt(&mut self, record: &Record) -> Result<(), JournalError> {
        for _ in 0..OPEN_ATTEMPTS_MAX {
            let contents = self.store.read().await?;
            let newest = contents
                .entries
                .iter()
                .filter_map(|entry| record::generation_of(&entry.payload))
                .max();
            if let Some(by) = newest.filter(|newest| *newest > self.generation) {
                return Err(JournalError::Fenced { by: Some(by) });
            }
            self.tail = contents.tail;
            match self.append(record).await {
                // The record in doubt may have come between.
                Err(JournalError::Fenced { by: None }) => {}
                settled => return settled,
            }
        }
        Err(JournalError::Contended)
    }
}

/// The generation to open with, if the journal is this job's.
fn next_generation(records: &[Record], given: Fingerprint) -> Result<Generation, JournalError> {
    let mut next = Generation::FIRST;
    for record in records {
        if let Record::Opened {
            generation,
            job,
            driver: _,
        } = record
        {
            if *job != given {
                return Err(JournalError::JobChanged { journaled: *job, given });
            }
            next = next.max(generation.next());
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests;
