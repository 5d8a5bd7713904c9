"""Header of GIF files, up to their first frame."""

import struct

from limelight.imaging.headers.header import Header, HeaderDamageError, Parts

_SCREEN = struct.Struct("<HHBBB")
_FRAME = struct.Struct("<HHHHB")
_EXTENSION, _IMAGE, _CONTROL = 0x21, 0x2C, 0xF9
_DISPOSAL = 0b0001_1100
# Time of a pixel: its code is expanded, and copied to its place.
_PIXEL_S = 1.2e-8


def read_gif(body: bytes) -> Header:
    """Read the header of a GIF file; see `header.Read`.

    The decoder gets a copy without comments and other extensions before the first frame.
    """
    if len(body) < 13:
        raise HeaderDamageError
    width, height, flags, _, _ = _SCREEN.unpack_from(body, 6)
    place = 13 + _table_bytes(flags)
    kept = body[:place]
    parts, control = Parts("extensions"), b""
    while True:
        parts.count()
        kind = body[place : place + 1]
        if kind == bytes([_IMAGE]):
            break
        if not kind or kind == b";":
            raise HeaderDamageError
        if kind != bytes([_EXTENSION]):  # Pillow skips anything else
            place += 1
            continue
        start, label = place, body[place + 1 : place + 2]
        place += 2
        while size := int.from_bytes(body[place : place + 1]):
            parts.count()
            place += 1 + size
        place += 1
        if label == bytes([_CONTROL]) and place == start + 8:
            # Without the frame's disposal, for which Pillow would prepare another canvas.
            control = body[start : start + 3] + bytes([body[start + 3] & ~_DISPOSAL])
            control += body[start + 4 : place]
    if len(body) < place + 10:
        raise HeaderDamageError
    left, top, frame_width, frame_height, _ = _FRAME.unpack_from(body, place + 1)
    # A frame that is larger than the screen enlarges the image.
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    if not (width and height):
        raise HeaderDamageError
    return Header(
        width=width,
        height=height,
        pixel_bytes=1,
        decoding_s=width * height * _PIXEL_S,
        body=b"".join((kept, control, body[place:])),
    )


def _table_bytes(flags: int) -> int:
    """Return the size of the colour table that `flags` announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
