"""Images in rows of Parquet files: a column `image` of bytes, or in the Hugging Face format."""

import bisect
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.scoring.sources import Chunk, digest_files

COLUMN = "image"
# Columns that scoring adds; a column of the source with such a name is kept as source_NAME.
ADDED = {
    "file", "row", "label", "confidence", "top_classes", "top_probabilities", "box", "code",
    "detail",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group, with its first row in the file and in the source."""

    file: Path
    index: int
    file_row: int
    first: int


class ParquetSource:
    """Rows of `files`, in order; one row group at a time is in memory."""

    def __init__(self, files: list[Path]) -> None:
        self._groups: list[RowGroup] = []
        self.images = 0
        schema = None
        for file in files:
            metadata, found = _open(file)
            if schema is not None and not found.equals(schema):
                raise DataError(
                    f"{file} has other columns than {files[0]}: put them into separate folders"
                )
            schema = found
            file_row = 0
            for index in range(metadata.num_row_groups):
                self._groups.append(RowGroup(file, index, file_row, self.images))
                rows = metadata.row_group(index).num_rows
                file_row += rows
                self.images += rows
        if self.images == 0:
            raise DataError(f"{', '.join(map(str, files))}: no rows, so there is nothing to score")
        self.listing = digest_files(files[0].parent, [file.name for file in files])
        self._held: tuple[RowGroup, pa.Table] | None = None

    def read(self, start: int, stop: int) -> Chunk:
        """Read the rows from `start` to before `stop`."""
        first = bisect.bisect_right(self._groups, start, key=lambda group: group.first) - 1
        tables = []
        for group in self._groups[first:]:
            if group.first >= stop:
                break
            begin = max(start - group.first, 0)
            part = self._load(group).slice(begin, stop - group.first - begin)
            tables.append(_identified(part, group, begin))
        table = pa.concat_tables(tables)
        bodies = table.column(COLUMN)
        if pa.types.is_struct(bodies.type):
            bodies = pc.struct_field(bodies, "bytes")
        return Chunk(table.drop_columns([COLUMN]), bodies.to_pylist())

    def _load(self, group: RowGroup) -> pa.Table:
        """Read a row group, and keep it: the next shard may begin inside it."""
        if self._held is None or self._held[0] != group:
            self._held = None  # so that there are never two in memory
            with pq.ParquetFile(group.file) as file:
                table = file.read_row_group(group.index)
            self._held = (group, table.replace_schema_metadata(None))
        return self._held[1]


def _open(file: Path) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        with pq.ParquetFile(file) as opened:
            metadata, schema = opened.metadata, opened.schema_arrow.remove_metadata()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a Parquet file, or is damaged: {error}") from error
    if COLUMN not in schema.names:
        raise DataError(
            f"{file} has no column '{COLUMN}', but {', '.join(schema.names)}: name the column of "
            f"encoded images '{COLUMN}'"
        )
    kind = schema.field(COLUMN).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(
            f"{file}: the column '{COLUMN}' is {schema.field(COLUMN).type}, and must hold encoded "
            "images: binary, or a struct with `bytes`"
        )
    return metadata, schema


def _identified(rows: pa.Table, group: RowGroup, begin: int) -> pa.Table:
    """Add columns before `rows`: the file, the row in it, and the image's path if it has one."""
    names = [f"source_{name}" if name in ADDED else name for name in rows.column_names]
    rows = rows.rename_columns(names)
    at = group.file_row + begin
    ids = {
        "file": pa.array([group.file.name] * len(rows), pa.string()),
        "row": pa.array(range(at, at + len(rows)), pa.int64()),
    }
    kind = rows.schema.field(COLUMN).type
    if "path" not in names and pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        ids["path"] = pc.struct_field(rows.column(COLUMN), "path")
    for name in reversed(ids):
        rows = rows.add_column(0, name, ids[name])
    return rows
