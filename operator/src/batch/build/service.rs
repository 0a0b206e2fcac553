//! The headless Service under which executors find their driver.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::batch::validate::ValidJob;
use crate::names::{self, PodRole, label, port};

/// Leads to the driver of `attempt` and to no other, ready or not: executors and driver start side by side, and a driver that
/// is on its way out must not be found any more.
pub fn service(job: &ValidJob, attempt: u32) -> Service {
    let selector = [
        (label::JOB, job.key.name.clone()),
        (label::ROLE, PodRole::Driver.as_str().to_owned()),
        (label::NUMBER, attempt.to_string()),
    ];
    Service {
        metadata: metadata(job, names::service(&job.key.name), None),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(BTreeMap::from(selector.map(|(name, value)| (name.to_owned(), value)))),
            ports: Some(vec![ServicePort {
                name: Some("control".to_owned()),
                port: port::CONTROL,
                target_port: Some(IntOrString::Int(port::CONTROL)),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
