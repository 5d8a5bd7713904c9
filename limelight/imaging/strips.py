"""Images that are converted in strips, so that no second copy of a large one is ever in memory."""

import math
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

WHOLE_PIXELS = 1 << 20
"""Most pixels of an image that is converted in one piece."""
STRIP_PIXELS = 30_000
"""Pixels of a strip: its copies stay in the processor's cache, and in the memory of the thread."""

REDUCING_GAP = 3.0
"""Pillow's parameter: blocks are averaged first, to about this many times the wanted size."""

# Pixels beside a box that the bicubic filter looks at, at the wanted size; and those that Pillow
# reduces with the box.
_FULL_SUPPORT, _REDUCED_SUPPORT = 2.0, 1.5

Box = tuple[int, int, int, int]


class Strips:
    """Image whose pixels are read and converted when they are needed, in strips.

    It has those methods of Pillow's `Image` that fitting uses, with the same results.

    Args:
        size: width and height.
        mode: Pillow mode of what `read` returns.
        read: returns the pixels of a box (left, top, right, bottom) as an image of their own.
    """

    def __init__(
        self, size: tuple[int, int], mode: str, read: Callable[[Box], Image.Image]
    ) -> None:
        self.size, self.mode, self._read = size, mode, read

    @property
    def width(self) -> int:
        return self.size[0]

    @property
    def height(self) -> int:
        return self.size[1]

    def map(self, mode: str, convert: Callable[[Image.Image], Image.Image]) -> "Strips":
        """Return an image of `mode` whose pixels are those of this one, converted."""
        return Strips(self.size, mode, lambda box: convert(self._read(box)))

    def convert(self, mode: str) -> "Strips":
        """See `Image.convert`."""
        return self.map(mode, lambda strip: strip.convert(mode))

    def point(self, table: Sequence[int]) -> "Strips":
        """See `Image.point`."""
        return self.map(self.mode, lambda strip: strip.point(list(table)))

    def crop(self, box: Box) -> Image.Image:
        """Return the pixels of a box inside the image."""
        return self._read(box)

    def getextrema(self) -> tuple[int, int]:
        """Return the least and the greatest level of an image of one channel."""
        found = [_extrema(strip) for _, strip in self._strips((0, 0, *self.size))]
        return min(least for least, _ in found), max(greatest for _, greatest in found)

    def getbbox(self) -> Box | None:
        """See `Image.getbbox`."""
        boxes: list[Box] = []
        for (left, top, _, _), strip in self._strips((0, 0, *self.size)):
            found = strip.getbbox()
            if found is not None:
                boxes.append((left + found[0], top + found[1], left + found[2], top + found[3]))
        if not boxes:
            return None
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    def resize(self, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
        """Resize a box to `size`: `Image.resize`, bicubic, with a `reducing_gap` of 3."""
        left, top, right, bottom = box
        factor_x = int((right - left) / size[0] / REDUCING_GAP) or 1
        factor_y = int((bottom - top) / size[1] / REDUCING_GAP) or 1
        if (factor_x, factor_y) == (1, 1):  # the filter sees more pixels beside the box
            beside_x = 1 + _FULL_SUPPORT * max(1.0, (right - left) / size[0])
            beside_y = 1 + _FULL_SUPPORT * max(1.0, (bottom - top) / size[1])
        else:
            beside_x = _REDUCED_SUPPORT * (right - left) / size[0]
            beside_y = _REDUCED_SUPPORT * (bottom - top) / size[1]
        safe = (
            max(0, int(left - beside_x)),
            max(0, int(top - beside_y)),
            min(self.width, math.ceil(right + beside_x)),
            min(self.height, math.ceil(bottom + beside_y)),
        )
        reduced = self.reduce((factor_x, factor_y), safe)
        rest = (
            (left - safe[0]) / factor_x,
            (top - safe[1]) / factor_y,
            (right - safe[0]) / factor_x,
            (bottom - safe[1]) / factor_y,
        )
        return reduced.resize(size, Image.Resampling.BICUBIC, box=rest)

    def reduce(self, factor: tuple[int, int], box: Box | None = None) -> Image.Image:
        """Average blocks of `factor` pixels of a box; see `Image.reduce`."""
        box = (0, 0, *self.size) if box is None else box
        left, top, right, bottom = box
        x, y = factor
        size = -(-(right - left) // x), -(-(bottom - top) // y)
        whole = Image.new(self.mode, size)
        for (strip_left, strip_top, _, _), strip in self._strips(box, factor):
            place = (strip_left - left) // x, (strip_top - top) // y
            whole.paste(strip if factor == (1, 1) else strip.reduce(factor), place)
        return whole

    def _strips(
        self, box: Box, multiple: tuple[int, int] = (1, 1)
    ) -> Iterator[tuple[Box, Image.Image]]:
        """Yield the boxes of all strips with their pixels; their sizes are multiples."""
        left, top, right, bottom = box
        width = _step(right - left, STRIP_PIXELS // min(multiple[1], bottom - top), multiple[0])
        height = _step(bottom - top, STRIP_PIXELS // min(width, right - left), multiple[1])
        for y in range(top, bottom, height):
            for x in range(left, right, width):
                part = (x, y, min(x + width, right), min(y + height, bottom))
                yield part, self._read(part)


def _step(extent: int, most: int, multiple: int) -> int:
    """Return a multiple near `most`, and at least one; no more than covers `extent`."""
    return max(1, min(-(-extent // multiple), most // multiple)) * multiple


def _extrema(strip: Image.Image) -> tuple[int, int]:
    least, greatest = strip.getextrema()
    if not isinstance(least, int | float) or not isinstance(greatest, int | float):
        raise TypeError("the image has more than one channel")
    return int(least), int(greatest)
