"""Checks of an image file before it is decoded."""

from io import BytesIO

from PIL import Image

from limelight.errors import (
    ImageTooComplex,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedMediaType,
)
from limelight.imaging.formats import FORMATS, ImageFormat, accepted, has_signature
from limelight.imaging.headers.header import MAX_DECODING_S, MAX_SIDE, Header, HeaderDamageError

# For a format without a reader of headers: more than any of Pillow's decoders needs.
_UNKNOWN_PIXEL_BYTES, _UNKNOWN_PIXEL_S = 20, 5e-8


def inspect(body: bytes, *, max_pixels: int) -> Header:
    """Read the header of an image file; nothing is decoded.

    Raises:
        UnsupportedMediaType: the bytes are not of an accepted format.
        ImageTooLarge: the image has more than `max_pixels` pixels, or a side is too long.
        ImageTooComplex: the file has too many parts, or decoding it takes too long.
        UndecodableImage: the format is accepted, but the header is truncated or damaged.
    """
    header = _read(body)
    if max(header.width, header.height) > MAX_SIDE:
        raise ImageTooLarge(
            f"the image has {header.width} x {header.height} pixels, and a side may have "
            f"{MAX_SIDE}: send a smaller one"
        )
    if header.width * header.height > max_pixels:
        raise ImageTooLarge(
            f"the image has {header.width} x {header.height} pixels, more than {max_pixels} in "
            "all: send a smaller one"
        )
    if header.decoding_s > MAX_DECODING_S:
        raise ImageTooComplex(
            "decoding the image would take too long: send a smaller one, or save it again as a "
            "baseline JPEG or with 8 bits a channel"
        )
    return header


def _read(body: bytes) -> Header:
    found = [(name, each) for name, each in FORMATS.items() if body.startswith(each.signatures)]
    try:
        if not found:
            raise HeaderDamageError
        name, image_format = found[0]
        if image_format.read_header is None:
            return _by_pillow(name, image_format, body)
        return image_format.read_header(body)
    except HeaderDamageError as error:
        if not has_signature(body):
            raise UnsupportedMediaType(f"the body is not a {accepted()} image") from error
        raise UndecodableImage("the image is damaged, or cut off in its header") from error


def _by_pillow(name: str, image_format: ImageFormat, body: bytes) -> Header:
    try:
        image = Image.open(BytesIO(body), formats=(name,))
    except Exception as error:  # Pillow raises exceptions of many types on a forged header
        raise HeaderDamageError from error
    return Header(
        width=image.width,
        height=image.height,
        pixel_bytes=_UNKNOWN_PIXEL_BYTES,
        decoding_s=image.width * image.height * _UNKNOWN_PIXEL_S,
        body=body,
    )
