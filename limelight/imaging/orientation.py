"""Orientation of an image, from its EXIF data or its XMP packet.

Pillow's own reader copies the value of every entry. Entries may overlap, so a file of a few
megabytes can announce terabytes. This one looks for a single entry.
"""

import re
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

_TAG = 0x0112
_MAX_ENTRIES = 4096
_ENTRY_BYTES = 12
# Formats of the types that a value of up to four bytes may have.
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_RAW_PROFILE = "Raw profile type exif"
# Hexadecimal digits of 64 kB, the most that JPEG allows, with line breaks.
_MAX_PROFILE = 140_000

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns an image of each orientation upright; 1 is upright already."""


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation, 1 to 8; 1 if the metadata is absent or damaged.

    EXIF data takes precedence over an XMP packet.
    """
    try:
        found = _from_exif(exif)
    except struct.error:  # damaged metadata must not reject an image that can be decoded
        found = None
    if found is None:
        match = _XMP.search(xmp)
        found = 1 if match is None else int(match[1])
    return found if found in UPRIGHT else 1


def orientation_in(info: Mapping[Any, Any]) -> int:
    """Return the orientation from the metadata that Pillow found in a file."""
    exif = info.get("exif") or b""
    profile = str(info.get(_RAW_PROFILE, ""))
    if not exif and 0 < len(profile) <= _MAX_PROFILE:
        try:
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:
            exif = b""
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    return orientation_of(exif, xmp.encode() if isinstance(xmp, str) else xmp)


def _from_exif(exif: bytes) -> int | None:
    """Return the value of the entry in the first directory; None if there is none.

    Raises:
        struct.error: the data is truncated.
    """
    for _ in range(2):  # Pillow accepts two as well
        exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, directory)
    for entry in range(min(count, _MAX_ENTRIES)):
        at = directory + 2 + entry * _ENTRY_BYTES
        tag, kind, values = struct.unpack_from(f"{order}HHI", exif, at)
        if tag == _TAG and values == 1 and kind in _TYPES:
            (value,) = struct.unpack_from(order + _TYPES[kind], exif, at + 8)
            return int(value)
    return None
