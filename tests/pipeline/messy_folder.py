"""A folder of photos as people really have them: the same on every machine.

Three classes of 24 images differ in colour and in brightness, so that grey images can be told
apart, too.
"""

import io
import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from limelight.imaging.formats import FORMATS
from limelight.imaging.own_files import missing_decoder

CLASSES = {"rot [1]": (120, 20, 30), "Grün": (70, 170, 60), "blau & 🌿": (190, 225, 250)}
IMAGES = 24
ODD_NAMES = (
    "a b (2)",
    "[bold]x",
    'it\'s "so"',
    "zoë",
    "🙂",
    "-option",
    "100%",
    "#1?",
    "$HOME",
)
_SIZES = ((20, 27), (320, 240), (240, 320), (64, 64), (33, 300), (150, 150))
# To be stored so that the EXIF orientation turns them upright.
_TURNS = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


@dataclass
class Messy:
    """What was written."""

    folder: Path
    readable: int = 0
    """Number of the images that can be read."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Number of the other files, by suffix, or `unreadable`."""
    samples: dict[str, Path] = field(default_factory=dict)
    """An image of each kind, by the name of the kind."""


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _turned(orientation: int) -> Callable[[Image.Image], bytes]:
    def encode(image: Image.Image) -> bytes:
        turned = image.transpose(_TURNS[orientation])
        return _encoded(turned, "JPEG", exif=_exif(orientation))

    return encode


def _encoded(image: Image.Image, name: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def _with_alpha(image: Image.Image) -> Image.Image:
    """Make the outer tenth transparent."""
    alpha = Image.new("L", image.size, 0)
    edge = min(image.size) // 10
    alpha.paste(255, (edge, edge, image.width - edge, image.height - edge))
    image = image.copy()
    image.putalpha(alpha)
    return image


def _deep_grey(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


KINDS: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "jpeg": (".jpg", lambda image: _encoded(image, "JPEG")),
    "progressive": (".JPG", lambda image: _encoded(image, "JPEG", progressive=True)),
    "upside down": (".jpeg", _turned(3)),
    "turned right": (".jpg", _turned(6)),
    "turned left": (".JPEG", _turned(8)),
    "cmyk": (".jpg", lambda image: _encoded(image.convert("CMYK"), "JPEG")),
    "grey": (".png", lambda image: _encoded(image.convert("L"), "PNG")),
    "grey with alpha": (".png", lambda image: _encoded(_with_alpha(image).convert("LA"), "PNG")),
    "transparent": (".PNG", lambda image: _encoded(_with_alpha(image), "PNG")),
    "palette": (".png", lambda image: _encoded(image.quantize(32), "PNG")),
    "16 bits": (".png", lambda image: _encoded(_deep_grey(image), "PNG")),
    "webp": (".webp", lambda image: _encoded(_with_alpha(image), "WEBP", lossless=True)),
    "gif": (".GIF", lambda image: _encoded(image, "GIF")),
    "bmp": (".bmp", lambda image: _encoded(image, "BMP")),
    "tiff": (".tif", lambda image: _encoded(image, "TIFF", compression="tiff_lzw")),
    "avif": (".avif", lambda image: _encoded(image, "AVIF")),
}
if missing_decoder(FORMATS["AVIF"]):
    del KINDS["avif"]


def photo(rng: np.random.Generator, name: str, size: tuple[int, int]) -> Image.Image:
    """Draw a photo of the class: its colour, and noise."""
    width, height = size
    levels = np.array(CLASSES[name]) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def write_messy_folder(folder: Path) -> Messy:
    """Write the folder: 24 images a class, and everything that is no image of a class."""
    rng, kinds = np.random.default_rng(20261126), list(KINDS)
    messy = Messy(folder)
    for at, name in enumerate(CLASSES):
        # Some systems decompose the umlauts of file names.
        home = folder / unicodedata.normalize("NFD", name)
        for number in range(IMAGES):
            kind = kinds[(number + 5 * at) % len(kinds)]
            suffix, encode = KINDS[kind]
            size = (1600, 1200) if number == 0 else _SIZES[number % len(_SIZES)]
            stem = f"{ODD_NAMES[number % len(ODD_NAMES)]} {number}"
            inside = home / "more" / "of them" if number % 7 == 0 else home
            inside.mkdir(parents=True, exist_ok=True)
            path = inside / f"{stem}{suffix}"
            path.write_bytes(encode(photo(rng, name, size)))
            messy.samples.setdefault(kind, path)
            messy.readable += 1
    _add_what_is_no_image(messy, rng)
    return messy


def _add_what_is_no_image(messy: Messy, rng: np.random.Generator) -> None:
    green = messy.folder / unicodedata.normalize("NFD", "Grün")
    whole = _encoded(photo(rng, "Grün", (300, 200)), "JPEG")
    for name, content in {
        "broken.jpg": b"no image at all",
        "empty.png": b"",
        "truncated.jpg": whole[: len(whole) // 2],
        "notes.txt": b"x",
        "clip.MP4": b"\0\0\0\x18ftypmp42",
        "._x.png": b"\0\5\x16\7",
        "Thumbs.db": b"x",
    }.items():
        (green / name).write_bytes(content)
    messy.skipped = {".txt": 1, ".mp4": 1, "unreadable": 3}
    for name in (".thumbnails", "@eaDir"):
        (green / name).mkdir()
        (green / name / "small.png").write_bytes(whole)
    copied = messy.samples["jpeg"].read_bytes()
    (messy.folder / "rot [1]" / "copy.jpg").write_bytes(copied)
    (green / "wrong class.jpg").write_bytes(copied)
    elsewhere = messy.folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked.png").write_bytes(_encoded(photo(rng, "blau & 🌿", (90, 80)), "PNG"))
    (messy.folder / "blau & 🌿" / "link").symlink_to(elsewhere)
    (messy.folder / "blau & 🌿" / "loop").symlink_to(messy.folder / "blau & 🌿")
    messy.readable += 3


def write_parts(folder: Path, parts: dict[str, int]) -> None:
    """Write images of two classes, divided into `parts`: the number in each class, by part."""
    rng = np.random.default_rng(1)
    for part, images in parts.items():
        for name in list(CLASSES)[:2]:
            (folder / part / name).mkdir(parents=True)
            for number in range(images):
                content = _encoded(photo(rng, name, (40, 30)), "PNG")
                (folder / part / name / f"{part}{number}.png").write_bytes(content)


def list_images(folder: Path) -> list[Path]:
    """List the files in `folder` and below, without following links."""
    return sorted(Path(root, name) for root, _, names in os.walk(folder) for name in names)
