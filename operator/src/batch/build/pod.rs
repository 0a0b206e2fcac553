//! The pod of a driver or an executor.
//!
//! Safe without being asked: it satisfies Pod Security "restricted", has no right to the API server, and gets its secrets as
//! files. People's templates are merged in, and what makes it a pod of Trireme is put back last.

use std::collections::BTreeMap;

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, EphemeralVolumeSource,
    HTTPGetAction, KeyToPath, LocalObjectReference, ObjectFieldSelector, PersistentVolumeClaimSpec,
    PersistentVolumeClaimTemplate, Pod, PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use trireme_spec::limits::Limits;
use trireme_spec::pods::{ImagePullPolicy, Scratch};

use super::{Settings, metadata};
use crate::batch::decide::PodOrder;
use crate::batch::spec_hash::spec_hash;
use crate::batch::validate::ValidJob;
use crate::names::{self, CONTAINER, IMAGE_ANNOTATION, PodRole, SPEC_HASH_ANNOTATION, label, path, port, secret_key};

/// The user and group that the engine runs as; what images without a shell usually have.
const USER: i64 = 65532;

/// A driver has this long to close its journal and say how it ended.
const DRIVER_GRACE_S: i64 = 30;

/// Beyond the drain of an executor: to notice that it is over, and to say goodbye.
const AFTER_DRAIN_S: u64 = 15;

/// How long a driver waits for executors, with their pods asked for all the while: that there is no room for them is told by
/// the status, and may be mended by an autoscaler or by other jobs' ends. Whoever is less patient sets a deadline.
const EXECUTOR_WAIT: &str = "24h";

/// What a driver asks of its node, for each of its cores. It coordinates, and computes little; asking for all of them would
/// let the drivers of many jobs fill a small cluster, and wait for executors that find no room.
const DRIVER_CORE_MILLIS: u32 = 250;

/// A pod on a node that cannot be reached is given up after this long; Kubernetes' own default is five minutes.
const UNREACHABLE_S: i64 = 15;

/// The pod that `order` asks for.
pub fn pod(job: &ValidJob, settings: &Settings, order: &PodOrder) -> Pod {
    let mut pod = base(job, settings, order);
    let built = pod.clone();
    let overlays = match order.role {
        PodRole::Driver => &job.driver_overlays,
        PodRole::Executor => &job.executor_overlays,
    };
    for overlay in overlays {
        pod.merge_from(overlay.clone());
    }
    put_back(&mut pod, built);
    pod
}

/// A merge replaces single values and adds to lists: what was in a list is still there, what was a single value may not be.
/// To Kubernetes all tolerations are one value.
fn put_back(pod: &mut Pod, built: Pod) {
    let ours = built.metadata.labels.into_iter().flatten();
    pod.metadata.labels.get_or_insert_default().extend(ours);
    let (Some(spec), Some(built)) = (&mut pod.spec, built.spec) else {
        return;
    };
    spec.restart_policy = built.restart_policy;
    spec.automount_service_account_token = built.automount_service_account_token;
    spec.enable_service_links = built.enable_service_links;
    let tolerations = spec.tolerations.get_or_insert_default();
    for ours in built.tolerations.into_iter().flatten() {
        if !tolerations
            .iter()
            .any(|theirs| theirs.key == ours.key && theirs.effect == ours.effect)
        {
            tolerations.push(ours);
        }
    }
    let containers = spec
        .containers
        .iter_mut()
        .filter(|container| container.name == CONTAINER);
    for (container, built) in containers.zip(built.containers) {
        container.args = built.args;
        container.command = built.command;
        container.resources = built.resources;
        container.termination_message_path = built.termination_message_path;
        container.ports = built.ports;
    }
}

