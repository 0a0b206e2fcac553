use std::time::Instant;

use ::http::{Method, Request, StatusCode};
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tower::ServiceExt;

use super::*;
use crate::http::{HttpOptions, HttpSources, REPORT_VERSION_HEADER, Report, router};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The port's owner.
struct Owner {
    dir: TempDir,
    ready: watch::Sender<bool>,
    report: watch::Sender<Report>,
    sources: HttpSources,
}

impl Owner {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let (ready, ready_seen) = watch::channel(false);
        let (report, report_seen) = watch::channel(Report {
            version: 5,
            json: Bytes::from_static(b"{\"jobs\":1}"),
        });
        let metrics = Arc::new(|| "trireme_tasks 1\n".to_owned());
        Self {
            dir,
            ready,
            report,
            sources: HttpSources {
                ready: ready_seen,
                metrics,
                report: report_seen,
            },
        }
    }

    fn options(&self) -> HttpOptions {
        HttpOptions::new(Some(self.dir.path().join("token")))
    }

    fn router(&self) -> Router {
        router(self.sources.clone(), self.options())
    }
}

async fn ask(router: &Router, method: Method, path: &str, authorization: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let response = within(router.clone().oneshot(request.body(Body::empty()).unwrap()))
        .await
        .unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn who_may_see_what() {
    let owner = Owner::new();
    let router = owner.router();
    let good = format!("Bearer {TOKEN}");
    let lower = format!("bearer {TOKEN}");
    let longer = format!("Bearer {TOKEN}0");
    let basic = format!("Basic {TOKEN}");
    let (metrics, report) = ("trireme_tasks 1\n", "{\"jobs\":1}");
    let table = [
        ("/healthz", None, StatusCode::OK, ""),
        ("/readyz", None, StatusCode::SERVICE_UNAVAILABLE, ""),
        ("/metrics", None, StatusCode::UNAUTHORIZED, ""),
        ("/report", None, StatusCode::UNAUTHORIZED, ""),
        ("/report?after=0", None, StatusCode::UNAUTHORIZED, ""),
        ("/metrics", Some(""), StatusCode::UNAUTHORIZED, ""),
        ("/metrics", Some("Bearer "), StatusCode::UNAUTHORIZED, ""),
        (
            "/metrics",
            Some("Bearer 0123456789abcdef"),
            StatusCode::UNAUTHORIZED,
            "",
        ),
        ("/metrics", Some(&longer), StatusCode::UNAUTHORIZED, ""),
        ("/metrics", Some(&basic), StatusCode::UNAUTHORIZED, ""),
        ("/metrics", Some(TOKEN), StatusCode::UNAUTHORIZED, ""),
        ("/metrics", Some(&good), StatusCode::OK, metrics),
        ("/metrics", Some(&lower), StatusCode::OK, metrics),
        ("/report", Some(&good), StatusCode::OK, report),
        ("/nothing", Some(&good), StatusCode::NOT_FOUND, ""),
        ("/", None, StatusCode::NOT_FOUND, ""),
    ];
    for (path, authorization, status, body) in table {
        let answer = ask(&router, Method::GET, path, authorization).await;
        assert_eq!(answer, (status, body.to_owned()), "{path} {authorization:?}");
    }
    let posted = ask(&router, Method::POST, "/report", Some(&good)).await;
    assert_eq!(posted.0, StatusCode::METHOD_NOT_ALLOWED);
    let misasked = ask(&router, Method::GET, "/report?after=yesterday", Some(&good)).await;
    assert_eq!(misasked.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn readiness_follows_its_owner() {
    let owner = Owner::new();
    let router = owner.router();
    owner.ready.send(true).unwrap();
    assert_eq!(
        ask(&router, Method::GET, "/readyz", None).await,
        (StatusCode::OK, String::new())
    );
    owner.ready.send(false).unwrap();
    assert_eq!(
        ask(&router, Method::GET, "/readyz", None).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn without_a_token_file_nothing_but_health_exists() {
    let owner = Owner::new();
    let router = router(owner.sources.clone(), HttpOptions::new(None));
    assert_eq!(ask(&router, Method::GET, "/healthz", None).await.0, StatusCode::OK);
    for path in ["/metrics", "/report"] {
        assert_eq!(ask(&router, Method::GET, path, None).await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn the_token_is_the_files_own() {
    let owner = Owner::new();
    let router = owner.router();
    let next = "fedcba9876543210fedcba9876543210";
    let file = owner.dir.path().join("token");
    std::fs::write(owner.dir.path().join("next"), next).unwrap();
    std::fs::rename(owner.dir.path().join("next"), &file).unwrap();

    let status = async |token: &str| {
        ask(&router, Method::GET, "/metrics", Some(&format!("Bearer {token}")))
            .await
            .0
    };
    assert_eq!(status(TOKEN).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(next).await, StatusCode::OK);

    // A token that is none lets nobody in, least of all whoever sends none.
    for broken in ["", "\n", "short"] {
        std::fs::write(&file, broken).unwrap();
        assert_eq!(
            status(broken.trim()).await,
            StatusCode::SERVICE_UNAVAILABLE,
            "{broken:?}"
        );
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(status(next).await, StatusCode::SERVICE_UNAVAILABLE);
}

async fn poll(router: &Router, after: u64) -> (String, Duration) {
    let request = Request::get(format!("/report?after={after}")).header("authorization", format!("Bearer {TOKEN}"));
    let began = Instant::now();
    let response = within(router.clone().oneshot(request.body(Body::empty()).unwrap()))
        .await
        .unwrap();
    let version = response.headers()[REPORT_VERSION_HEADER].to_str().unwrap().to_owned();
    (version, began.elapsed())
}

#[tokio::test]
async fn a_waiting_request_is_answered_by_a_change() {
    let owner = Owner::new();
    let answer_interval_min = Duration::from_millis(40);
    let router = router(
        owner.sources.clone(),
        HttpOptions {
            answer_interval_min,
            ..owner.options()
        },
    );

    // What the caller has not seen is answered, but not faster than the interval.
    let (version, waited) = poll(&router, 4).await;
    assert_eq!(version, "5");
    assert!(waited >= answer_interval_min, "{waited:?}");

    // What it has seen makes it wait: one handle of the report more is held by the request.
    let waiting = tokio::spawn({
        let router = router.clone();
        async move { poll(&router, 5).await.0 }
    });
    let idle = owner.report.receiver_count();
    within(async {
        while owner.report.receiver_count() <= idle {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!waiting.is_finished());
    owner
        .report
        .send(Report {
            version: 6,
            json: Bytes::from_static(b"{}"),
        })
        .unwrap();
    assert_eq!(within(waiting).await.unwrap(), "6");
}

#[tokio::test]
async fn a_waiting_request_is_answered_in_the_end() {
    let owner = Owner::new();
    let answer_wait_max = Duration::from_millis(40);
    let router = router(
        owner.sources.clone(),
        HttpOptions {
            answer_wait_max,
            ..owner.options()
        },
    );

    let (version, waited) = poll(&router, 5).await;

    assert_eq!(version, "5");
    assert!(waited >= answer_wait_max, "{waited:?}");
}

#[tokio::test]
async fn the_port_speaks_tls_and_asks_for_no_certificate() {
    let job = Job::new();
    let owner = Owner::new();
    let files = job.leaf("driver", Role::Driver, "driver-1");
    let wall = Wall::Tls(Arc::new(ServerTls::server_only(files.clone())));
    let listening = Listening::start(wall, TransportLimits::http(), owner.router()).await;

    for (authorization, status) in [
        (String::new(), "401"),
        (format!("authorization: Bearer {TOKEN}\r\n"), "200"),
    ] {
        let stream = within(stranger(listening.address, &files.ca, None, Role::Driver))
            .await
            .unwrap();
        let answer = exchange(stream, &authorization).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let plain = TcpStream::connect(listening.address).await.unwrap();
    assert!(!exchange(plain, "").await.contains("HTTP"));
}

#[tokio::test]
async fn plaintext_is_for_those_who_ask_for_it() {
    let owner = Owner::new();
    let listening = Listening::start(Wall::Plaintext, TransportLimits::http(), owner.router()).await;
    let stream = TcpStream::connect(listening.address).await.unwrap();
    let answer = exchange(stream, &format!("authorization: Bearer {TOKEN}\r\n")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("trireme_tasks 1\n"),
        "{answer}"
    );
}

async fn exchange(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, headers: &str) -> String {
    let request = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A refused connection may end in an error; what it said before is what counts.
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}
