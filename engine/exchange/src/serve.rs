//! Listens: accepts, proves who is who, serves HTTP on what is left.
//!
//! Owns the accept loop and every connection it let in: they end with it. One listener is one task tree, so that ending
//! it leaves nothing behind. The loop itself cannot be stopped by anything that a caller does: handshakes run beside it,
//! are bounded in number and time, and fail alone. Never decides what a request may do, beyond the role that
//! a certificate shows; handlers find the [`Peer`] in the request's extensions.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use trireme_core::tls::{ALPN_H2, Identity, IdentityError, ServerTls, TlsError, peer_identity};

use crate::bytes_count::{ByteCounters, Counted};
use crate::limits::TransportLimits;

/// After an error of the listener itself (no file descriptors left, for instance), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What stands between a listener and the world.
#[derive(Clone, Debug)]
pub enum Wall {
    /// TLS 1.3, mutual or with a server's certificate only.
    Tls(Arc<ServerTls>),
    /// Nothing, HTTP/1.1 only: for a listener bound to the loopback whose handlers check a token themselves.
    Plaintext,
}

/// What a listener is made of, beside its socket and what it serves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Who gets through.
    pub wall: Wall,
    /// Its bounds.
    pub limits: TransportLimits,
    /// Where its bytes are counted.
    pub counters: Arc<ByteCounters>,
}

/// Who sent a request; in the extensions of each.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where from.
    pub address: SocketAddr,
    /// What its certificate says; always there behind mutual TLS, never elsewhere.
    pub identity: Option<Arc<Identity>>,
}

/// Serves `router` on `listener` until `shutdown`; then closes the socket, lets open requests end for
/// `limits.drain_timeout`, and cuts what is left. Dropping the future cuts everything at once.
pub async fn serve(listener: TcpListener, router: Router, options: ServeOptions, shutdown: CancellationToken) {
    let gate = Gate::new(&options.limits);
    let drain_timeout = options.limits.drain_timeout;
    let server = Arc::new(Server::new(router, options));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            (stream, address, pass) = gate.next(&listener) => {
                connections.spawn(Arc::clone(&server).connection(stream, address, pass, shutdown.clone()));
            }
        }
    }
    drop(listener);
    let drained = timeout(drain_timeout, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::debug!(
            connections = connections.len(),
            "cutting connections that did not end in time"
        );
    }
    connections.shutdown().await;
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}

/// Lets in as many as the limits permit.
struct Gate {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

/// A connection's place; given back when dropped.
struct Pass {
    handshake: OwnedSemaphorePermit,
    connection: OwnedSemaphorePermit,
}

impl Gate {
    fn new(limits: &TransportLimits) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes_max)),
        }
    }

    /// The next connection, once there is room for it. Safe to drop at any point: nothing accepted is lost.
    async fn next(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, Pass) {
        let pass = Pass {
            connection: permit(&self.connections).await,
            handshake: permit(&self.handshakes).await,
        };
        loop {
            match listener.accept().await {
                Ok((stream, address)) => return (stream, address, pass),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn permit(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore)
        .acquire_owned()
        .await
        .expect("the gate never closes its semaphores")
}

/// The peer went away before we got to it.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// Why a connection did not get through the wall.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("our own TLS files cannot be used")]
    Files(#[from] TlsError),
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the peer's certificate names nobody")]
    Identity(#[from] IdentityError),
    #[error("the handshake took too long")]
    Timeout,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection behind the wall.
struct Admitted {
    io: Box<dyn Io>,
    http2: bool,
    identity: Option<Arc<Identity>>,
}

/// What all connections of a listener share.
struct Server {
    router: Router,
    builder: Builder<TokioExecutor>,
    options: ServeOptions,
    /// What the last connection was made with, where certificates let nobody in.
    last: Mutex<Option<Arc<ServerConfig>>>,
}

impl Server {
    fn new(router: Router, options: ServeOptions) -> Self {
        let builder = protocol(&options.limits);
        Self {
            router,
            builder,
            options,
            last: Mutex::default(),
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        pass: Pass,
        shutdown: CancellationToken,
    ) {
        let Pass {
            handshake,
            connection: _connection,
        } = pass;
        let admitted = timeout(self.options.limits.handshake_timeout, self.admit(stream)).await;
        drop(handshake);
        match admitted.unwrap_or(Err(HandshakeError::Timeout)) {
            Ok(admitted) => self.serve(admitted, address, shutdown).await,
            // Ours to repair; everything else is the caller's, of whom there may be many.
            Err(HandshakeError::Files(error)) => tracing::warn!(%error, cause = cause(&error), "refusing connections"),
            Err(error) => tracing::debug!(%address, %error, cause = cause(&error), "refused a connection"),
        }
    }

    async fn admit(&self, stream: TcpStream) -> Result<Admitted, HandshakeError> {
        // Small messages of the control stream must not wait for more.
        stream.set_nodelay(true).map_err(HandshakeError::Handshake)?;
        let tls = match &self.options.wall {
            Wall::Tls(tls) => tls,
            Wall::Plaintext => {
                return Ok(Admitted {
                    io: Box::new(stream),
                    http2: false,
                    identity: None,
                });
            }
        };
        let stream = TlsAcceptor::from(self.tls_config(tls)?)
            .accept(stream)
            .await
            .map_err(HandshakeError::Handshake)?;
        let (_, session) = stream.get_ref();
        let identity = match tls.is_mutual() {
            true => Some(Arc::new(peer_identity(session.peer_certificates())?)),
            false => None,
        };
        let http2 = identity.is_some() || session.alpn_protocol() == Some(ALPN_H2);
        Ok(Admitted {
            io: Box::new(stream),
            http2,
            identity,
        })
    }

    /// For the next connection, by the files as they are now. While they cannot be used, a port whose certificates let nobody
    /// in goes on with the last ones: who fails its probes for them is restarted, which mends no file.
    fn tls_config(&self, tls: &ServerTls) -> Result<Arc<ServerConfig>, TlsError> {
        let config = tls.config();
        if tls.is_mutual() {
            return config;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match config {
            Ok(config) => {
                *last = Some(Arc::clone(&config));
                Ok(config)
            }
            Err(error) => {
                let Some(last) = &*last else { return Err(error) };
                tracing::warn!(%error, cause = cause(&error), "going on with the certificate before");
                Ok(Arc::clone(last))
            }
        }
    }

    async fn serve(&self, admitted: Admitted, address: SocketAddr, shutdown: CancellationToken) {
        let Admitted { io, http2, identity } = admitted;
        let peer = Peer { address, identity };
        let service = self.router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request
        });
        let io = TokioIo::new(Counted::new(io, Arc::clone(&self.options.counters)));
        // Told, not guessed from the first bytes: a caller that sends none would be waited for without end.
        let builder = if http2 {
            self.builder.clone().http2_only()
        } else {
            self.builder.clone().http1_only()
        };
        let mut connection = pin!(builder.serve_connection(io, TowerToHyperService::new(service)));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection ended badly");
        }
    }
}

fn protocol(limits: &TransportLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Also how long an idle connection is kept.
        .header_read_timeout(limits.keepalive_interval)
        .max_buf_size(limits.header_bytes_max as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(limits.frame_bytes)
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_bytes_max)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}
