//! What readers see of a destination: whole writes, by its log. A reader writes nothing, so it needs no right to.

use datafusion::common::Result;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::prelude::SessionConfig;
use trireme_batch_durable::commit::{Committer, Visible, VisibleFile};

use super::failures::commit_problem;
use super::stores;
use crate::problems::told;

/// The files to read at `url`, by the log of the folder. `None` where there is no log to go by: a plain folder, a single
/// file, a pattern.
///
/// # Errors
/// A log that is damaged or cannot be read, parts that are not what was written.
pub async fn recorded_files(config: &SessionConfig, url: &ListingTableUrl) -> Result<Option<Vec<VisibleFile>>> {
    if !url.is_collection() || url.get_glob().is_some() {
        return Ok(None);
    }
    let committer = Committer::new(stores::store_at(config, url.as_str())?);
    match committer.visible().await {
        Ok(Visible::NotTrireme) => Ok(None),
        Ok(Visible::Files { files, unfinished }) => {
            for write in unfinished {
                tracing::warn!(location = %url, %write, "left out a write that is committed and not complete yet");
            }
            Ok(Some(files))
        }
        Err(error) => Err(told(commit_problem(&error))),
    }
}
