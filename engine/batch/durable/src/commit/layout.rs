//! Where things lie under a destination. Every name here is relative to it, with `/` between segments. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Generation, WriteId};

/// The log.
pub(super) const COMMITS: &str = "_trireme/commits";

/// The marker that Hadoop and Spark leave too.
pub(super) const SUCCESS: &str = "_SUCCESS";

const TEMPS: &str = "_trireme/tmp";
const PENDING_SUFFIX: &str = ".pending";

/// Object stores allow 1,024 bytes of a key; the destination's own path needs some.
const FOLDER_BYTES_MAX: usize = 512;

/// As much of a folder as an error shows.
const FOLDER_SHOWN_CHARS: usize = 80;

/// The name of log entry `number`.
pub(super) fn entry_name(number: u64) -> String {
    format!("{COMMITS}/{number:010}.json")
}

/// The number of a log entry; `None` for anything else that lies in that folder.
pub(super) fn entry_number(name: &str) -> Option<u64> {
    let number: u64 = name
        .strip_prefix(COMMITS)?
        .strip_prefix('/')?
        .strip_suffix(".json")?
        .parse()
        .ok()?;
    (entry_name(number) == name).then_some(number)
}

/// The folder of a write's pending parts.
pub(super) fn temps_of(write_id: &WriteId) -> String {
    format!("{TEMPS}/{write_id}")
}

/// Where a part is, or is noted, before it is completed.
pub(super) fn pending_name(part: &PartName) -> String {
    format!("{}/{part}{PENDING_SUFFIX}", temps_of(&part.write_id))
}

/// The part that such a name stands for; `None` for anything else.
pub(super) fn pending_part(name: &str) -> Option<PartName> {
    let (write_id, rest) = name.strip_prefix(TEMPS)?.strip_prefix('/')?.split_once('/')?;
    let part = PartName::try_from(rest.strip_suffix(PENDING_SUFFIX)?.to_owned()).ok()?;
    (part.write_id.as_str() == write_id).then_some(part)
}

/// Names that hold no data, by the rule of Hadoop and Spark: a segment that starts with `.`, or with `_` unless it is a
/// hive partition (`_day=3`).
pub(super) fn is_hidden(name: &str) -> bool {
    name.split('/')
        .any(|segment| segment.starts_with('.') || (segment.starts_with('_') && !segment.contains('=')))
}

/// The name of a part: unique to the attempt that writes it, so that it never stands for two contents.
///
/// As text: `year=2024/part-00003-<write id>-g2a7.parquet`, and `g2a7f1` for the second file (number 1) of the attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PartName {
    folder: String,
    partition: u32,
    generation: Generation,
    attempt: u64,
    file: u32,
    write_id: WriteId,
    extension: String,
}

/// A name that is not a part's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not the name of a part: {detail}")]
pub struct InvalidPartName {
    text: String,
    detail: &'static str,
}

impl PartName {
    /// The only file of an attempt at a partition, directly under the destination.
    ///
    /// `attempt` must differ between all tasks that one driver starts for this partition of this write. `extension` is
    /// letters and digits, possibly in several pieces (`csv.gz`), without the leading dot.
    pub fn new(
        write_id: WriteId,
        generation: Generation,
        partition: u32,
        attempt: u64,
        extension: &str,
    ) -> Result<Self, InvalidPartName> {
        let piece_fits = |piece: &str| !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if extension.len() > 32 || !extension.split('.').all(piece_fits) {
            return Err(InvalidPartName {
                text: extension.to_owned(),
                detail: "the extension is not letters and digits",
            });
        }
        let extension = extension.to_owned();
        Ok(Self {
            folder: String::new(),
            partition,
            generation,
            attempt,
            file: 0,
            write_id,
            extension,
        })
    }

    /// The same attempt's file number `file`, from 0.
    #[must_use]
    pub fn with_file(mut self, file: u32) -> Self {
        self.file = file;
        self
    }

    /// The part in a folder under the destination: the path of a hive partition (`year=2024/month=1`), already escaped.
    pub fn in_folder(mut self, folder: &str) -> Result<Self, InvalidPartName> {
        let invalid = |detail| {
            Err(InvalidPartName {
                // It comes out of the rows, at any length.
                text: folder.chars().take(FOLDER_SHOWN_CHARS).collect(),
                detail,
            })
        };
        if folder.len() > FOLDER_BYTES_MAX {
            return invalid("the folder is too long");
        }
        if folder.split('/').any(|segment| matches!(segment, "" | "." | "..")) || folder.contains(char::is_control) {
            return invalid("the folder is not a plain path");
        }
        if is_hidden(folder) {
            return invalid("the folder is hidden from readers");
        }
        folder.clone_into(&mut self.folder);
        Ok(self)
    }

    /// The write it belongs to.
    pub fn write_id(&self) -> &WriteId {
        &self.write_id
    }

