//! The control plane: the only place that knows Kubernetes. It turns Trireme's kinds into pods, keeps those running, and
//! says in each object's status how it goes.
//!
//! It computes nothing on data; what a driver or executor does is between them, and reaches this side as a report.
//!
//! Reading order: [`batch::reconcile`] is the one paragraph that matters; [`batch::decide`] says what is done and why;
//! [`batch::build`] says what pods look like; [`cluster`] is the edge; [`controller`] is the loop around it all.

pub mod api;
pub mod args;
pub mod batch;
pub mod cluster;
pub mod controller;
pub mod http;
pub mod metrics;
pub mod names;
pub mod queue;
pub mod run;
