//! Files that somebody else replaces while we run: certificates, tokens, credentials.
//!
//! Owns noticing the change: every use compares the files' stamps (device, inode, length, times) with those of the last
//! reading and parses again when one differs, so that a rotation needs neither restart nor watch. The inode is part of the
//! stamp because a rename within one clock tick, of a file of the same length, is the usual way to rotate a key.
//! Never keeps using what it can no longer read: a file that vanished is an error for its next user.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// No certificate chain, key or token of ours comes near; a file that does is a wrong path.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// How often a set that changes under our hands is read before it is taken as it is. A rotation replaces a handful of
/// files once, so the second reading already finds them at rest.
const READ_ATTEMPTS_MAX: usize = 3;

/// A file that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// A value parsed from a set of files, parsed again when one of them changes.
#[derive(Debug)]
pub struct Reloading<T> {
    paths: Vec<PathBuf>,
    last: Mutex<Option<Loaded<T>>>,
}

#[derive(Debug)]
struct Loaded<T> {
    stamps: Stamps,
    value: Arc<T>,
}

/// What tells one content of a path from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
    changed_s: i64,
    changed_ns: i64,
}

/// One per path, none where there is no file.
type Stamps = Vec<Option<Stamp>>;

/// One per path, none where there is no file.
type FileBytes = Vec<Option<Vec<u8>>>;

/// The contents of a set of files, in the order of their paths.
#[derive(Debug)]
pub struct Contents<'a> {
    paths: &'a [PathBuf],
    contents: FileBytes,
}

impl Contents<'_> {
    /// The file at `index`, which must exist.
    pub fn required(&self, index: usize) -> Result<&[u8], ReadError> {
        self.optional(index).ok_or_else(|| ReadError {
            path: self.paths[index].clone(),
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    /// The file at `index`, if there is one.
    pub fn optional(&self, index: usize) -> Option<&[u8]> {
        self.contents[index].as_deref()
    }
}

impl<T> Reloading<T> {
    /// Watches `paths`; reads nothing yet.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            last: Mutex::new(None),
        }
    }

    /// The value of the files as they are now. Blocks for as many `stat` calls as there are files, and for reading them
    /// when they changed: they are small and on a local or memory file system.
    pub fn current<E>(&self, parse: impl FnOnce(&Contents<'_>) -> Result<T, E>) -> Result<Arc<T>, E>
    where
        E: From<ReadError>,
    {
        let stamps = self.stamps()?;
        if let Some(loaded) = &*self.lock()
            && loaded.stamps == stamps
        {
            return Ok(Arc::clone(&loaded.value));
        }
        let (stamps, contents) = self.read_at_rest(stamps)?;
        let value = Arc::new(parse(&Contents {
            paths: &self.paths,
            contents,
        })?);
        *self.lock() = Some(Loaded {
            stamps,
            value: Arc::clone(&value),
        });
        Ok(value)
    }

    /// What the last successful reading gave, whatever the files say now.
    pub fn last(&self) -> Option<Arc<T>> {
        self.lock().as_ref().map(|loaded| Arc::clone(&loaded.value))
    }

    /// Reads until the stamps before and after agree, so that the set is one writer's work and not two halves.
    fn read_at_rest(&self, mut before: Stamps) -> Result<(Stamps, FileBytes), ReadError> {
        let mut attempt = 1;
        loop {
            let contents = self
                .paths
                .iter()
                .map(|path| read(path))
                .collect::<Result<Vec<_>, _>>()?;
            let after = self.stamps()?;
            if before == after || attempt == READ_ATTEMPTS_MAX {
                return Ok((before, contents));
            }
            before = after;
            attempt += 1;
        }
    }

    fn stamps(&self) -> Result<Stamps, ReadError> {
        self.paths.iter().map(|path| stamp(path)).collect()
    }

    /// A panic elsewhere cannot leave half a value here: it is replaced in one assignment.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Loaded<T>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(path: &Path) -> Result<Option<Stamp>, ReadError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
            changed_s: metadata.ctime(),
            changed_ns: metadata.ctime_nsec(),
        })),
        Err(error) => absent(path, error),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, ReadError> {
    match read_bounded(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) => absent(path, error),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(content)
}

fn absent<T>(path: &Path, source: io::Error) -> Result<Option<T>, ReadError> {
    if source.kind() == io::ErrorKind::NotFound {
        return Ok(None);
    }
    Err(ReadError {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(contents: &Contents<'_>) -> Result<String, ReadError> {
        Ok(String::from_utf8_lossy(contents.required(0)?).into_owned())
    }

    #[test]
    fn a_replaced_file_is_read_again_and_an_untouched_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "one").unwrap();
        let reloading = Reloading::new(vec![path.clone()]);

        let first = reloading.current(text).unwrap();
        let again = reloading.current(text).unwrap();
        assert!(Arc::ptr_eq(&first, &again), "an untouched file is parsed once");

        // Same length, by rename, within the clock's tick: only the inode differs for sure.
        fs::write(dir.path().join("next"), "two").unwrap();
        fs::rename(dir.path().join("next"), &path).unwrap();
        assert_eq!(*reloading.current(text).unwrap(), "two");
    }

    #[test]
    fn a_vanished_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "one").unwrap();
        let reloading = Reloading::new(vec![path.clone()]);
        reloading.current(text).unwrap();

        fs::remove_file(&path).unwrap();

        let error = reloading.current(text).unwrap_err();
        assert_eq!(error.path, path);
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        assert_eq!(*reloading.last().unwrap(), "one");
    }

    #[test]
    fn a_huge_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = Reloading::new(vec![path]).current(text).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::FileTooLarge);
    }
}
