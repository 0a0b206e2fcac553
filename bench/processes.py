"""Processes of a contender: started together, watched together, ended together.

Each is started in a session of its own, which its children cannot leave by changing their group or losing their parent. What
belongs to a contender is therefore what /proc lists under its sessions.
"""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

SAMPLE_SECONDS = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
END_PATIENCE_SECONDS = 10


class Processes:
    """A context: leaving it ends every process and knows the peak of their memory."""

    def __init__(self, log: Path):
        self._log = log.open("ab")
        self._started: list[subprocess.Popen] = []
        self._done = threading.Event()
        self._sampled = threading.Semaphore(0)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0

    def start(self, command: list, **options) -> subprocess.Popen:
        """Starts a process. What it prints goes to the log, unless `options` say otherwise."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": self._log, "stderr": self._log} | options
        process = subprocess.Popen([str(word) for word in command], start_new_session=True, **streams)
        self._started.append(process)
        return process

    def output(self, command: list, seconds: float) -> str:
        """What a process prints until it ends.

        Raises RuntimeError when it fails, and TimeoutExpired when it takes longer than `seconds`.
        """
        process = self.start(command, stdout=subprocess.PIPE, text=True)
        text, _ = process.communicate(timeout=seconds)
        if process.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: see {self._log.name}")
        return text

    def members(self) -> list[int]:
        """Pids of all that run."""
        sessions = {process.pid for process in self._started}
        return [pid for pid, session in _sessions() if session in sessions]

    def wait_for_samples(self, count: int) -> None:
        """Waits until memory was looked at as many times more."""
        while self._sampled.acquire(blocking=False):
            pass  # looks of before this call
        for _ in range(count):
            self._sampled.acquire()

    def __enter__(self) -> "Processes":
        self._watcher.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._watcher.join()
        deadline = time.monotonic() + END_PATIENCE_SECONDS
        for end in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.members():
                try:
                    os.kill(pid, end)
                except ProcessLookupError:
                    pass  # it ended by itself
            while self.members() and time.monotonic() < deadline:
                for process in self._started:
                    process.poll()  # reaps it
                time.sleep(0.01)
        for process in self._started:
            process.wait()
        self._log.close()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, sum(map(_resident_bytes, self.members())))
            self._sampled.release()


def _sessions() -> list[tuple[int, int]]:
    """Pid and session of every process that is not a zombie."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name stands in brackets and may hold anything; behind it: state, parent, group, session.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue  # it has just ended
            if state != "Z":
                found.append((int(entry.name), int(session)))
    return found


def _resident_bytes(pid: int) -> int:
    """What the process has in memory. Pages that several processes share (code, mostly) count for each of them."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0  # it has just ended


def machine_busy_seconds() -> float:
    """Processor seconds that this machine has spent on anything since it started."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def own_busy_seconds() -> float:
    """Processor seconds of this process and of all its descendants that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
