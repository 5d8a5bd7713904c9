"""Header of JPEG files, and the scans of progressive ones."""

import re
import struct
from dataclasses import dataclass

from limelight.imaging.headers.header import Header, HeaderDamageError, Parts

_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
_PROGRESSIVE = 0xC2
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
# Arithmetic coding, lossless and hierarchical files: browsers do not read them either, and
# libjpeg's time for them is not bounded by the figures below.
_UNREADABLE = frozenset((0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), _EOI))
_STANDALONE = frozenset((0x01, *range(0xD0, 0xDA)))
_NO_MARKERS = (b"\0", b"\xff", b"")
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
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
    """Read the header of a JPEG file; see `header.Read`."""
    parts = Parts("segments")
    exif: list[bytes] = []
    xmp = b""
    frame: _Frame | None = None
    end = 2
    while True:
        parts.count()
        marker, start, end = _segment(body, end)
        if marker == _SOS:
            break
        if marker in _FRAMES:
            frame = _frame(marker, body[start + 4 : end])
        elif marker == _APP1:
            content = body[start + 4 : end]
            if content.startswith(_EXIF):
                exif.append(content[len(_EXIF) :])
            elif content.startswith(_XMP):
                xmp = content[len(_XMP) :]
        elif marker in _UNREADABLE:
            raise HeaderDamageError
    if frame is None:
        raise HeaderDamageError
    scans_s, multiple = _scans(body, start, end, frame, parts)
    pixels = frame.width * frame.height
    channels = len(frame.blocks)
    working_bytes = frame.width * _ROW_BYTES
    if multiple:
        working_bytes += sum(frame.blocks.values()) * _BLOCK_BYTES
    return Header(
        width=frame.width,
        height=frame.height,
        pixel_bytes=1 if channels == 1 else 4,
        working_bytes=working_bytes,
        decoding_s=scans_s + len(body) * _BYTE_S + pixels * _PIXEL_S,
        reducible=True,
        jpeg_mode=_MODES[channels],
        body=body,
        exif=b"".join(exif),
        xmp=xmp,
    )


def _segment(body: bytes, place: int) -> tuple[int, int, int]:
    """Return marker, start and end of the next segment at or after `place`."""
    if body[place : place + 1] != b"\xff" or body[place + 1 : place + 2] in _NO_MARKERS:
        found = _MARKER.search(body, place)  # skips padding and stray bytes
        if found is None:
            raise HeaderDamageError
        place = found.start()
    if len(body) < place + 4:
        raise HeaderDamageError
    marker, length = body[place + 1], body[place + 2] << 8 | body[place + 3]
    if marker in _STANDALONE:
        return marker, place, place + 2
    end = place + 2 + length
    if end > len(body) or length < 2:
        raise HeaderDamageError
    return marker, place, end


def _frame(marker: int, content: bytes) -> _Frame:
    if len(content) < 6:
        raise HeaderDamageError
    bits, height, width, count = struct.unpack_from(">BHHB", content)
    if bits != 8 or not (width and height) or count not in _MODES or len(content) < 6 + 3 * count:
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
    return _Frame(marker == _PROGRESSIVE, width, height, blocks)


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
