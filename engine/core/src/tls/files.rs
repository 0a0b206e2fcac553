//! TLS configurations made from files that may be replaced at any time.
//!
//! Owns turning `ca.crt`, `tls.crt` and `tls.key` into a rustls configuration for one connection. Open connections
//! keep what they were made with; a rotation shows in the next one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::reload::{Contents, ReadError, Reloading};
use trireme_pki::{Role, peer_identity};

/// The protocol name of HTTP/2 in the handshake.
pub const ALPN_H2: &[u8] = b"h2";

/// The protocol name of HTTP/1.1 in the handshake.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

const CA: usize = 0;
const CERT: usize = 1;
const KEY: usize = 2;

/// Named here and not taken from the process's default: a dependency may bring a second provider into the tree.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// Where a process finds its certificate, its key and whom it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The job's certificate authority, PEM.
    pub ca: PathBuf,
    /// The process's chain, leaf first, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

impl TlsFiles {
    /// `ca.crt`, `tls.crt` and `tls.key` in `dir`: the names of a Kubernetes TLS Secret.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            ca: dir.join("ca.crt"),
            cert: dir.join("tls.crt"),
            key: dir.join("tls.key"),
        }
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.ca.clone(), self.cert.clone(), self.key.clone()]
    }
}

/// Why files give no TLS configuration. Each names the file to look at.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or unreadable.
    #[error("TLS material is missing")]
    Read(#[from] ReadError),
    /// A file is not PEM, or holds nothing of the wanted kind.
    #[error("{} holds no readable {what}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// Why not.
        source: pem::Error,
    },
    /// The authority's certificate cannot be trusted in form.
    #[error("{} is not a usable certificate authority", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The authority's file gives no verifier.
    #[error("{} gives nothing to verify peers with", path.display())]
    Verifier {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: VerifierBuilderError,
    },
    /// The key is of no supported kind, or belongs to another certificate.
    #[error("{} does not go with {}", key.display(), cert.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The crypto provider cannot speak TLS 1.3.
    #[error("TLS 1.3 is not available")]
    Protocol(#[source] rustls::Error),
}

/// The listening side.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    clients: Clients,
    configs: Reloading<Arc<ServerConfig>>,
}

/// What the listener wants to know of its clients.
#[derive(Debug)]
enum Clients {
    /// A certificate of the job, in one of these roles.
    Certified(Vec<Role>),
    /// Nothing here: a bearer token is checked above TLS.
    Anonymous,
}

impl ServerTls {
    /// A wall of mutual TLS: only holders of a certificate of the job, in one of the `allowed` roles, get through.
    /// Speaks HTTP/2 only.
    pub fn mutual(files: TlsFiles, allowed: impl Into<Vec<Role>>) -> Self {
        let configs = Reloading::new(files.paths());
        Self {
            files,
            clients: Clients::Certified(allowed.into()),
            configs,
        }
    }

    /// TLS that proves the server only; whoever listens behind it checks its callers itself. Speaks HTTP/2 and HTTP/1.1.
    /// The authority's file is not read.
    pub fn server_only(files: TlsFiles) -> Self {
        let configs = Reloading::new(files.paths());
        Self {
            files,
            clients: Clients::Anonymous,
            configs,
        }
    }

    /// True when every peer that comes through has an identity.
    pub fn is_mutual(&self) -> bool {
        matches!(self.clients, Clients::Certified(_))
    }

    /// The configuration for the next connection, by the files as they are now.
    pub fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        Ok(Arc::clone(&*current(&self.configs, |contents| self.build(contents))?))
    }

    fn build(&self, contents: &Contents<'_>) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Protocol)?;
        let (builder, protocols) = match &self.clients {
            Clients::Certified(allowed) => {
                let chain =
                    WebPkiClientVerifier::builder_with_provider(roots(&self.files, contents)?, Arc::clone(&PROVIDER))
                        .build()
                        .map_err(|source| TlsError::Verifier {
                            path: self.files.ca.clone(),
                            source,
                        })?;
                let verifier = RoleVerifier {
                    chain,
                    allowed: allowed.clone(),
                };
                (
                    builder.with_client_cert_verifier(Arc::new(verifier)),
                    vec![ALPN_H2.to_vec()],
                )
            }
            Clients::Anonymous => (
                builder.with_no_client_auth(),
                vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()],
            ),
        };
        let (chain, key) = leaf(&self.files, contents)?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|source| pair(&self.files, source))?;
        config.alpn_protocols = protocols;
        // A resumed session would be let in on a certificate that has expired or lost its trust since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// The dialling side.
#[derive(Debug)]
pub struct ClientTls {
    files: TlsFiles,
    configs: Reloading<Arc<ClientConfig>>,
}

impl ClientTls {
    /// Presents the certificate in `files` and trusts only their authority.
    pub fn new(files: TlsFiles) -> Self {
        let configs = Reloading::new(files.paths());
        Self { files, configs }
    }