    /// The driver whose task wrote it.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The partition of the result, from 0.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The attempt at the partition.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            folder,
            partition,
            generation,
            attempt,
            file,
            write_id,
            extension,
        } = self;
        if !folder.is_empty() {
            write!(f, "{folder}/")?;
        }
        write!(f, "part-{partition:05}-{write_id}-g{generation}a{attempt}")?;
        if *file > 0 {
            write!(f, "f{file}")?;
        }
        write!(f, ".{extension}")
    }
}

impl From<PartName> for String {
    fn from(name: PartName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for PartName {
    type Error = InvalidPartName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match parse(&text) {
            // Only the one spelling that we write: a second one would be a second name for the same part.
            Some(name) if name.to_string() == text => Ok(name),
            Some(_) | None => Err(InvalidPartName {
                text,
                detail: "it does not follow part-<n>-<write>-g<n>a<n>.<ext>",
            }),
        }
    }
}

fn parse(text: &str) -> Option<PartName> {
    let (folder, file_name) = text.rsplit_once('/').unwrap_or(("", text));
    let (stem, extension) = file_name.split_once('.')?;
    let (partition, rest) = stem.strip_prefix("part-")?.split_once('-')?;
    let (write_id, attempt) = rest.rsplit_once('-')?;
    let (generation, attempt) = attempt.strip_prefix('g')?.split_once('a')?;
    let (attempt, file) = attempt.split_once('f').unwrap_or((attempt, "0"));
    let generation = Generation::new(generation.parse().ok()?);
    let name = PartName::new(
        write_id.parse().ok()?,
        generation,
        partition.parse().ok()?,
        attempt.parse().ok()?,
        extension,
    )
    .ok()?
    .with_file(file.parse().ok()?);
    if folder.is_empty() {
        Some(name)
    } else {
        name.in_folder(folder).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part() -> PartName {
        PartName::new("0190-ab".parse().unwrap(), Generation::new(2), 3, 7, "parquet").unwrap()
    }

    #[test]
    fn names_read_well() {
        assert_eq!(part().to_string(), "part-00003-0190-ab-g2a7.parquet");
        let nested = part().with_file(1).in_folder("year=2024/month=1").unwrap();
        assert_eq!(
            nested.to_string(),
            "year=2024/month=1/part-00003-0190-ab-g2a7f1.parquet"
        );
        assert_eq!(
            pending_name(&nested),
            "_trireme/tmp/0190-ab/year=2024/month=1/part-00003-0190-ab-g2a7f1.parquet.pending"
        );
        assert_eq!(pending_part(&pending_name(&nested)), Some(nested));
        assert_eq!(entry_name(7), "_trireme/commits/0000000007.json");
    }

    #[test]
    fn only_entries_are_entries() {
        assert_eq!(entry_number("_trireme/commits/0000000012.json"), Some(12));
        for other in [
            "12.json",
            "_trireme/commits/12.json",
            "_trireme/commits/.0000000012.json.0.new",
            "_trireme/commits/x",
        ] {
            assert_eq!(entry_number(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_from_the_network_cannot_leave_the_destination() {
        for bad in [
            "../part-00003-w-g2a7.parquet",
            "/part-00003-w-g2a7.parquet",
            "a//part-00003-w-g2a7.parquet",
            "_trireme/commits/part-00003-w-g2a7.parquet",
            "a/./part-00003-w-g2a7.parquet",
            "part-3-w-g2a7.parquet",
            "part-00003-w-g0a7.parquet",
            "part-00003-w-g2a7f0.parquet",
            "part-00003-w-g2a7.par/quet",
            "part-00003-w-g2a7",
            "",
        ] {
            assert!(PartName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn hidden_is_what_hadoop_hides() {
        for hidden in ["_SUCCESS", "_trireme/tmp/w/p", ".part.crc", "a/_b/c", "a/.b/c"] {
            assert!(is_hidden(hidden), "{hidden}");
        }
        for data in ["part-0.parquet", "_day=3/part-0.parquet", "a_b/c"] {
            assert!(!is_hidden(data), "{data}");
        }
    }

    proptest! {
        #[test]
        fn every_name_survives_its_text(
            id in "[a-zA-Z0-9-]{1,64}", generation in 1..u64::MAX, partition: u32, attempt: u64, file: u32,
            extension in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8})?", folder in prop::option::of("[a-z]{1,5}=[A-Za-z0-9 %é-]{1,9}(/m=[0-9]{1,2})?"),
        ) {
            let mut part = PartName::new(id.parse().unwrap(), Generation::new(generation), partition, attempt, &extension)
                .unwrap().with_file(file);
            if let Some(folder) = folder {
                part = part.in_folder(&folder).unwrap();
            }
            prop_assert_eq!(PartName::try_from(part.to_string()), Ok(part.clone()));
            prop_assert_eq!(pending_part(&pending_name(&part)), Some(part));
        }

        #[test]
        fn any_text_is_refused_without_panic(text in "(part-)?[0-9a-gf./=-]{0,40}") {
            let _ = PartName::try_from(text);
        }
    }
}
