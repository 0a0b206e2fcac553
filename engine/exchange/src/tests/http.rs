use std::time::Instant;

use ::http::{Method, Request, StatusCode};
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

use super::*;
use crate::http::{HttpOptions, HttpSources, REPORT_VERSION_HEADER, Report, WorkerLost, router};

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
                losses: None,
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

/// A driver that knows one worker, and as many words as it may take.
fn driver_of(worker: &'static str) -> (mpsc::Sender<WorkerLost>, tokio::task::JoinHandle<()>) {
    let (losses, mut told) = mpsc::channel(1);
    let driver = tokio::spawn(async move {
        while let Some(WorkerLost { name, known }) = told.recv().await {
            known.send(name == worker).unwrap();
        }
    });
    (losses, driver)
}

#[tokio::test]
async fn a_driver_is_told_of_workers_that_are_gone() {
    let owner = Owner::new();
    let (losses, driver) = driver_of("worker-1");
    let sources = HttpSources {
        losses: Some(losses),
        ..owner.sources.clone()
    };
    let of_driver = router(sources.clone(), owner.options());
    let good = format!("Bearer {TOKEN}");
    let table = [
        (
            Method::POST,
            "/workers/worker-1/lost",
            Some(&good),
            StatusCode::ACCEPTED,
        ),
        (
            Method::POST,
            "/workers/worker-1/lost",
            Some(&good),
            StatusCode::ACCEPTED,
        ),
        (
            Method::POST,
            "/workers/worker%2D1/lost",
            Some(&good),
            StatusCode::ACCEPTED,
        ),
        (
            Method::POST,
            "/workers/worker-2/lost",
            Some(&good),
            StatusCode::NOT_FOUND,
        ),
        (Method::POST, "/workers/worker-1/lost", None, StatusCode::UNAUTHORIZED),
        (
            Method::GET,
            "/workers/worker-1/lost",
            Some(&good),
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (Method::POST, "/workers//lost", Some(&good), StatusCode::NOT_FOUND),
        (Method::POST, "/workers/worker-1", Some(&good), StatusCode::NOT_FOUND),
    ];
    for (method, path, authorization, status) in table {
        let answer = ask(&of_driver, method.clone(), path, authorization.map(String::as_str)).await;
        assert_eq!(answer, (status, String::new()), "{method} {path}");
    }

    // A worker's port has no such path, and neither has one without a token.
    let path = "/workers/worker-1/lost";
    let without = router(sources, HttpOptions::new(None));
    for router in [owner.router(), without] {
        assert_eq!(
            ask(&router, Method::POST, path, Some(&good)).await.0,
            StatusCode::NOT_FOUND
        );
    }

    driver.abort();
    let _ = driver.await;
    let ending = ask(&of_driver, Method::POST, path, Some(&good)).await;
    assert_eq!(ending.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_word_of_a_lost_worker_is_answered_without_its_body() {
    let owner = Owner::new();
    let (losses, _driver) = driver_of("worker-1");
    let sources = HttpSources {
        losses: Some(losses),
        ..owner.sources.clone()
    };
    let router = router(sources, owner.options());
    let listening = Listening::start(Wall::Plaintext, TransportLimits::http(), router).await;
    let mut stream = TcpStream::connect(listening.address).await.unwrap();
    let head = format!(
        "POST /workers/worker-1/lost HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         content-length: 1000000000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The connection is closed, because what would follow is of no interest.
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
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

/// Probes go on when a rotation goes wrong: to restart the process would mend no file.
#[tokio::test]
async fn the_port_goes_on_with_its_certificate_when_the_files_are_gone() {
    let job = Job::new();
    let owner = Owner::new();
    let files = job.leaf("driver", Role::Driver, "driver-1");
    let authority = job.leaf("other", Role::Driver, "driver-2").ca;
    let listen = async || {
        let wall = Wall::Tls(Arc::new(ServerTls::server_only(files.clone())));
        Listening::start(wall, TransportLimits::http(), owner.router()).await
    };
    let listening = listen().await;
    let ask = async |listening: &Listening| {
        let stream = within(stranger(listening.address, &authority, None, Role::Driver)).await;
        Some(exchange(stream.ok()?, "").await)
    };
    assert!(ask(&listening).await.unwrap().starts_with("HTTP/1.1 401"));
    std::fs::remove_file(&files.key).unwrap();
    assert!(ask(&listening).await.unwrap().starts_with("HTTP/1.1 401"));
    // One that never had any has nothing to go on with.
    let late = listen().await;
    assert_eq!(ask(&late).await, None);
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
