//! Drivers and workers as pods run them: started one by one, each with its certificate, an operator beside them that watches,
//! tells of losses and starts the next.

use std::fs;
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use trireme_tests::{Caller, Cluster, Mark, Output, Running, Scratch, batch_job, body_of, status_of, trireme};

/// A task of it generates 300 million rows or more: longer than any test waits.
const ENDLESS: &str = "SELECT sum(l_tax) FROM tpch.sf100.lineitem";

/// Some seconds of a worker's time.
const LONG: &str = "SELECT max(l_comment) > '' AS b FROM tpch.sf0_5.lineitem";

const TOKEN: &str = "a token of many bytes";

const LIMIT: Duration = Duration::from_secs(60);

/// Kubernetes cuts what is longer.
const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;

#[test]
fn the_last_word_of_a_driver_stands_in_its_termination_log() {
    let pods = Pods::new();
    let driver = pods.driver(&batch_job("SELECT 1 AS a", ""), &[]);
    let worker = pods.worker("worker-1", &driver.control, &[]);
    let _ = driver.cluster.wait().0.succeeded();
    let _ = worker.wait().succeeded();
    let report = pods.last_word();
    assert_eq!(
        (&report["phase"], &report["job"]),
        (&"Succeeded".into(), &"test".into())
    );
    assert_eq!(report["statementsDone"], 1);
    assert!(
        report["result"]["preview"].as_str().unwrap().contains("| 1 |"),
        "{report}"
    );
    assert!(
        !pods.scratch.path().join("worker-1.log").exists(),
        "a worker that was sent home has nothing to say"
    );

    let driver = pods.driver(&batch_job("SELECT 1 + ", ""), &[]);
    let _ = driver.cluster.wait().0.exited(3);
    let report = pods.last_word();
    assert_eq!(
        (&report["phase"], &report["lastError"]["code"]),
        (&"Failed".into(), &"SQL-SYNTAX".into()),
        "{report}"
    );

    let driver = pods.driver(&batch_job("SELECT 1", ""), &[]);
    driver.cluster.signal_parent(Signal::TERM);
    let _ = driver.cluster.wait().0.exited(130);
    assert_eq!(pods.last_word()["phase"], "Cancelled");
}

#[test]
fn the_last_word_of_a_driver_that_could_not_begin_says_why() {
    let pods = Pods::new();
    let good = batch_job("SELECT 1", "");
    let bad = good.replace("sql:", "sequel:");
    let nowhere = pods.scratch.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let no_address = ["--control", "192.0.2.1:7070"];
    for (manifest, arguments, exit, code, job) in [
        (&bad, &[][..], 2, "MANIFEST-UNKNOWN-FIELD", "job"),
        (&good, &["--tls", nowhere][..], 6, "NETWORK-TLS", "test"),
        (&good, &no_address[..], 6, "NETWORK-UNREACHABLE", "test"),
        // A file where the journal's folder should be.
        (&good, &["--storage", "/dev/null"][..], 4, "DATA-NOT-FOUND", "test"),
    ] {
        let arguments = [arguments, &["--run", "a", "--generation", "7"][..]].concat();
        let output = pods.start_driver(manifest, &arguments).wait().exited(exit);
        let report = pods.last_word();
        assert_eq!(
            (&report["phase"], &report["lastError"]["code"], &report["job"]),
            (&"Failed".into(), &code.into(), &job.into()),
            "{report}\n{output}"
        );
        assert_eq!(report["generation"], 7);
    }
}

#[test]
fn a_termination_log_that_cannot_be_written_changes_nothing() {
    let pods = Pods::new();
    let log = ["--termination-log", "/nowhere/at/all"];
    let driver = pods.driver(&batch_job("SELECT 1 AS a", ""), &log);
    let worker = pods.worker("worker-1", &driver.control, &log);
    let output = driver.cluster.wait().0.succeeded();
    assert!(
        output.stderr.contains("the termination log cannot be written"),
        "{output}"
    );
    let _ = worker.wait().succeeded();
}

#[test]
fn a_worker_says_what_ended_it() {
    let pods = Pods::new();
    let worker = pods.worker("worker-1", "127.0.0.1:1", &["--tls", "/nowhere"]);
    let output = worker.wait().exited(6);
    let text = fs::read_to_string(pods.scratch.path().join("worker-1.log")).unwrap();
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["code"], "NETWORK-TLS", "{output}");
    assert!(problem["message"].as_str().unwrap().contains("/nowhere/"), "{problem}");
}

