//! `trireme run --workers N`, watched through what it logs: who joined, what was given to whom, who was lost, how far the
//! driver is.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::proc::{arguments, children};
use crate::process::{Output, Program, Running, trireme};

/// The driver tells each launch of a task at debug.
const LOG: &str = "warn,trireme=info,trireme_batch=debug";

/// What is awaited comes within seconds, or never.
const LIMIT: Duration = Duration::from_secs(60);

/// A driver and its workers, with a parent that starts lost workers again. Dropping it ends them all.
#[derive(Debug)]
pub struct Cluster {
    running: Running,
    log: ClusterLog,
    limit: Duration,
}

impl Cluster {
    /// The program that runs `manifest` on `workers` workers and prints its answer as CSV.
    pub fn program(workers: u32, manifest: &str) -> Program {
        Cluster::program_with(workers, manifest, &["--output", "csv"])
    }

    /// The same with other arguments.
    pub fn program_with(workers: u32, manifest: &str, arguments: &[&str]) -> Program {
        let workers = workers.to_string();
        let first = ["run", "--workers", &workers, "--log", LOG, "-f", "-"];
        trireme(first.iter().chain(arguments)).stdin(manifest)
    }

    /// Starts it.
    pub fn start(program: Program) -> Cluster {
        Cluster::of(program.spawn())
    }

    /// Watches a driver that was started by hand: it is its own parent, and its workers are somebody else's children.
    pub fn of(running: Running) -> Cluster {
        Cluster {
            running,
            log: ClusterLog::default(),
            limit: LIMIT,
        }
    }

    /// Waits longer than usual for what is awaited.
    #[must_use]
    pub fn patient(self, limit: Duration) -> Cluster {
        Cluster { limit, ..self }
    }

    /// What has been read of the log so far. The processes may be ahead of it.
    pub fn log(&self) -> &ClusterLog {
        &self.log
    }

    /// Blocks until the log meets `condition`. `awaited` names it in the failure.
    pub fn wait_until(&mut self, awaited: &str, condition: impl Fn(&ClusterLog) -> bool) {
        let Cluster { running, log, limit } = self;
        if !condition(log) {
            running.wait_for(awaited, *limit, |line| {
                log.read(&line.text);
                condition(log)
            });
        }
    }

    /// Sends a signal to a worker that has joined; false if it has ended already.
    pub fn signal_worker(&self, worker: u64, signal: Signal) -> bool {
        kill_process(self.log.worker(worker).pid, signal).is_ok()
    }

    /// The driver of this moment. Between two there is none.
    pub fn driver(&self) -> Option<Pid> {
        let mut processes = children(self.pid()).into_iter();
        processes.find(|pid| arguments(*pid).get(1).is_some_and(|word| word == "driver"))
    }

    /// Sends a signal to the driver; false if there is none at this moment.
    pub fn signal_driver(&self, signal: Signal) -> bool {
        self.driver().is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// The command line of the driver or of a worker, without the program's name.
    pub fn arguments_of(&self, role: &str) -> Vec<String> {
        let processes = children(self.pid()).into_iter().map(arguments);
        let found = processes
            .into_iter()
            .find(|words| words.get(1).is_some_and(|word| word == role));
        found.unwrap_or_else(|| panic!("no {role} runs")).split_off(1)
    }

    /// Sends a signal to the parent alone.
    pub fn signal_parent(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// The parent of driver and workers.
    pub fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// Blocks until all have ended; returns what was said, and all of the log.
    pub fn wait(self) -> (Output, ClusterLog) {
        self.wait_watching(|| {})
    }

    /// As [`Cluster::wait`]; calls `look` whenever something is said.
    pub fn wait_watching(self, look: impl FnMut()) -> (Output, ClusterLog) {
        let output = self.running.wait_watching(look);
        let log = ClusterLog::of(&output.stderr);
        (output, log)
    }
}

/// A command line with other values of some options, and without what ties it to its parent.
pub fn with_options(arguments: &[String], options: &[(&str, &str)]) -> Vec<String> {
    let mut changed: Vec<String> = Vec::new();
    for argument in arguments.iter().filter(|argument| *argument != "--until-stdin-closes") {
        let before = changed.last().map(String::as_str);
        let value = options.iter().find(|(name, _)| Some(*name) == before);
        changed.push(value.map_or_else(|| argument.clone(), |(_, value)| (*value).to_owned()));
    }
    changed
}

/// What is said of one driver's life, in the order it happened.
#[derive(Clone, Debug, Default)]
pub struct ClusterLog {
    /// Which driver of the run it is, from 1; 0 before its first word.
    pub generation: u64,
    pub workers: Vec<Worker>,
    pub launches: Vec<Launch>,
    pub marks: Vec<Mark>,
    /// One for each statement that is done.
    pub costs: Vec<Cost>,
    /// The lives before, the first one first.
    pub earlier: Vec<ClusterLog>,
}

/// What a statement moved between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Sent by the workers' data ports since the job began.
    pub shuffle_bytes: u64,
    /// Fetched from them by the driver.
    pub result_bytes: u64,
}

/// A point that driver or worker has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A worker is about to run a task.
    Runs {
        task: u64,
        /// It reads outputs of other tasks, not tables.
        reads_shuffle: bool,
        /// It writes parts of a destination, not outputs for other tasks or the driver.
        writes_parts: bool,
    },
    Finished {
        task: u64,
    },
    /// The driver asks a worker for a part of the result.
    Fetching {
        worker: u64,
        task: u64,
    },
    Fetched {
        task: u64,
    },
    /// A record is in the journal.
    Journaled {
        record: String,
    },
    Committing,
    Committed,
}

