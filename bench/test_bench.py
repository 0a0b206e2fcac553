"""Tests of what decides in the harness: spreads, ratios, the best of two, and which processes are a contender's."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import breakdown
import contenders
import host_memory
import table
from processes import Processes


def run(rows: int = 1, **milliseconds: float) -> dict:
    return {
        "milliseconds": milliseconds,
        "rows": {query: rows for query in milliseconds},
        "peak_bytes": 64 << 20,
        "others_cores": 0.1,
    }


def measured_round(in_process: float, workers: float, datafusion: float, push: float, pull: float) -> dict:
    keys = [contenders.IN_PROCESS, contenders.TWO_WORKERS, contenders.DATAFUSION, "ballista-push", "ballista-pull"]
    runs = {key: run(q01=ms) for key, ms in zip(keys, [in_process, workers, datafusion, push, pull])}
    return runs | {contenders.DUCKDB: run(q01=80.0)}


class Figures(unittest.TestCase):
    def test_a_ratio_is_made_within_a_round(self):
        # The second round's machine was twice as slow for both: that is no spread of the ratio.
        rounds = [measured_round(110, 1, 100, 1, 1), measured_round(220, 1, 200, 1, 1)]
        self.assertEqual(table.total_ratio(rounds, contenders.IN_PROCESS, contenders.DATAFUSION).values, (1.1, 1.1))

    def test_a_total_is_of_all_queries(self):
        self.assertEqual(table.total_ms(run(q01=1.5, q02=2.0)), 3.5)

    def test_a_spread_shows_median_lowest_and_highest(self):
        self.assertEqual(table.Spread((3.0, 1.0, 2.0)).show(1), "2.0 (1.0 to 3.0)")

    def test_ballista_is_taken_at_its_best(self):
        rounds = [measured_round(1, 1, 1, push=300, pull=100), measured_round(1, 1, 1, push=200, pull=250)]
        self.assertEqual(table.best_ballista(rounds), "ballista-pull")

    def test_a_goal_that_is_missed_says_so(self):
        found = table.goals([measured_round(106, 81, 100, 100, 200)], {contenders.IN_PROCESS: [0.2]})
        self.assertEqual([row.row().split("|")[-2].strip() for row in found], ["**no**", "**no**", "yes"])

    def test_different_rows_are_named(self):
        runs = {"a": run(rows=4, q01=1.0, q02=1.0), "b": run(rows=4, q01=1.0, q02=1.0)}
        self.assertEqual(table.different_rows(runs), [])
        runs["b"]["rows"]["q02"] = 3
        self.assertEqual(table.different_rows(runs), ["q02: a 4, b 3"])
        del runs["b"]["rows"]["q02"]
        self.assertEqual(table.different_rows(runs), ["q02: a 4, b none"])

    def test_the_page_has_every_contender_in_every_table(self):
        measured = {
            "scale": 1.0,
            "date": "today",
            "rounds": [measured_round(100, 160, 100, 220, 240)],
            "contenders": [{"key": c.key, "name": c.name, "settings": c.settings} for c in contenders.CONTENDERS],
            "start_up_seconds": {contenders.IN_PROCESS: [0.1], contenders.DUCKDB: [0.2]},
            "start_up_query": "a query.",
            "checked": "Answers are equal.",
            "machine": {"processor": "two cores"},
            "files": {"region": [1, 2048]},
        }
        page = table.report(measured)
        self.assertIn("| in process / plain DataFusion, total | 1.05 | 1.00 (1.00 to 1.00) | yes |", page)
        self.assertIn("| q01 | 1 | 100 | 100 | 160 | 220 | 240 | 80 |", page)
        for contender in contenders.CONTENDERS:
            self.assertEqual(page.count(f"\n| {contender.name} |"), 2 if contender.key in measured["start_up_seconds"] else 1)


class Output(unittest.TestCase):
    def test_statements_are_the_queries_in_their_order(self):
        warm_up = '{"statement":1,"elapsedMs":80,"rowsTotal":1}\n'
        text = warm_up + '{"statement":3,"elapsedMs":7.5,"rowsTotal":9}\n{"statement":2,"elapsedMs":1,"rowsTotal":3}\n'
        found = contenders.read_statements(text, ["q01", "q02"])
        self.assertEqual((found.milliseconds, found.rows), ({"q01": 1, "q02": 7.5}, {"q01": 3, "q02": 9}))

    def test_a_statement_without_a_query_is_an_error(self):
        with self.assertRaises(ValueError):
            contenders.read_statements('{"statement":1,"elapsedMs":1,"rowsTotal":3}\n', ["q01", "q02"])


class Log(unittest.TestCase):
    def test_slots_without_a_task_are_idle(self):
        # Two slots for a second: one runs for a second, the other for half of one.
        log = """
