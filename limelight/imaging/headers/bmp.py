"""Header of BMP files."""

import struct

from limelight.imaging.headers.header import Header, HeaderDamageError

_OLD_HEADER_BYTES = 12
# Sizes that identify the kinds of header. A text that begins with BM has none of them.
_HEADER_BYTES = frozenset((_OLD_HEADER_BYTES, 40, 52, 56, 64, 108, 124))
_RUN_LENGTH = frozenset((1, 2))
# Pillow expands run-length encoding in an interpreted loop: times of a pixel and of a byte.
_PIXEL_S, _RUN_PIXEL_S, _RUN_BYTE_S = 4e-9, 1.2e-7, 4e-7


def read_bmp(body: bytes) -> Header:
    """Read the header of a BMP file; see `header.Read`."""
    if len(body) < 30:
        raise HeaderDamageError
    (size,) = struct.unpack_from("<I", body, 14)
    if size not in _HEADER_BYTES:
        raise HeaderDamageError
    if size == _OLD_HEADER_BYTES:
        width, height, _, bits = struct.unpack_from("<HHHH", body, 18)
        compression = 0
    else:
        if len(body) < 34:
            raise HeaderDamageError
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", body, 18)
    width, height = abs(width), abs(height)
    if not (width and height):
        raise HeaderDamageError
    runs = compression in _RUN_LENGTH
    seconds = width * height * (_RUN_PIXEL_S if runs else _PIXEL_S)
    return Header(
        width=width,
        height=height,
        # The expanded rows are there three times.
        pixel_bytes=3 if runs else 1 if bits <= 8 else 4,
        decoding_s=seconds + len(body) * _RUN_BYTE_S * runs,
        body=body,
    )
