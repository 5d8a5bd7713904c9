"""Registry of the accepted image formats, for uploads and for training.

To add a format that Pillow can decode, add an entry here. Messages, content types, the OpenAPI
document, the page and file suffixes are derived from the registry.
"""

from dataclasses import dataclass
from importlib import import_module

from limelight.imaging.headers.bmp import read_bmp
from limelight.imaging.headers.gif import read_gif
from limelight.imaging.headers.header import Read
from limelight.imaging.headers.jpeg import read_jpeg
from limelight.imaging.headers.png import read_png
from limelight.imaging.headers.webp import read_webp


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFormat:
    """Format of image files.

    Attributes:
        title: name in messages.
        plugin: Pillow's module that decodes the format.
        media_types: registered media type, then others that clients send for the format.
        suffixes: file suffixes in lower case.
        signatures: byte sequences that a file may begin with.
        size_at: offset of the file's length (4 bytes, little-endian), for a signature that is too
            short to identify the format.
        tag: offset and value of further bytes that identify the format. BMP's are reserved bytes,
            which some writers fill, so only a file that cannot be decoded is judged by them.
        read_header: reads the size and the cost of decoding; None: Pillow reads the size, and the
            cost is estimated high.
    """

    title: str
    plugin: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    signatures: tuple[bytes, ...]
    size_at: int | None = None
    tag: tuple[int, bytes] | None = None
    read_header: Read | None = None

    def recognises(self, body: bytes) -> bool:
        """Return whether `body` begins like a file of this format."""
        if not body.startswith(self.signatures):
            return False
        if self.size_at is not None:
            size = len(body).to_bytes(8, "little")[:4]
            return body[self.size_at : self.size_at + 4] == size
        return self.may_be(body)

    def may_be(self, body: bytes) -> bool:
        """Return whether `body` has the signature and the tag; the rest may be missing."""
        if not body.startswith(self.signatures):
            return False
        return self.tag is None or body.startswith(self.tag[1], self.tag[0])


FORMATS: dict[str, ImageFormat] = {
    "PNG": ImageFormat(
        title="PNG",
        plugin="PngImagePlugin",
        media_types=("image/png", "image/x-png"),
        suffixes=(".png",),
        signatures=(b"\x89PNG\r\n\x1a\n",),
        read_header=read_png,
    ),
    "JPEG": ImageFormat(
        title="JPEG",
        plugin="JpegImagePlugin",
        media_types=("image/jpeg", "image/jpg", "image/pjpeg"),
        suffixes=(".jpg", ".jpeg"),
        signatures=(b"\xff\xd8\xff",),
        read_header=read_jpeg,
    ),
    "WEBP": ImageFormat(
        title="WebP",
        plugin="WebPImagePlugin",
        media_types=("image/webp",),
        suffixes=(".webp",),
        signatures=(b"RIFF",),
        tag=(8, b"WEBP"),
        read_header=read_webp,
    ),
    "BMP": ImageFormat(
        title="BMP",
        plugin="BmpImagePlugin",
        media_types=("image/bmp", "image/x-ms-bmp"),
        suffixes=(".bmp",),
        signatures=(b"BM",),
        size_at=2,
        tag=(6, bytes(4)),
        read_header=read_bmp,
    ),
    "GIF": ImageFormat(
        title="GIF",
        plugin="GifImagePlugin",
        media_types=("image/gif",),
        suffixes=(".gif",),
        signatures=(b"GIF87a", b"GIF89a"),
        read_header=read_gif,
    ),
}
"""Formats by their name in Pillow."""


def accepted() -> str:
    """Return the titles of the formats for messages: `PNG, JPEG or GIF`."""
    *most, last = (each.title for each in FORMATS.values())
    return f"{', '.join(most)} or {last}" if most else last


def media_types(*, registered: bool = True) -> tuple[str, ...]:
    """Return the registered media types; with `registered=False`, all accepted ones."""
    return tuple(
        name
        for each in FORMATS.values()
        for name in (each.media_types[:1] if registered else each.media_types)
    )


def suffixes() -> frozenset[str]:
    """Return the suffixes of image files, in lower case with their dot."""
    return frozenset(suffix for each in FORMATS.values() for suffix in each.suffixes)


def is_image(body: bytes) -> bool:
    """Return whether `body` begins like a file of an accepted format.

    A signature of two letters alone does not suffice: raw pixels may begin with the same bytes.
    """
    return any(each.recognises(body) for each in FORMATS.values())


def has_signature(body: bytes) -> bool:
    """Return whether `body` is a file of an accepted format that may be cut off or damaged.

    Letters alone do not suffice: a RIFF file may be a sound, and a text may begin with BM.
    """
    return is_image(body) or any(each.may_be(body) for each in FORMATS.values())


def register_decoders() -> None:
    """Load Pillow's decoders of these formats, so that `Image.open` does not load all others."""
    for each in FORMATS.values():
        import_module(f"PIL.{each.plugin}")
