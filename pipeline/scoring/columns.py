"""Columns of Parquet files that belong together: their common types, and their names in OUT."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

from pipeline.errors import DataError

# Columns that scoring adds; a column of the source with such a name is kept as source_NAME.
ADDED = frozenset({
    "file", "row", "label", "confidence", "top_classes", "top_probabilities", "box", "code",
    "detail",
})  # fmt: skip
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
# Digits of a number that surely fits into 64 bits.
_MOST_DIGITS = 18


def simple(kind: pa.DataType) -> pa.DataType:
    """Return the type without dictionaries and views, of which Arrow cannot select rows."""
    if pa.types.is_dictionary(kind):
        return simple(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(simple(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(simple(kind.value_type)))
    return kind


def holds_bytes(kind: pa.DataType) -> bool:
    """Tell whether values of this type are bytes, however they are stored."""
    kind = simple(kind)
    return any(
        test(kind)
        for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    )


def check_distinct(names: Sequence[str], file: Path) -> None:
    """Check that no two columns have the same name.

    Raises:
        DataError: two have.

    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            f"{file} has {Counter(names)[repeated[0]]} columns called {repeated[0]!r}: rename all "
            "but one"
        )


def merged(known: pa.Schema, found: pa.Schema, file: Path) -> pa.Schema:
    """Return the columns of `known` and then the further ones of `found`, with common types.

    Raises:
        DataError: a column has values of different kinds in the two.

    """
    found = pa.schema([(field.name, simple(field.type)) for field in found])
    try:
        return pa.unify_schemas([known, found], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"{file} has a column of another type than the files before it ({error}): put them "
            "into separate folders"
        ) from error


def conformed(rows: pa.Table, schema: pa.Schema, partition: dict[str, str | None]) -> pa.Table:
    """Return `rows` with the columns of `schema`: the own ones, those of the folders, and nulls."""
    columns = []
    for field in schema:
        if field.name in rows.column_names:
            column = rows.column(field.name)
            columns.append(column if column.type == field.type else column.cast(field.type))
        elif (value := partition.get(field.name)) is not None:
            columns.append(pa.repeat(pa.scalar(value).cast(field.type), len(rows)))
        else:
            columns.append(pa.nulls(len(rows), field.type))
    return pa.table(columns, schema=schema)


def partition_of(name: str) -> dict[str, str | None]:
    """Return the values in a path's folders as Hive and Spark write them: year=2024/a.parquet."""
    found: dict[str, str | None] = {}
    for folder in PurePosixPath(name).parts[:-1]:
        key, equals, value = folder.partition("=")
        if key and equals:
            found[unquote(key)] = None if value == _NO_VALUE else unquote(value)
    return found


def partition_schema(partitions: Iterable[dict[str, str | None]]) -> pa.Schema:
    """Return the columns of the folders: int64 if all values are numbers, and otherwise string."""
    values: dict[str, set[str]] = {}
    for partition in partitions:
        for key, value in partition.items():
            values.setdefault(key, set()).update(() if value is None else (value,))
    return pa.schema(
        [
            (key, pa.int64() if found and all(map(_is_number, found)) else pa.string())
            for key, found in values.items()
        ]
    )


def names_in_out(names: Sequence[str]) -> list[str]:
    """Return the names of the source's columns beside those that scoring adds."""
    taken = ADDED.union(names)
    result = []
    for name in names:
        kept = name
        while kept in ADDED or (kept != name and kept in taken):
            kept = f"source_{kept}"
        result.append(kept)
    return result


def _is_number(value: str) -> bool:
    """Tell whether `value` is a whole number as a computer writes it, so not 01."""
    digits = value.removeprefix("-")
    is_whole = digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
    return is_whole and str(int(value)) == value