/// No journal: what the first driver committed is known at its destination alone.
#[test]
fn a_driver_without_storage_knows_what_the_one_before_had_committed() {
    let pods = Pods::new();
    let out = pods.scratch.path().join("out").display().to_string();
    let job = batch_job(
        &format!(
            "COPY (SELECT 7 AS n) TO '{out}/' STORED AS PARQUET OPTIONS (mode 'append');
             COPY (SELECT 8 AS n) TO '{out}-new/' STORED AS PARQUET;
             {LONG}"
        ),
        "",
    );
    let mut first = pods.driver(&job, &["--run", "a", "--generation", "1"]);
    let worker = pods.worker("worker-1", &first.control, &[]);
    first.cluster.wait_until("the second commit", |log| {
        log.marks.iter().filter(|mark| **mark == Mark::Committed).count() == 2
    });
    let control = first.control.clone();
    let _ = first.kill();

    // Where its worker goes on looking for it.
    let options = ["--run", "a", "--generation", "2", "--control", &control];
    let second = pods.driver(&job, &options);
    let (output, log) = second.cluster.wait();
    let output = output.succeeded();
    assert_eq!(output.stdout, "b\ntrue\n", "{output}");
    assert!(!log.marks.contains(&Mark::Committed), "a write is done twice\n{output}");
    assert_eq!(log.workers.len(), 1);
    let report = pods.last_word();
    assert_eq!(
        (&report["phase"], &report["generation"], &report["statementsDone"]),
        (&"Succeeded".into(), &2.into(), &3.into()),
        "{report}"
    );
    let _ = worker.wait().succeeded();
    for folder in [out.clone(), format!("{out}-new")] {
        assert_eq!(rows_in(&folder), "1", "{folder}");
    }

    // Another run is another job.
    let again = pods.driver(&job, &["--run", "b"]);
    let worker = pods.worker("worker-1", &again.control, &[]);
    let output = again.cluster.wait().0.exited(4);
    assert!(output.stderr.contains("error[DATA-DESTINATION-EXISTS]"), "{output}");
    let _ = worker.wait().succeeded();
    assert_eq!(rows_in(&out), "2");
}

#[test]
fn a_result_outlives_the_driver_that_showed_it() {
    for record in ["statement-done", "finished"] {
        let pods = Pods::new();
        let storage = pods.scratch.path().join("storage").display().to_string();
        let job = batch_job("SELECT n_name FROM tpch.tiny.nation WHERE n_nationkey = 7", "");
        let journal = ["--storage", storage.as_str(), "--run", "a"];
        let mut first = pods.driver(&job, &journal);
        let worker = pods.worker("worker-1", &first.control, &[]);
        first.cluster.wait_until("the rows", |log| {
            log.marks.iter().any(|mark| matches!(mark, Mark::Fetched { .. }))
        });
        // A driver waits for its workers to close their streams, so that it is there to be killed.
        worker.signal(Signal::STOP);
        first.cluster.wait_until(record, |log| {
            let awaited = Mark::Journaled {
                record: record.to_owned(),
            };
            log.marks.contains(&awaited)
        });
        let output = first.kill();
        assert_eq!(output.stdout, "n_name\nGERMANY\n", "{output}");
        drop(worker);

        // It has no worker, and needs none.
        let second = pods.driver(&job, &[&journal[..], &["--generation", "5"][..]].concat());
        let output = second.cluster.wait().0.succeeded();
        let report = pods.last_word();
        assert_eq!(
            (&report["phase"], &report["generation"], &report["statementsDone"]),
            (&"Succeeded".into(), &5.into(), &1.into()),
            "{record}: {report}"
        );
        let result = &report["result"];
        assert!(
            result["preview"].as_str().unwrap().contains("| GERMANY |"),
            "{record}: {result}\n{output}"
        );
        assert_eq!((&result["rows"], &result["truncated"]), (&1.into(), &false.into()));
    }
}

