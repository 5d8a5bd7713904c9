"""Preprocessing of uploads to the network's input, and the mapping back to the upload.

Serving and evaluation both use `read_upload`, so that the accuracy in a manifest is that of the
service.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelight.imaging import fast_png
from limelight.imaging.decoding import DecodedImage, decode_at, least_size, plain
from limelight.imaging.fitting import View as View
from limelight.imaging.fitting import border_median, fit_crop, fit_ink
from limelight.imaging.headers.header import Header, scale_for
from limelight.imaging.headers.inspection import inspect
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.strips import WHOLE_PIXELS, Strips

_INVERTED = bytes(range(255, -1, -1))

# Up to these sizes, a crop takes about as long as a switch of threads: `python -m bench.decode`.
_QUICK_BYTES = 8192
_QUICK_PIXELS = 64 * 64


@dataclass(frozen=True, slots=True)
class Upload:
    """Upload as the network's input, and the part of the upload that it covers."""

    pixels_hwc: NDArray[np.uint8]
    """Network's input, of the rule's size; it may be read-only."""
    view: View
    width: int
    """Width of the upright upload, in pixels."""
    height: int
    """Height of the upright upload, in pixels."""
    picture: Image.Image | None = None
    """Upright upload, which may be reduced; None: only the network's input was wanted."""

    def view_in(self, picture: Image.Image) -> View:
        """Return the view in pixels of a picture of the upload."""
        return self.view.scaled(picture.width / self.width, picture.height / self.height)


def read_upload(
    body: bytes,
    rule: ImageRule,
    *,
    max_pixels: int,
    header: Header | None = None,
    own_file: bool = False,
) -> Upload:
    """Decode an upload and convert it to the network's input.

    `header` is that of the upload, if it was read before. `own_file` is that of `inspect`.

    Raises:
        UnsupportedMediaType: the bytes are not of an accepted format.
        ImageTooLarge: width x height in the header exceeds `max_pixels`; nothing was decoded.
        ImageTooComplex: the file has too many parts, or decoding it would take too long.
        UndecodableImage: the format is accepted, but the file is truncated or damaged.
    """
    image = fast_png.decode(body, max_pixels=max_pixels)
    if image is not None:
        size = width, height = image.size
        if width * height <= WHOLE_PIXELS:
            return Upload(*prepare(image, rule), width, height)
        return _upload(DecodedImage(image, size), rule)
    header = header or inspect(body, max_pixels=max_pixels, own_file=own_file)
    return _upload(decode_at(header, body, scale=header.scale_for(least_size(rule))), rule)


def read_with_picture(
    body: bytes,
    rule: ImageRule,
    *,
    max_pixels: int,
    most_pixels: int | None,
    header: Header | None = None,
    own_file: bool = False,
) -> Upload:
    """Do the same as `read_upload`, and keep a picture of at most `most_pixels`; None: any size.

    The network's input is the same: it does not depend on the picture.
    """
    image = fast_png.decode(body, max_pixels=max_pixels)
    if image is not None:
        return _with_picture(DecodedImage(image, image.size), rule, most_pixels)
    header = header or inspect(body, max_pixels=max_pixels, own_file=own_file)
    scale, picture_scale = header.scale_for(least_size(rule)), picture_scale_of(header, most_pixels)
    if scale == picture_scale:
        return _with_picture(decode_at(header, body, scale=scale), rule, most_pixels)
    upload = _upload(decode_at(header, body, scale=scale), rule)
    picture = decode_at(header, body, scale=picture_scale).reduced(most_pixels)
    return replace(upload, picture=picture)


def picture_scale_of(header: Header, most_pixels: int | None) -> int:
    """Return the scale at which an image is decoded for a picture of at most `most_pixels`."""
    pixels = header.width * header.height
    if most_pixels is None or pixels <= most_pixels:
        return 1
    shrink = math.sqrt(pixels / most_pixels)
    if header.reducible_freely:
        return min(math.ceil(shrink), header.width, header.height)
    return header.scale_for((int(header.width / shrink) or 1, int(header.height / shrink) or 1))


def _upload(decoded: DecodedImage, rule: ImageRule) -> Upload:
    pixels_hwc, view = prepare(decoded.pixels(), rule, full_size=decoded.full_size)
    return Upload(pixels_hwc, view, *decoded.full_size)


def _with_picture(decoded: DecodedImage, rule: ImageRule, most_pixels: int | None) -> Upload:
    return replace(_upload(decoded, rule), picture=decoded.reduced(most_pixels))


