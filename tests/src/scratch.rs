//! Temporary folders and the manifests in them.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder that goes away with its owner.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

impl Scratch {
    /// An empty folder.
    pub fn new() -> Scratch {
        let folder = tempfile::Builder::new().prefix("trireme-test-").tempdir();
        Scratch {
            folder: folder.unwrap_or_else(|error| panic!("cannot make a temporary folder: {error}")),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file, and the folders above it; returns its full path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        let folder = path.parent().expect("a path below the scratch folder has a parent");
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, content));
        written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }
}

/// A BatchJob that runs `sql`. `fields` are further fields of `spec` as YAML, not indented.
pub fn batch_job(sql: &str, fields: &str) -> String {
    format!(
        "apiVersion: trireme.dev/v1alpha1\nkind: BatchJob\nmetadata:\n  name: test\nspec:\n{}  sql: |\n{}",
        indented(fields, 2),
        indented(sql, 4),
    )
}

fn indented(text: &str, spaces: usize) -> String {
    text.lines().map(|line| format!("{:spaces$}{line}\n", "")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_away_with_its_owner() {
        let scratch = Scratch::new();
        let path = scratch.write("a/b.txt", "text");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_manifest_is_indented() {
        assert_eq!(
            batch_job("SELECT 1,\n  2", "executors:\n  min: 2"),
            "apiVersion: trireme.dev/v1alpha1\nkind: BatchJob\nmetadata:\n  name: test\nspec:\n  \
             executors:\n    min: 2\n  sql: |\n    SELECT 1,\n      2\n"
        );
    }
}
