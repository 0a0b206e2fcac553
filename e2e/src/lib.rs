//! What the stories under `stories/` stand on: a namespace of their own on whatever cluster `KUBECONFIG` names, jobs in it, and
//! the means to break things.
//!
//! A story knows what a person with kubectl knows. It waits on what the API server tells, with a deadline that only a hang can
//! reach; and it reports by failing.
#![expect(clippy::panic, reason = "a harness reports by failing the test")]

mod audit;
mod faults;
mod job;
mod lab;
mod process;
mod reasons;
mod store;

pub use audit::{Audit, Write};
pub use faults::{ApiServer, Node, Operator, Upgrade, cluster_folder, kill_processes};
pub use job::{Job, condition};
pub use lab::{Lab, PATIENCE};
pub use process::{engine, kubectl, succeeds};
pub use store::Store;
