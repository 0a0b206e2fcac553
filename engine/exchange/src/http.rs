//! The http port: health for the kubelet, metrics for Prometheus, the report for the operator.
//!
//! `/healthz` and `/readyz` are open and say nothing but yes or no. All else wants a bearer token, read from a file at every
//! request so that it may be rotated; without a token file it does not exist. Owns no state: it shows what its owner
//! publishes, and hands on what its owner is to know.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, StatusCode};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use trireme_core::reload::{Contents, ReadError, Reloading};
use trireme_spec::limits::Limits;

/// The answer's version of the report; to be sent back as `?after=`.
pub const REPORT_VERSION_HEADER: HeaderName = HeaderName::from_static("trireme-report-version");

/// A shorter token could be guessed: 16 bytes hold 64 bits even when written in hexadecimal.
pub const TOKEN_BYTES_MIN: usize = 16;

/// A report as it is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Grows with every change.
    pub version: u64,
    /// The report, JSON.
    pub json: Bytes,
}

/// Word from whoever runs the workers that one is gone, as machines and pods can be.
#[derive(Debug)]
pub struct WorkerLost {
    /// The name that it attached by.
    pub name: String,
    /// To be told whether a worker of that name has ever attached.
    pub known: oneshot::Sender<bool>,
}

/// What the port shows.
#[derive(Clone)]
pub struct HttpSources {
    /// Whether the process can do its work.
    pub ready: watch::Receiver<bool>,
    /// Makes the metrics' text (Prometheus exposition format) for one scrape. Must not block.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The report, published whenever it changes.
    pub report: watch::Receiver<Report>,
    /// Where a driver hears of workers that are gone; nobody else has any.
    pub losses: Option<mpsc::Sender<WorkerLost>>,
}

impl fmt::Debug for HttpSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSources")
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// How the port behaves.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The file with the bearer token for all but health.
    pub token_file: Option<PathBuf>,
    /// A waiting request is answered no sooner than this after it came, so that nobody who asks again and again gets more
    /// than one answer in this time.
    pub answer_interval_min: Duration,
    /// A waiting request is answered after this time although nothing has changed.
    pub answer_wait_max: Duration,
}

impl HttpOptions {
    /// As the published limits say.
    pub fn new(token_file: Option<PathBuf>) -> Self {
        Self {
            token_file,
            answer_interval_min: Limits::DEFAULT.report_interval_min.get(),
            answer_wait_max: Limits::DEFAULT.report_wait_max.get(),
        }
    }
}

/// What to serve on the http port.
pub fn router(sources: HttpSources, options: HttpOptions) -> Router {
    let shown = Arc::new(Shown {
        sources,
        options: options.clone(),
    });
    let open = Router::new()
        .route("/healthz", get(StatusCode::OK))
        .route("/readyz", get(ready));
    let Some(file) = options.token_file else {
        return open.with_state(shown);
    };
    let mut guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/report", get(report));
    if shown.sources.losses.is_some() {
        guarded = guarded.route("/workers/{name}/lost", post(lost));
    }
    let guarded = guarded.route_layer(middleware::from_fn_with_state(Arc::new(Token::new(file)), authorize));
    open.merge(guarded).with_state(shown)
}

struct Shown {
    sources: HttpSources,
    options: HttpOptions,
}

async fn ready(State(shown): State<Arc<Shown>>) -> StatusCode {
    match *shown.sources.ready.borrow() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        (shown.sources.metrics)(),
    )
        .into_response()
}

#[derive(Debug, Deserialize)]
struct After {
    after: Option<u64>,
}

async fn report(State(shown): State<Arc<Shown>>, Query(After { after }): Query<After>) -> Response {
    let mut published = shown.sources.report.clone();
    if let Some(seen) = after {
        wait_for_change(&mut published, seen, &shown.options).await;
    }
    let Report { version, json } = published.borrow().clone();
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (headers, [(REPORT_VERSION_HEADER, version.to_string())], json).into_response()
}

/// A body is not read: what there is to say stands in the path.
async fn lost(State(shown): State<Arc<Shown>>, Path(name): Path<String>) -> StatusCode {
    let Some(losses) = &shown.sources.losses else {
        return StatusCode::NOT_FOUND;
    };
    let (known, answer) = oneshot::channel();
    // What nobody takes is dropped, and answers by that.
    drop(losses.send(WorkerLost { name, known }).await);
    match answer.await {
        Ok(true) => StatusCode::ACCEPTED,
        Ok(false) => StatusCode::NOT_FOUND,
        // The driver is ending, and its workers with it.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Returns when there is something that the caller has not seen, or when it has waited long enough. A driver that restarts
/// counts from the beginning, so any other version is news, not only a higher one.
async fn wait_for_change(published: &mut watch::Receiver<Report>, seen: u64, options: &HttpOptions) {
    let asked = Instant::now();
    let changed = timeout_at(
        asked + options.answer_wait_max,
        published.wait_for(|report| report.version != seen),
    );
    // A publisher that is gone publishes nothing more: its last word is the answer.
    if matches!(changed.await, Ok(Ok(_))) {
        sleep_until(asked + options.answer_interval_min).await;
    }
}

/// The token as its file has it now.
struct Token(Reloading<Vec<u8>>);

#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the token has fewer than {TOKEN_BYTES_MIN} bytes")]
    Short,
}

impl Token {
    fn new(file: PathBuf) -> Self {
        Self(Reloading::new(vec![file]))
    }

    fn admits(&self, headers: &HeaderMap) -> Result<bool, TokenError> {
        let expected = self.0.current(parse_token)?;
        let offered = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        // In a time that tells the length at most, which is no secret.
        Ok(offered.is_some_and(|offered| bool::from(offered.ct_eq(&expected))))
    }
}

fn parse_token(contents: &Contents<'_>) -> Result<Vec<u8>, TokenError> {
    let token = contents.required(0)?.trim_ascii();
    if token.len() < TOKEN_BYTES_MIN {
        return Err(TokenError::Short);
    }
    Ok(token.to_vec())
}

/// The scheme's name is case-insensitive (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

async fn authorize(State(token): State<Arc<Token>>, request: Request, next: Next) -> Response {
    match token.admits(request.headers()) {
        Ok(true) => next.run(request).await,
        Ok(false) => (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response(),
        Err(error) => {
            tracing::warn!(%error, "the http port's token cannot be used");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}
