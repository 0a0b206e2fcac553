#!/usr/bin/env python3
"""Answers queries with other engines and compares tables of answers.

    oracle.py answers --data DIR --queries DIR --engine duckdb|datafusion --out DIR
    oracle.py compare EXPECTED_DIR ACTUAL_DIR [--queries DIR] [--query NAME]...

DATA holds a table per entry: `<table>.parquet` or a folder `<table>/` of Parquet files. QUERIES holds `<query>.sql`,
one statement each. A folder of answers holds `<query>.parquet` or a folder `<query>/` of Parquet files, which are read in
the order of their names.

Exit codes: 0 all equal, 1 some differ, 2 wrong usage or an engine's failure.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from comparison import SortKey, first_difference, parse_order

ORDER_LINE = re.compile(r"^-- order: *(.+)$", re.MULTILINE)


def main() -> int:
    arguments = _parse_arguments()
    if arguments.command == "answers":
        return answers(arguments.data, arguments.queries, ENGINES[arguments.engine], arguments.out)
    return compare(arguments.expected, arguments.actual, arguments.queries, arguments.query)


def answers(data: Path, queries: Path, connect: Callable, out: Path) -> int:
    """Writes one Parquet file per query."""
    tables = {path.stem: path for path in sorted(data.iterdir()) if path.is_dir() or path.suffix == ".parquet"}
    if not tables:
        raise SystemExit(f"oracle: no table in {data}")
    out.mkdir(parents=True, exist_ok=True)
    execute = connect(tables)
    for query in sorted(queries.glob("*.sql")):
        pq.write_table(execute(query.read_text()), out / f"{query.stem}.parquet")
    return 0


def duckdb(tables: dict[str, Path]) -> Callable[[str], pa.Table]:
    import duckdb

    connection = duckdb.connect()
    for name, path in tables.items():
        files = f"{path}/**/*.parquet" if path.is_dir() else str(path)
        quoted = files.replace("'", "''")
        connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet(\'{quoted}\')')
    return lambda sql: connection.sql(sql).to_arrow_table()


def datafusion(tables: dict[str, Path]) -> Callable[[str], pa.Table]:
    import datafusion

    context = datafusion.SessionContext()
    for name, path in tables.items():
        # The slash at the end tells DataFusion that it is a folder.
        context.register_parquet(name, f"{path}/" if path.is_dir() else str(path))
    return lambda sql: context.sql(sql).to_arrow_table()


ENGINES = {"duckdb": duckdb, "datafusion": datafusion}


def compare(expected: Path, actual: Path, queries: Path, only: list[str]) -> int:
    """Prints a line per query and says with the exit code whether all are equal."""
    names = only or sorted({path.stem for path in expected.iterdir() if not path.name.startswith((".", "_"))})
    if not names:
        raise SystemExit(f"oracle: no answer in {expected}")
    different = 0
    for name in names:
        left = _read_answer(expected, name)
        right = _read_answer(actual, name)
        if left is None or right is None:
            difference = f"no answer in {expected if left is None else actual}"
        else:
            difference = first_difference(left, right, _order_of(queries / f"{name}.sql"))
        if difference is None:
            print(f"{name} equal, {left.num_rows} rows")
        else:
            different += 1
            print(f"{name} DIFFERENT: {difference}")
    return 1 if different else 0


def _read_answer(folder: Path, name: str) -> pa.Table | None:
    file, parts = folder / f"{name}.parquet", folder / name
    files = [file] if file.is_file() else sorted(parts.rglob("*.parquet"))
    # One file at a time: as a dataset, a folder `a=1` would become a column of the answer.
    tables = [pq.ParquetFile(part).read() for part in files]
    return pa.concat_tables(tables) if tables else None


def _order_of(query: Path) -> list[SortKey]:
    """A query without a file, or without `-- order:` in it, has no order."""
    line = ORDER_LINE.search(query.read_text()) if query.is_file() else None
    return parse_order(line.group(1)) if line else []


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="oracle.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    answer = commands.add_parser("answers", help="answer every query with an engine")
    answer.add_argument("--data", type=Path, required=True)
    answer.add_argument("--queries", type=Path, required=True)
    answer.add_argument("--engine", choices=sorted(ENGINES), required=True)
    answer.add_argument("--out", type=Path, required=True)
    comparison = commands.add_parser("compare", help="compare two folders of answers")
    comparison.add_argument("expected", type=Path)
    comparison.add_argument("actual", type=Path)
    comparison.add_argument("--queries", type=Path, default=Path(__file__).parent.parent / "tpch")
    comparison.add_argument("--query", action="append", default=[], help="only this query; may be given again")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
