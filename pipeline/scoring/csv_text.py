"""CSV of a table, such that no spreadsheet takes a text of it for a formula.

Names of files and columns come from strangers, and a cell that begins with `=` can start programs.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator

import pyarrow as pa

# OWASP, "CSV Injection": the first characters that make a cell a formula, in some program.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def csv_lines(table: pa.Table) -> Iterator[str]:
    r"""Yield the names of the columns, and then each row, as a line that ends with `\n`.

    Texts are quoted, and a text that begins like a formula gets an apostrophe before it, unless it
    is a number. Lists and structs are JSON, bytes are base64, and null is empty.
    """
    yield _line(map(_text, table.column_names))
    for row in zip(*(_cells(column) for column in table.columns), strict=True):
        yield _line(row)


def count_lines(content: bytes) -> int:
    """Count the lines outside quotes.

    Raises:
        ValueError: the last line does not end.

    """
    outside = content.split(b'"')[::2]
    if not content.endswith(b"\n") or content.count(b'"') % 2:
        raise ValueError("its last line does not end")
    return sum(part.count(b"\n") for part in outside)


def _line(cells: Iterable[str]) -> str:
    return ",".join(cells) + "\n"


def _cells(column: pa.ChunkedArray) -> list[str]:
    kind = column.type
    if pa.types.is_boolean(kind) or _is_number(kind):
        return [value or "" for value in column.cast(pa.string()).to_pylist()]
    return ["" if value is None else _text(_plain(value)) for value in _values(column)]


def _values(column: pa.ChunkedArray) -> list[object]:
    """Return Python's values, with the fewest digits that tell 32-bit numbers in lists apart."""
    kind = column.type
    if pa.types.is_list(kind) and pa.types.is_float32(kind.value_type):
        texts = column.cast(pa.list_(pa.string())).to_pylist()
        return [
            row if row is None else [None if text is None else float(text) for text in row]
            for row in texts
        ]
    return list(column.to_pylist())


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _text(value: str) -> str:
    if value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        value = f"'{value}"
    return '"' + value.replace('"', '""') + '"'
