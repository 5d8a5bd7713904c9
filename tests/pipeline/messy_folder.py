"""Folders of photos as people really have them: the same on every machine.

The classes differ in colour and in brightness, so that grey images can be told apart, too. A photo
is lighter at the top, so that it matters whether it was turned upright.
"""

import io
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path

import numpy as np
from PIL import Image

from limelight.imaging.formats import FORMATS
from limelight.imaging.own_file_formats import missing_decoder

CLASSES = {"rot [1]": (120, 20, 30), "Grün": (70, 160, 60), "blau & 🌿": (170, 205, 235)}
RARE = {"selten": (235, 225, 40)}
IMAGES, RARE_IMAGES = 36, 4
_STEMS = (
    "IMG_{}", "IMG {} (2)", "[bold]{}[∕bold]", "[/x]{}", 'it\'s "{}"', "Zoë{}", "🙂{}", "-x{}",
    " {}", "%20{}", "#{}?*", "$HOME{}", "a&b;{}", "~{}", "a..{}", "日本{}",
)  # fmt: skip
"""Beginnings of file names; one is in a folder called `[`, and so has Rich's markup in its path."""
_SIZES = ((20, 27), (320, 240), (240, 320), (64, 64), (33, 300), (150, 150), (500, 60))
# To be stored so that the EXIF orientation turns them upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_TRANSPARENT = 255

Encode = Callable[[Image.Image], bytes]


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    """Encode an image in a format of Pillow's."""
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def _as(name: str, mode: str = "RGB", **options: object) -> Encode:
    return lambda image: encoded(image.convert(mode), name, **options)


def _turned(orientation: int) -> Encode:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = _TURNS[orientation]
    return lambda image: encoded(image.transpose(turn), "JPEG", exif=exif.tobytes())


def _with_alpha(image: Image.Image) -> Image.Image:
    """Make the outer tenth transparent."""
    alpha = Image.new("L", image.size, 0)
    edge = min(image.size) // 10
    alpha.paste(255, (edge, edge, image.width - edge, image.height - edge))
    image = image.copy()
    image.putalpha(alpha)
    return image


def _with_transparent_colour(image: Image.Image) -> Image.Image:
    """Make a palette in which the outer tenth has a colour of its own."""
    alpha = np.asarray(_with_alpha(image).getchannel("A"))
    palette = image.quantize(32)
    indices = np.where(alpha, np.asarray(palette), _TRANSPARENT).astype(np.uint8)
    with_colour = Image.frombytes("P", image.size, indices.tobytes())
    with_colour.putpalette([*(palette.getpalette() or []), *bytes(768)][:768])
    return with_colour


