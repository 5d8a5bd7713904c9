"""Images in rows of Parquet files: a column of bytes, or in the format of Hugging Face."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.scoring.columns import (
    check_distinct,
    conformed,
    holds_bytes,
    merged,
    names_in_out,
    partition_of,
    partition_schema,
)
from pipeline.scoring.sources import Chunk, digest_files

SUFFIX = ".parquet"
COLUMN = "image"


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group, with its first row in the file and in the source."""

    file: str
    index: int
    file_row: int
    first: int


class ParquetSource:
    """Rows of the files of these names below `root`, in order; one row group is in memory.

    The rows have the columns of all files, in any order, and those of folders such as year=2024.
    """

    def __init__(self, root: Path, names: Sequence[str], column: str = COLUMN) -> None:
        self._root, self._column = root, column
        self._groups: list[RowGroup] = []
        self.images = 0
        schema = pa.schema([])
        has_paths = False
        for name in names:
            metadata, found = _open(root / name, column)
            image = found.get_field_index(column)
            has_paths |= _has(found.field(image).type, "path")
            schema = merged(schema, found.remove(image), root / name)
            self._add(name, metadata)
        if self.images == 0:
            where = root / names[0] if len(names) == 1 else root
            raise DataError(f"{where}: no rows, so there is nothing to score")
        for field in partition_schema(map(partition_of, names)):
            if field.name not in schema.names:
                schema = schema.append(field)
        self._schema = schema
        self._adds_path = has_paths and "path" not in schema.names
        self.listing = digest_files(root, names)
        self._held: tuple[RowGroup, pa.Table] | None = None

    def read(self, start: int, stop: int) -> Chunk:
        """Read the rows from `start` to before `stop`."""
        first = bisect.bisect_right(self._groups, start, key=lambda group: group.first) - 1
        ids: list[pa.Table] = []
        bodies: list[Path | bytes | None] = []
        for group in self._groups[first:]:
            if group.first >= stop:
                break
            begin = max(start - group.first, 0)
            rows = self._load(group).slice(begin, stop - group.first - begin)
            ids.append(self._identified(rows, group, begin))
            images = rows.column(self._column)
            bodies += (_field(images, "bytes") if _is_struct(images.type) else images).to_pylist()
        return Chunk(pa.concat_tables(ids), bodies)

    def _add(self, name: str, metadata: pq.FileMetaData) -> None:
        file_row = 0
        for index in range(metadata.num_row_groups):
            self._groups.append(RowGroup(name, index, file_row, self.images))
            rows = metadata.row_group(index).num_rows
            file_row += rows
            self.images += rows

    def _load(self, group: RowGroup) -> pa.Table:
        """Read a row group, and keep it: the next shard may begin inside it."""
        if self._held is None or self._held[0] != group:
            self._held = None  # so that there are never two in memory
            with pq.ParquetFile(self._root / group.file) as file:
                self._held = (group, file.read_row_group(group.index))
        return self._held[1]

    def _identified(self, rows: pa.Table, group: RowGroup, begin: int) -> pa.Table:
        """Return the file, the row in it, the path in the image, and the source's own columns."""
        at = group.file_row + begin
        ids = {
            "file": pa.array([group.file] * len(rows), pa.string()),
            "row": pa.array(range(at, at + len(rows)), pa.int64()),
        }
        images = rows.column(self._column)
        if self._adds_path:
            has_path = _has(images.type, "path")
            path = _field(images, "path") if has_path else pa.nulls(len(rows))
            ids["path"] = path.cast(pa.string())
        own = conformed(rows, self._schema, partition_of(group.file))
        names = [*ids, *names_in_out(own.column_names)]
        return pa.table([*ids.values(), *own.columns], names=names)


def is_private(name: str) -> bool:
    """Tell whether Spark and Arrow skip a file: it or a folder of its path begins with `_`."""
    return any(part.startswith("_") for part in PurePosixPath(name).parts)


def _open(file: Path, column: str) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        with pq.ParquetFile(file) as opened:
            metadata, schema = opened.metadata, opened.schema_arrow.remove_metadata()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a Parquet file, or is damaged: {error}") from error
    check_distinct(schema.names, file)
    if column not in schema.names:
        raise DataError(
            f"{file} has no column {column!r}, but {', '.join(schema.names)}: name the column of "
            "encoded images with --column"
        )
    kind = found = schema.field(column).type
    if _has(kind, "bytes"):
        kind = kind.field("bytes").type
    if not holds_bytes(kind):
        raise DataError(
            f"{file}: the column {column!r} is {found}, and must hold encoded images: binary, or a "
            "struct with `bytes`"
        )
    return metadata, schema


def _is_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind))


def _has(kind: pa.DataType, field: str) -> bool:
    return _is_struct(kind) and kind.get_field_index(field) >= 0


def _field(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    return pc.struct_field(column, name)
