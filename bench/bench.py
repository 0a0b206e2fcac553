#!/usr/bin/env python3
"""TPC-H on Trireme and on others, side by side: `make bench-batch`. README.md beside this file says how to read the result.

Exit codes: 0 measured (goals met or not), 1 answers differ, 2 wrong usage or a contender's failure.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import contenders
import host_memory
import table
from contenders import CONTENDERS, Contender, Place, Run
from processes import Processes, machine_busy_seconds, own_busy_seconds

REPOSITORY = Path(__file__).resolve().parent.parent
TABLES = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]
START_UP_RUNS = 15
GENERATION_SECONDS_MAX = 3600
# 0.6 MB as a Parquet file: 10,000 rows at scale factor 1.
SMALL_TABLE = "supplier"
SMALL_QUERY = f"SELECT s_nationkey, count(*), sum(s_acctbal) FROM {SMALL_TABLE} GROUP BY s_nationkey ORDER BY s_nationkey"


def main() -> int:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    stay_on_cores(contenders.CORES)
    place = place_of(arguments)
    generate(place, arguments.scale)
    chosen = [contender for contender in CONTENDERS if not arguments.only or contender.key in arguments.only]
    if not arguments.unchecked and not check(place, chosen):
        return 1
    start_up = measure_start_up(place)
    rounds = []
    for number in range(arguments.rounds):
        # The order moves on, so that nobody always comes after the same one.
        order = chosen[number % len(chosen) :] + chosen[: number % len(chosen)]
        runs = {contender.key: measure(place, contender, arguments.scale) for contender in order}
        rounds.append({contender.key: runs[contender.key] for contender in chosen})
        if difference := table.different_rows(rounds[-1]):
            print("different numbers of rows:", *difference, sep="\n")
            return 1
        summary = (f"{key} {table.total_ms(run) / 1e3:.2f} s" for key, run in runs.items())
        print(f"round {number + 1}: {', '.join(summary)}", flush=True)
    if arguments.only:
        return 0  # a look at some of them: no page without the others
    measured = {
        "scale": arguments.scale,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "rounds": rounds,
        "contenders": [{"key": c.key, "name": c.name, "settings": c.settings} for c in chosen],
        "start_up_seconds": start_up,
        "start_up_query": f"`{SMALL_QUERY}` over {size(place.data / SMALL_TABLE)[1] / 1e6:.1f} MB.",
        "checked": "Answers were not compared."
        if arguments.unchecked
        else "Before the first round, all answers of all contenders were compared with DuckDB's and found equal.",
        "machine": machine(place),
        "files": {name: size(place.data / name) for name in TABLES},
    }
    name = arguments.out / f"tpch-sf{arguments.scale:g}"
    name.with_suffix(".json").write_text(json.dumps(measured, indent=1) + "\n")
    name.with_suffix(".md").write_text(table.report(measured))
    print(f"see {name.with_suffix('.md')}")
    return 0


def place_of(arguments: argparse.Namespace) -> Place:
    return Place(
        trireme=arguments.trireme,
        compiled=arguments.contenders,
        python=Path(sys.executable),
        data=arguments.data / f"sf{arguments.scale:g}",
        queries=REPOSITORY / "tests/tpch",
        log=arguments.data / "bench.log",
        settings=tuple(arguments.set),
    )


def generate(place: Place, scale: float) -> None:
    """Writes the tables as Parquet with Trireme's own COPY, once."""
    if place.data.exists():
        return
    place.data.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.data.with_name(f"{place.data.name}.unfinished-{os.getpid()}")
    schema = f"sf{scale:g}".replace(".", "_")
    copies = [f"COPY tpch.{schema}.{name} TO '{unfinished / name}/' STORED AS PARQUET" for name in TABLES]
    job = place.data.with_name(f"generate-{os.getpid()}.yaml")
    job.write_text(contenders.manifest("generate", ";\n".join(copies), {}))
    with Processes(place.log) as processes:
        processes.output([place.trireme, "run", "--file", job, "--quiet"], GENERATION_SECONDS_MAX)
    job.unlink()
    unfinished.rename(place.data)


