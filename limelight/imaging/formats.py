"""The image formats that are accepted, for uploads and for training alike: one registry.

Adding a format is one entry here, if Pillow can decode it. What is told of formats elsewhere
(messages, content types, the OpenAPI document, the page, file suffixes) is derived from it.
"""

from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFormat:
    """A format of image files.

    Attributes:
        title: its name in messages.
        plugin: the module of Pillow that decodes it.
        media_types: the registered type, then others that clients send for it.
        suffixes: of files, in lower case.
        signatures: what a file may begin with.
        size_at: where the length of the whole file stands, 4 bytes little-endian, for a signature
            that is too short to tell.
        tag: bytes that follow the signature, and where.
    """

    title: str
    plugin: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    signatures: tuple[bytes, ...]
    size_at: int | None = None
    tag: tuple[int, bytes] | None = None

    def recognises(self, body: bytes) -> bool:
        """Whether `body` begins as a file of this format does."""
        if not body.startswith(self.signatures):
            return False
        if self.size_at is not None:
            size = len(body).to_bytes(8, "little")[:4]
            return body[self.size_at : self.size_at + 4] == size
        return self.tag is None or body.startswith(self.tag[1], self.tag[0])


FORMATS: dict[str, ImageFormat] = {
    "PNG": ImageFormat(
        title="PNG",
        plugin="PngImagePlugin",
        media_types=("image/png", "image/x-png"),
        suffixes=(".png",),
        signatures=(b"\x89PNG\r\n\x1a\n",),
    ),
    "JPEG": ImageFormat(
        title="JPEG",
        plugin="JpegImagePlugin",
        media_types=("image/jpeg", "image/jpg", "image/pjpeg"),
        suffixes=(".jpg", ".jpeg"),
        signatures=(b"\xff\xd8\xff",),
    ),
    "WEBP": ImageFormat(
        title="WebP",
        plugin="WebPImagePlugin",
        media_types=("image/webp",),
        suffixes=(".webp",),
        signatures=(b"RIFF",),
        tag=(8, b"WEBP"),
    ),
    "BMP": ImageFormat(
        title="BMP",
        plugin="BmpImagePlugin",
        media_types=("image/bmp", "image/x-ms-bmp"),
        suffixes=(".bmp",),
        signatures=(b"BM",),
        size_at=2,
    ),
    "GIF": ImageFormat(
        title="GIF",
        plugin="GifImagePlugin",
        media_types=("image/gif",),
        suffixes=(".gif",),
        signatures=(b"GIF87a", b"GIF89a"),
    ),
}
"""By the names that Pillow gives them."""


def accepted() -> str:
    """The formats in words, for messages: `PNG, JPEG or GIF`."""
    *most, last = (each.title for each in FORMATS.values())
    return f"{', '.join(most)} or {last}" if most else last


def media_types(*, registered: bool = True) -> tuple[str, ...]:
    """The registered media types; or with `registered=False` all that are accepted."""
    return tuple(
        name
        for each in FORMATS.values()
        for name in (each.media_types[:1] if registered else each.media_types)
    )


def suffixes() -> frozenset[str]:
    """Suffixes of image files, in lower case with their dot."""
    return frozenset(suffix for each in FORMATS.values() for suffix in each.suffixes)


def is_image(body: bytes) -> bool:
    """Whether `body` begins as a file of an accepted format does.

    Two letters alone do not tell: pixels may begin with them as well.
    """
    return any(each.recognises(body) for each in FORMATS.values())


def has_signature(body: bytes) -> bool:
    """Whether `body` has a signature; the rest of it may be missing."""
    return any(body.startswith(each.signatures) for each in FORMATS.values())


def register_decoders() -> None:
    """Load Pillow's decoders of these formats, so that `Image.open` need not load all it has."""
    for each in FORMATS.values():
        import_module(f"PIL.{each.plugin}")