def prepare_part(
    image: Image.Image, rule: ImageRule, part: View, *, full_size: tuple[int, int] | None = None
) -> Upload:
    """Convert a rectangle of an image; the view and the size refer to the whole image.

    `part` is in pixels of `full_size` (width, height), of which `image` may be a reduced copy.
    """
    width, height = full_size or image.size
    x, y = image.width / width, image.height / height
    own = part.scaled(x, y)
    box = (own.left, own.top, own.left + own.width, own.top + own.height)
    pixels, view = prepare(image.crop(box), rule)
    view = view.scaled(1 / x, 1 / y)
    view = View(view.left + part.left, view.top + part.top, view.width, view.height)
    return Upload(pixels, view, width, height)


def is_quick(body: bytes, rule: ImageRule | None = None) -> bool:
    """Return whether `read_upload` is too fast for a switch of threads to pay off.

    The criteria are the length and the size in the header. Only PNG files count as quick, because
    other formats may hold any number of pixels in a few bytes. With `rule`, its fit counts too,
    because laying out ink takes longer. Never raises.
    """
    if len(body) > _QUICK_BYTES:
        return False
    size = fast_png.peek_size(body)
    if size is None or size[0] * size[1] > _QUICK_PIXELS:
        return False
    return rule is None or rule.fit != "ink" or size[:2] == (rule.width, rule.height)


def picture_of(image_hwc: NDArray[np.uint8]) -> Image.Image:
    """Create an image from pixels, uint8 (H, W, C): grey for one channel, RGB for three."""
    return Image.fromarray(image_hwc[:, :, 0] if image_hwc.shape[2] == 1 else image_hwc)


def prepare(
    image: Image.Image | Strips, rule: ImageRule, *, full_size: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], View]:
    """Convert an image to the network's input: uint8 (H, W, C), and the view that it covers.

    The view is in pixels of `full_size` (width, height), of which `image` may be a reduced copy.
    """
    if isinstance(image, Strips):
        image = image.map(rule.mode, partial(_in_mode, rule=rule))
        # Ink is looked for in the whole image, several times.
        scale = scale_for(image.size, least_size(rule)) if rule.fit == "ink" else 1
        if scale > 1:
            image = image.reduce((scale, scale))
    else:
        image = _in_mode(plain(image), rule)
    if image.size == (rule.width, rule.height):
        pixels, view = _as_it_is(image, rule)
    else:
        if rule.invert == "light-border" and border_median(image) > 127:
            image = image.point(_INVERTED * rule.channels)
        fit = fit_ink if rule.fit == "ink" else fit_crop
        pixels, view = fit(image, rule)
    if full_size is not None and full_size != image.size:
        view = view.scaled(full_size[0] / image.width, full_size[1] / image.height)
    return pixels.reshape(rule.height, rule.width, rule.channels), view


def flatten(image: Image.Image, background: int) -> Image.Image:
    """Remove the alpha channel by blending with the grey level `background`: L or RGB."""
    if not image.mode.endswith("A"):
        return image
    mode, alpha = image.mode[:-1], image.getchannel("A")
    if alpha.getextrema() == (255, 255):  # fully opaque
        return image.convert(mode)
    flat = Image.new(mode, image.size, background if mode == "L" else (background,) * 3)
    flat.paste(image.convert(mode), mask=alpha)
    return flat


def _as_it_is(image: Image.Image | Strips, rule: ImageRule) -> tuple[NDArray[np.uint8], View]:
    image = image.crop((0, 0, *image.size)) if isinstance(image, Strips) else image
    levels = image.tobytes()
    if rule.invert == "light-border":
        grey = levels if rule.mode == "L" else image.convert("L").tobytes()
        if _has_light_border(grey, rule.width):
            levels = levels.translate(_INVERTED)
    pixels = np.frombuffer(levels, np.uint8)
    return pixels, View(0.0, 0.0, float(rule.width), float(rule.height))


def _has_light_border(grey: bytes, width: int) -> bool:
    """Return whether `border_median` > 127, without numpy's overhead per call."""
    ring = sorted(grey[:width] + grey[-width:] + grey[::width] + grey[width - 1 :: width])
    half = len(ring) // 2  # the number of levels is even, because the corners count twice
    return ring[half - 1] + ring[half] > 2 * 127


def _in_mode(image: Image.Image, rule: ImageRule) -> Image.Image:
    flat = flatten(image, rule.background)
    return flat if flat.mode == rule.mode else flat.convert(rule.mode)