def _deep_grey(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


KINDS: dict[str, tuple[str, Encode]] = {
    "jpeg": (".jpg", _as("JPEG")),
    "progressive": (".JPG", _as("JPEG", progressive=True)),
    "grey jpeg": (".jpeg", _as("JPEG", "L")),
    "cmyk": (".jpg", _as("JPEG", "CMYK")),
    **{f"turned {number}": (".JPEG", _turned(number)) for number in _TURNS},
    "png": (".PNG", _as("PNG")),
    "grey": (".png", _as("PNG", "L")),
    "grey with alpha": (".png", lambda image: encoded(_with_alpha(image).convert("LA"), "PNG")),
    "alpha": (".png", lambda image: encoded(_with_alpha(image), "PNG")),
    "palette": (".png", lambda image: encoded(image.quantize(32), "PNG")),
    "palette with alpha": (
        ".png",
        lambda image: encoded(_with_transparent_colour(image), "PNG", transparency=_TRANSPARENT),
    ),
    "16 bits": (".png", lambda image: encoded(_deep_grey(image), "PNG")),
    "webp": (".webp", _as("WEBP")),
    "webp with alpha": (".WebP", lambda image: encoded(_with_alpha(image), "WEBP", lossless=True)),
    "gif": (".GIF", _as("GIF")),
    "bmp": (".bmp", _as("BMP")),
    "tiff": (".tif", _as("TIFF", compression="tiff_lzw")),
    "tiff of 16 bits": (".TIFF", lambda image: encoded(_deep_grey(image), "TIFF")),
    "tiff for print": (".tif", _as("TIFF", "CMYK")),
    **({} if missing_decoder(FORMATS["AVIF"]) else {"avif": (".avif", _as("AVIF"))}),
    **({} if missing_decoder(FORMATS["HEIF"]) else {"heic": (".HEIC", _as("HEIF"))}),
}
"""Suffix and encoder of each kind of file."""


@dataclass
class Messy:
    """What was written into `folder`."""

    folder: Path
    images: dict[Path, str] = field(default_factory=dict)
    """Class of each image that can be read, by its path as it is found from `folder`."""
    kinds: dict[str, Path] = field(default_factory=dict)
    """The first image of each kind."""
    unreadable: list[Path] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    """Number of the other files that are skipped, by suffix or reason."""

    def add(self, path: Path, label: str, content: bytes) -> None:
        """Write an image."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.images[path] = label


def photo(rng: np.random.Generator, label: str, size: tuple[int, int]) -> Image.Image:
    """Draw a photo of a class: its colour, lighter at the top, and noise."""
    width, height = size
    light = np.linspace(20, -20, height)[:, None, None]
    levels = np.array((CLASSES | RARE)[label]) + light + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def write_messy_folder(folder: Path, *, largest: tuple[int, int] = (1200, 900)) -> Messy:
    """Write 36 images of three classes, 4 of another, and what else is found in such folders."""
    rng, messy, numbers = np.random.default_rng(20261126), Messy(folder), count()
    kinds, stems, sizes = cycle(KINDS), cycle(_STEMS), cycle(_SIZES)
    for label in CLASSES | RARE:
        # Some systems decompose the umlauts of file names.
        home = folder / unicodedata.normalize("NFD", label)
        for number in range(RARE_IMAGES if label in RARE else IMAGES):
            kind, size = next(kinds), next(sizes) if number else largest
            stem = next(stems).format(next(numbers))
            stem = unicodedata.normalize(("NFC", "NFD")[number % 2], stem)
            inside = home / "more" / "of them" if number % 7 == 3 else home
            suffix, encode = KINDS[kind]
            messy.add(inside / f"{stem}{suffix}", label, encode(photo(rng, label, size)))
            messy.kinds.setdefault(kind, [*messy.images][-1])
    add_junk(messy, home=folder / unicodedata.normalize("NFD", "Grün"))
    _add_copies_and_links(messy, rng)
    return messy


def add_junk(messy: Messy, home: Path) -> None:
    """Add files to a class folder, `home`, and beside it that are no images of a class."""
    whole = encoded(photo(np.random.default_rng(5), "Grün", (300, 200)), "JPEG")
    for name, content in {
        "broken.jpg": b"no image at all",
        "empty.png": b"",
        "truncated.jpg": whole[: len(whole) // 2],
        "really a film.png": b"\0\0\0\x18ftypmp42" + bytes(64),
    }.items():
        (home / name).write_bytes(content)
        messy.unreadable.append(home / name)
    (home / "gone.jpg").symlink_to(home / "nowhere.jpg")
    messy.unreadable.append(home / "gone.jpg")
    for name in ("notes.txt", "clip.MP4", "README"):
        (home / name).write_bytes(b"\0\0\0\x18ftypmp42")
        messy.unread[Path(name).suffix.lower() or "without a suffix"] += 1
    (home.parent / "cover.jpg").write_bytes(whole)
    messy.unread["outside the folders of the classes"] += 1
    for hidden in (".thumbnails/a.png", "@eaDir/b.png", "._c.png", "Thumbs.db", ".DS_Store"):
        for place in (home, home.parent):
            (place / hidden).parent.mkdir(exist_ok=True)
            (place / hidden).write_bytes(whole)


def _add_copies_and_links(messy: Messy, rng: np.random.Generator) -> None:
    red, blue = messy.folder / "rot [1]", messy.folder / "blau & 🌿"
    copied = messy.kinds["jpeg"].read_bytes()
    messy.add(red / "copy.jpg", "rot [1]", copied)
    messy.add(messy.unreadable[0].with_name("wrong class.jpg"), "Grün", copied)
    elsewhere = messy.folder.parent / "elsewhere"
    elsewhere.mkdir()
    (blue / "link").symlink_to(elsewhere.resolve())
    (blue / "loop").symlink_to(blue.resolve())
    content = encoded(photo(rng, "blau & 🌿", (90, 80)), "PNG")
    messy.add(blue / "link" / "linked.png", "blau & 🌿", content)


def write_parts(folder: Path, parts: Mapping[str, int]) -> Messy:
    """Write images of two classes, divided into `parts`: the number in each class, by part.

    An image of the last part is a copy of one of the first part.
    """
    rng, messy = np.random.default_rng(1), Messy(folder)
    for part, images in parts.items():
        for label in ("Grün", "rot [1]"):
            for number in range(images):
                name = _STEMS[number % len(_STEMS)].format(number)
                content = encoded(photo(rng, label, (40, 30)), "PNG")
                messy.add(folder / part / label / f"{name}.png", label, content)
    green = [path for path, label in messy.images.items() if label == "Grün"]
    green[-1].write_bytes(green[0].read_bytes())
    return messy
