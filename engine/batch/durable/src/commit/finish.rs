//! After the commit point: completing, replacing, sweeping. Every step may be done again, by anybody, at any time.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::committer::{CommitError, Committer, REQUESTS_MAX, Recovered};
use super::decide::RecordFacts;
use super::layout::{COMMITS, PartName, SUCCESS, pending_name, pending_part, temps_of};
use super::log::Log;
use super::record::{CommitRecord, PartReceipt, WriteMode};
use super::store::{Completion, Listed, StoreError};
use crate::{Generation, WriteId};

/// What finishing earlier writes is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// For their own sake: a lost part is an error, and leftovers are none.
    Recover,
    /// Because they are about to be replaced: a lost part is no loss, but a pending name left behind could bring a part
    /// back later.
    Overwrite,
}

/// What to do about the pending names of parts in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Winners {
    /// They may not be complete.
    Leave,
    /// They are complete: only the name is left.
    Forget,
}

impl Committer {
    pub(super) fn record(&self, log: &Log, write_id: &WriteId) -> Result<CommitRecord, CommitError> {
        let found = log.commit_of(write_id).map(|(_, record)| record.clone());
        found.ok_or_else(|| self.damaged(COMMITS, format!("it holds no commit of write {write_id}")))
    }

    /// Completes a committed write, and tidies up after it. Every step may be done again.
    pub(super) async fn roll_forward(
        &self,
        log: &Log,
        write_id: &WriteId,
        remaining: &[String],
    ) -> Result<CommitRecord, CommitError> {
        let record = self.record(log, write_id)?;
        self.store.remove(SUCCESS).await?;
        if let Some(part) = self.complete(&record, remaining).await?.into_iter().next() {
            let mut log = log.clone();
            self.read_on(&mut log).await?;
            if !is_replaced(&log, write_id) {
                let place = self.store.place();
                return Err(CommitError::PartLost { place, part });
            }
        }
        if record.mode == WriteMode::Overwrite {
            self.remove_replaced(log, &record).await?;
        }
        self.store.put(SUCCESS, Bytes::new()).await?;
        warn_unswept(write_id, self.sweep_finished(&record).await);
        Ok(record)
    }

    /// Completes the named parts of a record; returns those that are lost.
    async fn complete(&self, record: &CommitRecord, remaining: &[String]) -> Result<Vec<String>, StoreError> {
        let remaining: HashSet<&str> = remaining.iter().map(String::as_str).collect();
        let parts = record
            .parts
            .iter()
            .filter(|part| remaining.contains(part.name.to_string().as_str()));
        // Collected first: a stream over a borrowing closure would make the future of every caller unsendable.
        let completions: Vec<_> = parts.map(|part| self.complete_one(part)).collect();
        let mut completions = stream::iter(completions).buffer_unordered(REQUESTS_MAX);
        let mut lost = Vec::new();
        while let Some((name, completion)) = completions.try_next().await? {
            match completion {
                Completion::Complete => {}
                Completion::Lost => lost.push(name),
            }
        }
        Ok(lost)
    }

    async fn complete_one(&self, part: &PartReceipt) -> Result<(String, Completion), StoreError> {
        Ok((part.name.to_string(), self.store.complete(part).await?))
    }

    /// Removes what an overwrite replaces. None of it can be brought back by whoever still tries to complete it: the
    /// pending names were removed before the overwrite was recorded.
    async fn remove_replaced(&self, log: &Log, record: &CommitRecord) -> Result<(), CommitError> {
        let Some((position, _)) = log.commit_of(&record.write_id) else {
            return Ok(());
        };
        let files = self.store.list("").await?;
        let leftover = leftover(log, position, record, &files);
        let removals: Vec<_> = leftover.iter().map(|name| self.store.remove(name)).collect();
        let mut removals = stream::iter(removals).buffer_unordered(REQUESTS_MAX);
        while removals.try_next().await?.is_some() {}
        Ok(())
    }

