"""Who takes part, and with which settings. The settings are printed with the results, from the same values.

Every contender gets two cores and the same memory, reads the same files, and runs the queries once, in the same order, in
processes that are new in each round.
"""

import json
import socket
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable

from processes import Processes

GIB = 1 << 30
CORES = 2
MEMORY_BYTES = 8 * GIB
WORKERS = 2
ROUND_SECONDS_MAX = 300
READY_SECONDS_MAX = 30
# What `trireme` tells its allocator (PURGE_DELAY_MS in engine/src/main.rs), told to the contender that is to differ in nothing
# but Trireme. Ballista runs as it comes.
PURGE_DELAY = "MIMALLOC_PURGE_DELAY=10000"
# Runs before the queries and does not count: what waits for it is the start of a cluster.
WARM_UP = "SELECT 1"


@dataclass(frozen=True)
class Place:
    """Where things are."""

    trireme: Path
    compiled: Path
    python: Path
    data: Path
    queries: Path
    log: Path
    # `KEY = VALUE` that Trireme's session is SET to, to try something.
    settings: tuple[str, ...] = ()

    def query_names(self) -> list[str]:
        return sorted(query.stem for query in self.queries.glob("*.sql"))

    def tables(self) -> list[str]:
        return sorted(table.name for table in self.data.iterdir())


@dataclass(frozen=True)
class Run:
    """One contender's round: for each query, milliseconds and rows."""

    milliseconds: dict[str, float]
    rows: dict[str, int]
    peak_bytes: int = 0


@dataclass(frozen=True)
class Contender:
    key: str
    name: str
    settings: str
    # Runs all queries; with a folder, keeps the answers there.
    run: Callable[[Place, Processes, Path | None], Run] = field(repr=False)


def pool_bytes(memory_bytes: int) -> int:
    """What operators get of a process's memory where the contender does not split it by itself: Ballista's default share."""
    return memory_bytes * 7 // 10


def trireme_in_process(place: Place, processes: Processes, answers: Path | None) -> Run:
    return trireme(place, processes, answers, ["--cores", CORES, "--memory", MEMORY_BYTES])


