//! What went wrong at a store, in the four ways that call for different actions.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};

use super::credentials::CredentialsError;

/// The address at which clouds serve a machine's identity; nobody answers there where no cloud is.
const METADATA_ADDRESS: &str = "169.254.169.254";

/// Who has to do something about a store's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// Nothing is there: check the location.
    NotFound,
    /// The store, or whoever hands out credentials for it, turned us away: check the credentials and their rights.
    Refused,
    /// No answer: check the endpoint and the network. Worth a retry later.
    Unreachable,
    /// Anything else.
    Other,
}

impl StoreFault {
    /// Reads a store's error down to its root.
    pub fn of(error: &object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => StoreFault::NotFound,
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                StoreFault::Refused
            }
            other => chain(other).find_map(of_cause).unwrap_or(StoreFault::Other),
        }
    }
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<StoreFault> {
    if cause.is::<CredentialsError>() {
        return Some(StoreFault::Refused);
    }
    // The outer error, which is met first, names the address; without keys the client looks for an identity there.
    if cause.to_string().contains(METADATA_ADDRESS) {
        return Some(StoreFault::Refused);
    }
    if let Some(fault) = of_answer(&cause.to_string()) {
        return Some(fault);
    }
    let http = cause.downcast_ref::<HttpError>()?;
    match http.kind() {
        HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Timeout | HttpErrorKind::Interrupted => {
            Some(StoreFault::Unreachable)
        }
        _ => None,
    }
}

/// What the server's answer says. Listing and completing an upload keep it in a type that the client does not show, so
/// only its text can be read.
fn of_answer(cause: &str) -> Option<StoreFault> {
    let answer = cause.strip_prefix("Server returned non-2xx status code: ")?;
    match answer.get(..3)? {
        "401" | "403" => Some(StoreFault::Refused),
        "404" => Some(StoreFault::NotFound),
        _ => None,
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn generic(source: impl Error + Send + Sync + 'static) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: Box::new(source),
        }
    }

    #[test]
    fn faults_by_what_lies_at_the_root() {
        let not_found = || Box::new(io::Error::from(io::ErrorKind::NotFound));
        let table = [
            (
                object_store::Error::NotFound {
                    path: "a".into(),
                    source: not_found(),
                },
                StoreFault::NotFound,
            ),
            (
                object_store::Error::PermissionDenied {
                    path: "a".into(),
                    source: not_found(),
                },
                StoreFault::Refused,
            ),
            (
                object_store::Error::Unauthenticated {
                    path: "a".into(),
                    source: not_found(),
                },
                StoreFault::Refused,
            ),
            (
                generic(CredentialsError::Content {
                    file: "access-key-id",
                    problem: "empty",
                }),
                StoreFault::Refused,
            ),
            (
                generic(io::Error::other("PUT http://169.254.169.254/latest/api/token")),
                StoreFault::Refused,
            ),
            (
                generic(HttpError::new(HttpErrorKind::Connect, *not_found())),
                StoreFault::Unreachable,
            ),
            (
                generic(HttpError::new(HttpErrorKind::Timeout, *not_found())),
                StoreFault::Unreachable,
            ),
            (
                generic(HttpError::new(HttpErrorKind::Decode, *not_found())),
                StoreFault::Other,
            ),
            (
                generic(io::Error::other(
                    "Server returned non-2xx status code: 403 Forbidden: <Error>",
                )),
                StoreFault::Refused,
            ),
            (
                generic(io::Error::other("Server returned non-2xx status code: 404 Not Found: ")),
                StoreFault::NotFound,
            ),
            (generic(*not_found()), StoreFault::Other),
        ];
        for (error, fault) in table {
            assert_eq!(StoreFault::of(&error), fault, "{error}");
        }
    }
}
