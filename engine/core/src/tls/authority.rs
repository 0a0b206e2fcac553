//! A job's own certificate authority.
//!
//! Owns a key that lives in this process's memory only: it is never written, and what it signed is all that leaves. Used
//! where driver and workers are started by one command; on a cluster the control plane holds the authority instead.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};

use super::files::TlsFiles;
use super::identity::Identity;

/// How long a leaf is good for unless told otherwise.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);

/// Certificates begin in the past, because another machine's clock may be behind ours.
const BACKDATED: Duration = Duration::from_secs(10 * 60);

/// The authority ends with the process that holds it, which no clock bounds; ten years outlives any job.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Why a certificate could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Key or certificate generation failed.
    #[error("cannot make {what}")]
    Make {
        /// The thing in the making.
        what: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
    /// An authority speaks for one job.
    #[error("the authority of job {job:?} cannot issue a certificate for {identity}")]
    OtherJob {
        /// The authority's job.
        job: String,
        /// Who was to be certified.
        identity: Identity,
    },
    /// The files could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Signs the leaves of one job.
pub struct JobAuthority {
    job: String,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Leaf {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its private key, PKCS#8 PEM. A secret: never logged.
    pub key_pem: String,
}

impl JobAuthority {
    /// A new authority for `job`, with a fresh ECDSA P-256 key.
    pub fn generate(job: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let make = |source| AuthorityError::Make {
            what: "the job's certificate authority",
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
        let mut params = dated(now, AUTHORITY_VALIDITY);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name(&format!("trireme job {job}")));
        // Path length 0: this authority signs leaves and can make no further authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(make)?.pem();
        Ok(Self {
            job: job.to_owned(),
            certificate_pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority's own certificate, PEM: what the job's processes trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A leaf for `identity`, good from ten minutes before `now` until `validity` after it.
    pub fn issue(&self, identity: &Identity, now: SystemTime, validity: Duration) -> Result<Leaf, AuthorityError> {
        if identity.job() != self.job {
            return Err(AuthorityError::OtherJob {
                job: self.job.clone(),
                identity: identity.clone(),
            });
        }
        let make = |source| AuthorityError::Make {
            what: "a certificate",
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
        let mut params = dated(now, validity);
        params
            .distinguished_name
            .push(DnType::CommonName, identity.role().dns_name());
        params.subject_alt_names = vec![
            SanType::URI(identity.uri().try_into().map_err(make)?),
            SanType::DnsName(identity.role().dns_name().try_into().map_err(make)?),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Both ways: a worker serves shuffles and dials other workers with the same leaf.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(Leaf {
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Writes `ca.crt`, `tls.crt` and `tls.key` into `dir` (made if missing, for its owner only), each by rename, so that
    /// no reader sees half a file. The key is readable by its owner only, from its first byte.
    pub fn write_files(&self, dir: &Path, leaf: &Leaf) -> Result<TlsFiles, AuthorityError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| AuthorityError::Write {
                path: dir.to_owned(),
                source,
            })?;
        let files = TlsFiles::in_dir(dir);
        for (path, content, mode) in [
            (&files.ca, &self.certificate_pem, 0o644),
            (&files.cert, &leaf.cert_pem, 0o644),
            (&files.key, &leaf.key_pem, 0o600),
        ] {
            replace(path, content.as_bytes(), mode).map_err(|source| AuthorityError::Write {
                path: path.clone(),
                source,
            })?;
        }
        Ok(files)
    }
}

impl fmt::Debug for JobAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobAuthority")
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

fn dated(now: SystemTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + validity).into();
    params
}

/// X.509 bounds a common name at 64 characters; nothing reads it but people.
fn common_name(text: &str) -> String {
    text.chars().take(64).collect()
}

fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    // One left behind by a crash might have another mode, which `mode` below would not change.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(content)?;
    drop(file);
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::super::identity::{Role, peer_identity};
    use super::*;

    #[test]
    fn a_leaf_carries_its_identity_and_its_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let authority = JobAuthority::generate("revenue", now).unwrap();
        let identity = Identity::new(Role::Worker, "revenue", "w1").unwrap();

        let leaf = authority.issue(&identity, now, Duration::from_secs(3600)).unwrap();

        let der = CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).unwrap();
        assert_eq!(peer_identity(Some(std::slice::from_ref(&der))), Ok(identity));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.validity().not_before.timestamp(), 2_000_000_000 - 600);
        assert_eq!(certificate.validity().not_after.timestamp(), 2_000_000_000 + 3600);
        assert!(!certificate.is_ca());
    }

    #[test]
    fn an_authority_speaks_for_its_own_job_only() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let authority = JobAuthority::generate("revenue", now).unwrap();
        let stranger = Identity::new(Role::Driver, "other", "driver").unwrap();
        let error = authority.issue(&stranger, now, LEAF_VALIDITY).unwrap_err();
        assert!(matches!(error, AuthorityError::OtherJob { .. }), "{error}");
    }

    #[test]
    fn files_are_replaced_whole_and_the_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority = JobAuthority::generate("revenue", now).unwrap();
        let identity = Identity::new(Role::Worker, "revenue", "w1").unwrap();

        for _ in 0..2 {
            let leaf = authority.issue(&identity, now, LEAF_VALIDITY).unwrap();
            let files = authority.write_files(&dir.path().join("tls"), &leaf).unwrap();

            assert_eq!(fs::read_to_string(&files.cert).unwrap(), leaf.cert_pem);
            assert_eq!(fs::read_to_string(&files.key).unwrap(), leaf.key_pem);
            assert_eq!(fs::read_to_string(&files.ca).unwrap(), authority.certificate_pem());
            assert_eq!(fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(
                fs::read_dir(dir.path().join("tls")).unwrap().count(),
                3,
                "no temporary file stays"
            );
        }
    }

    #[test]
    fn debug_output_shows_no_key() {
        let now = SystemTime::now();
        let authority = JobAuthority::generate("revenue", now).unwrap();
        let leaf = authority
            .issue(
                &Identity::new(Role::Worker, "revenue", "w1").unwrap(),
                now,
                LEAF_VALIDITY,
            )
            .unwrap();
        assert!(!format!("{authority:?} {leaf:?}").contains("PRIVATE"));
    }
}
