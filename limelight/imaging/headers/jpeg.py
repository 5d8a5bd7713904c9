"""Header of JPEG files, and the scans of progressive ones."""

import re
import struct
from dataclasses import dataclass

from limelight.imaging.headers.header import Header, HeaderDamageError, Parts

_SOF0, _SOF1, _SOF2 = 0xC0, 0xC1, 0xC2
# Arithmetic coding, lossless and hierarchical files: browsers do not read them either, and
# libjpeg's time for them is not bounded by the figures below.
_OTHER_FRAMES = frozenset((0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))
_SOS, _EOI, _APP0, _APP1, _APP14, _COM = 0xDA, 0xD9, 0xE0, 0xE1, 0xEE, 0xFE
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
# The next marker after entropy-coded data: neither a stuffed byte, a restart nor padding.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")

_COEFFICIENT_BYTES = 2
_BLOCK_BYTES = 64 * _COEFFICIENT_BYTES
# libjpeg's row buffers: some rows of blocks for each component.
_ROW_BYTES = 256
# Times from above: of a block in a scan, and beside that of each coefficient that a refining scan
# looks at; of a byte of entropy-coded data; of a pixel in the result.
_BLOCK_S, _REFINED_S, _BYTE_S, _PIXEL_S = 1.2e-8, 1.5e-9, 4e-8, 6e-9


@dataclass(slots=True)
class _Frame:
    """Contents of the frame header."""

    progressive: bool
    width: int
    height: int
    blocks: dict[int, int]
    """Blocks of each component, by its identifier."""


def read_jpeg(body: bytes) -> Header:
    """Read the header of a JPEG file; see `header.Read`.

    The decoder gets a copy without metadata: Pillow would parse it all, in an interpreted loop.
    """
    parts = Parts("segments")
    kept, exif, xmp = [body[:2]], [b""], b""
    frame: _Frame | None = None
    place = 2
    while True:
        parts.count()
        marker, start, end = _segment(body, place)
        place = end
        if marker == _SOS:
            break
        if marker in _STANDALONE:
            continue
        if marker == _EOI or marker in _OTHER_FRAMES:
            raise HeaderDamageError
        if marker in (_SOF0, _SOF1, _SOF2):
            frame = _frame(marker, body[start + 4 : end])
        elif marker == _APP1:
            content = body[start + 4 : end]
            if content.startswith(_EXIF):
                exif.append(content[len(_EXIF) :])
            elif content.startswith(_XMP):
                xmp = content[len(_XMP) :]
        if not (_APP0 < marker < _APP14 or marker in (0xEF, _COM)):
            kept.append(body[start:end])
    if frame is None:
        raise HeaderDamageError
    kept.append(body[start:])
    scans_s, multiple = _scans(body, start, end, frame, parts)
    channels = len(frame.blocks)
    blocks = sum(frame.blocks.values())
    pixels = frame.width * frame.height
    return Header(
        width=frame.width,
        height=frame.height,
        pixel_bytes=1 if channels == 1 else 4,
        working_bytes=blocks * _BLOCK_BYTES * multiple + frame.width * _ROW_BYTES,
        decoding_s=scans_s + len(body) * _BYTE_S + pixels * _PIXEL_S,
        reducible=True,
        body=b"".join(kept),
        exif=b"".join(exif),
        xmp=xmp,
    )


def _segment(body: bytes, place: int) -> tuple[int, int, int]:
    """Return marker, start and end of the next segment at or after `place`."""
    start = body.find(b"\xff", place)
    while start >= 0 and body[start + 1 : start + 2] in (b"\xff", b"\0"):
        found = _MARKER.search(body, start)  # skips padding and stuffed bytes
        start = -1 if found is None else found.start()
    if start < 0 or start + 2 > len(body):
        raise HeaderDamageError
    marker = body[start + 1]
    if marker in _STANDALONE:
        return marker, start, start + 2
    if marker == _EOI:
        return marker, start, start + 2
    if start + 4 > len(body):
        raise HeaderDamageError
    end = start + 2 + int.from_bytes(body[start + 2 : start + 4], "big")
    if end > len(body) or end < start + 4:
        raise HeaderDamageError
    return marker, start, end


def _frame(marker: int, content: bytes) -> _Frame:
    if len(content) < 6:
        raise HeaderDamageError
    _, height, width, count = struct.unpack_from(">BHHB", content)
    if not (width and height) or not 1 <= count <= 4 or len(content) < 6 + 3 * count:
        raise HeaderDamageError
    components = [content[6 + 3 * at : 9 + 3 * at] for at in range(count)]
    factors = [(number, both >> 4, both & 15) for number, both, _ in components]
    if any(not (1 <= x <= 4 and 1 <= y <= 4) for _, x, y in factors):
        raise HeaderDamageError
    most_x, most_y = max(x for _, x, _ in factors), max(y for _, _, y in factors)
    # libjpeg rounds up to whole groups of blocks.
    groups = -(-width // (8 * most_x)) * -(-height // (8 * most_y))
    blocks = {number: groups * x * y for number, x, y in factors}
    if len(blocks) != count:
        raise HeaderDamageError
    return _Frame(marker == _SOF2, width, height, blocks)


def _scans(body: bytes, start: int, end: int, frame: _Frame, parts: Parts) -> tuple[float, bool]:
    """Return the time of all scans in seconds, and whether there may be several.

    With several scans, libjpeg keeps the coefficients of the whole image.
    """
    seconds = 0.0
    header = body[start + 4 : end]
    if not frame.progressive and header and header[0] == len(frame.blocks):
        return sum(frame.blocks.values()) * _BLOCK_S, False
    while True:
        seconds += _scan_s(header, frame)
        while True:
            found = _MARKER.search(body, end)
            if found is None or found[1] == b"\xd9":
                return seconds, True
            parts.count()
            try:
                marker, start, end = _segment(body, found.start())
            except HeaderDamageError:
                return seconds, True
            if marker == _SOS:
                break
        header = body[start + 4 : end]


def _scan_s(header: bytes, frame: _Frame) -> float:
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count:
        return 0.0  # libjpeg ends here
    blocks = sum(frame.blocks.get(header[1 + 2 * at], 0) for at in range(count))
    first, last, refined = header[1 + 2 * count], header[2 + 2 * count], header[3 + 2 * count] >> 4
    each = _BLOCK_S + (max(0, last - first + 1) * _REFINED_S if refined and last else 0.0)
    return blocks * each
