"""Header of an image file: its size, and what decoding it costs in memory and processor time."""

from collections.abc import Callable
from dataclasses import dataclass

from limelight.errors import ImageTooComplex
from limelight.imaging.strips import STRIP_PIXELS, WHOLE_PIXELS

SCALES = (1, 2, 4, 8)
"""Factors by which an image may be reduced before anything else, by the decoder if it can."""

# Bytes per pixel of the copies that conversion makes of a strip, or of a whole small image.
_CONVERTED_BYTES = 16

MAX_DECODING_S = 1.0
"""Limit of `Header.decoding_s` of an upload."""

MAX_OWN_DECODING_S = 30.0
"""The same of a file of the caller's own: only crafted ones reach it."""

MAX_SIDE = 65_535
"""Limit of width and height, as in JPEG and GIF. Each row and column has a cost of its own."""

# Files of real writers have far fewer: libpng writes an IDAT chunk per 8 kB, a camera some twenty
# segments. Each costs a step of an interpreted loop, and millions of empty ones fit into a file.
MAX_PARTS = 16_384


class HeaderDamageError(Exception):
    """The header is truncated or contradicts itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Size of an image file, and the cost of decoding it.

    Attributes:
        width: in pixels, before the orientation is applied.
        pixel_bytes: bytes per decoded pixel, at the size that is decoded.
        working_bytes: further bytes that the decoder holds, at any size.
        decoding_s: estimate of the processor time in seconds, from above, on one core of 2020.
        reducible: the decoder can reduce the image by one of `SCALES`.
        reducible_freely: the decoder can reduce the image by any whole factor.
        body: file for the decoder: the given one, or a copy without what the decoder cannot bound.
        exif: EXIF data; empty: there is none, or the decoder finds it.
        xmp: XMP packet; empty as above.
        jpeg_mode: Pillow mode of a JPEG; empty: another format.
        decodes_webp: `limelight.imaging.reduced_webp` decodes the file, and not Pillow.
        has_alpha: for `decodes_webp`: the image has an alpha channel.
        own_format: Pillow's name of a format that is not for uploads; empty: another format.
    """

    width: int
    height: int
    pixel_bytes: float
    working_bytes: int = 0
    decoding_s: float
    reducible: bool = False
    reducible_freely: bool = False
    body: bytes
    exif: bytes = b""
    xmp: bytes = b""
    jpeg_mode: str = ""
    decodes_webp: bool = False
    has_alpha: bool = False
    own_format: str = ""

    def scale_for(self, least: tuple[int, int] | None) -> int:
        """Return the largest scale whose result has `least` (width, height) or more."""
        return scale_for((self.width, self.height), least) if self.reducible else 1

    def decoded_bytes(self, scale: int = 1) -> int:
        """Estimate the memory of decoding at a scale, from above."""
        pixels = -(-self.width // scale) * -(-self.height // scale)
        converted = (pixels if pixels <= WHOLE_PIXELS else STRIP_PIXELS) * _CONVERTED_BYTES
        return int(pixels * self.pixel_bytes) + self.working_bytes + converted + len(self.body)


def scale_for(size: tuple[int, int], least: tuple[int, int] | None) -> int:
    """Return the largest of `SCALES` that leaves `least` (width, height) of `size`, or more."""
    if least is None:
        return 1
    ratio = min(size[0] // least[0], size[1] // least[1])
    return max(scale for scale in SCALES if scale <= max(1, ratio))


Read = Callable[[bytes], Header]
"""Function that reads the header of a file of one format.

It never takes longer than a bounded number of steps, whatever the bytes.

Raises:
    HeaderDamageError: the file cannot be decoded.
    ImageTooComplex: the file has too many parts.
"""


class Parts:
    """Counter that ends the walk through a file of too many parts."""

    __slots__ = ("_left", "_what")

    def __init__(self, what: str, most: int = MAX_PARTS) -> None:
        self._what, self._left = what, most

    def count(self) -> None:
        """Count a part.

        Raises:
            ImageTooComplex: there are too many.
        """
        self._left -= 1
        if self._left < 0:
            raise ImageTooComplex(
                f"the file has too many {self._what}: save the image again with another program"
            )
