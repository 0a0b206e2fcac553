//! A destination on a local file system.
//!
//! A part is a file under `_trireme/tmp`; completing it is a hard link to its name and then the removal of the first
//! name, since a link, unlike a rename, never replaces a file. What is reported as done is synced: file, then folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::{Completion, Create, FILES_MAX, Listed, PartStore, PartWriter, StoreError};
use crate::commit::layout::{PartName, pending_name};
use crate::commit::record::{PartReceipt, Pending};

/// A folder deeper than this is a loop made of mounts, or a mistake.
const DEPTH_MAX: usize = 32;

/// Names for a file in the making. One is in use per creator at work; a crash in the microseconds between its creation
/// and its removal leaves one behind.
const STAGING_MAX: u32 = 1_000;

/// A destination folder on a local file system with hard links. It is created when first written to.
#[derive(Debug, Clone)]
pub struct LocalParts {
    root: Arc<PathBuf>,
}

impl LocalParts {
    /// The destination in this folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: Arc::new(root.into()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn pending(&self, part: &PartName) -> PathBuf {
        self.path(&pending_name(part))
    }
}

#[async_trait]
impl PartStore for LocalParts {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let (root, top) = (Arc::clone(&self.root), self.path(folder));
        blocking(&self.root, move || {
            let mut files = Vec::new();
            walk(&root, &top, 0, &mut files)?;
            Ok(files)
        })
        .await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(name);
        blocking(&self.root, move || read(&path)).await
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Create, StoreError> {
        let path = self.path(name);
        blocking(&self.root, move || {
            let staged = stage(&path, &body)?;
            let linked = fs::hard_link(&staged, &path);
            remove(&staged)?;
            match linked {
                Ok(()) => sync_parent(&path).map(|()| Create::Ours),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // Its creator may not have come to sync it, and who reads it must not see it vanish.
                    sync_parent(&path)?;
                    Ok(if read(&path)?.is_some_and(|found| found == body) {
                        Create::Ours
                    } else {
                        Create::Theirs
                    })
                }
                Err(error) => Err(failed("create", &path)(error)),
            }
        })
        .await
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        let path = self.path(name);
        blocking(&self.root, move || {
            let staged = stage(&path, &body)?;
            fs::rename(&staged, &path).map_err(failed("write", &path))?;
            sync_parent(&path)
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        blocking(&self.root, move || remove(&path)).await
    }

    async fn open(&self, part: &PartName) -> Result<Box<dyn PartWriter>, StoreError> {
        let path = self.pending(part);
        let name = part.clone();
        blocking(&self.root, move || {
            create_parents(&path)?;
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)
                .map_err(failed("create", &path))?;
            let writer = LocalPart {
                file: tokio::fs::File::from_std(file),
                path,
                name,
                bytes: 0,
            };
            Ok(Box::new(writer) as Box<dyn PartWriter>)
        })
        .await
    }

    async fn complete(&self, part: &PartReceipt) -> Result<Completion, StoreError> {
        let (pending, path) = (self.pending(&part.name), self.path(&part.name.to_string()));
        blocking(&self.root, move || {
            create_parents(&path)?;
            match fs::hard_link(&pending, &path) {
                Ok(()) => {}
                // The name is unique to the attempt: it can only be the same file.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let exists = path.try_exists().map_err(failed("inspect", &path))?;
                    return Ok(if exists { Completion::Complete } else { Completion::Lost });
                }
                Err(error) => return Err(failed("complete", &path)(error)),
            }
            sync_parent(&path)?;
            remove(&pending)?;
            Ok(Completion::Complete)
        })
        .await
    }

    async fn abort(&self, part: &PartName) -> Result<(), StoreError> {
        let path = self.pending(part);
        blocking(&self.root, move || remove(&path)).await
    }
}

/// A part being written.
struct LocalPart {
    file: tokio::fs::File,
    path: PathBuf,
    name: PartName,
    bytes: u64,
}

#[async_trait]
impl PartWriter for LocalPart {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.file.write_all(&bytes).await.map_err(failed("write", &self.path))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn held_bytes(&self) -> usize {
        0
    }

    async fn settle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn finish(mut self: Box<Self>, rows: u64) -> Result<PartReceipt, StoreError> {
        self.file.flush().await.map_err(failed("write", &self.path))?;
        self.file.sync_all().await.map_err(failed("sync", &self.path))?;
        let Self {
            file,
            path,
            name,
            bytes,
        } = *self;
        drop(file);
        let folder = path.clone();
        blocking(&path, move || sync_parent(&folder)).await?;
        Ok(PartReceipt {
            name,
            rows,
            bytes,
            pending: Pending::File,
        })
    }

    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        let Self {
            file,
            path,
            name: _,
            bytes: _,
        } = *self;
        drop(file);
        let target = path.clone();
        blocking(&path, move || remove(&target)).await
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) => Err(failed("use", path)(io::Error::other(ended))),
    }
}

/// Follows links to files, but not to folders, which could lead back.
fn walk(root: &Path, folder: &Path, depth: usize, files: &mut Vec<Listed>) -> Result<(), StoreError> {
    if depth > DEPTH_MAX {
        return Err(failed("list", folder)(io::Error::other(format!(
            "more than {DEPTH_MAX} folders deep"
        ))));
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", folder))?;
        let path = entry.path();
        if entry.file_type().map_err(failed("inspect", &path))?.is_dir() {
            walk(root, &path, depth + 1, files)?;
            continue;
        }
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => continue,
            // Removed since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("inspect", &path)(error)),
        };
        if files.len() == FILES_MAX {
            return Err(StoreError::TooManyFiles {
                place: root.display().to_string(),
            });
        }
        let tag = format!("{}@{}.{:09}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        files.push(Listed {
            name: relative(root, &path)?,
            bytes: metadata.len(),
            modified: metadata.modified().map_err(failed("inspect", &path))?,
            tag,
        });
    }
    Ok(())
}

fn relative(root: &Path, path: &Path) -> Result<String, StoreError> {
    let name = path.strip_prefix(root).ok().and_then(Path::to_str);
    name.map(str::to_owned).ok_or_else(|| StoreError::Name {
        path: path.display().to_string(),
    })
}

fn read(path: &Path) -> Result<Option<Bytes>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// A synced file beside `target`, hidden, with a name of its own.
fn stage(target: &Path, body: &[u8]) -> Result<PathBuf, StoreError> {
    create_parents(target)?;
    let file_name = target.file_name().unwrap_or_default().to_string_lossy();
    for number in 0..STAGING_MAX {
        let path = target.with_file_name(format!(".{file_name}.{number}.new"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                file.write_all(body)
                    .and_then(|()| file.sync_all())
                    .map_err(failed("write", &path))?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create", &path)(error)),
        }
    }
    let taken = io::Error::other(format!("{STAGING_MAX} unfinished files beside it"));
    Err(failed("create", target)(taken))
}

/// Creates the folders above `path` that are missing, and makes their names durable.
fn create_parents(path: &Path) -> Result<(), StoreError> {
    let mut missing: Vec<&Path> = Vec::new();
    for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
        if folder.try_exists().map_err(failed("inspect", folder))? {
            break;
        }
        missing.push(folder);
    }
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => sync_parent(folder)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create", folder)(error)),
        }
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", folder))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::File { action, path, source }
}
