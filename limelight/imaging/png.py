"""A short way through plain PNG files: Pillow's own decoder, without its reading of the file.

Pillow spends more time on building an image file object than on the pixels of a small image.
Here the chunks are walked in place, and what they compress goes straight to Pillow's decoder,
so the pixels are Pillow's. Anything unusual is left to Pillow.
"""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_HEADER = struct.Struct(">I4sIIBBBBB")
_SIZE = struct.Struct(">I4sII")
_CHUNK = struct.Struct(">I4s")
_CHECKSUM = struct.Struct(">I")

# Of 8 bits a channel, by the header's colour type. Palettes have transparency of their own.
_MODES = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}
# Chunks that change neither pixels nor orientation, with the length at which Pillow reads them
# without complaint (None: it doesn't read them). Text is not among them: Pillow takes an
# orientation from it.
_HARMLESS = {
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"pHYs": 9,
    b"tIME": None,
    b"bKGD": None,
    b"sBIT": None,
}
# libpng writes one IDAT per 8 kB: this is half a gigabyte of them. An upload of empty chunks,
# 12 bytes each, would keep an interpreter busy for seconds.
_MOST_CHUNKS = 65_536


class DamageError(Exception):
    """The chunks don't add up: cut off, or a checksum that is wrong."""


def peek_size(body: bytes) -> tuple[int, int] | None:
    """Width and height that the header claims; None where there is none."""
    if len(body) < 24 or not body.startswith(SIGNATURE):
        return None
    length, name, width, height = _SIZE.unpack_from(body, 8)
    return (width, height) if name == b"IHDR" and length == 13 else None


def is_whole(body: bytes) -> bool:
    """Whether every chunk up to the end marker is there, with the right checksum.

    Stricter than Pillow, which neither looks at the checksums of pixels nor misses the end.
    """
    try:
        for _ in _chunks(body):
            pass
    except DamageError:
        return False
    return True


def decode(body: bytes, *, max_pixels: int) -> Image.Image | None:
    """The image, of mode L, LA, RGB or RGBA, just as Pillow gives it.

    None where the short way doesn't lead: not a PNG, not plain, more than `max_pixels`, damaged.
    Pillow then has the say. Its decoder stops at the last pixel that the header announces, so
    nothing inflates beyond that.
    """
    if len(body) < 57 or not body.startswith(SIGNATURE):
        return None
    _, _, width, height, depth, colour, compression, filtering, interlace = _HEADER.unpack_from(
        body, 8
    )
    mode = _MODES.get(colour)
    if mode is None or depth != 8 or compression or filtering or interlace:
        return None
    if not 0 < width * height <= max_pixels:
        return None
    try:
        compressed = _pixel_data(body)
        if compressed is None:
            return None
        return Image.frombytes(mode, (width, height), compressed, "zip", mode, 0)
    except (DamageError, ValueError, MemoryError):
        return None


def _pixel_data(body: bytes) -> bytes | memoryview | None:
    """What the IDAT chunks hold; None if there is a chunk that might matter.

    Raises:
        DamageError: see there.
    """
    view = memoryview(body)
    parts: list[memoryview] = []
    ended = False
    for at, (name, start, end) in enumerate(_chunks(body)):
        if name == b"IDAT":
            if ended:
                return None
            parts.append(view[start:end])
            continue
        ended = bool(parts)
        if name in _HARMLESS:
            if _HARMLESS[name] not in (None, end - start):
                return None
        elif not (name == b"IEND" or (at == 0 and name == b"IHDR" and end - start == 13)):
            return None
    if len(parts) == 1:
        return parts[0]
    return b"".join(parts) if parts else None


def _chunks(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each chunk's content, the end marker's last.

    Raises:
        DamageError: the next chunk is cut off, its checksum is wrong, or there are far too many.
    """
    view = memoryview(body)
    place, last = len(SIGNATURE), len(body) - 12
    for _ in range(_MOST_CHUNKS):
        if place > last:
            raise DamageError
        length, name = _CHUNK.unpack_from(body, place)
        start = place + 8
        end = start + length
        if (
            end > last + 8
            or zlib.crc32(view[place + 4 : end]) != _CHECKSUM.unpack_from(body, end)[0]
        ):
            raise DamageError
        yield name, start, end
        if name == b"IEND":
            return
        place = end + 4
    raise DamageError
