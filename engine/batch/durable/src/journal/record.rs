//! The records of a journal and their JSON.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Entry, JournalError, RECORD_BYTES_MAX, frame};
use crate::{Fingerprint, Generation, WriteId};

/// The format that this version writes, and the newest it reads.
const VERSION: u16 = 1;

/// One event of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Record {
    /// A driver took over.
    Opened {
        /// One more than the driver before.
        generation: Generation,
        /// Fingerprint of all that decides the job's answer.
        job: Fingerprint,
        /// The driver process, for people and to tell racing openers apart.
        driver: String,
    },
    /// A statement is about to run.
    StatementStarted {
        /// Its place in the job, from 0.
        index: u32,
        /// Of its text, with parameters.
        statement: Fingerprint,
    },
    /// A statement is about to write. Comes before the first task that writes.
    WriteIntended {
        /// The statement.
        index: u32,
        /// The write, the same for every driver of this job.
        write_id: WriteId,
        /// The destination's URL, without credentials.
        location: String,
    },
    /// A statement ended well.
    StatementDone {
        /// The statement.
        index: u32,
        /// What it left behind.
        outcome: StatementOutcome,
    },
    /// The job ended; nothing is to be resumed.
    Finished {
        /// How.
        outcome: JobOutcome,
    },
}

impl Record {
    /// What kind of record it is, for logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::StatementStarted { .. } => "statement-started",
            Self::WriteIntended { .. } => "write-intended",
            Self::StatementDone { .. } => "statement-done",
            Self::Finished { .. } => "finished",
        }
    }
}

/// What a statement left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum StatementOutcome {
    /// State of the session only (DDL, SET): a new driver must run it again.
    Replay,
    /// Rows for a person.
    Query(QueryDone),
    /// Committed data.
    Write(WriteDone),
}

/// A query's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryDone {
    /// The first rows as text.
    pub preview: Option<String>,
    /// Whether there are rows that the preview does not show.
    #[serde(default)]
    pub truncated: bool,
    /// All rows of the result.
    pub rows: u64,
    /// Where all of them are, if they were kept.
    pub location: Option<String>,
}

impl QueryDone {
    /// Whether nothing of the result is lost with the driver that showed it.
    pub fn is_kept(&self) -> bool {
        self.location.is_some() || (self.preview.is_some() && !self.truncated)
    }
}

/// A write's end: it is committed and complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteDone {
    /// The write.
    pub write_id: WriteId,
    /// The destination's URL, without credentials.
    pub location: String,
    /// Rows written.
    pub rows: u64,
    /// Files written.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "camelCase")]
pub enum JobOutcome {
    /// Every statement is done.
    Succeeded,
    /// The job failed for good.
    Failed {
        /// The error, in the form in which a report has it.
        problem: serde_json::Value,
    },
}

#[derive(Serialize)]
struct Versioned<'a> {
    v: u16,
    #[serde(flatten)]
    record: &'a Record,
}

#[derive(Deserialize)]
struct Version {
    v: u16,
}

/// A record as a frame.
pub(super) fn encode(record: &Record) -> Result<Bytes, JournalError> {
    let payload = serde_json::to_vec(&Versioned { v: VERSION, record })
        .expect("a record holds only strings, numbers and options, which JSON can say");
    if payload.len() > RECORD_BYTES_MAX {
        return Err(JournalError::TooLarge {
            place: "record".to_owned(),
            bytes: payload.len() as u64,
            bytes_max: RECORD_BYTES_MAX as u64,
        });
    }
    Ok(frame::encode(&payload).into())
}

/// The record of an entry whose checksum held. What cannot be read is of another version, or not ours: never skipped.
pub(super) fn decode(entry: &Entry) -> Result<Record, JournalError> {
    let corrupt = |error: serde_json::Error| JournalError::Corrupt {
        place: entry.place.to_string(),
        offset: entry.offset,
        detail: format!("the checksum holds but the record cannot be read: {error}"),
    };
    let Version { v } = serde_json::from_slice(&entry.payload).map_err(corrupt)?;
    if v > VERSION {
        return Err(JournalError::Version {
            place: entry.place.to_string(),
            offset: entry.offset,
            found: v,
            supported: VERSION,
        });
    }
    serde_json::from_slice(&entry.payload).map_err(corrupt)
}

/// The generation in the record of a driver that took over.
pub(super) fn generation_of(payload: &[u8]) -> Option<Generation> {
    match serde_json::from_slice(payload) {
        Ok(Record::Opened {
            generation,
            job: _,
            driver: _,
        }) => Some(generation),
        Ok(_) | Err(_) => None,
    }
}
