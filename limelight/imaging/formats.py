"""Registry of the accepted image formats, for uploads and for files of the caller's own.

To add a format that Pillow or a plugin of it can decode, add an entry here. Messages, content
types, the OpenAPI document, the page and file suffixes are derived from the registry.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from limelight.imaging.headers.bmp import read_bmp
from limelight.imaging.headers.gif import read_gif
from limelight.imaging.headers.header import Read
from limelight.imaging.headers.jpeg import read_jpeg
from limelight.imaging.headers.png import read_png
from limelight.imaging.headers.webp import read_webp

# Bytes of an ISO base media file's first box that are searched for brands.
_MOST_BRANDS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFormat:
    """Format of image files.

    Attributes:
        title: name in messages.
        plugin: module that adds the decoder to Pillow.
        media_types: registered media type, then others that clients send for the format.
        suffixes: file suffixes in lower case.
        signatures: byte sequences that a file may begin with.
        brands: names in the first box of an ISO base media file, instead of signatures.
        size_at: offset of the file's length (4 bytes, little-endian), for a signature that is too
            short to identify the format.
        tag: offset and value of further bytes that identify the format. BMP's are reserved bytes,
            which some writers fill, so only a file that cannot be decoded is judged by them.
        read_header: reads the size and the cost of decoding; None: neither is bounded, so the
            format is for files of the caller's own.
        feature: part of Pillow that it may be built without, and that decodes the format.
        install: command that installs the decoder, where it may be missing.
    """

    title: str
    plugin: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    signatures: tuple[bytes, ...] = ()
    brands: frozenset[bytes] = frozenset()
    size_at: int | None = None
    tag: tuple[int, bytes] | None = None
    read_header: Read | None = None
    feature: str | None = None
    install: str = ""

    @property
    def uploads(self) -> bool:
        """Whether the service accepts the format: what decoding takes is known from the header."""
        return self.read_header is not None

    def begins(self, body: bytes) -> bool:
        """Return whether `body` has the signature, or one of the brands."""
        if self.brands:
            return not self.brands.isdisjoint(_brands(body))
        return body.startswith(self.signatures)

    def recognises(self, body: bytes) -> bool:
        """Return whether `body` begins like a file of this format."""
        if not self.begins(body):
            return False
        if self.size_at is not None:
            size = len(body).to_bytes(8, "little")[:4]
            return body[self.size_at : self.size_at + 4] == size
        return self.may_be(body)

    def may_be(self, body: bytes) -> bool:
        """Return whether `body` has the signature and the tag; the rest may be missing."""
        if not self.begins(body):
            return False
        return self.tag is None or body.startswith(self.tag[1], self.tag[0])


FORMATS: dict[str, ImageFormat] = {
    "PNG": ImageFormat(
        title="PNG",
        plugin="PIL.PngImagePlugin",
        media_types=("image/png", "image/x-png"),
        suffixes=(".png",),
        signatures=(b"\x89PNG\r\n\x1a\n",),
        read_header=read_png,
    ),
    "JPEG": ImageFormat(
        title="JPEG",
        plugin="PIL.JpegImagePlugin",
        media_types=("image/jpeg", "image/jpg", "image/pjpeg"),
        suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"),
        signatures=(b"\xff\xd8\xff",),
        read_header=read_jpeg,
    ),
    "WEBP": ImageFormat(
        title="WebP",
        plugin="PIL.WebPImagePlugin",
        media_types=("image/webp",),
        suffixes=(".webp",),
        signatures=(b"RIFF",),
        tag=(8, b"WEBP"),
        read_header=read_webp,
    ),
    "BMP": ImageFormat(
        title="BMP",
        plugin="PIL.BmpImagePlugin",
        media_types=("image/bmp", "image/x-ms-bmp"),
        suffixes=(".bmp",),
        signatures=(b"BM",),
        size_at=2,
        tag=(6, bytes(4)),
        read_header=read_bmp,
    ),
    "GIF": ImageFormat(
        title="GIF",
        plugin="PIL.GifImagePlugin",
        media_types=("image/gif",),
        suffixes=(".gif",),
        signatures=(b"GIF87a", b"GIF89a"),
        read_header=read_gif,
    ),
    "TIFF": ImageFormat(
        title="TIFF",
        plugin="PIL.TiffImagePlugin",
        media_types=("image/tiff",),
        suffixes=(".tif", ".tiff"),
        signatures=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ),
    # Before HEIC, because files of both kinds may have the brand mif1.
    "AVIF": ImageFormat(
        title="AVIF",
        plugin="PIL.AvifImagePlugin",
        media_types=("image/avif",),
        suffixes=(".avif",),
        brands=frozenset((b"avif", b"avis")),
        feature="avif",
        install="pip install --upgrade pillow",
    ),
    "HEIF": ImageFormat(
        title="HEIC",
        plugin="pillow_heif.HeifImagePlugin",
        media_types=("image/heic", "image/heif"),
        suffixes=(".heic", ".heif", ".hif"),
        brands=frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")),
        install="pip install 'limelight[heic]'",
    ),
}
"""Formats by their name in Pillow."""


def chosen(*, own_files: bool = False) -> Iterator[tuple[str, ImageFormat]]:
    """Yield the formats of uploads; with `own_files`, those of files of the caller's own."""
    return (entry for entry in FORMATS.items() if own_files or entry[1].uploads)


def accepted(*, own_files: bool = False) -> str:
    """Return the titles of the formats for messages: `PNG, JPEG or GIF`."""
    *most, last = (each.title for _, each in chosen(own_files=own_files))
    return f"{', '.join(most)} or {last}" if most else last


def media_types(*, registered: bool = True) -> tuple[str, ...]:
    """Return the registered media types of uploads; with `registered=False`, all accepted ones."""
    return tuple(
        name
        for _, each in chosen()
        for name in (each.media_types[:1] if registered else each.media_types)
    )


def suffixes() -> frozenset[str]:
    """Return the suffixes of image files of the caller's own, in lower case with their dot."""
    return frozenset(suffix for each in FORMATS.values() for suffix in each.suffixes)


def is_image(body: bytes) -> bool:
    """Return whether `body` begins like an upload of an accepted format.

    A signature of two letters alone does not suffice: raw pixels may begin with the same bytes.
    """
    return any(each.recognises(body) for _, each in chosen())


def has_signature(body: bytes, *, own_files: bool = False) -> bool:
    """Return whether `body` is a file of an accepted format that may be cut off or damaged.

    Letters alone do not suffice: a RIFF file may be a sound, and a text may begin with BM.
    """
    formats = [each for _, each in chosen(own_files=own_files)]
    return any(each.recognises(body) or each.may_be(body) for each in formats)


def register_decoders() -> None:
    """Load the decoders of uploads, so that `Image.open` does not load all others."""
    for _, each in chosen():
        import_module(each.plugin)


def _brands(body: bytes) -> Iterator[bytes]:
    """Yield the brands of an ISO base media file: the major one, then the compatible ones."""
    if body[4:8] == b"ftyp":
        end = min(int.from_bytes(body[:4]), len(body), _MOST_BRANDS)
        yield body[8:12]
        yield from (body[at : at + 4] for at in range(16, end, 4))