/// One attachment of a worker process: a process that comes back is another worker to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub id: u64,
    pub name: String,
    pub pid: Pid,
    /// Its stream ended before the job did, or it was declared lost.
    pub lost: bool,
    /// It told the driver that it wants to leave.
    pub drains: bool,
    /// The driver sent it home before the end of the job.
    pub released: bool,
}

/// A task given to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    pub worker: u64,
    pub task: u64,
    pub place: Place,
}

/// What a task works on; the same in every attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub run: u64,
    pub stage: u64,
    pub partition: u64,
}

impl ClusterLog {
    /// Reads a whole log.
    pub fn of(text: &str) -> ClusterLog {
        let mut log = ClusterLog::default();
        text.lines().for_each(|line| log.read(line));
        log
    }

    /// The worker of that id, which must have joined.
    pub fn worker(&self, id: u64) -> &Worker {
        let worker = self.workers.iter().find(|worker| worker.id == id);
        worker.unwrap_or_else(|| panic!("no worker {id} in {self:?}"))
    }

    /// The task that `worker` was given last.
    pub fn last_launch(&self, worker: u64) -> Option<Launch> {
        self.launches
            .iter()
            .rev()
            .find(|launch| launch.worker == worker)
            .copied()
    }

    /// Whether a process of the same name joined after `worker`.
    pub fn is_replaced(&self, worker: u64) -> bool {
        let old = self.worker(worker);
        self.workers
            .iter()
            .any(|new| new.id > old.id && new.name == old.name && new.pid != old.pid)
    }

    /// The worker that was given `task`.
    pub fn worker_of(&self, task: u64) -> Option<u64> {
        let launch = self.launches.iter().find(|launch| launch.task == task);
        launch.map(|launch| launch.worker)
    }

    /// Tasks that were given away and have not come back.
    pub fn running(&self) -> Vec<Launch> {
        let finished = |task| self.marks.contains(&Mark::Finished { task });
        let lost = |launch: &&Launch| self.worker(launch.worker).lost;
        let launches = self.launches.iter().filter(|launch| !lost(launch));
        launches.filter(|launch| !finished(launch.task)).copied().collect()
    }

    /// Launches that were not the first of their place.
    pub fn reruns(&self) -> usize {
        let places: BTreeSet<_> = self.launches.iter().map(|launch| launch.place).collect();
        self.launches.len() - places.len()
    }

    /// Takes in one line; most say nothing of interest. Fails the test if a worker is given a task that was lost before.
    fn read(&mut self, line: &str) {
        let Some((_, said)) = line.split_once(" trireme_batch::") else {
            return;
        };
        let Some((module, said)) = said.split_once(": ") else {
            return;
        };
        let fields: HashMap<&str, &str> = said.split(' ').filter_map(|word| word.split_once('=')).collect();
        let text = |name: &str| *fields.get(name).unwrap_or_else(|| panic!("no {name} in {line:?}"));
        let number = |name: &str| -> u64 { text(name).parse().unwrap_or_else(|_| panic!("{name} in {line:?}")) };
        if !module.starts_with("cluster::driver::shell") {
            return self.read_mark(line, said, &text, &number);
        }
        let says = |what: &str| said.strip_prefix(what).is_some_and(|rest| rest.starts_with(" worker="));
        if says("fetching result") {
            let (worker, task) = (number("worker"), number("task"));
            self.marks.push(Mark::Fetching { worker, task });
        } else if said.starts_with("result fetched ") {
            self.marks.push(Mark::Fetched { task: number("task") });
        } else if says("task reported") {
            self.marks.push(Mark::Finished { task: number("task") });
        } else if says("worker joined") {
            let pid = i32::try_from(number("pid")).ok().and_then(Pid::from_raw);
            self.workers.push(Worker {
                id: number("worker"),
                name: text("name").to_owned(),
                pid: pid.unwrap_or_else(|| panic!("pid in {line:?}")),
                lost: false,
                drains: false,
                released: false,
            });
        } else if says("launch") {
            let place = Place {
                run: number("run"),
                stage: number("stage"),
                partition: number("partition"),
            };
            let worker = self.worker(number("worker"));
            assert!(!worker.lost, "a lost worker is given a task: {line:?}");
            self.launches.push(Launch {
                worker: worker.id,
                task: number("task"),
                place,
            });
        } else if says("worker declared lost") || says("a worker's control stream ended") {
            self.change(number("worker"), |worker| worker.lost = true);
        } else if says("worker drains") {
            self.change(number("worker"), |worker| worker.drains = true);
        } else if says("worker released") {
            self.change(number("worker"), |worker| worker.released = true);
        }
    }

