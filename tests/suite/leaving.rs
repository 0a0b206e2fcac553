//! A worker that is told to end: it says what it waits for, in its log and on its http port, and leaves.
//!
//! It is started by hand beside a cluster of `trireme run`, with one of the certificates that were made for that.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use trireme_tests::{Caller, Cluster, Running, Scratch, batch_job, body_of, trireme};

/// Two tasks that generate 300 million rows each: longer than any test waits.
const ENDLESS: &str = "SELECT sum(l_tax) FROM tpch.sf100.lineitem";

const TOKEN: &str = "a token of many bytes";

/// Long enough to ask what is waited for, short enough to wait for its end.
const GRACE: Duration = Duration::from_secs(5);

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_worker_that_is_still_needed_says_so_and_leaves_after_its_grace() {
    let scratch = Scratch::new();
    let program = Cluster::program(1, &batch_job(ENDLESS, "")).arguments(["--cores", "1", "--scratch"]);
    let mut cluster = Cluster::start(program.arguments([scratch.path()]));
    cluster.wait_until("the first task", |log| log.launches.len() == 1);
    let announced: Value = serde_json::from_slice(&fs::read(scratch.path().join("driver.json")).unwrap()).unwrap();

    let mut worker = Worker::start(&scratch, announced["control"].as_str().unwrap(), "leaver");
    worker.wait_for("task started");
    assert!(worker.get("/readyz").starts_with("HTTP/1.1 200"));
    let report = worker.report();
    assert_eq!(
        (&report["phase"], &report["tasksRunning"]),
        (&"Attached".into(), &1.into()),
        "{report}"
    );

    let told = Instant::now();
    worker.running.signal(Signal::TERM);
    let line = worker.wait_for("draining; this is waited for");
    assert_eq!(
        (&line["tasks_running"], &line["outputs_needed"]),
        (&1.into(), &0.into()),
        "{line}"
    );
    let report = worker.report();
    assert_eq!(report["phase"], "Draining", "{report}");
    assert_eq!(report["drainWaitsFor"]["tasksRunning"], 1, "{report}");
    let _ = worker.running.wait().succeeded();
    assert!(told.elapsed() >= GRACE, "it left after {:?}", told.elapsed());

    // Its task is given to the next who comes.
    cluster.wait_until("the loss", |log| {
        log.workers.iter().any(|worker| worker.name == "leaver" && worker.lost)
    });
    let lost = cluster.log().launches[1];
    let _relief = Worker::start(&scratch, announced["control"].as_str().unwrap(), "relief");
    cluster.wait_until("the task's second try", |log| {
        log.launches
            .iter()
            .any(|again| again.place == lost.place && again.task > lost.task)
    });
    cluster.signal_parent(Signal::INT);
    let (output, log) = cluster.wait();
    let output = output.exited(130);
    assert!(
        log.workers
            .iter()
            .any(|worker| worker.name == "leaver" && worker.drains),
        "{log:#?}"
    );
    assert!(
        output.stderr.contains("worker left before its drain was over"),
        "{output}"
    );
}

#[test]
fn a_worker_without_a_driver_is_not_ready() {
    let scratch = Scratch::new();
    // Certificates come from a cluster that has ended.
    let arguments = ["run", "--workers", "1", "-f", "-", "--scratch"].map(Into::into);
    let _ = trireme(arguments.into_iter().chain([scratch.path().to_owned()]))
        .stdin(batch_job("SELECT 1", ""))
        .run()
        .succeeded();
    let mut worker = Worker::start(&scratch, &format!("127.0.0.1:{}", free_port()), "early");
    worker.wait_for("the driver cannot be reached yet");
    assert!(worker.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(worker.get("/readyz").starts_with("HTTP/1.1 503"));
    assert_eq!(worker.report()["phase"], "Attaching");
    worker.running.signal(Signal::TERM);
    let _ = worker.running.wait().succeeded();
}

struct Worker<'a> {
    running: Running,
    scratch: &'a Scratch,
    http: u16,
}

impl<'a> Worker<'a> {
    fn start(scratch: &'a Scratch, driver: &str, name: &str) -> Worker<'a> {
        let (token, http) = (scratch.write("token", TOKEN), free_port());
        let grace = format!("{}s", GRACE.as_secs());
        let address = format!("127.0.0.1:{http}");
        let running = trireme([
            "worker",
            "--driver",
            driver,
            "--name",
            name,
            "--data",
            "127.0.0.1:0",
            "--http",
            &address,
        ])
        .arguments(["--cores", "1", "--memory", "512Mi", "--drain-grace", &grace])
        .arguments(["--log", "warn,trireme=debug", "--log-format", "json", "--tls"])
        .arguments([scratch.path().join("tls/worker-1")])
        .arguments(["--token"])
        .arguments([token])
        .spawn();
        Worker { running, scratch, http }
    }

    /// Blocks until the worker logs `message`; returns the line.
    fn wait_for(&mut self, message: &str) -> Value {
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        let line = self
            .running
            .wait_for(message, LIMIT, |line| parse(&line.text)["message"] == message);
        parse(&line.text)
    }

    fn report(&self) -> Value {
        let answer = self.get("/report");
        serde_json::from_str(body_of(&answer)).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// What the http port answers, with its head.
    fn get(&self, path: &str) -> String {
        let caller = Caller {
            trusts: Some((
                &self.scratch.path().join("tls/worker-1/ca.crt"),
                "worker.trireme.internal",
            )),
            token: Some(TOKEN),
        };
        caller.get(self.http, path)
    }
}

/// A port that was ours a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
