use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{Request, StatusCode};
use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};
use trireme_core::tls::peer_identity;

use super::*;
use crate::connect::{ConnectError, DialError};
use crate::serve::Peer;

/// Tells each caller who it is, and counts them.
fn whoami() -> (Router, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let answer = move |Extension(peer): Extension<Peer>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            peer.identity
                .map_or("nobody".to_owned(), |identity| identity.to_string())
        }
    };
    (Router::new().route("/", get(answer)), calls)
}

async fn ask(channel: &mut Channel) -> Result<String, String> {
    let request = Request::get("/").body(tonic::body::Body::empty()).unwrap();
    let ready = channel.ready().await.map_err(|error| chain(&error))?;
    let response = ready.call(request).await.map_err(|error| chain(&error))?;
    assert_eq!(response.status(), StatusCode::OK);
    let body = to_bytes(Body::new(response.into_body()), 1 << 20)
        .await
        .map_err(|error| chain(&error))?;
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let errors = std::iter::successors(Some(error), |&error| error.source());
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Waits for the end of a connection that must bring nothing, and returns how it ended.
async fn refused(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut received = Vec::new();
    let ended = within(stream.read_to_end(&mut received)).await;
    // Either an alert, which TLS turns into an error, or a plain end; never an answer.
    assert!(ended.is_err() || received.len() <= 7, "{ended:?} {received:?}");
}

#[tokio::test]
async fn mutual_tls_tells_the_server_who_calls() {
    let job = Job::new();
    let (router, _) = whoami();
    let listening = Listening::start(job.driver_wall(), TransportLimits::default(), router).await;

    let dialer = job.dialer(Role::Worker, "w1");
    let mut channel = within(dialer.connect(&listening.at(), Role::Driver)).await.unwrap();

    assert_eq!(within(ask(&mut channel)).await.unwrap(), "worker w1 of job revenue");
    let answer = "worker w1 of job revenue".len() as u64;
    assert!(dialer.counters.received() >= answer && dialer.counters.sent() > 0);
    assert!(listening.counters.sent() >= answer && listening.counters.received() > 0);
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused() {
    let job = Job::new();
    let (router, calls) = whoami();
    let listening = Listening::start(job.driver_wall(), TransportLimits::default(), router).await;
    let ca = job.leaf("w1", Role::Worker, "w1").ca;

    match stranger(listening.address, &ca, None, Role::Driver).await {
        Ok(stream) => refused(stream).await,
        Err(error) => assert!(error.to_string().contains("ertificate"), "{error}"),
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn another_jobs_process_is_refused_by_both_sides() {
    let (job, other) = (Job::new(), Job::new());
    let (router, calls) = whoami();
    let listening = Listening::start(job.driver_wall(), TransportLimits::default(), router).await;

    // It does not trust our driver.
    let distrusting = other.dialer(Role::Worker, "w1");
    let error = within(distrusting.connect(&listening.at(), Role::Driver))
        .await
        .unwrap_err();
    assert!(
        matches!(error.step(), Some(DialError::Handshake { .. })),
        "{}",
        chain(&error)
    );

    // Even if it did, our driver does not trust it.
    let foreign = other.leaf("w2", Role::Worker, "w2");
    let mixed = TlsFiles {
        ca: job.leaf("w1", Role::Worker, "w1").ca,
        ..foreign
    };
    let error = match within(dialer(mixed).connect(&listening.at(), Role::Driver)).await {
        Ok(mut channel) => within(ask(&mut channel)).await.unwrap_err(),
        Err(error) => chain(&error),
    };
    assert!(!error.is_empty());
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_wrong_role_is_refused_on_either_side() {
    let job = Job::new();
    let (router, calls) = whoami();
    let listening = Listening::start(job.driver_wall(), TransportLimits::default(), router).await;

    // A worker is expected, a driver is there.
    let error = within(job.dialer(Role::Driver, "d").connect(&listening.at(), Role::Worker))
        .await
        .unwrap_err();
    assert!(
        matches!(error.step(), Some(DialError::Handshake { role: Role::Worker, .. })),
        "{}",
        chain(&error)
    );

    // Drivers and workers may call, the operator may not.
    let error = match within(job.dialer(Role::Operator, "o").connect(&listening.at(), Role::Driver)).await {
        Ok(mut channel) => within(ask(&mut channel)).await.unwrap_err(),
        Err(error) => chain(&error),
    };
    assert!(!error.is_empty());
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn plaintext_is_refused_and_the_listener_goes_on() {
    let job = Job::new();
    let (router, _) = whoami();
    let listening = Listening::start(job.driver_wall(), TransportLimits::default(), router).await;

    for greeting in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(listening.address).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        refused(stream).await;
    }

    let mut channel = within(job.dialer(Role::Worker, "w1").connect(&listening.at(), Role::Driver))
        .await
        .unwrap();
    assert_eq!(within(ask(&mut channel)).await.unwrap(), "worker w1 of job revenue");
}

#[tokio::test]
async fn callers_that_say_nothing_hold_nobody_up_for_long() {
    let job = Job::new();
    let (router, _) = whoami();
    let handshake_timeout = Duration::from_millis(200);
    let limits = TransportLimits {
        handshakes_max: 2,
        handshake_timeout,
        ..TransportLimits::default()
    };
    let listening = Listening::start(job.driver_wall(), limits, router).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(listening.address).await.unwrap());
    }

    let mut channel = within(job.dialer(Role::Worker, "w1").connect(&listening.at(), Role::Driver))
        .await
        .unwrap();

    assert_eq!(within(ask(&mut channel)).await.unwrap(), "worker w1 of job revenue");
    for stream in silent {
        refused(stream).await;
    }
}

#[tokio::test]
async fn a_rotation_shows_in_the_next_connection_and_leaves_the_last_one_alone() {
    let job = Job::new();
    let (router, _) = whoami();
    let listening = Listening::start(job.driver_wall(), TransportLimits::default(), router).await;
    let dialer = dialer(job.leaf("worker", Role::Worker, "w1"));
    let mut old = within(dialer.connect(&listening.at(), Role::Driver)).await.unwrap();
    assert_eq!(within(ask(&mut old)).await.unwrap(), "worker w1 of job revenue");
    assert_eq!(server_instance(&job, &listening).await, "driver-1");

    job.leaf("worker", Role::Worker, "w2");
    job.leaf("driver", Role::Driver, "driver-2");

    let mut new = within(dialer.connect(&listening.at(), Role::Driver)).await.unwrap();
    assert_eq!(within(ask(&mut new)).await.unwrap(), "worker w2 of job revenue");
    assert_eq!(server_instance(&job, &listening).await, "driver-2");
    assert_eq!(within(ask(&mut old)).await.unwrap(), "worker w1 of job revenue");
}

async fn server_instance(job: &Job, listening: &Listening) -> String {
    let leaf = job.leaf("stranger", Role::Worker, "w9");
    let stream = within(stranger(listening.address, &leaf.ca, Some(&leaf), Role::Driver))
        .await
        .unwrap();
    peer_identity(stream.get_ref().1.peer_certificates())
        .unwrap()
        .instance()
        .to_owned()
}

#[tokio::test]
async fn addresses_and_absent_peers_say_what_is_wrong() {
    let job = Job::new();
    let dialer = job.dialer(Role::Worker, "w1");
    for address in ["", "nowhere", "user@host:1", "host:1/path", "host:1?x=1", "host:99999"] {
        let error = within(dialer.connect(address, Role::Driver)).await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Address { .. }),
            "{address}: {}",
            chain(&error)
        );
    }

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = within(dialer.connect(&free.to_string(), Role::Driver))
        .await
        .unwrap_err();
    assert!(matches!(error.step(), Some(DialError::Tcp { .. })), "{}", chain(&error));

    std::fs::remove_file(job.dir.path().join("w1/tls.key")).unwrap();
    let listening = Listening::start(job.driver_wall(), TransportLimits::default(), Router::new()).await;
    let error = within(dialer.connect(&listening.at(), Role::Driver)).await.unwrap_err();
    assert!(
        matches!(error.step(), Some(DialError::Files(_))) && chain(&error).contains("w1/tls.key"),
        "{}",
        chain(&error)
    );
}

/// A name may lead to a driver that is gone, to one of another job that has its address by now, and to the one we want.
#[tokio::test]
async fn of_several_addresses_the_one_that_lets_us_in_is_taken() {
    let (job, other) = (Job::new(), Job::new());
    let listen = async |job: &Job| Listening::start(job.driver_wall(), TransportLimits::default(), Router::new()).await;
    let (ours, theirs) = (listen(&job).await, listen(&other).await);
    // The kernel accepts for it, and nobody ever says anything.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let deaf = deaf.local_addr().map(|address| (address, deaf)).unwrap();
    let dialer = job.dialer(Role::Worker, "w1");

    for found in [
        vec![deaf.0, ours.address],
        vec![closed, theirs.address, deaf.0, ours.address],
        vec![ours.address, deaf.0],
    ] {
        let dialled = within(dialer.dial_any("driver:7070", found.clone(), Role::Driver)).await;
        assert!(dialled.is_ok(), "{found:?}: {:?}", dialled.err());
    }

    let refused = async |found| within(dialer.dial_any("driver:7070", found, Role::Driver)).await.err();
    let error = refused(vec![theirs.address, closed]).await;
    assert!(matches!(error, Some(DialError::Handshake { .. })), "{error:?}");
    let error = refused(Vec::new()).await;
    assert!(matches!(error, Some(DialError::Tcp { .. })), "{error:?}");
}

/// A handler that says that it has begun, and answers when told.
fn slow(begun: &Arc<Notify>, finish: &Arc<Notify>) -> Router {
    let (begun, finish) = (Arc::clone(begun), Arc::clone(finish));
    Router::new().route(
        "/",
        get(move || async move {
            begun.notify_one();
            finish.notified().await;
            "done"
        }),
    )
}

#[tokio::test]
async fn shutdown_lets_open_requests_end() {
    let job = Job::new();
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut listening = Listening::start(job.driver_wall(), TransportLimits::default(), slow(&begun, &finish)).await;
    let mut channel = within(job.dialer(Role::Worker, "w1").connect(&listening.at(), Role::Driver))
        .await
        .unwrap();
    let asked = tokio::spawn(async move { ask(&mut channel).await });
    within(begun.notified()).await;

    listening.shutdown.cancel();
    // The closed socket shows that the shutdown has begun, with the request still open.
    within(async { while TcpStream::connect(listening.address).await.is_ok() {} }).await;
    finish.notify_one();

    assert_eq!(within(asked).await.unwrap().unwrap(), "done");
    within(&mut listening.served).await.unwrap();
    assert!(
        TcpStream::connect(listening.address).await.is_err(),
        "the socket is closed"
    );
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_end() {
    let job = Job::new();
    let (begun, never) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let limits = TransportLimits {
        drain_timeout: Duration::from_millis(50),
        ..TransportLimits::default()
    };
    let mut listening = Listening::start(job.driver_wall(), limits, slow(&begun, &never)).await;
    let mut channel = within(job.dialer(Role::Worker, "w1").connect(&listening.at(), Role::Driver))
        .await
        .unwrap();
    let asked = tokio::spawn(async move { ask(&mut channel).await });
    within(begun.notified()).await;

    listening.shutdown.cancel();

    within(&mut listening.served).await.unwrap();
    within(asked).await.unwrap().unwrap_err();
}
