//! Memory control groups: limits that the kernel holds, around processes of a test.
//!
//! A process is moved into its group once it is known; what it holds then stays with the group that it started in, so it is
//! taken off the limit. Version 1 and version 2 of control groups are both spoken.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Pid;

/// A group with a limit; it goes away with its owner, after the processes in it.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
    files: &'static Files,
    limit: u64,
}

/// What a group's processes used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUsage {
    /// The most at a time, in bytes, files in the kernel's cache included.
    pub peak: u64,
    /// How often the kernel had to make room because the limit was reached. Cached files alone can cause that.
    pub limit_hits: u64,
    /// Processes that the kernel killed.
    pub oom_kills: u64,
}

/// How the two versions name things.
#[derive(Debug)]
struct Files {
    root: &'static str,
    limit: &'static str,
    peak: &'static str,
    /// A file with a number of its own, or a line `name number` of a file.
    limit_hits: (&'static str, Option<&'static str>),
    oom_kills: (&'static str, Option<&'static str>),
}

const VERSION_1: Files = Files {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    peak: "memory.max_usage_in_bytes",
    limit_hits: ("memory.failcnt", None),
    oom_kills: ("memory.oom_control", Some("oom_kill")),
};

const VERSION_2: Files = Files {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    peak: "memory.peak",
    limit_hits: ("memory.events", Some("max")),
    oom_kills: ("memory.events", Some("oom_kill")),
};

/// What a process may hold when it is moved. It has only started then.
const BEFORE_MOVE_MAX: u64 = 128 << 20;

impl MemoryGroup {
    /// A group of that name in which processes may use `limit` bytes. Fails the test where groups cannot be made.
    pub fn new(name: &str, limit: u64) -> MemoryGroup {
        let files = match Path::new(VERSION_2.root).join("cgroup.controllers").exists() {
            true => &VERSION_2,
            false => &VERSION_1,
        };
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        // Tests of one process run at the same time.
        let (process, number) = (std::process::id(), GROUPS.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(files.root).join(format!("trireme-test-{process}-{number}-{name}"));
        let group = MemoryGroup { folder, files, limit };
        let made = group.make();
        made.unwrap_or_else(|error| {
            panic!(
                "no memory control group can be made at {}: {error}\nThis test has the kernel hold memory limits. Run it \
                 as root where {} is writable (in a container: --privileged), or set TRIREME_WITHOUT_CGROUPS=1 to leave \
                 it out.",
                group.folder.display(),
                files.root
            )
        });
        group
    }

    fn make(&self) -> io::Result<()> {
        if self.files.root == VERSION_2.root {
            fs::write(Path::new(VERSION_2.root).join("cgroup.subtree_control"), "+memory")?;
        }
        fs::create_dir_all(&self.folder)?;
        self.set_limit(self.limit)?;
        // Memory that is swapped out would not count. Kernels without swap accounting have no such file.
        let swap = self.folder.join("memory.swap.max");
        if swap.exists() { fs::write(swap, "0") } else { Ok(()) }
    }

    fn set_limit(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.folder.join(self.files.limit), bytes.to_string())
    }

    /// Moves a process into the group. What it has used so far is taken off the limit.
    pub fn add(&self, process: Pid) {
        let before = status_bytes(process, "RssAnon:").unwrap_or(0);
        assert!(before < BEFORE_MOVE_MAX, "the process held {before} bytes before");
        let moved = self
            .set_limit(self.limit - before)
            .and_then(|()| fs::write(self.folder.join("cgroup.procs"), process.as_raw_nonzero().to_string()));
        moved.unwrap_or_else(|error| panic!("cannot move a process into {}: {error}", self.folder.display()));
    }

    /// What was used so far.
    pub fn usage(&self) -> MemoryUsage {
        let read = |(file, line): (&str, Option<&str>)| self.number(file, line);
        MemoryUsage {
            peak: read((self.files.peak, None)),
            limit_hits: read(self.files.limit_hits),
            oom_kills: read(self.files.oom_kills),
        }
    }

    fn number(&self, file: &str, line: Option<&str>) -> u64 {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found = match line {
            None => text.trim().parse().ok(),
            Some(name) => number_after(&text, name),
        };
        found.unwrap_or_else(|| panic!("{} says {text:?}", path.display()))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A group with a process in it stays; it holds nothing but a name.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Whether tests that need control groups are to be left out; says so where it is.
pub fn without_cgroups() -> bool {
    let without = std::env::var_os("TRIREME_WITHOUT_CGROUPS").is_some();
    if without {
        let _ = io::Write::write_all(
            &mut io::stderr(),
            b"LEFT OUT: TRIREME_WITHOUT_CGROUPS is set, so that no memory limit is tested\n",
        );
    }
    without
}

/// The most memory that a process had so far, in bytes, the pages of its program included; `None` once it has ended.
pub fn resident_peak(process: Pid) -> Option<u64> {
    status_bytes(process, "VmHWM:")
}

/// A line of `/proc/PID/status`, which counts in KiB.
fn status_bytes(process: Pid, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    Some(number_after(&status, name)? * 1024)
}

/// The number in the line that starts with the word `name`.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(|line| line.split_whitespace());
    let mut words = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Program;
    use std::time::Duration;

    #[test]
    fn lines_are_found_by_their_first_word() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(number_after(text, "oom_kill"), Some(3));
        assert_eq!(number_after(text, "oom"), None);
        assert!(resident_peak(rustix::process::getpid()).unwrap() > 0);
    }

    #[test]
    fn the_kernel_holds_the_limit() {
        if without_cgroups() {
            return;
        }
        let group = MemoryGroup::new("limit", 64 << 20);
        // Waits for a line, then holds some text, of which a shell makes copies.
        for (mebibytes, killed) in [(4, 0), (256, 1)] {
            let script = format!(
                "echo started; read -r _ < \"$0\"; x=$(head -c {mebibytes}M /dev/zero | tr '\\0' x); echo held"
            );
            let pipe = crate::scratch::Scratch::new();
            let gate = pipe.path().join("gate");
            let _ = Program::new("mkfifo", [&gate]).run().succeeded();
            let mut running = Program::new("bash", [Path::new("-c"), Path::new(&script), &gate]).spawn();
            running.wait_for("the script", Duration::from_secs(30), |line| line.text == "started");
            group.add(running.pid());
            fs::write(&gate, "go\n").unwrap();
            let output = running.wait();
            assert_eq!(output.stdout.contains("held"), killed == 0, "{output:?}");
            assert_eq!(group.usage().oom_kills > 0, killed > 0, "{:?}", group.usage());
            assert!(group.usage().peak <= 64 << 20, "{:?}", group.usage());
        }
    }
}