fn base(job: &ValidJob, settings: &Settings, order: &PodOrder) -> Pod {
    let spec = &job.spec;
    let mut metadata = metadata(
        job,
        names::pod(&job.key.name, order.role, order.number),
        Some(order.role),
    );
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(label::NUMBER.to_owned(), order.number.to_string());
    let image = order.image.as_ref().or(spec.image.as_ref()).unwrap_or(&settings.image);
    metadata.annotations = Some(BTreeMap::from([
        (IMAGE_ANNOTATION.to_owned(), image.clone()),
        (SPEC_HASH_ANNOTATION.to_owned(), spec_hash(spec, order.role)),
        (
            "kubectl.kubernetes.io/default-container".to_owned(),
            CONTAINER.to_owned(),
        ),
        // A node may be taken away from under either: both are made again, and nothing is lost but time.
        (
            "cluster-autoscaler.kubernetes.io/safe-to-evict".to_owned(),
            "true".to_owned(),
        ),
    ]));
    let pull_secrets = spec.image_pull_secrets.iter();
    let pull_secrets = pull_secrets.map(|secret| LocalObjectReference {
        name: secret.name.clone(),
    });
    Pod {
        metadata,
        spec: Some(PodSpec {
            containers: vec![container(job, settings, order, image.clone())],
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(grace_seconds(order.role)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            service_account_name: spec.service_account_name.clone(),
            node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
            tolerations: Some(tolerations(job)),
            image_pull_secrets: Some(pull_secrets.collect()),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            volumes: Some(volumes(job, order.role)),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn grace_seconds(role: PodRole) -> i64 {
    match role {
        PodRole::Driver => DRIVER_GRACE_S,
        PodRole::Executor => {
            let drain = Limits::DEFAULT.drain_grace.as_millis().div_ceil(1000);
            i64::try_from(drain + AFTER_DRAIN_S).unwrap_or(i64::MAX)
        }
    }
}

fn container(job: &ValidJob, settings: &Settings, order: &PodOrder, image: String) -> Container {
    let spec = &job.spec;
    let (cores, scratch) = match order.role {
        PodRole::Driver => (spec.driver.cores, &spec.driver.scratch),
        PodRole::Executor => (spec.executors.cores, &spec.executors.scratch),
    };
    let mut mounts = vec![
        mount("tls", path::TLS, true),
        mount("scratch", path::SCRATCH, false),
        VolumeMount {
            sub_path: Some("tmp".to_owned()),
            ..mount("scratch", "/tmp", false)
        },
    ];
    if order.role == PodRole::Driver {
        mounts.push(mount("job", path::JOB, true));
    }
    if spec.credentials.is_some() {
        mounts.push(mount("credentials", path::CREDENTIALS, true));
    }
    let pull = match spec.image_pull_policy.unwrap_or(settings.image_pull_policy) {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image),
        image_pull_policy: Some(pull.to_owned()),
        args: Some(match order.role {
            PodRole::Driver => driver_args(job, settings, order, cores),
            PodRole::Executor => executor_args(job, settings, order, cores),
        }),
        env: Some(vec![EnvVar {
            name: "POD_IP".to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: None,
                    field_path: "status.podIP".to_owned(),
                }),
                ..EnvVarSource::default()
            }),
        }]),
        ports: Some(ports(order.role)),
        resources: Some(resources(cores, order, scratch)),
        volume_mounts: Some(mounts),
        readiness_probe: Some(Probe {
            period_seconds: Some(5),
            timeout_seconds: Some(5),
            failure_threshold: Some(3),
            ..probe("/readyz")
        }),
        // Until it has succeeded once the others wait: a start is seen within a second.
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            timeout_seconds: Some(5),
            failure_threshold: Some(300),
            ..probe("/healthz")
        }),
        // A process that hangs for this long does not come back; one that computes answers all the same.
        liveness_probe: Some(Probe {
            period_seconds: Some(20),
            timeout_seconds: Some(10),
            failure_threshold: Some(6),
            ..probe("/healthz")
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        termination_message_path: Some(path::TERMINATION_LOG.to_owned()),
        // What a process says that dies before it can say it well.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn driver_args(job: &ValidJob, settings: &Settings, order: &PodOrder, cores: u32) -> Vec<String> {
    let mut args = common_args(job, settings, "driver", cores);
    args.extend([
        format!("--job={}/{}", path::JOB, secret_key::JOB),
        format!("--run={}", job.run),
        format!("--generation={}", order.number),
        format!("--executor-wait={EXECUTOR_WAIT}"),
        format!("--spill={}", job.spec.driver.scratch.size),
        "--output=json".to_owned(),
        "--quiet".to_owned(),
        "--max-rows=20".to_owned(),
    ]);
    args
}

fn executor_args(job: &ValidJob, settings: &Settings, order: &PodOrder, cores: u32) -> Vec<String> {
    let JobKeyParts { name, namespace } = parts(job);
    let mut args = common_args(job, settings, "worker", cores);
    args.extend([
        format!("--driver={}.{namespace}.svc:{}", names::service(name), port::CONTROL),
        format!("--name={}", names::pod(name, order.role, order.number)),
        "--advertise=$(POD_IP)".to_owned(),
        format!("--spill={}", job.spec.executors.scratch.size),
    ]);
    args
}

struct JobKeyParts<'a> {
    name: &'a str,
    namespace: &'a str,
}

fn parts(job: &ValidJob) -> JobKeyParts<'_> {
    JobKeyParts {
        name: &job.key.name,
        namespace: &job.key.namespace,
    }
}