def trireme_workers(place: Place, processes: Processes, answers: Path | None) -> Run:
    return trireme(place, processes, answers, ["--workers", WORKERS, "--memory", MEMORY_BYTES // WORKERS])


def datafusion(place: Place, processes: Processes, answers: Path | None) -> Run:
    return datafusion_with(CORES, ())(place, processes, answers)


def datafusion_with(partitions: int, settings: tuple[str, ...]) -> Callable[[Place, Processes, Path | None], Run]:
    def run(place: Place, processes: Processes, answers: Path | None) -> Run:
        command = ["env", PURGE_DELAY, place.compiled, "datafusion", "--cores", CORES, "--pool-bytes", pool_bytes(MEMORY_BYTES)]
        command += ["--partitions", partitions, *(word for setting in settings for word in ("--set", setting))]
        return read_lines(processes.output(command + _work(place, answers), ROUND_SECONDS_MAX))

    return run


def duckdb(place: Place, processes: Processes, answers: Path | None) -> Run:
    command = [place.python, Path(__file__).parent / "duckdb_queries.py"]
    command += ["--threads", CORES, "--memory-bytes", MEMORY_BYTES]
    return read_lines(processes.output(command + _work(place, answers), ROUND_SECONDS_MAX))


def ballista(policy: str, partitions: int) -> Callable[[Place, Processes, Path | None], Run]:
    def run(place: Place, processes: Processes, answers: Path | None) -> Run:
        scheduler, *ports = _free_ports(1 + 2 * WORKERS)
        binary = [place.compiled, "ballista"]
        with TemporaryDirectory(prefix="ballista-") as folder:
            command = ["scheduler", "--policy", policy, "--port", scheduler, "--executors", WORKERS]
            processes.start(binary + command)
            _wait_until_open(scheduler)
            for number in range(WORKERS):
                command = ["executor", "--policy", policy, "--scheduler-port", scheduler, "--vcores", CORES // WORKERS]
                command += ["--port", ports[2 * number], "--grpc-port", ports[2 * number + 1]]
                command += ["--work-dir", Path(folder) / str(number)]
                command += ["--pool-bytes", pool_bytes(MEMORY_BYTES // WORKERS)]
                (Path(folder) / str(number)).mkdir()
                processes.start(binary + command)
            _wait_until_ready(f"http://127.0.0.1:{scheduler}/readyz")
            command = binary + ["client", "--scheduler-port", scheduler, "--partitions", partitions]
            return read_lines(processes.output(command + _work(place, answers), ROUND_SECONDS_MAX))

    return run


IN_PROCESS, TWO_WORKERS, DATAFUSION, DUCKDB = "in-process", "workers", "datafusion", "duckdb"
BALLISTA = "ballista"
BALLISTA_PARTITIONS = 4

_OPERATORS = f"{pool_bytes(MEMORY_BYTES // WORKERS) / GIB:.2f} GiB for operators of each"
# Who is compared stands side by side: the machine's speed drifts within a round, too.
CONTENDERS = [
    Contender(
        IN_PROCESS,
        "Trireme in process",
        f"`trireme run --cores {CORES} --memory {MEMORY_BYTES // GIB}Gi`: {CORES} threads, {CORES} target partitions",
        trireme_in_process,
    ),
    Contender(
        DATAFUSION,
        "plain DataFusion",
        f"{CORES} threads, {CORES} target partitions, statistics collected, a fair pool of "
        f"{pool_bytes(MEMORY_BYTES) / GIB:.2f} GiB for operators; as Trireme, it "
        "keeps freed memory for 10 s; else its defaults",
        datafusion,
    ),
    Contender(
        TWO_WORKERS,
        "Trireme on 2 workers",
        f"`trireme run --workers {WORKERS} --memory {MEMORY_BYTES // WORKERS // GIB}Gi`: a driver and {WORKERS} workers of "
        "one slot; mTLS on every connection; partitions, joins and compression as it chooses by itself (shuffles are not "
        "compressed where all workers are on one machine)",
        trireme_workers,
    ),
    *(
        Contender(
            f"{BALLISTA}-{policy}",
            f"Ballista, {policy}",
            f"a scheduler, {WORKERS} executors of {CORES // WORKERS} vcore, a client; {policy}-staged; no TLS; "
            f"{BALLISTA_PARTITIONS} target partitions; {_OPERATORS}; else its defaults (adaptive planner)",
            ballista(policy, BALLISTA_PARTITIONS),
        )
        for policy in ("push", "pull")
    ),
    Contender(
        DUCKDB,
        "DuckDB",
        f"the Python wheel; {CORES} threads, memory_limit {MEMORY_BYTES // GIB} GiB, views over read_parquet",
        duckdb,
    ),
]


def read_lines(text: str) -> Run:
    """What the contenders print that are not ours."""
    lines = [json.loads(line) for line in text.splitlines()]
    return Run({line["query"]: line["elapsedMs"] for line in lines}, {line["query"]: line["rows"] for line in lines})


def read_statements(text: str, queries: list[str]) -> Run:
    """What `trireme run --output json` prints: a line for each statement, of which the last are the queries in their order."""
    lines = sorted(map(json.loads, text.splitlines()), key=lambda line: line["statement"])
    by_query = dict(zip(queries, lines[-len(queries) :], strict=True))
    return Run(
        {query: line["elapsedMs"] for query, line in by_query.items()},
        {query: line["rowsTotal"] for query, line in by_query.items()},
    )


def manifest(name: str, sql: str, tables: dict[str, str]) -> str:
    """A job; JSON is YAML too. Cores of a worker are what `run --workers` takes from here."""
    spec = {
        "sql": sql,
        "tables": [{"name": table, "location": location, "format": "parquet"} for table, location in tables.items()],
        "executors": {"cores": CORES // WORKERS, "min": WORKERS},
    }
    return json.dumps(
        {"apiVersion": "trireme.dev/v1alpha1", "kind": "BatchJob", "metadata": {"name": name}, "spec": spec}
    )


def trireme(place: Place, processes: Processes, answers: Path | None, options: list) -> Run:
    statements = [*(f"SET {setting}" for setting in place.settings), WARM_UP]
    for query in place.query_names():
        sql = (place.queries / f"{query}.sql").read_text().strip().rstrip(";")
        # A comment at the end must not swallow what follows.
        statements.append(f"COPY (\n{sql}\n) TO '{answers / query}/' STORED AS PARQUET" if answers else sql)
    tables = {table: f"{place.data / table}/" for table in place.tables()}
    with TemporaryDirectory(prefix="bench-") as folder:
        job = Path(folder) / "job.yaml"
        job.write_text(manifest("tpch", ";\n".join(statements), tables))
        command = [place.trireme, "run", "--file", job, "--output", "json", "--max-rows", 0, "--quiet", *options]
        return read_statements(processes.output(command, ROUND_SECONDS_MAX), place.query_names())


def _work(place: Place, answers: Path | None) -> list:
    kept = ["--answers", answers] if answers else []
    return ["--data", place.data, "--queries", place.queries] + kept


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for bound in sockets:
        bound.bind(("127.0.0.1", 0))
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def _wait_until_open(port: int) -> None:
    _wait_until(f"port {port} is open", lambda: socket.create_connection(("127.0.0.1", port), 1).close())


def _wait_until_ready(url: str) -> None:
    _wait_until(f"{url} says so", lambda: urllib.request.urlopen(url, timeout=1).close())


def _wait_until(what: str, attempt: Callable[[], None]) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        try:
            return attempt()
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited for {READY_SECONDS_MAX} s until {what}") from error
            time.sleep(0.02)