#[test]
fn a_worker_that_is_said_to_be_gone_is_lost_at_once_and_for_ever() {
    let pods = Pods::new();
    let mut driver = pods.driver(&batch_job(&format!("{LONG};\n{ENDLESS}"), ""), &["--slots", "2"]);
    let survivor = pods.worker("survivor", &driver.control, &[]);
    let mut goner = pods.worker("goner", &driver.control, &[]);
    driver.cluster.wait_until("a task of each", |log| {
        let is_busy = |name: &str| {
            let worker = log.workers.iter().find(|worker| worker.name == name);
            worker.is_some_and(|worker| log.last_launch(worker.id).is_some())
        };
        is_busy("survivor") && is_busy("goner")
    });
    goner.signal(Signal::STOP);
    let log = driver.cluster.log();
    let goner_id = log.workers.iter().find(|worker| worker.name == "goner").unwrap().id;
    let lost = log.last_launch(goner_id).unwrap();

    let operator = pods.caller(Some(TOKEN));
    let post = |caller: &Caller<'_>, name: &str| {
        status_of(&caller.request("POST", driver.http, &format!("/workers/{name}/lost")))
    };
    assert_eq!(post(&pods.caller(None), "goner"), 401);
    assert_eq!(post(&operator, "nobody"), 404);
    assert_eq!(post(&operator, "goner"), 202);
    assert_eq!(post(&operator, "goner"), 202);
    driver.cluster.wait_until("its task elsewhere", |log| {
        let mut launches = log.launches.iter();
        launches.any(|again| again.place == lost.place && again.worker != goner_id)
    });
    driver
        .cluster
        .wait_until("the next statement", |log| !log.costs.is_empty());
    let report: Value = serde_json::from_str(body_of(&operator.get(driver.http, "/report"))).unwrap();
    let states: Vec<_> = report["workers"].as_array().unwrap().iter().collect();
    let state = |name: &str| {
        let named = states
            .iter()
            .find(|worker| worker["id"].as_str().unwrap().starts_with(name));
        named.unwrap()["state"].clone()
    };
    assert_eq!((state("goner"), state("survivor")), ("Lost".into(), "Active".into()));

    // It wakes up, and is not let in again.
    goner.signal(Signal::CONT);
    let refusal = goner.wait_for("its refusal", LIMIT, |line| line.text.contains("error[NETWORK-TLS]"));
    assert!(refusal.text.contains("worker goner was declared gone"), "{refusal:?}");
    let _ = goner.wait().exited(6);
    driver.cluster.signal_parent(Signal::TERM);
    let (output, log) = driver.cluster.wait();
    let output = output.exited(130);
    assert!(
        output.stderr.contains("reason=gone, says who runs the workers"),
        "{output}"
    );
    assert!(!output.stderr.contains("silent for"), "{output}");
    assert_eq!(output.stdout, "b\ntrue\n", "{output}");
    assert_eq!(log.workers.len(), 2, "{log:#?}");
    survivor.signal(Signal::TERM);
    let _ = survivor.wait().succeeded();
}

#[test]
fn workers_outlive_a_driver_that_is_told_to_end() {
    let pods = Pods::new();
    let job = batch_job(LONG, "");
    let mut first = pods.driver(&job, &["--run", "a"]);
    let worker = pods.worker("worker-1", &first.control, &[]);
    // Its grace is longer than the test.
    let mut leaver = pods.worker("worker-2", &first.control, &["--drain-grace", "1h"]);
    first.cluster.wait_until("both workers and a task", |log| {
        log.workers.len() == 2 && !log.launches.is_empty()
    });
    first.cluster.signal_parent(Signal::TERM);
    let control = first.control.clone();
    let _ = first.cluster.wait().0.exited(130);
    assert_eq!(pods.last_word()["phase"], "Cancelled");

    // Nobody is there who could say that it is not needed.
    leaver.wait_for("the driver's end", LIMIT, |line| {
        line.text.contains("the driver is gone; trying to reach it again")
    });
    leaver.signal(Signal::TERM);
    let output = leaver.wait().succeeded();
    assert!(!output.stderr.contains("sent home"), "{output}");

    let options = ["--run", "a", "--generation", "2", "--control", &control];
    let second = pods.driver(&job, &options);
    let (output, log) = second.cluster.wait();
    let output = output.succeeded();
    assert_eq!(output.stdout, "b\ntrue\n");
    let pids: Vec<_> = log.workers.iter().map(|worker| worker.pid).collect();
    assert_eq!(pids, [worker.pid()], "{output}");
    let output = worker.wait().succeeded();
    assert!(output.stderr.contains("sent home"), "{output}");
}