fn common_args(job: &ValidJob, settings: &Settings, role: &str, cores: u32) -> Vec<String> {
    let mut args = vec![
        role.to_owned(),
        format!("--log={}", settings.engine_log),
        "--log-format=json".to_owned(),
        format!("--cores={cores}"),
        format!("--scratch={}", path::SCRATCH),
        format!("--tls={}", path::TLS),
        format!("--token={}/{}", path::TLS, secret_key::TOKEN),
        format!("--termination-log={}", path::TERMINATION_LOG),
    ];
    if job.spec.credentials.is_some() {
        args.push(format!("--credentials={}", path::CREDENTIALS));
    }
    args
}

fn ports(role: PodRole) -> Vec<ContainerPort> {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let first = match role {
        PodRole::Driver => port("control", port::CONTROL),
        PodRole::Executor => port("data", port::DATA),
    };
    vec![first, port("http", port::HTTP)]
}

/// Memory is one number: what is asked for is what there is. Cores are a share, and idle ones may be used.
fn resources(cores: u32, order: &PodOrder, scratch: &Scratch) -> ResourceRequirements {
    let memory = ("memory".to_owned(), Quantity(order.memory.to_string()));
    let disk = scratch
        .storage_class_name
        .is_none()
        .then(|| ("ephemeral-storage".to_owned(), Quantity(scratch.size.to_string())));
    let limits: BTreeMap<_, _> = [Some(memory), disk].into_iter().flatten().collect();
    let mut requests = limits.clone();
    let asked = match order.role {
        PodRole::Driver => format!("{}m", cores * DRIVER_CORE_MILLIS),
        PodRole::Executor => cores.to_string(),
    };
    requests.insert("cpu".to_owned(), Quantity(asked));
    ResourceRequirements {
        limits: Some(limits),
        requests: Some(requests),
        claims: None,
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port::HTTP),
            scheme: Some("HTTPS".to_owned()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

fn volumes(job: &ValidJob, role: PodRole) -> Vec<Volume> {
    let (certificate, key, scratch) = match role {
        PodRole::Driver => (secret_key::DRIVER, secret_key::DRIVER_KEY, &job.spec.driver.scratch),
        PodRole::Executor => (
            secret_key::EXECUTOR,
            secret_key::EXECUTOR_KEY,
            &job.spec.executors.scratch,
        ),
    };
    let secret = names::secret(&job.key.name);
    let tls = [
        (secret_key::CA, "ca.crt"),
        (certificate, "tls.crt"),
        (key, "tls.key"),
        (secret_key::TOKEN, secret_key::TOKEN),
    ];
    let mut volumes = vec![of_secret("tls", &secret, &tls), scratch_volume(scratch)];
    if role == PodRole::Driver {
        volumes.push(of_secret("job", &secret, &[(secret_key::JOB, secret_key::JOB)]));
    }
    if let Some(credentials) = &job.spec.credentials {
        volumes.push(of_secret("credentials", &credentials.name, &[]));
    }
    volumes
}

/// A volume of the named keys of a Secret, or of all if none is named. The group of the process may read it, nobody else.
fn of_secret(volume: &str, secret: &str, keys: &[(&str, &str)]) -> Volume {
    let item = |(key, path): &(&str, &str)| KeyToPath {
        key: (*key).to_owned(),
        path: (*path).to_owned(),
        mode: None,
    };
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(0o440),
            items: (!keys.is_empty()).then(|| keys.iter().map(item).collect()),
            optional: None,
        }),
        ..Volume::default()
    }
}

fn scratch_volume(scratch: &Scratch) -> Volume {
    let size = Quantity(scratch.size.to_string());
    let claim = scratch.storage_class_name.as_ref().map(|class| EphemeralVolumeSource {
        volume_claim_template: Some(PersistentVolumeClaimTemplate {
            metadata: None,
            spec: PersistentVolumeClaimSpec {
                access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
                storage_class_name: Some(class.clone()),
                resources: Some(VolumeResourceRequirements {
                    requests: Some(BTreeMap::from([("storage".to_owned(), size.clone())])),
                    limits: None,
                }),
                ..PersistentVolumeClaimSpec::default()
            },
        }),
    });
    Volume {
        name: "scratch".to_owned(),
        empty_dir: claim.is_none().then_some(EmptyDirVolumeSource {
            medium: None,
            size_limit: Some(size),
        }),
        ephemeral: claim,
        ..Volume::default()
    }
}

fn tolerations(job: &ValidJob) -> Vec<Toleration> {
    let gone = ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"].map(|key| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(UNREACHABLE_S),
        ..Toleration::default()
    });
    let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let theirs = job.spec.tolerations.iter().map(|toleration| Toleration {
        key: toleration.key.clone(),
        operator: text(serde_json::to_value(toleration.operator).ok()),
        value: toleration.value.clone(),
        effect: text(serde_json::to_value(toleration.effect).ok()),
        toleration_seconds: toleration.toleration_seconds,
    });
    gone.into_iter().chain(theirs).collect()
}
