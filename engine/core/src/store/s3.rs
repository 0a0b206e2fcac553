//! The S3 client: where it finds its server and keys, and how long it tries.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, RetryConfig};
use url::Url;

use super::credentials::MountedProvider;
use super::{Credentials, S3Options, StoreError};

/// A server that does not answer a connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One request with its body: 64 MiB at 1 MiB/s, the slowest link that a job can do anything useful on.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(64);

/// From 0.1 s doubling up to 5 s: together about 20 s of waiting before a failed request is given up.
const RETRIES_MAX: usize = 8;

/// The longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// No retry begins later than this after the first try, so that a dead endpoint is reported within minutes.
const RETRY_TIMEOUT: Duration = Duration::from_secs(90);

/// A client for the bucket at `root`. `environment` holds only what `credentials` permit to be read.
pub(super) fn client(
    root: &Url,
    credentials: &Credentials,
    options: &S3Options,
    environment: &[(String, String)],
) -> Result<AmazonS3, StoreError> {
    let location = root.to_string();
    let mut builder = with_variables(patient(), environment).with_bucket_name(root.host_str().unwrap_or_default());
    if let Credentials::Files(folder) = credentials {
        builder = with_mounted(builder, MountedProvider::new(folder), &location)?;
    }
    if let Some(endpoint) = &options.endpoint {
        // The more specific key, which wins over whatever an environment says.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if options.allow_http {
        builder = builder.with_allow_http(true);
    }
    if is_plaintext(&builder) && !allows_plaintext(&builder) {
        return Err(StoreError::Plaintext { location });
    }
    builder
        .build()
        .map_err(|source| StoreError::Client { location, source })
}

fn patient() -> AmazonS3Builder {
    let backoff = BackoffConfig {
        max_backoff: BACKOFF_MAX,
        ..BackoffConfig::default()
    };
    AmazonS3Builder::new()
        .with_retry(RetryConfig {
            backoff,
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_TIMEOUT,
        })
        .with_client_options(
            ClientOptions::new()
                .with_connect_timeout(CONNECT_TIMEOUT)
                .with_timeout(REQUEST_TIMEOUT),
        )
}

/// As `AmazonS3Builder::from_env`, but from the variables that may be read and from no others.
fn with_variables(builder: AmazonS3Builder, environment: &[(String, String)]) -> AmazonS3Builder {
    environment.iter().fold(builder, |builder, (key, value)| {
        match key.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            Ok(key) => builder.with_config(key, value),
            // `AWS_PROFILE`, `AWS_PAGER` and the like are for other tools.
            Err(_) => builder,
        }
    })
}

fn with_mounted(
    mut builder: AmazonS3Builder,
    provider: MountedProvider,
    location: &str,
) -> Result<AmazonS3Builder, StoreError> {
    let mounted = provider.current().map_err(|source| StoreError::Credentials {
        location: location.to_owned(),
        source,
    })?;
    if let Some(endpoint) = &mounted.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &mounted.region {
        builder = builder.with_region(region);
    }
    if mounted.allow_http {
        builder = builder.with_allow_http(true);
    }
    Ok(builder.with_credentials(Arc::new(provider)))
}

fn is_plaintext(builder: &AmazonS3Builder) -> bool {
    let specific = builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint);
    let endpoint = specific.or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

fn allows_plaintext(builder: &AmazonS3Builder) -> bool {
    let allowed = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    allowed.is_some_and(|allowed| allowed == "true")
}
