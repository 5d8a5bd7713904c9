"""Opening of image files whose size was checked."""

import struct
from collections.abc import Iterable
from io import BytesIO

from PIL import Image, ImageFile, UnidentifiedImageError


def open_checked(body: bytes, formats: Iterable[str]) -> ImageFile.ImageFile:
    """Open a file of one of these formats, by Pillow's names; its decoder must be loaded.

    `Image.open` does the same, and then applies Pillow's limit on pixels, which is one for the
    whole process. Here the size was checked against the caller's limit, and the process may not be
    ours.

    Raises:
        UnidentifiedImageError: the file is of none of the formats.
        Exception: any exception of a decoder.
    """
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(body[:16]) is True:
            try:
                return factory(BytesIO(body), "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # as `Image.open` does: other formats may begin with the same bytes
    raise UnidentifiedImageError("the file is of none of these formats")