#[test]
fn a_worker_does_not_go_back_to_a_driver_that_was_replaced() {
    let pods = Pods::new();
    let job = batch_job(ENDLESS, "");
    let second = pods.driver(&job, &["--run", "a", "--generation", "2"]);
    let mut worker = pods.worker("worker-1", &second.control, &[]);
    // A worker that has begun has read who the driver is.
    worker.wait_for("a task", LIMIT, |line| line.text.contains("task started"));
    let control = second.control.clone();
    let _ = second.kill();

    let of = |generation| ["--run", "a", "--generation", generation, "--control", &control];
    let first = pods.driver(&job, &of("1"));
    worker.wait_for("its refusal", LIMIT, |line| {
        line.text.contains("generation 1 was replaced by that of generation 2")
    });
    let output = first.kill();
    assert!(!output.stderr.contains("task reported"), "{output}");

    let third = pods.driver(&batch_job(LONG, ""), &of("3"));
    assert_eq!(third.cluster.wait().0.succeeded().stdout, "b\ntrue\n");
    let _ = worker.wait().succeeded();
}

#[test]
fn a_worker_that_is_told_to_end_does_not_wait_for_an_address_that_says_nothing() {
    let pods = Pods::new();
    // The kernel accepts for it; its next word would be the driver's part of a handshake.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let worker = pods.worker("worker-1", &deaf.local_addr().unwrap().to_string(), &[]);
    let (_held, _) = deaf.accept().unwrap();
    worker.signal(Signal::TERM);
    let output = worker.wait().succeeded();
    assert!(
        !output.stderr.contains("the driver cannot be reached yet"),
        "it waited for the address\n{output}"
    );
}

/// A kubelet's probes trust everybody, ask for no name, show no token, and speak HTTP/1.1.
#[test]
fn probes_are_answered_whoever_asks() {
    let pods = Pods::new();
    let mut driver = pods.driver(&batch_job(ENDLESS, ""), &[]);
    let probe = Caller {
        trusts: None,
        token: None,
    };
    assert_eq!(status_of(&probe.get(driver.http, "/healthz")), 200);
    // Without any worker: it can do its own work.
    assert_eq!(status_of(&probe.get(driver.http, "/readyz")), 200);
    let _worker = pods.worker("worker-1", &driver.control, &[]);
    driver.cluster.wait_until("a task", |log| !log.launches.is_empty());
    for path in ["/metrics", "/report"] {
        assert_eq!(status_of(&probe.get(driver.http, path)), 401, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status_of(&probe.get(driver.http, path)), 200, "{path}");
    }
}

#[test]
fn everything_works_over_ipv6() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("left out: this machine has no IPv6");
        return;
    }
    let pods = Pods::new();
    // A shuffle between the workers, and rows for the driver.
    let sql = "SELECT n_regionkey, count(*) AS n FROM tpch.sf0_1.customer JOIN tpch.sf0_1.nation \
               ON c_nationkey = n_nationkey GROUP BY n_regionkey ORDER BY n_regionkey";
    let driver = pods.driver(&batch_job(sql, ""), &["--control", "[::1]:0", "--slots", "2"]);
    let data = ["--data", "[::1]:0", "--advertise", "::1"];
    let in_brackets = ["--data", "[::1]:0", "--advertise", "[::1]"];
    let workers = [("worker-1", data), ("worker-2", in_brackets)]
        .map(|(name, arguments)| pods.worker(name, &driver.control, &arguments));
    let (output, log) = driver.cluster.wait();
    let output = output.succeeded();
    assert_eq!(output.stdout.lines().count(), 6, "{output}");
    assert_eq!(log.reruns(), 0, "{output}");
    assert!(log.costs[0].shuffle_bytes > 0, "{output}");
    for worker in workers {
        let _ = worker.wait().succeeded();
    }
}

/// What an operator keeps: folders with certificates, a token, and a place for what pods leave.
struct Pods {
    scratch: Scratch,
}

/// A driver that listens.
struct Driver {
    cluster: Cluster,
    control: String,
    http: u16,
}

impl Pods {
    fn new() -> Pods {
        let scratch = Scratch::new();
        scratch.write("token", TOKEN);
        Pods { scratch }
    }

