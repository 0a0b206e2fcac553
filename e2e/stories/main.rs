//! Stories on a real Kubernetes. One binary; each story has a namespace of its own. They need a cluster with the operator
//! installed, so that `cargo test` leaves them out: `make e2e` brings one up and runs them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests are test code, which the lints do not see"
)]

mod control_plane;
mod copy;
mod endings;
mod fates;
mod hello;
mod limits;
mod pods;
mod reasons;
mod roles;
mod secrecy;
