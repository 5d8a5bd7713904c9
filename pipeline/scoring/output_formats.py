"""Registry of the file formats that labels are written in.

The command line reads the names without pyarrow, so pyarrow is imported on use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

FormatName = Literal["parquet", "csv"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFormat:
    """Format of a shard's files.

    Attributes:
        suffix: of the files' names.
        write: writes a table to a new file.
        count_rows: counts the rows of a file; a damaged file is an OSError, a ValueError or an
            ArrowException.

    """

    suffix: str
    write: "Callable[[pa.Table, Path], None]"
    count_rows: Callable[[Path], int]


def _write_parquet(table: "pa.Table", file: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, file)


def _count_parquet(file: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)


def _write_csv(table: "pa.Table", file: Path) -> None:
    from pipeline.scoring.csv_text import csv_lines

    with file.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(csv_lines(table))


def _count_csv(file: Path) -> int:
    from pipeline.scoring.csv_text import count_lines

    return count_lines(file.read_bytes()) - 1


OUTPUT_FORMATS: dict[FormatName, OutputFormat] = {
    "parquet": OutputFormat(suffix=".parquet", write=_write_parquet, count_rows=_count_parquet),
    "csv": OutputFormat(suffix=".csv", write=_write_csv, count_rows=_count_csv),
}
