//! From what a table's location says to the place that is listed.

use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::execution::SessionState;
use object_store::ObjectStoreExt;
use url::Url;

/// The place that `location` names: a folder, whose URL ends in a slash, a file, or a pattern.
///
/// # Errors
/// A location that is no URL or path, a store that cannot be asked.
pub async fn place(session: &SessionState, location: &str) -> Result<ListingTableUrl> {
    if let Some((folder, pattern)) = split_pattern(location) {
        return ListingTableUrl::parse(folder)?.with_glob(pattern);
    }
    let url = ListingTableUrl::parse(location)?;
    if url.is_collection() || url.get_glob().is_some() {
        return Ok(url);
    }
    if url.prefix().is_root() {
        return as_folder(&url);
    }
    let store = session.runtime_env().object_store(&url)?;
    let is_file = match store.head(url.prefix()).await {
        Ok(_) => true,
        Err(object_store::Error::NotFound { .. }) => false,
        Err(error) => return Err(DataFusionError::ObjectStore(Box::new(error))),
    };
    // A folder that is not there yet may be written to.
    if is_file { Ok(url) } else { as_folder(&url) }
}

fn as_folder(url: &ListingTableUrl) -> Result<ListingTableUrl> {
    let mut folder: Url = url.get_url().clone();
    let path = format!("{}/", folder.path());
    folder.set_path(&path);
    ListingTableUrl::try_new(folder, None)
}

/// The folder of a URL and the pattern below it. Of paths, DataFusion does this itself.
fn split_pattern(location: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = location.split_once("://")?;
    let first = rest.find(['*', '['])?;
    let folder = rest[..first].rfind('/')?;
    let end = scheme.len() + "://".len() + folder + 1;
    Some(location.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_begins_with_the_segment_that_has_a_wildcard() {
        let table = [
            ("s3://bucket/a/b*.csv", Some(("s3://bucket/a/", "b*.csv"))),
            ("s3://bucket/*", Some(("s3://bucket/", "*"))),
            ("s3://bucket/d=[0-3]/x", Some(("s3://bucket/", "d=[0-3]/x"))),
            ("s3://bucket/a/b.csv", None),
            ("s3://*", None),
            ("data/*.csv", None),
        ];
        for (location, split) in table {
            assert_eq!(split_pattern(location), split, "{location}");
        }
    }
}
