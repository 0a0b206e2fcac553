//! A journal in one local file.
//!
//! The lock is held for one append, not for the driver's life: a stopped driver must not keep its successor out. What
//! fences is the tail: under the lock, the file must end where the appender last saw it end.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::frame::{self, Damage, HEADER_BYTES};
use super::{Appended, Contents, Entry, JOURNAL_BYTES_MAX, JournalError, JournalStore};

/// An append holds the lock for one write and one fsync. 5 s covers a slow disk; a holder that takes longer was stopped
/// in the middle, and only its end frees the lock.
const LOCK_ATTEMPTS_MAX: u32 = 250;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A journal in one local file, which its first append creates; the folder must exist.
#[derive(Debug, Clone)]
pub struct FileJournal {
    path: Arc<PathBuf>,
}

impl FileJournal {
    /// The journal in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Arc::new(path.into()),
        }
    }
}

#[async_trait]
impl JournalStore for FileJournal {
    async fn read(&self) -> Result<Contents, JournalError> {
        let path = Arc::clone(&self.path);
        blocking(&self.path, move || read(&path)).await
    }

    async fn append(&self, tail: u64, frame: Bytes) -> Result<Appended, JournalError> {
        let path = Arc::clone(&self.path);
        blocking(&self.path, move || append(&path, tail, &frame)).await
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) => Err(failed("use", path)(io::Error::other(ended))),
    }
}

fn read(path: &Path) -> Result<Contents, JournalError> {
    let bytes = match File::open(path) {
        Ok(mut file) => read_from(&mut file, 0, path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Bytes::new(),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let scan = frame::scan(&bytes).map_err(|damage| corrupt(path, 0, damage))?;
    let place: Arc<str> = path.display().to_string().into();
    let entries = scan.payloads.into_iter().map(|payload| Entry {
        place: Arc::clone(&place),
        offset: (payload.start - HEADER_BYTES) as u64,
        payload: bytes.slice(payload),
    });
    Ok(Contents {
        entries: entries.collect(),
        tail: scan.end as u64,
        torn_bytes: scan.torn_bytes as u64,
    })
}

fn append(path: &Path, tail: u64, frame: &[u8]) -> Result<Appended, JournalError> {
    let mut file = open_or_create(path)?;
    lock(&file, path)?;
    let length = file.metadata().map_err(failed("inspect", path))?.len();
    if length < tail {
        let damage = Damage {
            offset: 0,
            detail: format!("{tail} bytes were written, and now the file ends here"),
        };
        return Err(corrupt(path, length, damage));
    }
    if length > tail {
        let found = read_from(&mut file, tail, path)?;
        if found == frame {
            // An earlier attempt of ours, whose fsync failed or whose answer was lost.
            file.sync_all().map_err(failed("sync", path))?;
            return Ok(Appended::At(length));
        }
        let scan = frame::scan(&found).map_err(|damage| corrupt(path, tail, damage))?;
        if let Some(first) = scan.payloads.first() {
            return Ok(Appended::Taken(found.slice(first.clone())));
        }
        // What is left is the torn append of a driver that is gone, or our own that failed.
        file.set_len(tail).map_err(failed("truncate", path))?;
    }
    let end = tail + frame.len() as u64;
    check_size(path, end)?;
    file.seek(SeekFrom::Start(tail)).map_err(failed("seek in", path))?;
    file.write_all(frame).map_err(failed("append to", path))?;
    file.sync_all().map_err(failed("sync", path))?;
    Ok(Appended::At(end))
}

/// Whoever creates the file also makes its name durable.
fn open_or_create(path: &Path) -> Result<File, JournalError> {
    match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
        Ok(file) => {
            let folder = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(failed("sync the folder of", path))?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed("open", path)),
        Err(error) => Err(failed("create", path)(error)),
    }
}

/// Freed when the file is closed, at the end of the append or of the process.
fn lock(file: &File, path: &Path) -> Result<(), JournalError> {
    for _ in 0..LOCK_ATTEMPTS_MAX {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
        }
    }
    Err(JournalError::Locked {
        place: path.display().to_string(),
    })
}

fn read_from(file: &mut File, offset: u64, path: &Path) -> Result<Bytes, JournalError> {
    check_size(path, file.metadata().map_err(failed("inspect", path))?.len())?;
    file.seek(SeekFrom::Start(offset)).map_err(failed("seek in", path))?;
    let mut bytes = Vec::new();
    file.take(JOURNAL_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    Ok(bytes.into())
}

fn check_size(path: &Path, bytes: u64) -> Result<(), JournalError> {
    if bytes > JOURNAL_BYTES_MAX {
        let place = path.display().to_string();
        return Err(JournalError::TooLarge {
            place,
            bytes,
            bytes_max: JOURNAL_BYTES_MAX,
        });
    }
    Ok(())
}

fn corrupt(path: &Path, base: u64, damage: Damage) -> JournalError {
    let Damage { offset, detail } = damage;
    JournalError::Corrupt {
        place: path.display().to_string(),
        offset: base + offset as u64,
        detail,
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let place = path.display().to_string();
    move |source| JournalError::File { action, place, source }
}
