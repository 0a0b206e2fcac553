//! What operator and engine share, and nothing else: the manifests that people write (specs, going down), the
//! reports that drivers send (facts, going up), the one shape of error that users see, ids, units and limits.
//!
//! Plain data over serde. This crate never opens a file or a socket, never reads a clock, and knows neither
//! Arrow nor DataFusion nor a Kubernetes client; so both planes can depend on it, and its rules are the same on a
//! laptop, in `trireme validate` and at admission.
//!
//! Reading order: [`manifest::read_manifest`] is the way in; [`batch_job`] says what a BatchJob is; [`problem`]
//! says how everything that goes wrong is told; [`report`] is what a running job says about itself.

pub mod batch_job;
pub mod duration;
pub mod error_code;
pub mod ids;
pub mod limits;
pub mod manifest;
pub mod pods;
pub mod problem;
pub mod quantity;
pub mod report;
pub mod schema;
pub mod secrets;
pub mod worker_status;
