//! A process under test: its own process group, a time limit, and its output line by line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use serde_json::Value;

/// A debug build on two busy cores needs seconds for what a release build does at once; what needs more than this hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// How long after the end of the process its pipes may stay open. They do when a child of it lives on, which is a bug:
/// whoever starts a process joins it or ends it.
const ORPHANS_LIMIT: Duration = Duration::from_secs(10);

/// The `trireme` binary with some arguments.
pub fn trireme<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Program {
    Program::new(binary(), arguments)
}

/// `$TRIREME_BIN`, or what cargo built into the same profile folder as the running test.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("TRIREME_BIN") {
        return PathBuf::from(path);
    }
    let test = env::current_exe().unwrap_or_else(|error| panic!("cannot tell the path of the test binary: {error}"));
    // <target>/<profile>/deps/<test>-<hash>
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("cargo keeps test binaries two folders deep");
    let path = profile.join("trireme");
    if !path.is_file() {
        panic!(
            "no binary at {}: run `cargo build --workspace` first, or set TRIREME_BIN",
            path.display()
        );
    }
    path
}

/// A command that has not been started yet.
#[derive(Debug)]
pub struct Program {
    command: Command,
    stdin: Vec<u8>,
    stdout_read: bool,
    limit: Duration,
    orphans_limit: Duration,
}

impl Program {
    /// `path` with `arguments`, an empty standard input and a time limit of two minutes. Of the environment it sees only
    /// `PATH`, `HOME` and `TMPDIR`: what is exported on a developer's machine must not decide about a test.
    pub fn new<A: AsRef<OsStr>>(path: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Program {
        let mut command = Command::new(path);
        command.args(arguments).env_clear();
        for name in ["PATH", "HOME", "TMPDIR"] {
            command.envs(env::var_os(name).map(|value| (OsString::from(name), value)));
        }
        Program {
            command,
            stdin: Vec::new(),
            stdout_read: true,
            limit: LIMIT,
            orphans_limit: ORPHANS_LIMIT,
        }
    }

    /// More arguments, after those that it has.
    #[must_use]
    pub fn arguments<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Program {
        self.command.args(arguments);
        self
    }

    /// What it reads on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Program {
        self.stdin = bytes.into();
        self
    }

    /// The folder it starts in.
    #[must_use]
    pub fn directory(mut self, path: impl AsRef<Path>) -> Program {
        self.command.current_dir(path);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Program {
        self.command.env(name, value);
        self
    }

    /// Gives it the whole environment of the test, where a tool of the machine needs its settings (proxies, indexes).
    #[must_use]
    pub fn whole_environment(mut self) -> Program {
        self.command.envs(env::vars_os());
        self
    }

    /// Its standard output is a pipe that nobody reads any more, as after `| head`.
    #[must_use]
    pub fn reader_gone(mut self) -> Program {
        self.stdout_read = false;
        self
    }

    /// How long it may run before it is killed and the test fails.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Program {
        self.limit = limit;
        self
    }

    /// How long after its end its children may hold its output open before the test fails.
    #[must_use]
    pub fn orphans_limit(mut self, limit: Duration) -> Program {
        self.orphans_limit = limit;
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Starts it.
    pub fn spawn(self) -> Running {
        let Program {
            mut command,
            stdin,
            stdout_read,
            limit,
            orphans_limit,
        } = self;
        let text = format!("{command:?}");
        let started = Instant::now();
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(if stdout_read { Stdio::piped() } else { closed_pipe() })
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        let (pid, events) = watch(&mut child, stdin);
        Running {
            child,
            pid,
            command: text,
            started,
            limit,
            orphans_limit,
            events,
            seen: Seen::default(),
        }
    }
}

fn closed_pipe() -> Stdio {
    let (_, writer) = pipe().unwrap_or_else(|error| panic!("no pipe: {error}"));
    writer.into()
}

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A line of output, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub stream: Stream,
    pub text: String,
}

/// A process that has been started. Dropping it kills its process group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pid: Pid,
    command: String,
    started: Instant,
    limit: Duration,
    orphans_limit: Duration,
    events: Receiver<Event>,
    seen: Seen,
}

/// What the threads beside a process tell its owner.
#[derive(Debug)]
enum Event {
    Line(Line),
    Closed,
    Exited,
}

/// What is known of a process so far.
#[derive(Debug, Default)]
struct Seen {
    stdout: String,
    stderr: String,
    streams_closed: u32,
    exited_at: Option<Instant>,
}

