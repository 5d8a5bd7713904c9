"""Fast path for plain PNG files: Pillow's decoder without Pillow's file parser.

For a small image, Pillow spends more time on creating an image file object than on the pixels.
Here the chunks are parsed in place, and the compressed data goes directly to Pillow's decoder, so
the pixels are identical. Any unusual file is left to Pillow.
"""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from limelight.imaging.headers.header import MAX_PARTS, MAX_SIDE
from limelight.imaging.headers.png import CHUNK, HEADER
from limelight.imaging.headers.png import SIGNATURE as SIGNATURE

_SIZE = struct.Struct(">I4sII")
_CHECKSUM = struct.Struct(">I")

# Modes with 8 bits a channel, by the header's colour type. Palettes are left out, because they may
# have a transparent colour.
_MODES = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}
# Chunks that change neither pixels nor orientation, with the length that Pillow accepts (None:
# Pillow does not read them). Text chunks are not included, because Pillow reads an orientation
# from them.
_HARMLESS = {
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"pHYs": 9,
    b"tIME": None,
    b"bKGD": None,
    b"sBIT": None,
}


class DamageError(Exception):
    """The chunks are truncated, or a checksum is wrong."""


def peek_size(body: bytes) -> tuple[int, int] | None:
    """Return the width and height in the header; None if there is no header."""
    if len(body) < 24 or not body.startswith(SIGNATURE):
        return None
    length, name, width, height = _SIZE.unpack_from(body, 8)
    return (width, height) if name == b"IHDR" and length == 13 else None


def is_whole(body: bytes) -> bool:
    """Return whether every chunk up to the end marker is present, with the right checksum.

    This is stricter than Pillow, which neither verifies the checksums of pixel data nor requires
    the end marker.
    """
    try:
        for _ in _chunks(body):
            pass
    except DamageError:
        return False
    return True


def decode(body: bytes, *, max_pixels: int) -> Image.Image | None:
    """Decode to mode L, LA, RGB or RGBA, with the same pixels as Pillow.

    Return None if the fast path does not apply: the file is not a PNG, not plain, damaged, or has
    more than `max_pixels`. The caller then uses Pillow. The decoder stops at the last pixel that
    the header announces, so no more data is inflated.
    """
    if len(body) < 57 or not body.startswith(SIGNATURE):
        return None
    _, _, width, height, depth, colour, compression, filtering, interlace = HEADER.unpack_from(
        body, 8
    )
    mode = _MODES.get(colour)
    if mode is None or depth != 8 or compression or filtering or interlace:
        return None
    if not 0 < width * height <= max_pixels or width > MAX_SIDE or height > MAX_SIDE:
        return None
    try:
        compressed = _pixel_data(body)
        if compressed is None:
            return None
        return Image.frombytes(mode, (width, height), compressed, "zip", mode, 0)
    except (DamageError, ValueError, MemoryError):
        return None


def _pixel_data(body: bytes) -> bytes | memoryview | None:
    """Return the content of the IDAT chunks; None if another chunk may affect the pixels.

    Raises:
        DamageError: see `_chunks`.
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
    """Yield name, start and end of each chunk's content, up to the end marker.

    Raises:
        DamageError: a chunk is truncated, its checksum is wrong, or there are too many chunks.
    """
    view = memoryview(body)
    place, last = len(SIGNATURE), len(body) - 12
    for _ in range(MAX_PARTS):
        if place > last:
            raise DamageError
        length, name = CHUNK.unpack_from(body, place)
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
