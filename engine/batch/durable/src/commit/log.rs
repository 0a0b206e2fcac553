//! The destination's log as read so far, and the questions one asks of it. Pure.

use std::collections::HashSet;

use super::record::{Claim, CommitRecord, LogEntry, PartReceipt, WriteMode};
use crate::{Generation, WriteId};

/// Entries 0 to n-1. They never change, so a longer log is this one with entries added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    entries: Vec<LogEntry>,
}

impl Log {
    /// The number of the next entry.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Whether nobody ever wrote here through this protocol.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds the next entry.
    pub fn push(&mut self, entry: LogEntry) {
        self.entries.push(entry);
    }

    /// All commits, with their position in the log.
    pub fn commits(&self) -> impl DoubleEndedIterator<Item = (usize, &CommitRecord)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(position, entry)| match entry {
                LogEntry::Commit(record) => Some((position, record)),
                LogEntry::Claim(_) => None,
            })
    }

    /// The commit of a write. There is at most one.
    pub fn commit_of(&self, write_id: &WriteId) -> Option<(usize, &CommitRecord)> {
        self.commits().find(|(_, record)| record.write_id == *write_id)
    }

    /// The newest generation that claimed a write.
    pub fn claimed_by(&self, write_id: &WriteId) -> Option<Generation> {
        let claims = self.entries.iter().filter_map(|entry| match entry {
            LogEntry::Claim(Claim {
                write_id: claimed,
                job: _,
                generation,
            }) => (claimed == write_id).then_some(*generation),
            LogEntry::Commit(_) => None,
        });
        claims.max()
    }

    /// Where the newest overwrite is: commits before it are replaced, or being replaced.
    pub fn newest_overwrite(&self) -> Option<usize> {
        self.commits()
            .rfind(|(_, record)| record.mode == WriteMode::Overwrite)
            .map(|(position, _)| position)
    }

    /// The commits that no later overwrite replaces.
    pub fn live(&self) -> impl Iterator<Item = (usize, &CommitRecord)> {
        let from = self.newest_overwrite().unwrap_or(0);
        self.commits().skip_while(move |(position, _)| *position < from)
    }

    /// The parts of all commits before `position`.
    pub(super) fn parts_before(&self, position: usize) -> impl Iterator<Item = &PartReceipt> {
        self.commits()
            .take_while(move |(at, _)| *at < position)
            .flat_map(|(_, record)| &record.parts)
    }

    /// The names of all parts of all commits.
    pub(super) fn part_names(&self) -> HashSet<String> {
        self.commits()
            .flat_map(|(_, record)| &record.parts)
            .map(|part| part.name.to_string())
            .collect()
    }
}
