#!/usr/bin/env python3
"""Where the time of two workers goes that plain DataFusion does not need.

Three runs are set side by side: DataFusion as it comes, DataFusion with the plans that workers get (Ballista plans without
what cannot leave a process), and Trireme on two workers. What lies between the last two is distribution; the logs of driver
and workers say which part of it is planning, waiting for a task, or tasks.

Takes the arguments of bench.py, and prints Markdown.
"""

import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import bench
import contenders
import host_memory
from contenders import CORES, MEMORY_BYTES, WORKERS, Place
from processes import Processes

# `ballista_restricted_configuration` of ballista-core 55, and what our driver plans beside it.
WORKERS_PLANS = (
    "datafusion.optimizer.enable_round_robin_repartition=false",
    "datafusion.execution.parquet.schema_force_view_types=false",
    "datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery=false",
    "datafusion.optimizer.enable_dynamic_filter_pushdown=false",
)
WORKERS_PARTITIONS = 4

STARTED = re.compile(r"^(\S+)Z .*statement started")
PLANNED = re.compile(r"^(\S+)Z .*planned run=\S+-r(\d+) stages=(\d+) tasks=(\d+)")
DONE = re.compile(r"^(\S+)Z .*task finished run=\S+-r(\d+) .*prepare_us=(\d+) elapsed_us=(\d+) .*? bytes=(\d+)")


@dataclass
class Distribution:
    """One query on workers. Seconds of slots are divided by their number, so that they add up to the time on the clock."""

    stages: int = 0
    tasks: int = 0
    planning: float = 0.0
    preparing: float = 0.0
    running: float = 0.0
    idle: float = 0.0
    shuffle_bytes: int = 0


def read_log(text: str, slots: int) -> list[Distribution]:
    """A query for each run in the log, in their order."""
    found: dict[int, Distribution] = defaultdict(Distribution)
    started, planned, ended = 0.0, {}, {}
    for line in text.splitlines():
        if match := STARTED.match(line):
            started = _seconds(match[1])
        elif match := PLANNED.match(line):
            run, query = int(match[2]), found[int(match[2])]
            planned[run] = _seconds(match[1])
            query.planning = planned[run] - started
            query.stages, query.tasks = int(match[3]), int(match[4])
        elif match := DONE.match(line):
            run, query = int(match[2]), found[int(match[2])]
            prepare, elapsed = int(match[3]) / 1e6, int(match[4]) / 1e6
            query.preparing += prepare / slots
            query.running += (elapsed - prepare) / slots
            query.shuffle_bytes += int(match[5])
            ended[run] = max(ended.get(run, 0.0), _seconds(match[1]))
    for run, query in found.items():
        # Processes log in their own order: a run that was planned has a time, whichever line came first.
        query.idle = max(ended.get(run, planned[run]) - planned[run] - query.preparing - query.running, 0.0)
    return [found[run] for run in sorted(found)]


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def main() -> int:
    arguments = bench.parse_arguments()
    bench.stay_on_cores(CORES)
    place = bench.place_of(arguments)
    bench.generate(place, arguments.scale)
    names = place.query_names()
    memory = host_memory.bytes_for(arguments.scale)
    plain, planned, workers, logs = [], [], [], []
    for number in range(arguments.rounds):
        host_memory.provide(memory)
        with Processes(place.log) as processes:
            plain.append(contenders.datafusion(place, processes, None).milliseconds)
        host_memory.provide(memory)
        with Processes(place.log) as processes:
            like_workers = contenders.datafusion_with(WORKERS_PARTITIONS, WORKERS_PLANS)
            planned.append(like_workers(place, processes, None).milliseconds)
        log = place.log.with_name("breakdown.log")
        log.unlink(missing_ok=True)
        host_memory.provide(memory)
        with Processes(log) as processes:
            options = ["--workers", WORKERS, "--memory", MEMORY_BYTES // WORKERS]
            options += ["--log", "warn,trireme=info,trireme_batch=debug"]
            workers.append(contenders.trireme(place, processes, None, options).milliseconds)
        logs.append(read_log(log.read_text(), WORKERS)[-len(names) :])
        print(f"round {number + 1} done", file=sys.stderr)
    print(report(names, plain, planned, workers, logs))
    return 0


def report(names: list[str], plain: list, planned: list, workers: list, logs: list[list[Distribution]]) -> str:
    """Medians over rounds, in milliseconds."""

    def times(rounds: list[dict], query: str) -> float:
        return median(run[query] for run in rounds)

    def part(index: int, name: str) -> float:
        return median(getattr(log[index], name) for log in logs) * 1e3

    parts = ("planning", "idle", "preparing", "running")
    rows = [
        [
            query,
            *(times(rounds, query) for rounds in (plain, planned, workers)),
            *(part(index, name) for name in parts),
            logs[0][index].stages,
            logs[0][index].tasks,
            part(index, "shuffle_bytes") / 1e9,
        ]
        for index, query in enumerate(names)
    ]
    rows.append(["**sum**", *(sum(row[column] for row in rows) for column in range(1, len(rows[0])))])
    heads = ["query", "plain DataFusion", "with the workers' plans", "2 workers", "of it: planning", "idle slots"]
    heads += ["tasks: preparing", "tasks: running", "stages", "tasks", "shuffle MB"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [f"| {row[0]} | " + " | ".join(f"{value:.0f}" for value in row[1:]) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
