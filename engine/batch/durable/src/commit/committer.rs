//! The shell of the protocol: reads facts, asks [`decide`], does what it says.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use thiserror::Error;

use super::decide::{Decision, Facts, decide};
use super::finish::{Purpose, Winners, record_facts, warn_unswept};
use super::layout::{COMMITS, PartName, entry_name, entry_number, is_hidden};
use super::log::Log;
use super::record::{Claim, CommitRecord, InvalidEntry, LogEntry, PartReceipt, ReplacedFile, WriteMode};
use super::store::{Create, Listed, PartStore, StoreError};
use super::visible::{Visible, VisibleError, visible};
use crate::{Fingerprint, Generation, WriteId};

/// Requests under way at a time: enough to hide a round trip, too few to be throttled.
pub(super) const REQUESTS_MAX: usize = 16;

/// Each lost round is another writer's success, so many in a row mean a crowd at one folder, not a fault.
const APPEND_ATTEMPTS_MAX: usize = 128;

/// A listing is torn only by an overwrite that commits while it is taken.
const LISTINGS_MAX: usize = 8;

/// Entries of a log at which no write begins any more. The log is read whole for each write and each reader: at 16 requests
/// at a time of 50 ms each, these take half a minute.
pub const ENTRIES_MAX: u64 = 10_000;

/// The protocol at one destination. Holds no state of it; clones and other processes may be at work there too.
#[derive(Debug, Clone)]
pub struct Committer {
    pub(super) store: Arc<dyn PartStore>,
}

/// A driver's wish to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRequest {
    /// The write, the same for every driver of the job.
    pub write_id: WriteId,
    /// The job, for people.
    pub job: String,
    /// The driver.
    pub generation: Generation,
    /// What the write does to earlier data.
    pub mode: WriteMode,
}

/// What a driver that wants to write finds.
#[derive(Debug)]
pub enum Begin {
    /// The write is not committed: run its tasks, then commit with this.
    Permit(CommitPermit),
    /// An earlier driver committed it. It is finished now, and must not run again.
    Committed(CommitRecord),
}

/// Proof that the write was begun: no older generation can commit it.
#[derive(Debug)]
pub struct CommitPermit {
    request: WriteRequest,
    log: Log,
}

impl CommitPermit {
    /// What was asked for.
    pub fn request(&self) -> &WriteRequest {
        &self.request
    }
}

/// A write that is committed and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The record. Its parts are the result, also where they are not the ones that were handed in.
    pub record: CommitRecord,
    /// The record is of this call; otherwise it was there before, from an earlier driver or an earlier try.
    pub created: bool,
}

/// What a recovery did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Writes that were committed and are complete only now.
    pub rolled_forward: Vec<WriteId>,
}

/// What became of a write that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discarded {
    /// It is not committed, and never will be by this driver. So many parts were freed.
    Freed(usize),
    /// It had been committed, and keeps its parts.
    Committed(CommitRecord),
}

/// A write could not be begun, committed, recovered or read.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The destination failed. The same call may be tried again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A newer driver owns the write: this one must stop.
    #[error("write {write_id} belongs to the driver of generation {by}, which replaced this one")]
    Stale {
        /// The write.
        write_id: WriteId,
        /// The newer driver.
        by: Generation,
    },
    /// The destination of a [`WriteMode::Create`] is not empty.
    #[error("{place} already holds data ({holds})")]
    Exists {
        /// The destination.
        place: String,
        /// Some of it.
        holds: String,
    },
    /// A committed part is neither pending nor complete.
    #[error("part {part} of a committed write is gone from {place}; was its upload aborted, or its file removed?")]
    PartLost {
        /// The destination.
        place: String,
        /// The part.
        part: String,
    },
    /// The parts handed in are not one result of this write.
    #[error("part {part} does not fit: {detail}")]
    WrongPart {
        /// The part.
        part: String,
        /// Why.
        detail: &'static str,
    },
    /// A log entry that is not what was written.
    #[error("{place}/{name} is damaged: {detail}")]
    DamagedLog {
        /// The destination.
        place: String,
        /// The entry.
        name: String,
        /// What is wrong with it.
        detail: String,
    },
    /// There were too many writes here.
    #[error(
        "{place} has been written to so often that its log has {entries} entries, at least as many as the limit of {ENTRIES_MAX}"
    )]
    LogFull {
        /// The destination.
        place: String,
        /// How many there are.
        entries: u64,
    },
    /// Other writers came first again and again.
    #[error("{place} is too busy: other writers came first {APPEND_ATTEMPTS_MAX} times")]
    Contended {
        /// The destination.
        place: String,
    },
    /// What readers may see cannot be told.
    #[error("cannot tell what is in {place}")]
    Visible {
        /// The destination.
        place: String,
        /// Why.
        #[source]
        source: VisibleError,
    },
}

