//! Behaviour at real sockets on the loopback.

mod control;
mod http;
mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls};
use tokio_util::sync::CancellationToken;
use trireme_core::tls::{ClientTls, Identity, JobAuthority, LEAF_VALIDITY, Role, ServerTls, TlsFiles, write_files};

use crate::bytes_count::ByteCounters;
use crate::connect::Dialer;
use crate::limits::TransportLimits;
use crate::serve::{ServeOptions, Wall, serve};

/// No condition of these tests takes longer, however slow the machine; a test that hangs fails by name.
const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

/// A job with its own authority.
struct Job {
    dir: TempDir,
    authority: JobAuthority,
}

impl Job {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            authority: JobAuthority::generate("revenue", SystemTime::now()).unwrap(),
        }
    }

    /// Writes a fresh leaf into `folder`, replacing what is there.
    fn leaf(&self, folder: &str, role: Role, instance: &str) -> TlsFiles {
        let identity = Identity::new(role, "revenue", instance).unwrap();
        let leaf = self
            .authority
            .issue(&identity, SystemTime::now(), LEAF_VALIDITY)
            .unwrap();
        write_files(&self.dir.path().join(folder), &self.authority, &leaf).unwrap()
    }

    fn dialer(&self, role: Role, instance: &str) -> Dialer {
        dialer(self.leaf(instance, role, instance))
    }

    fn driver_wall(&self) -> Wall {
        let files = self.leaf("driver", Role::Driver, "driver-1");
        Wall::Tls(Arc::new(ServerTls::mutual(files, [Role::Driver, Role::Worker])))
    }
}

fn dialer(files: TlsFiles) -> Dialer {
    Dialer {
        tls: Arc::new(ClientTls::new(files)),
        limits: TransportLimits::default(),
        counters: Arc::default(),
    }
}

/// A listener, running.
struct Listening {
    address: SocketAddr,
    shutdown: CancellationToken,
    counters: Arc<ByteCounters>,
    served: JoinHandle<()>,
}

impl Listening {
    async fn start(wall: Wall, limits: TransportLimits, router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let counters = Arc::new(ByteCounters::default());
        let options = ServeOptions {
            wall,
            limits,
            counters: Arc::clone(&counters),
        };
        let served = tokio::spawn(serve(listener, router, options, shutdown.clone()));
        Self {
            address,
            shutdown,
            counters,
            served,
        }
    }

    fn at(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// A TLS client that is none of ours: it trusts `ca` and shows `leaf`, if any.
async fn stranger(
    address: SocketAddr,
    ca: &Path,
    leaf: Option<&TlsFiles>,
    role: Role,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match leaf {
        Some(files) => {
            let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(role.server_name(), stream)
        .await
}
