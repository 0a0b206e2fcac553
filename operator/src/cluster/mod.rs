//! The edge: all that reconciling asks of a cluster, and nothing else. One implementation speaks to an API server; the other
//! is a model that loses, delays and repeats what it is told.

pub mod events;
pub mod index;
pub mod kubernetes;
pub mod reports;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::core::error_boundary::InvalidObject;
use trireme_spec::report::JobReport;

use crate::api::batch_job::{AnyBatchJob, BatchJob};
use crate::api::status::BatchJobStatus;
use crate::batch::build::JobSecret;
use crate::batch::decide::{EndOrder, Note};
use crate::names::JobKey;

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The object is not what it was when it was read.
    #[error("{what}: it has changed in the meantime")]
    Conflict { what: String },
    /// There is no such object, or it is being removed.
    #[error("{what}: not found")]
    NotFound { what: String },
    /// There is one already.
    #[error("{what}: exists already")]
    Exists { what: String },
    /// A quota, an admission policy or a rule of the API does not let it in.
    #[error("{what}: {message}")]
    Refused { what: String, quota: bool, message: String },
    /// No answer, or one that says to come again.
    #[error("{what}: {message}")]
    Away { what: String, message: String },
}

/// A job and its pods as the watches have them, which may be some time ago.
#[derive(Clone, Debug)]
pub struct Cached {
    pub job: Arc<AnyBatchJob>,
    pub pods: Vec<Arc<Pod>>,
}

/// Where a driver serves its report.
#[derive(Clone, Debug)]
pub struct Follow {
    pub key: JobKey,
    pub run: String,
    pub attempt: u32,
    pub pod_uid: String,
    pub pod_ip: String,
    pub secret: JobSecret,
}

/// What a driver said last.
#[derive(Clone, Debug)]
pub struct Said {
    pub run: String,
    pub attempt: u32,
    pub report: JobReport,
}

/// What reconciling asks of a cluster. Reads are of now, but for [`Cluster::cached`]. Every write is safe to repeat.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The time.
    fn now(&self) -> Timestamp;
    /// The time, for certificates.
    fn system_time(&self) -> SystemTime;
    /// A text that nobody can guess.
    fn token(&self) -> String;

    /// What the watches know.
    fn cached(&self, key: &JobKey) -> Option<Cached>;
    async fn job(&self, key: &JobKey) -> Result<Option<AnyBatchJob>, Failure>;
    async fn pods(&self, key: &JobKey) -> Result<Vec<Pod>, Failure>;
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Failure>;
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Failure>;

    async fn create_secret(&self, secret: &Secret) -> Result<(), Failure>;
    /// Fails with [`Failure::Conflict`] if it was changed since it was read.
    async fn replace_secret(&self, secret: &Secret) -> Result<(), Failure>;
    /// Fails with [`Failure::Conflict`] if there is one that somebody else has written.
    async fn apply_service(&self, service: &Service) -> Result<(), Failure>;
    async fn create_pod(&self, pod: &Pod) -> Result<(), Failure>;
    /// That very pod; that it is gone already is no failure.
    async fn delete_pod(&self, namespace: &str, pod: &EndOrder) -> Result<(), Failure>;
    /// Fails with [`Failure::Conflict`] if `job` was changed since it was read.
    async fn write_status(&self, job: &BatchJob, status: &BatchJobStatus) -> Result<(), Failure>;
    /// Says that an object cannot be read.
    async fn write_unreadable(&self, object: &InvalidObject) -> Result<(), Failure>;
    /// That very job, as it was read: if it was changed since, perhaps to run again, it stays, and that is no failure.
    async fn delete_job(&self, job: &BatchJob) -> Result<(), Failure>;
    /// Events are lost rather than waited for.
    async fn publish(&self, job: &BatchJob, notes: &[Note]);

    /// What the driver that is followed said last.
    fn report(&self, key: &JobKey) -> Option<Said>;
    /// Whether the driver in this pod is followed, with a secret that need not be looked at yet.
    fn follows(&self, key: &JobKey, pod_uid: &str) -> bool;
    fn follow(&self, driver: Follow);
    /// Tells the driver that is followed, if there is one, that processes of these executors have ended. It would find out by
    /// itself, but later: nothing hangs on its hearing this.
    fn tell_lost(&self, key: &JobKey, executors: &[String]);
    fn forget(&self, key: &JobKey);
}
