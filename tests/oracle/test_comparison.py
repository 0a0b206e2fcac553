"""`python -m unittest discover tests/oracle`: a comparer that never says "different" would pass every other test."""

import contextlib
import io
import tempfile
import unittest
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import oracle
from comparison import SortKey, first_difference, parse_order


def decimals(*values: str, scale: int = 2) -> pa.Array:
    return pa.array([Decimal(value) for value in values], pa.decimal128(15, scale))


def table(**columns) -> pa.Table:
    return pa.table(columns)


class Equal(unittest.TestCase):
    def assert_equal(self, expected: pa.Table, actual: pa.Table, order: str | None = None):
        self.assertIsNone(first_difference(expected, actual, parse_order(order) if order else []))

    def test_rows_without_order_may_come_in_any(self):
        self.assert_equal(table(a=[1, 2, 2], b=["x", "y", "y"]), table(a=[2, 1, 2], b=["y", "x", "y"]))

    def test_ties_of_the_order_may_come_in_any(self):
        self.assert_equal(table(key=[1, 1, 2], name=["a", "b", "c"]), table(key=[1, 1, 2], name=["b", "a", "c"]), "1")

    def test_names_widths_and_encodings_do_not_matter(self):
        expected = table(a=pa.array([1], pa.int32()), b=pa.array(["x"]), c=pa.array([5], pa.decimal128(38, 0)))
        actual = table(
            z=pa.array([1], pa.int64()),
            y=pa.array(["x"]).dictionary_encode(),
            x=pa.array([5], pa.int64()),
        )
        self.assert_equal(expected, actual)
        self.assert_equal(expected, actual.set_column(1, "y", pa.array(["x"], pa.string_view())))

    def test_scale_of_a_decimal_does_not_matter(self):
        self.assert_equal(table(a=decimals("1.50")), table(a=decimals("1.5000", scale=4)))

    def test_floats_within_the_tolerance(self):
        self.assert_equal(table(a=[1.0e6, float("nan"), None]), table(a=[1.0e6 + 1e-4, float("nan"), None]))

    def test_float_against_a_rounded_decimal(self):
        self.assert_equal(table(a=[25.5220058]), table(a=decimals("25.522005", scale=6)))

    def test_rows_that_share_all_exact_columns_are_paired_by_their_floats(self):
        self.assert_equal(table(a=[1, 1], b=[0.5, 0.25]), table(a=[1, 1], b=[0.25, 0.5]))

    def test_empty(self):
        self.assert_equal(table(a=pa.array([], pa.int64())), table(a=pa.array([], pa.int32())), "1")

    def test_nulls_come_last_ascending_and_first_descending(self):
        self.assert_equal(table(a=[1, 2, None]), table(a=[1, 2, None]), "1")
        self.assert_equal(table(a=[1, 2, None]), table(a=[None, 2, 1]), "1 desc")


