//! What is known of a job's pods, in terms that decisions are made of. Pure: pods in, facts out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition};
use trireme_spec::problem::Problem;
use trireme_spec::quantity::Bytes;
use trireme_spec::report::{JobReport, Phase};

use crate::api::condition::Reason;
use crate::names::{CONTAINER, IMAGE_ANNOTATION, SPEC_HASH_ANNOTATION, label};

/// A job's pods and what its driver says.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Drivers of the run, by attempt.
    pub drivers: BTreeMap<u32, PodSeen>,
    /// Executors of the run, by number.
    pub executors: BTreeMap<u32, PodSeen>,
    /// Pods of other runs.
    pub strangers: Vec<PodSeen>,
    /// What the driver of an attempt said last.
    pub report: Option<(u32, JobReport)>,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct PodSeen {
    pub name: String,
    pub uid: String,
    pub created: Option<Timestamp>,
    /// When its process started, as the kubelet has it.
    pub started: Option<Timestamp>,
    /// When its process ended, as the kubelet has it.
    pub ended: Option<Timestamp>,
    /// What it may use.
    pub memory: Option<Bytes>,
    /// The engine's image that it was built with.
    pub image: Option<String>,
    /// What of the spec it was made of.
    pub spec_hash: Option<String>,
    /// Whether somebody told it to end.
    pub is_told_to_end: bool,
    pub state: PodState,
    /// Whether all its containers have ended: beside ours there may be others, which a template or a mesh put there.
    pub all_ended: bool,
}

/// How a pod stands.
#[derive(Clone, Debug)]
pub enum PodState {
    /// Not running yet; with what is in the way, if something is.
    Waiting(Option<Trouble>),
    /// Runs.
    Running {
        /// Whether it says that it is ready.
        ready: bool,
    },
    /// Was told to end, by us or by somebody else.
    Leaving { why: String },
    /// Has ended.
    Ended(End),
}

/// Something that keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub reason: Reason,
    pub message: String,
}

/// How a pod ended.
#[derive(Clone, Debug)]
pub enum End {
    /// A driver that said how the job ended.
    Reported(Box<JobReport>),
    /// Exit code 0 and nothing said.
    Succeeded,
    /// Used more memory than its limit.
    OutOfMemory,
    /// The machine took it away: eviction, preemption, loss of the node, a signal.
    Lost { why: String },
    /// Ended by an error of its own.
    Crashed { code: i32, last_words: LastWords },
}

/// What a pod said that ended by an error of its own.
#[derive(Clone, Debug)]
pub enum LastWords {
    /// An error of the published list.
    Problem(Box<Problem>),
    /// The end of its log.
    Log(String),
}

impl PodSeen {
    /// Whether it holds the room of a node until it is told to end.
    pub fn holds_room(&self) -> bool {
        match self.state {
            PodState::Waiting(_) | PodState::Running { .. } => true,
            PodState::Leaving { .. } => false,
            PodState::Ended(_) => !self.is_over() && !self.is_told_to_end,
        }
    }

    /// Whether nothing of it runs any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state, PodState::Ended(_)) && self.all_ended
    }
}

impl PodState {
    /// Whether it runs, or will.
    pub fn is_alive(&self) -> bool {
        match self {
            PodState::Waiting(_) | PodState::Running { .. } => true,
            PodState::Leaving { .. } | PodState::Ended(_) => false,
        }
    }
}

/// The facts about `pods`, which are of one job, with regard to its `run`.
pub fn see<'a>(pods: impl IntoIterator<Item = &'a Pod>, run: &str, report: Option<(u32, JobReport)>) -> Seen {
    let mut seen = Seen {
        report,
        ..Seen::default()
    };
    for pod in pods {
        let labels = pod.metadata.labels.as_ref();
        let of = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
        let number = of(label::NUMBER).and_then(|number| number.parse().ok());
        let facts = PodSeen {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            started: started(pod),
            ended: ended(pod),
            memory: memory(pod),
            image: annotation(pod, IMAGE_ANNOTATION),
            spec_hash: annotation(pod, SPEC_HASH_ANNOTATION),
            is_told_to_end: pod.metadata.deletion_timestamp.is_some(),
            state: state(pod),
            all_ended: is_over(pod) || have_ended(pod),
        };
        match (number, of(label::ROLE), of(label::RUN)) {
            (Some(number), Some("driver"), Some(of_run)) if of_run == run => drop(seen.drivers.insert(number, facts)),
            (Some(number), Some("executor"), Some(of_run)) if of_run == run => {
                drop(seen.executors.insert(number, facts));
            }
            _ => seen.strangers.push(facts),
        }
    }
    seen
}