impl Committer {
    /// The protocol at this destination.
    pub fn new(store: Arc<dyn PartStore>) -> Self {
        Self { store }
    }

    /// The destination, for tasks to open parts at.
    pub fn store(&self) -> &Arc<dyn PartStore> {
        &self.store
    }

    /// Begins a write, before its first task: finds it committed, or makes sure that no older driver can commit it.
    pub async fn begin(&self, request: WriteRequest) -> Result<Begin, CommitError> {
        let mut log = Log::default();
        for _ in 0..APPEND_ATTEMPTS_MAX {
            self.read_on(&mut log).await?;
            match self.decide(&request, &log).await? {
                // Writes under way are taken over, committed and freed beyond it too.
                Decision::Write | Decision::Claim if log.len() >= ENTRIES_MAX && is_new(&request, &log) => {
                    return Err(CommitError::LogFull {
                        place: self.store.place(),
                        entries: log.len(),
                    });
                }
                Decision::Write => return Ok(Begin::Permit(CommitPermit { request, log })),
                Decision::Claim => {
                    if self.append(&mut log, claim(&request)).await? {
                        return Ok(Begin::Permit(CommitPermit { request, log }));
                    }
                }
                Decision::RollForward { remaining } => {
                    return Ok(Begin::Committed(
                        self.roll_forward(&log, &request.write_id, &remaining).await?,
                    ));
                }
                Decision::AlreadyCommitted => return Ok(Begin::Committed(self.record(&log, &request.write_id)?)),
                Decision::Stale { by } => {
                    return Err(CommitError::Stale {
                        write_id: request.write_id,
                        by,
                    });
                }
                Decision::Conflict { holds } => {
                    return Err(CommitError::Exists {
                        place: self.store.place(),
                        holds,
                    });
                }
            }
        }
        Err(CommitError::Contended {
            place: self.store.place(),
        })
    }

    /// Commits a write: all of `parts` become the result, or none ever does.
    ///
    /// After an error of the store the write may or may not be committed; calling again with the same permit settles
    /// it.
    pub async fn commit(
        &self,
        permit: &CommitPermit,
        schema: Fingerprint,
        parts: Vec<PartReceipt>,
    ) -> Result<Committed, CommitError> {
        let CommitPermit { request, log } = permit;
        let parts = check_parts(request, parts)?;
        let mut log = log.clone();
        for _ in 0..APPEND_ATTEMPTS_MAX {
            self.read_on(&mut log).await?;
            match self.decide(request, &log).await? {
                // A record needs no claim before it: it is stronger than one.
                Decision::Write | Decision::Claim => {
                    let record = self.new_record(&log, request, schema, &parts).await?;
                    let remaining: Vec<_> = parts.iter().map(|part| part.name.to_string()).collect();
                    if self.append(&mut log, LogEntry::Commit(record)).await? {
                        let record = self.roll_forward(&log, &request.write_id, &remaining).await?;
                        return Ok(Committed { record, created: true });
                    }
                }
                Decision::RollForward { remaining } => {
                    let record = self.roll_forward(&log, &request.write_id, &remaining).await?;
                    return Ok(Committed { record, created: false });
                }
                Decision::AlreadyCommitted => {
                    return Ok(Committed {
                        record: self.record(&log, &request.write_id)?,
                        created: false,
                    });
                }
                Decision::Stale { by } => {
                    return Err(CommitError::Stale {
                        write_id: request.write_id.clone(),
                        by,
                    });
                }
                Decision::Conflict { holds } => {
                    return Err(CommitError::Exists {
                        place: self.store.place(),
                        holds,
                    });
                }
            }
        }
        Err(CommitError::Contended {
            place: self.store.place(),
        })
    }

