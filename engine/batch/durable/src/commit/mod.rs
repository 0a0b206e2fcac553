//! The parallel sink: many tasks write, one driver decides, and what they wrote becomes one result or none.
//!
//! # At the destination
//! ```text
//! <location>/part-00003-<write id>-g2a7.parquet    data; g = generation, a = attempt of the task that wrote it
//! <location>/_SUCCESS                              empty; no write is half completed (for readers that are not ours)
//! <location>/_trireme/commits/0000000000.json      the destination's log: claims and commits, in order, never changed
//! <location>/_trireme/tmp/<write id>/part-….pending  local: the part's bytes; object store: its upload id
//! ```
//!
//! # The protocol
//! ```text
//!  tasks    ──write parts──────────────┐ receipts
//!  driver   begin ─ claim?              └─▶ commit ─┬─ entry n ─┬─ complete parts ─┬─ _SUCCESS ─ sweep
//!                                                   │           │                  │
//!  a crash here leaves      nothing visible         │  a record │ some parts       │ all parts
//!  the next driver          writes again            │  rolls forward, and never writes again
//!  our readers see          the old data            │  the old data                │ the new data
//!  other readers see        the old data            │  old and some of the new     │ the new data
//! ```
//! 1. `begin` looks for the write in the log: committed (then it is finished, and there is nothing to run), claimed by
//!    a newer generation (then this driver is stale), or neither. Every generation but the first appends a *claim*.
//! 2. Tasks write parts that nobody can see: an open multipart upload, or a file under `_trireme/tmp`.
//! 3. `commit` creates log entry *n* only if there is none: the *commit point*. It has read entries 0 to n-1, so it
//!    knows that no newer generation had claimed the write, that nobody had committed it, and (for
//!    [`WriteMode::Create`] and [`WriteMode::Overwrite`]) which committed data was there. If somebody else's entry took
//!    the place, it reads that and decides anew.
//! 4. The parts are completed, what an overwrite replaces is removed, `_SUCCESS` is put back, leftovers are swept. Each
//!    of these may be done again by anybody, at any time: [`Committer::recover`].
//!
//! One log for the destination, not one record per write, is what makes the last two lines of step 3 true when two jobs
//! write to one folder, and what makes a claim an exact fence: a stale generation cannot commit, whatever it still
//! believes.
//!
//! # What readers see
//! Our readers ([`Committer::visible`]) go by the log. A write counts when it is recorded *and* all its parts are
//! complete; an overwrite hides what came before from that same moment. A recorded write with parts missing is left out
//! and named, never waited for, and never finished by a reader, which needs no right to write: its driver, the next
//! driver, or the next writer at the destination finishes it with [`Committer::recover`]. Files that no entry names are
//! plain files that somebody put there; they stay visible until an overwrite replaces them.
//!
//! Other readers see each part when it is completed, one after the other. `_SUCCESS` is removed before the first and
//! put back after the last, so a reader that waits for it is safe from a half-completed write, but not from one that
//! starts while it reads. An overwrite removes the old files after the new are complete: between, other readers see
//! both.
//!
//! # What it stands on
//! Create-if-absent that is linearizable and listing that is consistent: S3 (with conditional writes), GCS, Azure,
//! local file systems with hard links. The decisions are pure ([`decide`], [`visible`]); [`PartStore`] decides nothing.
//! The idea of a log by conditional create is Delta Lake's (Armbrust et al., VLDB 2020); leaving uploads open until the
//! commit is the S3A "magic" committer's of Hadoop.

mod committer;
mod decide;
mod finish;
mod layout;
mod log;
mod record;
mod store;
mod visible;

pub use committer::{
    Begin, CommitError, CommitPermit, Committed, Committer, Discarded, ENTRIES_MAX, Recovered, WriteRequest,
};
pub use decide::{Decision, Facts, RecordFacts, decide};
pub use layout::{InvalidPartName, PartName};
pub use log::Log;
pub use record::{Claim, CommitRecord, InvalidReceipt, LogEntry, PartReceipt, Pending, ReplacedFile, WriteMode};
pub use store::{
    Completion, Create, FILES_MAX, Listed, LocalParts, MultipartOptions, MultipartParts, PartStore, PartWriter,
    StoreError,
};
pub use visible::{Visible, VisibleError, VisibleFile, visible};

#[cfg(test)]
mod tests;
