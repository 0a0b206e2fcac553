//! The control plane: the only place that knows Kubernetes. It turns Trireme's kinds into pods, keeps those running, and
//! says in each object's status how it goes.
//!
//! It computes nothing on data; what a driver or executor does is between them, and reaches this side as a report.

pub mod api;
pub mod args;