def check(place: Place, chosen: list[Contender]) -> bool:
    """Compares everybody's answers with DuckDB's. Also brings the files into the system's cache."""
    answers = place.data.with_name(f"answers-{os.getpid()}")
    keys = [contenders.DUCKDB] + [contender.key for contender in chosen if contender.key != contenders.DUCKDB]
    equal = True
    for key in keys:
        folder = answers / key
        folder.mkdir(parents=True)
        run = next(contender.run for contender in CONTENDERS if contender.key == key)
        with Processes(place.log) as processes:
            run(place, processes, folder)
        command = [sys.executable, REPOSITORY / "tests/oracle/oracle.py", "compare", answers / contenders.DUCKDB, folder]
        compared = subprocess.run([*command, "--queries", place.queries], text=True, capture_output=True)
        lines = compared.stdout.splitlines()
        print(f"{key}: {sum(' equal, ' in line for line in lines)} of {len(place.query_names())} answers equal", flush=True)
        if compared.returncode != 0:
            equal = False
            print(*(line for line in lines if " equal, " not in line), compared.stderr, sep="\n")
    shutil.rmtree(answers)
    return equal


def measure(place: Place, contender: Contender, scale: float) -> dict:
    host_memory.provide(host_memory.bytes_for(scale))
    started, busy, own = time.monotonic(), machine_busy_seconds(), own_busy_seconds()
    with Processes(place.log) as processes:
        run: Run = contender.run(place, processes, None)
    elapsed = time.monotonic() - started
    others = machine_busy_seconds() - busy - (own_busy_seconds() - own)
    return asdict(run) | {"peak_bytes": processes.peak_bytes, "others_cores": max(others, 0.0) / elapsed}


def measure_start_up(place: Place) -> dict[str, list[float]]:
    """Seconds from the start of a process to its end, for a query over a small file; the first run of each does not count."""
    job = place.data.with_name(f"small-{os.getpid()}.yaml")
    job.write_text(contenders.manifest("small", SMALL_QUERY, {SMALL_TABLE: f"{place.data / SMALL_TABLE}/"}))
    over_files = SMALL_QUERY.replace(f"FROM {SMALL_TABLE}", f"FROM '{place.data / SMALL_TABLE}/*.parquet'")
    python = f"import duckdb; print(duckdb.sql({over_files!r}))"
    commands = {
        contenders.IN_PROCESS: [place.trireme, "run", "--file", job],
        contenders.DUCKDB: [place.python, "-c", python],
    }
    seconds = {key: [] for key in commands}
    for _ in range(1 + START_UP_RUNS):
        for key, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            seconds[key].append(time.perf_counter() - started)
    job.unlink()
    return {key: runs[1:] for key, runs in seconds.items()}


def size(folder: Path) -> tuple[int, int]:
    """Files of a table, and their bytes."""
    files = list(folder.glob("*.parquet"))
    return len(files), sum(file.stat().st_size for file in files)


def stay_on_cores(count: int) -> None:
    """Everybody gets the same cores: children inherit them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def machine(place: Place) -> dict[str, str]:
    def first(file: str, key: str) -> str:
        lines = Path(file).read_text().splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "unknown")

    def output(*command: str) -> str:
        return subprocess.run(command, text=True, capture_output=True, cwd=REPOSITORY).stdout.strip()

    changed = " with changes" if output("git", "status", "--porcelain", "--untracked-files=no") else ""
    packages = tomllib.loads((REPOSITORY / "Cargo.lock").read_text())["package"]
    versions = {package["name"]: package["version"] for package in packages}
    return {
        "processor": f"{first('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores, of which {contenders.CORES} are used",
        "memory": f"{int(first('/proc/meminfo', 'MemTotal').split()[0]) / (1 << 20):.1f} GiB",
        "system": f"{platform.system()} {platform.release()}, files on {output('stat', '-f', '-c', '%T', str(place.data))}, "
        "read from the system's cache",
        "Trireme": f"commit {output('git', 'rev-parse', '--short', 'HEAD')}{changed}, {output('rustc', '--version')}, "
        "profile release, mimalloc, as the compiled contenders",
        "DataFusion, Ballista": f"{versions['datafusion']}, {versions['ballista-core']}",
        "DuckDB": output(sys.executable, "-c", "import duckdb; print(duckdb.__version__)"),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__.splitlines()[0])
    parser.add_argument("--trireme", type=Path, required=True, help="the binary, a release build")
    parser.add_argument("--contenders", type=Path, required=True, help="the other binary, of the same build")
    parser.add_argument("--data", type=Path, required=True, help="where the tables are kept from one call to the next")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="where the page goes")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", metavar="KEY", help="only these contenders, and no page")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="SET in Trireme's session; with --only")
    parser.add_argument("--unchecked", action="store_true", help="do not compare answers first")
    arguments = parser.parse_args()
    if arguments.set and not arguments.only:
        parser.error("--set is for trying something: the page shows Trireme as it comes, so say --only too")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
