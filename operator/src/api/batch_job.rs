//! The object as the API server serves it.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::{ObjectMeta, TypeMeta};
use kube::core::DeserializeGuard;
use serde::{Deserialize, Serialize};
use trireme_spec::batch_job::BatchJobSpec;

use super::status::BatchJobStatus;

/// A BatchJob, whose spec people write and whose status the operator does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchJob {
    #[serde(flatten, default)]
    pub types: Option<TypeMeta>,
    pub metadata: ObjectMeta,
    pub spec: BatchJobSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<BatchJobStatus>,
}

/// One that may be unreadable: a field of another version, a status that somebody else wrote. It must not stop the others.
pub type AnyBatchJob = DeserializeGuard<BatchJob>;

impl Resource for BatchJob {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "BatchJob".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "trireme.dev".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1alpha1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "batchjobs".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
