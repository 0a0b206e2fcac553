//! The API as Kubernetes knows it: group `trireme.dev`, version `v1alpha1`.
//!
//! What people write (`spec`) is `trireme_spec`'s, shared with the engine; here is what only a cluster has: the status, and
//! the definitions that make the API server check and serve both.

pub mod batch_job;
pub mod condition;
pub mod crd;
pub mod numbers;
pub mod status;
