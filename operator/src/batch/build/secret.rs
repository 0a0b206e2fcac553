//! The one Secret of a job: its manifest, its certificates, the token of its driver's http port, and the key of its authority,
//! which no pod mounts.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use trireme_pki::{AuthorityError, Identity, IdentityError, JobAuthority, LEAF_VALIDITY, Role};
use trireme_spec::batch_job::{API_VERSION, BatchJobSpec};
use x509_parser::pem::parse_x509_pem;

use super::{Settings, metadata};
use crate::batch::validate::ValidJob;
use crate::names::{self, RUN_ANNOTATION, secret_key};

/// A leaf is made anew when a third of its time is left: whoever holds it has hours to notice.
const RENEW_BEFORE: Duration = Duration::from_secs(LEAF_VALIDITY.as_secs() / 3);

/// Why there is no Secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot make the job's certificates")]
    Certificate(#[from] AuthorityError),
    #[error("the job's name does not fit into a certificate")]
    Identity(#[from] IdentityError),
}

/// What the operator itself needs of a job's Secret, to read the driver's report.
#[derive(Clone, PartialEq, Eq)]
pub struct JobSecret {
    pub ca_pem: String,
    pub token: String,
    pub run: Option<String>,
}

impl JobSecret {
    /// Reads it; `None` if a part is missing, which somebody else must have taken away.
    pub fn read(secret: &Secret) -> Option<JobSecret> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        let annotations = secret.metadata.annotations.as_ref();
        Some(JobSecret {
            ca_pem: text(secret_key::CA)?,
            token: text(secret_key::TOKEN)?,
            run: annotations
                .and_then(|annotations| annotations.get(RUN_ANNOTATION))
                .cloned(),
        })
    }
}

impl fmt::Debug for JobSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSecret")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

/// A new Secret for the run of `job`. `sql` goes in place of a ConfigMap that the spec names; `token` is of the caller's chance.
///
/// # Errors
/// A name that fits into no certificate.
pub fn secret(
    job: &ValidJob,
    settings: &Settings,
    sql: Option<String>,
    token: String,
    now: SystemTime,
) -> Result<Secret, SecretError> {
    let authority = JobAuthority::generate(&job.key.name, now)?;
    let mut data = leaves(job, &authority, now)?;
    for (key, text) in [
        (secret_key::JOB, manifest(job, settings, sql)),
        (secret_key::TOKEN, token),
        (secret_key::CA, authority.certificate_pem().to_owned()),
        (secret_key::CA_KEY, authority.key_pem()),
    ] {
        data.insert(key.to_owned(), ByteString(text.into_bytes()));
    }
    let mut metadata = metadata(job, names::secret(&job.key.name), None);
    metadata.annotations = Some(BTreeMap::from([(RUN_ANNOTATION.to_owned(), job.run.clone())]));
    Ok(Secret {
        metadata,
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}

/// `secret` with new leaves, if the old ones are near their end; `None` if they are not, or if the Secret is no more whole.
///
/// # Errors
/// As [`secret`].
pub fn renewed(job: &ValidJob, secret: &Secret, now: SystemTime) -> Result<Option<Secret>, SecretError> {
    let text = |key: &str| {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        std::str::from_utf8(bytes).ok()
    };
    let (Some(ca), Some(key), Some(leaf)) = (text(secret_key::CA), text(secret_key::CA_KEY), text(secret_key::DRIVER))
    else {
        return Ok(None);
    };
    if expiry(leaf).is_some_and(|expiry| expiry > now + RENEW_BEFORE) {
        return Ok(None);
    }
    let authority = JobAuthority::restore(&job.key.name, ca, key)?;
    let mut secret = secret.clone();
    secret
        .data
        .get_or_insert_default()
        .extend(leaves(job, &authority, now)?);
    Ok(Some(secret))
}

fn expiry(certificate_pem: &str) -> Option<SystemTime> {
    let (_, pem) = parse_x509_pem(certificate_pem.as_bytes()).ok()?;
    let seconds = pem.parse_x509().ok()?.validity().not_after.timestamp();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn leaves(
    job: &ValidJob,
    authority: &JobAuthority,
    now: SystemTime,
) -> Result<BTreeMap<String, ByteString>, SecretError> {
    let mut data = BTreeMap::new();
    for (role, instance, certificate, key) in [
        (Role::Driver, "driver", secret_key::DRIVER, secret_key::DRIVER_KEY),
        (Role::Worker, "executor", secret_key::EXECUTOR, secret_key::EXECUTOR_KEY),
    ] {
        let identity = Identity::new(role, &*job.key.name, instance)?;
        let leaf = authority.issue(&identity, now, LEAF_VALIDITY)?;
        data.insert(certificate.to_owned(), ByteString(leaf.cert_pem.into_bytes()));
        data.insert(key.to_owned(), ByteString(leaf.key_pem.into_bytes()));
    }
    Ok(data)
}

/// The manifest as the driver reads it.
fn manifest(job: &ValidJob, settings: &Settings, sql: Option<String>) -> String {
    let mut spec = BatchJobSpec {
        // Nothing in a pod may depend on these, and a template may be long.
        pod_template: None,
        ..job.spec.clone()
    };
    spec.driver.pod_template = None;
    spec.executors.pod_template = None;
    spec.storage = storage(job, settings);
    if let Some(sql) = sql {
        spec.sql = Some(sql);
        spec.sql_from = None;
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": "BatchJob",
        "metadata": { "name": job.key.name, "namespace": job.key.namespace },
        "spec": spec,
    })
    .to_string()
}

/// Where the job keeps its journal: where it says, or in a folder of its own below the cluster's.
fn storage(job: &ValidJob, settings: &Settings) -> Option<String> {
    job.spec.storage.clone().or_else(|| {
        let root = settings.storage.as_ref()?.trim_end_matches('/');
        Some(format!("{root}/{}/{}", job.key.namespace, job.key.name))
    })
}
