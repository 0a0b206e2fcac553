"""Turns measurements into Markdown. Pure: what was measured goes in as data, text comes out."""

from dataclasses import dataclass
from statistics import median

from contenders import BALLISTA, DATAFUSION, DUCKDB, IN_PROCESS, TWO_WORKERS

MIB = 1 << 20


@dataclass(frozen=True)
class Spread:
    """Of the same figure in several rounds. Ratios are made within a round first, so that both sides saw the same machine."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        return median(self.values)

    def show(self, digits: int) -> str:
        """The median, and how far others were from it."""
        low, high = min(self.values), max(self.values)
        return f"{self.middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


@dataclass(frozen=True)
class Goal:
    text: str
    at_most: float
    unit: str
    found: Spread

    def row(self) -> str:
        met = "yes" if self.found.middle <= self.at_most else "**no**"
        return f"| {self.text} | {self.at_most:g}{self.unit} | {self.found.show(2)} | {met} |"


def total_ms(run: dict) -> float:
    return sum(run["milliseconds"].values())


def totals(rounds: list[dict], key: str) -> Spread:
    return Spread(tuple(total_ms(runs[key]) / 1e3 for runs in rounds))


def total_ratio(rounds: list[dict], key: str, against: str) -> Spread:
    return Spread(tuple(total_ms(runs[key]) / total_ms(runs[against]) for runs in rounds))


def query_ratio(rounds: list[dict], query: str, key: str, against: str) -> Spread:
    def milliseconds(runs: dict, contender: str) -> float:
        return runs[contender]["milliseconds"][query]

    return Spread(tuple(milliseconds(runs, key) / milliseconds(runs, against) for runs in rounds))


def best_ballista(rounds: list[dict]) -> str:
    """Push or pull, whichever has the better median of totals."""
    policies = [key for key in rounds[0] if key.startswith(BALLISTA)]
    return min(policies, key=lambda key: totals(rounds, key).middle)


def different_rows(runs: dict[str, dict]) -> list[str]:
    """Queries for which contenders fetched different numbers of rows, in words."""
    counts = {key: run["rows"] for key, run in runs.items()}
    queries = sorted({query for rows in counts.values() for query in rows})
    return [
        f"{query}: " + ", ".join(f"{key} {rows.get(query, 'none')}" for key, rows in counts.items())
        for query in queries
        if len({rows.get(query) for rows in counts.values()}) > 1
    ]


def goals(rounds: list[dict], start_up: dict[str, list[float]]) -> list[Goal]:
    start = Spread(tuple(start_up[IN_PROCESS]))
    return [
        Goal("in process / plain DataFusion, total", 1.05, "", total_ratio(rounds, IN_PROCESS, DATAFUSION)),
        Goal("2 workers / best Ballista, total", 0.8, "", total_ratio(rounds, TWO_WORKERS, best_ballista(rounds))),
        Goal("start to first result over a small file", 0.3, " s", start),
    ]


def report(measured: dict) -> str:
    """The page. `measured` is what `bench.py` writes as JSON."""
    rounds, contenders = measured["rounds"], measured["contenders"]
    names = {contender["key"]: contender["name"] for contender in contenders}
    queries = sorted(rounds[0][IN_PROCESS]["milliseconds"])
    ballista = best_ballista(rounds)
    pairs = [(IN_PROCESS, DATAFUSION), (TWO_WORKERS, ballista), (TWO_WORKERS, DATAFUSION), (IN_PROCESS, DUCKDB)]
    lines = [
        f"# TPC-H, scale factor {measured['scale']:g}",
        "",
        f"{measured['date']}, {len(rounds)} interleaved rounds. Each figure is a median, with the lowest and the highest behind "
        "it; a ratio is made within each round first. Below 1 the first of the two is faster.",
        "",
        "| goal | at most | measured | met |",
        "|---|---|---|---|",
        *(goal.row() for goal in goals(rounds, measured["start_up_seconds"])),
        "",
        "## Totals of the 22 queries",
        "",
        "| contender | seconds | peak memory, MiB | processor time of others, cores |",
        "|---|---|---|---|",
        *(_total_row(rounds, key, name) for key, name in names.items()),
        "",
        "Peak memory is the highest sum of resident pages of all of the contender's processes; pages that they share, their "
        "code mostly, count once for each. The last column says how quiet the machine was.",
        "",
        "## Ratios",
        "",
        "| query | " + " | ".join(f"{names[key]} / {names[against]}" for key, against in pairs) + " |",
        "|---|" + "---|" * len(pairs),
        "| **total** | " + " | ".join(total_ratio(rounds, *pair).show(2) for pair in pairs) + " |",
        *(
            f"| {query} | " + " | ".join(query_ratio(rounds, query, *pair).show(2) for pair in pairs) + " |"
            for query in queries
        ),
        "",
        "## Medians, ms",
        "",
        "| query | rows | " + " | ".join(names.values()) + " |",
        "|---|---|" + "---|" * len(names),
        *(_query_row(rounds, query, list(names)) for query in queries),
        "",
        "## Start-up",
        "",
        f"A whole process, from its start to its end: {measured['start_up_query']}",
        "",
        "| contender | seconds |",
        "|---|---|",
        *(f"| {names[key]} | {Spread(tuple(seconds)).show(3)} |" for key, seconds in measured["start_up_seconds"].items()),
        "",
        "DuckDB's process is Python, which imports the wheel.",
        "",
        "## Settings",
        "",
        *(f"- {contender['name']}: {contender['settings']}." for contender in contenders),
        "",
        "All: processes new in each round; tables registered and `SELECT 1` answered before; queries once each, in the order "
        "of their numbers, timed from a query's text to all of its rows at the client. The contenders' order moves on by one in each "
        "round. Before each run, memory is written to and given back, so that none pays for pages which a virtual machine's host took "
        f"from whoever ran before. {measured['checked']}",
        "",
        "## Machine",
        "",
        *(f"- {fact}: {value}" for fact, value in measured["machine"].items()),
        "",
        "## Files",
        "",
        "| table | files | MiB |",
        "|---|---|---|",
        *(f"| {table} | {files} | {size / MIB:.1f} |" for table, (files, size) in measured["files"].items()),
    ]
    return "\n".join(lines) + "\n"


def _total_row(rounds: list[dict], key: str, name: str) -> str:
    peak = Spread(tuple(runs[key]["peak_bytes"] / MIB for runs in rounds))
    others = Spread(tuple(runs[key]["others_cores"] for runs in rounds))
    return f"| {name} | {totals(rounds, key).show(2)} | {peak.show(0)} | {others.show(2)} |"


def _query_row(rounds: list[dict], query: str, keys: list[str]) -> str:
    medians = (median(runs[key]["milliseconds"][query] for runs in rounds) for key in keys)
    return f"| {query} | {rounds[0][keys[0]]['rows'][query]} | " + " | ".join(f"{ms:.0f}" for ms in medians) + " |"