    /// The entry of a write that is committed, complete or not. Changes nothing.
    pub async fn recorded(&self, write_id: &WriteId) -> Result<Option<CommitRecord>, CommitError> {
        let mut log = Log::default();
        self.read_on(&mut log).await?;
        Ok(log.commit_of(write_id).map(|(_, record)| record.clone()))
    }

    /// Finishes every committed write that is not complete. Anyone who may write here can call it, at any time.
    pub async fn recover(&self) -> Result<Recovered, CommitError> {
        self.settle(Purpose::Recover).await
    }

    /// Frees the parts of a write that will not be committed, or that lost: those of this driver and of older ones. A
    /// committed write keeps its parts.
    pub async fn discard(&self, permit: CommitPermit) -> Result<Discarded, CommitError> {
        let CommitPermit { request, mut log } = permit;
        for _ in 0..APPEND_ATTEMPTS_MAX {
            self.read_on(&mut log).await?;
            if let Some((_, record)) = log.commit_of(&request.write_id) {
                let kept = record.parts.iter().map(|part| part.name.clone()).collect();
                let swept = self
                    .sweep(&request.write_id, request.generation, &kept, Winners::Leave)
                    .await;
                warn_unswept(&request.write_id, swept);
                return Ok(Discarded::Committed(record.clone()));
            }
            // A commit of ours whose answer was lost may still be on its way to the next place in the log. Only when
            // that place is taken is it sure that the parts will never be needed.
            if self.append(&mut log, claim(&request)).await? {
                let swept = self
                    .sweep(&request.write_id, request.generation, &HashSet::new(), Winners::Leave)
                    .await;
                return Ok(Discarded::Freed(warn_unswept(&request.write_id, swept)));
            }
        }
        Err(CommitError::Contended {
            place: self.store.place(),
        })
    }

    /// What a reader sees. Changes nothing.
    ///
    /// The files of a plain folder are not listed. Whoever lists them asks again afterwards, since a first write may
    /// have come between.
    pub async fn visible(&self) -> Result<Visible, CommitError> {
        let mut log = Log::default();
        self.read_on(&mut log).await?;
        if log.is_empty() {
            return Ok(Visible::NotTrireme);
        }
        let mut attempt = 1;
        loop {
            let files = self.store.list("").await?;
            self.read_on(&mut log).await?;
            match visible(&files, &log) {
                Ok(found) => return Ok(found),
                Err(VisibleError::Unsettled { .. }) if attempt < LISTINGS_MAX => attempt += 1,
                Err(source) => {
                    return Err(CommitError::Visible {
                        place: self.store.place(),
                        source,
                    });
                }
            }
        }
    }

    /// Reads the entries that came since.
    pub(super) async fn read_on(&self, log: &mut Log) -> Result<(), CommitError> {
        let listed = self.store.list(COMMITS).await?;
        let mut numbers: Vec<_> = listed.iter().filter_map(|file| entry_number(&file.name)).collect();
        numbers.sort_unstable();
        if let Some((_, missing)) = numbers.iter().zip(0..).find(|(found, expected)| *found != expected) {
            return Err(self.damaged(
                &entry_name(missing),
                "it is missing while later entries exist".to_owned(),
            ));
        }
        let known = log.len();
        let reads: Vec<_> = (known..numbers.len() as u64).map(|number| self.entry(number)).collect();
        let mut entries = stream::iter(reads).buffered(REQUESTS_MAX);
        while let Some(entry) = entries.try_next().await? {
            log.push(entry);
        }
        Ok(())
    }

    async fn entry(&self, number: u64) -> Result<LogEntry, CommitError> {
        let name = entry_name(number);
        let Some(body) = self.store.read(&name).await? else {
            return Err(self.damaged(&name, "it was listed and is gone".to_owned()));
        };
        LogEntry::decode(&body).map_err(|error: InvalidEntry| self.damaged(&name, error.to_string()))
    }

    /// Appends an entry if the log still ends where it was read to; otherwise somebody else's is there.
    async fn append(&self, log: &mut Log, entry: LogEntry) -> Result<bool, CommitError> {
        match self.store.create(&entry_name(log.len()), entry.encode().into()).await? {
            Create::Ours => {
                log.push(entry);
                Ok(true)
            }
            Create::Theirs => Ok(false),
        }
    }

