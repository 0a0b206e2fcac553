//! What is inside an error, whatever it is wrapped in.
//!
//! `Error::source` alone does not find everything: Ballista's errors name no source, an `io::Error` or an `Arc` hands on that
//! of what it holds and skips the thing itself.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::sync::Arc;

use ballista_core::error::BallistaError;
use datafusion::common::DataFusionError;

/// `error` and its causes, outermost first.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |error| inner(*error))
}

fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<BallistaError>() {
        return match error {
            BallistaError::ArrowError(error) => Some(error.as_ref()),
            BallistaError::DataFusionError(error) => Some(error.as_ref()),
            BallistaError::SqlError(error) => Some(error),
            BallistaError::IoError(error) => Some(error),
            BallistaError::TonicError(error) => Some(error),
            BallistaError::GrpcError(error) => Some(error.as_ref()),
            BallistaError::TokioError(error) => Some(error),
            BallistaError::NotImplemented(_)
            | BallistaError::General(_)
            | BallistaError::Internal(_)
            | BallistaError::Configuration(_)
            | BallistaError::GrpcConnectionError(_)
            | BallistaError::GrpcActionError(_)
            | BallistaError::FetchFailed(..)
            | BallistaError::Cancelled => None,
        };
    }
    if let Some(shared) = error.downcast_ref::<Arc<DataFusionError>>() {
        return Some(shared.as_ref());
    }
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(held) => Some(held),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::error::ArrowError;

    #[derive(Debug, thiserror::Error)]
    #[error("the seed")]
    struct Seed;

    #[test]
    fn what_is_wrapped_is_found() {
        let external = |error: Box<dyn Error + Send + Sync>| DataFusionError::External(error);
        let ballista = |error| external(Box::new(BallistaError::DataFusionError(Box::new(error))));
        for error in [
            external(Box::new(Seed)),
            external(Box::new(Seed)).context("while sorting"),
            DataFusionError::Shared(Arc::new(external(Box::new(Seed)))),
            external(Box::new(Arc::new(external(Box::new(Seed))))),
            DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(Seed))), None),
            DataFusionError::IoError(io::Error::other(Seed)),
            ballista(external(Box::new(Seed))),
            ballista(DataFusionError::IoError(io::Error::other(external(Box::new(Seed))))),
        ] {
            assert!(chain(&error).any(|cause| cause.is::<Seed>()), "{error:?}");
        }
    }
}