fn state(pod: &Pod) -> PodState {
    let container = container(pod);
    let terminated = container
        .and_then(|container| container.state.as_ref())
        .and_then(|state| state.terminated.as_ref());
    if let Some(terminated) = terminated {
        return PodState::Ended(end(terminated, pod));
    }
    if is_over(pod) {
        // Pods that were evicted before they ran, or collected after they ended, have no container to ask.
        return PodState::Ended(match disruption(pod) {
            Some(why) => End::Lost { why },
            None if !is_failed(pod) => End::Succeeded,
            None => failed_before(pod).unwrap_or_else(|| End::Lost {
                why: reason_of(pod).unwrap_or_else(|| "the pod failed without a reason".to_owned()),
            }),
        });
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let why = disruption(pod).unwrap_or_else(|| "the pod was deleted".to_owned());
        return PodState::Leaving { why };
    }
    match container.and_then(|container| container.state.as_ref()) {
        Some(ContainerState { running: Some(_), .. }) => PodState::Running {
            ready: container.is_some_and(|container| container.ready),
        },
        _ => PodState::Waiting(trouble(pod, container)),
    }
}

/// Whether all containers have ended. The kubelet says so before the pod's phase does, which waits until the pod's sandbox is
/// taken down.
fn have_ended(pod: &Pod) -> bool {
    let wanted = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref());
    let has_ended = |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    wanted > 0 && statuses.unwrap_or_default().iter().filter(has_ended).count() >= wanted
}

fn started(pod: &Pod) -> Option<Timestamp> {
    let state = container(pod)?.state.as_ref()?;
    let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
    let terminated = state.terminated.as_ref().and_then(|ended| ended.started_at.as_ref());
    running.or(terminated).map(|time| time.0)
}

fn ended(pod: &Pod) -> Option<Timestamp> {
    let terminated = container(pod)?.state.as_ref()?.terminated.as_ref()?;
    terminated.finished_at.as_ref().map(|time| time.0)
}

fn memory(pod: &Pod) -> Option<Bytes> {
    let container = pod
        .spec
        .as_ref()?
        .containers
        .iter()
        .find(|container| container.name == CONTAINER)?;
    container
        .resources
        .as_ref()?
        .limits
        .as_ref()?
        .get("memory")?
        .0
        .parse()
        .ok()
}

fn annotation(pod: &Pod, name: &str) -> Option<String> {
    pod.metadata.annotations.as_ref()?.get(name).cloned()
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER)
}

fn end(terminated: &ContainerStateTerminated, pod: &Pod) -> End {
    let said = terminated.message.as_deref().unwrap_or_default();
    if let Ok(report) = serde_json::from_str::<JobReport>(said)
        && report.phase.is_terminal()
    {
        // Of one that was told to end, who told it says more than that it was told.
        let teller = || disruption(pod).or_else(|| reason_of(pod).filter(|_| is_failed(pod)));
        return match (report.phase == Phase::Cancelled).then(teller).flatten() {
            Some(why) => End::Lost { why },
            None => End::Reported(Box::new(report)),
        };
    }
    if terminated.reason.as_deref() == Some("OOMKilled") {
        return End::OutOfMemory;
    }
    if let Some(why) = disruption(pod) {
        return End::Lost { why };
    }
    // What a runtime says of a container that it finds no more, after a start of the machine for instance. The exit codes
    // that come with it, 255 or 137, are made up.
    if let Some(why @ ("Unknown" | "ContainerStatusUnknown")) = terminated.reason.as_deref() {
        return End::Lost {
            why: format!("the machine does not know how it ended ({why})"),
        };
    }
    /// What a shell reports for a process that a signal ended: 128 and the signal.
    const SIGNALLED: std::ops::RangeInclusive<i32> = 129..=159;
    // Whatever a process does that was told to end, it was told to.
    let told = pod
        .metadata
        .deletion_timestamp
        .as_ref()
        .map(|_| "the pod was deleted".to_owned());
    let evicted = reason_of(pod).filter(|_| is_failed(pod)).or(told);
    match terminated.exit_code {
        0 => End::Succeeded,
        // SIGKILL and SIGTERM come from outside; SIGSEGV, SIGABRT and the like are the process's own doing.
        137 | 143 => End::Lost {
            why: evicted
                .unwrap_or_else(|| format!("the process was killed with signal {}", terminated.exit_code - 128)),
        },
        130 => End::Lost {
            why: evicted.unwrap_or_else(|| "the process was told to end".to_owned()),
        },
        code => match evicted {
            Some(why) if !SIGNALLED.contains(&code) => End::Lost { why },
            _ => End::Crashed {
                code,
                last_words: last_words(said),
            },
        },
    }
}