2026-01-01T00:00:00.000000Z  INFO trireme_batch::job: statement started job=tpch statement=1
2026-01-01T00:00:00.100000Z DEBUG trireme_batch::cluster::driver: planned run=tpch-g1-r1 stages=1 tasks=2
2026-01-01T00:00:00.700000Z DEBUG t: task finished run=tpch-g1-r1 attempt=1 prepare_us=100000 elapsed_us=500000 rows_read=9 bytes=40
2026-01-01T00:00:01.100000Z DEBUG t: task finished run=tpch-g1-r1 attempt=2 prepare_us=0 elapsed_us=1000000 rows_read=9 bytes=2
"""
        [query] = breakdown.read_log(log, slots=2)
        self.assertEqual((query.stages, query.tasks, query.shuffle_bytes), (1, 2, 42))
        self.assertAlmostEqual(query.planning, 0.1, places=6)
        self.assertAlmostEqual(query.preparing, 0.05, places=6)
        self.assertAlmostEqual(query.running, 0.7, places=6)
        self.assertAlmostEqual(query.idle, 0.25, places=6)


class HostMemory(unittest.TestCase):
    def test_larger_tables_need_more_up_to_what_a_contender_gets(self):
        found = [host_memory.bytes_for(scale) for scale in (0.1, 1, 2, 1000)]
        self.assertEqual(found, [2 << 30, 2 << 30, 4 << 30, contenders.MEMORY_BYTES])

    def test_what_is_provided_was_in_memory_and_is_given_back(self):
        script = """
import host_memory, pathlib, resource
resident = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
host_memory.provide(256 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, resident() - before)
"""
        command = [sys.executable, "-c", script]
        printed = subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True).stdout
        highest, left = map(int, printed.split())
        # The kernel counts in batches of pages, per thread.
        self.assertGreater(highest, 255 << 20)
        self.assertLess(left, 16 << 20)


class Sessions(unittest.TestCase):
    def setUp(self):
        self.log = Path(self.enterContext(tempfile.TemporaryDirectory())) / "log"

    def test_what_a_process_leaves_behind_is_ended(self):
        # A grandchild in a group of its own, whose parent is gone.
        script = "import subprocess; print(subprocess.Popen(['sleep', '600'], process_group=0, stdout=subprocess.DEVNULL).pid)"
        with Processes(self.log) as processes:
            orphan = int(processes.output([sys.executable, "-c", script], 60))
            self.assertIn(orphan, processes.members())
        self.assertEqual(processes.members(), [])

    def test_memory_is_that_of_all_processes_together(self):
        # Both hold 64 MiB at the same time, and say so before they end.
        script = "held = bytearray(64 << 20); print(1, flush=True); input()"
        with Processes(self.log) as processes:
            options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            started = [processes.start([sys.executable, "-c", script], **options) for _ in range(2)]
            for process in started:
                process.stdout.readline()
            processes.wait_for_samples(2)
            for process in started:
                process.communicate(b"\n")
        self.assertGreaterEqual(processes.peak_bytes, 128 << 20)

    def test_a_failure_is_an_error(self):
        with Processes(self.log) as processes, self.assertRaises(RuntimeError):
            processes.output([sys.executable, "-c", "raise SystemExit(3)"], 60)


if __name__ == "__main__":
    unittest.main()
