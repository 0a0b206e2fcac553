//! Certificates as files, for processes that one command starts on one machine.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use trireme_pki::{JobAuthority, Leaf};

use super::files::TlsFiles;

/// A file or folder could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// Writes `ca.crt`, `tls.crt` and `tls.key` into `dir` (made if missing, for its owner only), each by rename, so that no
/// reader sees half a file. The key is readable by its owner only, from its first byte.
///
/// # Errors
/// A folder that cannot be made or written to.
pub fn write_files(dir: &Path, authority: &JobAuthority, leaf: &Leaf) -> Result<TlsFiles, WriteError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| WriteError {
            path: dir.to_owned(),
            source,
        })?;
    let files = TlsFiles::in_dir(dir);
    for (path, content, mode) in [
        (&files.ca, authority.certificate_pem(), 0o644),
        (&files.cert, &leaf.cert_pem, 0o644),
        (&files.key, &leaf.key_pem, 0o600),
    ] {
        replace(path, content.as_bytes(), mode).map_err(|source| WriteError {
            path: path.clone(),
            source,
        })?;
    }
    Ok(files)
}

fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    // One left behind by a crash might have another mode, which `mode` below would not change.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(content)?;
    drop(file);
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use trireme_pki::{Identity, LEAF_VALIDITY, Role};

    use super::*;

    #[test]
    fn files_are_replaced_whole_and_the_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority = JobAuthority::generate("revenue", now).unwrap();
        let identity = Identity::new(Role::Worker, "revenue", "w1").unwrap();

        for _ in 0..2 {
            let leaf = authority.issue(&identity, now, LEAF_VALIDITY).unwrap();
            let files = write_files(&dir.path().join("tls"), &authority, &leaf).unwrap();

            assert_eq!(fs::read_to_string(&files.cert).unwrap(), leaf.cert_pem);
            assert_eq!(fs::read_to_string(&files.key).unwrap(), leaf.key_pem);
            assert_eq!(fs::read_to_string(&files.ca).unwrap(), authority.certificate_pem());
            assert_eq!(fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(
                fs::read_dir(dir.path().join("tls")).unwrap().count(),
                3,
                "no temporary file stays"
            );
        }
    }
}