/// The end of a log is for people, and of that the end: its first line may begin anywhere.
fn last_words(said: &str) -> LastWords {
    const LINES_MAX: usize = 6;
    if let Ok(problem) = serde_json::from_str(said) {
        return LastWords::Problem(problem);
    }
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    LastWords::Log(lines[lines.len().saturating_sub(LINES_MAX)..].join("\n"))
}

/// Kubernetes' word that a pod ended for the machine's sake:
/// <https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions>.
fn disruption(pod: &Pod) -> Option<String> {
    let disrupted = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True")?;
    let reason = disrupted.reason.as_deref().unwrap_or("disrupted");
    Some(match disrupted.message.as_deref() {
        Some(message) if !message.is_empty() => format!("{reason}: {message}"),
        _ => reason.to_owned(),
    })
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn is_failed(pod: &Pod) -> bool {
    phase(pod) == Some("Failed")
}

fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), Some("Failed" | "Succeeded"))
}

/// How a pod ended whose template has a container to be run before ours, by which it failed.
fn failed_before(pod: &Pod) -> Option<End> {
    let (name, terminated) = init_containers(pod).find_map(|container| {
        let terminated = container.state.as_ref()?.terminated.as_ref()?;
        (terminated.exit_code != 0).then_some((&container.name, terminated))
    })?;
    let whose = |what: &str| LastWords::Log(format!("init container {name} {what}"));
    Some(match end(terminated, pod) {
        End::Crashed { code, last_words } => {
            let words = match last_words {
                LastWords::Log(log) if log.is_empty() => whose("failed"),
                LastWords::Log(log) => whose(&format!("failed: {log}")),
                LastWords::Problem(problem) => whose(&format!("failed: {}", problem.message)),
            };
            End::Crashed {
                code,
                last_words: words,
            }
        }
        // Ours cannot help it by having more.
        End::OutOfMemory => End::Crashed {
            code: terminated.exit_code,
            last_words: whose("ran out of its memory"),
        },
        end => end,
    })
}

fn init_containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_ref());
    statuses.into_iter().flatten()
}

/// Why the kubelet ended the pod as a whole, such as `Evicted`.
fn reason_of(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let reason = status.reason.as_deref()?;
    Some(match status.message.as_deref() {
        Some(message) if !message.is_empty() => format!("{reason}: {message}"),
        _ => reason.to_owned(),
    })
}

