"""CSV files of labelled images: UTF-8, with columns for path, label and optionally split."""

import csv
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from limelight.labels import normalized
from pipeline.data.labelled_files import (
    TEST,
    TRAIN,
    VALIDATION,
    FilesByClass,
    LabelledFiles,
    checked,
    part_called,
)
from pipeline.errors import DataError

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "category"),
    "split": ("split", "set", "subset", "partition"),
}
"""Names that a column may have, in any case."""
_DELIMITERS = ",;\t"


def list_table(file: Path) -> LabelledFiles:
    """List the images that the rows of `file` name; other columns are ignored.

    A path is absolute or relative to the file's folder. The column `split` has the values
    ``train``, ``val`` and ``test``, or the other names of `part_called`. What it does not name must
    be held out.

    Raises:
        DataError: a column or a value is missing or invalid, an image is named twice, or there are
            fewer than two classes.

    """
    parts: dict[str, FilesByClass] = {TRAIN: {}}
    lines: dict[Path, int] = {}
    real = cache(os.path.realpath)
    for line, row in _rows(file):
        path = _path(row["path"], file, line)
        # Rows may name the same file by an absolute and a relative path, or by a linked folder.
        one = Path(real(path.parent), path.name)
        if one in lines:
            raise DataError(
                f"{file}, lines {lines[one]} and {line}: both name {row['path']}: keep one"
            )
        lines[one] = line
        written = row.get("split", TRAIN)
        part = part_called(written)
        if part is None:
            raise DataError(
                f"{file}, line {line}: split is {written!r}, and must be train, val or test"
            )
        parts.setdefault(part, {}).setdefault(normalized(row["label"]), []).append(path)
    if not lines:
        raise DataError(f"{file} has no rows: write a line `path,label` for each image")
    files = LabelledFiles(
        train=parts[TRAIN],
        validation=parts.get(VALIDATION),
        test=parts.get(TEST),
        described="a table of labelled images",
    )
    return checked(files, file, "rows")


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and known columns of each row; blank lines are skipped."""
    try:
        # Files by Excel begin with a byte order mark.
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            # Excel writes semicolons where the comma is the decimal point.
            delimiter = max(_DELIMITERS, key=header.count)
            reader = csv.DictReader(stream, delimiter=delimiter)
            columns = _known_columns(file, [name.strip() for name in reader.fieldnames or ()])
            reader.fieldnames = columns
            wanted = [name for name in COLUMNS if name in columns]
            for row in reader:
                values = {name: (row[name] or "").strip() for name in wanted}
                empty = [name for name, value in values.items() if not value]
                if empty:
                    raise DataError(f"{file}, line {reader.line_num}: no {' and no '.join(empty)}")
                yield reader.line_num, values
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 ({error}): save it as CSV UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{file} is not CSV ({error}): save it as CSV UTF-8") from error


def _known_columns(file: Path, header: list[str]) -> list[str]:
    """Rename the columns that mean one of `COLUMNS`.

    Raises:
        DataError: path or label is missing, or two columns mean the same.

    """
    known = {name: ours for ours, names in COLUMNS.items() for name in names}
    columns = [known.get(name.casefold(), f"other {name}") for name in header]
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise DataError(
            f"{file} has no column {' and no column '.join(missing)}, but "
            f"{', '.join(header) or 'nothing'}: begin it with the line `path,label`"
        )
    for name in COLUMNS:
        if columns.count(name) > 1:
            same = [there for there, ours in zip(header, columns, strict=True) if ours == name]
            raise DataError(f"{file}: the columns {' and '.join(same)} both mean {name}: keep one")
    return columns


def _path(written: str, file: Path, line: int) -> Path:
    if "\0" in written:
        raise DataError(f"{file}, line {line}: the path has a NUL byte: save it as CSV UTF-8")
    if Path(written).is_absolute():
        return Path(os.path.normpath(written))
    relative = Path(os.path.normpath(written))
    if relative.parts[:1] == (os.pardir,):
        raise DataError(
            f"{file}, line {line}: {written} is outside the folder of the file: write an absolute "
            "path"
        )
    return file.parent / relative
