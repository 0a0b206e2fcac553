//! What the operator costs, measured on the project's own cluster: `make bench-operator`. Writes a page of Markdown to the file
//! that its argument names, and prints it.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement reports by printing, and by failing"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use trireme_e2e::{Audit, Job, Lab, Operator, Write, kubectl};

/// Jobs that are run one after the other.
const RUNS: usize = 20;

/// Jobs that are alive at a time.
const MANY: usize = 500;

/// How long an operator with nothing to do is watched.
const WATCHED: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let mut page = Page(String::new());
    page.say(&format!(
        "# The operator in figures\n\nKubernetes on {} cores, three nodes; a development build.\n",
        cores()
    ));
    page.say(&format!("Memory of its replicas, idle: {}.\n", memory()));
    starts(&mut page).await;
    many(&mut page).await;
    if let Some(path) = std::env::args_os().nth(1) {
        std::fs::write(&path, page.0).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// What is measured, for people.
struct Page(String);

impl Page {
    fn say(&mut self, line: &str) {
        println!("{line}");
        self.0.push_str(line);
        self.0.push('\n');
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn memory() -> String {
    let replicas = Operator::memory();
    let words: Vec<String> = replicas
        .iter()
        .map(|bytes| format!("{:.1} MB", *bytes as f64 / 1e6))
        .collect();
    words.join(" and ")
}

/// From the return of `kubectl apply` to the first task and to the end, and what was written.
async fn starts(page: &mut Page) {
    let lab = Lab::open("starts").await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/examples/batch/hello.yaml");
    let (mut first, mut whole, mut objects, mut statuses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let audit = Audit::begin().expect("the project's own cluster has an audit log");
        kubectl(&["--namespace", &lab.namespace, "apply", "-f", file]).expect("hello.yaml can be applied");
        let applied = Timestamp::now();
        let job = Job::find(&lab, "hello").await;
        let status = job.complete().await;
        let since = |field: &str| {
            let time: Timestamp = status[field]
                .as_str()
                .and_then(|time| time.parse().ok())
                .expect("a time");
            time.duration_since(applied).as_secs_f64()
        };
        first.push(since("firstTaskTime"));
        whole.push(since("completionTime"));
        job.delete().await;
        lab.assert_empty().await;
        let writes: Vec<Write> = audit
            .writes()
            .into_iter()
            .filter(|write| write.namespace == lab.namespace)
            .collect();
        objects.push(
            writes
                .iter()
                .filter(|write| write.code == 201 && write.resource != "events")
                .count() as f64,
        );
        statuses.push(writes.iter().filter(|write| write.subresource == "status").count() as f64);
    }
    lab.close().await;
    page.say(&format!(
        "`manifests/examples/batch/hello.yaml`, {RUNS} times, one after the other, the image being there:\n"
    ));
    page.say("| | p50 | p95 | most |\n|---|---|---|---|");
    for (what, unit, mut values) in [
        ("`kubectl apply` returns, until the first task", " s", first),
        ("`kubectl apply` returns, until the job is complete", " s", whole),
        ("objects made, without events", "", objects),
        ("writes of the status", "", statuses),
    ] {
        values.sort_by(f64::total_cmp);
        let at = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
        page.say(&format!(
            "| {what} | {:.2}{unit} | {:.2}{unit} | {:.2}{unit} |",
            at(50),
            at(95),
            at(100)
        ));
    }
    page.say("");
}

/// Many jobs whose pods seem to run, on nodes that only seem to be there; then all of them have ended.
async fn many(page: &mut Page) {
    let kwok = Kwok::start();
    let lab = Lab::open("many").await;
    let mut jobs = Vec::new();
    for number in 0..MANY {
        let spec = json!({
            "sql": "SELECT 1",
            "nodeSelector": { "type": "kwok" },
            "tolerations": [{ "key": "kwok.x-k8s.io/node", "operator": "Exists" }],
        });
        jobs.push(lab.apply(&format!("job-{number}"), spec).await);
    }
    for job in &jobs {
        job.until("an executor", |status| status["executors"]["ready"] == 1)
            .await;
    }
    page.say(&format!(
        "Memory with {MANY} jobs alive, each with a driver and an executor: {}.\n",
        memory()
    ));
    for job in &jobs {
        job.patch(json!({ "activeDeadlineSeconds": 1 })).await;
    }
    for job in &jobs {
        job.until("the end", |status| status["completionTime"].is_string())
            .await;
    }
    for job in &jobs {
        job.until_no_pods().await;
    }
    let audit = Audit::begin().expect("the project's own cluster has an audit log");
    // This long, because what is counted is what comes in that time.
    tokio::time::sleep(WATCHED).await;
    let writes = audit.writes();
    let leases = writes.iter().filter(|write| write.resource == "leases").count();
    page.say(&format!("Memory with {MANY} jobs that have ended: {}.\n", memory()));
    page.say(&format!(
        "Writes in {} s with {MANY} jobs that have ended: {leases} of the Lease, {} others.\n",
        WATCHED.as_secs(),
        writes.len() - leases
    ));
    for write in writes.iter().filter(|write| write.resource != "leases") {
        page.say(&format!("- {write:?}"));
    }
    lab.close().await;
    drop(kwok);
}

/// Kwok, and nodes of its making: <https://kwok.sigs.k8s.io/>.
struct Kwok(Child);

impl Kwok {
    const NODES: usize = 10;

    fn start() -> Kwok {
        let nodes = (0..Kwok::NODES).map(|number| {
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": format!("kwok-{number}"),
                    "annotations": { "kwok.x-k8s.io/node": "fake" },
                    "labels": { "type": "kwok", "kubernetes.io/hostname": format!("kwok-{number}") },
                },
                "spec": { "taints": [{ "key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule" }] },
                "status": {
                    "allocatable": { "cpu": "1000", "memory": "4Ti", "pods": "1000", "ephemeral-storage": "100Ti" },
                    "capacity": { "cpu": "1000", "memory": "4Ti", "pods": "1000", "ephemeral-storage": "100Ti" },
                },
            })
        });
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": nodes.collect::<Vec<_>>() });
        let file = std::env::temp_dir().join("trireme-kwok-nodes.json");
        std::fs::write(&file, list.to_string()).expect("a temporary file can be written");
        kubectl(&["apply", "-f", &file.display().to_string()]).expect("nodes can be made");
        let which = Command::new("which").arg("kwok").output().expect("which can be run");
        let binary = String::from_utf8_lossy(&which.stdout).trim().to_owned();
        let stages = Path::new(&binary)
            .ancestors()
            .nth(2)
            .expect("kwok is in a folder")
            .join("kwok");
        let mut kwok = Command::new(&binary);
        kwok.arg("--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake");
        for stage in std::fs::read_dir(&stages).expect("stages lie beside kwok").flatten() {
            kwok.arg("--config").arg(stage.path());
        }
        kwok.arg("--kubeconfig")
            .arg(std::env::var_os("KUBECONFIG").expect("KUBECONFIG names the cluster"));
        let log = std::fs::File::create(std::env::temp_dir().join("trireme-kwok.log")).expect("a log can be written");
        let child = kwok.stdout(Stdio::null()).stderr(log).spawn().expect("kwok can be run");
        Kwok(child)
    }
}

impl Drop for Kwok {
    fn drop(&mut self) {
        drop(kubectl(&["delete", "nodes", "--selector", "type=kwok", "--wait=false"]));
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