    fn read_mark<'a>(&mut self, line: &str, said: &str, text: &dyn Fn(&str) -> &'a str, number: &dyn Fn(&str) -> u64) {
        if said.starts_with("journal opened ") {
            let generation = number("generation");
            if generation > 1 {
                let ended = std::mem::take(self);
                self.earlier.clone_from(&ended.earlier);
                self.earlier.push(ended);
            }
            self.generation = generation;
        } else if said.starts_with("statement finished ") {
            self.costs.push(Cost {
                shuffle_bytes: number("shuffle_bytes"),
                result_bytes: number("result_bytes"),
            });
        } else if said.starts_with("journaled ") {
            let record = text("record").trim_matches('"').to_owned();
            self.marks.push(Mark::Journaled { record });
        } else if said.starts_with("committing ") {
            self.marks.push(Mark::Committing);
        } else if said.starts_with("committed ") {
            self.marks.push(Mark::Committed);
        } else if said.starts_with("task started ") && line.contains(&format!("-g{}-r", self.generation)) {
            // A worker that has not noticed yet may still speak of the driver before.
            self.marks.push(Mark::Runs {
                task: number("attempt"),
                reads_shuffle: text("reads").contains("shuffle"),
                writes_parts: text("writes").contains("parts"),
            });
        }
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.id == id) {
            change(worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let shell = "2026-01-01T00:00:00.0Z  INFO trireme_batch::cluster::driver::shell::workers:";
        let log = ClusterLog::of(&format!(
            "[1/1] SELECT 1\n\
             {shell} worker joined worker=1 name=worker-2 instance=\"worker-2\" pid=11 slots=1\n\
             {shell} launch worker=1 run=1 stage=5 partition=2 task=7\n\
             {shell} worker declared lost worker=1 reason=silent for 10 s\n\
             {shell} worker joined worker=2 name=worker-2 instance=\"worker-2\" pid=12 slots=1\n\
             {shell} worker drains worker=2 reason=the worker was told to end\n\
             2026-01-01T00:00:00.0Z  INFO trireme_batch::job: statement finished job=test statement=1 total=1 elapsed_ms=7 \
             rows_read=3 spilled_bytes=0 shuffle_bytes=5 result_bytes=4 tasks_rerun=0\n"
        ));
        let cost = Cost {
            shuffle_bytes: 5,
            result_bytes: 4,
        };
        assert_eq!(log.costs, [cost]);
        let workers: Vec<_> = log
            .workers
            .iter()
            .map(|worker| (worker.id, worker.lost, worker.drains))
            .collect();
        assert_eq!(workers, [(1, true, false), (2, false, true)]);
        assert!(log.is_replaced(1) && !log.is_replaced(2));
        let place = Place {
            run: 1,
            stage: 5,
            partition: 2,
        };
        assert_eq!(
            log.last_launch(1),
            Some(Launch {
                worker: 1,
                task: 7,
                place
            })
        );
        assert_eq!(log.last_launch(2), None);
    }

    #[test]
    fn a_driver_that_follows_another_begins_a_new_page() {
        let log = ClusterLog::of(
            "T  INFO trireme_batch::journal: journal opened job=a run=\"x\" generation=1 statements_done=0\n\
             T DEBUG trireme_batch::journal: journaled record=\"statement-started\"\n\
             T DEBUG trireme_batch::sink: committing location=/x parts=2\n\
             T  INFO trireme_batch::journal: journal opened job=a run=\"x\" generation=2 statements_done=1\n\
             T DEBUG trireme_batch::cluster::task: task started run=a-g1-r1 attempt=1 reads=\"tables\" writes=\"shuffle\"\n\
             T DEBUG trireme_batch::cluster::task: task started run=a-g2-r1 attempt=2 reads=\"shuffle\" writes=\"parts\"\n",
        );
        let runs = Mark::Runs {
            task: 2,
            reads_shuffle: true,
            writes_parts: true,
        };
        assert_eq!((log.generation, log.marks.as_slice()), (2, [runs].as_slice()));
        let record = "statement-started".to_owned();
        assert_eq!(log.earlier.len(), 1);
        assert_eq!(log.earlier[0].marks, [Mark::Journaled { record }, Mark::Committing]);
    }
}
