"""Header of WebP files: their chunks, and the kind of their coding."""

import struct

from limelight.imaging import reduced_webp
from limelight.imaging.headers.header import Header, HeaderDamageError, Parts

_CHUNK = struct.Struct("<4sI")
_ALPHA, _ANIMATION = 0x10, 0x02
_VP8_START = b"\x9d\x01\x2a"
_VP8L_START = 0x2F
# Bytes per pixel: of Pillow's decoder, of the result, of the lossless decoder, and of the alpha
# plane with its decoder.
_PILLOW, _RESULT, _LOSSLESS, _ALPHA_PLANE = 20, 4, 4, 5
_ROW_BYTES = 256
# Time of a pixel: four transforms of the lossless decoder, or the lossy one with its loop filter.
_PIXEL_S, _BYTE_S = 1.8e-8, 2e-8


def read_webp(body: bytes) -> Header:
    """Read the header of a WebP file; see `header.Read`."""
    if body[8:12] != b"WEBP":  # another RIFF file, such as a sound
        raise HeaderDamageError
    parts = Parts("chunks")
    place, end = 12, min(len(body), int.from_bytes(body[4:8], "little") + 8)
    size: tuple[int, int] | None = None
    alpha = animated = alpha_plane = lossless = False
    exif = xmp = b""
    while place + 8 <= end:
        parts.count()
        name, length = _CHUNK.unpack_from(body, place)
        start = place + 8
        place = start + length + (length & 1)
        if name == b"VP8X" and length >= 10 and size is None:
            if end < start + 10:
                raise HeaderDamageError
            flags = body[start]
            alpha, animated = bool(flags & _ALPHA), bool(flags & _ANIMATION)
            size = (_uint24(body, start + 4) + 1, _uint24(body, start + 7) + 1)
        elif name == b"ALPH":
            alpha_plane = True
        elif name in (b"VP8 ", b"VP8L"):
            lossless = name == b"VP8L"
            read = _vp8l_size if lossless else _vp8_size
            own_size, own_alpha = read(body, start)
            if size is None:
                size, alpha = own_size, own_alpha
        elif name == b"EXIF":
            exif = body[start : start + length]
        elif name == b"XMP ":
            xmp = body[start : start + length]
    if size is None:
        raise HeaderDamageError
    width, height = size
    pixels = width * height
    by_pillow = animated or not reduced_webp.is_available()
    working = pixels * (_LOSSLESS * lossless + _ALPHA_PLANE * alpha_plane) + width * _ROW_BYTES
    return Header(
        width=width,
        height=height,
        pixel_bytes=_PILLOW if by_pillow else _RESULT,
        working_bytes=0 if by_pillow else working,
        decoding_s=pixels * _PIXEL_S * (1 + by_pillow) + len(body) * _BYTE_S,
        reducible=not by_pillow,
        reducible_freely=not by_pillow,
        body=body,
        exif=exif.removeprefix(b"Exif\0\0"),
        xmp=xmp,
        decodes_webp=not by_pillow,
        has_alpha=alpha or alpha_plane,
    )


def _uint24(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 3], "little")


def _vp8_size(body: bytes, start: int) -> tuple[tuple[int, int], bool]:
    if len(body) < start + 10 or body[start + 3 : start + 6] != _VP8_START:
        raise HeaderDamageError
    width, height = struct.unpack_from("<HH", body, start + 6)
    if not (width & 0x3FFF and height & 0x3FFF):
        raise HeaderDamageError
    return (width & 0x3FFF, height & 0x3FFF), False


def _vp8l_size(body: bytes, start: int) -> tuple[tuple[int, int], bool]:
    if len(body) < start + 5 or body[start] != _VP8L_START:
        raise HeaderDamageError
    bits = int.from_bytes(body[start + 1 : start + 5], "little")
    return ((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1), bool(bits >> 28 & 1)
