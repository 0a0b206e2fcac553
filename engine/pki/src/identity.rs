//! The name in a certificate.
//!
//! Owns its one spelling, `spiffe://trireme.internal/job/<job>/<role>/<instance>`, written and read here and nowhere else.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A Kubernetes object name has at most 253 bytes; names of jobs and pods are such names.
pub const PART_BYTES_MAX: usize = 253;

const PREFIX: &str = "spiffe://trireme.internal/job/";

/// What a process is to its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Plans, places tasks, commits.
    Driver,
    /// Runs tasks.
    Worker,
    /// Reads reports; belongs to the control plane.
    Operator,
}

impl Role {
    /// The role as it stands in names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Driver => "driver",
            Role::Worker => "worker",
            Role::Operator => "operator",
        }
    }

    /// The DNS name that every leaf of this role carries.
    pub const fn dns_name(self) -> &'static str {
        match self {
            Role::Driver => "driver.trireme.internal",
            Role::Worker => "worker.trireme.internal",
            Role::Operator => "operator.trireme.internal",
        }
    }

    /// What a client asks for when it dials this role: never the host, which says nothing about who answers.
    pub fn server_name(self) -> ServerName<'static> {
        ServerName::try_from(self.dns_name()).expect("the names of roles are valid DNS names")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match text {
            "driver" => Ok(Role::Driver),
            "worker" => Ok(Role::Worker),
            "operator" => Ok(Role::Operator),
            other => Err(IdentityError::Role { found: excerpt(other) }),
        }
    }
}

/// Who holds a certificate. Its parts are non-empty and made of letters, digits, `-`, `_` and `.`, so that no part
/// can pretend to be two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    role: Role,
    job: String,
    instance: String,
}

/// Why a name is none of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// A part is empty, too long, or has characters that could be taken for the URI's structure.
    #[error(
        "{part} name {found:?} must have 1 to {PART_BYTES_MAX} letters, digits, '-', '_' or '.', and not only dots"
    )]
    Part {
        /// `job` or `instance`.
        part: &'static str,
        /// The beginning of what was given.
        found: String,
    },
    /// No such role.
    #[error("unknown role {found:?}; roles are driver, worker, operator")]
    Role {
        /// The beginning of what was given.
        found: String,
    },
    /// The URI is not of our shape.
    #[error("{found:?} is not of the form {PREFIX}<job>/<role>/<instance>")]
    Uri {
        /// The beginning of what was given.
        found: String,
    },
    /// The peer sent no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The certificate is not X.509.
    #[error("the peer's certificate cannot be parsed: {reason}")]
    Certificate {
        /// The parser's words.
        reason: String,
    },
    /// A leaf of ours carries exactly one URI; with two it would be two people.
    #[error("the peer's certificate carries {count} URI names instead of one")]
    UriCount {
        /// How many there are.
        count: usize,
    },
}

impl Identity {
    /// A checked identity.
    pub fn new(role: Role, job: impl Into<String>, instance: impl Into<String>) -> Result<Self, IdentityError> {
        let identity = Self {
            role,
            job: job.into(),
            instance: instance.into(),
        };
        check_part("job", &identity.job)?;
        check_part("instance", &identity.instance)?;
        Ok(identity)
    }

    /// What the holder is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The job it belongs to.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Which of the job's processes (or, where one leaf serves a whole role, the role's group) it is.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The URI that stands in the certificate.
    pub fn uri(&self) -> String {
        format!("{PREFIX}{}/{}/{}", self.job, self.role, self.instance)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of job {}", self.role, self.instance, self.job)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let parts: Option<Vec<&str>> = uri.strip_prefix(PREFIX).map(|rest| rest.split('/').collect());
        match parts.as_deref() {
            Some([job, role, instance]) => Identity::new(role.parse()?, *job, *instance),
            _ => Err(IdentityError::Uri { found: excerpt(uri) }),
        }
    }
}

/// The identity in a peer's chain, leaf first. Says nothing about trust: the handshake has verified the chain.
pub fn peer_identity(chain: Option<&[CertificateDer<'_>]>) -> Result<Identity, IdentityError> {
    let leaf = chain.and_then(<[_]>::first).ok_or(IdentityError::NoCertificate)?;
    let unparsable = |reason: String| IdentityError::Certificate { reason };
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| unparsable(error.to_string()))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| unparsable(error.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => uri.parse(),
        other => Err(IdentityError::UriCount { count: other.len() }),
    }
}

fn check_part(part: &'static str, text: &str) -> Result<(), IdentityError> {
    let spelled = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let only_dots = text.bytes().all(|byte| byte == b'.');
    if spelled && !only_dots && text.len() <= PART_BYTES_MAX {
        return Ok(());
    }
    Err(IdentityError::Part {
        part,
        found: excerpt(text),
    })
}

/// Enough of a peer's text to recognise it, not enough to fill a log.
fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_uri() {
        for role in [Role::Driver, Role::Worker, Role::Operator] {
            let identity = Identity::new(role, "team-a.revenue", "worker-3").unwrap();
            assert_eq!(identity.uri().parse(), Ok(identity));
        }
        let identity = Identity::new(Role::Worker, "revenue", "w1").unwrap();
        assert_eq!(identity.uri(), "spiffe://trireme.internal/job/revenue/worker/w1");
    }

    #[test]
    fn names_that_could_be_taken_for_another_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a%2fb",
            "é",
            &"x".repeat(PART_BYTES_MAX + 1),
        ] {
            let job = Identity::new(Role::Worker, bad, "w1").unwrap_err();
            assert!(matches!(job, IdentityError::Part { part: "job", .. }), "{bad:?}: {job}");
            let instance = Identity::new(Role::Worker, "revenue", bad).unwrap_err();
            assert!(
                matches!(instance, IdentityError::Part { part: "instance", .. }),
                "{bad:?}: {instance}"
            );
        }
    }

    #[test]
    fn uris_of_another_shape_are_refused() {
        for bad in [
            "",
            "spiffe://trireme.internal/job/revenue/worker",
            "spiffe://trireme.internal/job/revenue/worker/w1/more",
            "spiffe://elsewhere/job/revenue/worker/w1",
            "https://trireme.internal/job/revenue/worker/w1",
        ] {
            assert!(
                matches!(bad.parse::<Identity>(), Err(IdentityError::Uri { .. })),
                "{bad}"
            );
        }
        let role = "spiffe://trireme.internal/job/revenue/king/w1".parse::<Identity>();
        assert_eq!(
            role,
            Err(IdentityError::Role {
                found: "king".to_owned()
            })
        );
    }
}
