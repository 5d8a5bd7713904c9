"""All bytes of a file: as it is, and of the members of the archives in it, decompressed."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path


def contents(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of `file`, and those of each member if it is an archive."""
    yield from _contents(file.name, file.read_bytes())


def _contents(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from _contents(f"{name}/{member}", archive.read(member))
