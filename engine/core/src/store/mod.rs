//! Object stores by URL.
//!
//! Owns which URLs lead to which store, where credentials come from, and how patient the clients are. Never lists,
//! reads or writes anything itself. The concrete types stay reachable, because a parallel write keeps multipart uploads
//! open across processes and [`MultipartStore`] is no part of `dyn ObjectStore`.

mod credentials;
mod fault;
mod location;
mod s3;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::ObjectStore;
use object_store::aws::AmazonS3;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use url::Url;

pub use credentials::{CREDENTIAL_FILES, CredentialsError};
pub use fault::StoreFault;

use crate::reload::ReadError;
use location::Address;

/// A job names a handful of buckets. Beyond this many the clients made last are not kept, which costs connections, not answers.
const STORES_KEPT_MAX: usize = 64;

/// Where credentials for object stores come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The variables of the AWS command line (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_S3`, ...). For runs on a person's
    /// own machine only.
    Environment,
    /// A folder of mounted files, read again when they change; their names are [`CREDENTIAL_FILES`].
    Files(PathBuf),
    /// The identity that the cloud gives the pod or machine. Of the environment only the paths and addresses that point
    /// at it are read, never a key.
    CloudIdentity,
}

/// How to reach S3; what is not set comes from the credentials' source, then from AWS's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The server's URL, for stores other than AWS.
    pub endpoint: Option<String>,
    /// The region to sign for.
    pub region: Option<String>,
    /// Permits `http://` endpoints: requests are signed, data travels in the clear.
    pub allow_http: bool,
}

/// A store, reachable both as what all stores are and as what it is.
#[derive(Clone)]
pub enum ConcreteStore {
    /// Files of this machine.
    Local(Arc<LocalFileSystem>),
    /// A bucket of S3, or of a server that speaks its protocol.
    S3(Arc<AmazonS3>),
    /// This process's memory: for tests and examples.
    Memory(Arc<InMemory>),
}

impl ConcreteStore {
    /// As what all stores are.
    pub fn as_object_store(&self) -> Arc<dyn ObjectStore> {
        match self {
            ConcreteStore::Local(store) => Arc::clone(store) as _,
            ConcreteStore::S3(store) => Arc::clone(store) as _,
            ConcreteStore::Memory(store) => Arc::clone(store) as _,
        }
    }

    /// As a store of multipart uploads that another process may complete; local files have no such thing.
    pub fn as_multipart(&self) -> Option<Arc<dyn MultipartStore>> {
        match self {
            ConcreteStore::Local(_) => None,
            ConcreteStore::S3(store) => Some(Arc::clone(store) as _),
            ConcreteStore::Memory(store) => Some(Arc::clone(store) as _),
        }
    }
}

/// The store's name alone: the derived output of a client goes down to its credentials' provider.
impl fmt::Debug for ConcreteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConcreteStore::Local(store) => write!(f, "{store}"),
            ConcreteStore::S3(store) => write!(f, "{store}"),
            ConcreteStore::Memory(store) => write!(f, "{store}"),
        }
    }
}

/// A place in a store.
#[derive(Clone, Debug)]
pub struct Location {
    /// The store.
    pub store: ConcreteStore,
    /// The store's own URL, without a path: `file:///`, `s3://bucket`. Stores are registered under it.
    pub root: Url,
    /// The place within the store.
    pub path: Path,
}

/// Why a URL leads to no store. Shows locations without the user, password and query that a URL may carry.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not a URL and not a path.
    #[error("location {location:?} cannot be understood: {reason}")]
    Location {
        /// What was given.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A store that we know by name only.
    #[error("object stores of kind {scheme}:// are not supported yet ({location}); supported: file://, s3://")]
    Unsupported {
        /// The URL's scheme.
        scheme: String,
        /// What was given.
        location: String,
    },
    /// The working directory, against which relative paths count, cannot be told.
    #[error("cannot resolve the relative path {location:?}")]
    WorkingDirectory {
        /// What was given.
        location: String,
        /// Why not.
        source: io::Error,
    },
    /// A mounted credentials file is unreadable.
    #[error("credentials for {location} are unreadable")]
    Credentials {
        /// The store.
        location: String,
        /// Why.
        source: CredentialsError,
    },
    /// An endpoint without TLS, not permitted.
    #[error("the endpoint of {location} is http://, which sends data in the clear")]
    Plaintext {
        /// The store.
        location: String,
    },
    /// The client refused its configuration.
    #[error("cannot make a client for {location}")]
    Client {
        /// The store.
        location: String,
        /// Why not.
        source: object_store::Error,
    },
}

/// Makes stores, and keeps one client per bucket so that connections are shared.
pub struct StoreFactory {
    credentials: Credentials,
    s3: S3Options,
    environment: Vec<(String, String)>,
    local: Arc<LocalFileSystem>,
    made: Mutex<HashMap<Url, ConcreteStore>>,
}

impl StoreFactory {
    /// Reads this process's environment once, here, as far as `credentials` permit.
    pub fn new(credentials: Credentials, s3: S3Options) -> Self {
        let variables =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Self::with_environment(credentials, s3, variables)
    }

    /// As [`StoreFactory::new`], with the environment as an argument.
    pub fn with_environment(
        credentials: Credentials,
        s3: S3Options,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let environment = variables
            .into_iter()
            .filter(|(key, _)| credentials::may_read(&credentials, key))
            .collect();
        Self {
            credentials,
            s3,
            environment,
            local: Arc::default(),
            made: Mutex::default(),
        }
    }

    /// The store and path that `location` names: a URL, or a path of this machine, relative to the working directory.
    pub fn locate(&self, location: &str) -> Result<Location, StoreError> {
        self.open(Address::parse(location)?)
    }

    /// As [`StoreFactory::locate`], for what is known to be a URL.
    pub fn store_for(&self, url: &Url) -> Result<Location, StoreError> {
        self.open(Address::from_url(url)?)
    }

    fn open(&self, address: Address) -> Result<Location, StoreError> {
        let Address { root, path } = address;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match made.get(&root) {
            Some(store) => store.clone(),
            None => {
                let store = self.make(&root)?;
                // A store of memory is its content: dropping it would lose that.
                if made.len() < STORES_KEPT_MAX || matches!(store, ConcreteStore::Memory(_)) {
                    made.insert(root.clone(), store.clone());
                }
                store
            }
        };
        Ok(Location { store, root, path })
    }

    fn make(&self, root: &Url) -> Result<ConcreteStore, StoreError> {
        match root.scheme() {
            location::FILE => Ok(ConcreteStore::Local(Arc::clone(&self.local))),
            location::MEMORY => Ok(ConcreteStore::Memory(Arc::default())),
            location::S3 => s3::client(root, &self.credentials, &self.s3, &self.environment)
                .map(|client| ConcreteStore::S3(Arc::new(client))),
            other => Err(StoreError::Unsupported {
                scheme: other.to_owned(),
                location: root.to_string(),
            }),
        }
    }
}

/// Without the environment, which may hold keys.
impl fmt::Debug for StoreFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreFactory")
            .field("credentials", &self.credentials)
            .field("s3", &self.s3)
            .finish_non_exhaustive()
    }
}

impl From<ReadError> for CredentialsError {
    fn from(error: ReadError) -> Self {
        CredentialsError::Read(error)
    }
}

#[cfg(test)]
mod tests;
