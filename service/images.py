"""From the bytes of an upload to the pixels that a network was trained on, and back.

Serving and evaluation both go through `decode` and `prepare`, so that the accuracy in a
manifest is that of the service.
"""

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

# Imported for their registration: with these five, `Image.open` never has to load them all.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from service.errors import ImageTooLarge, UndecodableImage, UnsupportedMediaType
from service.manifest import ImageRule

ACCEPTED = "PNG, JPEG, WebP, BMP or GIF"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF87a", b"GIF89a")

# Pillow's own limit warns at a fixed size. Ours is a setting, and `decode` holds every upload
# to it before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# It also warns of metadata that it cannot read, which nobody here asked for.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UPLOAD_SIZE = "limelight_upload_size"

# A JPEG may be decoded smaller, at 1/2, 1/4 or 1/8, as long as this many times the input's size
# is left. The second step then still averages over pixels; ink has to be found first, and may
# be a small part of the picture.
_SPARE_PIXELS = {"crop": 2, "ink": 16}

# MNIST's layout: the ink's longest side is 20 of 28 pixels.
_INK_SHARE = 20 / 28
# Its centre of mass is in pixel 14, counted from 0: over the training images it is (14.51, 14.50)
# from the edges, with a deviation of 0.29, which is that of rounding to whole pixels. This figure
# and the next constant's: `python -m bench.ink_layout`.
_MIDDLE = 0.5
# Ink is placed on a canvas this many times finer than the input, then averaged down to it.
_FINER = 8
# Share of the strongest ink that still counts as ink, when its bounding box is drawn: of 0.1 to
# 0.5, the one that brings enlarged training digits back closest to themselves (6.4 grey levels).
_INK_THRESHOLD = 0.35
# Grey levels between background and ink below which an image is taken for blank.
_LEAST_CONTRAST = 16


@dataclass(frozen=True, slots=True)
class View:
    """The rectangle of the upload, in its pixels, that the network's input covers.

    It may reach outside the upload. Position (x, y) of an input of w by h pixels is the upload's
    (left + x * width / w, top + y * height / h), edges counted from 0.
    """

    left: float
    top: float
    width: float
    height: float

    def scaled(self, x: float, y: float) -> "View":
        """The same rectangle of an upload that is `x` times as wide and `y` times as high."""
        return View(self.left * x, self.top * y, self.width * x, self.height * y)


def decode(body: bytes, *, max_pixels: int, sketch_for: ImageRule | None = None) -> Image.Image:
    """Decode an upload: upright, its first frame, of mode L, LA, RGB or RGBA.

    With `sketch_for`, a JPEG much larger than that rule's input may come back reduced, which is
    several times faster; `upload_size` still gives the upload's own size.

    Raises:
        UnsupportedMediaType: the bytes are not of an accepted format.
        ImageTooLarge: width x height in the header exceeds `max_pixels`; nothing was decoded.
        UndecodableImage: of an accepted format, but truncated or broken.
    """
    return load(read_header(body, max_pixels=max_pixels), sketch_for=sketch_for)


def read_header(body: bytes, *, max_pixels: int) -> Image.Image:
    """The first, cheap half of `decode`: format and size are known, nothing is decoded yet."""
    try:
        image: Image.Image = Image.open(BytesIO(body), formats=_FORMATS)
    except UnidentifiedImageError as error:
        if body.startswith(_SIGNATURES):
            raise UndecodableImage("the image is damaged, or cut off in its header") from error
        raise UnsupportedMediaType(f"the body is not a {ACCEPTED} image") from error
    except Exception as error:  # Pillow's parsers raise nearly anything on a forged header
        raise UndecodableImage("the image's header is damaged") from error
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"the image has {image.width} x {image.height} pixels, more than {max_pixels} in "
            "all: send a smaller one"
        )
    return image


def load(image: Image.Image, *, sketch_for: ImageRule | None = None) -> Image.Image:
    """The second half of `decode`, which takes the time."""
    width, height = image.size
    try:
        if sketch_for is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            spare = _SPARE_PIXELS[sketch_for.fit]
            image.draft(None, (sketch_for.width * spare, sketch_for.height * spare))
        image.load()
        orientation = _orientation(image)
        image = _plain(image)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
            if orientation >= 5:
                width, height = height, width
    except Exception as error:  # see above: OSError, SyntaxError, ValueError, struct.error, ...
        raise UndecodableImage("the image is truncated or damaged: send the whole file") from error
    image.info[_UPLOAD_SIZE] = (width, height)
    return image


def upload_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the upload that `decode` made `image` from, orientation applied."""
    width, height = image.info.get(_UPLOAD_SIZE, image.size)
    return int(width), int(height)


def prepare(image: Image.Image, rule: ImageRule) -> tuple[NDArray[np.uint8], View]:
    """Bring an image to the network's input: uint8 (H, W, C), and the part of it that this is."""
    image = _in_mode(_plain(image), rule)
    inverted = rule.invert == "light-border" and _border_median(image) > 127
    if inverted:
        image = image.point([255 - level for level in range(256)] * rule.channels)
    if image.size == (rule.width, rule.height):
        pixels, view = np.array(image), View(0.0, 0.0, float(rule.width), float(rule.height))
    elif rule.fit == "ink":
        pixels, view = _fit_ink(image, rule)
    else:
        pixels, view = _fit_crop(image, rule)
    full_width, full_height = upload_size(image)
    view = view.scaled(full_width / image.width, full_height / image.height)
    return pixels.reshape(rule.height, rule.width, rule.channels), view


