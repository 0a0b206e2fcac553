//! Dials: finds a peer by address, makes sure that it has the role we came for, speaks HTTP/2 to it.
//!
//! Owns nothing after the channel is made. A channel that loses its connection dials again at its next request, through the
//! same path, and so by the certificate files and the addresses of its host as they are then. Never trusts a host name: the
//! address says where, the certificate says who. A name with several addresses is usual while one driver follows another,
//! and one of them may lead to a machine that is gone, so that they are tried beside each other (as in RFC 8305).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use trireme_core::tls::{ClientTls, Identity, IdentityError, Role, TlsError, peer_identity};

use crate::bytes_count::{ByteCounters, Counted};
use crate::limits::TransportLimits;

/// An address that has not answered for so long has company by the next one. The value of RFC 8305.
const HEAD_START: Duration = Duration::from_millis(250);

/// A name that leads to more addresses is no name of one process.
const ADDRESSES_MAX: usize = 16;

/// How to dial the job's own processes.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// Our certificate, and whom we trust.
    pub tls: Arc<ClientTls>,
    /// The bounds of each connection.
    pub limits: TransportLimits,
    /// Where bytes are counted.
    pub counters: Arc<ByteCounters>,
}

/// Why a peer could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not `host:port`.
    #[error("{address:?} is no address of the form host:port")]
    Address {
        /// What was given.
        address: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The dialling failed; the sources say where ([`DialError`] is among them unless it took too long).
    #[error("cannot connect to the {role} at {address}")]
    Dial {
        /// Where.
        address: String,
        /// Who was expected there.
        role: Role,
        /// Why not.
        source: tonic::transport::Error,
    },
}

impl ConnectError {
    /// The step that failed, when it was one of ours.
    pub fn step(&self) -> Option<&DialError> {
        let outer: &(dyn std::error::Error + 'static) = self;
        std::iter::successors(Some(outer), |&error| error.source()).find_map(|error| error.downcast_ref())
    }
}

/// The step of dialling that failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there, or the name is unknown.
    #[error("no connection to {address}")]
    Tcp {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Our own files.
    #[error("our own TLS files cannot be used")]
    Files(#[from] TlsError),
    /// The peer is not of the job, has another role, or speaks no TLS 1.3.
    #[error("the peer at {address} is not a {role} of this job")]
    Handshake {
        /// Where.
        address: String,
        /// Who was expected there.
        role: Role,
        /// Why not.
        source: io::Error,
    },
    /// The certificate is the job's and yet names nobody.
    #[error("the certificate of the peer at {address} names nobody")]
    Identity {
        /// Where.
        address: String,
        /// Why not.
        source: IdentityError,
    },
    /// The certificate's two names contradict each other.
    #[error("at {address} a {role} was expected, found {found}")]
    Role {
        /// Where.
        address: String,
        /// Who was expected there.
        role: Role,
        /// Who is there.
        found: Identity,
    },
}

impl Dialer {
    /// A channel to the process with `role` at `address` (`host:port`), connected. The peer checks our certificate after we
    /// have checked its own: if it refuses us, the first request says so.
    pub async fn connect(&self, address: &str, role: Role) -> Result<Channel, ConnectError> {
        let endpoint = self.endpoint(address, role)?;
        let dialer = self.clone();
        let connector = tower::service_fn(move |uri: Uri| {
            let dialer = dialer.clone();
            async move { dialer.dial(&uri, role).await }
        });
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|source| ConnectError::Dial {
                address: address.to_owned(),
                role,
                source,
            })
    }

    fn endpoint(&self, address: &str, role: Role) -> Result<Endpoint, ConnectError> {
        let invalid = |source: Box<dyn std::error::Error + Send + Sync>| ConnectError::Address {
            address: address.to_owned(),
            source,
        };
        // To tonic this is plaintext, because TLS is done in `dial`; the requests' origin says what it is.
        let uri: Uri = format!("http://{address}")
            .parse()
            .map_err(|error| invalid(Box::new(error)))?;
        if uri.port_u16().is_none() || uri.path() != "/" || uri.query().is_some() || address.contains('@') {
            return Err(invalid("it must have a host and a port, and nothing else".into()));
        }
        let origin: Uri = format!("https://{}", role.dns_name())
            .parse()
            .expect("the names of roles are valid in URIs");
        let limits = &self.limits;
        Ok(Endpoint::from(uri)
            .origin(origin)
            .connect_timeout(limits.connect_timeout)
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .max_frame_size(limits.frame_bytes)
            .http2_max_header_list_size(limits.header_bytes_max)
            .http2_keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout)
            .keep_alive_while_idle(true))
    }

    async fn dial(&self, uri: &Uri, role: Role) -> Result<Connection, DialError> {
        let address = uri.authority().map(ToString::to_string).unwrap_or_default();
        let found = lookup_host(&address).await;
        let found = found.map_err(|source| no_connection(&address, source))?;
        self.dial_any(&address, found.take(ADDRESSES_MAX).collect(), role).await
    }

    /// The first of `found`, which `host` has led to, that lets us in. Each has a head start before the next, but no more: one
    /// that is not there may say nothing for minutes.
    pub(crate) async fn dial_any(
        &self,
        host: &str,
        found: Vec<SocketAddr>,
        role: Role,
    ) -> Result<Connection, DialError> {
        let mut waiting = found.into_iter();
        let mut attempts = JoinSet::new();
        let mut refused = None;
        loop {
            let next = waiting.next();
            let is_last = next.is_none();
            if let Some(address) = next {
                let dialer = self.clone();
                attempts.spawn(async move { dialer.dial_one(address, role).await });
            }
            tokio::select! {
                ended = attempts.join_next() => match ended.map(settled) {
                    Some(Ok(connection)) => return Ok(connection),
                    Some(Err(error)) => {
                        tracing::debug!(host, %error, "an address did not let us in");
                        refused.get_or_insert(error);
                    }
                    None => {
                        let nowhere = || no_connection(host, io::Error::other("the name leads to no address"));
                        return Err(refused.unwrap_or_else(nowhere));
                    }
                },
                () = sleep(HEAD_START), if !is_last => {}
            }
        }
    }

    async fn dial_one(&self, address: SocketAddr, role: Role) -> Result<Connection, DialError> {
        let tcp = |source| no_connection(&address.to_string(), source);
        let stream = TcpStream::connect(address).await.map_err(tcp)?;
        stream.set_nodelay(true).map_err(tcp)?;
        let address = address.to_string();
        let stream = TlsConnector::from(self.tls.config()?)
            .connect(role.server_name(), stream)
            .await
            .map_err(|source| DialError::Handshake {
                address: address.clone(),
                role,
                source,
            })?;
        let (_, session) = stream.get_ref();
        let found = peer_identity(session.peer_certificates()).map_err(|source| DialError::Identity {
            address: address.clone(),
            source,
        })?;
        if found.role() != role {
            return Err(DialError::Role { address, role, found });
        }
        Ok(TokioIo::new(Counted::new(stream, Arc::clone(&self.counters))))
    }
}

/// A connection to a peer that has shown who it is.
type Connection = TokioIo<Counted<TlsStream<TcpStream>>>;

fn no_connection(address: &str, source: io::Error) -> DialError {
    DialError::Tcp {
        address: address.to_owned(),
        source,
    }
}

/// An attempt that panicked fails alone.
fn settled(ended: Result<Result<Connection, DialError>, JoinError>) -> Result<Connection, DialError> {
    ended.unwrap_or_else(|error| Err(no_connection("a peer", io::Error::other(error))))
}
