//! Create-if-absent on an object store, the one primitive that both the journal and the sink stand on.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

/// S3 answers a conditional create with 409 while another one for the same key is under way, whose object may then turn
/// out not to exist. More than a few such answers in a row mean a store that does not do what it says.
const ATTEMPTS_MAX: usize = 4;

/// What a create-if-absent found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Created {
    /// The object did not exist and is now this one; or it existed with the very same bytes, which is how our own
    /// earlier attempt looks when its answer was lost.
    Ours,
    /// Somebody else's bytes are there.
    Theirs(Bytes),
}

/// Creates `path` with `body` unless it exists.
pub(crate) async fn create(store: &dyn ObjectStore, path: &Path, body: &Bytes) -> object_store::Result<Created> {
    let mut attempt = 1;
    loop {
        let refused = match store
            .put_opts(path, PutPayload::from(body.clone()), PutMode::Create.into())
            .await
        {
            Ok(_) => return Ok(Created::Ours),
            Err(error @ object_store::Error::AlreadyExists { .. }) => error,
            Err(error) => return Err(error),
        };
        match read(store, path).await? {
            Some(found) if found == *body => return Ok(Created::Ours),
            Some(found) => return Ok(Created::Theirs(found)),
            None if attempt == ATTEMPTS_MAX => return Err(refused),
            None => attempt += 1,
        }
    }
}

/// The bytes of `path`, or `None` where there is no such object.
pub(crate) async fn read(store: &dyn ObjectStore, path: &Path) -> object_store::Result<Option<Bytes>> {
    match store.get(path).await {
        Ok(found) => found.bytes().await.map(Some),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