def flatten(image: Image.Image, background: int) -> Image.Image:
    """Lay an image of mode L, LA, RGB or RGBA over the grey level `background`: L or RGB."""
    if not image.mode.endswith("A"):
        return image
    mode = image.mode[:-1]
    flat = Image.new(mode, image.size, background if mode == "L" else (background,) * 3)
    flat.paste(image.convert(mode), mask=image.getchannel("A"))
    flat.info = dict(image.info)
    return flat


def _fit_crop(image: Image.Image, rule: ImageRule) -> tuple[NDArray[np.uint8], View]:
    """The largest centred rectangle of the input's proportions."""
    scale = min(image.width / rule.width, image.height / rule.height)
    width = min(rule.width * scale, float(image.width))
    height = min(rule.height * scale, float(image.height))
    left, top = (image.width - width) / 2, (image.height - height) / 2
    resized = image.resize(
        (rule.width, rule.height),
        Image.Resampling.BICUBIC,
        box=(left, top, left + width, top + height),
        reducing_gap=3.0,
    )
    return np.array(resized), View(left, top, width, height)


def _fit_ink(image: Image.Image, rule: ImageRule) -> tuple[NDArray[np.uint8], View]:
    """Ink alone, stretched to full range and laid out as in MNIST; colour becomes grey.

    Sizes stay bounded whatever the upload's proportions are: the ink is first brought to the
    canvas, which is `_FINER` times the input, and only then averaged.
    """
    grey = image if image.mode == "L" else image.convert("L")
    background = _border_median(grey)
    contrast = _brightest(grey) - background
    if contrast < _LEAST_CONTRAST:
        return _fit_crop(image, rule)
    ink = grey.point(
        [round(255 * min(max(level - background, 0) / contrast, 1)) for level in range(256)]
    )
    threshold = round(255 * _INK_THRESHOLD)
    bounds = ink.point([0] * threshold + [255] * (256 - threshold)).getbbox()
    if bounds is None:  # never: the brightest pixel is 255
        return _fit_crop(image, rule)
    left, top, right, bottom = bounds

    canvas_size = (rule.width * _FINER, rule.height * _FINER)
    scale = min(canvas_size) * _INK_SHARE / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    drawn = ink.resize(size, Image.Resampling.BICUBIC, box=bounds, reducing_gap=3.0)
    centre_x, centre_y = _centre_of_mass(np.asarray(drawn, np.float64))
    # In whole pixels of the input, so that straight edges stay as sharp as MNIST's are.
    offset_x = round(rule.width // 2 + _MIDDLE - centre_x / _FINER) * _FINER
    offset_y = round(rule.height // 2 + _MIDDLE - centre_y / _FINER) * _FINER
    offset = offset_x, offset_y
    canvas = Image.new("L", canvas_size)
    canvas.paste(drawn, offset)

    pixels = np.asarray(canvas.reduce(_FINER), np.float64)
    stretched = np.rint(pixels * (255 / max(pixels.max(), 1.0))).astype(np.uint8)
    # Upload pixels a canvas pixel covers; the two differ by the rounding of `size` only.
    step_x, step_y = (right - left) / size[0], (bottom - top) / size[1]
    view = View(
        left - offset[0] * step_x,
        top - offset[1] * step_y,
        canvas_size[0] * step_x,
        canvas_size[1] * step_y,
    )
    return np.repeat(stretched[:, :, None], rule.channels, axis=2), view


def _centre_of_mass(grey_hw: NDArray[np.float64]) -> tuple[float, float]:
    """Of the grey levels, from the left and upper edge, in pixels."""
    mass = grey_hw.sum() or 1.0
    height, width = grey_hw.shape
    x = (grey_hw.sum(0) @ (np.arange(width) + 0.5)) / mass
    y = (grey_hw.sum(1) @ (np.arange(height) + 0.5)) / mass
    return float(x), float(y)


def _border_median(image: Image.Image) -> float:
    """Median grey level of the outermost ring of pixels."""
    width, height = image.size
    strips = [(0, 0, width, 1), (0, height - 1, width, height)]
    strips += [(0, 0, 1, height), (width - 1, 0, width, height)]
    levels = [np.asarray(image.crop(strip).convert("L")).ravel() for strip in strips]
    return float(np.median(np.concatenate(levels)))


def _brightest(grey: Image.Image) -> float:
    extrema = grey.getextrema()
    return float(extrema[1]) if isinstance(extrema[1], (int, float)) else 0.0


def _in_mode(image: Image.Image, rule: ImageRule) -> Image.Image:
    flat = flatten(image, rule.background)
    return flat if flat.mode == rule.mode else flat.convert(rule.mode)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where the metadata is absent or broken."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # metadata never costs a picture that decodes
        return 1


def _plain(image: Image.Image) -> Image.Image:
    """Any mode as L, LA, RGB or RGBA, with 16 bits brought to 8 and every alpha an own channel."""
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L", "F") else "RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64).clip(0, 65535)
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8))
        grey = Image.merge("LA", (grey, alpha))
    grey.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return grey
