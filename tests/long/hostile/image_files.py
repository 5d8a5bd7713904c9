"""Writers of image files that are cheap to send and expensive to read."""

import io
import struct
import zlib
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

SIDE = 6_320
"""Side of a square image of almost 40 million pixels, the most that are accepted."""
MAX_BYTES = 9_900_000
"""Almost as many as a body may have."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def photo(image_format: str = "PNG", size: int = 64, mode: str = "RGB", **options: Any) -> bytes:
    """Return an image of noise over a gradient."""
    rng = np.random.default_rng(5)
    ramp = np.linspace(0, 200, size)[:, None, None] + rng.integers(0, 50, (size, size, 3))
    stream = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(stream, image_format, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def zeros(count: int) -> bytes:
    """Return a zlib stream of `count` zero bytes, without compressing them all."""
    step = 1 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    last = packer.compress(bytes(count % step)) + packer.flush()
    checksum = struct.pack(">I", count % 65521 << 16 | 1)  # Adler-32 of zeros
    return b"\x78\x01" + block * (count // step) + last + checksum


def png(
    side: int, depth: int, colour: int, *, interlace: int = 0, extra: bytes = b"", spare: int = 0
) -> bytes:
    """Return a flat PNG of `side` x `side`; `extra` chunks follow its header."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if interlace:
        steps = ((8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2))  # columns, rows
        starts = ((0, 0), (4, 0), (0, 4), (2, 0), (0, 2), (1, 0), (0, 1))
        passes = [
            (-(-(side - x) // across), -(-(side - y) // down))
            for (across, down), (x, y) in zip(steps, starts, strict=True)
        ]
    else:
        passes = [(side, side)]
    size = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in passes)
    palette = chunk(b"PLTE", bytes(range(6))) if colour == 3 else b""
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlace)
    data = chunk(b"IDAT", zeros(size + spare))
    return SIGNATURE + chunk(b"IHDR", header) + extra + palette + data + chunk(b"IEND", b"")


def webp(width: int, height: int, *, alpha: bool) -> bytes:
    """Return a lossless WebP of one colour: each code has a single symbol, of no bits."""
    bits = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (int(alpha), 1), (0, 3)]
    bits += [(0, 3)]  # no transform, no colour cache, one group of codes
    bits += [(0b0001, 4)] * 5  # a simple code of the symbol 0
    value = place = 0
    for number, count in bits:
        value |= number << place
        place += count
    data = value.to_bytes(-(-place // 8), "little")
    data += bytes(len(data) % 2)
    size = 4 + 8 + len(data)
    return b"RIFF" + struct.pack("<I", size) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def bmp(width: int, height: int, depth: int, compression: int, data: bytes, **forged: int) -> bytes:
    colours = 1 << depth if depth <= 8 else 0
    offset = 54 + 4 * colours
    head = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, depth, compression, len(data), 0, 0,
        forged.get("colours", colours), 0,
    )  # fmt: skip
    start = struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, forged.get("offset", offset))
    return start + head + bytes(range(256)) * (4 * colours // 256) + bytes(4 * colours % 256) + data


def gif(side: int, frames: int) -> bytes:
    """Return frames of one pixel each on a large screen."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    start = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    return start + frame * frames + b"\x3b"


def segments(body: bytes) -> list[bytes]:
    """Split a JPEG into its segments; each scan holds its data."""
    places = [0]
    place = 2
    while body[place + 1] != 0xD9:
        places.append(place)
        length = int.from_bytes(body[place + 2 : place + 4], "big")
        scan, place = body[place + 1] == 0xDA, place + 2 + length
        while scan and (body[place] != 0xFF or body[place + 1] in (0, *range(0xD0, 0xD8))):
            place += 1
    places += [place, len(body)]
    return [body[start:end] for start, end in pairwise(places)]


def jpeg_with(middle: bytes, size: int = 64, **options: Any) -> bytes:
    """Return a JPEG with bytes after its first marker."""
    body = photo("JPEG", size, **options)
    return body[:2] + middle + body[2:]


def many_scans(side: int, count: int) -> bytes:
    """Repeat the last scan of a flat progressive JPEG."""
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "JPEG", progressive=True)
    *most, last, end = segments(stream.getvalue())
    return b"".join(most) + last * min(count, MAX_BYTES // len(last)) + end


def patched_frame(body: bytes, *, marker: int = 0xC0, **values: int) -> bytes:
    """Change the marker, the precision or the size in the frame header of a JPEG."""
    found = bytearray(body)
    place = body.index(b"\xff\xc0")
    found[place + 1] = marker
    found[place + 4] = values.get("precision", 8)
    if side := values.get("side"):
        found[place + 5 : place + 9] = struct.pack(">HH", side, side)
    return bytes(found)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def exif_segment(exif: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + exif)


def exif_circle() -> bytes:
    """Return a directory that points to itself, as its successor and as its sub-directories."""
    tags = [struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + b"".join(tags) + struct.pack("<I", 8)