    /// The configuration for the next connection, by the files as they are now. The role to expect is the server name
    /// given to the handshake ([`Role::server_name`]).
    pub fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        Ok(Arc::clone(&*current(&self.configs, |contents| self.build(contents))?))
    }

    fn build(&self, contents: &Contents<'_>) -> Result<Arc<ClientConfig>, TlsError> {
        let roots = roots(&self.files, contents)?;
        let verifier: Arc<dyn ServerCertVerifier> =
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&PROVIDER))
                .build()
                .map_err(|source| TlsError::Verifier {
                    path: self.files.ca.clone(),
                    source,
                })?;
        let (chain, key) = leaf(&self.files, contents)?;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Protocol)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key)
            .map_err(|source| pair(&self.files, source))?;
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// A certificate and a key that do not match are most likely a rotation caught between two renames: the pair before is
/// still good, and the next connection looks again. Anything else wrong with the files refuses the connection.
fn current<T>(
    configs: &Reloading<T>,
    build: impl FnOnce(&Contents<'_>) -> Result<T, TlsError>,
) -> Result<Arc<T>, TlsError> {
    match configs.current(build) {
        Err(error @ TlsError::Pair { .. }) => match configs.last() {
            Some(previous) => {
                tracing::warn!(%error, "keeping the previous certificate");
                Ok(previous)
            }
            None => Err(error),
        },
        other => other,
    }
}

fn roots(files: &TlsFiles, contents: &Contents<'_>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca, contents.required(CA)?)? {
        roots.add(certificate).map_err(|source| TlsError::Authority {
            path: files.ca.clone(),
            source,
        })?;
    }
    Ok(Arc::new(roots))
}

fn leaf(
    files: &TlsFiles,
    contents: &Contents<'_>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(&files.cert, contents.required(CERT)?)?;
    let key = PrivateKeyDer::from_pem_slice(contents.required(KEY)?).map_err(|source| TlsError::Pem {
        path: files.key.clone(),
        what: "private key",
        source,
    })?;
    Ok((chain, key))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Pem {
        path: path.to_owned(),
        what: "certificate",
        source,
    };
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(unreadable(pem::Error::NoItemsFound));
    }
    Ok(chain)
}

fn pair(files: &TlsFiles, source: rustls::Error) -> TlsError {
    TlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    }
}

/// Verifies the chain as webpki does, then that the holder's role may call here.
#[derive(Debug)]
struct RoleVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    allowed: Vec<Role>,
}

#[derive(Debug, thiserror::Error)]
#[error("a {found} may not call here")]
struct RoleRefused {
    found: Role,
}

impl ClientCertVerifier for RoleVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let identity = peer_identity(Some(std::slice::from_ref(end_entity)))
            .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))))?;
        if self.allowed.contains(&identity.role()) {
            return Ok(verified);
        }
        let refused = RoleRefused { found: identity.role() };
        Err(CertificateError::Other(OtherError(Arc::new(refused))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;
    use std::time::SystemTime;

    use super::super::write::write_files;
    use super::*;
    use trireme_pki::Identity;
    use trireme_pki::{JobAuthority, LEAF_VALIDITY, Leaf};

    fn authority_and_leaf() -> (JobAuthority, Leaf) {
        let now = SystemTime::now();
        let authority = JobAuthority::generate("revenue", now).unwrap();
        let identity = Identity::new(Role::Worker, "revenue", "w1").unwrap();
        let leaf = authority.issue(&identity, now, LEAF_VALIDITY).unwrap();
        (authority, leaf)
    }

    #[test]
    fn errors_name_the_file_and_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (authority, leaf) = authority_and_leaf();
        let files = write_files(dir.path(), &authority, &leaf).unwrap();

        let broken = |path: &Path, content: Option<&str>| {
            let kept = fs::read(path).unwrap();
            match content {
                Some(content) => fs::write(path, content).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
            let error = ClientTls::new(files.clone()).config().unwrap_err();
            fs::write(path, kept).unwrap();
            let text = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            assert!(text.contains(&path.display().to_string()), "{text}");
            error
        };

        assert!(matches!(broken(&files.ca, None), TlsError::Read(_)));
        assert!(matches!(
            broken(&files.cert, Some("nothing here")),
            TlsError::Pem {
                what: "certificate",
                ..
            }
        ));
        assert!(matches!(
            broken(&files.key, Some("nothing here")),
            TlsError::Pem {
                what: "private key",
                ..
            }
        ));
        let (_, other) = authority_and_leaf();
        assert!(matches!(
            broken(&files.key, Some(&other.key_pem)),
            TlsError::Pair { .. }
        ));
        ClientTls::new(files.clone())
            .config()
            .expect("the files are whole again");
    }

    #[test]
    fn a_rotation_caught_between_two_renames_keeps_the_pair_before() {
        let dir = tempfile::tempdir().unwrap();
        let (authority, leaf) = authority_and_leaf();
        let files = write_files(dir.path(), &authority, &leaf).unwrap();
        let tls = ServerTls::mutual(files.clone(), [Role::Worker]);
        let before = tls.config().unwrap();

        let (_, next) = authority_and_leaf();
        fs::write(&files.cert, &next.cert_pem).unwrap();
        assert!(Arc::ptr_eq(&before, &tls.config().unwrap()));

        fs::write(&files.key, &next.key_pem).unwrap();
        assert!(!Arc::ptr_eq(&before, &tls.config().unwrap()));
    }

    #[test]
    fn a_vanished_authority_is_no_longer_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let (authority, leaf) = authority_and_leaf();
        let files = write_files(dir.path(), &authority, &leaf).unwrap();
        let tls = ServerTls::mutual(files.clone(), [Role::Worker]);
        tls.config().unwrap();

        fs::remove_file(&files.ca).unwrap();
        assert!(matches!(tls.config(), Err(TlsError::Read(_))));
    }

    #[test]
    fn a_server_that_asks_for_no_certificate_needs_no_authority() {
        let dir = tempfile::tempdir().unwrap();
        let (authority, leaf) = authority_and_leaf();
        let files = write_files(dir.path(), &authority, &leaf).unwrap();
        fs::remove_file(&files.ca).unwrap();
        assert!(
            !ServerTls::server_only(files)
                .config()
                .unwrap()
                .alpn_protocols
                .is_empty()
        );
    }
}
