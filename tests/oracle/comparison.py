"""Are two result tables the same answer?

Pure: tables in, the first difference as text out. Nothing here reads a file or knows an engine.

Rules, from strict to lenient:
- as many rows, as many columns; columns are matched by position, their names do not matter;
- integers, decimals, strings, dates, timestamps, booleans and binaries must be equal. Widths and scales do not matter:
  1.50 equals 1.5, and a dictionary of strings equals strings;
- floats may differ by FLOAT_TOLERANCE, relative. Where one engine answers with a float and the other with a decimal
  (AVG in DuckDB and in DataFusion), the decimal's own rounding is allowed on top: one unit of its last digit;
- rows are a multiset, because SQL promises an order only for ORDER BY, and even there none among ties. Where a query
  has an order, the actual rows must follow it; the expected ones are not asked.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal

import pyarrow as pa
import pyarrow.types as types

FLOAT_TOLERANCE = 1e-9

EXACT, APPROXIMATE = "exact", "approximate"


@dataclass(frozen=True)
class SortKey:
    """One term of a top-level ORDER BY: an output column, counted from 0."""

    column: int
    descending: bool = False


def parse_order(text: str) -> list[SortKey]:
    """Reads the list behind `-- order:` in a query file: columns counted from 1, as in `2 desc, 1`."""
    keys = []
    for term in text.split(","):
        column, *direction = term.split()
        if direction not in ([], ["asc"], ["desc"]):
            raise ValueError(f"order term `{term.strip()}` is not `<column> [asc|desc]`")
        keys.append(SortKey(int(column) - 1, descending=direction == ["desc"]))
    return keys


def first_difference(expected: pa.Table, actual: pa.Table, order: list[SortKey]) -> str | None:
    """The first difference in words, or None when both tables are the same answer."""
    if expected.num_columns != actual.num_columns:
        return f"expected {expected.num_columns} columns, found {actual.num_columns}: {actual.schema.names}"
    rules = []
    for position, (left, right) in enumerate(zip(expected.schema, actual.schema)):
        rule = _rule(left.type, right.type)
        if rule is None:
            return f"column {position + 1} ({left.name}): expected type {left.type}, found {right.type}"
        rules.append(rule)
    expected_rows, actual_rows = _rows(expected, rules), _rows(actual, rules)
    return (
        _unmatched(expected_rows, actual_rows, rules, expected.schema.names)
        or _out_of_order(actual_rows, order, actual.schema.names)
    )


@dataclass(frozen=True)
class _Rule:
    mode: str
    slack: float = 0.0  # absolute difference allowed beside FLOAT_TOLERANCE: one unit of a decimal's last digit

    def equal(self, left, right) -> bool:
        if left is None or right is None or self.mode == EXACT:
            return left == right
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        if math.isinf(left) or math.isinf(right):
            return left == right
        return abs(left - right) <= max(FLOAT_TOLERANCE * max(abs(left), abs(right)), self.slack)


def _rule(left: pa.DataType, right: pa.DataType) -> _Rule | None:
    kinds = {_kind(left), _kind(right)}
    if kinds == {"float"}:
        return _Rule(APPROXIMATE)
    if kinds == {"float", "number"}:
        scales = [t.scale for t in (left, right) if types.is_decimal(t)]
        return _Rule(APPROXIMATE, 10.0 ** -scales[0] if scales else 0.0)
    # A column of nulls has no type of its own: it equals a column of any type that holds only nulls.
    return _Rule(EXACT) if len(kinds - {"null"}) <= 1 else None


def _kind(data_type: pa.DataType) -> str:
    """Types of one kind may be compared with one another."""
    if types.is_dictionary(data_type):
        return _kind(data_type.value_type)
    if types.is_integer(data_type) or types.is_decimal(data_type):
        return "number"
    if types.is_floating(data_type):
        return "float"
    if types.is_string(data_type) or types.is_large_string(data_type) or types.is_string_view(data_type):
        return "text"
    if types.is_binary(data_type) or types.is_large_binary(data_type) or types.is_binary_view(data_type):
        return "binary"
    if types.is_date(data_type):
        return "date"
    if types.is_timestamp(data_type):
        return "timestamp" if data_type.tz is None else "timestamp with time zone"
    if types.is_boolean(data_type):
        return "boolean"
    if types.is_null(data_type):
        return "null"
    raise TypeError(f"columns of type {data_type} are not compared yet")


def _rows(table: pa.Table, rules: list[_Rule]) -> list[tuple]:
    columns = []
    for column, rule in zip(table.columns, rules):
        if types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
        values = column.to_pylist()
        if rule.mode == APPROXIMATE:
            values = [None if value is None else float(value) for value in values]
        columns.append(values)
    return list(zip(*columns))


def _unmatched(expected: list[tuple], actual: list[tuple], rules: list[_Rule], names: list[str]) -> str | None:
    """Pairs rows off. Rows meet by their exact columns; approximate columns decide among those that met.

    Python's int and Decimal are equal and hash alike when their values are, whatever their scale.
    """

    def key(row: tuple) -> tuple:
        return tuple(value for value, rule in zip(row, rules) if rule.mode == EXACT)

    def equal(left: tuple, right: tuple) -> bool:
        return all(rule.equal(a, b) for rule, a, b in zip(rules, left, right))

    unpaired = defaultdict(list)
    for row in reversed(actual):  # reversed: candidates are taken from the end, thus in the table's order
        unpaired[key(row)].append(row)
    missing = []
    for position, row in enumerate(expected):
        candidates = unpaired[key(row)]
        for index in range(len(candidates) - 1, -1, -1):
            if equal(row, candidates[index]):
                del candidates[index]
                break
        else:
            missing.append((position, row))
    extra = [row for candidates in unpaired.values() for row in candidates]

    if len(expected) != len(actual):
        text = f"expected {len(expected)} rows, found {len(actual)}"
        if missing:
            return f"{text}; first missing row: {_show(missing[0][1])}"
        return f"{text}; first surplus row: {_show(extra[0])}"
    if not missing:
        return None
    position, row = missing[0]
    nearest = max(extra, key=lambda other: sum(rule.equal(a, b) for rule, a, b in zip(rules, row, other)))
    cells = [
        f"column {column + 1} ({names[column]}): expected {_show_cell(row[column])}, found {_show_cell(nearest[column])}"
        for column, rule in enumerate(rules)
        if not rule.equal(row[column], nearest[column])
    ]
    return f"row {position + 1} of the expected answer is missing; the nearest row found differs in " + "; ".join(cells)


def _out_of_order(rows: list[tuple], order: list[SortKey], names: list[str]) -> str | None:
    for position, (before, after) in enumerate(zip(rows, rows[1:])):
        for key in order:
            left, right = before[key.column], after[key.column]
            if left == right:
                continue
            if _precedes(right, left) != key.descending:
                return (
                    f"rows {position + 1} and {position + 2} are out of order by column {key.column + 1} "
                    f"({names[key.column]}): {_show_cell(left)}, then {_show_cell(right)}"
                )
            break
    return None


def _precedes(left, right) -> bool:
    """Ascending; null comes after every value, which is SQL's default in DataFusion and PostgreSQL."""
    if left is None or right is None:
        return right is None
    return left < right


def _show(row: tuple) -> str:
    return "(" + ", ".join(_show_cell(value) for value in row) + ")"


def _show_cell(value) -> str:
    return str(value) if isinstance(value, Decimal) else repr(value)