impl Running {
    /// Its process id, which is also the id of its process group.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal to the process alone, as Kubernetes does.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.command));
    }

    /// Sends a signal to the process and all of its children, as a terminal does for Ctrl-C.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.command));
    }

    /// Blocks until a line comes that meets `condition`, at most for `limit`. `awaited` names it in the failure.
    pub fn wait_for(&mut self, awaited: &str, limit: Duration, mut condition: impl FnMut(&Line) -> bool) -> Line {
        let deadline = Instant::now() + limit;
        while self.seen.streams_closed < 2 {
            match self.next(deadline) {
                Some(Event::Line(line)) if condition(&line) => return line,
                Some(_) => {}
                None => panic!("{awaited} did not come within {limit:?}\n{}", self.story()),
            }
        }
        panic!("the process ended before {awaited} came\n{}", self.story());
    }

    /// Blocks until the process has ended and closed its output.
    pub fn wait(self) -> Output {
        self.wait_watching(|| {})
    }

    /// As [`Running::wait`]; calls `look` whenever something is said.
    pub fn wait_watching(mut self, mut look: impl FnMut()) -> Output {
        while self.seen.streams_closed < 2 || self.seen.exited_at.is_none() {
            let deadline = match self.seen.exited_at {
                Some(exited_at) => exited_at + self.orphans_limit,
                None => self.started + self.limit,
            };
            look();
            if self.next(deadline).is_none() {
                match self.seen.exited_at {
                    Some(_) => panic!("the process ended, but a child of it lives on\n{}", self.story()),
                    None => panic!("still running after {:?}\n{}", self.limit, self.story()),
                }
            }
        }
        let status = self
            .child
            .wait()
            .unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.command));
        let exited_at = self.seen.exited_at.expect("the loop above ends after the process");
        Output {
            command: self.command.clone(),
            status,
            stdout: std::mem::take(&mut self.seen.stdout),
            stderr: std::mem::take(&mut self.seen.stderr),
            duration: exited_at.duration_since(self.started),
        }
    }

    /// Takes in the next event, if one comes before the deadline.
    fn next(&mut self, deadline: Instant) -> Option<Event> {
        let event = self
            .events
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok()?;
        match &event {
            Event::Line(Line { stream, text }) => {
                let all = match stream {
                    Stream::Stdout => &mut self.seen.stdout,
                    Stream::Stderr => &mut self.seen.stderr,
                };
                all.push_str(text);
                all.push('\n');
            }
            Event::Closed => self.seen.streams_closed += 1,
            Event::Exited => self.seen.exited_at = Some(Instant::now()),
        }
        Some(event)
    }

    fn story(&self) -> String {
        let Seen { stdout, stderr, .. } = &self.seen;
        format!("command: {}\nstdout:\n{stdout}\nstderr:\n{stderr}", self.command)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error says that the group is gone already.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Starts the threads that feed a process and watch it. They end with its pipes and with itself; nothing waits for them.
fn watch(child: &mut Child, stdin: Vec<u8>) -> (Pid, Receiver<Event>) {
    let pid = Pid::from_child(child);
    // Unbounded on purpose: a full channel would block the process under test, and its output is small.
    let (sender, events) = channel();
    let input = child.stdin.take();
    thread::spawn(move || {
        // A process may end without reading all of its input; that is for the test to judge, by what it says.
        let _ = input.map(|mut pipe| pipe.write_all(&stdin));
    });
    read_lines(child.stdout.take(), Stream::Stdout, sender.clone());
    read_lines(child.stderr.take(), Stream::Stderr, sender.clone());
    thread::spawn(move || {
        // NOWAIT leaves the process for its owner to reap: until then nobody else can get its id.
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _ = sender.send(Event::Exited);
    });
    (pid, events)
}

fn read_lines(pipe: Option<impl Read + Send + 'static>, stream: Stream, sender: Sender<Event>) {
    let Some(pipe) = pipe else {
        let _ = sender.send(Event::Closed);
        return;
    };
    let mut reader = BufReader::new(pipe);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error on reading a pipe means the same as its end. A failing send means that the owner is gone.
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned();
            if sender.send(Event::Line(Line { stream, text })).is_err() {
                return;
            }
            bytes.clear();
        }
        let _ = sender.send(Event::Closed);
    });
}

/// A process that has ended.
#[derive(Debug)]
pub struct Output {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    /// From start to exit.
    pub duration: Duration,
}

