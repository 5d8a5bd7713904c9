"""Checks of an image file before it is decoded."""

from limelight.errors import (
    ImageTooComplex,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedMediaType,
)
from limelight.imaging.formats import accepted, chosen, has_signature
from limelight.imaging.headers.header import (
    MAX_DECODING_S,
    MAX_OWN_DECODING_S,
    MAX_SIDE,
    Header,
    HeaderDamageError,
)
from limelight.imaging.own_file_formats import read_own


def inspect(body: bytes, *, max_pixels: int, own_file: bool = False) -> Header:
    """Read the header of an image file; nothing is decoded.

    With `own_file`, the file is the caller's own, and not an upload of somebody else: the formats
    whose cost of decoding is not known are accepted too.

    Raises:
        UnsupportedMediaType: the bytes are not of an accepted format, or its decoder is missing.
        ImageTooLarge: the image has more than `max_pixels` pixels, or a side is too long.
        ImageTooComplex: the file has too many parts, or decoding it takes too long.
        UndecodableImage: the format is accepted, but the header is truncated or damaged.
    """
    header = _read(body, own_file)
    if max(header.width, header.height) > MAX_SIDE:
        raise ImageTooLarge(
            f"the image has {header.width} x {header.height} pixels, and a side may have "
            f"{MAX_SIDE}: send a smaller one"
        )
    check_pixels(header.width, header.height, max_pixels)
    if header.decoding_s > (MAX_OWN_DECODING_S if own_file else MAX_DECODING_S):
        raise ImageTooComplex(
            "decoding the image would take too long: send a smaller one, or save it again as a "
            "baseline JPEG or with 8 bits a channel"
        )
    return header


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Check the size of an image.

    Raises:
        ImageTooLarge: it has more than `max_pixels` pixels.
    """
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image has {width} x {height} pixels, more than {max_pixels} in all: send a "
            "smaller one"
        )


def _read(body: bytes, own_file: bool) -> Header:
    formats = chosen(own_files=own_file)
    found = [(name, each) for name, each in formats if each.begins(body)]
    try:
        if not found:
            raise HeaderDamageError
        name, image_format = found[0]
        if image_format.read_header is None:
            return read_own(name, image_format, body)
        return image_format.read_header(body)
    except HeaderDamageError as error:
        if not has_signature(body, own_files=own_file):
            raise UnsupportedMediaType(_refusal(body, own_file)) from error
        raise UndecodableImage("the image is damaged, or cut off in its header") from error


def _refusal(body: bytes, own_file: bool) -> str:
    names = accepted(own_files=own_file)
    if own_file:
        return f"the file is not a {names} image"
    for _, each in chosen(own_files=True):
        if each.recognises(body):
            return f"the body is a {each.title} image, which is not accepted: send a {names} image"
    return f"the body is not a {names} image"
