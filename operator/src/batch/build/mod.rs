//! From a valid job to the objects that run it. Pure, and cannot fail: what could go wrong was decided by `validate`.

mod pod;
mod secret;
mod service;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use trireme_spec::pods::ImagePullPolicy;

use super::validate::ValidJob;
use crate::names::{self, PodRole, label};
pub use pod::pod;
pub use secret::{JobSecret, SecretError, renewed, secret};
pub use service::service;

/// What the operator was installed with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of jobs that name none.
    pub image: String,
    /// When to pull it.
    pub image_pull_policy: ImagePullPolicy,
    /// Storage of jobs that name none: each gets a folder of its own below it.
    pub storage: Option<String>,
    /// What engines log.
    pub engine_log: String,
}

/// Metadata of an object of `job`.
fn metadata(job: &ValidJob, name: String, component: Option<PodRole>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(job.key.namespace.clone()),
        labels: Some(labels(job, component)),
        owner_references: Some(vec![owner(job)]),
        ..ObjectMeta::default()
    }
}

fn labels(job: &ValidJob, component: Option<PodRole>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        (label::NAME, "trireme"),
        (label::INSTANCE, &job.key.name),
        (label::MANAGED_BY, names::MANAGER),
        (label::JOB, &job.key.name),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    if let Some(role) = component {
        labels.insert(label::COMPONENT.to_owned(), role.as_str().to_owned());
        labels.insert(label::ROLE.to_owned(), role.as_str().to_owned());
        labels.insert(label::RUN.to_owned(), job.run.clone());
    }
    labels
}

/// The job owns what it is made of: whatever the operator does not get to remove goes with it.
fn owner(job: &ValidJob) -> OwnerReference {
    OwnerReference {
        api_version: trireme_spec::batch_job::API_VERSION.to_owned(),
        kind: "BatchJob".to_owned(),
        name: job.key.name.clone(),
        uid: job.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}
