"""Header of PNG files, and their chunks."""

import struct

from limelight.imaging.headers.header import Header, HeaderDamageError, Parts

SIGNATURE = b"\x89PNG\r\n\x1a\n"

HEADER = struct.Struct(">I4sIIBBBBB")
CHUNK = struct.Struct(">I4s")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Pillow inflates each to at most 1 MB, and keeps it.
_COMPRESSED_TEXTS = frozenset((b"zTXt", b"iTXt", b"iCCP"))
_MAX_COMPRESSED_TEXTS = 16
_TEXT_BYTES = 1 << 20
# An animation's first frame is the image of IDAT. Pillow would prepare canvases for the others.
_ANIMATION = frozenset((b"acTL", b"fcTL", b"fdAT"))
# Time for a byte of the filtered rows: inflating, and the slowest filter (Paeth). Interlacing adds
# an eighth.
_BYTE_S = 5.5e-9
# Time for comparing a pixel with a transparent colour of 16 bits a channel.
_COMPARED_PIXEL_S = 1e-8


def read_png(body: bytes) -> Header:
    """Read the header of a PNG file; see `header.Read`."""
    if len(body) < 33:
        raise HeaderDamageError
    length, name, width, height, depth, colour, _, _, _ = HEADER.unpack_from(body, 8)
    channels = _CHANNELS.get(colour)
    if name != b"IHDR" or length != 13 or channels is None or not (width and height):
        raise HeaderDamageError
    kept, texts, transparent = _chunks(body)
    row_bytes = (width * channels * depth + 7) // 8
    # Pillow has one byte per pixel for one channel, two for 16 bits, and four for everything else.
    pixel_bytes = (2 if depth == 16 else 1) if channels == 1 else 4
    seconds = row_bytes * height * _BYTE_S
    if transparent and depth == 16 and channels == 3:  # see `transparency.load`
        pixel_bytes += 1
        seconds = 2 * seconds + width * height * _COMPARED_PIXEL_S
    return Header(
        width=width,
        height=height,
        pixel_bytes=pixel_bytes,
        working_bytes=2 * row_bytes + texts * _TEXT_BYTES,
        decoding_s=seconds,
        body=kept,
    )


def _chunks(body: bytes) -> tuple[bytes, int, bool]:
    """Walk through the chunks.

    Return the file without chunks of an animation, the number of its compressed texts, and whether
    it has a transparent colour.
    """
    parts, texts = Parts("chunks"), Parts("compressed texts", _MAX_COMPRESSED_TEXTS)
    place, last, found = len(SIGNATURE), len(body) - 12, 0
    kept: list[bytes] = []
    transparent, start = False, 0
    while place <= last:
        parts.count()
        length, name = CHUNK.unpack_from(body, place)
        end = place + 12 + length
        if name in _ANIMATION:
            kept.append(body[start:place])
            start = end
        elif name in _COMPRESSED_TEXTS:
            texts.count()
            found += 1
        elif name == b"tRNS":
            transparent = True
        elif name == b"IEND":
            break
        place = end
    return (b"".join((*kept, body[start:])) if kept else body), found, transparent