/// What keeps a pod from running, as far as somebody has to do something about it.
fn trouble(pod: &Pod, container: Option<&ContainerStatus>) -> Option<Trouble> {
    let waiting = init_containers(pod)
        .chain(container)
        .filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    for waiting in waiting {
        let reason = match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
                Reason::ImagePullFailed
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "CrashLoopBackOff" => {
                Reason::ContainerFailed
            }
            _ => continue,
        };
        let words = waiting.message.as_deref().or(waiting.reason.as_deref());
        return Some(Trouble {
            reason,
            message: words.unwrap_or_default().to_owned(),
        });
    }
    let scheduled = condition(pod, "PodScheduled").filter(|condition| condition.status == "False")?;
    (scheduled.reason.as_deref() == Some("Unschedulable")).then(|| Trouble {
        reason: Reason::Unschedulable,
        message: scheduled.message.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use trireme_spec::ids::{Generation, JobName};
    use trireme_spec::problem::ErrorCode;

    use super::*;

    fn told_to_end(status: Value) -> PodState {
        let mut report = JobReport::starting(JobName::new("revenue").unwrap(), Generation(1), 3);
        report.end(Some(&Problem::new(ErrorCode::Cancelled, "told to end")));
        let terminated = json!({ "exitCode": 130, "message": report.to_json_within(4096) });
        let mut pod = json!({
            "status": {
                "phase": "Failed",
                "containerStatuses": [{
                    "name": CONTAINER, "ready": false, "restartCount": 0, "image": "", "imageID": "",
                    "state": { "terminated": terminated },
                }],
            },
        });
        pod["status"]
            .as_object_mut()
            .unwrap()
            .extend(status.as_object().unwrap().clone());
        state(&serde_json::from_value(pod).unwrap())
    }

    /// A pod that is deleted takes its logs along.
    #[test]
    fn a_pod_whose_containers_have_ended_is_left_though_its_phase_lags() {
        let holds_room = |sidecar: Value| {
            let container = |name: &str, state: &Value| json!({ "name": name, "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state });
            let ended = json!({ "terminated": { "exitCode": 0 } });
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "name": "p", "uid": "u", "labels": { (label::NUMBER): "1", (label::ROLE): "executor", (label::RUN): "r" } },
                "spec": { "containers": [{ "name": CONTAINER }, { "name": "proxy" }] },
                "status": { "phase": "Running", "containerStatuses": [container(CONTAINER, &ended), container("proxy", &sidecar)] },
            }))
            .unwrap();
            see([&pod], "r", None).executors[&1].holds_room()
        };
        assert!(holds_room(json!({ "running": {} })));
        assert!(!holds_room(json!({ "terminated": { "exitCode": 0 } })));
    }

    #[test]
    fn who_told_a_driver_to_end_says_more_than_the_driver() {
        let by_kubelet = told_to_end(json!({ "reason": "Evicted", "message": "its volume exceeds the limit" }));
        let PodState::Ended(End::Lost { why }) = by_kubelet else {
            panic!("{by_kubelet:?}")
        };
        assert_eq!(why, "Evicted: its volume exceeds the limit");
        let drained = told_to_end(json!({
            "conditions": [{ "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI" }],
        }));
        let PodState::Ended(End::Lost { why }) = drained else {
            panic!("{drained:?}")
        };
        assert_eq!(why, "EvictionByEvictionAPI");
        let by_nobody_known = told_to_end(json!({}));
        assert!(
            matches!(by_nobody_known, PodState::Ended(End::Reported(_))),
            "{by_nobody_known:?}"
        );
    }

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "status": status })).unwrap()
    }

    fn init_container(state: Value) -> Value {
        json!([{ "name": "fetch", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state }])
    }

    #[test]
    fn a_container_that_runs_before_ours_is_told_by_its_name() {
        let failed = |terminated: Value| {
            let containers = init_container(json!({ "terminated": terminated }));
            match state(&pod(json!({ "phase": "Failed", "initContainerStatuses": containers }))) {
                PodState::Ended(End::Crashed {
                    code,
                    last_words: LastWords::Log(log),
                }) => (code, log),
                other => panic!("{other:?}"),
            }
        };
        let (code, log) = failed(json!({ "exitCode": 3, "message": "no route" }));
        assert_eq!((code, log.as_str()), (3, "init container fetch failed: no route"));
        let (code, log) = failed(json!({ "exitCode": 137, "reason": "OOMKilled" }));
        assert_eq!(
            (code, log.as_str()),
            (137, "init container fetch ran out of its memory")
        );

        let containers =
            init_container(json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } }));
        let waiting = state(&pod(json!({ "phase": "Pending", "initContainerStatuses": containers })));
        let PodState::Waiting(Some(trouble)) = waiting else {
            panic!("{waiting:?}")
        };
        assert_eq!(trouble.reason, Reason::ImagePullFailed);
    }

    #[test]
    fn a_machine_that_goes_takes_the_containers_before_ours_along() {
        let containers = init_container(json!({ "terminated": { "exitCode": 137 } }));
        let evicted = json!({ "phase": "Failed", "reason": "Evicted", "initContainerStatuses": containers });
        let state = state(&pod(evicted));
        assert!(
            matches!(&state, PodState::Ended(End::Lost { why }) if why == "Evicted"),
            "{state:?}"
        );
    }
}
