//! What the destination's log holds, and the receipts that tasks hand in.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::layout::PartName;
use crate::{Fingerprint, Generation, WriteId};

/// The format that this version writes, and the newest it reads.
const VERSION: u16 = 1;

/// What a write does to the data that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WriteMode {
    /// Adds to it.
    Append,
    /// Fails if there is any.
    Create,
    /// Replaces all of it: every write earlier in the log, and the plain files that the record names.
    Overwrite,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "camelCase")]
pub enum LogEntry {
    /// From here on no older generation may commit this write.
    Claim(Claim),
    /// The write is committed.
    Commit(CommitRecord),
}

/// A driver's claim to a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The write.
    pub write_id: WriteId,
    /// The job, for people.
    pub job: String,
    /// The driver.
    pub generation: Generation,
}

/// A committed write: everything that is needed to complete it without its driver and its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitRecord {
    /// The write.
    pub write_id: WriteId,
    /// The job, for people.
    pub job: String,
    /// The driver that committed.
    pub generation: Generation,
    /// What it does to earlier data.
    pub mode: WriteMode,
    /// Of the rows' schema, so that a reader can tell a changed one without opening files.
    pub schema: Fingerprint,
    /// The parts, ordered by name; none for an empty result.
    pub parts: Vec<PartReceipt>,
    /// [`WriteMode::Overwrite`] only: files that no entry of the log names and that this write replaces.
    pub replaced_files: Vec<ReplacedFile>,
}

impl CommitRecord {
    /// Rows in all parts.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Bytes in all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// A plain file that an overwrite replaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplacedFile {
    /// Its name under the destination.
    pub name: String,
    /// Which file of that name: one that somebody puts there later is another one, and stays.
    pub tag: String,
}

/// What a task hands in for a part that is written and not yet visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartReceipt {
    /// The name that it will have.
    pub name: PartName,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// How to complete it.
    pub pending: Pending,
}

/// How a part waits to be completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Pending {
    /// A file under `_trireme/tmp`, found by the part's name.
    File,
    /// A multipart upload that was left open.
    Upload {
        /// The store's name for it.
        upload_id: String,
        /// The store's names for its pieces, in order.
        etags: Vec<String>,
    },
}

/// A token that is no receipt.
#[derive(Debug, Error)]
#[error("cannot read the receipt of a part")]
pub struct InvalidReceipt {
    #[source]
    source: serde_json::Error,
}

impl PartReceipt {
    /// The receipt as an opaque text, for its way from the task to the driver.
    pub fn to_token(&self) -> String {
        serde_json::to_string(self).expect("a receipt holds only strings and numbers, which JSON can say")
    }

    /// The receipt of such a text. It comes from another process: the name is checked to stay under the destination.
    pub fn from_token(token: &str) -> Result<Self, InvalidReceipt> {
        serde_json::from_str(token).map_err(|source| InvalidReceipt { source })
    }
}

#[derive(Serialize)]
struct Versioned<'a> {
    v: u16,
    #[serde(flatten)]
    entry: &'a LogEntry,
}

#[derive(Deserialize)]
struct Version {
    v: u16,
}

/// Why an entry's bytes are no entry.
#[derive(Debug, Error)]
pub(super) enum InvalidEntry {
    #[error("format version {found} is newer than {VERSION}, which this version reads")]
    Version { found: u16 },
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl LogEntry {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&Versioned {
            v: VERSION,
            entry: self,
        })
        .expect("an entry holds only strings and numbers, which JSON can say")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, InvalidEntry> {
        let Version { v: found } = serde_json::from_slice(bytes)?;
        if found > VERSION {
            return Err(InvalidEntry::Version { found });
        }
        Ok(serde_json::from_slice(bytes)?)
    }
}
