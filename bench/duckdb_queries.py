#!/usr/bin/env python3
"""The contender DuckDB: runs every query once and prints a line of JSON for each, as the compiled contenders do."""

import argparse
import json
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--queries", type=Path, required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--memory-bytes", type=int, required=True)
parser.add_argument("--answers", type=Path)
arguments = parser.parse_args()

connection = duckdb.connect(config={"threads": arguments.threads, "memory_limit": f"{arguments.memory_bytes}B"})
for table in sorted(arguments.data.iterdir()):
    files = f"{table}/*.parquet".replace("'", "''")
    connection.execute(f"CREATE VIEW {table.name} AS SELECT * FROM read_parquet('{files}')")
connection.execute("SELECT 1").fetchall()
for query in sorted(arguments.queries.glob("*.sql")):
    sql = query.read_text()
    started = time.perf_counter()
    rows = connection.sql(sql).to_arrow_table()
    elapsed = time.perf_counter() - started
    print(json.dumps({"query": query.stem, "elapsedMs": elapsed * 1e3, "rows": rows.num_rows}), flush=True)
    if arguments.answers:
        pq.write_table(rows, arguments.answers / f"{query.stem}.parquet")