class Different(unittest.TestCase):
    def assert_difference(self, expected: pa.Table, actual: pa.Table, *words: str, order: str | None = None):
        difference = first_difference(expected, actual, parse_order(order) if order else [])
        self.assertIsNotNone(difference)
        for word in words:
            self.assertIn(word, difference)

    def test_last_digit_of_a_decimal(self):
        expected = table(name=["x", "y"], revenue=decimals("100.01", "200.02"))
        actual = table(name=["x", "y"], revenue=decimals("100.01", "200.03"))
        self.assert_difference(expected, actual, "row 2", "column 2 (revenue)", "expected 200.02, found 200.03")

    def test_missing_row(self):
        self.assert_difference(table(a=[1, 2]), table(a=[1]), "expected 2 rows, found 1", "(2)")

    def test_surplus_row(self):
        self.assert_difference(table(a=[1]), table(a=[1, 7]), "expected 1 rows, found 2", "(7)")

    def test_row_doubled_in_place_of_another(self):
        self.assert_difference(table(a=[1, 2]), table(a=[1, 1]), "expected 2, found 1")

    def test_swapped_order(self):
        self.assert_difference(table(a=[1, 2]), table(a=[2, 1]), "out of order", "2, then 1", order="1")
        self.assert_difference(table(a=[2, 1]), table(a=[1, 2]), "out of order", order="1 desc")

    def test_second_key_counts_only_among_ties_of_the_first(self):
        expected = table(a=[1, 1, 2], b=[5, 6, 4])
        self.assert_difference(expected, table(a=[1, 1, 2], b=[6, 5, 4]), "column 2", order="1, 2")

    def test_float_beyond_the_tolerance(self):
        self.assert_difference(table(a=[1.0]), table(a=[1.0 + 1e-8]), "column 1")
        self.assert_difference(table(a=[0.0]), table(a=[1e-12]), "column 1")
        self.assert_difference(table(a=[float("inf")]), table(a=[float("-inf")]), "column 1")

    def test_float_against_a_decimal_beyond_its_last_digit(self):
        self.assert_difference(table(a=[25.522005]), table(a=decimals("25.522009", scale=6)), "column 1")

    def test_null_is_not_a_value(self):
        self.assert_difference(table(a=["", "x"]), table(a=[None, "x"]), "expected '', found None")
        self.assert_difference(table(a=[0.0]), table(a=pa.array([None], pa.float64())), "found None")

    def test_types_of_another_kind(self):
        self.assert_difference(table(a=[1]), table(a=["1"]), "expected type int64, found string")
        self.assert_difference(table(a=[True]), table(a=[1]), "expected type bool")
        self.assert_difference(table(a=[date(1995, 1, 1)]), table(a=["1995-01-01"]), "date32")

    def test_columns(self):
        self.assert_difference(table(a=[1]), table(a=[1], b=[2]), "expected 1 columns, found 2")


class Order(unittest.TestCase):
    def test_is_read_from_text(self):
        self.assertEqual(parse_order("2 desc, 1, 3 asc"), [SortKey(1, True), SortKey(0), SortKey(2)])

    def test_rejects_what_it_does_not_know(self):
        with self.assertRaises(ValueError):
            parse_order("1 downwards")


class Folders(unittest.TestCase):
    """The command's own part: which files make an answer, and where a query's order comes from."""

    def setUp(self):
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in ("expected", "actual", "queries"):
            (self.root / name).mkdir()
        (self.root / "queries/q.sql").write_text("-- order: 1\nselect a from t order by a\n")

    def compare(self) -> tuple[int, str]:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = oracle.compare(self.root / "expected", self.root / "actual", self.root / "queries", [])
        return code, output.getvalue()

    def test_parts_are_read_in_the_order_of_their_names(self):
        pq.write_table(table(a=[1, 2, 3]), self.root / "expected/q.parquet")
        (self.root / "actual/q").mkdir()
        pq.write_table(table(a=[3]), self.root / "actual/q/part-1.parquet")
        pq.write_table(table(a=[1, 2]), self.root / "actual/q/part-0.parquet")
        (self.root / "actual/q/_SUCCESS").touch()
        self.assertEqual(self.compare(), (0, "q equal, 3 rows\n"))

    def test_order_of_the_query_file_is_held(self):
        pq.write_table(table(a=[1, 2]), self.root / "expected/q.parquet")
        pq.write_table(table(a=[2, 1]), self.root / "actual/q.parquet")
        code, output = self.compare()
        self.assertEqual(code, 1)
        self.assertIn("q DIFFERENT: rows 1 and 2 are out of order", output)

    def test_answer_that_is_not_there(self):
        pq.write_table(table(a=[1]), self.root / "expected/q.parquet")
        code, output = self.compare()
        self.assertEqual(code, 1)
        self.assertIn("q DIFFERENT: no answer in", output)

    def test_both_engines_answer_over_files_and_folders(self):
        data = self.root / "data"
        (data / "folder").mkdir(parents=True)
        pq.write_table(table(a=[1, 2]), data / "folder/part-0.parquet")
        pq.write_table(table(b=[2, 3]), data / "file.parquet")
        (self.root / "queries/q.sql").write_text("select a from folder, file where a = b")
        for engine, connect in oracle.ENGINES.items():
            oracle.answers(data, self.root / "queries", connect, self.root / engine)
            self.assertEqual(pq.read_table(self.root / engine / "q.parquet").column(0).to_pylist(), [2], engine)


if __name__ == "__main__":
    unittest.main()
