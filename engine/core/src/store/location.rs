//! From what a person writes to a store's root and a path in it. Pure, but for the working directory.

use std::path::{Component, PathBuf};

use object_store::path::Path;
use url::Url;

use super::StoreError;

pub(super) const FILE: &str = "file";
pub(super) const S3: &str = "s3";
pub(super) const MEMORY: &str = "memory";

/// A place, not yet opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Scheme and bucket, normalised: stores are kept by it.
    pub(super) root: Url,
    pub(super) path: Path,
}

impl Address {
    /// `scheme://...` is a URL, everything else a path of this machine.
    pub(super) fn parse(location: &str) -> Result<Self, StoreError> {
        if location.trim().is_empty() {
            return Err(misunderstood(location, "it is empty"));
        }
        if location.contains("://") {
            let url =
                Url::parse(location).map_err(|error| misunderstood(&redacted_text(location), &error.to_string()))?;
            return Self::from_url(&url);
        }
        Self::from_file(location)
    }

    pub(super) fn from_url(url: &Url) -> Result<Self, StoreError> {
        let location = redacted(url);
        let kind = match url.scheme() {
            FILE => FILE,
            S3 | "s3a" => S3,
            MEMORY => MEMORY,
            other => {
                return Err(StoreError::Unsupported {
                    scheme: other.to_owned(),
                    location,
                });
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(misunderstood(
                &location,
                "credentials do not belong into a URL; mount them as files",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(misunderstood(
                &location,
                "'?' and '#' in a path are written %3F and %23",
            ));
        }
        match (kind, url.host_str().unwrap_or_default()) {
            (FILE, "" | "localhost") => Self::at(url, "file:///"),
            (FILE, host) => {
                let reason = format!("{host:?} stands where a host would; a local path has three slashes, file:///");
                Err(misunderstood(&location, &reason))
            }
            (_, "") => Err(misunderstood(&location, "it names no bucket")),
            (kind, bucket) => Self::at(url, &format!("{kind}://{bucket}")),
        }
    }

    fn at(url: &Url, root: &str) -> Result<Self, StoreError> {
        let misread = |reason: String| misunderstood(&redacted(url), &reason);
        let root = Url::parse(root).map_err(|error| misread(error.to_string()))?;
        let path = Path::from_url_path(url.path()).map_err(|error| misread(error.to_string()))?;
        Ok(Self { root, path })
    }

    /// `.` and `..` are resolved by name, as in a URL: what a path leads to may not exist yet, so links are not followed.
    fn from_file(location: &str) -> Result<Self, StoreError> {
        let absolute = std::path::absolute(location).map_err(|source| StoreError::WorkingDirectory {
            location: location.to_owned(),
            source,
        })?;
        let mut resolved = PathBuf::new();
        for component in absolute.components() {
            match component {
                Component::ParentDir => {
                    resolved.pop();
                }
                Component::CurDir => {}
                other => resolved.push(other),
            }
        }
        let url = Url::from_file_path(&resolved).map_err(|()| misunderstood(location, "it is no absolute path"))?;
        Self::at(&url, "file:///")
    }
}

fn misunderstood(location: &str, reason: &str) -> StoreError {
    StoreError::Location {
        location: location.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A URL without user, password, query and fragment, any of which may be a secret.
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that cannot carry them.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

/// The same for what is no URL: nothing up to the last `@` and nothing from the first `?`.
fn redacted_text(location: &str) -> String {
    let (scheme, rest) = location.split_once("://").unwrap_or(("", location));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let rest = rest.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_and_what_they_mean() {
        let table = [
            ("s3://bucket/a/b.parquet", "s3://bucket", "a/b.parquet"),
            ("s3a://bucket/a/", "s3://bucket", "a"),
            ("s3://bucket", "s3://bucket", ""),
            ("s3://bucket/with%20space", "s3://bucket", "with space"),
            ("file:///data/a/../b", "file:///", "data/b"),
            ("file://localhost/data", "file:///", "data"),
            ("/data/./a/../b c", "file:///", "data/b c"),
            ("memory://scratch/x", "memory://scratch", "x"),
        ];
        for (location, root, path) in table {
            let address = Address::parse(location).unwrap();
            assert_eq!(
                address.root.as_str().trim_end_matches('/'),
                root.trim_end_matches('/'),
                "{location}"
            );
            assert_eq!(address.path.as_ref(), path, "{location}");
        }
    }

    #[test]
    fn a_relative_path_counts_from_the_working_directory() {
        let here = std::env::current_dir().unwrap();
        let address = Address::parse("data/../x.csv").unwrap();
        assert_eq!(format!("/{}", address.path), here.join("x.csv").display().to_string());
    }

    #[test]
    fn what_cannot_be_understood_says_why() {
        let table = [
            ("", "is empty"),
            ("s3:///key", "no bucket"),
            ("file://data/x", "three slashes"),
            ("s3://bucket/a?b", "%3F"),
            ("s3://key:hunter2@bucket/a", "do not belong"),
            ("gs://bucket/a", "gs:// are not supported yet"),
            ("abfss://box@account/a", "abfss:// are not supported yet"),
            ("hdfs://name/a", "hdfs:// are not supported yet"),
            ("s3://key:hunter2@bucket:port/a", "cannot be understood"),
        ];
        for (location, expected) in table {
            let text = Address::parse(location).unwrap_err().to_string();
            assert!(text.contains(expected), "{location}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
