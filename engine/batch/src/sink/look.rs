//! What a driver finds at a destination that it is about to write to: leave to write, or a write that is committed already.

use backon::{ExponentialBuilder, Retryable};
use trireme_batch_durable::Generation;
use trireme_batch_durable::commit::{Begin, CommitError, CommitPermit, Committer, WriteMode, WriteRequest};
use trireme_spec::problem::Problem;

use super::failures::{commit_problem, is_of_the_store, not_complete, not_known};
use super::{Committed, written};
use crate::problems::causes;

/// What was found.
pub enum Looked {
    Permit(CommitPermit),
    Committed(Committed),
}

/// Begins at the destination. An earlier driver may have committed the write, which is then not called failed because a
/// store fails: it is asked `again`. The first driver need not.
pub async fn look(
    committer: &Committer,
    location: &str,
    request: WriteRequest,
    again: ExponentialBuilder,
) -> Result<Looked, Problem> {
    let is_first = request.generation == Generation::FIRST;
    let begun = (|| begin(committer, location, &request))
        .retry(again)
        .when(|error| is_of_the_store(error) && !is_first)
        .notify(|error, _| tracing::warn!(location, error = %causes(error), "cannot look up a write; trying again"))
        .await;
    let error = match begun {
        Ok(Begin::Permit(permit)) => return Ok(Looked::Permit(permit)),
        Ok(Begin::Committed(record)) => {
            return Ok(Looked::Committed(Committed {
                written: written(location, &record, true),
                unfinished: None,
            }));
        }
        Err(error) => error,
    };
    let problem = commit_problem(&error);
    match committer.recorded(&request.write_id).await {
        Ok(Some(record)) if is_of_the_store(&error) => Ok(Looked::Committed(Committed {
            written: written(location, &record, true),
            unfinished: Some(not_complete(location, problem)),
        })),
        Err(_) if is_of_the_store(&error) && !is_first => Err(not_known(location, problem)),
        _ => Err(problem),
    }
}

/// One try to begin, which completes what was committed earlier. That this failed is no matter to a write that is committed.
async fn begin(committer: &Committer, location: &str, request: &WriteRequest) -> Result<Begin, CommitError> {
    let begun = match committer.begin(request.clone()).await {
        Err(error) if is_of_the_store(&error) => return Err(error),
        begun => begun,
    };
    match finish_earlier(committer, location, request.mode).await {
        Err(error) if matches!(begun, Ok(Begin::Permit(_))) => Err(error),
        Ok(()) | Err(_) => begun,
    }
}

/// Completes what drivers that died had committed: readers leave it out and write nothing, so nobody else would. What is not
/// complete is not read, and an overwrite would remove it all the same: it waits for it.
async fn finish_earlier(committer: &Committer, location: &str, mode: WriteMode) -> Result<(), CommitError> {
    match committer.recover().await {
        Ok(recovered) => {
            for write in recovered.rolled_forward {
                tracing::info!(location, %write, "completed an earlier write");
            }
        }
        Err(error) if is_of_the_store(&error) && mode == WriteMode::Overwrite => return Err(error),
        Err(error) => tracing::warn!(location, error = %causes(&error), "an earlier write could not be completed"),
    }
    Ok(())
}
