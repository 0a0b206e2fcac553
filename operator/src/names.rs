//! Names, labels and paths of what the operator makes. Deterministic, so that two tries make one object.

use std::fmt;

/// Who the operator is in `managedFields` and in the label `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "trireme-operator";

/// Labels of every object of a job.
pub mod label {
    pub const NAME: &str = "app.kubernetes.io/name";
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// The job by name.
    pub const JOB: &str = "trireme.dev/job";
    /// `driver` or `executor`.
    pub const ROLE: &str = "trireme.dev/role";
    /// The run that a pod belongs to.
    pub const RUN: &str = "trireme.dev/run";
    /// Which pod of its role: the attempt of a driver, the number of an executor.
    pub const NUMBER: &str = "trireme.dev/number";
}

pub use trireme_spec::pods::CONTAINER;

/// Ports, as `docs/reference/ports.md` has them.
pub mod port {
    pub const CONTROL: i32 = 7070;
    pub const DATA: i32 = 7071;
    pub const HTTP: i32 = 7080;
}

/// A job among all of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobKey { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}

/// What a pod is to its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodRole {
    Driver,
    Executor,
}

impl PodRole {
    /// The role as labels have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            PodRole::Driver => "driver",
            PodRole::Executor => "executor",
        }
    }
}

/// The name of a pod. Numbers are never used twice in a run, so that a pod that hangs in its end is in nobody's way.
pub fn pod(job: &str, role: PodRole, number: u32) -> String {
    match role {
        PodRole::Driver => format!("{job}-driver-{number}"),
        PodRole::Executor => format!("{job}-exec-{number}"),
    }
}

/// The headless Service under which executors find the driver.
pub fn service(job: &str) -> String {
    format!("{job}-driver")
}

/// The Secret with the job's manifest, certificates and token.
pub fn secret(job: &str) -> String {
    format!("{job}-job")
}

/// Keys of the job's Secret.
pub mod secret_key {
    pub const JOB: &str = "job.json";
    pub const TOKEN: &str = "token";
    pub const CA: &str = "ca.crt";
    /// Mounted by no pod.
    pub const CA_KEY: &str = "ca.key";
    pub const DRIVER: &str = "driver.crt";
    pub const DRIVER_KEY: &str = "driver.key";
    pub const EXECUTOR: &str = "executor.crt";
    pub const EXECUTOR_KEY: &str = "executor.key";
}

/// The run that the Secret was written for.
pub const RUN_ANNOTATION: &str = "trireme.dev/run";

/// The engine's image that a pod was built with, whatever a template has made of it. Executors get that of their driver.
pub const IMAGE_ANNOTATION: &str = "trireme.dev/image";

/// The hash of what of the spec a pod was made of.
pub const SPEC_HASH_ANNOTATION: &str = "trireme.dev/spec-hash";

/// Where things are inside a pod.
pub mod path {
    pub const JOB: &str = "/etc/trireme/job";
    pub const TLS: &str = "/etc/trireme/tls";
    pub const CREDENTIALS: &str = "/etc/trireme/credentials";
    pub const SCRATCH: &str = "/scratch";
    pub const TERMINATION_LOG: &str = "/dev/termination-log";
}