    async fn decide(&self, request: &WriteRequest, log: &Log) -> Result<Decision, CommitError> {
        let WriteRequest {
            write_id,
            job: _,
            generation,
            mode,
        } = request;
        let record = match log.commit_of(write_id) {
            None => None,
            Some((position, record)) => Some(record_facts(log, position, record, &self.store.list("").await?)),
        };
        let holds = match mode {
            WriteMode::Create if record.is_none() => self.holds(log).await?,
            WriteMode::Create | WriteMode::Append | WriteMode::Overwrite => None,
        };
        let claimed_by = log.claimed_by(write_id);
        Ok(decide(&Facts {
            generation: *generation,
            mode: *mode,
            claimed_by,
            record,
            holds,
        }))
    }

    /// Something to name, if the destination holds data: a write counts even when its result is empty.
    async fn holds(&self, log: &Log) -> Result<Option<String>, CommitError> {
        if let Some((_, record)) = log.live().next() {
            return Ok(Some(format!("written by job {}", record.job)));
        }
        let files = self.store.list("").await?;
        Ok(files
            .into_iter()
            .map(|file| file.name)
            .filter(|name| !is_hidden(name))
            .min())
    }

    async fn new_record(
        &self,
        log: &Log,
        request: &WriteRequest,
        schema: Fingerprint,
        parts: &[PartReceipt],
    ) -> Result<CommitRecord, CommitError> {
        let WriteRequest {
            write_id,
            job,
            generation,
            mode,
        } = request.clone();
        let replaced_files = match mode {
            WriteMode::Append | WriteMode::Create => Vec::new(),
            WriteMode::Overwrite => self.to_replace(log).await?,
        };
        Ok(CommitRecord {
            write_id,
            job,
            generation,
            mode,
            schema,
            parts: parts.to_vec(),
            replaced_files,
        })
    }

    /// The plain files that an overwrite replaces.
    ///
    /// First every earlier write is finished: afterwards a part of one that appears or is missing means one thing only.
    /// What is lost of them need not hold up the write that replaces them.
    async fn to_replace(&self, log: &Log) -> Result<Vec<ReplacedFile>, CommitError> {
        self.settle(Purpose::Overwrite).await?;
        let parts = log.part_names();
        let files = self.store.list("").await?.into_iter();
        let plain = files.filter(|file| !is_hidden(&file.name) && !parts.contains(&file.name));
        let mut replaced: Vec<_> = plain
            .map(|Listed { name, tag, .. }| ReplacedFile { name, tag })
            .collect();
        replaced.sort_unstable();
        Ok(replaced)
    }

    pub(super) fn damaged(&self, name: &str, detail: String) -> CommitError {
        CommitError::DamagedLog {
            place: self.store.place(),
            name: name.to_owned(),
            detail,
        }
    }
}

/// Whether no driver can have begun the write before. A second one's claim is what keeps the first from committing.
fn is_new(request: &WriteRequest, log: &Log) -> bool {
    request.generation == Generation::FIRST && log.claimed_by(&request.write_id).is_none()
}

fn claim(request: &WriteRequest) -> LogEntry {
    let WriteRequest {
        write_id,
        job,
        generation,
        mode: _,
    } = request.clone();
    LogEntry::Claim(Claim {
        write_id,
        job,
        generation,
    })
}

/// The parts in order, each once. They must be this driver's, and of one attempt for each partition: two attempts at
/// one partition hold the same rows.
fn check_parts(request: &WriteRequest, mut parts: Vec<PartReceipt>) -> Result<Vec<PartReceipt>, CommitError> {
    parts.sort_unstable_by_key(|part| part.name.to_string());
    parts.dedup();
    let mut attempts: BTreeMap<u32, u64> = BTreeMap::new();
    let mut names: HashSet<&PartName> = HashSet::new();
    for part in &parts {
        let wrong = |detail| {
            Err(CommitError::WrongPart {
                part: part.name.to_string(),
                detail,
            })
        };
        if *part.name.write_id() != request.write_id {
            return wrong("it belongs to another write");
        }
        if part.name.generation() != request.generation {
            return wrong("it was written for another driver");
        }
        if !names.insert(&part.name) {
            return wrong("there are two different receipts for it");
        }
        let attempt = part.name.attempt();
        if *attempts.entry(part.name.partition()).or_insert(attempt) != attempt {
            return wrong("another attempt wrote the same partition");
        }
    }
    Ok(parts)
}
