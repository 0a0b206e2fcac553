//! A job's own certificate authority.
//!
//! Owns a key that is in none of the job's processes. Where driver and workers are started by one command, it lives in that
//! command's memory; on a cluster the operator keeps it, sealed in an object that no pod mounts as a whole.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};

use crate::identity::Identity;

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
        let params = of_authority(job, now);
        let certificate_pem = params.self_signed(&key).map_err(make)?.pem();
        Ok(Self {
            job: job.to_owned(),
            certificate_pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority of `job` whose certificate and key were kept as PEM.
    pub fn restore(job: &str, certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem).map_err(|source| AuthorityError::Make {
            what: "the job's certificate authority from its key",
            source,
        })?;
        // A leaf takes the authority's name and key from here; its dates are those of the certificate that was kept.
        let params = of_authority(job, SystemTime::UNIX_EPOCH);
        Ok(Self {
            job: job.to_owned(),
            certificate_pem: certificate_pem.to_owned(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The private key, PKCS#8 PEM, for whoever keeps the authority beyond this process. A secret: never logged.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
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

fn of_authority(job: &str, now: SystemTime) -> CertificateParams {
    let mut params = dated(now, AUTHORITY_VALIDITY);
    params
        .distinguished_name
        .push(DnType::CommonName, common_name(&format!("trireme job {job}")));
    // Path length 0: this authority signs leaves and can make no further authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
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

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;
    use crate::identity::{Role, peer_identity};

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
    fn an_authority_that_was_kept_signs_what_the_first_one_did() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let first = JobAuthority::generate("revenue", now).unwrap();
        let second = JobAuthority::restore("revenue", first.certificate_pem(), &first.key_pem()).unwrap();
        let identity = Identity::new(Role::Driver, "revenue", "driver").unwrap();
        let leaf = second.issue(&identity, now, LEAF_VALIDITY).unwrap();
        let authority = CertificateDer::from_pem_slice(first.certificate_pem().as_bytes()).unwrap();
        let leaf = CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).unwrap();
        let (_, authority) = X509Certificate::from_der(&authority).unwrap();
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        assert_eq!(leaf.issuer(), authority.subject());
        assert!(JobAuthority::restore("revenue", first.certificate_pem(), "no key").is_err());
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
