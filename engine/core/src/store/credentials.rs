//! Where keys come from, and what of the environment may be looked at.
//!
//! Mounted files are read again when they change, for every request, so that a rotated key needs no restart.
//! Nothing here prints a value.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use super::Credentials;
use crate::reload::{Contents, ReadError, Reloading};

/// The files of a credentials folder. The first two are required; the last three are read when a client is made.
pub const CREDENTIAL_FILES: [&str; 6] = [
    "access-key-id",
    "secret-access-key",
    "session-token",
    "endpoint",
    "region",
    "allow-http",
];

const ACCESS_KEY_ID: usize = 0;
const SECRET_ACCESS_KEY: usize = 1;
const SESSION_TOKEN: usize = 2;
const ENDPOINT: usize = 3;
const REGION: usize = 4;
const ALLOW_HTTP: usize = 5;

/// What points at the cloud's identity without being one: paths of token files, names, addresses.
const IDENTITY_VARIABLES: [&str; 9] = [
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
];

/// Why mounted credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file is missing or unreadable.
    #[error(transparent)]
    Read(ReadError),
    /// A file is empty or not text.
    #[error("credentials file {file} is {problem}")]
    Content {
        /// Its name within the folder.
        file: &'static str,
        /// `empty` or `not UTF-8`.
        problem: &'static str,
    },
}

/// Whether the environment variable `key` may be read at all.
pub(super) fn may_read(credentials: &Credentials, key: &str) -> bool {
    match credentials {
        Credentials::Environment => key.starts_with("AWS_"),
        Credentials::Files(_) => false,
        Credentials::CloudIdentity => IDENTITY_VARIABLES.contains(&key),
    }
}

/// What a credentials folder held at one moment.
pub(super) struct Mounted {
    keys: Arc<AwsCredential>,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) allow_http: bool,
}

/// Hands out the keys as the files have them now.
pub(super) struct MountedProvider(Reloading<Mounted>);

impl MountedProvider {
    pub(super) fn new(folder: &Path) -> Self {
        Self(Reloading::new(
            CREDENTIAL_FILES.iter().map(|name| folder.join(name)).collect(),
        ))
    }

    pub(super) fn current(&self) -> Result<Arc<Mounted>, CredentialsError> {
        self.0.current(parse)
    }
}

impl fmt::Debug for MountedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MountedProvider")
    }
}

#[async_trait]
impl CredentialProvider for MountedProvider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        match self.current() {
            Ok(mounted) => Ok(Arc::clone(&mounted.keys)),
            Err(error) => Err(object_store::Error::Generic {
                store: "S3",
                source: Box::new(error),
            }),
        }
    }
}

fn parse(contents: &Contents<'_>) -> Result<Mounted, CredentialsError> {
    Ok(Mounted {
        keys: Arc::new(AwsCredential {
            key_id: required(contents, ACCESS_KEY_ID)?,
            secret_key: required(contents, SECRET_ACCESS_KEY)?,
            token: optional(contents, SESSION_TOKEN)?,
        }),
        endpoint: optional(contents, ENDPOINT)?,
        region: optional(contents, REGION)?,
        allow_http: optional(contents, ALLOW_HTTP)?.is_some_and(|text| text == "true"),
    })
}

fn required(contents: &Contents<'_>, index: usize) -> Result<String, CredentialsError> {
    let value = text(index, contents.required(index)?)?;
    value.ok_or(CredentialsError::Content {
        file: CREDENTIAL_FILES[index],
        problem: "empty",
    })
}

fn optional(contents: &Contents<'_>, index: usize) -> Result<Option<String>, CredentialsError> {
    contents.optional(index).map_or(Ok(None), |bytes| text(index, bytes))
}

/// Without the newline that editors and `echo` leave behind.
fn text(index: usize, bytes: &[u8]) -> Result<Option<String>, CredentialsError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| CredentialsError::Content {
            file: CREDENTIAL_FILES[index],
            problem: "not UTF-8",
        })?
        .trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
