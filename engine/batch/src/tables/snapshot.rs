//! What a table's location holds at one moment.
//!
//! A folder that was written to through the commit protocol holds what its log says; a plain folder, a file or a pattern
//! whatever is there. DataFusion's listing table takes a listing from the session's cache of listings where it finds one,
//! so a scan of the former gets a session with exactly these files in that cache. All that is done with files (columns in
//! names of folders, pruning, statistics, groups) stays the listing table's.

use std::sync::Arc;

use datafusion::common::{Result, internal_err};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::execution::SessionState;
use datafusion::execution::cache::Cache;
use datafusion::execution::cache::cache_manager::{CachedFileList, TableScopedPath};
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use object_store::ObjectMeta;
use object_store::path::Path;
use trireme_batch_durable::commit::VisibleFile;

use crate::sink::recorded_files;

/// The files at a location, as one scan sees them.
pub struct Snapshot<'a> {
    session: &'a SessionState,
    url: &'a ListingTableUrl,
    /// The session that finds the recorded files; `None` where no log says which they are.
    recorded: Option<SessionState>,
}

impl<'a> Snapshot<'a> {
    /// Looks at `url`.
    ///
    /// # Errors
    /// A location that cannot be read, a log that is damaged.
    pub async fn of(session: &'a SessionState, url: &'a ListingTableUrl) -> Result<Self> {
        let recorded = match recorded_files(session.config(), url).await? {
            Some(files) => Some(listing_only(session, url, files)?),
            None => None,
        };
        Ok(Self { session, url, recorded })
    }

    /// The session to list and scan with.
    pub fn session(&self) -> &SessionState {
        self.recorded.as_ref().unwrap_or(self.session)
    }

    /// Whether what was listed since is what it seemed: a plain folder may have had its first write meanwhile, and the
    /// listing a part of it.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub async fn lasts(&self) -> Result<bool> {
        Ok(self.recorded.is_some() || recorded_files(self.session.config(), self.url).await?.is_none())
    }
}

/// `session`, but for the listing of `url`.
fn listing_only(session: &SessionState, url: &ListingTableUrl, files: Vec<VisibleFile>) -> Result<SessionState> {
    // The cache takes no entry without a size, and an empty listing has that of its capacity.
    let mut listing = Vec::with_capacity(files.len() + 1);
    for file in files {
        listing.push(object_meta(url, file)?);
    }
    let place = TableScopedPath {
        table: url.get_table_ref().clone(),
        path: url.prefix().clone(),
    };
    let cache = DefaultCache::new(usize::MAX);
    cache.put(&place, CachedFileList::new(listing));
    if !cache.contains_key(&place) {
        // Without it, the folder would be listed, with parts of writes in it.
        return internal_err!("the listing of {url} was not kept");
    }
    let mut runtime = RuntimeEnvBuilder::from_runtime_env(session.runtime_env());
    runtime.cache_manager = runtime
        .cache_manager
        .with_list_files_cache(Some(Arc::new(cache)))
        .with_list_files_cache_limit(usize::MAX);
    let state = SessionStateBuilder::new_from_existing(session.clone()).with_runtime_env(runtime.build_arc()?);
    Ok(state.build())
}

fn object_meta(url: &ListingTableUrl, file: VisibleFile) -> Result<ObjectMeta> {
    let location = Path::parse(format!("{}/{}", url.prefix(), file.name)).map_err(object_store::Error::from)?;
    Ok(ObjectMeta {
        location,
        last_modified: file.modified.into(),
        size: file.bytes,
        e_tag: None,
        version: None,
    })
}
