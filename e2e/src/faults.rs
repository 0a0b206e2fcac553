//! Breaking things: processes, nodes, networks, the API server. On the project's own cluster each is one command; elsewhere a
//! story that needs one cannot run.

use std::env;
use std::process::Command;

use crate::process::succeeds;

/// The script of the test cluster.
fn cluster(arguments: &[&str]) {
    let script = env::var_os("TRIREME_CLUSTER_SCRIPT").unwrap_or_else(|| "e2e/cluster/cluster".into());
    if let Err(error) = succeeds(Command::new(script).args(arguments)) {
        panic!("the test cluster: {error}");
    }
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
            let script = env::var_os("TRIREME_CLUSTER_SCRIPT").unwrap_or_else(|| "e2e/cluster/cluster".into());
            drop(Command::new(script).args([remedy, &self.number]).status());
        }
    }
}

/// Takes away the network of a node.
pub fn cut(node: &str) -> Node {
    let mut node = Node::named(node);
    node.cut();
    node
}

/// Gives it back.
pub fn heal(mut node: Node) {
    node.mend();
}

/// Stops or starts the API server.
pub fn api_server(command: &str) {
    cluster(&[command, "api"]);
}

/// Kills, with SIGKILL, the processes of this machine whose command line has `pattern`, and says how many there were. On the
/// test cluster that reaches into every pod.
pub fn kill_processes(pattern: &str) -> usize {
    let found = Command::new("pgrep").args(["--full", "--", pattern]).output();
    let found = found.unwrap_or_else(|error| panic!("pgrep: {error}"));
    let ids = String::from_utf8_lossy(&found.stdout).into_owned();
    let ids: Vec<&str> = ids.lines().collect();
    for id in &ids {
        // It may have ended by itself.
        drop(Command::new("kill").args(["-KILL", id]).output());
    }
    ids.len()
}

/// The operator, as processes of this machine.
pub struct Operator;

impl Operator {
    /// Kills every replica, with SIGKILL; the kubelet starts them again.
    pub fn kill() -> usize {
        kill_processes("^/usr/local/bin/trireme-operator run")
    }
}