    /// Finishes every live write, and frees what finished ones left under `_trireme/tmp`.
    pub(super) async fn settle(&self, purpose: Purpose) -> Result<Recovered, CommitError> {
        let mut log = Log::default();
        self.read_on(&mut log).await?;
        let mut rolled_forward = Vec::new();
        if log.commits().next().is_none() {
            return Ok(Recovered { rolled_forward });
        }
        let files = self.store.list("").await?;
        for (position, record) in log.live() {
            let facts = record_facts(&log, position, record, &files);
            if facts.remaining.is_empty() && facts.leftover.is_empty() {
                continue;
            }
            match self.roll_forward(&log, &record.write_id, &facts.remaining).await {
                Ok(_) => rolled_forward.push(record.write_id.clone()),
                Err(CommitError::PartLost { place, part }) if purpose == Purpose::Overwrite => {
                    tracing::warn!(place, part, "a write that lost a part is about to be replaced");
                }
                Err(error) => return Err(error),
            }
        }
        if rolled_forward.is_empty() && log.live().next().is_some() && !files.iter().any(|file| file.name == SUCCESS) {
            self.store.put(SUCCESS, Bytes::new()).await?;
        }
        let pending: HashSet<WriteId> = files
            .iter()
            .filter_map(|file| pending_part(&file.name))
            .map(|part| part.write_id().clone())
            .collect();
        for (_, record) in log.commits().filter(|(_, record)| pending.contains(&record.write_id)) {
            match (self.sweep_finished(record).await, purpose) {
                (Err(error), Purpose::Overwrite) => return Err(error.into()),
                (swept, _) => {
                    warn_unswept(&record.write_id, swept);
                }
            }
        }
        Ok(Recovered { rolled_forward })
    }

    /// Frees what a finished write left under `_trireme/tmp`.
    async fn sweep_finished(&self, record: &CommitRecord) -> Result<usize, StoreError> {
        let winners = record.parts.iter().map(|part| part.name.clone()).collect();
        self.sweep(&record.write_id, record.generation, &winners, Winners::Forget)
            .await
    }

    /// Frees pending parts of a write, of this generation and older ones: a newer driver's tasks may be at work.
    pub(super) async fn sweep(
        &self,
        write_id: &WriteId,
        generation: Generation,
        winners: &HashSet<PartName>,
        on_winner: Winners,
    ) -> Result<usize, StoreError> {
        let files = self.store.list(&temps_of(write_id)).await?;
        let mut freeing = Vec::new();
        for part in files.iter().filter_map(|file| pending_part(&file.name)) {
            if part.generation() <= generation {
                let is_winner = winners.contains(&part);
                freeing.push(self.free(part, is_winner.then_some(on_winner)));
            }
        }
        // One that is given up takes a while.
        let freed: Vec<usize> = stream::iter(freeing)
            .buffer_unordered(REQUESTS_MAX)
            .try_collect()
            .await?;
        Ok(freed.into_iter().sum())
    }

    /// Frees one pending part; says how many that were.
    async fn free(&self, part: PartName, winner: Option<Winners>) -> Result<usize, StoreError> {
        match winner {
            None => self.store.abort(&part).await?,
            Some(Winners::Forget) => self.store.remove(&pending_name(&part)).await?,
            Some(Winners::Leave) => return Ok(0),
        }
        Ok(1)
    }
}

/// Leftovers of a decided write change no result. Returns how many were swept.
pub(super) fn warn_unswept(write_id: &WriteId, swept: Result<usize, StoreError>) -> usize {
    swept.unwrap_or_else(|error| {
        tracing::warn!(%write_id, %error, "cannot sweep the leftovers of a write");
        0
    })
}

fn is_replaced(log: &Log, write_id: &WriteId) -> bool {
    log.commit_of(write_id).map(|(position, _)| position) < log.newest_overwrite()
}

pub(super) fn record_facts(log: &Log, position: usize, record: &CommitRecord, files: &[Listed]) -> RecordFacts {
    let present: HashSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let names = record.parts.iter().map(|part| part.name.to_string());
    RecordFacts {
        generation: record.generation,
        replaced: log.newest_overwrite() > Some(position),
        remaining: names.filter(|name| !present.contains(name.as_str())).collect(),
        leftover: leftover(log, position, record, files),
        success: present.contains(SUCCESS),
    }
}

/// The files that an overwrite replaces and that are still there.
fn leftover(log: &Log, position: usize, record: &CommitRecord, files: &[Listed]) -> Vec<String> {
    let parts: HashSet<String> = match record.mode {
        WriteMode::Append | WriteMode::Create => return Vec::new(),
        WriteMode::Overwrite => log.parts_before(position).map(|part| part.name.to_string()).collect(),
    };
    let plain: HashSet<(&str, &str)> = record
        .replaced_files
        .iter()
        .map(|file| (file.name.as_str(), file.tag.as_str()))
        .collect();
    let replaced = files
        .iter()
        .filter(|file| parts.contains(&file.name) || plain.contains(&(&file.name, &file.tag)));
    replaced.map(|file| file.name.clone()).collect()
}
