//! What a reader of ours sees: a listing and a log in, files out. Pure.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use thiserror::Error;

use super::layout::is_hidden;
use super::log::Log;
use super::record::{CommitRecord, WriteMode};
use super::store::Listed;
use crate::WriteId;

/// What is at a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// Nobody wrote here through this protocol: a plain folder, to be read as one.
    NotTrireme,
    /// Exactly these files, each of them whole.
    Files {
        /// The data, ordered by name.
        files: Vec<VisibleFile>,
        /// Writes that are committed but not complete, and so not in `files`. [`super::Committer::recover`] finishes
        /// them.
        unfinished: Vec<WriteId>,
    },
}

/// One file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisibleFile {
    /// Its name under the destination.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// Its rows, known for parts of a write.
    pub rows: Option<u64>,
}

/// Why no set of files can be given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VisibleError {
    /// The listing was taken while an overwrite removed files: list again.
    #[error("the destination is being overwritten by write {by}")]
    Unsettled {
        /// The overwrite.
        by: WriteId,
    },
    /// A part is not what its task wrote.
    #[error("part {name} has {found} bytes where {expected} were written")]
    Damaged {
        /// The part.
        name: String,
        /// In the record.
        expected: u64,
        /// In the listing.
        found: u64,
    },
}

/// What a reader sees. `log` must have been read after `files` were listed: then every part in the listing has its
/// record in the log.
pub fn visible(files: &[Listed], log: &Log) -> Result<Visible, VisibleError> {
    if log.is_empty() {
        return Ok(Visible::NotTrireme);
    }
    let present: HashMap<&str, &Listed> = files
        .iter()
        .filter(|file| !is_hidden(&file.name))
        .map(|file| (file.name.as_str(), file))
        .collect();
    let (complete, incomplete): (Vec<_>, Vec<_>) = log
        .commits()
        .partition(|(_, record)| remaining(record, &present).is_empty());

    // The newest overwrite that is complete is where the visible data starts. One that is not complete yet replaces
    // nothing; but it may have been complete a moment after the listing began, and then files vanished from under it.
    let start = complete
        .iter()
        .rev()
        .find(|(_, record)| record.mode == WriteMode::Overwrite)
        .map(|(at, _)| *at);
    let unfinished: Vec<_> = incomplete.into_iter().filter(|(at, _)| Some(*at) > start).collect();
    if let Some((at, by)) = unfinished
        .iter()
        .rev()
        .find(|(_, record)| record.mode == WriteMode::Overwrite)
    {
        let vanished = unfinished.iter().any(|(earlier, _)| earlier < at)
            || by
                .replaced_files
                .iter()
                .any(|file| present.get(file.name.as_str()).is_none_or(|now| now.tag != file.tag));
        if vanished {
            return Err(VisibleError::Unsettled {
                by: by.write_id.clone(),
            });
        }
    }

    let mut found: Vec<VisibleFile> = Vec::new();
    for (_, record) in complete.iter().filter(|(at, _)| Some(*at) >= start) {
        for part in &record.parts {
            let name = part.name.to_string();
            // All of them are in the listing, or the record would not count as complete.
            let Some(file) = present.get(name.as_str()) else {
                continue;
            };
            if file.bytes != part.bytes {
                return Err(VisibleError::Damaged {
                    name,
                    expected: part.bytes,
                    found: file.bytes,
                });
            }
            found.push(seen(file, Some(part.rows)));
        }
    }
    found.extend(plain(&present, log, start));
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let unfinished = unfinished
        .into_iter()
        .map(|(_, record)| record.write_id.clone())
        .collect();
    Ok(Visible::Files {
        files: found,
        unfinished,
    })
}

/// Files that no record names, but for those that an overwrite in effect replaces.
fn plain<'a>(
    present: &'a HashMap<&str, &Listed>,
    log: &'a Log,
    start: Option<usize>,
) -> impl Iterator<Item = VisibleFile> + 'a {
    let parts = log.part_names();
    let replaced: HashSet<(&str, &str)> = log
        .commits()
        .take_while(|(at, _)| Some(*at) <= start)
        .flat_map(|(_, record)| {
            record
                .replaced_files
                .iter()
                .map(|file| (file.name.as_str(), file.tag.as_str()))
        })
        .collect();
    present
        .values()
        .filter(move |file| !parts.contains(&file.name) && !replaced.contains(&(file.name.as_str(), file.tag.as_str())))
        .map(|file| seen(file, None))
}

fn seen(file: &Listed, rows: Option<u64>) -> VisibleFile {
    VisibleFile {
        name: file.name.clone(),
        bytes: file.bytes,
        modified: file.modified,
        rows,
    }
}

/// The parts of a record that are not in a listing.
fn remaining<'a>(record: &'a CommitRecord, present: &HashMap<&str, &Listed>) -> Vec<&'a super::PartName> {
    let names = record.parts.iter().map(|part| &part.name);
    names
        .filter(|name| !present.contains_key(name.to_string().as_str()))
        .collect()
}
