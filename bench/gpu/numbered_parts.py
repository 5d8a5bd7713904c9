"""Files cut into numbered parts of a size, and put together from whatever parts are there.

A part is one line of JSON and a piece of the files laid end to end. Each line says which files
there are in all, where each lies, and the SHA-256 of each and of the piece: any part alone tells
what is missing. Needs nothing but Python.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1 << 20
_NAME = re.compile(r"part-[0-9]{3}\.bin")
# The line that describes everything; a part's piece is so much smaller than the part.
_HEAD_BYTES = 64 << 10


class PartsError(Exception):
    """The parts cannot be used; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """Files that were complete, and those that were not with the numbers of the parts they need."""

    written: list[str]
    missing: dict[str, list[int]]


def write_parts(files: Mapping[str, Path], folder: Path, *, part_bytes: int) -> list[Path]:
    """Cut files, by the names they will have, into parts of at most `part_bytes` in `folder`.

    Raises:
        PartsError: `part_bytes` leaves no room beside the line that describes everything.
    """
    if part_bytes <= 2 * _HEAD_BYTES:
        raise PartsError(f"parts of {part_bytes} bytes are too small: at least {4 * _HEAD_BYTES}")
    index, at = {}, 0
    for name, path in files.items():
        size = path.stat().st_size
        index[name] = {"at": at, "bytes": size, "sha256": _sha256(path)}
        at += size
    piece_bytes = part_bytes - _HEAD_BYTES
    count = max(1, -(-at // piece_bytes))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = []
    for number, piece in enumerate(_pieces(files.values(), piece_bytes), start=1):
        head = {
            "part": number,
            "parts": count,
            "piece_bytes": piece_bytes,
            "sha256": hashlib.sha256(piece).hexdigest(),
            "files": index,
        }
        line = json.dumps(head).encode() + b"\n"
        if len(line) > _HEAD_BYTES:
            raise PartsError(f"{len(files)} files are too many to describe in each part")
        path = folder / f"part-{number:03}.bin"
        path.write_bytes(line + piece)
        written.append(path)
    return written


def read_parts(folder: Path, to: Path) -> Unpacked:
    """Write every file that is complete in the parts in `folder` to `to`, and name the others.

    Raises:
        PartsError: there are no parts, one is damaged, or they belong to different packs.
    """
    parts: dict[int, tuple[Path, int]] = {}
    heads: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*")):
        if _NAME.fullmatch(path.name):
            head, start = _check(path)
            parts[head["part"]] = path, start
            heads.append(head)
    if not heads:
        raise PartsError(f"{folder} holds no parts (part-001.bin and so on)")
    first = heads[0]
    if any(head["files"] != first["files"] for head in heads):
        raise PartsError(f"{folder} holds parts of different packs: keep those of one")
    written, missing, size = [], {}, first["piece_bytes"]
    for name, entry in first["files"].items():
        first_part = entry["at"] // size + 1
        needed = range(first_part, -(-(entry["at"] + entry["bytes"]) // size) + 1)
        if not entry["bytes"]:
            needed = range(0)
        absent = [number for number in needed if number not in parts]
        if absent:
            missing[name] = absent
            continue
        _write(_inside(to, name), entry, [parts[number] for number in needed], size)
        written.append(name)
    return Unpacked(written=written, missing=missing)


def _pieces(files: Iterable[Path], size: int) -> Iterator[bytes]:
    """The files' bytes end to end, in pieces of `size`; the last is shorter."""
    waiting = bytearray()
    for path in files:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                waiting += chunk
                while len(waiting) >= size:
                    yield bytes(waiting[:size])
                    del waiting[:size]
    if waiting:
        yield bytes(waiting)


def _check(path: Path) -> tuple[dict[str, Any], int]:
    """A part's head, and where its piece begins."""
    with path.open("rb") as stream:
        try:
            head: dict[str, Any] = json.loads(stream.readline(_HEAD_BYTES + 1))
            expected = head["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise PartsError(f"{path} is not a part: copy it again") from error
        start = stream.tell()
        digest = hashlib.sha256()
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise PartsError(f"{path} is damaged: copy it again")
    return head, start


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise PartsError(f"{name!r} leads out of {folder}: these parts are not ours")
    return path


def _write(path: Path, entry: dict[str, Any], parts: list[tuple[Path, int]], size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left, at = entry["bytes"], entry["at"] % size
    staging = path.with_name(f".{path.name}.part")
    digest = hashlib.sha256()
    with staging.open("wb") as output:
        for part, start in parts:
            with part.open("rb") as stream:
                stream.seek(start + at)
                taken = _copy(stream, output, min(left, size - at), digest)
            left, at = left - taken, 0
    if left or digest.hexdigest() != entry["sha256"]:
        staging.unlink()
        raise PartsError(f"{path.name} is not what was packed: copy its parts again")
    staging.replace(path)


def _copy(stream: BinaryIO, output: BinaryIO, count: int, digest: Any) -> int:
    taken = 0
    while taken < count and (chunk := stream.read(min(_CHUNK, count - taken))):
        output.write(chunk)
        digest.update(chunk)
        taken += len(chunk)
    return taken


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
