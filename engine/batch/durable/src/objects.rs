//! Create-if-absent on an object store, the one primitive that both the journal and the sink stand on.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

/// When a create is tried again: after 200, 400, 800 and 1600 ms. Clients repeat no conditional request whose answer was lost, since the second would find
/// the first's object and take it for another's; here that is settled by reading it back. S3 also answers with 409 while
/// another create for the same key is under way, whose object may then turn out not to exist. What takes longer than this
/// is no hiccup.
pub(crate) const CREATE_AGAIN: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(200))
    .with_max_times(4);

/// What a create-if-absent found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Created {
    /// The object did not exist and is now this one; or it existed with the very same bytes, which is how our own
    /// earlier attempt looks when its answer was lost.
    Ours,
    /// Somebody else's bytes are there.
    Theirs(Bytes),
}

/// Creates `path` with `body` unless it exists; tries `again` where it cannot be told whether it was.
pub(crate) async fn create(
    store: &dyn ObjectStore,
    path: &Path,
    body: &Bytes,
    again: ExponentialBuilder,
) -> object_store::Result<Created> {
    (|| create_once(store, path, body))
        .retry(again)
        .when(|error| !was_refused(error))
        .notify(|error, _| tracing::debug!(%path, %error, "cannot tell whether it was created; trying again"))
        .await
}

/// One try. Where its answer is lost, what is there tells.
async fn create_once(store: &dyn ObjectStore, path: &Path, body: &Bytes) -> object_store::Result<Created> {
    let put = store.put_opts(path, PutPayload::from(body.clone()), PutMode::Create.into());
    let error = match put.await {
        Ok(_) => return Ok(Created::Ours),
        Err(error) if was_refused(&error) => return Err(error),
        Err(error) => error,
    };
    match read(store, path).await {
        Ok(Some(found)) if found == *body => return Ok(Created::Ours),
        Ok(Some(found)) => return Ok(Created::Theirs(found)),
        // A request whose answer was lost may be on its way still; if it arrives before the next one, that reads it back.
        Ok(None) => {}
        Err(unread) => tracing::debug!(%path, error = %unread, "cannot read back what may have been created"),
    }
    Err(error)
}

/// Whether the store has understood the request and not carried it out, nor would it the next time.
fn was_refused(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::UnknownConfigurationKey { .. }
    )
}

/// The bytes of `path`, or `None` where there is no such object.
pub(crate) async fn read(store: &dyn ObjectStore, path: &Path) -> object_store::Result<Option<Bytes>> {
    match store.get(path).await {
        Ok(found) => found.bytes().await.map(Some),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
