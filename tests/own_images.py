"""Images in the formats that are read from files of one's own: TIFF, AVIF and HEIC."""

import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from PIL import Image

from limelight.imaging.formats import FORMATS
from limelight.imaging.own_file_formats import missing_decoder

OWN = tuple(name for name, each in FORMATS.items() if not each.uploads)
# The first box of a HEIC file, which needs no encoder.
HEIC_START = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(64)


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    """Encode an image; the test is skipped if the format's decoder, or encoder, is not here."""
    install = missing_decoder(FORMATS[name]) if name in FORMATS else ""
    if install:
        pytest.skip(f"no decoder of {name} is installed: {install}")
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def exif_of(orientation: int) -> bytes:
    """EXIF data with an orientation only."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def tiff(
    pixels: bytes,
    size: tuple[int, int],
    *,
    bits: Sequence[int] = (8,),
    photometric: int = 1,
    order: str = "<",
    fields: Mapping[int, tuple[str, Sequence[int]]] | None = None,
) -> bytes:
    """Write a TIFF of one strip, with `fields` (type and values by number) beside the usual ones.

    A field without values leaves out a usual one.
    """
    width, height = size
    every: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", list(bits)),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [8]),
        277: ("H", [len(bits)]),
        278: ("I", [height]),
        279: ("I", [len(pixels)]),
        **(fields or {}),
    }
    every = {number: field for number, field in sorted(every.items()) if field[1]}
    pixels += bytes(len(pixels) % 2)
    start = 8 + len(pixels)
    directory, values = struct.pack(f"{order}H", len(every)), b""
    values_at = start + 2 + 12 * len(every) + 4
    for number, (kind, numbers) in every.items():
        value = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(value) > 4:
            value, values = struct.pack(f"{order}I", values_at + len(values)), values + value
        code = {"H": 3, "I": 4}[kind]
        directory += struct.pack(f"{order}HHI", number, code, len(numbers)) + value.ljust(4, b"\0")
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", start) + pixels + directory + bytes(4) + values
