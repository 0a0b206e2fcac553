//! Connections to the data ports of workers, kept open between fetches.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::client::BallistaClient;
use ballista_core::client_pool::{BallistaClientPool, PooledClient};
use ballista_core::error::Result;
use ballista_core::extension::{BallistaConfigGrpcEndpoint, EndpointOverrideFn};
use ballista_core::utils::GrpcClientConfig;
use parking_lot::Mutex;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use trireme_core::tls::{Role, TlsFiles};
use trireme_spec::limits::Limits;

/// Idle connections kept for each peer: as many as a task fetches blocks of one peer at a time.
const IDLE_PER_PEER_MAX: usize = 4;

/// A connection idle for longer is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A worker that does not accept a connection, or does not get through the handshake on it, within this time is taken for
/// unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that has been quiet for so long is asked whether its peer is there. Who only reads from a machine that vanished
/// would wait for ever: nothing it sends is refused, because it sends nothing.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A peer that does not answer that in so long is gone: as long as the driver takes to give a silent worker up. Less would cut
/// off readers whose threads are all computing, among which the answer is waited for.
const KEEPALIVE_TIMEOUT: Duration = Limits::DEFAULT.worker_silence_max.get();

type Peer = (String, u16);

/// A pool of connections. The TLS settings come with each request, from the session.
#[derive(Clone, Default)]
pub struct ClientPool {
    idle: Arc<Mutex<HashMap<Peer, Vec<Idle>>>>,
}

struct Idle {
    client: BallistaClient,
    since: Instant,
}

impl fmt::Debug for ClientPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientPool")
            .field("peers", &self.idle.lock().len())
            .finish()
    }
}

impl ClientPool {
    fn take(&self, peer: &Peer) -> Option<BallistaClient> {
        let mut idle = self.idle.lock();
        let clients = idle.get_mut(peer)?;
        clients.retain(|idle| idle.since.elapsed() < IDLE_MAX);
        clients.pop().map(|idle| idle.client)
    }

    fn give_back(&self, peer: Peer, client: BallistaClient) {
        let mut idle = self.idle.lock();
        // Peers that left leave an entry behind; this is where it goes.
        idle.retain(|_, clients| clients.iter().any(|idle| idle.since.elapsed() < IDLE_MAX));
        let clients = idle.entry(peer).or_default();
        if clients.len() < IDLE_PER_PEER_MAX {
            clients.push(Idle {
                client,
                since: Instant::now(),
            });
        }
    }
}

#[async_trait]
impl BallistaClientPool for ClientPool {
    async fn acquire(
        &self,
        host: &str,
        port: u16,
        config: &GrpcClientConfig,
        endpoint: Option<Arc<BallistaConfigGrpcEndpoint>>,
    ) -> Result<PooledClient> {
        let peer = (host.to_owned(), port);
        let client = match self.take(&peer) {
            Some(client) => client,
            None => {
                BallistaClient::try_new(
                    host,
                    port,
                    config.max_message_size,
                    config.use_tls,
                    endpoint,
                    config.io_retries_times,
                    config.io_retry_wait_time_ms,
                    config.initial_connection_window_size,
                    config.initial_stream_window_size,
                )
                .await?
            }
        };
        let pool = self.clone();
        Ok(PooledClient::new(
            client,
            Box::new(move |client| pool.give_back(peer, client)),
        ))
    }

    async fn evict_idle(&self) {
        self.idle.lock().clear();
    }
}

/// Puts the job's TLS on a connection to a worker, from the files as they are when it is made, and sees to it that a worker that
/// is gone is noticed.
pub fn endpoint_tls(files: TlsFiles) -> EndpointOverrideFn {
    Arc::new(move |endpoint| {
        let (ca, cert, key) = (fs::read(&files.ca)?, fs::read(&files.cert)?, fs::read(&files.key)?);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .identity(Identity::from_pem(cert, key))
            .domain_name(Role::Worker.dns_name())
            // The other timeout ends where the handshake begins.
            .timeout(CONNECT_TIMEOUT);
        let endpoint = endpoint.tls_config(tls)?;
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    })
}