    /// Starts a driver; `arguments` go before those that every driver has.
    fn start_driver(&self, manifest: &str, arguments: &[&str]) -> Running {
        let manifest = self.scratch.write("job.yaml", manifest);
        let defaults = [
            ("--control", "127.0.0.1:0".to_owned()),
            ("--http", "127.0.0.1:0".to_owned()),
            ("--tls", certificates("driver").display().to_string()),
            ("--termination-log", self.path("driver.log")),
        ];
        trireme(["driver", "--output", "csv", "--cores", "2", "--memory", "512Mi"])
            .arguments(["--log", "warn,trireme=info,trireme_batch=debug"])
            .arguments(["--token", &self.path("token"), "--job", manifest.to_str().unwrap()])
            .arguments(with_defaults(arguments, &defaults))
            .spawn()
    }

    /// The same, once its ports are bound.
    fn driver(&self, manifest: &str, arguments: &[&str]) -> Driver {
        let mut running = self.start_driver(manifest, arguments);
        let line = running.wait_for("the driver's ports", LIMIT, |line| line.text.contains("driver listens"));
        let field = |name: &str| {
            let mut words = line.text.split(' ').filter_map(|word| word.split_once('='));
            words.find(|(found, _)| *found == name).unwrap().1
        };
        Driver {
            control: field("control").to_owned(),
            http: field("http").rsplit_once(':').unwrap().1.parse().unwrap(),
            cluster: Cluster::of(running),
        }
    }

    /// Starts a worker of one core.
    fn worker(&self, name: &str, driver: &str, arguments: &[&str]) -> Running {
        let defaults = [
            ("--data", "127.0.0.1:0".to_owned()),
            ("--tls", certificates("worker-1").display().to_string()),
            ("--termination-log", self.path(&format!("{name}.log"))),
        ];
        trireme(["worker", "--driver", driver, "--name", name, "--http", "127.0.0.1:0"])
            .arguments(["--cores", "1", "--memory", "512Mi", "--log", "warn,trireme=debug"])
            .arguments(with_defaults(arguments, &defaults))
            .spawn()
    }

    /// Who knows a driver by its certificate.
    fn caller(&self, token: Option<&'static str>) -> Caller<'static> {
        static AUTHORITY: OnceLock<PathBuf> = OnceLock::new();
        let authority = AUTHORITY.get_or_init(|| certificates("driver").join("ca.crt"));
        Caller {
            trusts: Some((authority, "driver.trireme.internal")),
            token,
        }
    }

    /// What the last driver left in its termination log.
    fn last_word(&self) -> Value {
        let text = fs::read_to_string(self.scratch.path().join("driver.log")).unwrap();
        assert!(text.len() <= TERMINATION_MESSAGE_BYTES_MAX, "{}", text.len());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }
}

impl Driver {
    /// Kills it; fails the test if it had ended by itself.
    fn kill(self) -> Output {
        self.cluster.signal_parent(Signal::KILL);
        let (output, _) = self.cluster.wait();
        let killed = Some(Signal::KILL.as_raw());
        assert_eq!(output.status.signal(), killed, "it was not killed\n{output}");
        output
    }
}

/// `arguments`, and those of `defaults` that are not among them.
fn with_defaults(arguments: &[&str], defaults: &[(&str, String)]) -> Vec<String> {
    let given = arguments.iter().map(|argument| (*argument).to_owned());
    let missing = defaults.iter().filter(|(name, _)| !arguments.contains(name));
    given
        .chain(missing.flat_map(|(name, value)| [(*name).to_owned(), value.clone()]))
        .collect()
}

/// A folder with the certificate of a pod of `test`. They are made once, by a cluster that has ended.
fn certificates(instance: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pods");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        let arguments = [
            "run",
            "--workers",
            "1",
            "-f",
            "-",
            "--scratch",
            folder.to_str().unwrap(),
        ];
        let _ = trireme(arguments).stdin(batch_job("SELECT 1", "")).run().succeeded();
        folder
    });
    folder.join("tls").join(instance)
}

/// How many rows a reader finds in a folder of Parquet files.
fn rows_in(folder: &str) -> String {
    let sql = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{folder}/'; SELECT count(*) AS n FROM t");
    let output = trireme(["sql", "--output", "csv", "-c", &sql]).run().succeeded();
    output.stdout.lines().last().unwrap().to_owned()
}
