//! Breaking things: processes, nodes, networks, the API server. On the project's own cluster each is one command; elsewhere a
//! story that needs one cannot run.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::process::{kubectl, succeeds};

/// The script of the test cluster.
fn script() -> OsString {
    env::var_os("TRIREME_CLUSTER_SCRIPT").unwrap_or_else(|| "e2e/cluster/cluster".into())
}

fn cluster(arguments: &[&str]) {
    if let Err(error) = succeeds(Command::new(script()).args(arguments)) {
        panic!("the test cluster: {error}");
    }
}

/// Where the test cluster keeps what there is of it, its nodes' disks included.
pub fn cluster_folder() -> PathBuf {
    let kubeconfig = env::var_os("KUBECONFIG").unwrap_or_else(|| panic!("KUBECONFIG names no cluster"));
    let folder = PathBuf::from(kubeconfig).parent().map(PathBuf::from);
    folder
        .filter(|folder| folder.join("node1").is_dir())
        .unwrap_or_else(|| panic!("this is not the test cluster"))
}

/// A node of the test cluster. Broken nodes are mended when this is dropped, so that the next story finds them whole.
pub struct Node {
    number: String,
    broken: Option<&'static str>,
}

impl Node {
    /// The node that is called `name`.
    pub fn named(name: &str) -> Node {
        let number = name
            .strip_prefix("node")
            .unwrap_or_else(|| panic!("{name} is no node of the test cluster"));
        Node {
            number: number.to_owned(),
            broken: None,
        }
    }

    /// Power loss.
    pub fn crash(&mut self) {
        cluster(&["crash", &self.number]);
        self.broken = Some("boot");
    }

    /// The network is gone; its processes run on.
    pub fn cut(&mut self) {
        cluster(&["cut", &self.number]);
        self.broken = Some("heal");
    }

    /// Writes `bytes` into an emptyDir volume of a pod on it, as a program does that forgets to clean up.
    pub fn fill(&self, pod: &Pod, volume: &str, bytes: u64) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let kubelet = cluster_folder().join(format!("node{}/var/lib/kubelet", self.number));
        let path = kubelet.join(format!("pods/{uid}/volumes/kubernetes.io~empty-dir/{volume}/filler"));
        let filled = File::create(&path).and_then(|mut file| io::copy(&mut io::repeat(b'x').take(bytes), &mut file));
        filled.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// As before.
    pub fn mend(&mut self) {
        if let Some(remedy) = self.broken.take() {
            cluster(&[remedy, &self.number]);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return self.mend();
        }
        // Another panic here would hide the first.
        if let Some(remedy) = self.broken.take() {
            drop(Command::new(script()).args([remedy, &self.number]).status());
        }
    }
}

/// An API server that is away until this is dropped.
pub struct ApiServer(());

impl ApiServer {
    /// Kills it.
    pub fn stop() -> ApiServer {
        cluster(&["stop", "api"]);
        ApiServer(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let script = script();
        let started = succeeds(Command::new(script).args(["start", "api"]));
        if let Err(error) = started
            && !std::thread::panicking()
        {
            panic!("the API server does not come back: {error}");
        }
    }
}

/// The chart with other values, until this is dropped.
pub struct Upgrade(());

impl Upgrade {
    /// Sets `value`, as `helm --set` has it, and waits until the new operator is there.
    pub fn to(value: &str) -> Upgrade {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/trireme");
        let upgrade = ["upgrade", "trireme", chart, "--reuse-values", "--set", value];
        if let Err(error) = helm(&upgrade) {
            panic!("the upgrade: {error}");
        }
        Upgrade(())
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        let back = helm(&["rollback", "trireme"]);
        if let Err(error) = back
            && !std::thread::panicking()
        {
            panic!("the operator is not as before: {error}");
        }
    }
}

fn helm(arguments: &[&str]) -> Result<String, String> {
    let waits = ["--namespace", "trireme-system", "--wait", "--timeout=120s"];
    succeeds(Command::new("helm").args(arguments).args(waits))
}

/// Kills, with SIGKILL, the processes of this machine whose command line has `pattern`, and says how many there were. On the
/// test cluster that reaches into every pod.
pub fn kill_processes(pattern: &str) -> usize {
    let ids = processes(pattern);
    for id in &ids {
        // It may have ended by itself.
        drop(Command::new("kill").args(["-KILL", id]).output());
    }
    ids.len()
}

/// The ids of those processes.
fn processes(pattern: &str) -> Vec<String> {
    let found = Command::new("pgrep").args(["--full", "--", pattern]).output();
    let found = found.unwrap_or_else(|error| panic!("pgrep: {error}"));
    let ids = String::from_utf8_lossy(&found.stdout);
    ids.lines().map(str::to_owned).collect()
}

/// The operator, as processes of this machine.
pub struct Operator;

impl Operator {
    const PATTERN: &str = "^/usr/local/bin/trireme-operator run";

    /// Kills every replica, with SIGKILL; the kubelet starts them again.
    pub fn kill() -> usize {
        kill_processes(Operator::PATTERN)
    }

    /// Waits until every replica is ready: the kubelet lets one wait that was killed a few times, in the story before or here.
    ///
    /// # Panics
    /// When it takes longer than the kubelet lets any wait.
    pub fn wait_until_ready() {
        let wait = ["rollout", "status", "deployment/trireme-operator", "--timeout=360s"];
        let waited = kubectl(&[&["--namespace", "trireme-system"], wait.as_slice()].concat());
        waited.unwrap_or_else(|error| panic!("the operator is not ready: {error}"));
    }

    /// When the youngest process of a replica started, as the kubelet has it.
    pub async fn last_start(client: &Client) -> Option<String> {
        let pods: Api<Pod> = Api::all(client.clone());
        let ours = ListParams::default().labels("app.kubernetes.io/name=trireme");
        let pods = pods.list(&ours).await.expect("pods can be listed");
        let statuses = pods
            .into_iter()
            .filter_map(|pod| pod.status?.container_statuses)
            .flatten();
        let started = statuses.filter_map(|status| status.state?.running?.started_at);
        started.map(|time| time.0.to_string()).max()
    }

    /// Bytes of memory that each replica holds.
    pub fn memory() -> Vec<u64> {
        let resident = |id: &String| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
        };
        processes(Operator::PATTERN).iter().filter_map(resident).collect()
    }
}
