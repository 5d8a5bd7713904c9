"""A short way through plain JPEG files: Pillow's own decoder, without its reading of the file.

The markers before the pixels are walked in place, which gives the size; the decoder, which is
Pillow's, then gets the whole body at once. Anything unusual is left to Pillow.
"""

import struct
from typing import NamedTuple

from PIL import Image

_FRAME = struct.Struct(">BHHB")
_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended and progressive, all of Huffman codes."""
_SCAN = 0xDA
# Tables, restart intervals and comments: the decoder's business. Pillow refuses broken tables of
# quantization, and so does the decoder.
_SKIPPED = {0xC4, 0xDB, 0xDD, 0xFE}
# Application segments that don't turn the image, and how long they must be for Pillow to read
# them: JFIF's, ICC profiles and Adobe's colour transform. Exif and XMP carry an orientation.
_HARMLESS = {0xE0: (b"JFIF\0", 14), 0xE2: (b"ICC_PROFILE\0", 14), 0xEE: (b"Adobe", 12)}
# Before the pixels of an ordinary file come about 10; a long profile takes a few more.
_MOST_SEGMENTS = 64


class Frame(NamedTuple):
    width: int
    height: int
    mode: str
    """L or RGB."""


def peek(body: bytes) -> Frame | None:
    """What the frame header says, if everything before the pixels is usual and well formed."""
    if not body.startswith(b"\xff\xd8\xff"):
        return None
    frame: Frame | None = None
    place, size = 2, len(body)
    for _ in range(_MOST_SEGMENTS):
        if place + 4 > size or body[place] != 0xFF:
            return None
        marker, length = body[place + 1], body[place + 2] << 8 | body[place + 3]
        start = place + 4
        place += 2 + length
        if length < 2 or place > size:
            return None
        if marker == _SCAN:
            return frame
        if marker in _FRAMES:
            if frame is not None or (frame := _frame(body[start:place])) is None:
                return None
        elif marker in _HARMLESS:
            signature, least = _HARMLESS[marker]
            if place - start < least or not body.startswith(signature, start):
                return None
        elif marker not in _SKIPPED:
            return None
    return None


def decode(
    body: bytes, *, max_pixels: int, least: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]] | None:
    """The image, of mode L or RGB, just as Pillow gives it, and the upload's width and height.

    With `least` (width, height) it is reduced to the smallest of 1/1, 1/2, 1/4 and 1/8 that is
    no smaller, as Pillow's `draft` does. None where the short way doesn't lead: not a JPEG, not
    plain, more than `max_pixels`, damaged. Pillow then has the say.
    """
    frame = peek(body)
    if frame is None or frame.width * frame.height > max_pixels:
        return None
    scale = 1
    if least is not None:
        spare = min(frame.width // least[0], frame.height // least[1])
        scale = next(step for step in (8, 4, 2, 1) if spare >= step or step == 1)
    reduced = -(-frame.width // scale), -(-frame.height // scale)
    try:
        image = Image.frombytes(frame.mode, reduced, body, "jpeg", frame.mode, "", scale, 0)
    except (ValueError, OSError, MemoryError):
        return None
    return image, (frame.width, frame.height)


def _frame(segment: bytes) -> Frame | None:
    if len(segment) < 6:
        return None
    depth, height, width, components = _FRAME.unpack_from(segment)
    mode = {1: "L", 3: "RGB"}.get(components)
    if mode is None or depth != 8 or len(segment) != 6 + 3 * components or not width * height:
        return None
    return Frame(width, height, mode)
