//! What the kernel tells of processes: whose children run, and where they listen.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use rustix::process::Pid;

/// The processes that `parent` started and that still run.
pub fn children(parent: Pid) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").unwrap_or_else(|error| panic!("/proc: {error}"));
    let pids = entries.filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        Pid::from_raw(pid)
    });
    let parent = parent.as_raw_nonzero().to_string();
    pids.filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent && stat.state != "Z"))
        .collect()
}

/// Whether a process runs. One that has ended may wait for its parent to notice.
pub fn is_alive(pid: Pid) -> bool {
    stat(pid).is_some_and(|stat| stat.state != "Z" && stat.state != "X")
}

struct Stat {
    state: String,
    parent: String,
}

/// `/proc/PID/stat`: after the name in parentheses, which may hold anything, come the state and the parent.
fn stat(pid: Pid) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let mut words = text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned);
    Some(Stat {
        state: words.next()?,
        parent: words.next()?,
    })
}

/// Addresses on which a process listens; fails the test for a socket of another kind that anybody could send to.
pub fn listeners(process: Pid) -> Vec<SocketAddr> {
    let pid = process.as_raw_nonzero();
    let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap_or_else(|error| panic!("cannot look into process {pid}: {error}"))
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    for table in ["tcp6", "udp", "udp6"] {
        let open = table_rows(pid.get(), table).filter(|row| sockets.contains(&row[9]));
        let open: Vec<_> = open.filter(|row| table != "tcp6" || row[3] == "0A").collect();
        assert!(
            open.is_empty(),
            "{} has {table} sockets: {open:?}",
            command_line(process)
        );
    }
    // Columns: 1 the local address in hexadecimal, 3 the state (0A: listening), 9 the inode.
    let listening = table_rows(pid.get(), "tcp").filter(|row| row[3] == "0A" && sockets.contains(&row[9]));
    listening.map(|row| address(&row[1])).collect()
}

/// How many connections this machine has to a port that is listened on at `address`, as the ends that dialled see them.
pub fn connections_to(address: SocketAddr) -> usize {
    // Column 2 is the remote address, column 3 the state (01: established).
    let rows = table_rows(std::process::id() as i32, "tcp");
    rows.filter(|row| row[3] == "01" && self::address(&row[2]) == address)
        .count()
}

fn table_rows(pid: i32, table: &str) -> impl Iterator<Item = Vec<String>> {
    // A machine without IPv6 has no such table.
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let rows: Vec<Vec<String>> = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    rows.into_iter()
}

/// `0100007F:1F90` is 127.0.0.1:8080: the address is a number in the machine's order of bytes, the port is not.
fn address(text: &str) -> SocketAddr {
    let read = || {
        let (ip, port) = text.split_once(':')?;
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
        Some(SocketAddr::from((ip, u16::from_str_radix(port, 16).ok()?)))
    };
    read().unwrap_or_else(|| panic!("{text:?} is no address"))
}

/// How a process was started: its program's name and arguments.
pub fn arguments(process: Pid) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{}/cmdline", process.as_raw_nonzero())).unwrap_or_default();
    text.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

/// As [`arguments`], for people.
pub fn command_line(process: Pid) -> String {
    arguments(process).join(" ")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;
    use crate::process::Program;

    #[test]
    fn our_own_listener_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listeners(getpid()).contains(&address));
        assert_eq!(connections_to(address), 0);
        let _dialled = TcpStream::connect(address).unwrap();
        assert_eq!(connections_to(address), 1);
    }

    #[test]
    fn children_are_found_until_they_end() {
        // It tells its id itself: until it runs its own program, it bears the command line of the shell that started it.
        let script = "sh -c 'echo $$; while :; do :; done' & wait";
        let mut running = Program::new("sh", ["-c", script]).spawn();
        let line = running.wait_for("the child's id", Duration::from_secs(5), |_| true);
        let child = Pid::from_raw(line.text.parse().unwrap()).unwrap();
        assert_eq!(children(running.pid()), [child]);
        assert!(is_alive(child));
        assert!(command_line(child).starts_with("sh -c echo $$"));
        assert_eq!(listeners(child), []);
        kill_process(child, Signal::KILL).unwrap();
        // `wait` in the shell ends with its child.
        let _ = running.wait();
        assert!(!is_alive(child));
    }
}