impl Output {
    /// Fails the test unless the exit code is `code`.
    #[must_use]
    pub fn exited(self, code: i32) -> Output {
        assert_eq!(
            self.status.code(),
            Some(code),
            "exit code (signal: {:?})\n{self}",
            self.status.signal()
        );
        self
    }

    /// Fails the test unless the exit code is 0.
    #[must_use]
    pub fn succeeded(self) -> Output {
        self.exited(0)
    }

    /// Standard output as JSON, one value per line.
    pub fn json_lines(&self) -> Vec<Value> {
        let value =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is not JSON: {error}\n{self}"));
        self.stdout.lines().map(value).collect()
    }

    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("stdout is not JSON: {error}\n{self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output {
            command,
            status,
            stdout,
            stderr,
            duration,
        } = self;
        write!(
            f,
            "command: {command}\n{status} after {duration:?}\nstdout:\n{stdout}\nstderr:\n{stderr}"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::Scratch;

    fn shell(script: &str) -> Program {
        Program::new("sh", ["-c", script])
    }

    fn failure<T>(test: impl FnOnce() -> T) -> String {
        let panic = catch_unwind(AssertUnwindSafe(test))
            .err()
            .expect("it should have failed");
        panic
            .downcast_ref::<String>()
            .expect("the message is formatted")
            .clone()
    }

    #[test]
    fn streams_status_and_input_are_kept_apart() {
        let output = shell("cat; echo err >&2; exit 3").stdin("first\nsecond\n").run();
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("first\nsecond\n", "err\n")
        );
        assert!(
            failure(|| output.exited(4)).contains("second"),
            "the failure shows the output"
        );
    }

    #[test]
    fn input_that_nobody_reads_is_no_failure() {
        let output = shell("exit 0").stdin(vec![b'x'; 1 << 20]).run();
        assert!(output.status.success());
    }

    #[test]
    fn the_environment_is_ours() {
        let output = shell("env").variable("TRIREME_X", "1").run();
        assert!(output.stdout.contains("TRIREME_X=1\n"));
        assert!(!output.stdout.contains("CARGO"), "{output}");
    }

    // Children of the processes below sleep for a minute: longer than any test here waits, short enough to go away by
    // themselves should a test fail to end them.

    #[test]
    fn a_process_that_hangs_is_killed_with_its_children() {
        // Reading a FIFO ends when its last writer is dead, so it says that no member of the group is left.
        let scratch = Scratch::new();
        let fifo = scratch.path().join("fifo");
        let _ = Program::new("mkfifo", [&fifo]).run().succeeded();
        let running = shell("exec 3>fifo; sleep 60 & wait")
            .directory(scratch.path())
            .limit(Duration::from_millis(300));
        let started = Instant::now();
        let running = running.spawn();
        let mut writers = File::open(&fifo).unwrap();
        let message = failure(|| running.wait());
        assert!(message.contains("still running after 300ms"), "{message}");
        writers.read_to_end(&mut Vec::new()).unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "only the end of its sleep ended the child"
        );
    }

    #[test]
    fn a_child_that_outlives_the_process_is_found() {
        let running = shell("sleep 60 & echo started")
            .orphans_limit(Duration::from_millis(300))
            .spawn();
        let message = failure(|| running.wait());
        assert!(
            message.contains("a child of it lives on") && message.contains("started"),
            "{message}"
        );
    }

    #[test]
    fn waiting_ends_at_a_line_a_deadline_or_the_end() {
        let mut running = shell("echo one; echo two >&2; cat")
            .limit(Duration::from_secs(5))
            .spawn();
        let line = running.wait_for("two", Duration::from_secs(5), |line| line.text == "two");
        assert_eq!(line.stream, Stream::Stderr);
        drop(running);
        let mut running = shell("echo one; exec sleep 60").spawn();
        let message = failure(|| running.wait_for("three", Duration::from_millis(100), |line| line.text == "three"));
        assert!(
            message.contains("three did not come within 100ms") && message.contains("one"),
            "{message}"
        );
        let mut running = shell("echo one").spawn();
        let message = failure(|| running.wait_for("three", Duration::from_secs(5), |line| line.text == "three"));
        assert!(message.contains("ended before three came"), "{message}");
    }

    #[test]
    fn signals_arrive() {
        let mut running = shell("trap 'echo caught; exit 7' TERM; echo ready; while :; do :; done").spawn();
        running.wait_for("ready", Duration::from_secs(5), |line| line.text == "ready");
        running.signal(Signal::TERM);
        assert_eq!(running.wait().exited(7).stdout, "ready\ncaught\n");
    }
}
